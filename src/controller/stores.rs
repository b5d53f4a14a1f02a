use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    api::PartialObjectMeta,
    core::{NamespaceResourceScope, ObjectMeta},
};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use super::{
    error::{Error, call},
    requests::Requests,
    secrets::Secrets,
    signers::Signers,
    slot::{FRESHNESS, Slot},
};
use crate::{
    api::{
        Capabilities, ClusterAccessRule, ClusterObjectStore, ObjectStore, Reason, ShortSessions, Store, StoreKind,
        StoreRef, annotation,
    },
    grant::{Concern, Signer, StoreFact, StoreView, concern},
    sign::{Canary, Finding, Outward, Probed, Provider, SignError},
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
    Unusable { reason: Reason, message: String },
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

/// What came of trying a store out. One trial serves every grant of the store.
#[derive(Default)]
struct Trial(AsyncMutex<Option<Outcome>>);

/// What a store turned out to be like.
#[derive(Clone)]
struct Outcome {
    when: Instant,
    probed: Probed,
    canary: Option<Tried>,
}

/// A round trip with real keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// What asked for it.
    pub request: String,
    /// When it was made.
    pub when: Timestamp,
    /// What it found.
    pub found: Canary,
}

/// The longest request that is repeated in a status: far more than a time.
const LONGEST_REQUEST: usize = 64;

/// What asks for a round trip with real keys, if something does.
pub fn canary_request(store: &ObjectMeta) -> Option<String> {
    let value = store.annotations.as_ref()?.get(annotation::CANARY_REQUESTED_AT)?;
    Some(value[..value.floor_char_boundary(LONGEST_REQUEST)].to_owned())
}

impl Trial {
    /// The last result, tried again if it is older than its kind may be. Says whether it is another than before.
    async fn result(&self, connection: &Connection, age: fn(&Outcome) -> Duration) -> (Outcome, bool) {
        let mut last = self.0.lock().await;
        if let Some(outcome) = last.as_ref()
            && outcome.when.elapsed() < age(outcome)
        {
            return (outcome.clone(), false);
        }
        let provider = connection.provider.as_ref();
        let probed = provider.probe().await;
        // One round trip for each request, unless it was cut short.
        let before = last.as_ref().and_then(|outcome| outcome.canary.clone());
        let canary = match (&connection.canary_request, before) {
            (Some(_), Some(done)) if !done.found.interrupted => Some(done),
            (Some(request), _) if probed.finding == Finding::Usable => Some(Tried {
                request: request.clone(),
                found: provider.canary().await,
                when: Timestamp::now(),
            }),
            (_, before) => before,
        };
        let outcome = Outcome {
            when: Instant::now(),
            probed,
            canary,
        };
        let before = last.replace(outcome.clone());
        let is_news = before.is_some_and(|before| {
            before.probed != outcome.probed
                || before.canary.map(|c| c.found) != outcome.canary.clone().map(|c| c.found)
        });
        (outcome, is_news)
    }
}

/// How old a result may be by which a key is signed: what a store enforces does not change by itself, and what is broken
/// is looked at again by the store's own sweep. One that did not answer is asked again, though not by every grant.
fn age_for_grants(outcome: &Outcome) -> Duration {
    match outcome.probed.finding {
        Finding::Usable | Finding::Broken(..) => Duration::MAX,
        Finding::Unreachable(_) => FRESHNESS,
    }
}

/// How old a result may be in a store's status: a minute for what should change soon.
fn age_for_status(outcome: &Outcome) -> Duration {
    let is_interrupted = outcome.canary.as_ref().is_some_and(|c| c.found.interrupted);
    match outcome.probed.finding {
        Finding::Usable if !is_interrupted => Duration::from_secs(300),
        Finding::Usable | Finding::Broken(..) | Finding::Unreachable(_) => Duration::from_secs(50),
    }
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

    /// What a grant in `namespace` must know of its store, and the store's provider if it can be used. A key that is
    /// signed now is meant to live until `wanted_until`.
    ///
    /// # Errors
    /// Only if the apiserver cannot be asked: what is wrong with the store itself is a fact.
    pub async fn fact(
        &self,
        store: &StoreRef,
        namespace: &str,
        wanted_until: Timestamp,
    ) -> Result<(StoreFact, Option<Arc<dyn Provider>>), Error> {
        let connection = match self.known(&store_id(store, namespace)).await? {
            Known::Missing => return Ok((StoreFact::Missing, None)),
            Known::Unusable { reason, message } => return Ok((StoreFact::Unusable { reason, message }, None)),
            Known::Usable(connection) => connection,
        };
        connection.provider.prepare(wanted_until).await;
        let credentials_expire = match connection.provider.credentials_expire().await {
            Ok(end) => end,
            Err(SignError::Credentials { reason, message }) => {
                return Ok((StoreFact::Unusable { reason, message }, None));
            }
            Err(e) => return Err(e.into()),
        };
        let (outcome, _) = connection.trial.result(&connection, age_for_grants).await;
        if let Finding::Broken(reason, message) = outcome.probed.finding {
            return Ok((StoreFact::Unusable { reason, message }, None));
        }
        // Whoever wants a store tried out wants no keys before: some would be weaker than their grants, and some that are out
        // would be withdrawn since nobody has tried yet.
        if let (Finding::Unreachable(why), Some(_), None) =
            (&outcome.probed.finding, &connection.canary_request, &outcome.canary)
        {
            let message = format!("it is to be tried out with real keys first, and does not answer: {why}");
            let reason = Reason::StoreUnreachable;
            return Ok((StoreFact::Unusable { reason, message }, None));
        }
        if let Some(message) = outcome.canary.and_then(|c| c.found.worthless) {
            let reason = Reason::KeysNotEnforced;
            return Ok((StoreFact::Unusable { reason, message }, None));
        }
        let by_label = connection.rules.iter().any(|r| r.namespaces.selector.is_some());
        let namespace_labels = if by_label {
            self.namespace_labels(namespace).await?
        } else {
            Arc::default()
        };
        let view = StoreView {
            max_live_grants: connection.max_live_grants,
            rules: connection.rules,
            namespace_labels,
            capabilities: connection.provider.capabilities(),
            credentials_expire,
            short_sessions: connection.short_sessions,
            signer: connection.signer,
        };
        Ok((StoreFact::Usable(view), Some(connection.provider)))
    }

    /// What is known of a store for its own status, or why it cannot be used; `None` if it is gone.
    ///
    /// # Errors
    /// Only if the apiserver cannot be asked.
    pub async fn condition(&self, id: &StoreId) -> Result<Option<Result<Condition, (Reason, String)>>, Error> {
        let connection = match self.known(id).await? {
            Known::Missing => return Ok(None),
            Known::Unusable { reason, message } => return Ok(Some(Err((reason, message)))),
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
        let (outcome, is_news) = connection.trial.result(&connection, age_for_status).await;
        Ok(Some(Ok(Condition {
            capabilities: connection.provider.capabilities(),
            credentials_expire,
            probed: outcome.probed,
            canary: outcome.canary,
            is_news: is_news || self.signers.changed(id),
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
        let labels = match rules.iter().any(|r| r.namespaces.selector.is_some()) {
            true => self.namespace_labels(namespace).await?,
            false => Arc::default(),
        };
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

    async fn known(&self, id: &StoreId) -> Result<Known, Error> {
        let slot = lock(&self.known).entry(id.clone()).or_default().clone();
        slot.get(|kept| async move {
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
        })
        .await
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
        let unusable = |(reason, message)| Ok(Known::Unusable { reason, message });
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
            rules: Arc::new(store.rules()),
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
