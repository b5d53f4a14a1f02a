mod aws;

use std::{env, sync::Arc};

use aws_credential_types::provider::{
    ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future::ProvideCredentials as Answer,
};
use tokio::sync::OnceCell;

pub use self::aws::NotAtHand;
use self::aws::WithEnd;
use super::web_identity::WebIdentity;
use crate::{
    net::{self, client::app_name},
    provider::{azure, gcs},
};

/// The identities of the operator itself, at most one for each provider. Valet reads an identity when a store needs
/// it for the first time. All stores share these identities.
#[derive(Debug, Default)]
pub struct Environment {
    aws: OnceCell<SharedCredentialsProvider>,
    azure: OnceCell<Arc<azure::Identity>>,
    google: OnceCell<gcs::Source>,
}

impl Environment {
    /// Returns credentials from the AWS SDK's default chain. The chain reads environment variables, web identity
    /// (IRSA), EKS Pod Identity and the instance metadata.
    pub(in crate::provider) async fn aws(&self) -> SharedCredentialsProvider {
        let chain = async || {
            let mut loader =
                aws_config::defaults(aws_config::BehaviorVersion::latest()).http_client(net::aws::shared());
            if let Some(name) = app_name() {
                loader = loader.app_name(name);
            }
            let config = loader.load().await;
            if let Some(identity) = WebIdentity::from_environment(&config) {
                return SharedCredentialsProvider::new(identity);
            }
            match config.credentials_provider() {
                Some(chain) => WithEnd::of(chain),
                None => SharedCredentialsProvider::new(NoCredentials),
            }
        };
        self.aws.get_or_init(chain).await.clone()
    }

    /// Returns the access key from the environment or from a profile. All further sources of the AWS default chain
    /// need requests, so this function does not use them.
    pub(in crate::provider) async fn aws_at_hand() -> Result<SharedCredentialsProvider, NotAtHand> {
        aws::at_hand().await
    }

    /// Returns the account key from the environment if the environment contains a key for this account. Otherwise the
    /// function returns the workload identity or the managed identity of the machine.
    pub(in crate::provider) async fn azure(&self, account: &str) -> azure::Credentials {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let is_other = set("AZURE_STORAGE_ACCOUNT").is_some_and(|other| other != account);
        if let Some(key) = set("AZURE_STORAGE_KEY").filter(|_| !is_other) {
            return match azure::SharedKey::parse(key.trim()) {
                Some(key) => azure::Credentials::Key(key),
                None => azure::Credentials::Unusable(
                    "the operator's environment variable AZURE_STORAGE_KEY is not a valid account key in base64"
                        .into(),
                ),
            };
        }
        let identity = async || Arc::new(azure::Identity::new(azure::Source::from_environment()));
        azure::Credentials::Identity(self.azure.get_or_init(identity).await.clone())
    }

    /// Returns Google's Application Default Credentials. They come from the file in
    /// `GOOGLE_APPLICATION_CREDENTIALS`, or from the metadata server.
    pub(in crate::provider) async fn google(&self) -> gcs::Source {
        let read = async || gcs::from_environment(|name| std::env::var(name).ok());
        self.google.get_or_init(read).await.clone()
    }

    /// Returns the address of Google's IAM if gcloud's environment variable sets this address. A store must not set
    /// the address, because the operator sends its access token there.
    pub(in crate::provider) fn google_iam() -> Option<String> {
        std::env::var("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS")
            .ok()
            .filter(|endpoint| !endpoint.is_empty())
    }
}

#[derive(Debug)]
struct NoCredentials;

impl ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> Answer<'a>
    where
        Self: 'a,
    {
        Answer::ready(Err(CredentialsError::not_loaded("the default chain is empty")))
    }
}
