//! The cache of stores. Valet reads a store, connects to it and probes it, and keeps the result for a short time. The
//! reconciles of grants and of stores use this cache.

mod connect;
mod connection;
mod current;
mod labels;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use jiff::Timestamp;
use kube::{
    Api, Client,
    core::{NamespaceResourceScope, ObjectMeta},
};

use connection::{CachedStore, ConnectError, Connection, in_time, problem_as_value};
use labels::NamespaceLabels;

use super::{
    error::Error,
    probe_cache::{ProbeCache, ProbeResult, Problem, age_for_status},
    secrets::NamedSecrets,
    signers::Signers,
    slot::{Slot, lock},
    store_limiter::StoreLimiter,
};
use crate::{
    api::{Capabilities, Reason, Store, StoreKind, annotation, printable},
    core::{
        Concern, GrantFacts, Refusal, RulesView, StoreFact, StoreId, StoreView, concern, still_allowed, store_id,
    },
    net::EgressPolicy,
    provider::{Environment, Probed, Provider},
};

/// Reads, connects, probes and caches stores.
pub struct Stores {
    client: Client,
    secrets: NamedSecrets,
    operator_namespace: String,
    /// True if an ObjectStore is allowed to use the operator's own credentials.
    share_environment: bool,
    /// Decides which endpoints an ObjectStore is allowed to have.
    egress: EgressPolicy,
    /// Limits how many reconciles may wait for answers from one store at the same time.
    store_limiter: Arc<StoreLimiter>,
    environment: Environment,
    known: Mutex<HashMap<StoreId, Arc<Slot<CachedStore>>>>,
    labels: NamespaceLabels,
    /// The signer of each store. Valet keeps the entry of a store that it temporarily cannot use, for example while
    /// somebody replaces the store's credentials.
    signers: Signers,
    /// The time at which each store's credentials expire, as this operator last read it.
    ends: Mutex<HashMap<StoreId, Timestamp>>,
    /// Runs probes and conformance checks.
    pub probe_cache: Arc<ProbeCache>,
}

/// The maximum length in bytes of the annotation value that requests a conformance check. Valet copies this value
/// into the store's status. Typical values are timestamps, which are much shorter.
const LONGEST_REQUEST: usize = 64;

/// Returns the value of the annotation that requests a conformance check, if the annotation is set.
pub fn check_request(store: &ObjectMeta) -> Option<String> {
    let value = printable(store.annotations.as_ref()?.get(annotation::CHECK_REQUESTED_AT)?);
    Some(value[..value.floor_char_boundary(LONGEST_REQUEST)].to_owned())
}

/// The facts about a usable store that Valet writes to the store's status.
pub struct Condition {
    /// The capabilities of the store that grants may use.
    pub capabilities: Arc<Capabilities>,
    /// The time at which the store's current credentials expire.
    pub credentials_expire: Option<Timestamp>,
    /// True if the store's credentials are temporary and Valet does not know when they expire.
    pub expiry_is_unknown: bool,
    /// The result of the last probe of the store.
    pub probed: Probed,
    /// The result of the conformance check, if one was requested.
    pub conformance_check: Option<ProbeResult>,
    /// True if the store's signer has changed since the last reconcile of the store. In this case Valet must
    /// reconcile the grants of the store.
    pub is_news: bool,
}

/// The facts about a store that the reconcile of a grant needs.
pub struct ResolvedStore {
    /// Whether Valet can use the store. If Valet can use the store, this field also contains the store's settings.
    pub fact: StoreFact,
    /// The connection with which Valet signs credentials and sends requests to the store. `None` if the store does not
    /// exist or has a problem.
    pub provider: Option<Arc<dyn Provider>>,
    /// The store's access rules, if Valet cannot use the store.
    pub rules: Option<RulesView>,
}

impl ResolvedStore {
    fn of(fact: StoreFact) -> Self {
        Self {
            fact,
            provider: None,
            rules: None,
        }
    }
}

impl Stores {
    /// Creates an empty cache. The namespace `operator_namespace` contains the credentials of ClusterObjectStores.
    /// `egress` limits the endpoints of ObjectStores.
    pub fn new(
        client: Client,
        operator_namespace: String,
        share_environment: bool,
        egress: EgressPolicy,
        store_limiter: Arc<StoreLimiter>,
    ) -> Self {
        Self {
            secrets: NamedSecrets::new(client.clone()),
            labels: NamespaceLabels::new(client.clone()),
            client,
            operator_namespace,
            share_environment,
            egress,
            store_limiter,
            environment: Environment::default(),
            known: Mutex::default(),
            signers: Signers::new(Timestamp::now()),
            ends: Mutex::default(),
            probe_cache: Arc::default(),
        }
    }

