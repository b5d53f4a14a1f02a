//! The settings of a Google Cloud Storage bucket and the account that signs for it.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};

use super::{secret, source::from_environment, store::Gcs, tokens::Source};
use crate::{
    api::store::gcs::GcsStore,
    net::EgressPolicy,
    provider::{
        abilities::Provider,
        environment::Environment,
        secret_data::CredentialsError,
        settings::{Account, ProviderSettings},
    },
};

/// A bucket, and the source of Google credentials that signs for this bucket.
struct GcsAccount {
    store: GcsStore,
    source: Source,
}

impl ProviderSettings for GcsStore {
    fn field(&self) -> &'static str {
        "gcs"
    }

    fn bucket(&self) -> &str {
        &self.bucket
    }

    fn secret(&self) -> Option<&str> {
        let secret = self.credentials.as_ref()?.secret_ref.as_ref()?;
        Some(&secret.name)
    }

    fn endpoints(&self) -> Vec<&str> {
        self.endpoint.as_deref().into_iter().collect()
    }

    fn with_secret(&self, entries: &[(&str, &[u8])]) -> Result<Box<dyn Account>, CredentialsError> {
        let key = secret::service_account_key(entries)?;
        Ok(Box::new(GcsAccount {
            store: self.clone(),
            source: Source::Key(Arc::new(key)),
        }))
    }

    /// Uses Google's Application Default Credentials. They come from the file in `GOOGLE_APPLICATION_CREDENTIALS`, or
    /// from the metadata server.
    fn with_environment<'a>(&'a self, environment: &'a Environment) -> BoxFuture<'a, Box<dyn Account>> {
        async {
            let source = environment
                .identity(async || from_environment(|name| std::env::var(name).ok()))
                .await;
            let account: Box<dyn Account> = Box::new(GcsAccount {
                store: self.clone(),
                source,
            });
            account
        }
        .boxed()
    }

    fn wanted_in_environment(&self) -> &'static str {
        "set the environment variable GOOGLE_APPLICATION_CREDENTIALS to the path of a service account key file"
    }
}

impl Account for GcsAccount {
    fn requires_environment(&self) -> Option<&'static str> {
        let signs_as = self.store.credentials.as_ref().is_some_and(|c| c.sign_as.is_some());
        match &self.source {
            Source::Unusable(_) => None,
            _ if signs_as => Some("spec.gcs.credentials.signAs is set, so signing needs a request to Google IAM"),
            Source::Key(_) => None,
            _ => Some(
                "GOOGLE_APPLICATION_CREDENTIALS does not name a service account key file, so signing needs a request to Google IAM",
            ),
        }
    }

    /// Returns an empty list, because no address in the store's settings receives the operator's access token. Valet
    /// sends this token only to Google's IAM, and a store cannot set the address of IAM.
    fn shows_identity_to(&self) -> Vec<String> {
        Vec::new()
    }

    fn connect(self: Box<Self>, egress: Option<EgressPolicy>) -> Arc<dyn Provider> {
        let iam = iam_endpoint();
        Arc::new(Gcs::new(self.store, self.source, iam.as_deref(), egress))
    }
}

/// Returns the address of Google's IAM from the environment variable that gcloud also reads. Returns `None` if the
/// variable is not set. A store must not set this address, because the operator sends its access token to this address.
fn iam_endpoint() -> Option<String> {
    std::env::var("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS")
        .ok()
        .filter(|endpoint| !endpoint.is_empty())
}
