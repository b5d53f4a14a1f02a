//! Access tokens of the operator's Azure identity. They come from workload identity or from the metadata server
//! (IMDS).

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

/// Valet renews an access token if it expires in less than 5 minutes.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(5);
/// The timeout for fetching an access token, including one retry. The timeout of the store request that needs the
/// token is longer.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause before Valet repeats a failed token request. There is only one retry.
const PAUSE: Duration = Duration::from_millis(300);
/// A federated token file can have at most this size, in bytes.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;
/// Microsoft's public cloud has this login endpoint.
const AUTHORITY: &str = "https://login.microsoftonline.com/";
/// The address of the metadata server on Azure machines ("Azure Instance Metadata Service").
const METADATA: &str = "http://169.254.169.254";
/// The resource that Valet requests access tokens for. This value is valid for storage in every Azure cloud.
const STORAGE: &str = "https://storage.azure.com/";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The token comes from workload identity. Microsoft's identity platform exchanges a Kubernetes service account
    /// token for an access token of the application.
    Workload {
        /// The identity platform has this URL, for example `https://login.microsoftonline.com/`.
        authority: String,
        tenant: String,
        /// This is the client ID of the Azure application.
        client: String,
        /// The file contains the Kubernetes service account token. The kubelet renews this file.
        file: PathBuf,
    },
    /// The token comes from a managed identity. The metadata server of the machine returns the token.
    Managed {
        endpoint: String,
        /// The client ID of the managed identity. The client ID is necessary only if the machine has several
        /// identities.
        client: Option<String>,
    },
}

impl Source {
    /// Reads the token source from the environment variables that Microsoft's SDKs also read. The webhook of Azure
    /// Workload Identity sets these variables.
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

    /// Returns the name of the token source for use in messages.
    fn service(&self) -> &'static str {
        match self {
            Self::Workload { .. } => "Microsoft's identity platform",
            Self::Managed { .. } => "the machine's metadata server",
        }
    }
}

/// An Azure identity of the operator, and the last access token that Valet fetched for this identity.
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
    /// Creates the identity. The function does not request a token.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            // The egress policy does not apply to the addresses of the token source. The platform team sets these
            // addresses, and a tenant cannot change them.
            http: Http::new(None),
            last: Mutex::new(None),
        }
    }

    /// Returns an access token that stays valid for at least some minutes.
    ///
    /// # Errors
    /// Returns [`SignError::Credentials`] if no access token is available. After the reason `StoreUnreachable`, a retry
    /// can help. After any other reason, somebody must change the configuration.
    pub async fn token(&self) -> Result<String, SignError> {
        let mut last = self.last.lock().await;
        let now = Timestamp::now();
        if let Some(token) = last.as_ref().filter(|t| now + RENEW_BEFORE < t.expires) {
            return Ok(token.value.clone());
        }
        let fetched = tokio::time::timeout(TOKEN_TIMEOUT, self.fetch()).await;
        let fetched = fetched.unwrap_or_else(|_| {
            Err(unreachable(format!(
                "the token source ({service}) did not return a token in time",
                service = self.source.service()
            )))
        });
        match (fetched, last.as_ref()) {
            (Ok(token), _) => {
                let value = token.value.clone();
                *last = Some(token);
                Ok(value)
            }
            // While the token source does not answer, Valet uses the last access token until this token expires. If
            // the source refuses to issue a new token, Valet no longer uses the last one.
            (Err(SignError::Credentials { reason, .. }), Some(token))
                if reason == Reason::StoreUnreachable && now < token.expires =>
            {
                Ok(token.value.clone())
            }
            (Err(e), _) => Err(e),
        }
    }

    /// Discards the last access token. Valet calls this method after the store rejected the token.
    pub async fn forget(&self) {
        *self.last.lock().await = None;
    }

    async fn fetch(&self) -> Result<Token, SignError> {
        let request = self.request().await?;
        let answer = self.send_request(request).await?;
        let service = self.source.service();
        if answer.status != StatusCode::OK.as_u16() {
            return Err(self.refusal(&answer));
        }
        // Valet does not show the parser's error, because the error can contain parts of the token.
        let granted: Granted = serde_json::from_slice(&answer.body).map_err(|_| {
            unreachable(format!(
                "the answer of the token source ({service}) does not contain a valid token"
            ))
        })?;
        let is_sound = !granted.access_token.is_empty() && granted.access_token.bytes().all(|b| b.is_ascii_graphic());
        if !is_sound || !granted.token_type.eq_ignore_ascii_case("bearer") || granted.expires_in <= 0 {
            return Err(unreachable(format!(
                "the token source ({service}) returned an invalid or expired token"
            )));
        }
        // Valet keeps an access token for at most one day, even if the answer of the token source states a longer
        // lifetime.
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
            message: "the operator's environment variable AZURE_AUTHORITY_HOST is not a valid https URL".into(),
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
        // Valet sends the Kubernetes service account token only over HTTPS. Requests to the metadata server can use
        // plain HTTP, because the server runs on the machine itself.
        if matches!(self.source, Source::Workload { .. }) && !is_private(request.uri()) {
            return Err(unusable());
        }
        Ok(request)
    }

    /// Sends a request to the token source. If the request fails quickly, the function sends it a second time.
    async fn send_request(&self, request: Request<Full<Bytes>>) -> Result<Answer, SignError> {
        let service = self.source.service();
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
            Ok(answer) => Err(unreachable(format!("{service} answered {}", answer.status))),
            Err(e) => Err(unreachable(format!("the request to {service} failed: {e}"))),
        }
    }

    /// Converts a refusal of the token source into an error. The error contains only codes from the answer. The rest
    /// of the answer names Azure tenants and applications, which Valet must not show.
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
                "check the annotations of the operator's service account, and check the federated credential of the Azure application"
            }
            Source::Managed { .. } => {
                "give an Azure identity to the operator's machine or pod, or set spec.azureBlob.credentials.secretRef"
            }
        };
        SignError::Credentials {
            reason: Reason::CredentialsRefused,
            message: format!(
                "the token source ({service}) refused to issue a token for the operator's identity ({codes}); {remedy}",
                service = self.source.service(),
                codes = codes.join(", ")
            ),
        }
    }
}

/// Returns the error number from a text such as "AADSTS700213: No matching federated identity record found ...".
fn aadsts(text: &str) -> Option<String> {
    let rest = text.strip_prefix("AADSTS")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).take(12).collect();
    (!digits.is_empty()).then(|| format!("AADSTS{digits}"))
}

/// Returns the error for a problem that a retry can solve.
pub fn unreachable(message: String) -> SignError {
    SignError::Credentials {
        reason: Reason::StoreUnreachable,
        message,
    }
}

/// Reads the Kubernetes service account token from its file. Valet reads the file before each use, because the
/// kubelet replaces the file.
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

/// Parses a number that the metadata server wrote as a JSON string.
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
