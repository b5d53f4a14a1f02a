//! Who signs: a service account's key here, or Google itself with a key of the account's that nobody else has
//! ("IAM Service Account Credentials API", `signBlob`).

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Method, header};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::OnceCell;

use super::{
    http::Http,
    key::ServiceAccountKey,
    tokens::{Source, Tokens, ask, metadata, read, request},
    v4::encoded,
};
use crate::{api::Reason, sign::SignError};

/// Where Google signs, unless the store says otherwise.
const IAM: &str = "https://iamcredentials.googleapis.com";
const WHOM: &str = "Google's IAM (signBlob)";

/// Signs.
pub enum Pen {
    /// With a key that is here.
    Key(Arc<ServiceAccountKey>),
    /// By one call of Google's IAM for each signature.
    Google {
        /// The account, once it is known.
        account: OnceCell<String>,
        /// Scheme, host and port.
        iam: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    signed_blob: String,
}

impl Pen {
    /// Has Google sign as this account, or as the one that the operator runs as.
    pub fn google(account: Option<String>, iam: Option<&str>) -> Self {
        Self::Google {
            account: OnceCell::new_with(account),
            iam: iam.unwrap_or(IAM).trim_end_matches('/').to_owned(),
        }
    }

    /// The account that signs.
    ///
    /// # Errors
    /// [`SignError::Credentials`], if it has to be asked for and nobody says.
    pub async fn account(&self, http: &Http, tokens: &Tokens) -> Result<String, SignError> {
        match self {
            Self::Key(key) => Ok(key.email.clone()),
            Self::Google { account, .. } => account.get_or_try_init(|| own(http, tokens)).await.cloned(),
        }
    }

    /// Signs a message.
    ///
    /// # Errors
    /// [`SignError`].
    pub async fn sign(&self, http: &Http, tokens: &Tokens, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let iam = match self {
            Self::Key(key) => return key.sign(message),
            Self::Google { iam, .. } => iam,
        };
        let account = self.account(http, tokens).await?;
        let uri = format!("{iam}/v1/projects/-/serviceAccounts/{}:signBlob", encoded(&account, false));
        let body = json!({"payload": BASE64_STANDARD.encode(message)}).to_string();
        let bearer = format!("Bearer {}", tokens.bearer(http).await?);
        let headers = [
            (header::CONTENT_TYPE.as_str(), "application/json"),
            (header::AUTHORIZATION.as_str(), bearer.as_str()),
        ];
        let answer = ask(http, WHOM, request(Method::POST, &uri, &headers, body)?).await?;
        match answer.status {
            200 => {
                let signed: Signed = read(WHOM, &answer)?;
                // Of an RSA key of 2048 bits or more.
                match BASE64_STANDARD.decode(signed.signed_blob) {
                    Ok(signature) if (256..=1024).contains(&signature.len()) => Ok(signature),
                    _ => Err(super::tokens::unreachable(format!("{WHOM} answered something that is no signature"))),
                }
            }
            401 => {
                tokens.forget().await;
                Err(super::tokens::unreachable(format!("{WHOM} did not take the token; trying again with a new one")))
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

/// The account that the operator runs as.
async fn own(http: &Http, tokens: &Tokens) -> Result<String, SignError> {
    let unnamed = |why: &str| SignError::Credentials {
        reason: Reason::CredentialsInvalid,
        message: format!("{why}, and only a service account can sign; name one in spec.gcs.credentials.signAs"),
    };
    match tokens.source() {
        Source::Key(key) => Ok(key.email.clone()),
        Source::Metadata { host } => {
            let answer = metadata(http, host, "email").await?;
            let email = std::str::from_utf8(&answer.body).unwrap_or_default().trim();
            // Without a bound account GKE names the workload identity pool instead.
            match email.split_once('@') {
                Some((name, domain)) if !name.is_empty() && domain.ends_with(".gserviceaccount.com") => {
                    Ok(email.to_owned())
                }
                _ => Err(unnamed("the operator's identity is no service account")),
            }
        }
        Source::External(external) => {
            let url = external.impersonation_url.as_ref().map(ToString::to_string).unwrap_or_default();
            let email = url.rsplit('/').next().and_then(|last| last.strip_suffix(":generateAccessToken"));
            let email = email.filter(|e| e.contains('@'));
            email
                .map(str::to_owned)
                .ok_or_else(|| unnamed("the operator's federated identity is no service account"))
        }
    }
}
