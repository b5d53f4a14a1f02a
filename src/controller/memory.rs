use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use tokio::time::Instant;

use crate::{
    api::{Grant, GrantStatus},
    core::record::{KnownStatus, RecordKey, Subject, evidence, is_newer},
    core::{GrantFacts, Repairs},
    provider::Provider,
};

/// What this process knows of the grants of one kind beyond its watch. All of it can be lost at any moment: it saves reads and
/// writes, and is a brake on whoever destroys Valet's records. No credential is signed because of it alone.
pub struct Memory<G> {
    grants: Mutex<HashMap<String, Recollection<G>>>,
    /// Tells what Valet wrote from what others wrote.
    records: RecordKey,
}

struct Recollection<G> {
    /// The grant as our own last write left it, until the watch has caught up. Without it, the event of our own
    /// Secret, which arrives first, would find a grant that looks as if nobody had seen it.
    written: Option<Arc<G>>,
    /// When the store was last asked for the grant's object.
    last_look: Option<Timestamp>,
    /// When a notification came after which nobody has looked yet.
    heard: Option<Instant>,
    /// The version of the Secret that we wrote last; its event needs no visit.
    secret_version: Option<String>,
    /// The upload in parts that we began.
    begun: Option<Begun>,
    /// The store at which the grant's upload was last seen to: so that it can be ended when the store's own object is gone.
    provider: Option<Arc<dyn Provider>>,
    /// Failures in a row.
    failures: u32,
    /// The evidence of the last status that was known to be Valet's own. It takes the place of a status that somebody else
    /// has written.
    evidence: Option<Box<GrantStatus>>,
    /// A hash of the status that a visit found right or wrote: an event with another one is news.
    status: Option<u64>,
    /// A hash of the status that this process wrote last, if the apiserver did not keep its signature, since its CRD is older
    /// than this program.
    unsigned: Option<u64>,
    /// What is known of somebody else who writes the status.
    disturbed: Option<Disturbance>,
    /// What is known of restorations of the Secret.
    repairs: Repairs,
}

/// Somebody else writes a grant's status.
struct Disturbance {
    /// How often, without [`QUIET`] between.
    count: u32,
    last: Timestamp,
    /// Whether a visit is to come that sets it right.
    is_pending: bool,
}

/// An upload in parts that this process began.
#[derive(Clone)]
struct Begun {
    upload: String,
    /// Whether a Secret of the grant's names it.
    is_recorded: bool,
}

impl<G> Default for Recollection<G> {
    fn default() -> Self {
        Self {
            written: None,
            last_look: None,
            heard: None,
            secret_version: None,
            begun: None,
            provider: None,
            failures: 0,
            evidence: None,
            status: None,
            unsigned: None,
            disturbed: None,
            repairs: Repairs::default(),
        }
    }
}

/// After this long without a foreign write to a status the earlier ones are forgotten.
const QUIET: SignedDuration = SignedDuration::from_mins(10);

