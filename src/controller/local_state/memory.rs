//! What this process knows about one grant.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    controller::timers::Timer,
    core::record::RememberedStatus,
    core::{Repairs, SecretState},
    provider::Provider,
    reconcile::InitiatedUpload,
};

/// What this process knows about one grant.
pub struct GrantState<G> {
    /// The version of the grant that this process wrote last. Valet keeps this version until the watch delivers it. The
    /// watch event of the grant Secret can arrive earlier and start a reconcile. Without this version, that reconcile
    /// would use a grant with an old status.
    pub written: Option<Arc<G>>,
    pub status: StatusMemory,
    pub secret: SecretMemory,
    /// What this process knows about the object in the store. `None` for grants whose object Valet does not look for.
    pub upload: Option<Box<UploadMemory>>,
    /// The generation of the grant for which Valet has evaluated the schema rules, and the violated rules. Each
    /// evaluation takes more CPU time than the rest of a reconcile without requests.
    pub checked: Option<(i64, Box<[String]>)>,
    /// A hash of the parts of the grant that only users change.
    pub changed_by_users: Option<u64>,
    /// A hash of the parts of the grant whose changes cause a reconcile.
    pub triggers: Option<u64>,
    /// The number of consecutive failures of the grant's reconcile.
    pub failures: u32,
    /// The timer of the grant's next reconcile.
    pub timer: Option<Timer>,
}

impl<G> Default for GrantState<G> {
    fn default() -> Self {
        Self {
            written: None,
            status: StatusMemory::default(),
            secret: SecretMemory::default(),
            upload: None,
            checked: None,
            changed_by_users: None,
            triggers: None,
            failures: 0,
            timer: None,
        }
    }
}

/// What this process knows about the status of one grant.
#[derive(Default)]
pub struct StatusMemory {
    /// The record from the last status that Valet wrote itself. If a client other than Valet has written the status,
    /// Valet uses this record instead of the status.
    pub remembered: Option<RememberedStatus>,
    /// The generation that the grant had when Valet remembered the record in `remembered`. The apiserver never lowers
    /// the generation of an object. If the grant now has a lower generation, it was restored from a backup, and Valet
    /// does not use the record.
    pub generation: i64,
    /// A hash of the status that the last reconcile confirmed or wrote. If a watch event has a status with a
    /// different hash, Valet reconciles the grant.
    pub accepted: Option<u64>,
    /// If the installed CRD is older than this version of Valet, the apiserver removes the record signature from a
    /// written status. This field is a hash of the last status from which the apiserver removed the signature. The box
    /// keeps the memory small, because most CRDs are not older.
    pub unsigned: Option<Box<u64>>,
    /// Counts how often clients other than Valet wrote the status.
    pub disturbed: Option<Box<Disturbance>>,
}

/// Counts how often clients other than Valet write the status of one grant.
pub struct Disturbance {
    /// The number of writes by clients other than Valet. If no such write happens for the time `QUIET` (`status.rs`), the count
    /// starts again.
    pub count: u32,
    pub last: Timestamp,
    /// True if a reconcile that corrects the status is already enqueued.
    pub is_pending: bool,
}

/// What this process knows about the Secret of one grant.
#[derive(Default)]
pub struct SecretMemory {
    pub state: SecretState,
    /// The time at which this process deleted the Secret. `None` if Valet has written the status or read the Secret since
    /// then.
    pub deleted_at: Option<Instant>,
    /// How often this process has restored the grant Secret, and when.
    pub repairs: Repairs,
}

/// What this process knows about the object of one grant.
#[derive(Default)]
pub struct UploadMemory {
    /// The time at which Valet last polled the store for the grant's object.
    pub last_poll: Option<Timestamp>,
    /// The arrival time of the last notification about the grant's object. `None` if Valet has polled the store since
    /// then.
    pub notified_at: Option<Instant>,
    /// The multipart upload that this process initiated for the grant.
    pub initiated: Option<InitiatedUpload>,
    /// The connection to the store that has the grant's multipart upload. If somebody deletes the store resource,
    /// Valet needs this connection to abort the upload.
    pub provider: Option<Arc<dyn Provider>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::UploadGrant;

    /// The operator keeps one of these for each grant, so each byte counts. Put data that few grants have into a `Box`.
    #[test]
    fn state_of_a_grant_is_small() {
        let bytes = size_of::<GrantState<UploadGrant>>();
        assert!(bytes <= 384, "{bytes} bytes");
    }
}
