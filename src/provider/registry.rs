//! Selects the provider of a store and the credentials that sign for the store.

use std::sync::Arc;

use aws_credential_types::provider::SharedCredentialsProvider;
use http::Uri;

use super::identity::secret_data as credentials;
pub use super::identity::{
    Environment, NotAtHand,
    secret_data::{CredentialsError, MAX_SECRET_BYTES},
};

use crate::{
    api::{AzureBlobStore, GcsStore, ProviderConfig, Reason, S3Store, Store},
    net::EgressPolicy,
    provider::azure::AzureBlob,
    provider::gcs::Gcs,
    provider::s3::S3,
    provider::{Provider, azure, gcs, s3},
};

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
pub struct Settings(ProviderConfig);

/// A store and the credentials that sign for it.
pub struct Account(Kind);

enum Kind {
    S3(Box<S3Store>, SharedCredentialsProvider),
    AzureBlob(Box<AzureBlobStore>, azure::Credentials),
    Gcs(Box<GcsStore>, gcs::Source),
}

/// Validates a store's spec, without its credentials.
///
/// # Errors
/// Returns the reason for the store's condition, and a message to the store's owner.
pub fn settings(store: &impl Store) -> Result<Settings, (Reason, String)> {
    store
        .check()
        .map_err(|rules| (Reason::InvalidStore, rules.join("; ")))?;
    match store.place() {
        Some(place) => Ok(Settings(place)),
        None => Err((
            Reason::InvalidStore,
            "the store must have exactly one provider; set spec.s3, spec.azureBlob or spec.gcs".into(),
        )),
    }
}

/// Returns the name of the bucket or container. The store's notifications contain this name.
pub fn bucket(store: &impl Store) -> Option<String> {
    store.place().map(|place| place.bucket().to_owned())
}

impl Settings {
    /// Returns the field of the store's spec that contains the provider's settings, for example `spec.s3`. Messages
    /// name this field.
    pub fn field(&self) -> String {
        format!("spec.{}", self.0.field())
    }

    /// Returns the source of the store's credentials.
    pub fn credentials(&self) -> CredentialsSource {
        let secret = match &self.0 {
            ProviderConfig::S3(s3) => s3.credentials.as_ref().and_then(|c| c.secret_ref.as_ref()),
            ProviderConfig::AzureBlob(azure) => azure.credentials.as_ref().map(|c| &c.secret_ref),
            ProviderConfig::Gcs(gcs) => gcs.credentials.as_ref().and_then(|c| c.secret_ref.as_ref()),
        };
        match secret {
            Some(secret) => CredentialsSource::Secret(secret.name.clone()),
            None => CredentialsSource::Environment,
        }
    }

    /// Checks that the egress policy permits the endpoints in a tenant's store.
    ///
    /// # Errors
    /// Returns the reason for the store's condition, and a message to the store's owner.
    pub async fn check_endpoint(&self, outward: &EgressPolicy) -> Result<(), (Reason, String)> {
        for endpoint in self.endpoints() {
            let inward = outward.check(&host(endpoint)?).await;
            inward.map_err(|e| (Reason::EndpointNotAllowed, e.to_string()))?;
        }
        Ok(())
    }

    /// Checks the endpoints of a tenant's store without DNS lookups. The method can check only IP addresses and
    /// reserved names such as `localhost`.
    ///
    /// # Errors
    /// Returns the reason for the store's condition, and a message to the store's owner.
    pub fn check_endpoint_literal(&self, outward: &EgressPolicy) -> Result<(), (Reason, String)> {
        for endpoint in self.endpoints() {
            let checked = outward.check_literal(&host(endpoint)?);
            checked.map_err(|e| (Reason::EndpointNotAllowed, e.to_string()))?;
        }
        Ok(())
    }

    /// Returns the endpoints to which the operator itself sends requests.
    fn endpoints(&self) -> impl Iterator<Item = &String> {
        let endpoints = match &self.0 {
            ProviderConfig::S3(s3) => {
                let role = s3.credentials.as_ref().and_then(|c| c.assume_role.as_ref());
                [s3.endpoint.as_ref(), role.and_then(|r| r.endpoint.as_ref())]
            }
            ProviderConfig::AzureBlob(azure) => [azure.endpoint.as_ref(), None],
            ProviderConfig::Gcs(gcs) => [gcs.endpoint.as_ref(), None],
        };
        endpoints.into_iter().flatten()
    }

    /// Reads the store's credentials from the data of a Secret.
    ///
    /// # Errors
    /// Returns [`CredentialsError`]. The error names entries of the Secret but does not contain their values.
    pub fn with_secret<'a>(
        self,
        data: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Account, CredentialsError> {
        match self.0 {
            ProviderConfig::S3(s3) => {
                let credentials = SharedCredentialsProvider::new(credentials::s3(data)?);
                Ok(Account(Kind::S3(s3, credentials)))
            }
            ProviderConfig::AzureBlob(store) => {
                let key = credentials::azure(data, &store.account)?;
                Ok(Account(Kind::AzureBlob(store, azure::Credentials::Key(key))))
            }
            ProviderConfig::Gcs(store) => {
                let key = credentials::gcs(data)?;
                Ok(Account(Kind::Gcs(store, gcs::Source::Key(Arc::new(key)))))
            }
        }
    }

