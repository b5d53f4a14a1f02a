mod current;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    api::PartialObjectMeta,
    core::{NamespaceResourceScope, ObjectMeta},
};

use super::{
    error::{Error, call},
    requests::Requests,
    secrets::Secrets,
    signers::Signers,
    slot::Slot,
    trial::{Trial, Tried, age_for_grants, age_for_status},
};
use crate::{
    api::{
        Capabilities, ClusterAccessRule, ClusterObjectStore, ObjectStore, Reason, ShortSessions, Store, StoreKind,
        StoreRef, annotation,
    },
    grant::{Concern, RulesView, Signer, StoreFact, StoreView, concern},
    sign::{Finding, Outward, Probed, Provider, SignError},
    store::{self, CredentialsSource, Environment},
};

/// Reads stores and keeps them for a moment.
pub struct Stores {
    client: Client,
    secrets: Secrets,
    operator_namespace: String,
    /// Whether an ObjectStore may sign with the operator's own identity.
    share_environment: bool,
    /// Where an ObjectStore's endpoint may lead.
    outward: Outward,
    /// Is told how many visits may wait for a store.
    requests: Arc<Requests>,
    environment: Environment,
    known: Mutex<HashMap<StoreId, Arc<Slot<Known>>>>,
    labels: Mutex<HashMap<String, Arc<Slot<Labels>>>>,
    /// Outlasts times in which the store cannot be used, as between the old credentials and the new ones.
    signers: Signers,
}

/// Names a store; the namespace is empty for a ClusterObjectStore.
pub type StoreId = (StoreKind, String, String);

type Labels = Arc<BTreeMap<String, String>>;

#[derive(Clone)]
enum Known {
    Missing,
    Unusable {
        reason: Reason,
        message: String,
        /// They bind all the same.
        rules: Arc<Vec<ClusterAccessRule>>,
    },
    Usable(Connection),
}

#[derive(Clone)]
struct Connection {
    /// What it was made from: while this stays, so does the provider with its session.
    fingerprint: String,
    max_live_grants: Option<i64>,
    rules: Arc<Vec<ClusterAccessRule>>,
    short_sessions: ShortSessions,
    /// What it signs with; `None` while that is not known.
    signer: Option<Signer>,
    provider: Arc<dyn Provider>,
    trial: Arc<Trial>,
    /// What asks for a round trip with real keys.
    canary_request: Option<String>,
}

/// The longest request that is repeated in a status: far more than a time.
const LONGEST_REQUEST: usize = 64;

/// What asks for a round trip with real keys, if something does.
pub fn canary_request(store: &ObjectMeta) -> Option<String> {
    let value = store.annotations.as_ref()?.get(annotation::CANARY_REQUESTED_AT)?;
    Some(value[..value.floor_char_boundary(LONGEST_REQUEST)].to_owned())
}

/// What a store's own status says.
pub struct Condition {
    /// What grants may ask of it.
    pub capabilities: Arc<Capabilities>,
    /// When the credentials end that sign now.
    pub credentials_expire: Option<Timestamp>,
    /// What came of trying it out.
    pub probed: Probed,
    /// And of doing so with real keys, if somebody asked for it.
    pub canary: Option<Tried>,
    /// Whether that is another result than last time, or the store signs with something else: its grants must be judged
    /// anew.
    pub is_news: bool,
}

/// What a grant must know of its store.
pub struct Found {
    /// Whether it can be used, and how.
    pub fact: StoreFact,
    /// What signs and looks, if it can be used.
    pub provider: Option<Arc<dyn Provider>>,
    /// Its rules, if it cannot.
    pub rules: Option<RulesView>,
}

impl Found {
    fn of(fact: StoreFact) -> Self {
        Self {
            fact,
            provider: None,
            rules: None,
        }
    }
}

/// Names the store that a grant in `namespace` means.
pub fn store_id(store: &StoreRef, namespace: &str) -> StoreId {
    let namespace = match store.kind {
        StoreKind::ObjectStore => namespace.to_owned(),
        StoreKind::ClusterObjectStore => String::new(),
    };
    (store.kind, namespace, store.name.clone())
}

