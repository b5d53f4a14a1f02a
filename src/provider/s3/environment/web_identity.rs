use std::{env, path::PathBuf, time::Duration};

use aws_config::SdkConfig;
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, Result, error::CredentialsError, future::ProvideCredentials as Answer},
};
use aws_sdk_sts::{Client, config::timeout::TimeoutConfig};

/// A request to STS takes at most this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The default session name. Valet uses it if the environment sets no session name.
const SESSION_NAME: &str = "valet";

/// The identity of the operator's Kubernetes service account. STS creates sessions for this identity (IRSA; AWS STS
/// API Reference, "AssumeRoleWithWebIdentity"). Valet reads the token file before each request, because the kubelet
/// replaces this file.
///
/// Valet does not use the AWS SDK's own implementation. The SDK cannot read the STS answers of some stores. For
/// example, MinIO's answer contains no assumed user.
#[derive(Debug)]
pub struct WebIdentity {
    client: Client,
    token: PathBuf,
    role: String,
    session: String,
}

impl WebIdentity {
    /// Reads the identity from the environment variables that Amazon's webhook sets, including `AWS_ENDPOINT_URL_STS`.
    /// Returns `None` if these variables are not set. Also returns `None` if the environment sets variables that have
    /// higher precedence in the AWS default chain.
    pub fn from_environment(config: &SdkConfig) -> Option<Self> {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let others = [
            "AWS_ACCESS_KEY_ID",
            "AWS_PROFILE",
            "AWS_SHARED_CREDENTIALS_FILE",
            "AWS_CONFIG_FILE",
        ];
        if others.iter().any(|name| variable(name).is_some()) {
            return None;
        }
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(TIMEOUT)
            .operation_timeout(TIMEOUT)
            .build();
        let config = aws_sdk_sts::config::Builder::from(config).timeout_config(timeouts);
        Some(Self {
            token: variable("AWS_WEB_IDENTITY_TOKEN_FILE")?.into(),
            role: variable("AWS_ROLE_ARN")?,
            session: variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| SESSION_NAME.to_owned()),
            client: Client::from_conf(config.build()),
        })
    }

    async fn assume(&self) -> Result {
        let token = tokio::fs::read_to_string(&self.token)
            .await
            .map_err(CredentialsError::invalid_configuration)?;
        let answer = self
            .client
            .assume_role_with_web_identity()
            .role_arn(&self.role)
            .role_session_name(&self.session)
            .web_identity_token(token.trim())
            .send()
            .await
            .map_err(CredentialsError::provider_error)?;
        let given = answer
            .credentials
            .ok_or_else(|| CredentialsError::unhandled("STS answered without credentials"))?;
        let end = given.expiration.try_into().map_err(CredentialsError::unhandled)?;
        Ok(Credentials::new(
            given.access_key_id,
            given.secret_access_key,
            Some(given.session_token),
            Some(end),
            "WebIdentity",
        ))
    }
}

impl ProvideCredentials for WebIdentity {
    fn provide_credentials<'a>(&'a self) -> Answer<'a>
    where
        Self: 'a,
    {
        Answer::new(self.assume())
    }
}
