//! A grant, its Secret, its store and its object, in memory; every write checks its preconditions as the apiserver
//! does.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use valet::{
    api::{Ask, ObservedObject, Reason, annotation},
    grant::{
        ArrivedPart, Facts, GrantFacts, Lifetime, Limit, Most, ObjectFact, OpenUpload, Owner, PlaceFact, Publish,
        PublishMode, Read, RenewRequest, RulesView, SecretFact, SecretView, Settings, Step, StoreFact, StoreView,
        UploadFact, UploadsFact, decide,
    },
};

use crate::checks;

/// More steps than any one reconcile may take.
const MOST_STEPS: usize = 14;

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

pub struct World {
    pub now: Timestamp,
    pub grant: Option<GrantFacts>,
    pub secret: Option<Secret>,
    pub store: StoreFact,
    /// What is known of the rules of a store that cannot be used.
    pub rules: Option<RulesView>,
    pub bucket: Bucket,
    /// All uploads of the key that go on.
    pub uploads: Vec<Upload>,
    /// The finalizer was taken off by somebody who may not list uploads.
    pub blind: bool,
    /// What the process began and nobody has recorded.
    pub begun: Option<String>,
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
    /// Something may happen to the world after each step, before the next.
    pub meddler: Option<Meddler>,

    pub last_look: Option<Timestamp>,
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
}

impl World {
    pub fn new(grant: GrantFacts, store: StoreView) -> Self {
        Self {
            now: grant.created.expect("the fixture has a time of creation"),
            grant: Some(grant),
            secret: None,
            store: StoreFact::Usable(store),
            rules: None,
            bucket: Bucket::Empty,
            uploads: vec![],
            blind: false,
            begun: None,
            refuses: None,
            unsigned: None,
            refuses_replacement: false,
            settings: Settings {
                ttl_seconds_after_finished: Some(3600),
            },
            memory: Memory::Grant,
            crash: None,
            room: true,
            forged: false,
            meddler: None,
            last_look: None,
            heard: false,
            steps: 0,
            counts: Counts::default(),
            keys: vec![],
            notices: vec![],
            published: BTreeMap::new(),
            written: BTreeSet::new(),
            may_create_again: false,
            serial: 0,
        }
    }

    pub fn grant(&self) -> &GrantFacts {
        self.grant.as_ref().expect("the grant is there")
    }

    // --- what others do ------------------------------------------------------------------------------------------

    /// Changes the spec; the apiserver counts generations.
    pub fn edit(&mut self, change: impl FnOnce(&mut GrantFacts)) {
        if let Some(grant) = &mut self.grant {
            change(grant);
            grant.generation += 1;
        }
    }

    /// Annotates the grant, as `kubectl annotate` does: that is no new generation.
    pub fn request(&mut self, value: &str) {
        if let Some(grant) = &mut self.grant {
            grant.renew_requested = RenewRequest::parse(Some(value));
        }
    }

    pub fn delete_secret(&mut self) {
        if self.secret.take().is_some() {
            self.may_create_again = true;
        }
    }

    /// Puts a Secret of the wanted name there.
    pub fn plant(&mut self, owner: Owner) {
        let view = SecretView {
            uid: self.fresh("secret"),
            resource_version: self.fresh("rv"),
            owner,
            deleting: false,
            issued_at: None,
            expires_at: None,
            generation: None,
            expiration_seconds: None,
            signed_with: None,
            renewals: None,
            earlier_expires_at: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        };
        self.secret = Some(Secret { view, signed: None });
    }

    /// Edits the Secret's metadata.
    pub fn edit_secret(&mut self, change: impl FnOnce(&mut SecretView)) {
        let version = self.fresh("rv");
        if let Some(secret) = &mut self.secret {
            change(&mut secret.view);
            secret.view.resource_version = version;
            read_annotations(&mut secret.view);
        }
    }

    /// The store says, or somebody in its name, that the object has come.
    pub fn hear(&mut self) {
        self.heard = true;
    }

    /// Somebody uploads now, with whatever key.
    pub fn put_object(&mut self) {
        self.bucket = Bucket::Holds {
            since: self.now,
            says_when: true,
        };
    }

