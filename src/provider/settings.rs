//! The settings of a store and the credentials that sign for it, for all providers.

use std::{fmt::Debug, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use http::Uri;

use super::{
    abilities::Provider,
    environment::{Environment, NoLocalCredentials},
    secret_data::CredentialsError,
};
use crate::{api::Reason, net::EgressPolicy};

/// The settings of a store, without its credentials. Each provider implements this trait for its part of the API.
pub trait ProviderSettings: Debug + Send + Sync {
    /// Returns the field of the store's spec that contains these settings, for example `s3`.
    fn field(&self) -> &'static str;

    /// Returns the name of the bucket, or of the container for Azure. The notifications of the store contain this
    /// name.
    fn bucket(&self) -> &str;

    /// Returns the name of the Secret with the store's credentials. Returns `None` if the store uses the operator's
    /// own identity.
    fn secret(&self) -> Option<&str>;

    /// Returns the endpoints to which the operator itself sends requests.
    fn endpoints(&self) -> Vec<&str>;

    /// Reads the store's credentials from the entries of a Secret.
    ///
    /// # Errors
    /// Returns [`CredentialsError`]. The error names entries of the Secret but does not contain their values.
    fn with_secret(&self, entries: &[(&str, &[u8])]) -> Result<Box<dyn Account>, CredentialsError>;

    /// Uses the operator's own identity as the store's credentials.
    fn with_environment<'a>(&'a self, environment: &'a Environment) -> BoxFuture<'a, Box<dyn Account>>;

    /// Uses an identity from the environment as the store's credentials, if Valet can read this identity without a
    /// request. For some stores, Valet must still send a request before it can sign with this identity.
    /// [`Account::requires_environment`] describes this request.
    ///
    /// # Errors
    /// Returns [`NoLocalCredentials`] if the environment contains no such identity.
    fn with_local_environment<'a>(
        &'a self,
        environment: &'a Environment,
    ) -> BoxFuture<'a, Result<Box<dyn Account>, NoLocalCredentials>> {
        self.with_environment(environment).map(Ok).boxed()
    }

    /// Returns an instruction for a user whose store needs the operator's identity. An error message contains this
    /// instruction if the environment contains no usable identity.
    fn wanted_in_environment(&self) -> &'static str;
}

/// A store and the credentials that sign for it.
pub trait Account: Send + Sync {
    /// Describes the network request that Valet must send before it can sign. A message begins with this text. Returns
    /// `None` if Valet can sign without a network request.
    fn requires_environment(&self) -> Option<&'static str>;

    /// Returns the addresses in the store's settings to which Valet sends the operator's identity when it signs. The
    /// list also contains addresses to which Valet sends credentials that it got with this identity. The list does not
    /// contain addresses that belong to the cloud provider.
    fn shows_identity_to(&self) -> Vec<String>;

    /// Creates the provider of the store. If the egress policy `egress` is set, the provider sends requests only to
    /// hosts that this policy permits. The method itself reads nothing and sends no request.
    fn connect(self: Box<Self>, egress: Option<EgressPolicy>) -> Arc<dyn Provider>;
}

/// The source of a store's credentials. For an ObjectStore and for a ClusterObjectStore, Valet reads the Secret from
/// different namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialsSource {
    /// The credentials are in the Secret with this name.
    Secret(String),
    /// The credentials are the operator's own identity.
    Environment,
}

/// The validated settings of a store, without its credentials.
#[derive(Clone, Debug)]
pub struct Settings(pub(super) Arc<dyn ProviderSettings>);

impl Settings {
    /// Returns the field of the store's spec that contains the provider's settings, for example `spec.s3`. Messages
    /// name this field.
    pub fn field(&self) -> String {
        format!("spec.{}", self.0.field())
    }

    /// Returns the source of the store's credentials.
    pub fn credentials(&self) -> CredentialsSource {
        match self.0.secret() {
            Some(name) => CredentialsSource::Secret(name.to_owned()),
            None => CredentialsSource::Environment,
        }
    }

    /// Checks that the egress policy permits the endpoints in a tenant's store.
    ///
    /// # Errors
    /// Returns the reason for the store's condition, and a message to the store's owner.
    pub async fn check_endpoint(&self, egress: &EgressPolicy) -> Result<(), (Reason, String)> {
        for endpoint in self.0.endpoints() {
            let checked = egress.check(&host(endpoint)?).await;
            checked.map_err(|e| (Reason::EndpointNotAllowed, e.to_string()))?;
        }
        Ok(())
    }

    /// Checks the endpoints of a tenant's store without DNS lookups. Without DNS lookups, the method can check only IP
    /// addresses and reserved names such as `localhost`.
    ///
    /// # Errors
    /// Returns the reason for the store's condition, and a message to the store's owner.
    pub fn check_endpoint_literal(&self, egress: &EgressPolicy) -> Result<(), (Reason, String)> {
        for endpoint in self.0.endpoints() {
            let checked = egress.check_literal(&host(endpoint)?);
            checked.map_err(|e| (Reason::EndpointNotAllowed, e.to_string()))?;
        }
        Ok(())
    }

    /// Calls [`ProviderSettings::with_secret`] of the store's provider.
    ///
    /// # Errors
    /// Returns [`CredentialsError`]. The error names entries of the Secret but does not contain their values.
    pub fn with_secret(&self, entries: &[(&str, &[u8])]) -> Result<Box<dyn Account>, CredentialsError> {
        self.0.with_secret(entries)
    }

    /// Calls [`ProviderSettings::with_environment`] of the store's provider.
    pub async fn with_environment(&self, environment: &Environment) -> Box<dyn Account> {
        self.0.with_environment(environment).await
    }

    /// Calls [`ProviderSettings::with_local_environment`] of the store's provider.
    ///
    /// # Errors
    /// Returns [`NoLocalCredentials`] if the environment contains no such identity.
    pub async fn with_local_environment(
        &self,
        environment: &Environment,
    ) -> Result<Box<dyn Account>, NoLocalCredentials> {
        self.0.with_local_environment(environment).await
    }

    /// Calls [`ProviderSettings::wanted_in_environment`] of the store's provider.
    pub fn wanted_in_environment(&self) -> &'static str {
        self.0.wanted_in_environment()
    }
}

fn host(endpoint: &str) -> Result<String, (Reason, String)> {
    let uri = endpoint.parse::<Uri>().map_err(|e| {
        (
            Reason::InvalidStore,
            format!("endpoint {endpoint} is not a valid URL: {e}"),
        )
    })?;
    Ok(uri.host().unwrap_or_default().to_owned())
}
