//! The operator's own AWS identity.

mod local_credentials;
mod web_identity;

use aws_credential_types::provider::{
    ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future::ProvideCredentials as Answer,
};

use local_credentials::WithEnd;
pub use local_credentials::local_credentials;
use web_identity::WebIdentity;

use crate::net::{aws, client::app_name};

/// Returns credentials from the AWS SDK's default chain. The chain reads environment variables, web identity (IRSA),
/// EKS Pod Identity and the instance metadata.
pub async fn default_chain() -> SharedCredentialsProvider {
    let mut loader = aws_config::defaults(aws_config::BehaviorVersion::latest()).http_client(aws::shared());
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
