use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kube::{ResourceExt, core::ObjectMeta};
use tokio::time::Instant;

use crate::{
    api::{Grant, GrantStatus},
    core::record::{KnownStatus, RecordKey, RememberedStatus, Subject},
    core::{GrantFacts, RememberedSecret, Repairs, SecretState, SecretView},
    provider::Provider,
    reconcile::InitiatedUpload,
};

/// Facts about the grants of one kind that this process keeps only in its memory. A restart of the process loses these
/// facts.
///
/// With these facts, Valet needs fewer reads and writes. They also help if a client destroys the records that Valet
/// keeps in the cluster. Valet never signs a credential because of these facts alone.
pub struct LocalState<G> {
    /// The facts, by the UID of the grant. Each entry has an allocation of its own, because up to half of the places in
    /// the map are empty.
    grants: Mutex<HashMap<String, Box<GrantState<G>>>>,
    /// The record key, with which Valet checks whether it wrote a record itself.
    records: RecordKey,
}

struct GrantState<G> {
    /// The version of the grant that this process wrote last. Valet keeps this version until the watch delivers it. The
    /// watch event of the grant Secret can arrive earlier and start a reconcile. Without this version, that reconcile
    /// would use a grant with an old status.
    written: Option<Arc<G>>,
    /// The time at which Valet last polled the store for the grant's object.
    last_poll: Option<Timestamp>,
    /// The arrival time of the last notification about the grant's object. `None` if Valet has polled the store since
    /// then.
    notified_at: Option<Instant>,
    /// What this process knows about the grant Secret.
    secret: SecretState,
    /// The time at which this process deleted the Secret, if it has postponed the status. `None` after the status
    /// was written.
    deleted_at: Option<Instant>,
    /// The generation of the grant for which Valet has evaluated the schema rules, and the violated rules. Each
    /// evaluation takes more CPU time than the rest of a reconcile without requests.
    checked: Option<(i64, Vec<String>)>,
    /// A hash of the parts of the grant that only users change.
    changed_by_users: Option<u64>,
    /// A hash of the parts of the grant whose changes cause a reconcile.
    triggers: Option<u64>,
    /// The multipart upload that this process initiated for the grant.
    upload: Option<InitiatedUpload>,
    /// The connection to the store that has the grant's multipart upload. If somebody deletes the store resource,
    /// Valet needs this connection to abort the upload.
    provider: Option<Arc<dyn Provider>>,
    /// The number of consecutive failures of the grant's reconcile.
    failures: u32,
    /// The record from the last status that Valet wrote itself. If a client other than Valet has written the status,
    /// Valet uses this record instead of the status.
    status_evidence: Option<RememberedStatus>,
    /// The generation that the grant had when Valet remembered the record in `status_evidence`. The apiserver never lowers
    /// the generation of an object. If the grant now has a lower generation, it was restored from a backup, and Valet
    /// does not use the record.
    evidence_generation: i64,
    /// A hash of the status that the last reconcile confirmed or wrote. If a watch event has a status with a
    /// different hash, Valet reconciles the grant.
    status: Option<u64>,
    /// If the installed CRD is older than this version of Valet, the apiserver removes the record signature from a
    /// written status. This field is a hash of the last status from which the apiserver removed the signature.
    unsigned: Option<u64>,
    /// Counts how often clients other than Valet wrote the status.
    disturbed: Option<Box<Disturbance>>,
    /// How often this process has restored the grant Secret, and when.
    repairs: Repairs,
}

/// Counts how often clients other than Valet write the status of one grant.
struct Disturbance {
    /// The number of writes by clients other than Valet. If no such write happens for the time [`QUIET`], the count
    /// starts again.
    count: u32,
    last: Timestamp,
    /// True if a reconcile that corrects the status is already enqueued.
    is_pending: bool,
}

impl<G> Default for GrantState<G> {
    fn default() -> Self {
        Self {
            written: None,
            last_poll: None,
            notified_at: None,
            secret: SecretState::default(),
            deleted_at: None,
            checked: None,
            changed_by_users: None,
            triggers: None,
            upload: None,
            provider: None,
            failures: 0,
            status_evidence: None,
            evidence_generation: 0,
            status: None,
            unsigned: None,
            disturbed: None,
            repairs: Repairs::default(),
        }
    }
}

