use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    core::DeserializeGuard,
    runtime::{controller::Action, events::Recorder},
};
use serde_json::json;
use tracing::{debug, warn};

use super::{
    error::{DEADLINE, Error, call},
    secrets::FIELD_MANAGER,
    stores::{Condition, Stores},
    trial::Tried,
    turns::Turns,
    verdicts, voices,
    watch::STORE_SWEEP,
};
use crate::{
    api::{CanaryStatus, Capabilities, Capability, Reason, Store, StoreStatus, set_condition, set_ready},
    core::{Concern, StoreId, second, skewed},
    provider::Finding,
    telemetry::warn_once,
};

/// Calls for a visit to a store, by namespace and name.
type Call = Box<dyn Fn(&str, &str) + Send + Sync>;

/// What visits to stores share.
pub struct Context<S> {
    /// The apiserver.
    pub client: Client,
    /// Stores, kept fresh.
    pub stores: Arc<Stores>,
    /// The namespace whose grants are served, if it is one only.
    pub scope: Option<String>,
    /// The `Api` of one namespace, or of the cluster.
    pub api: fn(Client, &str) -> Api<S>,
    /// Calls for a visit to every grant of the store.
    pub judge_anew: Box<dyn Fn(&StoreId) + Send + Sync>,
    /// Events for people.
    pub recorder: Recorder,
    /// Whose turn it is when many wait.
    pub turns: Turns,
    /// Calls for a visit to one that had to wait, by namespace and name.
    pub call: Call,
}

/// Stores of one kind that are reconciled at one time, before they are shared out between namespaces: credentials and names of
/// hosts can take some seconds, and whoever may make one store may make many.
pub const AT_A_TIME: u16 = 16;

/// One that had to wait for its turn and was not called asks again after this long.
const IN_LINE: Duration = Duration::from_secs(5);

/// Whether the store refuses headers that are not signed.
pub const HEADERS: &str = "UnsignedHeadersRefused";
/// Whether the store holds keys to what they promise, if somebody asked for it to be tried.
pub const KEYS: &str = "KeysEnforced";
/// Whether the store's clock and the operator's agree.
pub const CLOCK: &str = "ClockInSync";

/// Whether it is known when the credentials end. Only while it is not.
pub const EXPIRATION: &str = "CredentialsExpirationKnown";

/// Says in a store's status whether it can be used, and comes again after a while: credentials come and go without
/// an event.
///
/// # Errors
/// [`Error`], if the apiserver cannot be asked.
pub async fn reconcile<S: Store>(store: Arc<DeserializeGuard<S>>, context: Arc<Context<S>>) -> Result<Action, Error> {
    let store = match &store.0 {
        Ok(store) => store,
        Err(invalid) => {
            warn!(
                kind = S::KIND.as_str(),
                namespace = invalid.metadata.namespace,
                name = invalid.metadata.name,
                "the store cannot be read and is left alone: {}",
                invalid.error
            );
            return Ok(Action::await_change());
        }
    };
    let (namespace, name) = (store.namespace().unwrap_or_default(), store.name_any());
    // Stores of the cluster are the platform's own, in no namespace: each is its own share.
    let is_shared = namespace.is_empty();
    let share = if is_shared { &name } else { &namespace };
    let call = |share: &str, next: &str| {
        (context.call)(if is_shared { "" } else { share }, next);
        true
    };
    let Some(_turn) = context.turns.take(S::KIND, share, &name, call) else {
        return Ok(Action::requeue(IN_LINE));
    };
    match tokio::time::timeout(DEADLINE, describe_now(store, &context, (&namespace, &name))).await {
        Ok(result) => result,
        Err(_) => Err(Error::Deadline),
    }
}

