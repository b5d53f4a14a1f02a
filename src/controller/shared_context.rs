use std::sync::Arc;

use futures::future::{BoxFuture, Shared};
use kube::Client;

use super::{options::Options, quota::Quotas, store_limiter::StoreLimiter, stores::Stores};
use crate::{
    notifications::UploadIndex,
    telemetry::{Health, Metrics, Progress},
};

/// A future that resolves when the operator must stop, for example after SIGTERM. All clones of the future resolve at
/// the same time.
pub type StopSignal = Shared<BoxFuture<'static, ()>>;

/// The state that all controllers share.
pub struct SharedContext {
    pub client: Client,
    /// The cached stores and their connections.
    pub stores: Arc<Stores>,
    /// Limits the number of live grants, if an access rule sets a limit.
    pub quotas: Arc<Quotas>,
    /// Limits how many reconciles may wait for answers from one store at the same time.
    pub store_limiter: Arc<StoreLimiter>,
    pub metrics: Arc<Metrics>,
    /// Records the ends of reconciles, for the liveness probe.
    pub progress: Arc<Progress>,
    /// The state behind `/livez` and `/readyz`.
    pub health: Health,
    /// The index of expected uploads. When a notification about an object arrives, Valet looks up the grant of this
    /// object in the index. The value is `None` if the notification receiver is off.
    pub upload_index: Option<Arc<UploadIndex>>,
    /// The settings from the command line.
    pub options: Options,
    /// Resolves when the operator must stop.
    pub stop: StopSignal,
}
