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

/// What this process knows about the grants of one kind in addition to its watch cache. All of it can be lost at any
/// moment: it only saves reads and writes, and slows down a client that destroys Valet's records. No credential is
/// signed because of this data alone.
pub struct LocalState<G> {
    grants: Mutex<HashMap<String, GrantState<G>>>,
    /// Verifies which records Valet wrote itself.
    records: RecordKey,
}

struct GrantState<G> {
    /// The grant in the version of our own last write, until the watch delivers it. The event of our own Secret
    /// arrives earlier, and would otherwise find a grant without a status.
    written: Option<Arc<G>>,
    /// When Valet last polled the store for the grant's object.
    last_poll: Option<Timestamp>,
    /// When the notification arrived that no poll has answered yet.
    heard: Option<Instant>,
    /// The version of the Secret that we wrote last. Its event needs no reconcile.
    secret_version: Option<String>,
    /// The multipart upload that this process initiated.
    begun: Option<Begun>,
    /// The connection to the store of the grant's multipart upload. It is needed to abort the upload when the store
    /// resource has been deleted.
    provider: Option<Arc<dyn Provider>>,
    /// The number of consecutive failures.
    failures: u32,
    /// The record of the last status that was verified as Valet's own. It replaces a status that another client has
    /// written.
    evidence: Option<Box<GrantStatus>>,
    /// A hash of the status that the last reconcile confirmed or wrote. An event with another status needs a
    /// reconcile.
    status: Option<u64>,
    /// A hash of the status that this process wrote last, if the apiserver dropped its signature because the CRD is
    /// older than this program.
    unsigned: Option<u64>,
    /// Writes to the status by other clients.
    disturbed: Option<Disturbance>,
    /// How often the Secret was restored.
    repairs: Repairs,
}

/// Counts writes to a grant's status by other clients.
struct Disturbance {
    /// The number of such writes without a gap of [`QUIET`].
    count: u32,
    last: Timestamp,
    /// Whether a reconcile is enqueued that corrects the status.
    is_pending: bool,
}

/// A multipart upload that this process initiated.
#[derive(Clone)]
struct Begun {
    upload: String,
    /// Whether the grant Secret contains the ID of the upload.
    is_recorded: bool,
}