    /// Sends a part of the object with the key that is out, of as many bytes as it should have and so many more.
    pub fn put_part(&mut self, number: i64, more: i64) {
        let wanted = self.grant().ask.parts().expect("it comes in parts").part(number);
        let Some(secret) = self
            .own_secret()
            .filter(|s| s.signed.is_some_and(|key| !key.is_over(self.now)))
        else {
            return;
        };
        let id = secret.view.annotations.get(annotation::UPLOAD_ID).cloned();
        if let Some(upload) = self.uploads.iter_mut().find(|u| Some(&u.id) == id.as_ref()) {
            upload.parts.retain(|part| part.number != number);
            upload.parts.push(ArrivedPart {
                number,
                size: wanted.size.max + more,
                e_tag: format!("\"{number}\""),
            });
        }
    }

    /// Deletes the grant, as `kubectl delete` does.
    pub fn delete(&mut self) {
        let now = self.now;
        match &mut self.grant {
            Some(grant) if grant.held => {
                grant.deleting = true;
                grant.deleted_at = Some(now);
                grant.generation += 1;
            }
            _ => self.collected(),
        }
    }

    /// The grant is gone, and the garbage collector takes its Secret.
    fn collected(&mut self) {
        self.grant = None;
        self.secret = self.secret.take().filter(|s| s.view.owner != Owner::ThisGrant);
    }

    pub fn usable(&mut self, change: impl FnOnce(&mut StoreView)) {
        match &mut self.store {
            StoreFact::Usable(view) => change(view),
            other => panic!("the store is not usable: {other:?}"),
        }
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
        let mut facts = Facts::new(self.grant().clone(), self.settings);
        facts.secret = self.see_secret();
        self.see_store(&mut facts);
        facts.last_look = self.last_look;
        facts
    }

