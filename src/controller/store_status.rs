use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client, ResourceExt,
    core::DeserializeGuard,
    runtime::{controller::Action, events::Recorder},
};
use tracing::{debug, warn};

use super::{
    error::{DEADLINE, Error},
    merged_conditions,
    namespace_limiter::{NamespaceLimiter, QUEUED_PAUSE},
    probe_cache::ProbeResult,
    status_writer::write_status,
    stores::{Condition, Stores},
    verdicts,
    watch::STORE_RESYNC,
};
use crate::{
    api::{
        Capabilities, Capability, ConditionType, ConformanceCheckStatus, Reason, Store, StoreStatus, set_condition,
        set_ready,
    },
    core::{Concern, StoreId, second, skewed},
    provider::Finding,
    telemetry::warn_once,
};

/// The state that all reconciles of one kind of store share.
pub struct Context<S> {
    pub client: Client,
    /// The cached stores and their connections.
    pub stores: Arc<Stores>,
    /// The namespace that the operator serves. `None` means all namespaces.
    pub scope: Option<String>,
    /// Creates the `Api` of this kind of store. ObjectStores are namespaced, and ClusterObjectStores are
    /// cluster-scoped.
    pub api: fn(Client, &str) -> Api<S>,
    /// Enqueues every grant of the given store.
    pub requeue_grants: Box<dyn Fn(&StoreId) + Send + Sync>,
    /// Writes Kubernetes Events.
    pub recorder: Recorder,
    /// Distributes reconciles fairly among namespaces.
    pub namespace_limiter: NamespaceLimiter,
}

/// Valet reconciles at most 16 ClusterObjectStores at the same time. For ObjectStores, the limit is four times this
/// number (see [`NamespaceLimiter`]). One namespace may use only a part of these reconciles, because one tenant can
/// create many stores. Each reconcile can take seconds, because it reads credentials and resolves host names.
pub const AT_A_TIME: u16 = 16;

/// Updates a store's status, and returns the time of the next reconcile. Valet reconciles each store at a fixed
/// interval, because the store's credentials can change without an event.
///
/// # Errors
///
/// Returns an [`Error`] if a call to the apiserver fails.
pub async fn reconcile<S: Store>(store: Arc<DeserializeGuard<S>>, context: Arc<Context<S>>) -> Result<Action, Error> {
    let store = match &store.0 {
        Ok(store) => store,
        Err(invalid) => {
            let error = &invalid.error;
            warn!(
                kind = S::KIND.as_str(),
                namespace = invalid.metadata.namespace,
                name = invalid.metadata.name,
                "the store cannot be parsed, so Valet ignores the store: {error}"
            );
            return Ok(Action::await_change());
        }
    };
    let (namespace, name) = (store.namespace().unwrap_or_default(), store.name_any());
    // The limiter has one limit for each namespace, but a ClusterObjectStore has no namespace. For the limiter, each
    // ClusterObjectStore therefore counts as a separate namespace.
    let share = if namespace.is_empty() { &name } else { &namespace };
    let Some(_turn) = context.namespace_limiter.take(S::KIND, share, &name) else {
        return Ok(Action::requeue(QUEUED_PAUSE));
    };
    match tokio::time::timeout(DEADLINE, describe_now(store, &context, (&namespace, &name))).await {
        Ok(result) => result,
        Err(_) => Err(Error::Deadline),
    }
}

/// Checks the store and writes the result to its status.
async fn describe_now<S: Store>(
    store: &S,
    context: &Context<S>,
    (namespace, name): (&str, &str),
) -> Result<Action, Error> {
    let id = (S::KIND, namespace.to_owned(), name.to_owned());
    let api = (context.api)(context.client.clone(), namespace);
    let previous = store.store_status().cloned().unwrap_or_default();
    // If several operators serve one store, each operator writes only its own conditions.
    let shared = match context.stores.concern(store, context.scope.as_deref()).await? {
        Concern::Alone => None,
        Concern::Shared => context.scope.as_deref(),
        Concern::None => {
            // The access rules of this store do not apply to the namespace of this operator. The operator does not
            // check the store, and removes the conditions that it wrote earlier.
            if let Some(scope) = &context.scope {
                write(&api, store, &previous, merged_conditions::without(&previous, scope)).await?;
            }
            return Ok(Action::requeue(STORE_RESYNC));
        }
    };
    let found = match context.stores.condition(&id).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Action::await_change()),
        // The first probe of the store is still running. When the probe has a result, Valet enqueues the store again.
        Err(Error::NotProbed) => return Ok(Action::requeue(STORE_RESYNC)),
        Err(e) => return Err(e),
    };
    // The observed generation in the conditions is the generation of the store that Valet has checked. The watch cache
    // may already contain a newer generation.
    let mut status = match (shared, &context.scope) {
        (Some(scope), _) => merged_conditions::own(&previous, scope),
        (None, Some(scope)) => merged_conditions::without(&previous, scope),
        (None, None) => previous.clone(),
    };
    status.observed_generation = store.meta().generation;
    let before = status.conditions.clone();
    match &found {
        Ok(condition) => {
            if condition.is_news {
                (context.requeue_grants)(&id);
            }
            describe(&mut status, condition, Timestamp::now());
            describe_conformance(&mut status, condition, Timestamp::now());
        }
        Err((reason, why)) => {
            status.capabilities = Vec::new();
            status.credentials_expiration_time = None;
            status.conformance_check = None;
            status
                .conditions
                .retain(|c| !ConditionType::FOUND_BY_PROBES.contains(&c.type_.as_str()));
            let generation = status.observed_generation;
            set_ready(&mut status.conditions, (*reason, why), generation, Timestamp::now());
        }
    }
    let changed_conditions = verdicts::changed_conditions(&before, &status.conditions);
    if let Some(scope) = shared {
        status = merged_conditions::join(&previous, scope, status, Timestamp::now());
    }
    write(&api, store, &previous, status).await?;
    verdicts::publish(&context.recorder, store, context.scope.as_deref(), changed_conditions).await;
    Ok(Action::requeue(STORE_RESYNC))
}