impl<G> Default for GrantState<G> {
    fn default() -> Self {
        Self {
            written: None,
            last_poll: None,
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

/// After this time without a status write by another client, earlier ones are forgotten.
const QUIET: SignedDuration = SignedDuration::from_mins(10);

/// The longest delay before a reconcile that corrects a status.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl<G: Grant> LocalState<G> {
    /// Creates an empty memory.
    pub fn new(records: RecordKey) -> Self {
        Self {
            grants: Mutex::default(),
            records,
        }
    }

    /// The key that signs Valet's own records.
    pub fn records(&self) -> &RecordKey {
        &self.records
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, GrantState<G>>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of<T>(&self, uid: &str, change: impl FnOnce(&mut GrantState<G>) -> T) -> T {
        change(self.lock().entry(uid.to_owned()).or_default())
    }

    /// The newer of the watched grant and the grant that we wrote. Our version stays until a reconcile finds it in
    /// the watch cache. Otherwise a reconcile that was enqueued earlier could use the grant from before our write.
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

    /// The grant that we wrote last, if the watch has not delivered it yet.
    pub fn written(&self, watched: &G) -> Option<Arc<G>> {
        let lock = self.lock();
        let written = lock.get(&watched.uid().unwrap_or_default())?.written.as_ref()?;
        (version(written.as_ref()) > version(watched)).then(|| written.clone())
    }

    /// Records the grant that our own write returned.
    pub fn wrote(&self, grant: &Arc<G>) {
        self.of(&grant.uid().unwrap_or_default(), |r| r.written = Some(grant.clone()));
    }

    /// The part of a grant's status that can be trusted.
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

    /// Records that this process wrote this status and the apiserver dropped its signature.
    pub fn lost_signature(&self, uid: &str, status: &GrantStatus) {
        let hash = fingerprint(Some(status));
        self.of(uid, |r| r.unsigned = Some(hash));
    }

    /// The facts about a grant, with the trusted part of its status. The trusted part is remembered.
    pub fn facts(&self, grant: &G) -> GrantFacts {
        let known = self.known_status(grant);
        if known.is_own {
            self.remember(&grant.uid().unwrap_or_default(), &known.status);
        }
        GrantFacts::of(grant).with_status(known)
    }

    /// Remembers a status that Valet wrote itself.
    fn remember(&self, uid: &str, status: &GrantStatus) {
        let Some(evidence) = evidence(status) else { return };
        self.of(uid, |r| {
            if !r.evidence.as_ref().is_some_and(|known| is_newer(known, &evidence)) {
                r.evidence = Some(Box::new(evidence));
            }
        });
    }

    /// Records that a reconcile confirmed this status or is about to write it. The event of this status needs no
    /// reconcile.
    pub fn accept_status(&self, uid: &str, status: Option<&GrantStatus>) {
        let hash = fingerprint(status);
        self.of(uid, |r| {
            r.status = Some(hash);
            if let Some(disturbed) = &mut r.disturbed {
                disturbed.is_pending = false;
            }
        });
    }

    /// Whether the watched status differs from the status of the last reconcile. If so, returns the delay before a
    /// reconcile corrects it; the delay grows because another client may write the status in a loop.
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

    /// How often the grant Secret was restored.
    pub fn repairs(&self, uid: &str) -> Repairs {
        self.lock().get(uid).map(|r| r.repairs).unwrap_or_default()
    }

    /// Updates the record of restorations and returns it.
    pub fn keep_repairs(&self, uid: &str, change: impl FnOnce(&mut Repairs)) -> Repairs {
        self.of(uid, |r| {
            change(&mut r.repairs);
            r.repairs
        })
    }

    /// Drops all memory of a deleted grant.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Drops the memory of all grants that are not in this list, because they were deleted while nothing was watched.
    pub fn keep_only(&self, uids: &HashSet<String>) {
        self.lock().retain(|uid, _| uids.contains(uid));
    }

    /// When Valet last polled the store for the object.
    pub fn last_poll(&self, uid: &str) -> Option<Timestamp> {
        self.lock().get(uid).and_then(|r| r.last_poll)
    }

    /// Records a poll that answers notifications up to `heard`. A later notification still needs a poll.
    pub fn looked(&self, uid: &str, at: Timestamp, heard: Option<Instant>) {
        self.of(uid, |r| {
            r.last_poll = Some(at);
            if r.heard <= heard {
                r.heard = None;
            }
        });
    }

    /// Records that a notification of the grant's object has arrived.
    pub fn hear(&self, uid: &str, at: Instant) {
        self.of(uid, |r| r.heard = Some(at));
    }

    /// When the notification arrived that no poll has answered yet.
    pub fn heard(&self, uid: &str) -> Option<Instant> {
        self.lock().get(uid).and_then(|r| r.heard)
    }

    /// Records the version of the grant Secret that this process wrote.
    pub fn wrote_secret(&self, uid: &str, resource_version: &str) {
        self.of(uid, |r| r.secret_version = Some(resource_version.to_owned()));
    }

    /// Whether a version of the grant Secret is our own last write.
    pub fn is_own_secret(&self, uid: &str, resource_version: &str) -> bool {
        self.lock()
            .get(uid)
            .is_some_and(|r| r.secret_version.as_deref() == Some(resource_version))
    }

    /// The multipart upload that was initiated for this grant and is not recorded in a Secret.
    pub fn begun(&self, uid: &str) -> Option<String> {
        let begun = self.lock().get(uid)?.begun.clone();
        begun.filter(|b| !b.is_recorded).map(|b| b.upload)
    }

    /// The multipart upload that this process initiated for this grant, recorded or not. Unlike the annotation and
    /// the status, no other client can change this value.
    pub fn own_upload(&self, uid: &str) -> Option<String> {
        Some(self.lock().get(uid)?.begun.as_ref()?.upload.clone())
    }

    /// Records that a multipart upload was initiated for this grant.
    pub fn keep_begun(&self, uid: &str, upload: String) {
        let begun = Begun {
            upload,
            is_recorded: false,
        };
        self.of(uid, |r| r.begun = Some(begun));
    }

    /// Records that the grant Secret contains the ID of the initiated upload.
    pub fn recorded(&self, uid: &str) {
        if let Some(begun) = self.lock().get_mut(uid).and_then(|r| r.begun.as_mut()) {
            begun.is_recorded = true;
        }
    }

    /// Removes an aborted upload from the memory.
    pub fn aborted(&self, uid: &str, upload: &str) {
        if let Some(r) = self.lock().get_mut(uid) {
            r.begun.take_if(|begun| begun.upload == upload);
        }
    }

    /// The remembered connection to the store of the grant's multipart upload.
    pub fn provider(&self, uid: &str) -> Option<Arc<dyn Provider>> {
        self.lock().get(uid).and_then(|r| r.provider.clone())
    }

    /// Remembers the connection to the store of the grant's multipart upload, or removes it.
    pub fn keep_provider(&self, uid: &str, provider: Option<Arc<dyn Provider>>) {
        self.of(uid, |r| r.provider = provider);
    }

    /// Records a failure, and returns the number of consecutive failures.
    pub fn failed(&self, uid: &str) -> u32 {
        self.of(uid, |r| {
            r.failures = r.failures.saturating_add(1);
            r.failures
        })
    }

    /// Resets the number of consecutive failures after a successful reconcile.
    pub fn succeeded(&self, uid: &str) {
        if let Some(r) = self.lock().get_mut(uid) {
            r.failures = 0;
        }
    }
}

/// A hash that is the same before and after the apiserver has stored the status.
fn fingerprint(status: Option<&GrantStatus>) -> u64 {
    let mut hasher = DefaultHasher::new();
    status
        .and_then(|status| serde_json::to_string(status).ok())
        .hash(&mut hasher);
    hasher.finish()
}

/// A resource version as a number (KEP-5504: comparable within one kind). A value that is not a number counts as the
/// oldest version, so that the watched object wins.
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
        let memory = LocalState::<UploadGrant>::new(RecordKey::new([0; 32]));
        let now = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        assert_eq!(memory.foreign_status(&grant(1), now(0)), None, "no reconcile has run");
        let accept = |n| memory.accept_status("u", grant(n).status.as_ref());
        accept(1);
        assert_eq!(memory.foreign_status(&grant(1), now(0)), None);
        let mut pauses = vec![];
        for _ in 0..12 {
            pauses.push(memory.foreign_status(&grant(2), now(0)).unwrap().as_millis());
            assert_eq!(
                memory.foreign_status(&grant(3), now(0)),
                None,
                "a reconcile is already enqueued"
            );
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
        let memory = LocalState::<UploadGrant>::new(RecordKey::new([0; 32]));
        for uid in ["a", "b"] {
            memory.failed(uid);
        }
        memory.keep_only(&HashSet::from(["b".to_owned(), "c".to_owned()]));
        assert_eq!((memory.failed("a"), memory.failed("b")), (1, 2));
    }
}