/// The longest pause before a visit because of a foreign write to a status.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl<G: Grant> Memory<G> {
    /// Nothing is known yet.
    pub fn new(records: RecordKey) -> Self {
        Self {
            grants: Mutex::default(),
            records,
        }
    }

    /// The key that tells Valet's own records from others.
    pub fn records(&self) -> &RecordKey {
        &self.records
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Recollection<G>>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of<T>(&self, uid: &str, change: impl FnOnce(&mut Recollection<G>) -> T) -> T {
        change(self.lock().entry(uid.to_owned()).or_default())
    }

    /// The newer of what the watch has and what we wrote. What we wrote is kept until a visit sees that the watch has
    /// it: dropping it earlier would let a visit that was called before that judge the grant from before our write.
    pub fn newest(&self, watched: &Arc<G>) -> Arc<G> {
        let uid = watched.uid().unwrap_or_default();
        let mut lock = self.lock();
        let Some(recollection) = lock.get_mut(&uid) else {
            return watched.clone();
        };
        match &recollection.written {
            Some(written) if version(written.as_ref()) > version(watched.as_ref()) => written.clone(),
            _ => {
                recollection.written = None;
                watched.clone()
            }
        }
    }

    /// What we wrote last, if the watch has yet to bring it.
    pub fn written(&self, watched: &G) -> Option<Arc<G>> {
        let lock = self.lock();
        let written = lock.get(&watched.uid().unwrap_or_default())?.written.as_ref()?;
        (version(written.as_ref()) > version(watched)).then(|| written.clone())
    }

    /// Keeps what our own write came back with.
    pub fn wrote(&self, grant: &Arc<G>) {
        self.of(&grant.uid().unwrap_or_default(), |r| r.written = Some(grant.clone()));
    }

    /// What may be believed of a grant's status.
    pub fn known_status(&self, grant: &G) -> KnownStatus {
        let uid = grant.uid().unwrap_or_default();
        let subject = Subject {
            uid: &uid,
            operation: G::OPERATION,
        };
        let lock = self.lock();
        let recollection = lock.get(&uid);
        let remembered = recollection.and_then(|r| r.evidence.as_deref());
        let known = self.records.known_status(subject, grant.grant_status(), remembered);
        match grant.grant_status() {
            Some(status) if !known.is_own && status.record_signature.is_none() => {
                let is_own = recollection.is_some_and(|r| r.unsigned == Some(fingerprint(Some(status))));
                let status = if is_own { status.clone() } else { known.status };
                KnownStatus { status, is_own }
            }
            _ => known,
        }
    }

    /// This process wrote this status, and the apiserver did not keep its signature.
    pub fn lost_signature(&self, uid: &str, status: &GrantStatus) {
        let hash = fingerprint(Some(status));
        self.of(uid, |r| r.unsigned = Some(hash));
    }

    /// The facts about a grant, with what may be believed of its status; that is remembered.
    pub fn facts(&self, grant: &G) -> GrantFacts {
        let known = self.known_status(grant);
        if known.is_own {
            self.remember(&grant.uid().unwrap_or_default(), &known.status);
        }
        GrantFacts::of(grant).with_status(known)
    }

    /// This status is Valet's own.
    fn remember(&self, uid: &str, status: &GrantStatus) {
        let Some(evidence) = evidence(status) else { return };
        self.of(uid, |r| {
            if !r.evidence.as_ref().is_some_and(|known| is_newer(known, &evidence)) {
                r.evidence = Some(Box::new(evidence));
            }
        });
    }

    /// A visit found this status right, or is about to write it: its event needs no visit.
    pub fn accept_status(&self, uid: &str, status: Option<&GrantStatus>) {
        let hash = fingerprint(status);
        self.of(uid, |r| {
            r.status = Some(hash);
            if let Some(disturbed) = &mut r.disturbed {
                disturbed.is_pending = false;
            }
        });
    }

    /// Whether the status of a grant as watched is another one than the last visit left; and how long to wait until a visit
    /// sets it right, since somebody may write it without end.
    pub fn foreign_status(&self, grant: &G, now: Timestamp) -> Option<Duration> {
        let hash = fingerprint(grant.grant_status());
        let mut lock = self.lock();
        let recollection = lock.get_mut(&grant.uid().unwrap_or_default())?;
        let is_older = recollection
            .written
            .as_ref()
            .is_some_and(|w| version(w.as_ref()) > version(grant));
        if is_older || recollection.status? == hash {
            return None;
        }
        let before = recollection.disturbed.as_ref();
        if before.is_some_and(|d| d.is_pending) {
            return None;
        }
        let count = before
            .filter(|d| now.duration_since(d.last) < QUIET)
            .map_or(0, |d| d.count);
        recollection.disturbed = Some(Disturbance {
            count: count.saturating_add(1),
            last: now,
            is_pending: true,
        });
        let pause = Duration::from_millis(250).saturating_mul(1 << count.min(16));
        Some(if count < 2 {
            Duration::ZERO
        } else {
            pause.min(LONGEST_PAUSE)
        })
    }

    /// What is known of restorations of the grant's Secret.
    pub fn repairs(&self, uid: &str) -> Repairs {
        self.lock().get(uid).map(|r| r.repairs).unwrap_or_default()
    }

    /// Changes what is known of them.
    pub fn keep_repairs(&self, uid: &str, change: impl FnOnce(&mut Repairs)) -> Repairs {
        self.of(uid, |r| {
            change(&mut r.repairs);
            r.repairs
        })
    }

    /// The grant is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// These are the grants that there are: of others, which went while nobody watched, nothing is kept.
    pub fn keep_only(&self, uids: &HashSet<String>) {
        self.lock().retain(|uid, _| uids.contains(uid));
    }

    /// When the store was last asked for the object.
    pub fn last_look(&self, uid: &str) -> Option<Timestamp> {
        self.lock().get(uid).and_then(|r| r.last_look)
    }

    /// The store was asked for the object, by somebody who knew of this notification. A later one is still to be
    /// answered.
    pub fn looked(&self, uid: &str, at: Timestamp, heard: Option<Instant>) {
        self.of(uid, |r| {
            r.last_look = Some(at);
            if r.heard <= heard {
                r.heard = None;
            }
        });
    }

    /// A notification of the grant's object came.
    pub fn hear(&self, uid: &str, at: Instant) {
        self.of(uid, |r| r.heard = Some(at));
    }

    /// When the notification came after which nobody has looked yet.
    pub fn heard(&self, uid: &str) -> Option<Instant> {
        self.lock().get(uid).and_then(|r| r.heard)
    }

    /// We wrote this version of the grant's Secret.
    pub fn wrote_secret(&self, uid: &str, resource_version: &str) {
        self.of(uid, |r| r.secret_version = Some(resource_version.to_owned()));
    }

    /// Whether a version of the grant's Secret is our own last write.
    pub fn is_own_secret(&self, uid: &str, resource_version: &str) -> bool {
        self.lock()
            .get(uid)
            .is_some_and(|r| r.secret_version.as_deref() == Some(resource_version))
    }

    /// The upload in parts that was begun for this grant and is not recorded yet.
    pub fn begun(&self, uid: &str) -> Option<String> {
        let begun = self.lock().get(uid)?.begun.clone();
        begun.filter(|b| !b.is_recorded).map(|b| b.upload)
    }

    /// The upload in parts that this process began for this grant, recorded or not: nobody else can write this.
    pub fn own_upload(&self, uid: &str) -> Option<String> {
        Some(self.lock().get(uid)?.begun.as_ref()?.upload.clone())
    }

    /// An upload in parts was begun for this grant.
    pub fn keep_begun(&self, uid: &str, upload: String) {
        let begun = Begun {
            upload,
            is_recorded: false,
        };
        self.of(uid, |r| r.begun = Some(begun));
    }

    /// The upload that was begun stands in a Secret of the grant's.
    pub fn recorded(&self, uid: &str) {
        if let Some(begun) = self.lock().get_mut(uid).and_then(|r| r.begun.as_mut()) {
            begun.is_recorded = true;
        }
    }

    /// This upload was aborted.
    pub fn aborted(&self, uid: &str, upload: &str) {
        if let Some(r) = self.lock().get_mut(uid) {
            r.begun.take_if(|begun| begun.upload == upload);
        }
    }

    /// The store at which the grant's upload was last seen to.
    pub fn provider(&self, uid: &str) -> Option<Arc<dyn Provider>> {
        self.lock().get(uid).and_then(|r| r.provider.clone())
    }

    /// The grant's upload is seen to at this store; or nothing of it is left there.
    pub fn keep_provider(&self, uid: &str, provider: Option<Arc<dyn Provider>>) {
        self.of(uid, |r| r.provider = provider);
    }

    /// One more failure; how many in a row that makes.
    pub fn failed(&self, uid: &str) -> u32 {
        self.of(uid, |r| {
            r.failures = r.failures.saturating_add(1);
            r.failures
        })
    }

    /// A visit went well.
    pub fn succeeded(&self, uid: &str) {
        if let Some(r) = self.lock().get_mut(uid) {
            r.failures = 0;
        }
    }
}