    fn see_store(&self, facts: &mut Facts) {
        facts.store = self.store.clone();
        facts.rules = self.rules.clone();
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

    // --- what the operator does ----------------------------------------------------------------------------------

    /// Wakes the operator; it works until it rests. Says when it wants to be woken again.
    pub fn reconcile(&mut self) -> Option<Timestamp> {
        loop {
            match self.until_rest() {
                Ended::Rested(until) => return until,
                // A new process: nothing is remembered.
                Ended::Crashed => (self.last_look, self.heard, self.begun) = (None, false, None),
            }
        }
    }

    fn until_rest(&mut self) -> Ended {
        let Some(grant) = self.grant.clone() else {
            return Ended::Rested(None);
        };
        let mut facts = Facts::new(grant, self.settings);
        facts.last_look = self.last_look;
        facts.look_requested = self.heard;
        if self.memory == Memory::Caches {
            facts.secret = self.see_secret();
            self.see_store(&mut facts);
        }
        let mut trace = vec![];
        loop {
            let step = decide(&facts, self.now);
            assert!(trace.len() < MOST_STEPS, "I13: no rest in sight: {trace:#?}");
            trace.push(step.clone());
            checks::step(self, &facts, &step);
            let n = self.steps;
            self.steps += 1;
            let rest = self.take(step, &mut facts);
            if let Some(mut meddler) = self.meddler.take() {
                meddler(self);
                self.meddler.get_or_insert(meddler);
            }
            if self.crash == Some(n) {
                return Ended::Crashed;
            }
            if let Some(until) = rest {
                return Ended::Rested(until);
            }
            match &self.grant {
                // One's own writes, and everybody's, are seen at once.
                Some(grant) => facts.grant = grant.clone(),
                None => return Ended::Rested(None),
            }
        }
    }

    /// Takes one step; at rest, says until when.
    fn take(&mut self, step: Step, facts: &mut Facts) -> Option<Option<Timestamp>> {
        match step {
            Step::Read(Read::Secret) => facts.secret = self.see_secret(),
            Step::Read(Read::Store) => self.see_store(facts),
            Step::Read(Read::Object) => {
                facts.object = self.see_object();
                if matches!(facts.upload, UploadFact::Open(_)) {
                    facts.upload = UploadFact::Unread;
                }
                facts.last_look = Some(self.now);
                self.last_look = Some(self.now);
                (facts.look_requested, self.heard) = (false, false);
            }
            Step::Read(Read::Upload(id)) => {
                facts.upload = match (&self.bucket, &self.store, self.uploads.iter().find(|u| u.id == id)) {
                    (Bucket::Down, ..) => UploadFact::Unreachable("connection refused".into()),
                    (_, StoreFact::Missing | StoreFact::Unusable { .. } | StoreFact::Unread, _) => {
                        UploadFact::Unreachable("nobody knows where".into())
                    }
                    (Bucket::Hidden, ..) => UploadFact::Hidden,
                    (.., Some(upload)) => UploadFact::Open(upload.parts.clone()),
                    (.., None) => UploadFact::Gone,
                };
                if facts.upload == UploadFact::Gone {
                    facts.object = ObjectFact::Unread;
                }
                facts.last_look = Some(self.now);
                self.last_look = Some(self.now);
                (facts.look_requested, self.heard) = (false, false);
            }
            Step::Read(Read::Uploads) => {
                // What this process began and nobody has recorded needs no list.
                if let Some(begun) = self.begun.take()
                    && matches!(
                        (&self.bucket, &self.store),
                        (Bucket::Empty | Bucket::Holds { .. }, StoreFact::Usable(_))
                    )
                {
                    self.uploads.retain(|u| u.id != begun);
                }
                facts.uploads = match (&self.bucket, &self.store) {
                    (Bucket::Down, _) => UploadsFact::Unreachable("connection refused".into()),
                    (Bucket::Hidden, _) => UploadsFact::Hidden,
                    (_, StoreFact::Usable(_)) => UploadsFact::Listed {
                        uploads: self
                            .uploads
                            .iter()
                            .map(|u| OpenUpload {
                                id: u.id.clone(),
                                begun: Some(u.begun),
                                has_parts: !u.parts.is_empty(),
                            })
                            .collect(),
                        contested: false,
                    },
                    _ => UploadsFact::Unreachable("nobody knows where".into()),
                };
            }
            Step::Hold => {
                if let Some(grant) = &mut self.grant {
                    grant.held = true;
                }
            }
            Step::Complete(assembly) => {
                if assembly.write_once && matches!(self.bucket, Bucket::Holds { .. }) {
                    facts.completion_refused = Some("an object came there".into());
                    facts.upload = UploadFact::Unread;
                    facts.object = ObjectFact::Unread;
                } else if let Some(n) = self.uploads.iter().position(|u| u.id == assembly.upload) {
                    // It has the time at which its upload was begun.
                    let upload = self.uploads.remove(n);
                    self.bucket = Bucket::Holds {
                        since: upload.begun,
                        says_when: true,
                    };
                    facts.upload = UploadFact::Gone;
                    facts.object = self.see_object();
                } else {
                    facts.upload = UploadFact::Gone;
                    facts.object = ObjectFact::Unread;
                }
            }
            Step::Abort { uploads } => {
                let parts = match &facts.upload {
                    UploadFact::Open(parts) => Some(parts.len()),
                    UploadFact::Hidden => Some(0),
                    _ => None,
                };
                let refused = matches!(self.bucket, Bucket::Down | Bucket::Hidden);
                if !refused {
                    self.uploads.retain(|u| !uploads.contains(&u.id));
                }
                match (parts, refused) {
                    (Some(parts), false) => facts.upload = UploadFact::Aborted { parts },
                    (Some(_), true) => facts.upload = UploadFact::Unreachable("forbidden".into()),
                    (None, false) => facts.uploads = UploadsFact::Unread,
                    (None, true) => facts.uploads = UploadsFact::Unreachable("forbidden".into()),
                }
            }
            Step::Release { notice } => {
                self.blind |= matches!(self.bucket, Bucket::Hidden);
                self.notices.extend(notice.map(|n| n.reason));
                if let Some(grant) = &mut self.grant {
                    grant.held = false;
                    if grant.deleting {
                        self.collected();
                        return Some(None);
                    }
                }
            }
            Step::Publish(publish) => self.publish(*publish, facts),
            Step::Read(Read::Place(most)) => facts.place = self.place(most),
            Step::Retouch {
                uid,
                resource_version,
                labels,
                annotations,
            } => {
                if self.is_current(&uid, &resource_version) {
                    self.counts.retouches += 1;
                    self.edit_secret(|view| {
                        view.labels = labels;
                        view.annotations = annotations;
                    });
                    self.note_written();
                }
                facts.secret = self.see_secret();
            }
            Step::Withdraw { uid, resource_version } => {
                if self.is_current(&uid, &resource_version) {
                    self.counts.withdraws += 1;
                    self.secret = None;
                    self.may_create_again = self.grant().status.finished_time.is_none();
                }
                facts.secret = self.see_secret();
            }
            Step::Report { status, notice } => {
                self.counts.reports += 1;
                self.notices.extend(notice.map(|n| n.reason));
                // Through JSON, as the apiserver keeps it: times lose their fractions there.
                let kept = serde_json::from_value(serde_json::to_value(&*status).unwrap()).unwrap();
                if let Some(grant) = &mut self.grant {
                    grant.status = kept;
                }
            }
            Step::Collect => {
                self.delete();
                if self.grant.is_none() {
                    return Some(None);
                }
            }
            Step::Rest { until } => return Some(until),
        }
        None
    }

    /// Of others there are as many as leave room, or none. Who has a key has his place.
    fn place(&self, most: Most) -> PlaceFact {
        let status = &self.grant().status;
        let end = status.expiration_time.as_ref().filter(|_| status.binding.is_some());
        let limit = most.namespace.map(Limit::Namespace).or(most.store.map(Limit::Store));
        match limit.expect("nobody asks without a limit") {
            _ if self.room || end.is_some_and(|end| end.0 > self.now) => PlaceFact::Given,
            limit => PlaceFact::Full(limit),
        }
    }

    fn publish(&mut self, mut publish: Publish, facts: &mut Facts) {
        if let Some(why) = &self.unsigned {
            facts.sign_refused = Some(why.clone());
            return;
        }
        if publish.request.ask.parts().is_some() && publish.request.upload.is_none() {
            let upload = self.begun.clone().unwrap_or_else(|| self.begin());
            self.begun = Some(upload.clone());
            publish.annotations.insert(annotation::UPLOAD_ID.into(), upload);
        }
        if let Some(why) = &self.refuses {
            facts.secret_refused = Some(why.clone());
            return;
        }
        if self.refuses_replacement && matches!(publish.mode, PublishMode::Replace { .. }) {
            facts.secret_refused = Some("field is immutable when `immutable` is set".into());
            return;
        }
        match &publish.mode {
            PublishMode::Create if self.secret.is_some() => {
                // 409: somebody was faster.
                facts.secret = self.see_secret();
                self.drop_loser();
                return;
            }
            PublishMode::Replace { uid, resource_version } if !self.is_current(uid, resource_version) => {
                facts.secret = self.see_secret();
                self.drop_loser();
                return;
            }
            PublishMode::Create => self.counts.creates += 1,
            PublishMode::Replace { .. } => self.counts.replaces += 1,
        }
        self.begun = None;
        checks::published(self, &publish);
        let uid = match &publish.mode {
            PublishMode::Create => self.fresh("secret"),
            PublishMode::Replace { uid, .. } => uid.clone(),
        };
        let mut view = SecretView {
            uid,
            resource_version: self.fresh("rv"),
            owner: Owner::ThisGrant,
            deleting: false,
            issued_at: None,
            expires_at: None,
            generation: None,
            expiration_seconds: None,
            signed_with: None,
            renewals: None,
            earlier_expires_at: None,
            labels: publish.labels.clone(),
            annotations: publish.annotations.clone(),
        };
        read_annotations(&mut view);
        let lifetime = publish.request.lifetime;
        self.secret = Some(Secret {
            view,
            signed: Some(lifetime),
        });
        self.keys.push(lifetime);
        let renewals = checks::renewals(&publish.annotations);
        self.published.insert((self.grant().generation, renewals), lifetime);
        self.may_create_again = false;
        self.note_written();
        facts.secret = self.see_secret();
    }

    /// What was begun for a Secret that is another's now is thrown away.
    fn drop_loser(&mut self) {
        let Some(secret) = &self.secret else { return };
        let recorded = secret.view.annotations.get(annotation::UPLOAD_ID);
        if let Some(begun) = self.begun.take_if(|begun| Some(&*begun) != recorded) {
            self.uploads.retain(|u| u.id != begun);
        }
    }

    /// Begins an upload.
    pub fn begin(&mut self) -> String {
        let id = self.fresh("upload");
        self.uploads.push(Upload {
            id: id.clone(),
            begun: self.now,
            parts: vec![],
        });
        id
    }

    fn note_written(&mut self) {
        self.written
            .extend(self.secret.as_ref().and_then(|s| s.view.generation));
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

enum Ended {
    Rested(Option<Timestamp>),
    Crashed,
}

/// What the annotations say, as the operator reads them.
fn read_annotations(view: &mut SecretView) {
    let text = |key: &str| view.annotations.get(key).map(String::as_str);
    let time = |key: &str| text(key).and_then(|t| t.parse::<Timestamp>().ok());
    let number = |key: &str| text(key).and_then(|t| t.parse::<i64>().ok());
    view.issued_at = time(annotation::ISSUED_AT);
    view.expires_at = time(annotation::EXPIRES_AT);
    view.generation = number(annotation::GRANT_GENERATION);
    view.expiration_seconds = number(annotation::EXPIRATION_SECONDS);
    view.signed_with = text(annotation::SIGNED_WITH).map(str::to_owned);
    view.renewals = number(annotation::RENEWALS);
    view.earlier_expires_at = time(annotation::EARLIER_EXPIRES_AT);
}
