mod events;
mod freshness;
mod multipart;
mod queued;
mod secret;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Preconditions},
    core::DeserializeGuard,
    runtime::{controller::Action, events::Recorder},
};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    error::{CALL_TIMEOUT, DEADLINE, Error, call},
    local_state::LocalState,
    namespace_limiter::NamespaceLimiter,
    quota::Quotas,
    secrets::{FIELD_MANAGER, Secrets},
    store_limiter::{StoreLimiter, StorePermit},
    stores::Stores,
    watch::Requeuer,
};
use crate::{
    api::Grant,
    core::{Access, Facts, ObjectFact, QuotaFact, Read, Settings, Step, StoreFact, UploadFact, decide, store_id},
    provider::Provider,
    telemetry::{Metrics, Progress, warn_once},
};

/// The maximum number of steps in one reconcile. If one reconcile handles a grant from its creation to its end, it
/// needs nine steps.
const MAX_STEPS: usize = 16;

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
    let visit = Reconciliation::new(&context, grant).run();
    let result = match tokio::time::timeout(DEADLINE + CALL_TIMEOUT, visit).await {
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

/// Returns true if a step waits for a store rather than for the apiserver.
fn waits_for_store(step: &Step) -> bool {
    match step {
        Step::Read(read) => matches!(
            read,
            Read::Store | Read::Object(_) | Read::Upload(..) | Read::Uploads(_) | Read::Quota(_)
        ),
        Step::Publish(_) | Step::Complete(..) | Step::Abort(_) | Step::AbortOrphans(_) => true,
        Step::UpdateMetadata { .. }
        | Step::Empty { .. }
        | Step::DeleteSecret { .. }
        | Step::Report { .. }
        | Step::AddFinalizer
        | Step::RemoveFinalizer { .. }
        | Step::DeleteGrant
        | Step::Rest { .. } => false,
    }
}

struct Reconciliation<'a, G: Grant> {
    context: &'a Context<G>,
    grant: Arc<G>,
    facts: Facts,
    provider: Option<Arc<dyn Provider>>,
    /// The permit to send requests to the store, if this reconcile has one.
    permit: Option<StorePermit>,
    /// The arrival time of the notification to which this reconcile responds, if there is one.
    heard: Option<Instant>,
    /// After this time, no step starts that waits for a store.
    deadline: Instant,
    /// The start time of the reconcile. The clock is read only once, so that all decisions of the reconcile use the
    /// same time.
    now: Timestamp,
}

impl<'a, G: Grant> Reconciliation<'a, G> {
    fn new(context: &'a Context<G>, grant: Arc<G>) -> Self {
        let mut facts = Facts::new(context.memory.facts(grant.as_ref()), context.settings.clone());
        facts.repairs = context.memory.repairs(&facts.grant.uid);
        facts.last_poll = context.memory.last_poll(&facts.grant.uid);
        let heard = context.memory.heard(&facts.grant.uid);
        facts.poll_requested = heard.is_some();
        Self {
            context,
            grant,
            facts,
            provider: None,
            permit: None,
            heard,
            deadline: Instant::now() + DEADLINE,
            now: Timestamp::now(),
        }
    }

