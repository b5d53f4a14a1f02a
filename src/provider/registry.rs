//! Selects the provider of a store and finds the credentials that sign for it.

use std::sync::Arc;

use aws_credential_types::provider::SharedCredentialsProvider;
use http::Uri;

use super::identity::secret_data as credentials;
pub use super::identity::{
    Environment, NotAtHand,
    secret_data::{CredentialsError, MAX_SECRET_BYTES},
};

use crate::{
    api::{AzureBlobStore, GcsStore, Place, Reason, S3Store, Store},
    net::Outward,
    provider::azure::AzureBlob,
    provider::gcs::Gcs,
    provider::s3::S3,
    provider::{Provider, azure, gcs, s3},
};

/// The credentials that a store names; which Secret they are in follows from the store's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialsSource {
    /// A Secret of this name.
    Secret(String),
    /// The operator's own identity, in the provider's own way.
    Environment,
}

/// A store's settings that can be worked with.
#[derive(Clone, Debug)]
pub struct Settings(Place);

/// A store and the credentials that sign for it.
pub struct Account(Kind);

enum Kind {
    S3(Box<S3Store>, SharedCredentialsProvider),
    AzureBlob(Box<AzureBlobStore>, azure::Credentials),
    Gcs(Box<GcsStore>, gcs::Source),
}

/// Checks a store's own spec, without its credentials.
///
/// # Errors
/// The reason and a sentence for the store's owner.
pub fn settings(store: &impl Store) -> Result<Settings, (Reason, String)> {
    store
        .check()
        .map_err(|rules| (Reason::InvalidStore, rules.join("; ")))?;
    match store.place() {
        Some(place) => Ok(Settings(place)),
        None => Err((
            Reason::InvalidStore,
            "the store must be in one place: set exactly one of s3, azureBlob and gcs".into(),
        )),
    }
}

/// The bucket by whose name the store's notifications speak of it.
pub fn bucket(store: &impl Store) -> Option<String> {
    store.place().map(|place| place.bucket().to_owned())
}

impl Settings {
    /// The field of the store's spec with the provider's settings, as messages name it: `spec.s3`.
    pub fn field(&self) -> String {
        format!("spec.{}", self.0.field())
    }

    /// Where the credentials are.
    pub fn credentials(&self) -> CredentialsSource {
        let secret = match &self.0 {
            Place::S3(s3) => s3.credentials.as_ref().and_then(|c| c.secret_ref.as_ref()),
            Place::AzureBlob(azure) => azure.credentials.as_ref().map(|c| &c.secret_ref),
            Place::Gcs(gcs) => gcs.credentials.as_ref().and_then(|c| c.secret_ref.as_ref()),
        };
        match secret {
            Some(secret) => CredentialsSource::Secret(secret.name.clone()),
            None => CredentialsSource::Environment,
        }
    }

    /// Whether the endpoints that the store names are where a tenant's store may lead.
    ///
    /// # Errors
    /// The reason and a sentence for the store's owner.
    pub async fn check_endpoint(&self, outward: &Outward) -> Result<(), (Reason, String)> {
        for endpoint in self.endpoints() {
            let inward = outward.check(&host(endpoint)?).await;
            inward.map_err(|e| (Reason::EndpointNotAllowed, e.to_string()))?;
        }
        Ok(())
    }

    /// The same without a lookup, so that nothing is sent to anybody: a name is not judged.
    ///
    /// # Errors
    /// The reason and a sentence for the store's owner.
    pub fn check_endpoint_literal(&self, outward: &Outward) -> Result<(), (Reason, String)> {
        for endpoint in self.endpoints() {
            let checked = outward.check_literal(&host(endpoint)?);
            checked.map_err(|e| (Reason::EndpointNotAllowed, e.to_string()))?;
        }
        Ok(())
    }

    /// The addresses that the operator itself may ask something.
    fn endpoints(&self) -> impl Iterator<Item = &String> {
        let endpoints = match &self.0 {
            Place::S3(s3) => {
                let role = s3.credentials.as_ref().and_then(|c| c.assume_role.as_ref());
                [s3.endpoint.as_ref(), role.and_then(|r| r.endpoint.as_ref())]
            }
            Place::AzureBlob(azure) => [azure.endpoint.as_ref(), None],
            Place::Gcs(gcs) => [gcs.endpoint.as_ref(), None],
        };
        endpoints.into_iter().flatten()
    }