/// Writes the store's status if the status has changed. Returns an error if the store has changed since Valet read
/// it.
async fn write<S: Store>(api: &Api<S>, store: &S, previous: &StoreStatus, status: StoreStatus) -> Result<(), Error> {
    if status == *previous {
        return Ok(());
    }
    write_status("writing the store's status", api, store, (previous, &status)).await?;
    Ok(())
}

/// Writes the result of the probe to the status fields and conditions.
fn describe(status: &mut StoreStatus, condition: &Condition, now: Timestamp) {
    let Condition {
        capabilities,
        credentials_expire,
        expiry_is_unknown,
        probed,
        conformance_check,
        ..
    } = condition;
    let unenforced = conformance_check.as_ref().and_then(|c| c.found.unenforced.as_ref());
    status.credentials_expiration_time = credentials_expire.map(|end| Time(second(end)));
    status.capabilities = capabilities.listed();
    let generation = status.observed_generation;
    let seen = status
        .conditions
        .iter()
        .find(|c| c.type_ == ConditionType::UnsignedHeadersRefused.as_str());
    let was_seen = seen.is_some_and(|c| c.status != "Unknown");
    let was_unsafe = seen.is_some_and(|c| c.status == "False");
    let (reason, message) = match &probed.finding {
        Finding::Usable if let Some(why) = unenforced => (Reason::ConstraintsNotEnforced, why.clone()),
        Finding::Usable => {
            let known = ["the store answers and accepts the credentials"].into_iter();
            let all: Vec<_> = known.chain(probed.notices.iter().map(String::as_str)).collect();
            (Reason::Ready, all.join("; "))
        }
        Finding::Broken(reason, why) => (*reason, why.clone()),
        Finding::Unreachable(why) => (
            Reason::StoreUnreachable,
            format!("the store does not answer correctly: {why}"),
        ),
    };
    set_ready(&mut status.conditions, (reason, &message), generation, now);
    let mut set = |type_: ConditionType, value: &str, reason: Reason, message: &str| {
        set_condition(&mut status.conditions, type_, value, (reason, message), generation, now);
    };
    if *expiry_is_unknown {
        set(
            ConditionType::CredentialsExpirationKnown,
            "False",
            Reason::ExpirationUnknown,
            "the store's credentials have a session token without an expiry time, so no signed URL is valid for more than 15 minutes; set AWS_CREDENTIAL_EXPIRATION together with AWS_SESSION_TOKEN",
        );
    }
    let is_safe = capabilities.enforced.contains(&Capability::SignedHeadersOnly);
    match (probed.refuses_unsigned, is_safe) {
        (Some(true), _) => set(
            ConditionType::UnsignedHeadersRefused,
            "True",
            Reason::HeadersRefused,
            "the store rejects unsigned request headers that would let a client do more than a signed URL allows",
        ),
        (Some(false), true) => set(
            ConditionType::UnsignedHeadersRefused,
            "False",
            Reason::HeadersObeyed,
            "the store obeys unsigned headers; Valet still issues PUT URLs, because assumeRole restricts each URL, or because unsignedHeaders is set to Tolerate",
        ),
        (Some(false), false) => {
            let remedy = remedy(capabilities);
            let message = format!(
                "the store obeys unsigned headers, so the holder of a PUT URL could copy any object that the credentials can read; Valet issues no PUT URLs{remedy}"
            );
            set(
                ConditionType::UnsignedHeadersRefused,
                "False",
                Reason::HeadersObeyed,
                &message,
            );
        }
        // The earlier result about unsigned headers stays in the status in two cases. Either the store does not answer,
        // or the clocks of the store and the operator differ.
        (None, _) if probed.finding != Finding::Usable || probed.skew.is_some() && was_seen => {}
        // An earlier probe has shown that the store obeys unsigned headers. This result stays in the status until a
        // later probe shows that the store rejects unsigned headers.
        (None, _) if was_unsafe => {}
        (None, _) => {
            let why = probed
                .not_reported
                .as_deref()
                .unwrap_or("the probe did not test unsigned headers");
            let then = match is_safe {
                true => "Valet still issues PUT URLs, because the store is documented to reject unsigned headers, or because assumeRole restricts each URL, or because unsignedHeaders is set to Tolerate".to_owned(),
                false => format!("Valet issues no PUT URLs until a probe shows that the store rejects unsigned headers{remedy}", remedy = remedy(capabilities)),
            };
            let unknown = format!("Valet does not know whether the store rejects unsigned headers: {why}");
            let message = format!("{unknown}; {then}");
            set(
                ConditionType::UnsignedHeadersRefused,
                "Unknown",
                Reason::NotObservable,
                &message,
            );
        }
    }
    match probed.skew {
        // If the store does not answer, Valet does not know the store's clock and leaves the condition unchanged.
        None if probed.finding != Finding::Usable => {}
        None => set(
            ConditionType::ClockInSync,
            "True",
            Reason::Ready,
            "the clocks of the store and the operator differ by less than 30 seconds",
        ),
        Some(skew) => {
            let message = format!(
                "the clocks of the store and the operator differ: {difference}; the store checks the expiry of signed URLs with its own clock; Valet ignores the results of probes until the clocks agree",
                difference = skewed(skew)
            );
            set(ConditionType::ClockInSync, "False", Reason::ClockSkewed, &message);
        }
    }
    if !expiry_is_unknown {
        status
            .conditions
            .retain(|c| c.type_ != ConditionType::CredentialsExpirationKnown.as_str());
    }
}

