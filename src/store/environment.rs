use aws_credential_types::provider::{
    ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future::ProvideCredentials as Answer,
};
use tokio::sync::OnceCell;

use super::web_identity::WebIdentity;

/// The operator's own identities, one for each provider. Each is looked for when a store first needs it, and is shared
/// by all stores.
#[derive(Debug, Default)]
pub struct Environment {
    aws: OnceCell<SharedCredentialsProvider>,
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
