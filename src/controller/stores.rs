//! Stores as grants and their own statuses need to know them: read, connected to and tried out, and kept for a moment.

mod connect;
mod current;
mod labels;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use kube::{
    Api, Client,
    core::{NamespaceResourceScope, ObjectMeta},
};

use labels::NamespaceLabels;

use super::{
    error::Error,
    requests::Requests,
    secrets::NamedSecrets,
    signers::Signers,
    slot::Slot,
    trial::{Trial, Trials, Tried, age_for_grants, age_for_status},
};
use crate::{
    api::{Capabilities, ClusterAccessRule, Reason, ShortSessions, Store, StoreKind, annotation, printable},
    core::{
        Concern, GrantFacts, Refusal, RulesView, SignError, Signer, StoreFact, StoreId, StoreView, Untried, concern,
        still_allowed, store_id,
    },
    net::Outward,
    provider::registry::Environment,
    provider::{Probed, Provider},
};

/// Reads stores and keeps them for a moment.
pub struct Stores {
    client: Client,
    secrets: NamedSecrets,
    operator_namespace: String,
    /// Whether an ObjectStore may sign with the operator's own identity.
    share_environment: bool,
    /// Where an ObjectStore's endpoint may lead.
    outward: Outward,
    /// Is told how many visits may wait for a store.
    requests: Arc<Requests>,
    environment: Environment,
    known: Mutex<HashMap<StoreId, Arc<Slot<Known>>>>,
    labels: NamespaceLabels,
    /// Outlasts times in which the store cannot be used, as between the old credentials and the new ones.
    signers: Signers,
    /// When the credentials end that were found last.
    ends: Mutex<HashMap<StoreId, Timestamp>>,
    /// Tries stores out.
    pub trials: Arc<Trials>,
}

/// Why a store cannot be used, as conditions say it.
pub type Why = (Reason, String);

/// What keeps a store from being used: its own state, which is a fact, or that the apiserver could not be asked.
enum Stop {
    Unusable(Why),
    Failed(Error),
}

impl From<Why> for Stop {
    fn from(why: Why) -> Self {
        Self::Unusable(why)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<SignError> for Stop {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Credentials { reason, message } => Self::Unusable((reason, message)),
            other => Self::Failed(other.into()),
        }
    }
}