/// Looks at the store and says so in its status.
async fn describe_now<S: Store>(
    store: &S,
    context: &Context<S>,
    (namespace, name): (&str, &str),
) -> Result<Action, Error> {
    let id = (S::KIND, namespace.to_owned(), name.to_owned());
    let api = (context.api)(context.client.clone(), namespace);
    let previous = store.store_status().cloned().unwrap_or_default();
    // Of what several operators serve each has its own part, and each says so.
    let shared = match context.stores.concern(store, context.scope.as_deref()).await? {
        Concern::Alone => None,
        Concern::Shared => context.scope.as_deref(),
        Concern::None => {
            // Not even asked: it is none of ours. What was said of it when it was, is taken back.
            if let Some(scope) = &context.scope {
                write(&api, store, &previous, voices::without(&previous, scope)).await?;
            }
            return Ok(Action::requeue(STORE_SWEEP));
        }
    };
    let found = match context.stores.condition(&id).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Action::await_change()),
        // It comes again when the result is there.
        Err(Error::NotProbed) => return Ok(Action::requeue(STORE_SWEEP)),
        Err(e) => return Err(e),
    };
    // What is reported must speak of the generation that was judged, which is not always the one that was watched.
    let mut status = match (shared, &context.scope) {
        (Some(scope), _) => voices::own(&previous, scope),
        (None, Some(scope)) => voices::without(&previous, scope),
        (None, None) => previous.clone(),
    };
    status.observed_generation = store.meta().generation;
    let before = status.conditions.clone();
    match &found {
        Ok(condition) => {
            if condition.is_news {
                (context.judge_anew)(&id);
            }
            describe(&mut status, condition, Timestamp::now());
            describe_canary(&mut status, condition, Timestamp::now());
        }
        Err((reason, why)) => {
            status.capabilities = Vec::new();
            status.credentials_expiration_time = None;
            status.canary = None;
            status
                .conditions
                .retain(|c| ![HEADERS, CLOCK, KEYS, EXPIRATION].contains(&c.type_.as_str()));
            let generation = status.observed_generation;
            set_ready(&mut status.conditions, (*reason, why), generation, Timestamp::now());
        }
    }
    let changes = verdicts::changes(&before, &status.conditions);
    if let Some(scope) = shared {
        status = voices::join(&previous, scope, status, Timestamp::now());
    }
    write(&api, store, &previous, status).await?;
    verdicts::tell(&context.recorder, store, context.scope.as_deref(), changes).await;
    Ok(Action::requeue(STORE_SWEEP))
}

/// Writes a status that says something new, unless the store has changed since it was seen.
async fn write<S: Store>(api: &Api<S>, store: &S, previous: &StoreStatus, status: StoreStatus) -> Result<(), Error> {
    if status == *previous {
        return Ok(());
    }
    let StoreStatus {
        observed_generation,
        conditions,
        capabilities,
        credentials_expiration_time,
        canary,
    } = status;
    let patch = json!({
        "metadata": {"uid": store.meta().uid, "resourceVersion": store.meta().resource_version},
        "status": {
            "observedGeneration": observed_generation, "conditions": conditions, "capabilities": capabilities,
            "credentialsExpirationTime": credentials_expiration_time, "canary": canary,
        },
    });
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    };
    let name = store.meta().name.as_deref().unwrap_or_default();
    call(
        "writing the store's status",
        api.patch_status(name, &params, &Patch::Merge(patch)),
    )
    .await?;
    Ok(())
}

/// What trying the store out has shown.
fn describe(status: &mut StoreStatus, condition: &Condition, now: Timestamp) {
    let Condition {
        capabilities,
        credentials_expire,
        end_is_unknown,
        probed,
        canary,
        ..
    } = condition;
    let worthless = canary.as_ref().and_then(|c| c.found.worthless.as_ref());
    status.credentials_expiration_time = credentials_expire.map(|end| Time(second(end)));
    status.capabilities = capabilities.listed();
    let generation = status.observed_generation;
    let seen = status.conditions.iter().find(|c| c.type_ == HEADERS);
    let was_seen = seen.is_some_and(|c| c.status != "Unknown");
    let was_unsafe = seen.is_some_and(|c| c.status == "False");
    let (reason, message) = match &probed.finding {
        Finding::Usable if let Some(why) = worthless => (Reason::KeysNotEnforced, why.clone()),
        Finding::Usable => {
            let known = ["the store answers and takes the credentials"].into_iter();
            let all: Vec<_> = known.chain(probed.remarks.iter().map(String::as_str)).collect();
            (Reason::Ready, all.join("; "))
        }
        Finding::Broken(reason, why) => (*reason, why.clone()),
        Finding::Unreachable(why) => (
            Reason::StoreUnreachable,
            format!("the store does not answer as it should: {why}"),
        ),
    };
    set_ready(&mut status.conditions, (reason, &message), generation, now);
    let mut set = |type_: &str, value: &str, reason: Reason, message: &str| {
        set_condition(&mut status.conditions, type_, value, (reason, message), generation, now);
    };
    if *end_is_unknown {
        set(
            EXPIRATION,
            "False",
            Reason::ExpirationUnknown,
            "the credentials are temporary (they have a session token) and nothing says when they end, so no URL of this store lives longer than 15 minutes: set AWS_CREDENTIAL_EXPIRATION beside AWS_SESSION_TOKEN",
        );
    }
    let is_safe = capabilities.enforced.contains(&Capability::SignedHeadersOnly);
    match (probed.refuses_unsigned, is_safe) {
        (Some(true), _) => set(
            HEADERS,
            "True",
            Reason::HeadersRefused,
            "the store refuses headers that are not signed and would do more than the key says",
        ),
        (Some(false), true) => set(
            HEADERS,
            "False",
            Reason::HeadersObeyed,
            "the store obeys headers that are not signed; URLs for PUT are issued, since assumeRole confines each of them, or unsignedHeaders is Tolerate",
        ),
        (Some(false), false) => {
            let remedy = remedy(capabilities);
            let message = format!(
                "the store obeys headers that are not signed, so the holder of a URL for PUT could copy whatever the credentials can read; no URLs for PUT are issued{remedy}"
            );
            set(HEADERS, "False", Reason::HeadersObeyed, &message);
        }
        // What was seen before still holds while the store is away, or nothing can be concluded.
        (None, _) if probed.finding != Finding::Usable || probed.skew.is_some() && was_seen => {}
        // That a store is unsafe holds until the opposite was seen.
        (None, _) if was_unsafe => {}
        (None, _) => {
            let why = probed.untold.as_deref().unwrap_or("it was not tried");
            let then = match is_safe {
                true => "URLs for PUT are issued all the same: it is documented of this store, assumeRole confines each of them, or unsignedHeaders is Tolerate".to_owned(),
                false => format!("until it is known, no URLs for PUT are issued{}", remedy(capabilities)),
            };
            let message =
                format!("whether the store refuses headers that are not signed is not known: {why}; {then}");
            set(HEADERS, "Unknown", Reason::NotObservable, &message);
        }
    }
    match probed.skew {
        // Of a store that does not answer nothing is known.
        None if probed.finding != Finding::Usable => {}
        None => set(
            CLOCK,
            "True",
            Reason::Ready,
            "the store's clock and the operator's agree to half a minute",
        ),
        Some(skew) => {
            let message = format!(
                "{}; URLs begin and end by the store's clock, and nothing is concluded about the store until the clocks agree",
                skewed(skew)
            );
            set(CLOCK, "False", Reason::ClockSkewed, &message);
        }
    }
    if !end_is_unknown {
        status.conditions.retain(|c| c.type_ != EXPIRATION);
    }
}

