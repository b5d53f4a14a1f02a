//! Access tokens of the operator's identity, from workload identity or from the metadata server (IMDS).

use std::{env, fmt, path::PathBuf, time::Duration};

use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, de::Error as _};
use tokio::sync::Mutex;

use super::sas::encoded;
use crate::{
    api::Reason,
    core::SignError,
    net::client::{Answer, Http, Unanswered, is_private},
};

/// A token is renewed when it expires in less than this time.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(5);
/// Timeout for a token, with one retry. It is shorter than the timeout of the request that needs the token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before the only retry.
const PAUSE: Duration = Duration::from_millis(300);
/// The largest federated token file that is read.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;
/// The authority of Microsoft's public cloud.
const AUTHORITY: &str = "https://login.microsoftonline.com/";
/// The metadata server of Azure machines ("Azure Instance Metadata Service").
const METADATA: &str = "http://169.254.169.254";
/// The resource that the tokens are for: storage, in every cloud.
const STORAGE: &str = "https://storage.azure.com/";

/// The source of access tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Workload identity: Microsoft's identity platform exchanges a service account token for a token of the
    /// application.
    Workload {
        /// The authority's URL, such as `https://login.microsoftonline.com/`.
        authority: String,
        /// The tenant ID.
        tenant: String,
        /// The client ID of the application.
        client: String,
        /// The file with the service account token. The kubelet renews it.
        file: PathBuf,
    },
    /// Managed identity: the metadata server of the machine.
    Managed {
        /// The URL of the metadata server.
        endpoint: String,
        /// The client ID of the identity, if the machine has several.
        client: Option<String>,
    },
}

impl Source {
    /// Reads the source from the environment variables of Microsoft's SDKs. The webhook of Azure Workload Identity
    /// sets them.
    pub fn from_environment() -> Self {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        match (
            set("AZURE_FEDERATED_TOKEN_FILE"),
            set("AZURE_TENANT_ID"),
            set("AZURE_CLIENT_ID"),
        ) {
            (Some(file), Some(tenant), Some(client)) => Self::Workload {
                authority: set("AZURE_AUTHORITY_HOST").unwrap_or_else(|| AUTHORITY.into()),
                tenant,
                client,
                file: file.into(),
            },
            (_, _, client) => Self::Managed {
                endpoint: set("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| METADATA.into()),
                client,
            },
        }
    }

    /// The name of the source in messages.
    fn whom(&self) -> &'static str {
        match self {
            Self::Workload { .. } => "Microsoft's identity platform",
            Self::Managed { .. } => "the machine's metadata server",
        }
    }
}