impl Stores {
    /// Reads with this client. Credentials of ClusterObjectStores are in `operator_namespace`; the endpoints of
    /// ObjectStores must lead outwards.
    pub fn new(
        client: Client,
        operator_namespace: String,
        share_environment: bool,
        outward: Outward,
        requests: Arc<Requests>,
    ) -> Self {
        Self {
            secrets: Secrets::new(client.clone()),
            client,
            operator_namespace,
            share_environment,
            outward,
            requests,
            environment: Environment::default(),
            known: Mutex::default(),
            labels: Mutex::default(),
            signers: Signers::default(),
        }
    }

    /// What a grant in `namespace` must know of its store. A key that is signed now is meant to live until `wanted_until`.
    ///
    /// # Errors
    /// Only if the apiserver cannot be asked: what is wrong with the store itself is a fact.
    pub async fn fact(&self, store: &StoreRef, namespace: &str, wanted_until: Timestamp) -> Result<Found, Error> {
        let connection = match self.known(&store_id(store, namespace)).await? {
            Known::Missing => return Ok(Found::of(StoreFact::Missing)),
            Known::Unusable { reason, message, rules } => {
                return self.unusable(reason, message, rules, namespace).await;
            }
            Known::Usable(connection) => connection,
        };
        let Connection {
            provider,
            rules,
            canary_request,
            ..
        } = &connection;
        provider.prepare(wanted_until).await;
        let credentials_expire = match provider.credentials_expire().await {
            Ok(end) => end,
            Err(SignError::Credentials { reason, message }) => {
                return self.unusable(reason, message, rules.clone(), namespace).await;
            }
            Err(e) => return Err(e.into()),
        };
        let request = canary_request.as_ref();
        let outcome = connection
            .trial
            .result(provider.as_ref(), request, age_for_grants)
            .await;
        let untried = outcome.untried(provider.as_ref()).map(str::to_owned);
        if let Finding::Broken(reason, message) = outcome.probed.finding {
            return self.unusable(reason, message, rules.clone(), namespace).await;
        }
        // Whoever wants a store tried out wants no keys before: some would be weaker than their grants, and some that are out
        // would be withdrawn since nobody has tried yet.
        if let (Finding::Unreachable(why), Some(_), None) =
            (&outcome.probed.finding, &connection.canary_request, &outcome.canary)
        {
            let message = format!("it is to be tried out with real keys first, and does not answer: {why}");
            let reason = Reason::StoreUnreachable;
            return self.unusable(reason, message, rules.clone(), namespace).await;
        }
        if let Some(message) = outcome.canary.and_then(|c| c.found.worthless) {
            let reason = Reason::KeysNotEnforced;
            return self.unusable(reason, message, rules.clone(), namespace).await;
        }
        let view = StoreView {
            max_live_grants: connection.max_live_grants,
            namespace_labels: self.labels_for(rules, namespace).await?,
            rules: rules.clone(),
            capabilities: provider.capabilities(),
            credentials_expire,
            short_sessions: connection.short_sessions,
            signer: connection.signer,
            untried,
        };
        Ok(Found {
            provider: Some(connection.provider),
            ..Found::of(StoreFact::Usable(view))
        })
    }

    /// A store that cannot be used now, with what its rules say of the namespace: keys that are out stay while it is so, if
    /// the rules still allow them.
    async fn unusable(
        &self,
        reason: Reason,
        message: String,
        rules: Arc<Vec<ClusterAccessRule>>,
        namespace: &str,
    ) -> Result<Found, Error> {
        let namespace_labels = self.labels_for(&rules, namespace).await?;
        Ok(Found {
            rules: Some(RulesView {
                rules,
                namespace_labels,
            }),
            ..Found::of(StoreFact::Unusable { reason, message })
        })
    }

    /// The namespace's labels, if a rule chooses by them.
    async fn labels_for(&self, rules: &[ClusterAccessRule], namespace: &str) -> Result<Labels, Error> {
        if rules.iter().any(|r| r.namespaces.selector.is_some()) {
            self.namespace_labels(namespace).await
        } else {
            Ok(Arc::default())
        }
    }

