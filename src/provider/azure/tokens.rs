//! Access tokens of the operator's own identity, by workload identity or from the machine's metadata server.

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

/// A token is fetched anew when less than this is left of it.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(5);
/// How long a token may take, with a second try: less than what is asked for with it.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait before the one second try of what did not answer.
const PAUSE: Duration = Duration::from_millis(300);
/// The longest file with a federated token that is read.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;
/// Microsoft's public cloud.
const AUTHORITY: &str = "https://login.microsoftonline.com/";
/// The metadata server of every machine in Azure ("Azure Instance Metadata Service").
const METADATA: &str = "http://169.254.169.254";
/// What the tokens are for: storage, in every cloud.
const STORAGE: &str = "https://storage.azure.com/";

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Workload identity: a service account's token, which Microsoft's identity platform takes for the application.
    Workload {
        /// The authority's address, as in `https://login.microsoftonline.com/`.
        authority: String,
        /// The directory.
        tenant: String,
        /// The application.
        client: String,
        /// The file with the service account's token; the kubelet keeps it fresh.
        file: PathBuf,
    },
    /// Managed identity: the metadata server of the machine.
    Managed {
        /// Its address.
        endpoint: String,
        /// The identity, where the machine has several.
        client: Option<String>,
    },
}

impl Source {
    /// What the environment says, by the names of Microsoft's own SDKs, which the webhook of Azure Workload Identity sets.
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

    /// Who answers, in messages.
    fn whom(&self) -> &'static str {
        match self {
            Self::Workload { .. } => "Microsoft's identity platform",
            Self::Managed { .. } => "the machine's metadata server",
        }
    }
}

/// An identity, with the token that it was given last.
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
    /// Nothing is asked for yet.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            // These addresses are the operator's own, and no store's owner chooses them.
            http: Http::new(None),
            last: Mutex::new(None),
        }
    }

    /// A token that is good for another while.
    ///
    /// # Errors
    /// [`SignError::Credentials`]: `StoreUnreachable` for what passes, another reason for what a person must change.
    pub async fn token(&self) -> Result<String, SignError> {
        let mut last = self.last.lock().await;
        let now = Timestamp::now();
        if let Some(token) = last.as_ref().filter(|t| now + RENEW_BEFORE < t.expires) {
            return Ok(token.value.clone());
        }
        let fetched = tokio::time::timeout(TOKEN_TIMEOUT, self.fetch()).await;
        let fetched =
            fetched.unwrap_or_else(|_| Err(unreachable(format!("{} gives no token in time", self.source.whom()))));
        match (fetched, last.as_ref()) {
            (Ok(token), _) => {
                let value = token.value.clone();
                *last = Some(token);
                Ok(value)
            }
            // What is left of the last one serves while nobody answers; what is refused is over.
            (Err(SignError::Credentials { reason, .. }), Some(token))
                if reason == Reason::StoreUnreachable && now < token.expires =>
            {
                Ok(token.value.clone())
            }
            (Err(e), _) => Err(e),
        }
    }

    /// Forgets the last token, which was not taken.
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
        // The error's own text would quote what it could not read.
        let granted: Granted = serde_json::from_slice(&answer.body)
            .map_err(|_| unreachable(format!("{whom} answered something that is no token")))?;
        let is_sound = !granted.access_token.is_empty() && granted.access_token.bytes().all(|b| b.is_ascii_graphic());
        if !is_sound || !granted.token_type.eq_ignore_ascii_case("bearer") || granted.expires_in <= 0 {
            return Err(unreachable(format!("{whom} answered with a token that cannot be used")));
        }
        // Whatever it says, a token that is said to live for years is not kept for years.
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
        let unusable = || {
            SignError::Credentials {
            reason: Reason::CredentialsInvalid,
            message: "the operator's environment names an address for tokens that is none (AZURE_AUTHORITY_HOST must be https)".into(),
        }
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
        // A service account's token is for nobody on the way. The metadata server is on the machine itself.
        if matches!(self.source, Source::Workload { .. }) && !is_private(request.uri()) {
            return Err(unusable());
        }
        Ok(request)
    }

    /// Asks once, and once more if that failed quickly.
    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Answer, SignError> {
        let whom = self.source.whom();
        let has_trouble = |answer: &Answer| answer.status >= 500 || matches!(answer.status, 408 | 410 | 429);
        let first = self.http.send(request.clone()).await;
        let answer = match first {
            Ok(answer) if !has_trouble(&answer) => return Ok(answer),
            Err(e @ (Unanswered::Slow | Unanswered::Untrusted(_) | Unanswered::Rootless)) => Err(e),
            _ => {
                tokio::time::sleep(PAUSE).await;
                self.http.send(request).await
            }
        };
        match answer {
            Ok(answer) if !has_trouble(&answer) => Ok(answer),
            Ok(answer) => Err(unreachable(format!("{whom} answered {}", answer.status))),
            Err(e) => Err(unreachable(format!("{whom} cannot be asked: {e}"))),
        }
    }

    /// What a refusal says. Of its text only codes are taken: the rest names directories and applications.
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
                "give the machine or the operator's pod an identity, or set credentials.secretRef"
            }
        };
        SignError::Credentials {
            reason: Reason::CredentialsRefused,
            message: format!(
                "{} gives the operator no token ({}); {remedy}",
                self.source.whom(),
                codes.join(", ")
            ),
        }
    }
}

/// The number of an error, as in "AADSTS700213: No matching federated identity record found ...".
fn aadsts(text: &str) -> Option<String> {
    let rest = text.strip_prefix("AADSTS")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).take(12).collect();
    (!digits.is_empty()).then(|| format!("AADSTS{digits}"))
}

/// A passing trouble.
pub fn unreachable(message: String) -> SignError {
    SignError::Credentials {
        reason: Reason::StoreUnreachable,
        message,
    }
}

/// The service account's token, as it is now: the kubelet replaces it.
async fn read(file: &std::path::Path) -> Result<String, SignError> {
    let unusable = |why: &str| SignError::Credentials {
        reason: Reason::CredentialsInvalid,
        message: format!("the file that AZURE_FEDERATED_TOKEN_FILE names {why}"),
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
        _ => Err(unusable("holds no token")),
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
