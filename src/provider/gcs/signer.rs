//! What signs: a service account key, or Google's IAM with an account's key that Google keeps ("IAM Service Account
//! Credentials API", `signBlob`).

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Method, header};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::OnceCell;

use super::{
    key::ServiceAccountKey,
    tokens::{Tokens, ask, read, request, unreachable},
    v4::{encoded, hex},
};
use crate::{api::Reason, core::SignError, net::client::Http};

const WHOM: &str = "Google's IAM (signBlob)";

/// What signs URLs and forms.
pub enum GcsSigner {
    /// A service account key, which signs locally.
    Key(Arc<ServiceAccountKey>),
    /// Google's IAM, with one request per signature.
    Google(Box<Google>),
}

/// Signs with Google's IAM.
pub struct Google {
    /// The account that signs, once it is known.
    pub account: OnceCell<String>,
    /// The IAM API.
    pub iam: Iam,
    /// The tokens that authorize the requests to IAM.
    pub tokens: Tokens,
}

/// The IAM Service Account Credentials API. The operator's environment sets its address, not a store, because the
/// operator sends its token to it.
pub struct Iam {
    pub endpoint: String,
    /// The HTTP client for this address.
    pub http: Http,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    signed_blob: String,
}

impl GcsSigner {
    /// The account that signs.
    ///
    /// # Errors
    /// [`SignError::Credentials`] if the metadata server must be asked for the account and does not answer.
    pub async fn account(&self) -> Result<String, SignError> {
        match self {
            Self::Key(key) => Ok(key.email.clone()),
            Self::Google(google) => {
                let ask = || google.tokens.account();
                google.account.get_or_try_init(ask).await.cloned()
            }
        }
    }

    /// A fingerprint of what signs: the service account key, or the account for which Google signs. Google replaces
    /// its keys often, so the fingerprint does not contain them.
    ///
    /// # Errors
    /// The same errors as [`GcsSigner::account`].
    pub async fn print(&self) -> Result<String, SignError> {
        let account = self.account().await?;
        Ok(match self {
            Self::Key(key) => format!("{account} {}", hex(key.print().as_ref())),
            Self::Google(_) => account,
        })
    }

    /// Checks that signing is possible now, without making a signature.
    ///
    /// # Errors
    /// [`SignError::Credentials`] if there is no token or no account.
    pub async fn is_ready(&self) -> Result<(), SignError> {
        if let Self::Google(google) = self {
            google.tokens.bearer().await?;
            self.account().await?;
        }
        Ok(())
    }

    /// Signs a message.
    ///
    /// # Errors
    /// [`SignError`] if Google's IAM refuses or does not answer, or if the key cannot sign.
    pub async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let Google { iam, tokens, .. } = match self {
            Self::Key(key) => return key.sign(message),
            Self::Google(google) => google.as_ref(),
        };
        let account = self.account().await?;
        let name = encoded(&account, false);
        let uri = format!("{}/v1/projects/-/serviceAccounts/{name}:signBlob", iam.endpoint);
        let body = json!({"payload": BASE64_STANDARD.encode(message)}).to_string();
        let bearer = tokens.bearer().await?;
        let headers = [
            (header::CONTENT_TYPE.as_str(), "application/json"),
            (header::AUTHORIZATION.as_str(), bearer.as_str()),
        ];
        let answer = ask(&iam.http, WHOM, request(Method::POST, &uri, &headers, body)?).await?;
        match answer.status {
            200 => {
                let signed: Signed = read(WHOM, &answer)?;
                // The signature of an RSA key has at least 2048 bits.
                match BASE64_STANDARD.decode(signed.signed_blob) {
                    Ok(signature) if (256..=1024).contains(&signature.len()) => Ok(signature),
                    _ => Err(unreachable(format!("the answer of {WHOM} is not a signature"))),
                }
            }
            401 => {
                tokens.forget().await;
                Err(unreachable(format!(
                    "{WHOM} did not accept the token; the next attempt uses a new one"
                )))
            }
            status => Err(SignError::Credentials {
                reason: Reason::CredentialsRefused,
                message: format!(
                    "{WHOM} does not sign as {account} ({status}); give the operator's identity roles/iam.serviceAccountTokenCreator on that account, and enable the IAM Service Account Credentials API in the project"
                ),
            }),
        }
    }
}