/// Valet counts how often other programs write the status of a grant. If no such write happens for 10 minutes, Valet
/// forgets the earlier writes.
const QUIET: SignedDuration = SignedDuration::from_mins(10);

/// If the postponed reconcile starts later than this time after the deletion of the Secret, it reads the Secret again.
const POSTPONED: Duration = Duration::from_secs(30);

/// The maximum delay before a reconcile that corrects a status.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl<G: Grant> LocalState<G> {
    /// Creates a state without any grants.
    pub fn new(records: RecordKey) -> Self {
        Self {
            grants: Mutex::default(),
            records,
        }
    }

    /// Returns the HMAC key with which Valet signs its own records.
    pub fn records(&self) -> &RecordKey {
        &self.records
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Box<GrantState<G>>>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of<T>(&self, uid: &str, change: impl FnOnce(&mut GrantState<G>) -> T) -> T {
        change(self.lock().entry(uid.to_owned()).or_default())
    }

    /// Returns the newer of two versions of a grant: the version from the watch, or the version that this process
    /// wrote last.
    ///
    /// Returns the version of the grant that this process wrote last. Returns `None` if `watched` is at least as new.
    pub fn written(&self, watched: &impl ResourceExt) -> Option<Arc<G>> {
        let lock = self.lock();
        let written = lock.get(&watched.uid().unwrap_or_default())?.written.as_ref()?;
        (version(written.as_ref()) > version(watched)).then(|| written.clone())
    }

    /// Removes the written version of a grant from memory after the watch has delivered it. The watch cache must
    /// already contain `watched`.
    pub fn delivered(&self, watched: &impl ResourceExt) {
        if let Some(r) = self.lock().get_mut(&watched.uid().unwrap_or_default()) {
            r.written
                .take_if(|written| version(written.as_ref()) <= version(watched));
        }
    }

    /// Records the version of a grant that the apiserver returned after a write of this process.
    pub fn wrote(&self, grant: &Arc<G>) {
        self.of(&grant.uid().unwrap_or_default(), |r| r.written = Some(grant.clone()));
    }

    /// Returns the part of a grant's status that Valet can trust.
    pub fn known_status(&self, grant: &G) -> KnownStatus {
        let uid = grant.uid().unwrap_or_default();
        let subject = Subject {
            uid: &uid,
            operation: G::OPERATION,
        };
        let lock = self.lock();
        let recollection = lock.get(&uid);
        let generation = grant.meta().generation.unwrap_or_default();
        let remembered = recollection
            .filter(|r| r.evidence_generation <= generation)
            .and_then(|r| r.status_evidence.as_ref());
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

    /// Records that the apiserver removed the record signature from a status that this process wrote.
    pub fn lost_signature(&self, uid: &str, status: &GrantStatus) {
        let hash = fingerprint(Some(status));
        self.of(uid, |r| r.unsigned = Some(hash));
    }

    /// Returns the facts about a grant, with the part of its status that Valet can trust. The method remembers this
    /// part for later reconciles.
    pub fn facts(&self, grant: &G) -> GrantFacts {
        let known = self.known_status(grant);
        if known.is_own {
            let generation = grant.meta().generation.unwrap_or_default();
            self.remember(&grant.uid().unwrap_or_default(), &known.status, generation);
        }
        GrantFacts::with_broken_rules(grant, self.broken_rules(grant)).with_status(known)
    }

    /// Returns the schema rules that the grant violates. The rules depend only on the spec.
    fn broken_rules(&self, grant: &G) -> Vec<String> {
        let (uid, generation) = (grant.uid().unwrap_or_default(), grant.meta().generation);
        let Some(generation) = generation.filter(|_| !uid.is_empty()) else {
            return grant.check().err().unwrap_or_default();
        };
        let known = self.lock().get(&uid).and_then(|r| r.checked.clone());
        if let Some((_, broken)) = known.filter(|(checked, _)| *checked == generation) {
            return broken;
        }
        let broken = grant.check().err().unwrap_or_default();
        self.of(&uid, |r| r.checked = Some((generation, broken.clone())));
        broken
    }

    /// Remembers a status that Valet wrote itself.
    fn remember(&self, uid: &str, status: &GrantStatus, generation: i64) {
        let Some(remembered) = RememberedStatus::of(status) else {
            return;
        };
        self.of(uid, |r| {
            let is_restored = generation < r.evidence_generation;
            if is_restored || !r.status_evidence.as_ref().is_some_and(|known| known.is_newer(status)) {
                r.status_evidence = Some(remembered);
                r.evidence_generation = generation;
            }
        });
    }

    /// Records that a reconcile confirmed this status or is about to write it. When the watch delivers this status,
    /// Valet does not reconcile the grant.
    pub fn accept_status(&self, uid: &str, status: Option<&GrantStatus>) {
        let hash = fingerprint(status);
        self.of(uid, |r| {
            r.status = Some(hash);
            if let Some(disturbed) = &mut r.disturbed {
                disturbed.is_pending = false;
            }
        });
    }

    /// Returns a delay if a client other than Valet has changed the status since the last reconcile. After this
    /// delay, a reconcile must correct the status. The client may write the status in a loop. If the changes
    /// continue, the delay therefore becomes longer.
    ///
    /// Returns `None` if no reconcile is needed, or if a reconcile that corrects the status is already enqueued.
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
        let before = recollection.disturbed.as_deref();
        if before.is_some_and(|d| d.is_pending) {
            return None;
        }
        let count = before
            .filter(|d| now.duration_since(d.last) < QUIET)
            .map_or(0, |d| d.count);
        recollection.disturbed = Some(Box::new(Disturbance {
            count: count.saturating_add(1),
            last: now,
            is_pending: true,
        }));
        let pause = Duration::from_millis(250).saturating_mul(1 << count.min(16));
        Some(if count < 2 {
            Duration::ZERO
        } else {
            pause.min(LONGEST_PAUSE)
        })
    }

    /// Returns how often this process has restored the grant Secret, and when.
    pub fn repairs(&self, uid: &str) -> Repairs {
        self.lock().get(uid).map(|r| r.repairs).unwrap_or_default()
    }

    /// Changes the record of the Secret's restorations, and returns the new record.
    pub fn update_repairs(&self, uid: &str, change: impl FnOnce(&mut Repairs)) -> Repairs {
        self.of(uid, |r| {
            change(&mut r.repairs);
            r.repairs
        })
    }

    /// Removes all facts about a deleted grant.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Removes the facts about all grants whose UIDs are not in `uids`. These grants were deleted while the watch was
    /// interrupted.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.lock().retain(|uid, _| uids.contains(uid));
    }

    /// Returns the time at which Valet last polled the store for the object.
    pub fn last_poll(&self, uid: &str) -> Option<Timestamp> {
        self.lock().get(uid).and_then(|r| r.last_poll)
    }

    /// Records the time of a poll. This poll also handles the notification that arrived at the time `notified_at`. If another
    /// notification arrived later, Valet must poll again.
    pub fn polled(&self, uid: &str, at: Timestamp, notified_at: Option<Instant>) {
        self.of(uid, |r| {
            r.last_poll = Some(at);
            if r.notified_at <= notified_at {
                r.notified_at = None;
            }
        });
    }

    /// Records the arrival time of a notification about the grant's object.
    pub fn notify(&self, uid: &str, at: Instant) {
        self.of(uid, |r| r.notified_at = Some(at));
    }

    /// Returns the arrival time of the last notification about the grant's object. Returns `None` if Valet has polled
    /// the store since then.
    pub fn notified_at(&self, uid: &str) -> Option<Instant> {
        self.lock().get(uid).and_then(|r| r.notified_at)
    }

    /// Records the grant Secret that this process read or wrote at the time `at`. `None` means that the Secret does not
    /// exist.
    pub fn saw_secret(&self, uid: &str, secret: Option<&SecretView>, at: Timestamp) {
        self.of(uid, |r| {
            r.secret.saw(secret.and_then(SecretView::version), at);
            r.deleted_at = None;
        });
    }

    /// Records that this process deleted the Secret at the time `at` and postponed the status.
    pub fn deleted_secret(&self, uid: &str, at: Instant) {
        self.of(uid, |r| r.deleted_at = Some(at));
    }

    /// Returns true if this process deleted the Secret less than [`POSTPONED`] ago, and has postponed the status.
    pub fn has_deleted_secret(&self, uid: &str, now: Instant) -> bool {
        let deleted_at = self.lock().get(uid).and_then(|r| r.deleted_at);
        deleted_at.is_some_and(|at| now.duration_since(at) < POSTPONED)
    }

    /// Records that a reconcile has written the postponed status.
    pub fn wrote_postponed_status(&self, uid: &str) {
        if let Some(r) = self.lock().get_mut(uid) {
            r.deleted_at = None;
        }
    }

    /// Processes the metadata of a grant from the watch. Returns true if Valet must reconcile the grant, because the
    /// grant is new or has changed. If a user has changed the grant, for example its annotations, Valet also reads the
    /// Secret in the next reconcile. A user can therefore make Valet check the Secret at once.
    ///
    /// If Valet itself writes the status of a grant, no reconcile is needed. [`Self::foreign_status`] handles a status
    /// that a client other than Valet wrote. A change of labels or annotations causes a reconcile, because GitOps tools
    /// use labels and annotations for tracking.
    pub fn applied(&self, meta: &ObjectMeta) -> bool {
        let mut hasher = DefaultHasher::new();
        (meta.generation, &meta.labels, &meta.annotations).hash(&mut hasher);
        let by_users = hasher.finish();
        meta.finalizers.hash(&mut hasher);
        let triggers = hasher.finish();
        self.of(meta.uid.as_deref().unwrap_or_default(), |r| {
            let before = r.changed_by_users.replace(by_users);
            if before.is_some_and(|before| before != by_users) {
                r.secret = SecretState::MayHaveChanged;
            }
            r.triggers.replace(triggers) != Some(triggers)
        })
    }

    /// Records that the grant Secret may have changed. Valet then reads the Secret in the next reconcile.
    pub fn forget_secret(&self, uid: &str) {
        // The UID can come from the owner reference of any Secret, so this method must not add an entry for it.
        if let Some(r) = self.lock().get_mut(uid) {
            r.secret = SecretState::MayHaveChanged;
            r.deleted_at = None;
        }
    }

    /// Returns true if this is the version of the grant Secret that this process read or wrote last.
    pub fn is_own_secret(&self, uid: &str, resource_version: &str) -> bool {
        self.lock().get(uid).is_some_and(
            |r| matches!(&r.secret, SecretState::Seen { version, .. } if version.resource_version == resource_version),
        )
    }

    /// Returns what this process remembers about the grant Secret. Returns `None` if Valet must read the Secret. See
    /// [`SecretState::remembered`].
    pub fn remembered_secret(&self, uid: &str, resync: Duration, now: Timestamp) -> Option<RememberedSecret> {
        let resync = SignedDuration::try_from(resync).unwrap_or(SignedDuration::MAX);
        self.of(uid, |r| r.secret.remembered(uid, resync, now))
    }

    /// Reads or changes the record of the multipart upload that this process initiated for the grant. Other programs
    /// can change the grant's annotations and status, but they cannot change this record.
    pub fn initiated_upload<T>(&self, uid: &str, change: impl FnOnce(&mut Option<InitiatedUpload>) -> T) -> T {
        let mut lock = self.lock();
        if let Some(r) = lock.get_mut(uid) {
            return change(&mut r.upload);
        }
        let mut upload = None;
        let result = change(&mut upload);
        if upload.is_some() {
            lock.entry(uid.to_owned()).or_default().upload = upload;
        }
        result
    }

    /// Returns the remembered connection to the store that has the grant's multipart upload.
    pub fn provider(&self, uid: &str) -> Option<Arc<dyn Provider>> {
        self.lock().get(uid).and_then(|r| r.provider.clone())
    }

    /// Remembers the connection to the store that has the grant's multipart upload. `None` removes the connection.
    pub fn set_provider(&self, uid: &str, provider: Option<Arc<dyn Provider>>) {
        self.of(uid, |r| r.provider = provider);
    }

    /// Records a failed reconcile, and returns the number of consecutive failures.
    pub fn failed(&self, uid: &str) -> u32 {
        self.of(uid, |r| {
            r.failures = r.failures.saturating_add(1);
            r.failures
        })
    }

    /// Sets the number of consecutive failures to zero after a successful reconcile.
    pub fn succeeded(&self, uid: &str) {
        if let Some(r) = self.lock().get_mut(uid) {
            r.failures = 0;
        }
    }
}

