mod effects;
mod queued;
mod record;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Client, ResourceExt,
    core::DeserializeGuard,
    runtime::{controller::Action, events::Recorder},
};
use tracing::{debug, warn};

use self::{effects::ClusterEffects, queued::wait_in_line};
use super::{
    local_state::LocalState,
    namespace_limiter::NamespaceLimiter,
    quota::Quotas,
    secrets::{FIELD_MANAGER, Secrets},
    store_limiter::StoreLimiter,
    stores::Stores,
    watch::Requeuer,
};
use crate::{
    api::{Grant, GrantStatus},
    core::{Facts, QuotaFact, Settings, store_id},
    reconcile::{CALL_TIMEOUT, DEADLINE, Error, Outcome, Reconcile},
    telemetry::{Metrics, Progress, warn_once},
};

/// The maximum pause before a failed reconcile is repeated.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The pause before a grant is reconciled again if the apiserver says that it does not exist. The watch cache may
/// still have the grant.
const GONE: Duration = Duration::from_secs(10);

/// After this number of consecutive failures, a grant loses its reserved quota, so that other grants do not have to
/// wait.
const PATIENCE: u32 = 4;

/// The pause before a queued grant tries again by itself. Normally Valet enqueues the grant when another reconcile of
/// its namespace ends. This does not happen if the other grant was deleted in the meantime.
const IN_LINE: Duration = Duration::from_secs(5);

/// The pause before a grant tries again by itself while its store is being probed. Normally Valet enqueues the grant
/// when the probe has a result.
const PROBED: Duration = Duration::from_secs(15);

/// The state that all reconciles of one kind of grant share.
pub struct Context<G: Grant> {
    pub client: Client,
    /// The cached stores and their connections.
    pub stores: Arc<Stores>,
    /// All access to grant Secrets.
    pub secrets: Secrets,
    /// Facts about grants that this process knows in addition to its watch cache.
    pub memory: Arc<LocalState<G>>,
    /// Writes Kubernetes Events.
    pub recorder: Recorder,
    pub metrics: Arc<Metrics>,
    /// Distributes reconciles fairly among namespaces.
    pub turns: NamespaceLimiter,
    /// Records whether reconciles finish, for the liveness probe.
    pub progress: Arc<Progress>,
    /// Limits the number of live grants, if an access rule sets a limit.
    pub places: Arc<Quotas>,
    /// Limits how many reconciles may wait for one store at the same time.
    pub requests: Arc<StoreLimiter>,
    /// Enqueues grants that had to wait.
    pub caller: Requeuer<G>,
    /// The default values from the command line.
    pub settings: Settings,
    /// The resync period. A grant is reconciled again after this time, because the watch may have missed a change.
    pub sweep: Duration,
}

/// Reconciles one grant. Reads missing facts, executes one step after the other, and returns when to reconcile the
/// grant again.
///
/// # Errors
///
/// Returns an [`Error`] if a step fails. Steps that completed earlier are not undone, and the next reconcile
/// continues from the new state.
pub async fn reconcile<G: Grant>(grant: Arc<DeserializeGuard<G>>, context: Arc<Context<G>>) -> Result<Action, Error> {
    let watched = match &grant.0 {
        Ok(watched) => Arc::new(watched.clone()),
        Err(invalid) => {
            let error = &invalid.error;
            warn!(
                kind = G::OPERATION.kind(),
                namespace = invalid.metadata.namespace,
                name = invalid.metadata.name,
                "the grant cannot be parsed, so Valet ignores the grant: {error}"
            );
            context.progress.ended(std::time::Instant::now());
            return Ok(Action::await_change());
        }
    };
    let (namespace, name) = (watched.namespace().unwrap_or_default(), watched.name_any());
    let call = |namespace: &str, next: &str| context.caller.call(next, namespace);
    let kind = watched.terms().store_ref.kind;
    let Some(_turn) = context.turns.take(kind, &namespace, &name, call) else {
        return Ok(Action::requeue(IN_LINE));
    };
    let _under_way = context.progress.begin();
    let began = std::time::Instant::now();
    let grant = context.memory.newest(&watched);
    let uid = grant.uid().unwrap_or_default();
    let terms = grant.terms().clone();
    // No step for a store starts after the deadline. This timeout therefore cancels only a call to the apiserver that
    // takes too long. The next reconcile continues from the state in the cluster.
    let result = match tokio::time::timeout(DEADLINE + CALL_TIMEOUT, execute(&context, grant)).await {
        Ok(result) => result,
        Err(_) => Err(Error::Deadline),
    };
    let store = store_id(&terms.store_ref, &namespace);
    context.requests.visited(&store, (G::OPERATION, &namespace, &name));
    context.metrics.reconciled(G::OPERATION, began.elapsed().as_secs_f64());
    if result.is_ok() {
        context.memory.succeeded(&uid);
        // Only a successful reconcile updates the quota. A failed reconcile may have written a Secret anyway, so its
        // quota stays reserved until the next reconcile.
        let is_there = || context.caller.is_there(watched.as_ref());
        context
            .places
            .visited(context.memory.newest(&watched).as_ref(), &context.memory, is_there);
    }
    context.forget_if_gone(watched.as_ref());
    result
}