/// An identity with its last token.
pub struct Identity {
    source: Source,
    http: Http,
    last: Mutex<Option<Token>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

struct Token {
    value: String,
    expires: Timestamp,
}

impl Identity {
    /// Creates the identity. No token is requested yet.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            // The platform team sets these addresses, not the owner of a store, so they are not limited.
            http: Http::new(None),
            last: Mutex::new(None),
        }
    }

    /// Returns a token that stays valid for some time.
    ///
    /// # Errors
    /// [`SignError::Credentials`]: `StoreUnreachable` for a temporary failure, another reason if a person must change
    /// something.
    pub async fn token(&self) -> Result<String, SignError> {
        let mut last = self.last.lock().await;
        let now = Timestamp::now();
        if let Some(token) = last.as_ref().filter(|t| now + RENEW_BEFORE < t.expires) {
            return Ok(token.value.clone());
        }
        let fetched = tokio::time::timeout(TOKEN_TIMEOUT, self.fetch()).await;
        let fetched = fetched.unwrap_or_else(|_| {
            Err(unreachable(format!(
                "{} did not return a token in time",
                self.source.whom()
            )))
        });
        match (fetched, last.as_ref()) {
            (Ok(token), _) => {
                let value = token.value.clone();
                *last = Some(token);
                Ok(value)
            }
            // While the source does not answer, the last token is used until its expiry. After a refusal it is not
            // used.
            (Err(SignError::Credentials { reason, .. }), Some(token))
                if reason == Reason::StoreUnreachable && now < token.expires =>
            {
                Ok(token.value.clone())
            }
            (Err(e), _) => Err(e),
        }
    }

    /// Discards the last token, because the store did not accept it.
    pub async fn forget(&self) {
        *self.last.lock().await = None;
    }

    async fn fetch(&self) -> Result<Token, SignError> {
        let request = self.request().await?;
        let answer = self.ask(request).await?;
        let whom = self.source.whom();
        if answer.status != StatusCode::OK.as_u16() {
            return Err(self.refusal(&answer));
        }
        // The text of the error would contain the text that it could not parse.
        let granted: Granted = serde_json::from_slice(&answer.body)
            .map_err(|_| unreachable(format!("the answer of {whom} is not a token")))?;
        let is_sound = !granted.access_token.is_empty() && granted.access_token.bytes().all(|b| b.is_ascii_graphic());
        if !is_sound || !granted.token_type.eq_ignore_ascii_case("bearer") || granted.expires_in <= 0 {
            return Err(unreachable(format!("{whom} returned a token that cannot be used")));
        }
        // A token is kept for at most a day, even if the answer says that it is valid for longer.
        let seconds = granted.expires_in.min(24 * 3600);
        Ok(Token {
            value: granted.access_token,
            expires: Timestamp::now() + SignedDuration::from_secs(seconds),
        })
    }

    async fn request(&self) -> Result<Request<Full<Bytes>>, SignError> {
        let (uri, body) = match &self.source {
            Source::Workload {
                authority,
                tenant,
                client,
                file,
            } => {
                let assertion = read(file).await?;
                let uri = format!(
                    "{}/{}/oauth2/v2.0/token",
                    authority.trim_end_matches('/'),
                    encoded(tenant)
                );
                let form = [
                    ("grant_type", "client_credentials"),
                    (
                        "client_assertion_type",
                        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                    ),
                    ("client_assertion", assertion.as_str()),
                    ("client_id", client),
                    ("scope", &format!("{STORAGE}.default")),
                ]
                .map(|(name, value)| format!("{name}={}", encoded(value)));
                (uri, Some(form.join("&")))
            }
            Source::Managed { endpoint, client } => {
                let client = client.as_deref().map(|c| format!("&client_id={}", encoded(c)));
                let uri = format!(
                    "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={}{}",
                    endpoint.trim_end_matches('/'),
                    encoded(STORAGE),
                    client.unwrap_or_default()
                );
                (uri, None)
            }
        };
        let unusable = || SignError::Credentials {
            reason: Reason::CredentialsInvalid,
            message: "AZURE_AUTHORITY_HOST in the operator's environment is not a valid https URL".into(),
        };
        let builder = match &body {
            Some(_) => Request::builder()
                .method(Method::POST)
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded"),
            None => Request::builder().method(Method::GET).header("Metadata", "true"),
        };
        let request = builder
            .uri(uri)
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|_| unusable())?;
        // The service account token is sent only over https. The metadata server is on the machine itself.
        if matches!(self.source, Source::Workload { .. }) && !is_private(request.uri()) {
            return Err(unusable());
        }
        Ok(request)
    }

    /// Sends the request, and repeats it once if it failed quickly.
    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Answer, SignError> {
        let whom = self.source.whom();
        let has_trouble = |answer: &Answer| answer.status >= 500 || matches!(answer.status, 408 | 410 | 429);
        let first = self.http.send(request.clone()).await;
        let answer = match first {
            Ok(answer) if !has_trouble(&answer) => return Ok(answer),
            Err(e @ (Unanswered::Slow | Unanswered::Untrusted(_) | Unanswered::NoTrustRoots)) => Err(e),
            _ => {
                tokio::time::sleep(PAUSE).await;
                self.http.send(request).await
            }
        };
        match answer {
            Ok(answer) if !has_trouble(&answer) => Ok(answer),
            Ok(answer) => Err(unreachable(format!("{whom} answered {}", answer.status))),
            Err(e) => Err(unreachable(format!("the request to {whom} failed: {e}"))),
        }
    }

    /// Interprets a refusal. Only codes are taken from its text, because the rest names tenants and applications.
    fn refusal(&self, answer: &Answer) -> SignError {
        let said: Refusal = serde_json::from_slice(&answer.body).unwrap_or_default();
        let error = said
            .error
            .filter(|e| e.len() <= 64 && e.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        let number = said.error_description.and_then(|text| aadsts(&text));
        let codes: Vec<_> = [Some(answer.status.to_string()), error, number]
            .into_iter()
            .flatten()
            .collect();
        let remedy = match &self.source {
            Source::Workload { .. } => {
                "check the operator's service account, its annotations, and the federated credential of the application"
            }
            Source::Managed { .. } => {
                "give the machine or the operator's pod an identity, or set spec.azureBlob.credentials.secretRef"
            }
        };
        SignError::Credentials {
            reason: Reason::CredentialsRefused,
            message: format!(
                "{} refused a token for the operator's identity ({}); {remedy}",
                self.source.whom(),
                codes.join(", ")
            ),
        }
    }
}

/// The error number in a text such as "AADSTS700213: No matching federated identity record found ...".
fn aadsts(text: &str) -> Option<String> {
    let rest = text.strip_prefix("AADSTS")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).take(12).collect();
    (!digits.is_empty()).then(|| format!("AADSTS{digits}"))
}

/// An error for a temporary failure.
pub fn unreachable(message: String) -> SignError {
    SignError::Credentials {
        reason: Reason::StoreUnreachable,
        message,
    }
}

/// Reads the service account token from its file. The kubelet replaces the file.
async fn read(file: &std::path::Path) -> Result<String, SignError> {
    let unusable = |why: &str| SignError::Credentials {
        reason: Reason::CredentialsInvalid,
        message: format!("the file in AZURE_FEDERATED_TOKEN_FILE {why}"),
    };
    let length = tokio::fs::metadata(file).await.map_or(0, |m| m.len());
    if length > MAX_TOKEN_BYTES {
        return Err(unusable("is longer than 64 KiB"));
    }
    let text = tokio::fs::read_to_string(file)
        .await
        .map_err(|_| unusable("cannot be read"))?;
    match text.trim() {
        "" => Err(unusable("is empty")),
        token if token.bytes().all(|b| b.is_ascii_graphic()) => Ok(token.to_owned()),
        _ => Err(unusable("contains no token")),
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: String,
    #[serde(deserialize_with = "number")]
    expires_in: i64,
}

#[derive(Default, Deserialize)]
struct Refusal {
    error: Option<String>,
    error_description: Option<String>,
}

/// The metadata server writes numbers as text.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(n) => Ok(n),
        Either::Text(text) => text.parse().map_err(|_| D::Error::custom("not a number")),
    }
}