/// What the store's owner can do about headers that are not signed, as the end of a sentence.
fn remedy(capabilities: &Capabilities) -> String {
    let remedy = capabilities.remedies.signed_headers;
    remedy.map_or(String::new(), |remedy| {
        format!(": {}", remedy.trim_start_matches("to "))
    })
}

/// What the round trip with real keys has shown, if somebody asked for one.
fn describe_canary(status: &mut StoreStatus, condition: &Condition, now: Timestamp) {
    let canary = condition.canary.as_ref();
    status.canary = canary.map(|tried| CanaryStatus {
        request: tried.request.clone(),
        time: Time(second(tried.when)),
    });
    let Some(Tried { found, .. }) = canary else {
        status.conditions.retain(|c| c.type_ != KEYS);
        return;
    };
    let (value, reason, mut message) = match &found.worthless {
        Some(why) => ("False", Reason::KeysNotEnforced, why.clone()),
        None if !found.missing.is_empty() => {
            let names = found.missing_names();
            let message = format!(
                "tried with real keys, the store does not enforce {names}: grants that need it are refused (CapabilityMissing)"
            );
            ("False", Reason::KeysNotEnforced, message)
        }
        None if found.held.is_empty() || found.interrupted => {
            ("Unknown", Reason::NotObservable, "not tried with real keys".to_owned())
        }
        None => {
            let message = format!("tried with real keys, the store enforces {}", found.held.join(", "));
            ("True", Reason::KeysEnforced, message)
        }
    };
    for lacking in &found.without {
        message += &format!("; without {lacking}");
    }
    for untried in &found.untried {
        message += &format!("; not tried: {untried}");
    }
    let untried = found.untried_names(&condition.capabilities);
    if found.worthless.is_none() && !found.held.is_empty() && !found.interrupted && !untried.is_empty() {
        message += &format!("; not tried: {}", untried.join(", "));
    }
    if let Some(left) = &found.left {
        message += &format!("; {left}");
    }
    let generation = status.observed_generation;
    set_condition(&mut status.conditions, KEYS, value, (reason, &message), generation, now);
}

/// When to try again after an error.
pub fn on_error<S: Store>(store: Arc<DeserializeGuard<S>>, error: &Error, _: Arc<Context<S>>) -> Action {
    if matches!(error, Error::Conflict(_) | Error::Gone(_)) {
        // The watch has not brought the store's newest state yet.
        debug!(
            kind = S::KIND.as_str(),
            name = store.name_any(),
            "{error}; looking again"
        );
        return Action::requeue(Duration::from_secs(1));
    }
    warn_once!(
        &error.cause(),
        kind = S::KIND.as_str(),
        namespace = store.namespace(),
        name = store.name_any(),
        "{error}; trying again in 10 s"
    );
    Action::requeue(Duration::from_secs(10))
}