    /// What is known of a store for its own status, or why it cannot be used; `None` if it is gone.
    ///
    /// # Errors
    /// Only if the apiserver cannot be asked.
    pub async fn condition(&self, id: &StoreId) -> Result<Option<Result<Condition, (Reason, String)>>, Error> {
        let connection = match self.known(id).await? {
            Known::Missing => return Ok(None),
            Known::Unusable { reason, message, .. } => return Ok(Some(Err((reason, message)))),
            Known::Usable(connection) => connection,
        };
        let credentials_expire = match connection.provider.source_expires().await {
            Ok(Some(end)) if end <= Timestamp::now() => {
                let message = format!("the credentials ended at {end}; renew them");
                return Ok(Some(Err((Reason::CredentialsExpired, message))));
            }
            Ok(end) => end,
            Err(SignError::Credentials { reason, message }) => return Ok(Some(Err((reason, message)))),
            Err(e) => return Err(e.into()),
        };
        let request = connection.canary_request.as_ref();
        let trial = &connection.trial;
        let outcome = trial
            .result(connection.provider.as_ref(), request, age_for_status)
            .await;
        // Both are taken, whichever it is.
        let (tried, signed) = (trial.take_news(), self.signers.changed(id));
        Ok(Some(Ok(Condition {
            capabilities: connection.provider.capabilities(),
            credentials_expire,
            probed: outcome.probed,
            canary: outcome.canary,
            is_news: tried || signed,
        })))
    }

    /// What a store is to an operator that serves one namespace, if it does so.
    ///
    /// # Errors
    /// If the namespace's labels cannot be read, where rules choose by label.
    pub async fn concern<S: Store>(&self, store: &S, scope: Option<&str>) -> Result<Concern, Error> {
        let Some(namespace) = scope.filter(|_| S::KIND == StoreKind::ClusterObjectStore) else {
            return Ok(Concern::Alone);
        };
        let rules = store.rules();
        let labels = self.labels_for(&rules, namespace).await?;
        Ok(concern(&rules, namespace, &labels))
    }

    /// Forgets a store that has changed, so that the next reader reads it.
    pub fn changed(&self, id: &StoreId) {
        // What was read is kept to compare with: the provider and its session stay if the change did not concern them.
        lock(&self.known).entry(id.clone()).or_default().changed();
    }

    /// Forgets a namespace's labels, which have changed.
    pub fn relabelled(&self, namespace: &str) {
        if let Some(slot) = lock(&self.labels).get(namespace) {
            slot.changed();
        }
    }

    /// Forgets a namespace that is gone: another one of its name is another one.
    pub fn namespace_gone(&self, namespace: &str) {
        if let Some(slot) = lock(&self.labels).remove(namespace) {
            slot.changed();
        }
    }

    /// Keeps nothing of a store that is not there: grants can name any number of such.
    fn forget(&self, id: &StoreId, slot: &Arc<Slot<Known>>) {
        let mut known = lock(&self.known);
        // In the map and here: nobody else waits for it.
        if Arc::strong_count(slot) <= 2 && known.get(id).is_some_and(|kept| Arc::ptr_eq(kept, slot)) {
            known.remove(id);
        }
        drop(known);
        self.signers.forget(id);
    }

    async fn known(&self, id: &StoreId) -> Result<Known, Error> {
        let slot = lock(&self.known).entry(id.clone()).or_default().clone();
        let read = |kept| async move {
            let previous = match kept {
                Some(Known::Usable(connection)) => Some(connection),
                _ => None,
            };
            match id.0 {
                StoreKind::ClusterObjectStore => {
                    let api: Api<ClusterObjectStore> = Api::all(self.client.clone());
                    self.connect(api, id, &self.operator_namespace, previous).await
                }
                StoreKind::ObjectStore => {
                    let api: Api<ObjectStore> = Api::namespaced(self.client.clone(), &id.1);
                    self.connect(api, id, &id.1, previous).await
                }
            }
        };
        let known = slot.get(read).await?;
        if matches!(known, Known::Missing) {
            self.forget(id, &slot);
        }
        Ok(known)
    }

