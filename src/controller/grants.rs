mod line;
mod multipart;
mod overtaken;
mod tell;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

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
    error::{Error, call},
    memory::Memory,
    places::Places,
    requests::{Permit, Requests},
    secrets::{FIELD_MANAGER, Secrets},
    stores::{Stores, store_id},
    turns::Turns,
    watch::Caller,
};
use crate::{
    api::{Grant, Reason},
    grant::{
        Facts, GrantFacts, ObjectFact, ObjectKey, Publish, PublishMode, Read, SecretFact, SecretView, Settings, Step,
        UploadFact, decide,
    },
    sign::{Provider, SECRET_CAPACITY, SignError, secret_bytes, secret_object},
    telemetry::Metrics,
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
            return Ok(Action::await_change());
        }
    };
    let (namespace, name) = (watched.namespace().unwrap_or_default(), watched.name_any());
    let call = |next: &str| context.caller.call(next, &namespace);
    let Some(_turn) = context.turns.take(&namespace, &name, call) else {
        return Ok(Action::requeue(IN_LINE));
    };
    let began = std::time::Instant::now();
    let grant = context.memory.newest(&watched);
    let uid = grant.uid().unwrap_or_default();
    let terms = grant.terms().clone();
    let result = Visit::new(&context, grant).run().await;
    let store = store_id(&terms.store_ref, &namespace);
    context.requests.visited(&store, (G::OPERATION, &namespace, &name));
    context.metrics.reconciled(G::OPERATION, began.elapsed().as_secs_f64());
    if result.is_ok() {
        context.memory.succeeded(&uid);
        // A visit that failed may have published all the same; its place is kept until the next one knows.
        let is_there = || context.caller.is_there(watched.as_ref());
        context
            .places
            .visited(context.memory.newest(&watched).as_ref(), is_there);
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
        warn!(
            kind = G::OPERATION.kind(),
            namespace = grant.namespace(),
            name = grant.name_any(),
            "{error}; trying again in {pause:?}"
        );
    }
    Action::requeue(pause)
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
    /// The clock is read once a visit, so that all of its decisions speak of one moment.
    now: Timestamp,
}