    /// Returns the facts about the grant's store. Valet wants to sign a credential that expires at `wanted_until`. If
    /// the access rules refuse the grant, this method sends no request to the store or its STS.
    ///
    /// # Errors
    ///
    /// Returns an error if a call to the apiserver fails. Returns [`Error::NotProbed`] if the first probe of the
    /// store is still running. If the store itself has a problem, the facts describe it.
    pub async fn fact(&self, grant: &GrantFacts, wanted_until: Timestamp) -> Result<ResolvedStore, Error> {
        let (store, namespace) = (&grant.terms.store_ref, grant.namespace.as_str());
        let id = store_id(store, namespace);
        let known = self.known(&id).await?;
        let rules = match &known {
            CachedStore::Missing => return Ok(ResolvedStore::of(StoreFact::Missing)),
            CachedStore::Unusable { rules, .. } => rules.clone(),
            CachedStore::Usable(connection) => connection.rules.clone(),
        };
        let namespace_labels = self.labels.for_rules(&rules, namespace).await?;
        let view = RulesView {
            rules,
            namespace_labels,
        };
        let refused = still_allowed(grant, &view).err();
        let RulesView {
            rules,
            namespace_labels,
        } = view;
        let usable = match (known, refused) {
            // The access rules refuse the grant, but the result still contains the provider. Valet may have initiated a
            // multipart upload for the grant, and needs the provider to abort this upload.
            (CachedStore::Usable(connection), Some(Refusal { reason, message })) => {
                return Ok(ResolvedStore {
                    provider: Some(connection.provider),
                    rules: Some(RulesView {
                        rules,
                        namespace_labels,
                    }),
                    ..ResolvedStore::of(StoreFact::Unusable { reason, message })
                });
            }
            (CachedStore::Usable(connection), None) => {
                problem_as_value(connection.usable(&id, &self.probe_cache, wanted_until).await)?
            }
            (CachedStore::Unusable { reason, message, .. }, _) => Err((reason, message)),
            (CachedStore::Missing, _) => return Ok(ResolvedStore::of(StoreFact::Missing)),
        };
        Ok(match usable {
            Ok(usable) => ResolvedStore {
                fact: StoreFact::Usable(StoreView {
                    max_live_grants: usable.connection.max_live_grants,
                    namespace_labels,
                    rules,
                    capabilities: usable.connection.provider.capabilities(),
                    credentials_expire: usable.credentials_expire,
                    short_sessions: usable.connection.short_sessions,
                    signer: usable.connection.signer,
                    skew: usable.connection.provider.skew(),
                    not_probed: usable.not_probed,
                }),
                provider: Some(usable.connection.provider),
                rules: None,
            },
            // Valet cannot use the store now. Issued credentials stay valid, unless the access rules no longer allow
            // them.
            Err((reason, message)) => ResolvedStore {
                rules: Some(RulesView {
                    rules,
                    namespace_labels,
                }),
                ..ResolvedStore::of(StoreFact::Unusable { reason, message })
            },
        })
    }

    /// Returns the facts that Valet writes to a store's status, or the reason why Valet cannot use the store. Returns
    /// `None` if the store does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if a call to the apiserver fails. Returns [`Error::NotProbed`] if the first probe of the
    /// store is still running.
    pub async fn condition(&self, id: &StoreId) -> Result<Option<Result<Condition, Problem>>, Error> {
        Ok(match self.known(id).await? {
            CachedStore::Missing => None,
            CachedStore::Unusable { reason, message, .. } => Some(Err((reason, message))),
            CachedStore::Usable(connection) => Some(problem_as_value(self.probe_store(id, &connection).await)?),
        })
    }

    async fn probe_store(&self, id: &StoreId, connection: &Connection) -> Result<Condition, ConnectError> {
        let credentials_expire = in_time(connection.provider.source_expiry()).await?;
        match credentials_expire {
            Some(end) => lock(&self.ends).insert(id.clone(), end),
            None => lock(&self.ends).remove(id),
        };
        if let Some(end) = credentials_expire.filter(|end| *end <= Timestamp::now()) {
            let message = format!("the store's credentials expired at {end}; renew the store's credentials");
            return Err((Reason::CredentialsExpired, message).into());
        }
        let request = connection.check_request.as_ref();
        let Connection {
            store_probe, provider, ..
        } = connection;
        let outcome = self
            .probe_cache
            .outcome(id, store_probe, provider, request, age_for_status);
        let outcome = outcome.ok_or(Error::NotProbed)?;
        Ok(Condition {
            capabilities: connection.provider.capabilities(),
            credentials_expire,
            expiry_is_unknown: connection.provider.expiry_is_unknown().await,
            probed: outcome.probed,
            conformance_check: outcome.conformance_check,
            is_news: self.signers.changed(id),
        })
    }

    /// Returns the expiry of the credentials that this operator last used for the store. Returns `None` if the
    /// credentials do not expire, or if this operator has not read them yet.
    pub fn credentials_end(&self, id: &StoreId) -> Option<Timestamp> {
        lock(&self.ends).get(id).copied()
    }