/// Executes the steps of one reconcile, and returns when to reconcile the grant again.
async fn execute<G: Grant>(context: &Context<G>, grant: Arc<G>) -> Result<Action, Error> {
    let mut effects = ClusterEffects::new(context, grant);
    let facts = effects.first_facts();
    // The clock is read only once, so that all decisions of the reconcile use the same time.
    let now = Timestamp::now();
    let mut reconcile = Reconcile::new(&mut effects, facts, now);
    let result = reconcile.run().await;
    let facts = reconcile.facts;
    match result {
        Ok(Outcome::Rest(until)) => Ok(rest(context, &facts, effects.grant.grant_status(), until)),
        Ok(Outcome::Deleted) => Ok(Action::await_change()),
        // Normally the grant was deleted, and the garbage collector deletes its Secret. However, an apiserver that has
        // just started may wrongly answer that an object does not exist. The grant is therefore reconciled again.
        Err(Error::Gone(_)) => Ok(Action::requeue(GONE)),
        Err(Error::InLine(rounds)) => Ok(wait_in_line(&facts.grant, rounds, now)),
        Err(Error::NotProbed) => Ok(Action::requeue(PROBED)),
        Err(e) => Err(e),
    }
}

impl<G: Grant> Context<G> {
    /// Returns true if the grant was deleted during its reconcile. In this case all memory of the grant is dropped,
    /// and no further reconcile is scheduled.
    fn forget_if_gone(&self, grant: &impl ResourceExt) -> bool {
        let is_gone = !self.caller.is_there(grant);
        if is_gone {
            let uid = grant.uid().unwrap_or_default();
            self.memory.forget(&uid);
            self.places.gone(&uid);
        }
        is_gone
    }
}

/// Returns when to reconcile a grant again after an error.
pub fn on_error<G: Grant>(grant: Arc<DeserializeGuard<G>>, error: &Error, context: Arc<Context<G>>) -> Action {
    let uid = grant.uid().unwrap_or_default();
    context.metrics.reconcile_failed(G::OPERATION);
    if context.forget_if_gone(grant.as_ref()) {
        return Action::await_change();
    }
    let failures = context.memory.failed(&uid);
    if failures >= PATIENCE {
        context.places.gone(&uid);
    }
    let pause = Duration::from_millis(500)
        .saturating_mul(1 << failures.min(10))
        .min(LONGEST_PAUSE);
    // A conflict is not logged as a warning, because it only means that another client changed the object first.
    if matches!(error, Error::Conflict(_) | Error::Gone(_)) {
        debug!(
            kind = G::OPERATION.kind(),
            namespace = grant.namespace(),
            name = grant.name_any(),
            "{error}; reconciling again"
        );
    } else {
        warn_once!(
            &error.cause(),
            kind = G::OPERATION.kind(),
            namespace = grant.namespace(),
            name = grant.name_any(),
            "{error}; trying again in {pause:?}"
        );
    }
    Action::requeue(pause)
}

/// Returns when to reconcile a grant that has nothing left to do now.
fn rest<G: Grant>(
    context: &Context<G>,
    facts: &Facts,
    status: Option<&GrantStatus>,
    until: Option<Timestamp>,
) -> Action {
    context.memory.accept_status(&facts.grant.uid, status);
    let again = match facts.place {
        QuotaFact::Full(_) => context.places.ask_again(&facts.grant),
        QuotaFact::Unasked | QuotaFact::Given => None,
    };
    let until = until.into_iter().chain(again).min();
    let until = until.map(|t| t.duration_since(Timestamp::now()));
    let pause = until.map(|d| Duration::try_from(d).unwrap_or(Duration::ZERO));
    Action::requeue(pause.map_or(context.sweep, |p| p.min(context.sweep)))
}
