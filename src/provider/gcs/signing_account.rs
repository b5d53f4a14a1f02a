//! Signs with a service account key or with Google's IAM. With IAM, Google keeps the private key of the account and
//! makes the signature ("IAM Service Account Credentials API", `signBlob`).

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Method, header};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::OnceCell;

use super::{
    key::ServiceAccountKey,
    tokens::{Tokens, read, request, send_request, unreachable},
    v4::{encoded, hex},
};
use crate::{api::Reason, core::SignError, net::client::Http};

const SERVICE: &str = "Google's IAM (signBlob)";

/// Makes the signatures of URLs and POST forms.
pub enum GcsSigner {
    /// A service account key signs locally, without a request.
    Key(Arc<ServiceAccountKey>),
    /// Google's IAM signs. Each signature needs one request.
    Google(Box<Google>),
}

/// Signs with Google's IAM on behalf of one service account.
pub struct Google {
    /// The service account that IAM signs for. The store can set this value in `signAs`. Otherwise Valet asks the token
    /// source for the account at the first use.
    pub account: OnceCell<String>,
    pub iam: Iam,
    /// These access tokens authorize requests to Google's IAM.
    pub tokens: Tokens,
}

/// The address of the IAM Service Account Credentials API. Only the operator's environment can set it. A store must
/// not set it, because the operator sends its access token to this address.
pub struct Iam {
    pub endpoint: String,
    /// The HTTP client that sends requests to Google's IAM.
    pub http: Http,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    signed_blob: String,
}

impl GcsSigner {
    /// Returns the service account that signs.
    ///
    /// # Errors
    /// Returns [`SignError::Credentials`] if Valet must ask the metadata server for the account and the metadata
    /// server does not answer.
    pub async fn account(&self) -> Result<String, SignError> {
        match self {
            Self::Key(key) => Ok(key.email.clone()),
            Self::Google(google) => {
                let operation_spec = || google.tokens.account();
                google.account.get_or_try_init(operation_spec).await.cloned()
            }
        }
    }

    /// Returns a fingerprint of the service account key. If Google's IAM signs, the method returns the name of the
    /// account. The result does not depend on the keys of IAM, because Google replaces these keys often.
    ///
    /// # Errors
    /// Returns the same errors as [`GcsSigner::account`].
    pub async fn print(&self) -> Result<String, SignError> {
        let account = self.account().await?;
        Ok(match self {
            Self::Key(key) => format!("{account} {}", hex(key.print().as_ref())),
            Self::Google(_) => account,
        })
    }

    /// Checks that Valet can sign now. The method does not make a signature.
    ///
    /// # Errors
    /// Returns [`SignError::Credentials`] if there is no access token or no account.
    pub async fn is_ready(&self) -> Result<(), SignError> {
        if let Self::Google(google) = self {
            google.tokens.bearer().await?;
            self.account().await?;
        }
        Ok(())
    }

    /// Signs a message with the service account key or with Google's IAM.
    ///
    /// # Errors
    /// Returns [`SignError`] if Google's IAM refuses the request or does not answer, or if the service account key
    /// cannot sign.
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
        let answer = send_request(&iam.http, SERVICE, request(Method::POST, &uri, &headers, body)?).await?;
        match answer.status {
            200 => {
                let signed: Signed = read(SERVICE, &answer)?;
                // IAM signs with RSA keys of at least 2048 bits, so a valid signature has at least 256 bytes.
                match BASE64_STANDARD.decode(signed.signed_blob) {
                    Ok(signature) if (256..=1024).contains(&signature.len()) => Ok(signature),
                    _ => Err(unreachable(format!(
                        "the signing service, {SERVICE}, did not return a valid signature"
                    ))),
                }
            }
            401 => {
                tokens.forget().await;
                Err(unreachable(format!(
                    "the signing service, {SERVICE}, did not accept the operator's token; Valet requests a new token for the next attempt"
                )))
            }
            status => Err(SignError::Credentials {
                reason: Reason::CredentialsRefused,
                message: format!(
                    "Google's IAM refused to sign as service account {account} (status {status}); give the operator's identity roles/iam.serviceAccountTokenCreator on this account, and enable the IAM Service Account Credentials API in the project"
                ),
            }),
        }
    }
}