    async fn run(mut self) -> Result<Action, Error> {
        for _ in 0..MAX_STEPS {
            self.facts.own_upload = self.context.memory.own_upload(&self.facts.grant.uid);
            match decide(&self.facts, self.now) {
                Step::Rest { until } => return Ok(self.rest(until)),
                Step::DeleteGrant => return self.collect().await,
                step if self.is_late() && waits_for_store(&step) => return Err(Error::Deadline),
                step => match self.take(step).await {
                    // Normally the grant was deleted, and the garbage collector deletes its Secret. However, an
                    // apiserver that has just started may wrongly answer that an object does not exist. The grant is
                    // therefore reconciled again.
                    Err(Error::Gone(_)) => return Ok(Action::requeue(GONE)),
                    Err(Error::InLine(rounds)) => return Ok(self.wait_in_line(rounds)),
                    Err(Error::NotProbed) => return Ok(Action::requeue(PROBED)),
                    done => done?,
                },
            }
        }
        Err(Error::Restless(MAX_STEPS))
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Waits for a request to the store until the deadline. Returns a message if the deadline passes first.
    async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, String> {
        tokio::time::timeout_at(self.deadline, work).await.map_err(|_| {
            format!(
                "the store did not answer within {seconds} s, the time limit of one reconcile",
                seconds = DEADLINE.as_secs()
            )
        })
    }

    fn rest(&self, until: Option<Timestamp>) -> Action {
        let (uid, status) = (&self.facts.grant.uid, self.grant.grant_status());
        self.context.memory.accept_status(uid, status);
        let again = match self.facts.place {
            QuotaFact::Full(_) => self.context.places.ask_again(&self.facts.grant),
            QuotaFact::Unasked | QuotaFact::Given => None,
        };
        let until = until.into_iter().chain(again).min();
        let until = until.map(|t| t.duration_since(Timestamp::now()));
        let pause = until.map(|d| Duration::try_from(d).unwrap_or(Duration::ZERO));
        Action::requeue(pause.map_or(self.context.sweep, |p| p.min(self.context.sweep)))
    }

    async fn take(&mut self, step: Step) -> Result<(), Error> {
        if !matches!(
            step,
            Step::Read(_) | Step::Publish(_) | Step::Complete(..) | Step::Abort(_) | Step::AbortOrphans(_)
        ) {
            self.permit = None;
        }
        match step {
            Step::Read(Read::Store) => self.read_store().await,
            Step::Read(Read::Secret) => self.read_secret().await,
            Step::Read(Read::Object(access)) => self.head(&access).await,
            Step::Read(Read::Upload(access, upload)) => self.read_upload(&access, &upload).await,
            Step::Read(Read::Uploads(access)) => self.read_uploads(&access).await,
            Step::Read(Read::Quota(most)) => {
                self.permit = None;
                let places = &self.context.places;
                let rules = match &self.facts.store {
                    StoreFact::Usable(store) => Some(store.rules.clone()),
                    _ => None,
                };
                self.facts.place = places.ask(&self.facts.grant, G::OPERATION, most, rules).await;
                Ok(())
            }
            Step::Publish(publish) => self.publish(*publish).await,
            Step::AddFinalizer => self.hold().await,
            Step::Complete(access, assembly) => self.complete(&access, assembly).await,
            Step::Abort(upload) => self.abort(&upload).await,
            Step::AbortOrphans(uploads) => self.abort_orphans(&uploads).await,
            Step::RemoveFinalizer { notice } => self.release(notice).await,
            Step::UpdateMetadata {
                uid,
                resource_version,
                labels,
                annotations,
                is_repair,
            } => {
                self.retouch(&uid, &resource_version, labels, annotations).await?;
                self.repaired(is_repair);
                Ok(())
            }
            Step::Empty { uid, resource_version } => self.empty(&uid, &resource_version).await,
            Step::DeleteSecret { uid, resource_version } => self.withdraw(&uid, &resource_version).await,
            Step::Report { status, notice } => self.report(*status, notice).await,
            Step::DeleteGrant | Step::Rest { .. } => unreachable!("the caller handles these steps"),
        }
    }

    async fn read_store(&mut self) -> Result<(), Error> {
        self.may_ask_store()?;
        let grant = &self.facts.grant;
        let found = self.context.stores.fact(grant, self.wanted_until());
        let found = self.within(found).await.map_err(|_| Error::Deadline)??;
        self.facts.store = found.fact;
        self.facts.rules = found.rules;
        self.provider = found.provider;
        self.remember_store();
        Ok(())
    }

    /// Returns the requested expiry of a credential that is signed now.
    fn wanted_until(&self) -> Timestamp {
        let seconds = SignedDuration::from_secs(self.facts.grant.terms.expiration_seconds);
        self.now.checked_add(seconds).unwrap_or(Timestamp::MAX)
    }

    async fn head(&mut self, access: &Access) -> Result<(), Error> {
        let Some(provider) = &self.provider else {
            self.facts.object = ObjectFact::Unreachable("the store cannot be used".into());
            return Ok(());
        };
        let provider = provider.clone();
        self.may_ask_store()?;
        let grant = &self.facts.grant;
        let found = self.within(provider.head(access)).await;
        let found = found.unwrap_or_else(ObjectFact::Unreachable);
        let outcome = match found {
            ObjectFact::Present { .. } => "present",
            ObjectFact::Absent => "absent",
            ObjectFact::Hidden => "forbidden",
            ObjectFact::ClockSkewed(_) | ObjectFact::Unreachable(_) | ObjectFact::Unread => "error",
        };
        let (kind, namespace, name) = store_id(&grant.terms.store_ref, &grant.namespace);
        self.context.metrics.looked((kind, &namespace, &name), outcome);
        self.facts.object = found;
        if let StoreFact::Usable(store) = &mut self.facts.store {
            // The response to the HEAD request also gives the current difference between the clocks.
            store.skew = provider.skew();
        }
        if matches!(self.facts.upload, UploadFact::Open(_)) {
            self.facts.upload = UploadFact::Unread;
        }
        self.facts.last_poll = Some(self.now);
        self.facts.poll_requested = false;
        self.context.memory.looked(&grant.uid, self.now, self.heard);
        Ok(())
    }

    async fn collect(&self) -> Result<Action, Error> {
        let grant = &self.facts.grant;
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(grant.uid.clone()),
            resource_version: None,
        });
        match call("deleting a finished grant", self.api().delete(&grant.name, &params)).await {
            Ok(_) => {
                info!(
                    kind = G::OPERATION.kind(),
                    namespace = grant.namespace,
                    name = grant.name,
                    "finished grant deleted"
                );
                Ok(Action::await_change())
            }
            Err(Error::Gone(_) | Error::Conflict(_)) => Ok(Action::requeue(GONE)),
            Err(e) => Err(e),
        }
    }

    fn api(&self) -> Api<G> {
        Api::namespaced(self.context.client.clone(), &self.facts.grant.namespace)
    }
}
