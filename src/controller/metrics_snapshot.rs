//! Collects the states of grants and stores for each scrape of the metrics endpoint.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{core::DeserializeGuard, runtime::reflector};

use super::{merged_conditions, stores::Stores, watch::Requeuer};
use crate::{
    api::{ConditionType, Grant, Reason, Store},
    core::{Concern, concern},
    telemetry::{GrantState, StoreState},
};

/// Returns the states of all grants of one kind.
pub fn grants<G: Grant>(requeuer: &Requeuer<G>) -> Vec<GrantState> {
    let state = |grant: &G| {
        let status = grant.grant_status().cloned().unwrap_or_default();
        let live = condition(&status.conditions, ConditionType::Active).is_some_and(|c| c.status == "True");
        GrantState {
            kind: G::OPERATION.kind(),
            namespace: grant.meta().namespace.clone().unwrap_or_default(),
            name: grant.meta().name.clone().unwrap_or_default(),
            reason: reason(&status.conditions),
            expires: status.expiration_time.filter(|_| live).map(|t| t.0.as_second()),
            renewal: status.renewal_time.filter(|_| live).map(|t| t.0.as_second()),
        }
    };
    requeuer
        .known()
        .iter()
        .filter_map(|cached| cached.grant().ok())
        .map(|grant| state(&grant))
        .collect()
}

/// Returns the states of all stores of one kind. If the operator serves only one namespace, the result contains only
/// the stores that allow this namespace. In this case the states contain the conditions that this operator wrote.
pub fn stores<S: Store>(
    known: &reflector::Store<DeserializeGuard<S>>,
    stores: &Stores,
    scope: Option<&str>,
) -> Vec<StoreState> {
    let state = |store: &S| {
        let mut status = store.store_status().cloned().unwrap_or_default();
        let (namespace, name) = (store.meta().namespace.clone(), store.meta().name.clone());
        let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
        // This function does not know the labels of namespaces, so it cannot evaluate access rules that select
        // namespaces by label. Instead, it checks whether the store's status contains a condition of this operator.
        let shared = scope.filter(|scope| concern(&store.rules(), scope, &BTreeMap::new()) != Concern::Alone);
        if let Some(scope) = shared {
            condition(
                &status.conditions,
                merged_conditions::of(scope, ConditionType::Ready.as_str()),
            )?;
            status = merged_conditions::own(&status, scope);
            // If several operators serve the store, the expiry of this operator's credentials is not in the store's
            // status. Valet therefore takes the expiry from the cache.
            let end = stores.credentials_end(&(S::KIND, namespace.clone(), name.clone()));
            status.credentials_expiration_time = end.map(Time);
        }
        Some(StoreState {
            kind: S::KIND.as_str(),
            namespace,
            name,
            scope: shared.unwrap_or_default().to_owned(),
            ready: condition(&status.conditions, ConditionType::Ready).is_some_and(|c| c.status == "True"),
            reason: reason(&status.conditions),
            credentials_expire: status.credentials_expiration_time.map(|t| t.0.as_second()),
            conditions: status
                .conditions
                .iter()
                .filter(|c| ConditionType::FOUND_BY_PROBES.contains(&c.type_.as_str()))
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

fn condition(conditions: &[Condition], type_: impl AsRef<str>) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == type_.as_ref())
}

/// Returns the reason of the condition `Ready`. If the object was created before the CRD had default conditions, it may
/// have no such condition. In this case, the function returns `Pending`.
fn reason(conditions: &[Condition]) -> String {
    condition(conditions, ConditionType::Ready).map_or(Reason::Pending.as_str().to_owned(), |c| c.reason.clone())
}
