mod line;
mod multipart;
mod overtaken;
mod secret;
mod tell;

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
    memory::Memory,
    places::Places,
    requests::{Permit, Requests},
    secrets::{FIELD_MANAGER, Secrets},
    stores::Stores,
    turns::Turns,
    watch::Caller,
};
use crate::{
    api::Grant,
    core::{Access, Facts, ObjectFact, PlaceFact, Read, Settings, Step, StoreFact, UploadFact, decide, store_id},
    provider::Provider,
    telemetry::{Metrics, Progress, warn_once},
};

/// The most steps that one visit may take. A whole life, seen at once, takes nine.
const MAX_STEPS: usize = 16;

/// The longest pause before an attempt that failed is made again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A grant that is said to be gone, and is still watched, is visited again after this long.
const GONE: Duration = Duration::from_secs(10);

/// So many failures in a row make others not wait any longer for the place that is kept for a grant.
const PATIENCE: u32 = 4;

/// A grant whose namespace has too many visits under way is called when one of them ends. It asks again by itself after
/// this long, since the one that is called may have gone, and then nobody calls the next.
const IN_LINE: Duration = Duration::from_secs(5);

/// A grant whose store is being probed is called when the result is there. It asks again by itself after this long.
const PROBED: Duration = Duration::from_secs(15);

/// Everything that visits share.
pub struct Context<G: Grant> {
    /// The apiserver.
    pub client: Client,
    /// Stores, kept fresh.
    pub stores: Arc<Stores>,
    /// The one way to Secrets.
    pub secrets: Secrets,
    /// What this process knows beyond its watch.
    pub memory: Arc<Memory<G>>,
    /// Events for people.
    pub recorder: Recorder,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Whose turn it is when many wait.
    pub turns: Turns,
    /// Whether reconciles come to their end.
    pub progress: Arc<Progress>,
    /// Places for grants with a key, where their number is limited.
    pub places: Arc<Places>,
    /// How many visits wait for one store.
    pub requests: Arc<Requests>,
    /// Calls for those that had to wait.
    pub caller: Caller<G>,
    /// Defaults from the command line.
    pub settings: Settings,
    /// A grant is looked at again after this long even if nothing seems to have happened, in case a watch missed it.
    pub sweep: Duration,
}

