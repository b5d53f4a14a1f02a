use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    core::DeserializeGuard,
    runtime::controller::Action,
};
use serde_json::json;
use tracing::{debug, warn};

use super::{
    error::{Error, call},
    secrets::FIELD_MANAGER,
    stores::Stores,
    watch::STORE_SWEEP,
};
use crate::{
    api::{Reason, Store, StoreStatus, set_ready},
    grant::second,
};

/// What visits to stores share.
pub struct Context<S> {
    /// The apiserver.
    pub client: Client,
    /// Stores, kept fresh.
    pub stores: Arc<Stores>,
    /// The `Api` of one namespace, or of the cluster.
    pub api: fn(Client, &str) -> Api<S>,
}

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
    let Some(found) = context
        .stores
        .condition(&(S::KIND, namespace.clone(), name.clone()))
        .await?
    else {
        return Ok(Action::await_change());
    };
    // What is reported must speak of the generation that was judged, which is not always the one that was watched.
    let api = (context.api)(context.client.clone(), &namespace);
    let mut status = store.store_status().cloned().unwrap_or_default();
    let previous = status.clone();
    let now = Timestamp::now();
    status.observed_generation = store.meta().generation;
    let message;
    let verdict = match &found {
        Ok((provider, credentials_end)) => {
            status.credentials_expiration_time = credentials_end.map(|end| Time(second(end)));
            status.capabilities = provider.capabilities().names();
            (Reason::Ready, "the settings make sense and the credentials can be read")
        }
        Err((reason, why)) => {
            status.capabilities = Vec::new();
            status.credentials_expiration_time = None;
            message = why.clone();
            (*reason, message.as_str())
        }
    };
    set_ready(&mut status.conditions, verdict, status.observed_generation, now);
    if status == previous {
        return Ok(Action::requeue(STORE_SWEEP));
    }
    let StoreStatus {
        observed_generation,
        conditions,
        capabilities,
        credentials_expiration_time,
    } = status;
    let patch = json!({
        "metadata": {"uid": store.uid(), "resourceVersion": store.resource_version()},
        "status": {
            "observedGeneration": observed_generation, "conditions": conditions, "capabilities": capabilities,
            "credentialsExpirationTime": credentials_expiration_time,
        },
    });
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    };
    call(
        "writing the store's status",
        api.patch_status(&name, &params, &Patch::Merge(patch)),
    )
    .await?;
    Ok(Action::requeue(STORE_SWEEP))
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
    warn!(
        kind = S::KIND.as_str(),
        namespace = store.namespace(),
        name = store.name_any(),
        "{error}; trying again in 10 s"
    );
    Action::requeue(Duration::from_secs(10))
}
