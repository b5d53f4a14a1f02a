//! A simulated cluster and store in memory: one grant, its Secret, its store and its object. Every write checks its
//! preconditions, as the API server does. `others` has the actions of other clients, `operator` those of the
//! operator.

mod operator;
mod others;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use valet::{
    api::{GrantStatus, ObservedObject, OperationSpec, Reason, annotation},
    core::record::{KnownStatus, RecordKey, RememberedStatus, Subject},
    core::{
        ArrivedPart, Facts, GrantFacts, Lifetime, ObjectFact, Owner, Publish, Repairs, RulesView, SecretFact,
        SecretState, SecretVersion, SecretView, Settings, Step, StoreFact, StoreView, admit, decide,
    },
    reconcile::InitiatedUpload,
};

/// The ID of a multipart upload that another client initiated for the same object key.
pub const THEIRS: &str = "theirs";

/// The size of the uploaded object in all tests, in bytes.
const SIZE: i64 = 48_213;

/// The state of the object key in the store.
#[derive(Clone, Debug)]
pub enum Bucket {
    Empty,
    /// The object exists since `since`. If `says_when` is false, the store does not return its modification time.
    Holds {
        since: Timestamp,
        says_when: bool,
    },
    Hidden,
    /// The store refuses requests because of clock skew.
    Skewed,
    Down,
}

/// A multipart upload that is neither completed nor aborted.
#[derive(Clone, Debug)]
pub struct Upload {
    pub id: String,
    pub initiated: Timestamp,
    pub parts: Vec<ArrivedPart>,
}

#[derive(Clone, Debug)]
pub struct Secret {
    pub view: SecretView,
    /// The lifetime of the credential in the Secret, if Valet issued it.
    pub signed: Option<Lifetime>,
    pub data: BTreeMap<String, ByteString>,
}

/// The facts that the operator knows at the start of a reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Only the grant is known.
    Grant,
    /// The Secret and the store are also known, from the caches.
    Caches,
    /// The process remembers the Secret that it last read or wrote.
    Secret,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub creates: usize,
    pub replaces: usize,
    pub retouches: usize,
    pub withdraws: usize,
    pub reports: usize,
}

/// Changes the world between two effects of a reconcile.
pub type Meddler = Box<dyn FnMut(&mut World) + Send>;

/// Is called with each step before the step is executed.
pub type Watcher = Box<dyn Fn(&Step) + Send>;

pub struct World {
    pub now: Timestamp,
    pub grant: Option<GrantFacts>,
    pub secret: Option<Secret>,
    pub store: StoreFact,
    /// The access rules of an unusable store, if they changed since the start.
    pub rules: Option<RulesView>,
    first_rules: RulesView,
    pub bucket: Bucket,
    /// All open multipart uploads for the object key.
    pub uploads: Vec<Upload>,
    /// True if the multipart upload finalizer was removed without a list of the open uploads.
    pub blind: bool,
    /// The multipart upload that this process remembers, because it initiated the upload.
    pub initiated: Option<InitiatedUpload>,
    /// If set, the API server refuses to write the Secret, with this message.
    pub refuses: Option<String>,
    /// If set, signing fails with this reason and message.
    pub unsigned: Option<(Reason, String)>,
    /// True if the Secret is immutable: it can be deleted, but its data cannot be replaced.
    pub refuses_replacement: bool,
    pub settings: Settings,
    pub memory: Memory,
    /// If set, the process crashes after the effect with this number.
    pub crash: Option<usize>,
    /// True if the store's limit of concurrent requests is reached.
    pub is_busy: bool,
    has_permit: bool,
    /// True if the last reconcile deleted the Secret and ended before it wrote the status. With [`Memory::Secret`],
    /// each reconcile does this, as if other grants always waited.
    has_postponed_status: bool,
    /// True if the quota has room for one more live grant.
    pub room: bool,
    /// True if another client forged Valet's records. Some invariants then do not hold, but the limits of credentials
    /// do.
    pub forged: bool,
    /// True if the credential is larger than a Secret may be.
    pub too_large: bool,
    /// Is called with each step before the step is executed.
    pub watcher: Option<Watcher>,
    /// Can change the world after each effect.
    pub meddler: Option<Meddler>,

    /// The last authentic status of the grant that the process remembers.
    pub remembered: Option<RememberedStatus>,
    /// What the process remembers about its restorations of the Secret.
    pub repairs: Repairs,
    /// What the process remembers about the Secret, with [`Memory::Secret`].
    pub secret_state: SecretState,
    /// The version of the Secret that the watch on Secrets reported last.
    watched_secret: Option<SecretVersion>,
    pub last_poll: Option<Timestamp>,
    /// True if a notification arrived and no poll followed yet.
    pub heard: bool,
    /// The number of effects so far.
    pub steps: usize,
    /// The numbers of the effects that changed the cluster or the store.
    pub writes: Vec<usize>,
    pub counts: Counts,
    /// The lifetimes of all issued credentials, in order.
    pub keys: Vec<Lifetime>,
    pub notices: Vec<Reason>,
    /// The last lifetime for each pair of generation and number of renewals.
    pub published: BTreeMap<(i64, i64), Lifetime>,
    /// The generations for which a Secret was written.
    pub written: BTreeSet<i64>,
    /// True if Valet may create the Secret again: another client deleted it, or Valet did for a temporary reason.
    pub may_create_again: bool,
    serial: u64,
    /// The version of the grant that the operator read last.
    version: Option<GrantFacts>,
    /// The credential that the operator is about to sign and to write.
    publishing: Option<Publish>,
    /// The steps of the current reconcile.
    trace: Vec<Step>,
    /// True if other clients have changed what the operator watches during the current reconcile.
    is_disturbed: bool,
    /// A cache of the last verified status; most steps change neither the status nor the memory.
    verified: RefCell<Option<Verified>>,
}