/// Visits one grant: reads what is missing, takes step after step, and says when to come again.
///
/// # Errors
/// [`Error`]; what was done before it is done, and the next visit goes on from there.
pub async fn reconcile<G: Grant>(grant: Arc<DeserializeGuard<G>>, context: Arc<Context<G>>) -> Result<Action, Error> {
    let watched = match &grant.0 {
        Ok(watched) => Arc::new(watched.clone()),
        Err(invalid) => {
            warn!(
                kind = G::OPERATION.kind(),
                namespace = invalid.metadata.namespace,
                name = invalid.metadata.name,
                "the grant cannot be read and is left alone: {}",
                invalid.error
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
    // No step begins after the deadline, so what is cut off here is a call to the apiserver without an end. Whatever is cut off,
    // the next visit goes on from what is there.
    let visit = Visit::new(&context, grant).run();
    let result = match tokio::time::timeout(DEADLINE + CALL_TIMEOUT, visit).await {
        Ok(result) => result,
        Err(_) => Err(Error::Deadline),
    };
    let store = store_id(&terms.store_ref, &namespace);
    context.requests.visited(&store, (G::OPERATION, &namespace, &name));
    context.metrics.reconciled(G::OPERATION, began.elapsed().as_secs_f64());
    if result.is_ok() {
        context.memory.succeeded(&uid);
        // A visit that failed may have published all the same; its place is kept until the next one knows.
        let is_there = || context.caller.is_there(watched.as_ref());
        context
            .places
            .visited(context.memory.newest(&watched).as_ref(), &context.memory, is_there);
    }
    context.forget_if_gone(watched.as_ref());
    result
}

impl<G: Grant> Context<G> {
    /// Whether a grant has gone while it was visited: then nothing of it is kept, and nobody comes again.
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

/// When to try again after an error.
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
    // Somebody was faster than we: that is how it should be, and no news.
    if matches!(error, Error::Conflict(_) | Error::Gone(_)) {
        debug!(
            kind = G::OPERATION.kind(),
            namespace = grant.namespace(),
            name = grant.name_any(),
            "{error}; looking again"
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

/// Whether a step waits for somebody else than the apiserver.
fn waits_for_store(step: &Step) -> bool {
    match step {
        Step::Read(read) => matches!(
            read,
            Read::Store | Read::Object(_) | Read::Upload(..) | Read::Uploads(_) | Read::Place(_)
        ),
        Step::Publish(_) | Step::Complete(..) | Step::Abort(_) | Step::AbortOrphans(_) => true,
        Step::Retouch { .. }
        | Step::Empty { .. }
        | Step::Withdraw { .. }
        | Step::Report { .. }
        | Step::Hold
        | Step::Release { .. }
        | Step::Collect
        | Step::Rest { .. } => false,
    }
}

struct Visit<'a, G: Grant> {
    context: &'a Context<G>,
    grant: Arc<G>,
    facts: Facts,
    provider: Option<Arc<dyn Provider>>,
    /// The right to make requests to the store, while it is used.
    permit: Option<Permit>,
    /// When the notification came that this visit answers.
    heard: Option<Instant>,
    /// When nothing is begun any more that waits for a store.
    deadline: Instant,
    /// The clock is read once a visit, so that all of its decisions speak of one moment.
    now: Timestamp,
}

impl<'a, G: Grant> Visit<'a, G> {
    fn new(context: &'a Context<G>, grant: Arc<G>) -> Self {
        let mut facts = Facts::new(context.memory.facts(grant.as_ref()), context.settings.clone());
        facts.repairs = context.memory.repairs(&facts.grant.uid);
        facts.last_look = context.memory.last_look(&facts.grant.uid);
        let heard = context.memory.heard(&facts.grant.uid);
        facts.look_requested = heard.is_some();
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
                Step::Collect => return self.collect().await,
                step if self.is_late() && waits_for_store(&step) => return Err(Error::Deadline),
                step => match self.take(step).await {
                    // The grant itself is gone, and the garbage collector has the Secret. But an apiserver that has just
                    // started may say so of what there is.
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

    /// Waits for a store, until the deadline at most; or says that it took too long.
    async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, String> {
        tokio::time::timeout_at(self.deadline, work).await.map_err(|_| {
            format!(
                "no answer within the {} s that a reconcile may take",
                DEADLINE.as_secs()
            )
        })
    }

    fn rest(&self, until: Option<Timestamp>) -> Action {
        let (uid, status) = (&self.facts.grant.uid, self.grant.grant_status());
        self.context.memory.accept_status(uid, status);
        let again = match self.facts.place {
            PlaceFact::Full(_) => self.context.places.ask_again(&self.facts.grant),
            PlaceFact::Unasked | PlaceFact::Given => None,
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
            Step::Read(Read::Object(access)) => self.look(&access).await,
            Step::Read(Read::Upload(access, upload)) => self.read_upload(&access, &upload).await,
            Step::Read(Read::Uploads(access)) => self.read_uploads(&access).await,
            Step::Read(Read::Place(most)) => {
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
            Step::Hold => self.hold().await,
            Step::Complete(access, assembly) => self.complete(&access, assembly).await,
            Step::Abort(upload) => self.abort(&upload).await,
            Step::AbortOrphans(uploads) => self.abort_orphans(&uploads).await,
            Step::Release { notice } => self.release(notice).await,
            Step::Retouch {
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
            Step::Withdraw { uid, resource_version } => self.withdraw(&uid, &resource_version).await,
            Step::Report { status, notice } => self.report(*status, notice).await,
            Step::Collect | Step::Rest { .. } => unreachable!("the loop ends with these"),
        }
    }

    // --- the store --------------------------------------------------------------------------------------------

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

    /// Until when a key that is signed now is meant to live.
    fn wanted_until(&self) -> Timestamp {
        let seconds = SignedDuration::from_secs(self.facts.grant.terms.expiration_seconds);
        self.now.checked_add(seconds).unwrap_or(Timestamp::MAX)
    }

    async fn look(&mut self, access: &Access) -> Result<(), Error> {
        let Some(provider) = &self.provider else {
            self.facts.object = ObjectFact::Unreachable("the store is not usable".into());
            return Ok(());
        };
        let provider = provider.clone();
        self.may_ask_store()?;
        let grant = &self.facts.grant;
        let found = self.within(provider.look(access)).await;
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
            // By the very answer that tells of the object.
            store.skew = provider.skew();
        }
        if matches!(self.facts.upload, UploadFact::Open(_)) {
            self.facts.upload = UploadFact::Unread;
        }
        self.facts.last_look = Some(self.now);
        self.facts.look_requested = false;
        self.context.memory.looked(&grant.uid, self.now, self.heard);
        Ok(())
    }

    // --- the grant itself -------------------------------------------------------------------------------------

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
