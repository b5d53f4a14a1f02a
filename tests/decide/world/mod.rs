//! A grant, its Secret, its store and its object, in memory; every write checks its preconditions as the apiserver
//! does. What others do in it is in `others`, what the operator does in `operator`.

mod operator;
mod others;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use valet::{
    api::{Ask, GrantStatus, ObservedObject, Reason, annotation},
    core::record::{KnownStatus, RecordKey, Subject, evidence, is_newer},
    core::{
        ArrivedPart, Facts, GrantFacts, Lifetime, ObjectFact, Owner, Repairs, RulesView, SecretFact, SecretView,
        Settings, Step, StoreFact, StoreView, decide,
    },
};

/// An upload of the same key that is not Valet's.
pub const THEIRS: &str = "theirs";

/// Of every object.
const SIZE: i64 = 48_213;

/// What is behind the key.
#[derive(Clone, Debug)]
pub enum Bucket {
    Empty,
    /// Holds the object since then; the store may not say since when.
    Holds {
        since: Timestamp,
        says_when: bool,
    },
    Hidden,
    /// Refuses to be asked, since its clock differs.
    Skewed,
    Down,
}

/// An upload in parts that goes on.
#[derive(Clone, Debug)]
pub struct Upload {
    pub id: String,
    pub begun: Timestamp,
    pub parts: Vec<ArrivedPart>,
}

#[derive(Clone, Debug)]
pub struct Secret {
    pub view: SecretView,
    /// The key inside, if Valet put one in.
    pub signed: Option<Lifetime>,
    pub data: BTreeMap<String, ByteString>,
}

/// What the operator knows when something wakes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The grant and nothing else.
    Grant,
    /// The Secret and the store, too, from its caches.
    Caches,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub creates: usize,
    pub replaces: usize,
    pub retouches: usize,
    pub withdraws: usize,
    pub reports: usize,
}

/// Whoever else has a hand in it.
pub type Meddler = Box<dyn FnMut(&mut World)>;

/// Sees each step before it is taken.
pub type Watcher = Box<dyn Fn(&Step)>;

pub struct World {
    pub now: Timestamp,
    pub grant: Option<GrantFacts>,
    pub secret: Option<Secret>,
    pub store: StoreFact,
    /// The rules of a store that cannot be used, if they are not those that it had at first.
    pub rules: Option<RulesView>,
    first_rules: RulesView,
    pub bucket: Bucket,
    /// All uploads of the key that go on.
    pub uploads: Vec<Upload>,
    /// The finalizer was taken off by somebody who may not list uploads.
    pub blind: bool,
    /// What the process began and nobody has recorded.
    pub begun: Option<String>,
    /// What the process began and a Secret names.
    pub own_upload: Option<String>,
    /// Why the apiserver takes no Secret now.
    pub refuses: Option<String>,
    /// Why nobody signs now.
    pub unsigned: Option<(Reason, String)>,
    /// The Secret is immutable: it can be deleted, and its data cannot be replaced.
    pub refuses_replacement: bool,
    pub settings: Settings,
    pub memory: Memory,
    /// The process dies after the n-th step of its life.
    pub crash: Option<usize>,
    /// There is room for one more grant with a key, where their number is limited.
    pub room: bool,
    /// Somebody has written what only Valet writes: some promises are then void, the limits of keys are not.
    pub forged: bool,
    /// The key has more bytes than a Secret holds.
    pub too_large: bool,
    /// Sees each step before it is taken.
    pub watcher: Option<Watcher>,
    /// Something may happen to the world after each step, before the next.
    pub meddler: Option<Meddler>,