/// Returns advice for the owner of a store that obeys unsigned headers. The text starts with a semicolon, because the
/// caller adds the text to the end of a message. The text is empty if the provider has no advice.
fn remedy(capabilities: &Capabilities) -> String {
    let remedy = capabilities.remedies.signed_headers;
    remedy.map_or(String::new(), |remedy| {
        format!("; to allow PUT URLs, {}", remedy.trim_start_matches("to "))
    })
}

/// Writes the result of the conformance check to the status, if somebody has requested a check.
fn describe_conformance(status: &mut StoreStatus, condition: &Condition, now: Timestamp) {
    let conformance_check = condition.conformance_check.as_ref();
    status.conformance_check = conformance_check.map(|tried| ConformanceCheckStatus {
        request: tried.request.clone(),
        time: Time(second(tried.when)),
    });
    let Some(ProbeResult { found, .. }) = conformance_check else {
        status
            .conditions
            .retain(|c| c.type_ != ConditionType::ConstraintsEnforced.as_str());
        return;
    };
    let (value, reason, mut message) = match &found.unenforced {
        Some(why) => ("False", Reason::ConstraintsNotEnforced, why.clone()),
        None if !found.missing.is_empty() => {
            let names = found.missing_names();
            let message = format!(
                "the conformance check found that the store does not enforce {names}; Valet refuses grants that need one of these capabilities (CapabilityMissing)"
            );
            ("False", Reason::ConstraintsNotEnforced, message)
        }
        None if found.enforced.is_empty() || found.interrupted => (
            "Unknown",
            Reason::NotObservable,
            "the conformance check has no result".to_owned(),
        ),
        None => {
            let message = format!(
                "the conformance check found that the store enforces {names}",
                names = found.enforced.join(", ")
            );
            ("True", Reason::ConstraintsEnforced, message)
        }
    };
    for lacking in &found.without {
        message += &format!("; without {lacking}");
    }
    for not_tested in &found.not_tested {
        message += &format!("; not tested: {not_tested}");
    }
    let not_tested = found.not_tested_names(&condition.capabilities);
    if found.unenforced.is_none() && !found.enforced.is_empty() && !found.interrupted && !not_tested.is_empty() {
        message += &format!("; not tested: {}", not_tested.join(", "));
    }
    if let Some(left) = &found.left {
        message += &format!("; {left}");
    }
    let generation = status.observed_generation;
    set_condition(
        &mut status.conditions,
        ConditionType::ConstraintsEnforced,
        value,
        (reason, &message),
        generation,
        now,
    );
}

/// Returns the time of the next reconcile of a store after an error.
pub fn on_error<S: Store>(store: Arc<DeserializeGuard<S>>, error: &Error, _: Arc<Context<S>>) -> Action {
    if matches!(error, Error::Conflict(_) | Error::Gone(_)) {
        // The store has changed, and the watch has not delivered the newest version yet.
        debug!(
            kind = S::KIND.as_str(),
            name = store.name_any(),
            "{error}; reconciling again"
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
