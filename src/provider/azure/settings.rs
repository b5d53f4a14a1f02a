//! The settings of an Azure container and the credentials that sign for it.

use std::{env, sync::Arc};

use futures::{FutureExt, future::BoxFuture};

use super::{
    credentials::Credentials,
    microsoft,
    sas::SharedKey,
    secret,
    store::AzureBlob,
    tokens::{Identity, Source},
};
use crate::{
    api::store::azure::AzureBlobStore,
    net::EgressPolicy,
    provider::{
        abilities::Provider,
        environment::Environment,
        secret_data::CredentialsError,
        settings::{Account, ProviderSettings},
    },
};

/// A container and the credentials that sign for it.
struct AzureAccount {
    store: AzureBlobStore,
    credentials: Credentials,
}

impl ProviderSettings for AzureBlobStore {
    fn field(&self) -> &'static str {
        "azureBlob"
    }

    fn bucket(&self) -> &str {
        &self.container
    }

    fn secret(&self) -> Option<&str> {
        Some(&self.credentials.as_ref()?.secret_ref.name)
    }

    fn endpoints(&self) -> Vec<&str> {
        self.endpoint.as_deref().into_iter().collect()
    }

    fn with_secret(&self, entries: &[(&str, &[u8])]) -> Result<Box<dyn Account>, CredentialsError> {
        let key = secret::account_key(entries, &self.account)?;
        Ok(Box::new(AzureAccount {
            store: self.clone(),
            credentials: Credentials::Key(key),
        }))
    }

    fn with_environment<'a>(&'a self, environment: &'a Environment) -> BoxFuture<'a, Box<dyn Account>> {
        async {
            let account: Box<dyn Account> = Box::new(AzureAccount {
                store: self.clone(),
                credentials: from_environment(environment, &self.account).await,
            });
            account
        }
        .boxed()
    }

    fn wanted_in_environment(&self) -> &'static str {
        "set the environment variable AZURE_STORAGE_KEY, or set AZURE_FEDERATED_TOKEN_FILE, AZURE_TENANT_ID and AZURE_CLIENT_ID"
    }
}

/// Returns the account key from the environment if the environment contains a key for this account. Otherwise the
/// function returns the workload identity or the managed identity of the machine.
async fn from_environment(environment: &Environment, account: &str) -> Credentials {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let is_other = set("AZURE_STORAGE_ACCOUNT").is_some_and(|other| other != account);
    if let Some(key) = set("AZURE_STORAGE_KEY").filter(|_| !is_other) {
        return match SharedKey::parse(key.trim()) {
            Some(key) => Credentials::Key(key),
            None => Credentials::Unusable(
                "the operator's environment variable AZURE_STORAGE_KEY is not a valid account key in base64".into(),
            ),
        };
    }
    let identity = async || Arc::new(Identity::new(Source::from_environment()));
    Credentials::Identity(environment.identity(identity).await)
}

impl Account for AzureAccount {
    fn requires_environment(&self) -> Option<&'static str> {
        match self.credentials {
            Credentials::Identity(_) => Some(
                "AZURE_STORAGE_KEY is not set, so signing needs a request to Azure Storage for a user delegation key",
            ),
            Credentials::Key(_) | Credentials::Unusable(_) => None,
        }
    }

    /// Returns a list with the store's endpoint if the operator's identity signs and the endpoint does not belong to
    /// Azure. This endpoint would receive the identity's access token. In all other cases, the list is empty.
    fn shows_identity_to(&self) -> Vec<String> {
        let has_identity = matches!(self.credentials, Credentials::Identity(_));
        let endpoint = self.store.endpoint.iter().filter(|_| has_identity);
        endpoint.filter(|url| !microsoft::is_endpoint(url)).cloned().collect()
    }

    fn connect(self: Box<Self>, egress: Option<EgressPolicy>) -> Arc<dyn Provider> {
        Arc::new(AzureBlob::new(self.store, self.credentials, egress))
    }
}