    /// What the process knows to be Valet's own of the grant's status.
    pub remembered: Option<GrantStatus>,
    /// What the process knows of restorations of the Secret.
    pub repairs: Repairs,
    pub last_poll: Option<Timestamp>,
    /// Somebody has said that the object came, and nobody has looked since.
    pub heard: bool,
    pub steps: usize,
    pub counts: Counts,
    /// Every key that was published, in order.
    pub keys: Vec<Lifetime>,
    pub notices: Vec<Reason>,
    /// Generations and renewals that a key was published for, and the last one.
    pub published: BTreeMap<(i64, i64), Lifetime>,
    /// Generations that a Secret was written for.
    pub written: BTreeSet<i64>,
    /// Why there is no Secret now although there was one: somebody else, or Valet for a cause that can pass.
    pub may_create_again: bool,
    serial: u64,
    /// What was verified last, of which status and with what memory: most steps change neither.
    verified: RefCell<Option<Verified>>,
}

type Verified = (GrantStatus, Option<GrantStatus>, KnownStatus);

impl World {
    pub fn new(grant: GrantFacts, store: StoreView) -> Self {
        Self {
            now: grant.created.expect("the fixture has a time of creation"),
            grant: Some(grant),
            secret: None,
            first_rules: RulesView {
                rules: store.rules.clone(),
                namespace_labels: store.namespace_labels.clone(),
            },
            store: StoreFact::Usable(store),
            rules: None,
            bucket: Bucket::Empty,
            uploads: vec![],
            blind: false,
            begun: None,
            own_upload: None,
            refuses: None,
            unsigned: None,
            refuses_replacement: false,
            settings: Settings {
                ttl_seconds_after_finished: Some(3600),
                ..Settings::default()
            },
            memory: Memory::Grant,
            crash: None,
            room: true,
            forged: false,
            too_large: false,
            watcher: None,
            meddler: None,
            remembered: None,
            repairs: Repairs::default(),
            last_poll: None,
            heard: false,
            steps: 0,
            counts: Counts::default(),
            keys: vec![],
            notices: vec![],
            published: BTreeMap::new(),
            written: BTreeSet::new(),
            may_create_again: false,
            serial: 0,
            verified: RefCell::default(),
        }
    }

    pub fn grant(&self) -> &GrantFacts {
        self.grant.as_ref().expect("the grant is there")
    }

    /// What the operator is told of when it changes.
    pub fn watched(&self) -> String {
        let Self {
            grant,
            secret,
            store,
            heard,
            room,
            ..
        } = self;
        format!("{grant:?} {secret:?} {store:?} {heard} {room}")
    }

    fn fresh(&mut self, what: &str) -> String {
        self.serial += 1;
        format!("{what}-{}", self.serial)
    }

