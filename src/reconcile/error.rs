use std::time::Duration;

use thiserror::Error;

use crate::core::SignError;

/// The time limit of one reconcile. After this time, the reconcile starts no step that waits for a store, and its
/// requests to the store are cancelled. A call to the apiserver that is already running is not cancelled, because Valet
/// needs its result.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// The time limit of one call to the apiserver. The client itself has no time limit.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason why a step of a reconcile failed. The messages contain no data of Secrets.
#[derive(Debug, Error)]
pub enum Error {
    /// The object has changed since Valet read it. The next attempt must read the object and decide again.
    #[error("another client has changed the object in the meantime: {0}")]
    Conflict(&'static str),
    /// The object that the step must change no longer exists.
    #[error("the object no longer exists: {0}")]
    Gone(&'static str),
    /// The apiserver refused the request, for example because of a ResourceQuota, an admission policy, or a namespace
    /// that is being deleted. Somebody must remove the cause.
    #[error("the apiserver refused: {0}")]
    Refused(String),
    /// The call to the apiserver failed, for example because it exceeded its time limit.
    #[error("{call}: {why}")]
    Api {
        call: &'static str,
        /// The cause of the failed call.
        why: String,
    },
    /// The reconcile waits in the store's queue, because the limit of concurrent requests to the store is reached. The
    /// number is an estimate of the waiting time in rounds. In one round, each permit of the store serves one grant
    /// that is earlier in the queue.
    #[error(
        "the limit of concurrent requests to the store is reached; {0} rounds of other requests run before this request"
    )]
    Queued(usize),
    /// The first probe of the store is still running. When the probe has a result, Valet enqueues the grant again.
    #[error("the store is being probed")]
    NotProbed,
    /// The reconcile took longer than its time limit. The reconcile stopped, so that reconciles of other grants can
    /// run.
    #[error(
        "the reconcile took longer than {seconds} s and was stopped; the store, its STS or the apiserver is slow",
        seconds = DEADLINE.as_secs()
    )]
    Deadline,
    /// The provider could not sign the credential.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The implementation of the trait [`Effects`](super::Effects) stopped the reconcile. The command `valet sign`
    /// stops reconciles in this way. The operator never returns this error.
    #[error("the reconcile was stopped")]
    Stopped,
    /// The decision logic returned too many steps for one reconcile. This is a bug in Valet. The limit of steps
    /// prevents an endless loop.
    #[error("the reconcile did not finish after {0} steps because of a bug in Valet; please report this bug")]
    Restless(usize),
}

impl Error {
    /// Returns the error message without quoted texts, such as object names. Two failures with the same cause therefore
    /// have equal results.
    pub fn cause(&self) -> String {
        let message = self.to_string();
        let parts = message.split('"').enumerate();
        let kept: Vec<_> = parts.map(|(at, part)| if at % 2 == 0 { part } else { "…" }).collect();
        kept.join("\"")
    }
}
