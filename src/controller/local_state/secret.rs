//! What this process knows about the Secret of a grant.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::table::LocalState;
use crate::{
    api::Grant,
    core::{RememberedSecret, Repairs, SecretState, SecretView},
};

/// If a reconcile starts later than this time after the deletion of the Secret, it reads the Secret again.
const DELETION_IS_KNOWN: Duration = Duration::from_secs(30);

impl<G: Grant> LocalState<G> {
    /// Returns how often this process has restored the grant Secret, and when.
    pub fn repairs(&self, uid: &str) -> Repairs {
        self.lock().get(uid).map(|r| r.secret.repairs).unwrap_or_default()
    }

    /// Changes the record of the Secret's restorations, and returns the new record.
    pub fn update_repairs(&self, uid: &str, change: impl FnOnce(&mut Repairs)) -> Repairs {
        self.of(uid, |r| {
            change(&mut r.secret.repairs);
            r.secret.repairs
        })
    }

    /// Records the grant Secret that this process read or wrote at the time `at`. `None` means that the Secret does not
    /// exist.
    pub fn saw_secret(&self, uid: &str, secret: Option<&SecretView>, at: Timestamp) {
        self.of(uid, |r| {
            r.secret.state.saw(secret.and_then(SecretView::version), at);
            r.secret.deleted_at = None;
        });
    }

    /// Records that this process deleted the Secret at the time `at`. If the reconcile ends before it has written the
    /// status, the next reconcile does not have to read the Secret.
    pub fn deleted_secret(&self, uid: &str, at: Instant) {
        self.of(uid, |r| r.secret.deleted_at = Some(at));
    }

    /// Returns true if this process deleted the Secret less than [`DELETION_IS_KNOWN`] ago, and has not written the status
    /// since then.
    pub fn has_deleted_secret(&self, uid: &str, now: Instant) -> bool {
        let deleted_at = self.lock().get(uid).and_then(|r| r.secret.deleted_at);
        deleted_at.is_some_and(|at| now.duration_since(at) < DELETION_IS_KNOWN)
    }

    /// Records that a reconcile has written the status after the deletion of the Secret, or that the status was already
    /// right.
    pub fn wrote_status_after_deletion(&self, uid: &str) {
        if let Some(r) = self.lock().get_mut(uid) {
            r.secret.deleted_at = None;
        }
    }

    /// Records that the grant Secret may have changed. Valet then reads the Secret in the next reconcile.
    pub fn forget_secret(&self, uid: &str) {
        // The UID can come from the owner reference of any Secret, so this method must not add an entry for it.
        if let Some(r) = self.lock().get_mut(uid) {
            r.secret.state = SecretState::MayHaveChanged;
            r.secret.deleted_at = None;
        }
    }

    /// Returns true if this is the version of the grant Secret that this process read or wrote last.
    pub fn is_own_secret(&self, uid: &str, resource_version: &str) -> bool {
        self.lock().get(uid).is_some_and(
            |r| matches!(&r.secret.state, SecretState::Seen { version, .. } if version.resource_version == resource_version),
        )
    }

    /// Returns what this process remembers about the grant Secret. Returns `None` if Valet must read the Secret. See
    /// [`SecretState::remembered`].
    pub fn remembered_secret(&self, uid: &str, resync: Duration, now: Timestamp) -> Option<RememberedSecret> {
        let resync = SignedDuration::try_from(resync).unwrap_or(SignedDuration::MAX);
        self.of(uid, |r| r.secret.state.remembered(uid, resync, now))
    }
}