impl<'a, G: Grant> Visit<'a, G> {
    fn new(context: &'a Context<G>, grant: Arc<G>) -> Self {
        let mut facts = Facts::new(GrantFacts::of(grant.as_ref()), context.settings);
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
            now: Timestamp::now(),
        }
    }

    async fn run(mut self) -> Result<Action, Error> {
        for _ in 0..MAX_STEPS {
            match decide(&self.facts, self.now) {
                Step::Rest { until } => return Ok(self.rest(until)),
                Step::Collect => return self.collect().await,
                step => match self.take(step).await {
                    // The grant itself is gone, and the garbage collector has the Secret. But an apiserver that has just
                    // started may say so of what there is.
                    Err(Error::Gone(_)) => return Ok(Action::requeue(GONE)),
                    Err(Error::InLine(rounds)) => return Ok(self.wait_in_line(rounds)),
                    done => done?,
                },
            }
        }
        Err(Error::Restless(MAX_STEPS))
    }

    fn rest(&self, until: Option<Timestamp>) -> Action {
        let until = until.map(|t| t.duration_since(Timestamp::now()));
        let pause = until.map(|d| Duration::try_from(d).unwrap_or(Duration::ZERO));
        Action::requeue(pause.map_or(self.context.sweep, |p| p.min(self.context.sweep)))
    }

    async fn take(&mut self, step: Step) -> Result<(), Error> {
        if !matches!(
            step,
            Step::Read(_) | Step::Publish(_) | Step::Complete(_) | Step::Abort { .. }
        ) {
            self.permit = None;
        }
        match step {
            Step::Read(Read::Store) => self.read_store().await,
            Step::Read(Read::Secret) => self.read_secret().await,
            Step::Read(Read::Object) => self.look().await,
            Step::Read(Read::Upload(upload)) => self.read_upload(&upload).await,
            Step::Read(Read::Uploads) => self.read_uploads().await,
            Step::Read(Read::Place(most)) => {
                self.permit = None;
                let places = &self.context.places;
                self.facts.place = places.ask(&self.facts.grant, G::OPERATION, most).await;
                Ok(())
            }
            Step::Publish(publish) => self.publish(*publish).await,
            Step::Hold => self.hold().await,
            Step::Complete(assembly) => self.complete(assembly).await,
            Step::Abort { uploads } => self.abort(uploads).await,
            Step::Release { notice } => self.release(notice).await,
            Step::Retouch {
                uid,
                resource_version,
                labels,
                annotations,
            } => self.retouch(&uid, &resource_version, labels, annotations).await,
            Step::Withdraw { uid, resource_version } => self.withdraw(&uid, &resource_version).await,
            Step::Report { status, notice } => self.report(*status, notice).await,
            Step::Collect | Step::Rest { .. } => unreachable!("the loop ends with these"),
        }
    }

    // --- reads -------------------------------------------------------------------------------------------------

    async fn read_store(&mut self) -> Result<(), Error> {
        self.may_ask_store()?;
        let grant = &self.facts.grant;
        let found = self
            .context
            .stores
            .fact(&grant.terms.store_ref, &grant.namespace, self.wanted_until())
            .await?;
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

    async fn read_secret(&mut self) -> Result<(), Error> {
        let found = match self.context.secrets.view(&self.facts.grant).await {
            // An account that may neither write nor read Secrets here: there is none that it has made, and the refused
            // write is what a person must hear of.
            Err(Error::Refused(_)) if self.facts.secret_refused.is_some() => None,
            found => found?,
        };
        self.facts.secret = found.map_or(SecretFact::Absent, SecretFact::Present);
        // That a key is out and its Secret gone may mean that another operator has withdrawn it, since the upload has come or
        // the grant was revoked, and our watch is late. Its status, or the spec, was written before: one read tells, and
        // the key of a grant that is over is not put there again.
        if matches!(self.facts.secret, SecretFact::Absent) && self.facts.grant.status.binding.is_some() {
            self.read_grant().await?;
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<(), Error> {
        let grant = &self.facts.grant;
        let key = ObjectKey::parse(&grant.terms.key, usize::MAX);
        let (Some(provider), Ok(key)) = (&self.provider, key) else {
            self.facts.object = ObjectFact::Unreachable("the store is not usable".into());
            return Ok(());
        };
        let provider = provider.clone();
        self.may_ask_store()?;
        let grant = &self.facts.grant;
        let found = provider.look(&key).await;
        let outcome = match found {
            ObjectFact::Present { .. } => "present",
            ObjectFact::Absent => "absent",
            ObjectFact::Hidden => "forbidden",
            ObjectFact::Unreachable(_) | ObjectFact::Unread => "error",
        };
        let (kind, namespace, name) = store_id(&grant.terms.store_ref, &grant.namespace);
        self.context.metrics.looked((kind, &namespace, &name), outcome);
        self.facts.object = found;
        if matches!(self.facts.upload, UploadFact::Open(_)) {
            self.facts.upload = UploadFact::Unread;
        }
        self.facts.last_look = Some(self.now);
        self.facts.look_requested = false;
        self.context.memory.looked(&grant.uid, self.now, self.heard);
        Ok(())
    }

    // --- writes ------------------------------------------------------------------------------------------------

    async fn publish(&mut self, mut publish: Publish) -> Result<(), Error> {
        let Some(provider) = self.provider.clone() else {
            return Err(Error::Api {
                call: "signing",
                why: "the store is not usable any more".into(),
            });
        };
        if provider.signs_remotely() || (publish.request.ask.parts().is_some() && publish.request.upload.is_none()) {
            self.may_ask_store()?;
        }
        let signed = match self.begin(provider.as_ref(), &mut publish).await {
            Ok(()) => provider.sign(&publish.request).await,
            Err(e) => Err(e),
        };
        let signed = match signed {
            Ok(signed) => signed,
            Err(SignError::Credentials { reason, message }) => {
                self.facts.sign_refused = Some((reason, message));
                return Ok(());
            }
            Err(SignError::Impossible(message)) => {
                self.facts.sign_refused = Some((Reason::CapabilityMissing, message));
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        self.permit = None;
        if self.is_overtaken(&provider).await? {
            return Ok(());
        }
        let grant = &self.facts.grant;
        let secret = secret_object(grant, &publish, &signed);
        let bytes = secret_bytes(&secret);
        if bytes > SECRET_CAPACITY {
            let message = format!(
                "the key has {bytes} bytes with all its URLs, and a Secret holds {SECRET_CAPACITY}; make the parts larger (spec.multipart.partSizeBytes)"
            );
            self.facts.sign_refused = Some((Reason::CapabilityMissing, message));
            return Ok(());
        }
        let result = self.context.secrets.publish(grant, &publish.mode, secret).await;
        let view = match result {
            Ok(view) => view,
            Err(Error::Refused(why)) => {
                self.facts.secret_refused = Some(why);
                return Ok(());
            }
            // Another one by that name, or it changed, or went: what is there decides.
            Err(Error::Conflict(_) | Error::Gone(_)) => {
                let read = self.read_secret_or_stop(&publish.mode).await;
                self.drop_loser().await;
                return read;
            }
            Err(e) => return Err(e),
        };
        let lifetime = publish.request.lifetime;
        info!(
            kind = G::OPERATION.kind(), namespace = grant.namespace, name = grant.name,
            secret = grant.secret_name(), expires = %lifetime.expires_at, "key issued"
        );
        let age = grant
            .created
            .map(|c| Timestamp::now().duration_since(c).as_secs_f64().max(0.0));
        let first = grant.status.issued_time.is_none() && publish.mode == PublishMode::Create;
        self.context.metrics.key_issued(G::OPERATION, age.filter(|_| first));
        self.has_secret(view);
        self.drop_loser().await;
        Ok(())
    }

    /// After a create or replace was turned down. A namespace that is not there answers a create with 404, too.
    async fn read_secret_or_stop(&mut self, mode: &PublishMode) -> Result<(), Error> {
        self.read_secret().await?;
        match (&self.facts.secret, mode) {
            (SecretFact::Absent, PublishMode::Create) => Err(Error::Conflict("the grant's Secret")),
            _ => Ok(()),
        }
    }

    fn has_secret(&mut self, view: SecretView) {
        self.context
            .memory
            .wrote_secret(&self.facts.grant.uid, &view.resource_version);
        self.facts.secret = SecretFact::Present(view);
    }

    async fn retouch(
        &mut self,
        uid: &str,
        resource_version: &str,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let grant = &self.facts.grant;
        match self
            .context
            .secrets
            .retouch(grant, uid, resource_version, labels, annotations)
            .await
        {
            Ok(view) => {
                self.has_secret(view);
                Ok(())
            }
            Err(Error::Conflict(_) | Error::Gone(_)) => self.read_secret().await,
            Err(e) => Err(e),
        }
    }

    async fn withdraw(&mut self, uid: &str, resource_version: &str) -> Result<(), Error> {
        let grant = &self.facts.grant;
        match self.context.secrets.withdraw(grant, uid, resource_version).await {
            Ok(()) => {
                info!(
                    kind = G::OPERATION.kind(),
                    namespace = grant.namespace,
                    name = grant.name,
                    secret = grant.secret_name(),
                    "key withdrawn"
                );
                self.facts.secret = SecretFact::Absent;
                Ok(())
            }
            Err(Error::Conflict(_)) => self.read_secret().await,
            Err(e) => Err(e),
        }
    }

    /// The grant was changed under us: take it as it is now and judge again, unless it is another one.
    async fn read_grant(&mut self) -> Result<(), Error> {
        let now = call("reading the grant", self.api().get(&self.facts.grant.name)).await?;
        if now.uid().as_deref() != Some(self.facts.grant.uid.as_str()) {
            return Err(Error::Gone("the grant"));
        }
        self.grant = Arc::new(now);
        self.context.memory.wrote(&self.grant);
        self.facts.grant = GrantFacts::of(self.grant.as_ref());
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