/// The fact apart from the failure.
fn told<T>(result: Result<T, Stop>) -> Result<Result<T, Why>, Error> {
    match result {
        Ok(found) => Ok(Ok(found)),
        Err(Stop::Unusable(why)) => Ok(Err(why)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

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
    let value = printable(store.annotations.as_ref()?.get(annotation::CANARY_REQUESTED_AT)?);
    Some(value[..value.floor_char_boundary(LONGEST_REQUEST)].to_owned())
}

/// What a store's own status says.
pub struct Condition {
    /// What grants may ask of it.
    pub capabilities: Arc<Capabilities>,
    /// When the credentials end that sign now.
    pub credentials_expire: Option<Timestamp>,
    /// Whether they are temporary, and nothing says when they end.
    pub end_is_unknown: bool,
    /// What came of trying it out.
    pub probed: Probed,
    /// And of doing so with real keys, if somebody asked for it.
    pub canary: Option<Tried>,
    /// Whether the store signs with something else than last time: its grants must be judged anew.
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
            secrets: NamedSecrets::new(client.clone()),
            labels: NamespaceLabels::new(client.clone()),
            client,
            operator_namespace,
            share_environment,
            outward,
            requests,
            environment: Environment::default(),
            known: Mutex::default(),
            signers: Signers::default(),
            ends: Mutex::default(),
            trials: Arc::default(),
        }
    }

    /// What a grant must know of its store. A key that is signed now is meant to live until `wanted_until`. For a grant that the
    /// rules refuse nothing is asked of the store or of its STS.
    ///
    /// # Errors
    /// If the apiserver cannot be asked: what is wrong with the store itself is a fact. Or [`Error::NotProbed`].
    pub async fn fact(&self, grant: &GrantFacts, wanted_until: Timestamp) -> Result<Found, Error> {
        let (store, namespace) = (&grant.terms.store_ref, grant.namespace.as_str());
        let id = store_id(store, namespace);
        let known = self.known(&id).await?;
        let rules = match &known {
            Known::Missing => return Ok(Found::of(StoreFact::Missing)),
            Known::Unusable { rules, .. } => rules.clone(),
            Known::Usable(connection) => connection.rules.clone(),
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
            // What signs is told all the same: an upload that Valet began for the grant may be aborted.
            (Known::Usable(connection), Some(Refusal { reason, message })) => {
                return Ok(Found {
                    provider: Some(connection.provider),
                    rules: Some(RulesView {
                        rules,
                        namespace_labels,
                    }),
                    ..Found::of(StoreFact::Unusable { reason, message })
                });
            }
            (Known::Usable(connection), None) => told(connection.usable(&id, &self.trials, wanted_until).await)?,
            (Known::Unusable { reason, message, .. }, _) => Err((reason, message)),
            (Known::Missing, _) => return Ok(Found::of(StoreFact::Missing)),
        };
        Ok(match usable {
            Ok(usable) => Found {
                fact: StoreFact::Usable(StoreView {
                    max_live_grants: usable.connection.max_live_grants,
                    namespace_labels,
                    rules,
                    capabilities: usable.connection.provider.capabilities(),
                    credentials_expire: usable.credentials_expire,
                    short_sessions: usable.connection.short_sessions,
                    signer: usable.connection.signer,
                    skew: usable.connection.provider.skew(),
                    untried: usable.untried,
                }),
                provider: Some(usable.connection.provider),
                rules: None,
            },
            // Keys that are out stay while it is so, if the rules still allow them.
            Err((reason, message)) => Found {
                rules: Some(RulesView {
                    rules,
                    namespace_labels,
                }),
                ..Found::of(StoreFact::Unusable { reason, message })
            },
        })
    }

    /// What is known of a store for its own status, or why it cannot be used; `None` if it is gone.
    ///
    /// # Errors
    /// If the apiserver cannot be asked; or [`Error::NotProbed`].
    pub async fn condition(&self, id: &StoreId) -> Result<Option<Result<Condition, Why>>, Error> {
        Ok(match self.known(id).await? {
            Known::Missing => None,
            Known::Unusable { reason, message, .. } => Some(Err((reason, message))),
            Known::Usable(connection) => Some(told(self.try_out(id, &connection).await)?),
        })
    }

    async fn try_out(&self, id: &StoreId, connection: &Connection) -> Result<Condition, Stop> {
        let credentials_expire = in_time(connection.provider.source_expires()).await?;
        match credentials_expire {
            Some(end) => lock(&self.ends).insert(id.clone(), end),
            None => lock(&self.ends).remove(id),
        };
        if let Some(end) = credentials_expire.filter(|end| *end <= Timestamp::now()) {
            let message = format!("the credentials ended at {end}; renew them");
            return Err((Reason::CredentialsExpired, message).into());
        }
        let request = connection.canary_request.as_ref();
        let Connection { trial, provider, .. } = connection;
        let outcome = self.trials.outcome(id, trial, provider, request, age_for_status);
        let outcome = outcome.ok_or(Error::NotProbed)?;
        Ok(Condition {
            capabilities: connection.provider.capabilities(),
            credentials_expire,
            end_is_unknown: connection.provider.end_is_unknown().await,
            probed: outcome.probed,
            canary: outcome.canary,
            is_news: self.signers.changed(id),
        })
    }

    /// When the credentials end that this operator was last seen to sign with for the store, if they do.
    pub fn credentials_end(&self, id: &StoreId) -> Option<Timestamp> {
        lock(&self.ends).get(id).copied()
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
        let labels = self.labels.for_rules(&rules, namespace).await?;
        Ok(concern(&rules, namespace, &labels))
    }

    /// Forgets a store that has changed, so that the next reader reads it.
    pub fn changed(&self, id: &StoreId) {
        // What was read is kept to compare with: the provider and its session stay if the change did not concern them.
        lock(&self.known).entry(id.clone()).or_default().changed();
    }

    /// Forgets a store that is gone, and everything that was known of it: what signed for it, and with what.
    pub fn gone(&self, id: &StoreId) {
        if let Some(slot) = lock(&self.known).remove(id) {
            slot.changed();
        }
        self.forget_rest(id);
        self.requests.limit(id, None);
    }

    /// Forgets a namespace's labels, which have changed.
    pub fn relabelled(&self, namespace: &str) {
        self.labels.changed(namespace);
    }

    /// Forgets a namespace that is gone.
    pub fn namespace_gone(&self, namespace: &str) {
        self.labels.gone(namespace);
    }

    /// Keeps nothing of a store that is not there: grants can name any number of such.
    fn forget(&self, id: &StoreId, slot: &Arc<Slot<Known>>) {
        let mut known = lock(&self.known);
        // In the map and here: nobody else waits for it.
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

    async fn known(&self, id: &StoreId) -> Result<Known, Error> {
        let slot = lock(&self.known).entry(id.clone()).or_default().clone();
        let known = slot.get(|previous| self.read(id, previous)).await?;
        if matches!(known, Known::Missing) {
            self.forget(id, &slot);
        }
        Ok(known)
    }
}

/// A store that can be used for a key that is signed now.
struct Usable {
    connection: Connection,
    credentials_expire: Option<Timestamp>,
    untried: Option<Untried>,
}

impl Connection {
    /// Whether a key that is signed now, and is meant to live until `wanted_until`, is worth what it says.
    async fn usable(self, id: &StoreId, trials: &Arc<Trials>, wanted_until: Timestamp) -> Result<Usable, Stop> {
        let provider = self.provider.as_ref();
        let credentials_expire = in_time(async {
            provider.prepare(wanted_until).await;
            provider.credentials_expire().await
        })
        .await?;
        let request = self.canary_request.as_ref();
        let Some(outcome) = trials.outcome(id, &self.trial, &self.provider, request, age_for_grants) else {
            return Err(self.trial.overdue().map_or(Error::NotProbed.into(), Stop::Unusable));
        };
        if let Some(why) = outcome.forbids(request.is_some()) {
            return Err(why.into());
        }
        let untried = outcome.untried(provider);
        Ok(Usable {
            connection: self,
            credentials_expire,
            untried,
        })
    }
}

/// How long a store's credentials may take: with STS, an identity's token, or a process that prints them.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

async fn in_time<T>(work: impl Future<Output = Result<T, SignError>>) -> Result<T, SignError> {
    tokio::time::timeout(CREDENTIALS_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| {
            let message = format!(
                "the store's credentials could not be had within {} s",
                CREDENTIALS_TIMEOUT.as_secs()
            );
            Err(SignError::Credentials {
                reason: Reason::StoreUnreachable,
                message,
            })
        })
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

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use futures::future::{Ready, ready};
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// An apiserver with one store and its credentials.
    #[derive(Clone)]
    struct Server;

    impl tower_service::Service<Request<Body>> for Server {
        type Response = Response<Body>;
        type Error = std::convert::Infallible;
        type Future = Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let object = if request.uri().path().ends_with("/secrets/keys") {
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
            };
            ready(Ok(Response::new(Body::from(object.to_string().into_bytes()))))
        }
    }

    /// A store that is deleted leaves nothing behind: neither what signs for it with its connections, nor what it signed with.
    #[tokio::test]
    async fn nothing_is_kept_of_a_store_that_is_gone() {
        let requests = Arc::new(Requests::new(8, |_, _, _| true));
        let client = Client::new(Server, "default");
        let stores = Stores::new(client, "valet-system".into(), false, Outward::new(Vec::new()), requests);
        let id = (StoreKind::ClusterObjectStore, String::new(), "media".to_owned());
        let Known::Usable(connection) = stores.known(&id).await.unwrap() else {
            panic!("it can be used");
        };
        let provider = Arc::downgrade(&connection.provider);
        drop(connection);
        stores.changed(&id);
        assert!(provider.upgrade().is_some(), "a change need not concern it");
        stores.gone(&id);
        assert!(provider.upgrade().is_none(), "it is kept");
        assert!(lock(&stores.known).is_empty());
        // Another one of its name is another one: what it signs with is no news.
        stores.signers.seen(&id, "another".into());
        assert!(!stores.signers.changed(&id));
    }
}