type Verified = (GrantStatus, Option<RememberedStatus>, KnownStatus);

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
            initiated: None,
            refuses: None,
            unsigned: None,
            refuses_replacement: false,
            settings: Settings {
                ttl_seconds_after_finished: Some(3600),
                ..Settings::default()
            },
            memory: Memory::Grant,
            crash: None,
            is_busy: false,
            has_permit: false,
            has_postponed_status: false,
            room: true,
            forged: false,
            too_large: false,
            watcher: None,
            meddler: None,
            remembered: None,
            repairs: Repairs::default(),
            secret_state: SecretState::default(),
            watched_secret: None,
            last_poll: None,
            heard: false,
            steps: 0,
            writes: vec![],
            counts: Counts::default(),
            keys: vec![],
            notices: vec![],
            published: BTreeMap::new(),
            written: BTreeSet::new(),
            may_create_again: false,
            serial: 0,
            version: None,
            publishing: None,
            trace: vec![],
            is_disturbed: false,
            verified: RefCell::default(),
        }
    }

    pub fn grant(&self) -> &GrantFacts {
        self.grant.as_ref().expect("the grant is there")
    }

    /// True if other clients have changed what the operator watches during the current reconcile.
    pub fn is_disturbed(&self) -> bool {
        self.is_disturbed
    }

    /// True if the store answers and the access rules allow Valet to list the multipart uploads of the grant.
    pub fn can_list_uploads(&self) -> bool {
        if matches!(self.bucket, Bucket::Down | Bucket::Hidden) {
            return false;
        }
        let grant = self.grant.as_ref().or(self.version.as_ref());
        matches!((&self.store, grant), (StoreFact::Usable(store), Some(grant)) if admit(grant, store).is_ok())
    }

    /// Everything that the operator watches. A change of this text starts a reconcile.
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

    /// All facts that are known without a poll of the object.
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::new(self.known(), self.settings.clone());
        facts.repairs = self.repairs;
        facts.secret = self.see_secret();
        self.see_store(&mut facts);
        facts.last_poll = self.last_poll;
        facts.own_upload = self.initiated.as_ref().map(|upload| upload.id.clone());
        facts
    }

    fn view(
        &mut self,
        uid: String,
        owner: Owner,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    ) -> SecretView {
        SecretView::new(uid, self.fresh("rv"), owner, labels, annotations)
    }

    /// The grant with only the parts of the status that are authentic.
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

    /// The grant with only the parts of the status that are authentic. The process remembers these parts.
    fn learn(&mut self) -> GrantFacts {
        let known = self.known_status();
        if known.is_own
            && let Some(remembered) = RememberedStatus::of(&known.status)
            && !self
                .remembered
                .as_ref()
                .is_some_and(|before| before.is_newer(&known.status))
        {
            self.remembered = Some(remembered);
        }
        self.grant().clone().with_status(known)
    }

    /// Ends the process: a new process has no memory.
    pub fn forget(&mut self) {
        (self.last_poll, self.heard) = (None, false);
        self.initiated = None;
        self.has_permit = false;
        self.has_postponed_status = false;
        (self.remembered, self.repairs) = (None, Repairs::default());
        self.secret_state = SecretState::default();
        self.watched_secret = self.secret_version();
    }

    fn secret_version(&self) -> Option<SecretVersion> {
        self.secret.as_ref().and_then(|secret| secret.view.version())
    }

    /// Adds a valid record signature to the status.
    pub fn sign_status(&mut self) {
        if let Some(grant) = &mut self.grant {
            grant.status.record_signature = Some(records().sign_status(subject(grant), &grant.status));
        }
    }

    /// Adds a valid record signature to the Secret.
    pub fn sign_secret(&mut self) {
        let Some(grant) = &self.grant else { return };
        if let Some(Secret { view, data, .. }) = &mut self.secret {
            let signature = records().sign_secret(subject(grant), grant.secret_name(), &view.annotations, data);
            view.annotations.insert(annotation::RECORD_SIGNATURE.into(), signature);
        }
        self.read_secret();
    }

    /// Verifies the Secret's record signature, as the operator does.
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

    /// The next step, decided with all facts.
    pub fn next(&self) -> Step {
        decide(&self.facts(), self.now)
    }

    /// True if an object of the test size does not match the grant.
    pub fn is_mismatched(&self) -> bool {
        let OperationSpec::Upload { constraints, .. } = &self.grant().operation_spec else {
            return false;
        };
        constraints.content_length.is_some_and(|n| n != SIZE)
    }

    /// True if the preconditions of a write hold.
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
                // Stores keep modification times in whole seconds.
                modified_at: says_when.then(|| Timestamp::from_second(since.as_second()).unwrap()),
            },
        }
    }

    /// The Secret, if it belongs to this grant and is not being deleted.
    pub fn own_secret(&self) -> Option<&Secret> {
        self.secret
            .as_ref()
            .filter(|s| s.view.owner == Owner::ThisGrant && !s.view.deleting)
    }
}

/// The record key of all tests.
fn records() -> RecordKey {
    RecordKey::new([7; 32])
}

fn subject(grant: &GrantFacts) -> Subject<'_> {
    Subject {
        uid: &grant.uid,
        operation: grant.operation_spec.operation(),
    }
}
