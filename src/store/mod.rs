//! The far side: which provider a store has, and the credentials with their real expiry. What is said to the
//! store is in the provider's file under `sign`.

mod credentials;
mod notification;

use std::sync::Arc;

use aws_credential_types::provider::SharedCredentialsProvider;

use http::Uri;

pub use credentials::{CredentialsError, MAX_SECRET_BYTES, parse};
pub use notification::{
    Arrived, MAX_BYTES as MAX_NOTIFICATION_BYTES, Notification, Subscription, parse as parse_notification,
};

use crate::{
    api::{Reason, Store},
    sign::{Outward, Provider, s3::S3},
};

/// The credentials that a store names; which Secret they are in follows from the store's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialsSource {
    /// A Secret of this name.
    Secret(String),
    /// The SDK's default chain in the operator's own environment.
    Environment,
}

/// A store's settings that can be worked with.
#[derive(Clone, Debug)]
pub struct Settings {
    s3: crate::api::S3Store,
}

/// Checks a store's own spec, without its credentials.
///
/// # Errors
/// The reason and a sentence for the store's owner.
pub fn settings(store: &impl Store) -> Result<Settings, (Reason, String)> {
    store
        .check()
        .map_err(|rules| (Reason::InvalidStore, rules.join("; ")))?;
    match store.s3() {
        Some(s3) => Ok(Settings { s3: s3.clone() }),
        None => Err((
            Reason::InvalidStore,
            "the store says nothing about where it is: set spec.s3".into(),
        )),
    }
}

/// The bucket by whose name the store's notifications speak of it.
pub fn bucket(store: &impl Store) -> Option<String> {
    store.s3().map(|s3| s3.bucket.clone())
}

impl Settings {
    /// Where the credentials are.
    pub fn credentials(&self) -> CredentialsSource {
        match self.s3.credentials.as_ref().and_then(|c| c.secret_ref.as_ref()) {
            Some(secret) => CredentialsSource::Secret(secret.name.clone()),
            None => CredentialsSource::Environment,
        }
    }

    /// Whether the endpoints that the store names are where a tenant's store may lead.
    ///
    /// # Errors
    /// The reason and a sentence for the store's owner.
    pub async fn check_endpoint(&self, outward: &Outward) -> Result<(), (Reason, String)> {
        let role = self.s3.credentials.as_ref().and_then(|c| c.assume_role.as_ref());
        for endpoint in self.s3.endpoint.iter().chain(role.and_then(|r| r.endpoint.as_ref())) {
            let uri = endpoint
                .parse::<Uri>()
                .map_err(|e| (Reason::InvalidStore, format!("endpoint {endpoint} is no address: {e}")))?;
            let inward = outward.check(uri.host().unwrap_or_default()).await;
            inward.map_err(|e| (Reason::EndpointNotAllowed, e.to_string()))?;
        }
        Ok(())
    }

    /// The store, ready to sign. With `outward`, requests to it go only there.
    pub fn connect(self, credentials: SharedCredentialsProvider, outward: Option<Outward>) -> Arc<dyn Provider> {
        Arc::new(S3::new(self.s3, credentials, outward))
    }
}

/// The AWS SDK's default chain: environment variables, web identity (IRSA), Pod Identity, instance metadata.
pub async fn environment_credentials() -> SharedCredentialsProvider {
    let config = aws_config::defaults(aws_config::BehaviorVersion::latest()).load().await;
    config
        .credentials_provider()
        .unwrap_or_else(|| SharedCredentialsProvider::new(NoCredentials))
}

#[derive(Debug)]
struct NoCredentials;

impl aws_credential_types::provider::ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        use aws_credential_types::provider::{error::CredentialsError, future};
        future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("the default chain is empty")))
    }
}
