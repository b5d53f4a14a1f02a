//! The states of grants and stores that the metrics endpoint exports at each scrape.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{core::DeserializeGuard, runtime::reflector};

use super::{
    merged_conditions,
    store_status::{CLOCK, EXPIRATION, HEADERS, KEYS},
    stores::Stores,
    watch::Requeuer,
};
use crate::{
    api::{Grant, Reason, Store},
    core::{Concern, concern},
    telemetry::{GrantState, StoreState},
};

/// The states of all grants of one kind.
pub fn grants<G: Grant>(caller: &Requeuer<G>) -> Vec<GrantState> {
    let state = |grant: &G| {
        let status = grant.grant_status().cloned().unwrap_or_default();
        let live = condition(&status.conditions, "Active").is_some_and(|c| c.status == "True");
        GrantState {
            kind: G::OPERATION.kind(),
            namespace: grant.meta().namespace.clone().unwrap_or_default(),
            name: grant.meta().name.clone().unwrap_or_default(),
            reason: reason(&status.conditions),
            expires: status.expiration_time.filter(|_| live).map(|t| t.0.as_second()),
            renewal: status.renewal_time.filter(|_| live).map(|t| t.0.as_second()),
        }
    };
    caller
        .known()
        .iter()
        .filter_map(|g| g.0.as_ref().ok())
        .map(state)
        .collect()
}

/// The states of all stores of one kind. An operator that serves one namespace returns only the stores that allow
/// this namespace, with its own conditions.
pub fn stores<S: Store>(
    known: &reflector::Store<DeserializeGuard<S>>,
    stores: &Stores,
    scope: Option<&str>,
) -> Vec<StoreState> {
    let state = |store: &S| {
        let mut status = store.store_status().cloned().unwrap_or_default();
        let (namespace, name) = (store.meta().namespace.clone(), store.meta().name.clone());
        let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
        // Access rules that select namespaces by label cannot be evaluated here. The store's status shows whether
        // this operator serves the store.
        let shared = scope.filter(|scope| concern(&store.rules(), scope, &BTreeMap::new()) != Concern::Alone);
        if let Some(scope) = shared {
            condition(&status.conditions, &merged_conditions::of(scope, "Ready"))?;
            status = merged_conditions::own(&status, scope);
            // The expiry of this operator's own credentials is not in the shared status.
            let end = stores.credentials_end(&(S::KIND, namespace.clone(), name.clone()));
            status.credentials_expiration_time = end.map(Time);
        }
        Some(StoreState {
            kind: S::KIND.as_str(),
            namespace,
            name,
            scope: shared.unwrap_or_default().to_owned(),
            ready: condition(&status.conditions, "Ready").is_some_and(|c| c.status == "True"),
            reason: reason(&status.conditions),
            credentials_expire: status.credentials_expiration_time.map(|t| t.0.as_second()),
            conditions: status
                .conditions
                .iter()
                .filter(|c| [HEADERS, CLOCK, KEYS, EXPIRATION].contains(&c.type_.as_str()))
                .map(|c| (c.type_.clone(), c.status.clone()))
                .collect(),
        })
    };
    known
        .state()
        .iter()
        .filter_map(|s| s.0.as_ref().ok())
        .filter_map(state)
        .collect()
}

fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// The reason of the `Ready` condition. An object from before the CRD had a default condition also has `Pending`.
fn reason(conditions: &[Condition]) -> String {
    condition(conditions, "Ready").map_or(Reason::Pending.as_str().to_owned(), |c| c.reason.clone())
}