    /// Takes the credentials out of a Secret's data.
    ///
    /// # Errors
    /// [`CredentialsError`], which names entries and never their values.
    pub fn with_secret<'a>(
        self,
        data: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Account, CredentialsError> {
        match self.0 {
            Place::S3(s3) => {
                let credentials = SharedCredentialsProvider::new(credentials::s3(data)?);
                Ok(Account(Kind::S3(s3, credentials)))
            }
            Place::AzureBlob(store) => {
                let key = credentials::azure(data, &store.account)?;
                Ok(Account(Kind::AzureBlob(store, azure::Credentials::Key(key))))
            }
            Place::Gcs(store) => {
                let key = credentials::gcs(data)?;
                Ok(Account(Kind::Gcs(store, gcs::Source::Key(Arc::new(key)))))
            }
        }
    }

    /// Takes the operator's own identity.
    pub async fn with_environment(self, environment: &Environment) -> Account {
        match self.0 {
            Place::S3(s3) => Account(Kind::S3(s3, environment.aws().await)),
            Place::AzureBlob(store) => {
                let credentials = environment.azure(&store.account).await;
                Account(Kind::AzureBlob(store, credentials))
            }
            Place::Gcs(store) => Account(Kind::Gcs(store, environment.google().await)),
        }
    }

    /// The same, of what needs no request: an access key, an account key, a service account's key.
    ///
    /// # Errors
    /// [`NotAtHand`].
    pub async fn with_environment_at_hand(self, environment: &Environment) -> Result<Account, NotAtHand> {
        match self.0 {
            Place::S3(s3) => Ok(Account(Kind::S3(s3, Environment::aws_at_hand().await?))),
            // Nothing is asked for before it is needed, and `Account::asks` says what would be.
            other => Ok(Self(other).with_environment(environment).await),
        }
    }

    /// What to set where the operator's own identity is wanted and there is none, as the end of a sentence.
    pub fn wanted_in_environment(&self) -> &'static str {
        match &self.0 {
            Place::S3(_) => "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            Place::AzureBlob(_) => {
                "set AZURE_STORAGE_KEY, or AZURE_FEDERATED_TOKEN_FILE, AZURE_TENANT_ID and AZURE_CLIENT_ID"
            }
            Place::Gcs(_) => "set GOOGLE_APPLICATION_CREDENTIALS to the file with a service account's key",
        }
    }
}

/// The host of an endpoint.
fn host(endpoint: &str) -> Result<String, (Reason, String)> {
    let uri = endpoint
        .parse::<Uri>()
        .map_err(|e| (Reason::InvalidStore, format!("endpoint {endpoint} is no address: {e}")))?;
    Ok(uri.host().unwrap_or_default().to_owned())
}

impl Account {
    /// What a signature asks of somebody else, as the beginning of a sentence; `None` if it is made here.
    pub fn asks(&self) -> Option<&'static str> {
        match &self.0 {
            Kind::S3(s3, _) => s3
                .credentials
                .as_ref()?
                .assume_role
                .as_ref()
                .map(|_| "the store signs with a session of STS for each grant (spec.s3.credentials.assumeRole)"),
            Kind::AzureBlob(_, azure::Credentials::Identity(_)) => Some(
                "there is no account key (AZURE_STORAGE_KEY), and an identity signs with a delegation key of Azure Storage",
            ),
            Kind::AzureBlob(..) | Kind::Gcs(_, gcs::Source::Unusable(_)) => None,
            Kind::Gcs(store, _) if store.credentials.as_ref().is_some_and(|c| c.sign_as.is_some()) => {
                Some("the store has Google's IAM sign (spec.gcs.credentials.signAs)")
            }
            Kind::Gcs(_, gcs::Source::Key(_)) => None,
            Kind::Gcs(..) => Some(
                "there is no service account's key (GOOGLE_APPLICATION_CREDENTIALS), and an identity has Google's IAM sign",
            ),
        }
    }

    /// The address in the store's own settings to which a signature shows the identity of the environment, if that is none of
    /// the cloud's own hosts.
    pub fn shows_identity_to(&self) -> Option<String> {
        match &self.0 {
            Kind::S3(s3, _) => s3::foreign_sts(s3),
            Kind::AzureBlob(store, azure::Credentials::Identity(_)) => azure::foreign_endpoint(store),
            // Google's token goes to IAM, whose address no store names.
            Kind::AzureBlob(..) | Kind::Gcs(..) => None,
        }
    }

    /// The store, ready to sign. With `outward`, requests to it go only there. Nothing is read or sent yet.
    pub fn connect(self, outward: Option<Outward>) -> Arc<dyn Provider> {
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
