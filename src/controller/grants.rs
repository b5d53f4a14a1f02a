mod context;
mod effects;
mod queued;
mod record;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{ResourceExt, runtime::controller::Action};
use tracing::{debug, warn};

pub use self::context::Context;
use self::{
    effects::ClusterEffects,
    queued::{LONGEST_PAUSE, pause_in_queue},
};
use crate::{
    api::{Grant, GrantStatus},
    controller::{cached_grant::CachedGrant, namespace_limiter::QUEUED_PAUSE},
    core::{Facts, QuotaFact, store_id},
    reconcile::{CALL_TIMEOUT, DEADLINE, Error, Outcome, Reconcile},
    telemetry::warn_once,
};

/// If the apiserver answers that a grant does not exist, the watch cache may still have the grant. Valet then
/// reconciles the grant again after this pause.
const GONE: Duration = Duration::from_secs(10);

/// If Valet has deleted a Secret and other grants wait for a reconcile, Valet writes the status after this pause.
const STATUS_PAUSE: Duration = Duration::from_secs(3);

/// If the reconcile of a grant fails this many times in a row, the grant loses its reserved quota. Grants that wait
/// for quota can then receive it.
const PATIENCE: u32 = 4;

/// A grant waits for the first probe of its store. Normally Valet enqueues the grant when the probe has a result. If
/// this does not happen, Valet reconciles the grant again after this pause.
const PROBED: Duration = Duration::from_secs(15);

/// Reconciles one grant. Valet reads missing facts and executes steps until nothing is left to do now. Then the
/// function starts the timer of the next reconcile.
///
/// The action of the result is always [`Action::await_change`], because the timers of Valet need less memory than the
/// scheduler of kube-runtime.
///
/// # Errors
///
/// Returns an [`Error`] if a step fails. Valet does not undo the earlier steps of this reconcile. The next reconcile
/// continues from their results.
pub async fn reconcile<G: Grant>(cached: Arc<CachedGrant<G>>, context: Arc<Context<G>>) -> Result<Action, Error> {
    let (namespace, name) = (cached.namespace().unwrap_or_default(), cached.name_any());
    let turn = cached
        .store_kind()
        .map(|kind| context.namespace_limiter.take(kind, &namespace, &name));
    if let Ok(None) = turn {
        context.local_state.start_timer(cached.as_ref(), QUEUED_PAUSE);
        return Ok(Action::await_change());
    }
    let watched = match cached.grant() {
        Ok(watched) => Arc::new(watched),
        Err(error) => {
            warn!(
                kind = G::OPERATION.kind(),
                namespace, name, "the grant cannot be parsed, so Valet ignores the grant: {error}"
            );
            context.progress.ended(std::time::Instant::now());
            return Ok(Action::await_change());
        }
    };
    let _under_way = context.progress.begin();
    let began = std::time::Instant::now();
    let grant = context.newest(watched.clone());
    let uid = grant.uid().unwrap_or_default();
    context.local_state.stop_timer(&uid);
    let terms = grant.terms().clone();
    // After the deadline, no step of the reconcile waits for a store. This timeout ends later than the deadline, so it
    // only cancels a call to the apiserver that takes too long. The next reconcile starts with the state of the
    // cluster.
    let result = match tokio::time::timeout(DEADLINE + CALL_TIMEOUT, execute(&context, grant)).await {
        Ok(result) => result,
        Err(_) => Err(Error::Deadline),
    };
    let store = store_id(&terms.store_ref, &namespace);
    context
        .store_limiter
        .reconciled(&store, (G::OPERATION, &namespace, &name));
    context.metrics.reconciled(G::OPERATION, began.elapsed().as_secs_f64());
    if result.is_ok() {
        context.local_state.succeeded(&uid);
        // Only a successful reconcile updates the quota. A reconcile can write a Secret and then fail. Valet
        // therefore keeps the quota of a failed reconcile reserved until the next reconcile.
        let is_there = || context.requeuer.is_there(watched.as_ref());
        context
            .quotas
            .reconciled(context.newest(watched.clone()).as_ref(), &context.local_state, is_there);
    }
    if let Ok(Some(pause)) = result {
        context.local_state.start_timer(watched.as_ref(), pause);
    }
    context.forget_if_gone(watched.as_ref());
    result.map(|_| Action::await_change())
}

/// Executes the steps of one reconcile, and returns the pause before the next reconcile. Returns `None` if the grant
/// needs no further reconcile.
async fn execute<G: Grant>(context: &Context<G>, grant: Arc<G>) -> Result<Option<Duration>, Error> {
    let mut effects = ClusterEffects::new(context, grant);
    let facts = effects.first_facts();
    // Valet reads the clock only once, so that all decisions of this reconcile use one time.
    let now = Timestamp::now();
    let mut reconcile = Reconcile::new(&mut effects, facts, now);
    let result = reconcile.run().await;
    let facts = reconcile.facts;
    match result {
        Ok(Outcome::Rest(until)) => Ok(Some(rest(context, &facts, effects.grant.grant_status(), until))),
        Ok(Outcome::StatusPostponed) => Ok(Some(STATUS_PAUSE)),
        Ok(Outcome::Deleted) => Ok(None),
        // Normally the grant was deleted, and the garbage collector deletes its Secret. However, shortly after its
        // start, an apiserver may wrongly answer that an object does not exist. Valet therefore reconciles the grant
        // again.
        Err(Error::Gone(_)) => Ok(Some(GONE)),
        Err(Error::Queued(rounds)) => Ok(Some(pause_in_queue(&facts.grant, rounds, now))),
        Err(Error::NotProbed) => Ok(Some(PROBED)),
        Err(e) => Err(e),
    }
}

/// Starts the timer of a grant's next reconcile after an error. The result is always [`Action::await_change`].
pub fn on_error<G: Grant>(grant: Arc<CachedGrant<G>>, error: &Error, context: Arc<Context<G>>) -> Action {
    let uid = grant.uid().unwrap_or_default();
    context.metrics.reconcile_failed(G::OPERATION);
    if context.forget_if_gone(grant.as_ref()) {
        return Action::await_change();
    }
    let failures = context.local_state.failed(&uid);
    if failures >= PATIENCE {
        context.quotas.gone(&uid);
    }
    let pause = Duration::from_millis(500)
        .saturating_mul(1 << failures.min(10))
        .min(LONGEST_PAUSE);
    // A conflict is not logged as a warning, because it only means that a second client changed the object first.
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
    context.local_state.start_timer(grant.as_ref(), pause);
    Action::await_change()
}

/// Returns the pause before the next reconcile of a grant for which Valet has nothing left to do now.
fn rest<G: Grant>(
    context: &Context<G>,
    facts: &Facts,
    status: Option<&GrantStatus>,
    until: Option<Timestamp>,
) -> Duration {
    context.local_state.accept_status(&facts.grant.uid, status);
    context.local_state.wrote_status_after_deletion(&facts.grant.uid);
    let again = match facts.quota {
        QuotaFact::Full(_) => context.quotas.retry_at(&facts.grant),
        QuotaFact::Unasked | QuotaFact::Given => None,
    };
    let until = until.into_iter().chain(again).min();
    let until = until.map(|t| t.duration_since(Timestamp::now()));
    let pause = until.map(|d| Duration::try_from(d).unwrap_or(Duration::ZERO));
    pause.map_or(context.resync, |p| p.min(context.resync))
}