    /// All that can be known without a look at the object.
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::new(self.known(), self.settings.clone());
        facts.repairs = self.repairs;
        facts.secret = self.see_secret();
        self.see_store(&mut facts);
        facts.last_poll = self.last_poll;
        facts.own_upload = self.begun.clone().or_else(|| self.own_upload.clone());
        facts
    }

    fn view(
        &mut self,
        uid: String,
        owner: Owner,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    ) -> SecretView {
        SecretView {
            uid,
            resource_version: self.fresh("rv"),
            owner,
            deleting: false,
            is_authentic: false,
            has_sole_owner: true,
            finalizers: vec![],
            has_data: true,
            issued_at: None,
            expires_at: None,
            generation: None,
            expiration_seconds: None,
            signed_with: None,
            renewals: None,
            earlier_expires_at: None,
            upload_id: None,
            labels,
            annotations,
        }
    }

    /// The grant with what the operator may believe of its status.
    pub fn known(&self) -> GrantFacts {
        self.grant().clone().with_status(self.known_status())
    }

    fn known_status(&self) -> KnownStatus {
        let grant = self.grant();
        if let Some((status, remembered, known)) = &*self.verified.borrow()
            && *status == grant.status
            && *remembered == self.remembered
        {
            return known.clone();
        }
        let known = records().known_status(subject(grant), Some(&grant.status), self.remembered.as_ref());
        *self.verified.borrow_mut() = Some((grant.status.clone(), self.remembered.clone(), known.clone()));
        known
    }

    /// The same, and the process remembers what it has seen.
    fn learn(&mut self) -> GrantFacts {
        let known = self.known_status();
        if known.is_own
            && let Some(evidence) = evidence(&known.status)
            && !self.remembered.as_ref().is_some_and(|known| is_newer(known, &evidence))
        {
            self.remembered = Some(evidence);
        }
        self.grant().clone().with_status(known)
    }

    /// A process of the operator ends, and with it what it remembers.
    pub fn forget(&mut self) {
        (self.last_poll, self.heard) = (None, false);
        (self.begun, self.own_upload) = (None, None);
        (self.remembered, self.repairs) = (None, Repairs::default());
    }

    /// Signs the status as Valet does.
    pub fn sign_status(&mut self) {
        if let Some(grant) = &mut self.grant {
            grant.status.record_signature = Some(records().sign_status(subject(grant), &grant.status));
        }
    }

    /// Signs the Secret as Valet does.
    pub fn sign_secret(&mut self) {
        let Some(grant) = &self.grant else { return };
        if let Some(Secret { view, data, .. }) = &mut self.secret {
            let signature = records().sign_secret(subject(grant), grant.secret_name(), &view.annotations, data);
            view.annotations.insert(annotation::RECORD_SIGNATURE.into(), signature);
        }
        self.read_secret();
    }

    /// Reads the evidence off the Secret as the operator does.
    fn read_secret(&mut self) {
        let Some(grant) = &self.grant else { return };
        if let Some(Secret { view, data, .. }) = &mut self.secret {
            let is_own = records().is_own_secret(subject(grant), grant.secret_name(), &view.annotations, data);
            view.read_evidence(is_own);
        }
    }

    fn see_store(&self, facts: &mut Facts) {
        facts.store = self.store.clone();
        if matches!(self.store, StoreFact::Unusable { .. }) {
            facts.rules = Some(self.rules.clone().unwrap_or_else(|| self.first_rules.clone()));
        }
    }

    /// What is to be done now, by somebody who knows all that.
    pub fn next(&self) -> Step {
        decide(&self.facts(), self.now)
    }

    /// Whether the object, if there is one, is not what the grant describes.
    pub fn is_mismatched(&self) -> bool {
        let Ask::Upload { constraints, .. } = &self.grant().ask else {
            return false;
        };
        constraints.content_length.is_some_and(|n| n != SIZE)
    }

    /// Whether the preconditions of a write hold.
    fn is_current(&self, uid: &str, resource_version: &str) -> bool {
        self.secret
            .as_ref()
            .is_some_and(|s| s.view.uid == uid && s.view.resource_version == resource_version)
    }

    pub fn see_secret(&self) -> SecretFact {
        match &self.secret {
            Some(secret) => SecretFact::Present(secret.view.clone()),
            None => SecretFact::Absent,
        }
    }

    pub fn see_object(&self) -> ObjectFact {
        if !matches!(self.store, StoreFact::Usable(_)) {
            return ObjectFact::Unreachable("it was asked while it is not usable".into());
        }
        match &self.bucket {
            Bucket::Empty => ObjectFact::Absent,
            Bucket::Hidden => ObjectFact::Hidden,
            Bucket::Skewed => ObjectFact::ClockSkewed("its clock differs".into()),
            Bucket::Down => ObjectFact::Unreachable("connection refused".into()),
            Bucket::Holds { since, says_when } => ObjectFact::Present {
                object: ObservedObject {
                    size: Some(SIZE),
                    ..ObservedObject::default()
                },
                // Stores keep whole seconds.
                modified_at: says_when.then(|| Timestamp::from_second(since.as_second()).unwrap()),
            },
        }
    }

    /// The Secret, if it is this grant's and stays.
    pub fn own_secret(&self) -> Option<&Secret> {
        self.secret
            .as_ref()
            .filter(|s| s.view.owner == Owner::ThisGrant && !s.view.deleting)
    }
}

/// The record key of every world.
fn records() -> RecordKey {
    RecordKey::new([7; 32])
}

fn subject(grant: &GrantFacts) -> Subject<'_> {
    Subject {
        uid: &grant.uid,
        operation: grant.ask.operation(),
    }
}
