//! Who signs: a service account's key here, or Google itself with a key of the account's that nobody else has
//! ("IAM Service Account Credentials API", `signBlob`).

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

/// Signs.
pub enum Pen {
    /// With a key that is here.
    Key(Arc<ServiceAccountKey>),
    /// By one call of Google's IAM for each signature.
    Google(Box<Google>),
}

/// Has Google sign.
pub struct Google {
    /// The account, once it is known.
    pub account: OnceCell<String>,
    /// Where Google signs.
    pub iam: Iam,
    /// What is presented there.
    pub tokens: Tokens,
}

/// The IAM Service Account Credentials API. Where it is, the operator's environment says and no store: it is shown the
/// operator's token.
pub struct Iam {
    /// Scheme, host and port.
    pub endpoint: String,
    /// Leads there.
    pub http: Http,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    signed_blob: String,
}

impl Pen {
    /// The account that signs.
    ///
    /// # Errors
    /// [`SignError::Credentials`], if it has to be asked for and nobody says.
    pub async fn account(&self) -> Result<String, SignError> {
        match self {
            Self::Key(key) => Ok(key.email.clone()),
            Self::Google(google) => {
                let ask = || google.tokens.account();
                google.account.get_or_try_init(ask).await.cloned()
            }
        }
    }

    /// Who signs, as far as that lasts: the key, or the account for which Google does, whose own keys come and go.
    ///
    /// # Errors
    /// As [`Pen::account`].
    pub async fn print(&self) -> Result<String, SignError> {
        let account = self.account().await?;
        Ok(match self {
            Self::Key(key) => format!("{account} {}", hex(key.print().as_ref())),
            Self::Google(_) => account,
        })
    }

    /// Makes sure that it could sign now, as far as that shows without a signature.
    ///
    /// # Errors
    /// [`SignError::Credentials`].
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
    /// [`SignError`].
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
                // Of an RSA key of 2048 bits or more.
                match BASE64_STANDARD.decode(signed.signed_blob) {
                    Ok(signature) if (256..=1024).contains(&signature.len()) => Ok(signature),
                    _ => Err(unreachable(format!("{WHOM} answered something that is no signature"))),
                }
            }
            401 => {
                tokens.forget().await;
                Err(unreachable(format!(
                    "{WHOM} did not take the token; a new one is tried next"
                )))
            }
            status => Err(SignError::Credentials {
                reason: Reason::CredentialsRefused,
                message: format!(
                    "{WHOM} does not sign as {account} ({status}); the operator's identity needs roles/iam.serviceAccountTokenCreator on that account, and the project the IAM Service Account Credentials API"
                ),
            }),
        }
    }
}