    /// Uses the operator's own identity as the store's credentials.
    pub async fn with_environment(self, environment: &Environment) -> Account {
        match self.0 {
            ProviderConfig::S3(s3) => Account(Kind::S3(s3, environment.aws().await)),
            ProviderConfig::AzureBlob(store) => {
                let credentials = environment.azure(&store.account).await;
                Account(Kind::AzureBlob(store, credentials))
            }
            ProviderConfig::Gcs(store) => Account(Kind::Gcs(store, environment.google().await)),
        }
    }

    /// Uses an identity from the environment as the store's credentials, if the identity can sign without a request.
    /// Such an identity is an access key, an account key or a service account key.
    ///
    /// # Errors
    /// Returns [`NotAtHand`] if the environment contains no such identity.
    pub async fn with_environment_at_hand(self, environment: &Environment) -> Result<Account, NotAtHand> {
        match self.0 {
            ProviderConfig::S3(s3) => Ok(Account(Kind::S3(s3, Environment::aws_at_hand().await?))),
            // Valet creates the identities of Azure and Google without a request. If such an identity needs a request
            // to sign, `Account::asks` describes this request.
            other => Ok(Self(other).with_environment(environment).await),
        }
    }

    /// Returns what somebody must set if the store needs the operator's identity and the environment contains none.
    /// The text ends a sentence.
    pub fn wanted_in_environment(&self) -> &'static str {
        match &self.0 {
            ProviderConfig::S3(_) => {
                "set the environment variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or set AWS_PROFILE"
            }
            ProviderConfig::AzureBlob(_) => {
                "set the environment variable AZURE_STORAGE_KEY, or set AZURE_FEDERATED_TOKEN_FILE, AZURE_TENANT_ID and AZURE_CLIENT_ID"
            }
            ProviderConfig::Gcs(_) => {
                "set the environment variable GOOGLE_APPLICATION_CREDENTIALS to the path of a service account key file"
            }
        }
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

impl Account {
    /// Describes the network request that Valet must send before it can sign. The text begins a sentence. Returns
    /// `None` if Valet can sign without a network request.
    pub fn asks(&self) -> Option<&'static str> {
        match &self.0 {
            Kind::S3(s3, _) => s3
                .credentials
                .as_ref()?
                .assume_role
                .as_ref()
                .map(|_| "spec.s3.credentials.assumeRole is set, so signing needs a request to STS"),
            Kind::AzureBlob(_, azure::Credentials::Identity(_)) => Some(
                "AZURE_STORAGE_KEY is not set, so signing needs a request to Azure Storage for a user delegation key",
            ),
            Kind::AzureBlob(..) | Kind::Gcs(_, gcs::Source::Unusable(_)) => None,
            Kind::Gcs(store, _) if store.credentials.as_ref().is_some_and(|c| c.sign_as.is_some()) => {
                Some("spec.gcs.credentials.signAs is set, so signing needs a request to Google IAM")
            }
            Kind::Gcs(_, gcs::Source::Key(_)) => None,
            Kind::Gcs(..) => Some(
                "GOOGLE_APPLICATION_CREDENTIALS does not name a service account key file, so signing needs a request to Google IAM",
            ),
        }
    }

    /// Returns the address in the store's settings to which Valet sends the operator's identity when it signs.
    /// Returns `None` if the address belongs to the cloud provider.
    pub fn shows_identity_to(&self) -> Option<String> {
        match &self.0 {
            Kind::S3(s3, _) => s3::foreign_sts(s3),
            Kind::AzureBlob(store, azure::Credentials::Identity(_)) => azure::foreign_endpoint(store),
            // Valet sends Google's access token only to IAM, and a store cannot set the address of IAM.
            Kind::AzureBlob(..) | Kind::Gcs(..) => None,
        }
    }

    /// Creates the provider of the store. If the egress policy `outward` is set, the provider sends requests only to
    /// hosts that this policy permits. The method itself reads nothing and sends no request.
    pub fn connect(self, outward: Option<EgressPolicy>) -> Arc<dyn Provider> {
        match self.0 {
            Kind::S3(s3, credentials) => Arc::new(S3::new(*s3, credentials, outward)),
            Kind::AzureBlob(store, credentials) => Arc::new(AzureBlob::new(*store, credentials, outward)),
            Kind::Gcs(store, source) => {
                let iam = Environment::google_iam();
                Arc::new(Gcs::new(*store, source, iam.as_deref(), outward))
            }
        }
    }
}