/// The same for the same status, before and after the apiserver has stored it.
fn fingerprint(status: Option<&GrantStatus>) -> u64 {
    let mut hasher = DefaultHasher::new();
    status
        .and_then(|status| serde_json::to_string(status).ok())
        .hash(&mut hasher);
    hasher.finish()
}

/// A resource version as a number (KEP-5504: comparable within one kind). One that is none counts as the oldest,
/// so that the watch wins.
fn version<G: Grant>(grant: &G) -> u128 {
    grant.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::UploadGrant;

    #[test]
    fn foreign_status_is_news_after_growing_pauses_and_an_accepted_one_is_none() {
        let grant = |renewals: i64| -> UploadGrant {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "g", "namespace": "web", "uid": "u"}, "status": {"renewals": renewals},
                "spec": {"storeRef": {"name": "media"}, "key": "k"},
            }))
            .unwrap()
        };
        let memory = Memory::<UploadGrant>::new(RecordKey::new([0; 32]));
        let now = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        assert_eq!(
            memory.foreign_status(&grant(1), now(0)),
            None,
            "no visit has been there"
        );
        let accept = |n| memory.accept_status("u", grant(n).status.as_ref());
        accept(1);
        assert_eq!(memory.foreign_status(&grant(1), now(0)), None);
        let mut pauses = vec![];
        for _ in 0..12 {
            pauses.push(memory.foreign_status(&grant(2), now(0)).unwrap().as_millis());
            assert_eq!(memory.foreign_status(&grant(3), now(0)), None, "a visit is to come");
            accept(1);
        }
        assert_eq!(
            pauses,
            [
                0, 0, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000, 60_000
            ]
        );
        assert_eq!(
            memory.foreign_status(&grant(2), now(600)),
            Some(Duration::ZERO),
            "quiet for ten minutes"
        );
    }

    #[test]
    fn nothing_is_kept_of_who_is_not_listed() {
        let memory = Memory::<UploadGrant>::new(RecordKey::new([0; 32]));
        for uid in ["a", "b"] {
            memory.failed(uid);
        }
        memory.keep_only(&HashSet::from(["b".to_owned(), "c".to_owned()]));
        assert_eq!((memory.failed("a"), memory.failed("b")), (1, 2));
    }
}