    async fn connect<S: Store>(
        &self,
        api: Api<S>,
        id: &StoreId,
        secrets_namespace: &str,
        previous: Option<Connection>,
    ) -> Result<Known, Error> {
        let store = match call("reading a store", api.get(&id.2)).await {
            Ok(store) => store,
            Err(Error::Gone(_)) => {
                self.requests.limit(id, None);
                return Ok(Known::Missing);
            }
            Err(e) => return Err(e),
        };
        let limits = store.limits();
        self.requests.limit(id, limits.max_requests_in_flight);
        let rules = Arc::new(store.rules());
        let unusable = |(reason, message)| {
            Ok(Known::Unusable {
                reason,
                message,
                rules: rules.clone(),
            })
        };
        let settings = match store::settings(&store) {
            Ok(settings) => settings,
            Err(why) => return unusable(why),
        };
        // A ClusterObjectStore is the platform's own, and leads where the platform says.
        let outward = (id.0 == StoreKind::ObjectStore).then(|| self.outward.clone());
        if let Some(outward) = &outward
            && let Err(why) = settings.check_endpoint(outward).await
        {
            return unusable(why);
        }
        let (account, version) = match settings.credentials() {
            CredentialsSource::Environment if id.0 == StoreKind::ObjectStore && !self.share_environment => {
                let message = format!(
                    "an ObjectStore may not use the operator's own credentials; set {}.credentials.secretRef",
                    settings.field()
                );
                return unusable((Reason::CredentialsInvalid, message));
            }
            CredentialsSource::Environment => {
                let account = settings.with_environment(&self.environment).await;
                (account, "environment".to_owned())
            }
            CredentialsSource::Secret(name) => {
                let secret = match self.secrets.credentials(secrets_namespace, &name).await {
                    Ok(secret) => secret,
                    Err(Error::Gone(_)) => {
                        let message = format!(
                            "Secret {name} with the store's credentials does not exist in namespace {secrets_namespace}; create it"
                        );
                        return unusable((Reason::CredentialsNotFound, self.for_tenants(id, &name, message)));
                    }
                    Err(Error::Refused(_)) => {
                        let message = format!(
                            "the operator's account may not read Secret {name} with the store's credentials; allow it to get that Secret"
                        );
                        return unusable((Reason::CredentialsInvalid, message));
                    }
                    Err(e) => return Err(e),
                };
                let version = format!("{:?} {:?}", secret.metadata.uid, secret.metadata.resource_version);
                let data = secret.data.unwrap_or_default();
                match settings.with_secret(data.iter().map(|(name, value)| (name.as_str(), value.0.as_slice()))) {
                    Ok(account) => (account, version),
                    Err(e) => {
                        return unusable((
                            Reason::CredentialsInvalid,
                            format!("Secret {name} with the store's credentials cannot be used: {e}"),
                        ));
                    }
                }
            }
        };
        let canary_request = canary_request(store.meta());
        let fingerprint = format!(
            "{:?} {:?} {version} {canary_request:?}",
            store.uid(),
            store.meta().generation
        );
        let (provider, trial) = match previous {
            Some(previous) if previous.fingerprint == fingerprint => (previous.provider, previous.trial),
            _ => (account.connect(outward), Arc::default()),
        };
        // Of a store without credentials, or that does not tell, nothing is known; keys stay as they are then.
        let salt = store.uid().unwrap_or_default();
        let signs = provider.fingerprint(&salt).await.ok().flatten();
        Ok(Known::Usable(Connection {
            fingerprint,
            max_live_grants: limits.max_live_grants,
            rules: rules.clone(),
            short_sessions: store.short_sessions(),
            signer: signs.map(|fingerprint| self.signers.seen(id, fingerprint)),
            provider,
            trial,
            canary_request,
        }))
    }

    /// A tenant need not learn how the operator's namespace is called.
    fn for_tenants(&self, id: &StoreId, secret: &str, message: String) -> String {
        match id.0 {
            StoreKind::ObjectStore => message,
            StoreKind::ClusterObjectStore => {
                format!(
                    "Secret {secret} with the store's credentials does not exist in the operator's namespace; the store's owner must create it"
                )
            }
        }
    }

    async fn namespace_labels(&self, namespace: &str) -> Result<Arc<BTreeMap<String, String>>, Error> {
        let slot = lock(&self.labels).entry(namespace.to_owned()).or_default().clone();
        slot.get(|_| async move {
            let api: Api<Namespace> = Api::all(self.client.clone());
            let found: PartialObjectMeta<Namespace> =
                call("reading a namespace", api.get_metadata(namespace)).await?;
            Ok(Arc::new(found.metadata.labels.unwrap_or_default()))
        })
        .await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The `Api` of a namespaced kind, of one namespace or of all.
pub fn scoped<K>(client: Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    }
}