/// Computes a hash of a status. The hash stays the same if the apiserver stores the status without a change.
fn fingerprint(status: Option<&GrantStatus>) -> u64 {
    let mut hasher = DefaultHasher::new();
    status
        .and_then(|status| serde_json::to_string(status).ok())
        .hash(&mut hasher);
    hasher.finish()
}

/// Returns the resource version of a grant as a number. Resource versions of one kind can be compared (KEP-5504). If
/// the resource version is not a number, the function returns 0. Valet then uses the grant from the watch.
fn version(grant: &impl ResourceExt) -> u128 {
    grant.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::UploadGrant;

    /// The operator keeps one of these for each grant, so each byte counts. Put data that few grants have into a `Box`.
    #[test]
    fn state_of_a_grant_is_small() {
        let bytes = size_of::<GrantState<UploadGrant>>();
        assert!(bytes <= 460, "{bytes} bytes");
    }

    #[test]
    fn foreign_status_is_handled_after_growing_pauses_unless_accepted() {
        let grant = |renewals: i64| -> UploadGrant {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "g", "namespace": "web", "uid": "u"}, "status": {"renewals": renewals},
                "spec": {"storeRef": {"name": "media"}, "key": "k"},
            }))
            .unwrap()
        };
        let local_state = LocalState::<UploadGrant>::new(RecordKey::new([0; 32]));
        let now = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        assert_eq!(
            local_state.foreign_status(&grant(1), now(0)),
            None,
            "before the first reconcile of a grant, no status must count as written by another client"
        );
        let accept = |n| local_state.accept_status("u", grant(n).status.as_ref());
        accept(1);
        assert_eq!(local_state.foreign_status(&grant(1), now(0)), None);
        let mut pauses = vec![];
        for _ in 0..12 {
            pauses.push(local_state.foreign_status(&grant(2), now(0)).unwrap().as_millis());
            assert_eq!(
                local_state.foreign_status(&grant(3), now(0)),
                None,
                "an enqueued reconcile must not be enqueued again"
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
            local_state.foreign_status(&grant(2), now(600)),
            Some(Duration::ZERO),
            "after ten minutes without a write by another client, the next reconcile must have no delay"
        );
    }

    #[test]
    fn record_of_a_later_generation_does_not_apply_to_a_restored_grant() {
        let local_state = LocalState::<UploadGrant>::new(RecordKey::new([0; 32]));
        let grant = |generation: i64, finished: Option<&str>| -> UploadGrant {
            let status = serde_json::json!({
                "issuedTime": "2026-01-01T00:00:00Z", "expirationTime": "2026-01-01T01:00:00Z", "finishedTime": finished,
            });
            let mut grant: UploadGrant = serde_json::from_value(serde_json::json!({
                "metadata": {"name": "g", "namespace": "web", "uid": "u", "generation": generation}, "status": status,
                "spec": {"storeRef": {"name": "media"}, "key": "k"},
            }))
            .unwrap();
            let subject = Subject {
                uid: "u",
                operation: UploadGrant::OPERATION,
            };
            let status = grant.status.as_mut().unwrap();
            status.record_signature = Some(local_state.records().sign_status(subject, status));
            grant
        };
        let is_finished = |grant: &UploadGrant| local_state.facts(grant).status.finished_time.is_some();
        let revoked = grant(2, Some("2026-01-01T00:10:00Z"));
        assert!(is_finished(&revoked));
        assert!(
            is_finished(&grant(2, None)),
            "the grant must stay finished if another client writes an old status with the same generation"
        );
        assert!(
            !is_finished(&grant(1, None)),
            "if an etcd restore undoes the revocation, the grant must not count as finished"
        );
        assert!(
            !is_finished(&grant(1, None)),
            "if Valet reads the restored grant again, the grant must still not count as finished"
        );
    }

    #[test]
    fn state_of_unlisted_grants_is_removed() {
        let local_state = LocalState::<UploadGrant>::new(RecordKey::new([0; 32]));
        for uid in ["a", "b"] {
            local_state.failed(uid);
        }
        local_state.retain(&HashSet::from(["b".to_owned(), "c".to_owned()]));
        assert_eq!((local_state.failed("a"), local_state.failed("b")), (1, 2));
        local_state.forget_secret("no grant has this UID");
        assert!(!local_state.lock().contains_key("no grant has this UID"));
    }
}
