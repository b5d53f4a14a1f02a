//! Connects to a store: reads the spec and the credentials of the store, and creates a provider for the store.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Api, ResourceExt};

use super::{
    Stores, check_request,
    connection::{CachedStore, ConnectError, Connection, in_time, problem_as_value},
};
use crate::{
    api::{ClusterObjectStore, ObjectStore, Reason, Store, StoreKind},
    controller::error::{Error, call},
    core::StoreId,
    net::EgressPolicy,
    provider::{Account, CredentialsSource, registry},
};

impl Stores {
    /// Reads a store again. If the store's connection settings and credentials have not changed, the result contains
    /// the connection from `previous`.
    pub(super) async fn read(&self, id: &StoreId, previous: Option<CachedStore>) -> Result<CachedStore, Error> {
        let previous = match previous {
            Some(CachedStore::Usable(connection)) => Some(connection),
            _ => None,
        };
        match id.0 {
            StoreKind::ClusterObjectStore => {
                let api: Api<ClusterObjectStore> = Api::all(self.client.clone());
                self.connect(api, id, previous).await
            }
            StoreKind::ObjectStore => {
                let api: Api<ObjectStore> = Api::namespaced(self.client.clone(), &id.1);
                self.connect(api, id, previous).await
            }
        }
    }

    async fn connect<S: Store>(
        &self,
        api: Api<S>,
        id: &StoreId,
        previous: Option<Connection>,
    ) -> Result<CachedStore, Error> {
        let store = match call("reading a store", api.get(&id.2)).await {
            Ok(store) => store,
            Err(Error::Gone(_)) => {
                self.store_limiter.limit(id, None);
                return Ok(CachedStore::Missing);
            }
            Err(e) => return Err(e),
        };
        let limits = store.limits();
        self.store_limiter.limit(id, limits.max_requests_in_flight);
        let rules = Arc::new(store.rules());
        // Valet does not restrict the endpoint of a ClusterObjectStore, because ClusterObjectStores belong to the
        // platform team.
        let egress = (id.0 == StoreKind::ObjectStore).then(|| self.egress.clone());
        let (account, version) = match problem_as_value(self.account(id, &store, egress.as_ref()).await)? {
            Ok(account) => account,
            Err((reason, message)) => return Ok(CachedStore::Unusable { reason, message, rules }),
        };
        let check_request = check_request(store.meta());
        // An annotation of the store requests a conformance check. If somebody changes the value of this annotation,
        // Valet keeps the connection and runs a new check. If somebody adds or removes the annotation, Valet creates a
        // new connection.
        let fingerprint = format!(
            "{:?} {:?} {version} {}",
            store.uid(),
            store.meta().generation,
            check_request.is_some()
        );
        let (provider, store_probe) = match previous {
            Some(previous) if previous.fingerprint == fingerprint => (previous.provider, previous.store_probe),
            _ => (account.connect(egress), Arc::default()),
        };
        // The signer is `None` if the store has no credentials, or if Valet cannot compute the fingerprint of the
        // credentials. Without a signer, Valet does not notice a change of the credentials, and does not sign issued
        // credentials again.
        let salt = store.uid().unwrap_or_default();
        let signs = in_time(provider.fingerprint(&salt)).await.ok().flatten();
        Ok(CachedStore::Usable(Connection {
            fingerprint,
            max_live_grants: limits.max_live_grants,
            rules,
            short_sessions: store.short_sessions(),
            signer: signs.map(|fingerprint| self.signers.seen(id, fingerprint, Timestamp::now())),
            provider,
            store_probe,
            check_request,
        }))
    }

    /// Returns the store's settings together with the store's credentials. Also returns a text that identifies the
    /// version of the credentials.
    async fn account<S: Store>(
        &self,
        id: &StoreId,
        store: &S,
        egress: Option<&EgressPolicy>,
    ) -> Result<(Box<dyn Account>, String), ConnectError> {
        let settings = registry::settings(store)?;
        if let Some(egress) = egress {
            settings.check_endpoint(egress).await?;
        }
        let name = match settings.credentials() {
            CredentialsSource::Environment if id.0 == StoreKind::ObjectStore && !self.share_environment => {
                let message = format!(
                    "an ObjectStore is not allowed to use the operator's own credentials; set {field}.credentials.secretRef",
                    field = settings.field()
                );
                return Err((Reason::CredentialsInvalid, message).into());
            }
            CredentialsSource::Environment => {
                let account = settings.with_environment(&self.environment).await;
                return Ok((account, "environment".to_owned()));
            }
            CredentialsSource::Secret(name) => name,
        };
        // The message does not contain the name of the operator's namespace, because tenants can read the message.
        let (namespace, missing) = match id.0 {
            StoreKind::ObjectStore => (
                &id.1,
                format!(
                    "Secret {name} with the store's credentials does not exist in namespace {namespace}; create the Secret",
                    namespace = id.1
                ),
            ),
            StoreKind::ClusterObjectStore => (
                &self.operator_namespace,
                format!(
                    "Secret {name} with the store's credentials does not exist in the operator's namespace; the store's owner must create the Secret"
                ),
            ),
        };
        let secret = match self.secrets.get(namespace, &name).await {
            Ok(secret) => secret,
            Err(Error::Gone(_)) => return Err((Reason::CredentialsNotFound, missing).into()),
            Err(Error::Refused(_)) => {
                let message = format!(
                    "the operator's account is not allowed to read Secret {name} with the store's credentials; allow this account to get the Secret"
                );
                return Err((Reason::CredentialsInvalid, message).into());
            }
            Err(e) => return Err(e.into()),
        };
        let version = format!("{:?} {:?}", secret.metadata.uid, secret.metadata.resource_version);
        let data = secret.data.unwrap_or_default();
        let entries: Vec<_> = data
            .iter()
            .map(|(name, value)| (name.as_str(), value.0.as_slice()))
            .collect();
        let account = settings.with_secret(&entries).map_err(|e| {
            let message = format!("Secret {name} with the store's credentials cannot be used: {e}");
            (Reason::CredentialsInvalid, message)
        })?;
        Ok((account, version))
    }
}
