//! What this process knows about the status of a grant.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{
    memory::Disturbance,
    table::{LocalState, version},
};
use crate::{
    api::{Grant, GrantStatus},
    core::record::{KnownStatus, RememberedStatus, Subject},
};

/// Valet counts how often other programs write the status of a grant. If no such write happens for 10 minutes, Valet
/// forgets the earlier writes.
const QUIET: SignedDuration = SignedDuration::from_mins(10);

/// The maximum delay before a reconcile that corrects a status.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl<G: Grant> LocalState<G> {
    /// Returns the part of a grant's status that Valet can trust.
    pub fn known_status(&self, grant: &G) -> KnownStatus {
        let uid = grant.uid().unwrap_or_default();
        let subject = Subject {
            uid: &uid,
            operation: G::OPERATION,
        };
        let lock = self.lock();
        let state = lock.get(&uid);
        let generation = grant.meta().generation.unwrap_or_default();
        let remembered = state
            .filter(|r| r.status.generation <= generation)
            .and_then(|r| r.status.remembered.as_ref());
        let known = self.records().known_status(subject, grant.grant_status(), remembered);
        match grant.grant_status() {
            Some(status) if !known.is_own && status.record_signature.is_none() => {
                let is_own = state.is_some_and(|r| r.status.unsigned.as_deref() == Some(&fingerprint(Some(status))));
                let status = if is_own { status.clone() } else { known.status };
                KnownStatus { status, is_own }
            }
            _ => known,
        }
    }

    /// Records that the apiserver removed the record signature from a status that this process wrote.
    pub fn lost_signature(&self, uid: &str, status: &GrantStatus) {
        let hash = fingerprint(Some(status));
        self.of(uid, |r| r.status.unsigned = Some(Box::new(hash)));
    }

    /// Remembers a status that Valet wrote itself.
    pub fn remember(&self, uid: &str, status: &GrantStatus, generation: i64) {
        let Some(remembered) = RememberedStatus::of(status) else {
            return;
        };
        self.of(uid, |r| {
            let is_restored = generation < r.status.generation;
            if is_restored || !r.status.remembered.as_ref().is_some_and(|known| known.is_newer(status)) {
                r.status.remembered = Some(remembered);
                r.status.generation = generation;
            }
        });
    }

    /// Records that a reconcile confirmed this status or is about to write it. When the watch delivers this status,
    /// Valet does not reconcile the grant.
    pub fn accept_status(&self, uid: &str, status: Option<&GrantStatus>) {
        let hash = fingerprint(status);
        self.of(uid, |r| {
            r.status.accepted = Some(hash);
            if let Some(disturbed) = &mut r.status.disturbed {
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
        let state = lock.get_mut(&grant.uid().unwrap_or_default())?;
        let written = state.written.as_ref();
        let is_older = written.is_some_and(|w| version(w.as_ref()) > version(grant));
        if is_older || state.status.accepted? == hash {
            return None;
        }
        let before = state.status.disturbed.as_deref();
        if before.is_some_and(|d| d.is_pending) {
            return None;
        }
        let count = before
            .filter(|d| now.duration_since(d.last) < QUIET)
            .map_or(0, |d| d.count);
        state.status.disturbed = Some(Box::new(Disturbance {
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
}

/// Computes a hash of a status. The hash stays the same if the apiserver stores the status without a change.
fn fingerprint(status: Option<&GrantStatus>) -> u64 {
    let mut hasher = DefaultHasher::new();
    status
        .and_then(|status| serde_json::to_string(status).ok())
        .hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::UploadGrant, core::record::RecordKey};

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
}
