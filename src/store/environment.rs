use aws_credential_types::provider::{
    ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future::ProvideCredentials as Answer,
};
use tokio::sync::OnceCell;

use super::web_identity::WebIdentity;
use crate::sign::gcs;

/// The operator's own identities, one for each provider. Each is looked for when a store first needs it, and is shared
/// by all stores.
#[derive(Debug, Default)]
pub struct Environment {
    aws: OnceCell<SharedCredentialsProvider>,
    google: OnceCell<gcs::Source>,
}

impl Environment {
    /// The AWS SDK's default chain: environment variables, web identity (IRSA), Pod Identity, instance metadata.
    pub(super) async fn aws(&self) -> SharedCredentialsProvider {
        let chain = async || {
            let config = aws_config::defaults(aws_config::BehaviorVersion::latest()).load().await;
            if let Some(identity) = WebIdentity::from_environment(&config) {
                return SharedCredentialsProvider::new(identity);
            }
            config
                .credentials_provider()
                .unwrap_or_else(|| SharedCredentialsProvider::new(NoCredentials))
        };
        self.aws.get_or_init(chain).await.clone()
    }

    /// Google's Application Default Credentials: the file of `GOOGLE_APPLICATION_CREDENTIALS`, or the metadata server.
    pub(super) async fn google(&self) -> gcs::Source {
        let read = async || gcs::from_environment(|name| std::env::var(name).ok());
        self.google.get_or_init(read).await.clone()
    }

    /// Where Google's IAM is, if not where everybody finds it: gcloud's own variable for that. No store says so, since the
    /// operator's token is shown there.
    pub(super) fn google_iam() -> Option<String> {
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