    /// Decides whether this operator serves the store, and whether other operators may also serve the store. If the
    /// operator serves only one namespace, `scope` is this namespace.
    ///
    /// # Errors
    ///
    /// Returns an error if the access rules select namespaces by label and the labels cannot be read.
    pub async fn concern<S: Store>(&self, store: &S, scope: Option<&str>) -> Result<Concern, Error> {
        let Some(namespace) = scope.filter(|_| S::KIND == StoreKind::ClusterObjectStore) else {
            return Ok(Concern::Alone);
        };
        let rules = store.rules();
        let labels = self.labels.for_rules(&rules, namespace).await?;
        Ok(concern(&rules, namespace, &labels))
    }

    /// Marks the cached data of a changed store as stale. The next access reads the store again.
    pub fn changed(&self, id: &StoreId) {
        // The cache still contains the old value. If the change does not affect the connection to the store, Valet
        // continues to use the old provider and its session.
        lock(&self.known).entry(id.clone()).or_default().changed();
    }

    /// Removes all cached data of a deleted store, including its connection and its signer.
    pub fn gone(&self, id: &StoreId) {
        if let Some(slot) = lock(&self.known).remove(id) {
            slot.changed();
        }
        self.forget_rest(id);
        self.store_limiter.limit(id, None);
    }

    /// Marks the cached labels of a namespace as stale.
    pub fn labels_changed(&self, namespace: &str) {
        self.labels.changed(namespace);
    }

    /// Removes the cached labels of a deleted namespace.
    pub fn namespace_gone(&self, namespace: &str) {
        self.labels.gone(namespace);
    }

    /// Removes the cache entry of a store that does not exist. Tenants can create grants with any number of store
    /// names. Without this method, the cache could grow without limit.
    fn forget(&self, id: &StoreId, slot: &Arc<Slot<CachedStore>>) {
        let mut known = lock(&self.known);
        // The reference count is 2 if only the map and the caller of this method refer to the entry. In this case no
        // task waits for the entry.
        if Arc::strong_count(slot) <= 2 && known.get(id).is_some_and(|kept| Arc::ptr_eq(kept, slot)) {
            known.remove(id);
        }
        drop(known);
        self.forget_rest(id);
    }

    fn forget_rest(&self, id: &StoreId) {
        self.signers.forget(id);
        lock(&self.ends).remove(id);
    }

    async fn known(&self, id: &StoreId) -> Result<CachedStore, Error> {
        let slot = lock(&self.known).entry(id.clone()).or_default().clone();
        let known = slot.get(|previous| self.read(id, previous)).await?;
        if matches!(known, CachedStore::Missing) {
            self.forget(id, &slot);
        }
        Ok(known)
    }
}

/// Returns the `Api` of a namespaced kind, for one namespace or for all namespaces.
pub fn scoped_api<K>(client: Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::mock_apiserver;

    /// Returns the answer of an apiserver that has one store and the Secret with its credentials.
    fn answer(path: &str) -> Value {
        if path.ends_with("/secrets/keys") {
            json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "uid": "2", "resourceVersion": "2"},
                "data": {"AWS_ACCESS_KEY_ID": "aWQ=", "AWS_SECRET_ACCESS_KEY": "c2VjcmV0"},
            })
        } else {
            json!({
                "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore",
                "metadata": {"name": "media", "uid": "1", "generation": 1},
                "spec": {
                    "s3": {"bucket": "media", "region": "eu-west-1", "credentials": {"secretRef": {"name": "keys"}}},
                    "limits": {"maxRequestsInFlight": 1},
                },
            })
        }
    }

    /// After a store was deleted, Valet removes the store's connection and signer from the cache.
    #[tokio::test]
    async fn deleted_store_is_removed_from_the_cache() {
        let store_limiter = Arc::new(StoreLimiter::new(8, |_, _, _| true));
        let client = mock_apiserver::client(answer);
        let stores = Stores::new(
            client,
            "valet-system".into(),
            false,
            EgressPolicy::new(Vec::new()),
            store_limiter,
        );
        let id = (StoreKind::ClusterObjectStore, String::new(), "media".to_owned());
        let CachedStore::Usable(connection) = stores.known(&id).await.unwrap() else {
            panic!("the store can be used");
        };
        let provider = Arc::downgrade(&connection.provider);
        drop(connection);
        stores.changed(&id);
        assert!(
            provider.upgrade().is_some(),
            "a change that does not affect the provider must not replace the provider"
        );
        stores.gone(&id);
        assert!(
            provider.upgrade().is_none(),
            "the deleted store must not keep its provider"
        );
        assert!(lock(&stores.known).is_empty());
        // Somebody deletes a store and creates a new store with the same name. The first signer of the new store does
        // not count as a change of the signer.
        stores.signers.seen(&id, "another".into(), Timestamp::now());
        assert!(!stores.signers.changed(&id));
    }
}
