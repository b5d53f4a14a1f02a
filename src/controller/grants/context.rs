use std::{sync::Arc, time::Duration};

use kube::{Client, ResourceExt, runtime::events::Recorder};

use crate::{
    api::Grant,
    controller::{
        local_state::LocalState, namespace_limiter::NamespaceLimiter, quota::Quotas, secrets::Secrets,
        shard_filter::ForeignGrants, store_limiter::StoreLimiter, stores::Stores, watch::Requeuer,
    },
    core::Settings,
    telemetry::{Metrics, Progress},
};

/// The state that all reconciles of one kind of grant share.
pub struct Context<G: Grant> {
    pub client: Client,
    /// The cached stores and their connections.
    pub stores: Arc<Stores>,
    /// Reads and writes grant Secrets.
    pub secrets: Secrets,
    /// Facts about grants that this process keeps only in its memory. The apiserver and the watch cache do not contain
    /// these facts.
    pub local_state: Arc<LocalState<G>>,
    /// Writes Kubernetes Events.
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
    /// Distributes reconciles fairly among namespaces.
    pub namespace_limiter: NamespaceLimiter,
    /// Records the ends of reconciles, for the liveness probe.
    pub progress: Arc<Progress>,
    /// Limits the number of live grants, if an access rule sets a limit.
    pub quotas: Arc<Quotas>,
    /// Limits how many reconciles may wait for answers from one store at the same time.
    pub store_limiter: Arc<StoreLimiter>,
    /// Enqueues a grant again after a wait, for example when the grant receives quota or when a probe of its store
    /// ends.
    pub requeuer: Requeuer<G>,
    /// What this shard knows about the grants of other shards.
    pub foreign: Arc<ForeignGrants>,
    /// The default values from the command line.
    pub settings: Settings,
    /// The resync period. Valet reconciles each grant again after this time, because the watch may have missed a
    /// change.
    pub resync: Duration,
}

impl<G: Grant> Context<G> {
    /// Returns the newest version of a grant that this process knows. It is the version that this process wrote last,
    /// or the version in the watch cache. `read` was parsed from the watch cache earlier.
    pub(super) fn newest(&self, read: Arc<G>) -> Arc<G> {
        if let Some(written) = self.local_state.written(read.as_ref()) {
            return written;
        }
        // The watch may have delivered the written version after `read` was parsed. Valet then no longer keeps the
        // written version, but the watch cache contains it.
        let cached = self.requeuer.watched(read.as_ref());
        let changed = cached.filter(|cached| cached.resource_version() != read.resource_version());
        changed.and_then(|cached| cached.grant().ok()).map_or(read, Arc::new)
    }

    /// Returns true if the grant was deleted during its reconcile. In this case the method removes all facts about
    /// the grant from memory, and Valet does not reconcile the grant again.
    pub(super) fn forget_if_gone(&self, grant: &impl ResourceExt) -> bool {
        let is_gone = !self.requeuer.is_there(grant);
        if is_gone {
            let uid = grant.uid().unwrap_or_default();
            self.local_state.forget(&uid);
            self.quotas.gone(&uid);
        }
        is_gone
    }
}
