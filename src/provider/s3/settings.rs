//! The settings of an S3 store and the credentials that sign for it.

use std::sync::Arc;

use aws_credential_types::provider::SharedCredentialsProvider;
use futures::{FutureExt, future::BoxFuture};

use super::{amazon, environment, secret, store::S3};
use crate::{
    api::store::s3::S3Store,
    net::EgressPolicy,
    provider::{
        abilities::Provider,
        environment::{Environment, NoLocalCredentials},
        secret_data::CredentialsError,
        settings::{Account, ProviderSettings},
    },
};

/// An S3 store and the credentials that sign for it.
struct S3Account {
    store: S3Store,
    credentials: SharedCredentialsProvider,
}

fn account(store: &S3Store, credentials: SharedCredentialsProvider) -> Box<dyn Account> {
    Box::new(S3Account {
        store: store.clone(),
        credentials,
    })
}

impl ProviderSettings for S3Store {
    fn field(&self) -> &'static str {
        "s3"
    }

    fn bucket(&self) -> &str {
        &self.bucket
    }

    fn secret(&self) -> Option<&str> {
        let secret = self.credentials.as_ref()?.secret_ref.as_ref()?;
        Some(&secret.name)
    }

    fn endpoints(&self) -> Vec<&str> {
        let role = self.credentials.as_ref().and_then(|c| c.assume_role.as_ref());
        let endpoints = [self.endpoint.as_deref(), role.and_then(|r| r.endpoint.as_deref())];
        endpoints.into_iter().flatten().collect()
    }

    fn with_secret(&self, secret_entries: &[(&str, &[u8])]) -> Result<Box<dyn Account>, CredentialsError> {
        let key = secret::access_key(secret_entries)?;
        Ok(account(self, SharedCredentialsProvider::new(key)))
    }

    fn with_environment<'a>(&'a self, environment: &'a Environment) -> BoxFuture<'a, Box<dyn Account>> {
        async { account(self, environment.identity(environment::default_chain).await) }.boxed()
    }

    fn with_local_environment<'a>(
        &'a self,
        _: &'a Environment,
    ) -> BoxFuture<'a, Result<Box<dyn Account>, NoLocalCredentials>> {
        async { Ok(account(self, environment::local_credentials().await?)) }.boxed()
    }

    fn wanted_in_environment(&self) -> &'static str {
        "set the environment variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or set AWS_PROFILE"
    }
}

impl Account for S3Account {
    fn requires_environment(&self) -> Option<&'static str> {
        let role = self.store.credentials.as_ref()?.assume_role.as_ref();
        role.map(|_| "spec.s3.credentials.assumeRole is set, so signing needs a request to STS")
    }

    /// If the store has `assumeRole`, Valet sends the operator's identity to the STS endpoint of the store. Valet also
    /// sends probe uploads to the store's endpoint, signed with a session of the role. With these uploads, Valet checks
    /// that the store enforces session policies.
    fn shows_identity_to(&self) -> Vec<String> {
        let store = &self.store;
        let Some(role) = store.credentials.as_ref().and_then(|c| c.assume_role.as_ref()) else {
            return Vec::new();
        };
        let is_amazons = |url: &str| amazon::is_sts(url) || amazon::is_bucket(Some(url), &store.bucket);
        let mut addresses: Vec<_> = [&role.endpoint, &store.endpoint]
            .into_iter()
            .flatten()
            .filter(|url| !is_amazons(url))
            .cloned()
            .collect();
        addresses.dedup();
        addresses
    }

    fn connect(self: Box<Self>, egress: Option<EgressPolicy>) -> Arc<dyn Provider> {
        Arc::new(S3::new(self.store, self.credentials, egress))
    }
}
