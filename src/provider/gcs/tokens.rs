//! Access tokens that authorize the operator's requests to Google's IAM.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{key::ServiceAccountKey, v4::encoded};
use crate::{
    api::Reason,
    core::SignError,
    net::client::{Answer, Http, SOURCE_TIMEOUT, Unanswered},
};

/// Valet renews an access token if the token expires in less than 225 seconds. An earlier renewal would not help:
/// Google's metadata server caches its token. The server returns a new token only if the cached token expires in less
/// than 4 minutes.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_secs(225);
/// The OAuth scope of the requested access tokens. This scope does not limit the tokens: the IAM roles of the identity
/// decide what a token allows.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// The lifetime that Valet requests for an access token, in seconds. This is the maximum that Google allows.
const LIFETIME: i64 = 3600;
/// The pause before Valet repeats a failed token request. There is only one retry.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Clone)]
pub enum Source {
    /// The token comes from a service account key (RFC 7523, the JWT bearer grant).
    Key(Arc<ServiceAccountKey>),
    /// The token comes from the metadata server of a Google Cloud machine or of GKE's workload identity.
    Metadata {
        /// The host of the metadata server, with a port if it is not 80.
        host: String,
    },
    /// Google exchanges the token of an external identity provider for a Google token (workload identity federation).
    External(Arc<External>),
    /// There is no usable source of tokens. The string contains the reason.
    Unusable(String),
}

/// This is the configuration of a workload identity federation.
#[derive(Debug)]
pub struct External {
    /// The workload identity provider in Google Cloud that accepts the external token.
    pub audience: String,
    /// Google exchanges an external token of this type.
    pub subject_token_type: String,
    /// Google's Security Token Service (STS) has this URL.
    pub token_url: Uri,
    /// This file contains the external token.
    pub file: PathBuf,
    /// The name of the JSON field that contains the external token. The name is `None` if the file contains only the
    /// token.
    pub field: Option<String>,
    /// The URL that exchanges the federated token for the token of a service account. It is `None` if the federation
    /// uses no service account.
    pub impersonation_url: Option<Uri>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key",
            Self::Metadata { .. } => "Metadata",
            Self::External(_) => "External",
            Self::Unusable(_) => "Unusable",
        })
    }
}

/// A source of access tokens, and the last access token from this source.
pub struct Tokens {
    source: Source,
    http: Http,
    last: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    value: String,
    expires: Timestamp,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: i64,
    #[serde(default)]
    token_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImpersonationAnswer {
    access_token: String,
    expire_time: Timestamp,
}

impl Tokens {
    /// Creates the token cache. The function does not request a token. The HTTP client must be allowed to reach the
    /// token source.
    pub fn new(source: Source, http: Http) -> Self {
        Self {
            source,
            http,
            last: Mutex::new(None),
        }
    }

    /// Returns an access token as the value of an Authorization header. The token stays valid for at least some
    /// minutes.
    ///
    /// The caller must send the token only to Google's IAM, and never to an address that a store names. A server that
    /// receives the token can act as the operator.
    ///
    /// # Errors
    /// Returns [`SignError::Credentials`] if no token is available.
    pub async fn bearer(&self) -> Result<String, SignError> {
        let http = &self.http;
        let mut last = self.last.lock().await;
        let now = Timestamp::now();
        if let Some(token) = last.as_ref().filter(|t| now + RENEW_BEFORE < t.expires) {
            return Ok(format!("Bearer {}", token.value));
        }
        let fetched = tokio::time::timeout(SOURCE_TIMEOUT, async {
            match &self.source {
                Source::Key(key) => by_key(http, key, now).await,
                Source::Metadata { host } => by_metadata(http, host).await,
                Source::External(external) => by_federation(http, external).await,
                Source::Unusable(why) => Err(unusable(why)),
            }
        });
        let fetched = fetched
            .await
            .unwrap_or_else(|_| Err(unreachable("the token source did not return a token in time".into())));
        match (fetched, last.as_ref()) {
            (Ok(token), _) => {
                let value = format!("Bearer {}", token.value);
                *last = Some(token);
                Ok(value)
            }
            // While the token source does not answer, Valet uses the last access token until this token expires. If
            // the source refuses to issue a new token, Valet no longer uses the last one.
            (Err(SignError::Credentials { reason, .. }), Some(token))
                if reason == Reason::StoreUnreachable && now < token.expires =>
            {
                Ok(format!("Bearer {}", token.value))
            }
            (Err(e), _) => Err(e),
        }
    }

    /// Returns the service account that the access tokens of this source belong to.
    ///
    /// # Errors
    /// Returns [`SignError::Credentials`] if the source has no service account, or if Valet cannot find out the
    /// account.
    pub async fn account(&self) -> Result<String, SignError> {
        let nobody = |what: &str| {
            unusable(&format!(
                "only service accounts can sign, but the operator's identity ({what}) is not a service account; set spec.gcs.credentials.signAs to a service account"
            ))
        };
        match &self.source {
            Source::Key(key) => Ok(key.email.clone()),
            Source::Metadata { host } => {
                let answer = metadata(&self.http, host, "email").await?;
                let email = std::str::from_utf8(&answer.body).unwrap_or_default().trim();
                // If no service account is bound to the identity of the pod, GKE returns no email address. GKE then
                // returns the name of the workload identity pool.
                match email.split_once('@') {
                    Some((name, domain)) if !name.is_empty() && domain.ends_with(".gserviceaccount.com") => {
                        Ok(email.to_owned())
                    }
                    _ => Err(nobody("metadata server")),
                }
            }
            Source::External(external) => {
                let url = external.impersonation_url.as_ref().map(ToString::to_string);
                let last = url.as_deref().and_then(|url| url.rsplit('/').next());
                let email = last.and_then(|last| last.strip_suffix(":generateAccessToken"));
                let email = email.filter(|e| e.contains('@')).map(str::to_owned);
                email.ok_or_else(|| nobody("workload identity federation"))
            }
            Source::Unusable(why) => Err(unusable(why)),
        }
    }

    /// Discards the last access token. Valet calls this method after a service rejected the token.
    pub async fn forget(&self) {
        *self.last.lock().await = None;
    }
}

/// Returns the error for a source without usable credentials. `why` is the reason.
pub fn unusable(why: &str) -> SignError {
    SignError::Credentials {
        reason: Reason::CredentialsInvalid,
        message: why.to_owned(),
    }
}

/// Sends a request to the token source. After a temporary failure, the function sends the request a second time.
pub async fn send_request(http: &Http, service: &str, request: Request<Full<Bytes>>) -> Result<Answer, SignError> {
    let again = request.clone();
    let first = http.send(request).await;
    let answer = match first {
        Ok(answer) if answer.status < 500 && answer.status != 429 => return Ok(answer),
        // A retry after one of these errors does not help, because the cause of the error still exists after the short
        // pause.
        Err(
            e @ (Unanswered::Slow
            | Unanswered::EgressDenied(_)
            | Unanswered::Untrusted(_)
            | Unanswered::NoTrustRoots
            | Unanswered::WriteDenied),
        ) => Err(e),
        Ok(_)
        | Err(Unanswered::Connection | Unanswered::ProxyUnsupported | Unanswered::Malformed | Unanswered::TooLong) => {
            tokio::time::sleep(PAUSE).await;
            http.send(again).await
        }
    };
    match answer {
        Ok(answer) if answer.status < 500 && answer.status != 429 => Ok(answer),
        Ok(answer) => Err(unreachable(format!("{service} answered {}", answer.status))),
        Err(Unanswered::EgressDenied(inward)) => Err(SignError::Credentials {
            reason: Reason::EndpointNotAllowed,
            message: inward.to_string(),
        }),
        Err(e) => Err(unreachable(format!("the request to {service} failed: {e}"))),
    }
}

/// Returns the error for a problem that a retry can solve.
pub fn unreachable(message: String) -> SignError {
    SignError::Credentials {
        reason: Reason::StoreUnreachable,
        message,
    }
}

/// Parses a JSON answer of the token source. The function discards the parser's error, because the error can contain
/// parts of a token.
pub fn read<T: DeserializeOwned>(service: &str, answer: &Answer) -> Result<T, SignError> {
    serde_json::from_slice(&answer.body)
        .map_err(|_| unreachable(format!("the answer of {service} is not JSON with the expected fields")))
}

/// Builds a request to the token source. Invalid settings of a user cannot cause an error here, because Valet validates
/// the settings when it reads them.
pub fn request(
    method: Method,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Request<Full<Bytes>>, SignError> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
        .body(Full::new(body.into()))
        .map_err(|_| SignError::Refused("the request could not be built".into()))
}

fn usable_token(service: &str, answer: TokenAnswer) -> Result<Token, SignError> {
    let is_bearer = answer.token_type.is_none_or(|t| t.eq_ignore_ascii_case("bearer"));
    let is_sound = !answer.access_token.is_empty() && answer.access_token.bytes().all(|b| b.is_ascii_graphic());
    // Valet keeps an access token for at most 12 hours, even if the answer of the token source states a longer
    // lifetime.
    let seconds = answer.expires_in.clamp(0, 12 * LIFETIME);
    if !is_bearer || !is_sound || seconds == 0 {
        return Err(unreachable(format!("{service} returned no usable token")));
    }
    Ok(Token {
        value: answer.access_token,
        expires: Timestamp::now() + SignedDuration::from_secs(seconds),
    })
}

async fn by_key(http: &Http, key: &ServiceAccountKey, now: Timestamp) -> Result<Token, SignError> {
    const SERVICE: &str = "Google's token endpoint";
    let assertion = assertion(key, now)?;
    let body = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
    let form = [(header::CONTENT_TYPE.as_str(), "application/x-www-form-urlencoded")];
    let answer = send_request(
        http,
        SERVICE,
        request(Method::POST, &key.token_uri.to_string(), &form, body)?,
    )
    .await?;
    match answer.status {
        200 => usable_token(SERVICE, read(SERVICE, &answer)?),
        status => Err(SignError::Credentials {
            reason: Reason::CredentialsRefused,
            message: format!(
                "Google refused to issue a token for the service account key (status {status}{code}); check that the service account and its key exist and are enabled, or put a new service account key into the Secret",
                code = code(&answer)
            ),
        }),
    }
}

/// Builds a signed JWT, with which Valet requests an access token for a service account.
fn assertion(key: &ServiceAccountKey, now: Timestamp) -> Result<String, SignError> {
    let issued = now.as_second();
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": key.id});
    let claims = json!({
        "iss": key.email, "scope": SCOPE, "aud": key.token_uri.to_string(), "iat": issued, "exp": issued + LIFETIME,
    });
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = key.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

/// Returns the OAuth error code of an answer. If the error in the answer does not have the form of an error code, the
/// function returns an empty text. Therefore the function never returns arbitrary text from the answer.
fn code(answer: &Answer) -> String {
    let said: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let word = said
        .as_ref()
        .and_then(|v| v["error"].as_str().or_else(|| v["error"]["status"].as_str()));
    match word {
        Some(word) if word.len() <= 40 && word.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_') => {
            format!(" {word}")
        }
        _ => String::new(),
    }
}

const METADATA: &str = "the metadata server";

async fn by_metadata(http: &Http, host: &str) -> Result<Token, SignError> {
    let answer = metadata(http, host, "token").await?;
    usable_token(METADATA, read(METADATA, &answer)?)
}

async fn metadata(http: &Http, host: &str, what: &str) -> Result<Answer, SignError> {
    let uri = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/{what}");
    let flavor = [("metadata-flavor", "Google")];
    let answer = send_request(http, METADATA, request(Method::GET, &uri, &flavor, Bytes::new())?).await?;
    match answer.status {
        // Valet accepts the answer only from Google's metadata server. In other environments, a different server can
        // listen at this address.
        200 if is_google(&answer.headers) => Ok(answer),
        200 => Err(SignError::Credentials {
            reason: Reason::CredentialsInvalid,
            message: format!("the server at {host} is not Google's metadata server; set spec.gcs.credentials.secretRef, or correct the operator's environment variable GCE_METADATA_HOST"),
        }),
        404 => Err(SignError::Credentials {
            reason: Reason::CredentialsInvalid,
            message: "the operator's machine has no Google service account; bind a Google service account to the operator's Kubernetes service account (workload identity), or set spec.gcs.credentials.secretRef".into(),
        }),
        status => Err(SignError::Credentials {
            reason: Reason::CredentialsInvalid,
            message: format!("the metadata server returned no token (status {status}); check that the operator's Kubernetes service account is allowed to act as the Google service account (roles/iam.workloadIdentityUser)"),
        }),
    }
}

fn is_google(headers: &HeaderMap) -> bool {
    headers.get("metadata-flavor").is_some_and(|v| v == "Google")
}

/// Exchanges an external token for a Google token (RFC 8693). If the configuration names a service account, the
/// function then exchanges the Google token for a token of this service account.
async fn by_federation(http: &Http, external: &External) -> Result<Token, SignError> {
    const STS: &str = "Google's STS";
    let refused = |who: &str, answer: &Answer| SignError::Credentials {
        reason: Reason::CredentialsRefused,
        message: format!(
            "the token source, {who}, refused to issue a token for the operator's identity (status {status}{code}); check the workload identity pool and its provider",
            status = answer.status,
            code = code(answer)
        ),
    };
    let subject = subject_token(external).await?;
    let parts = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("audience", &external.audience),
        ("scope", SCOPE),
        ("subject_token_type", &external.subject_token_type),
        ("subject_token", &subject),
    ];
    let body: Vec<_> = parts
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value, false)))
        .collect();
    let form = [(header::CONTENT_TYPE.as_str(), "application/x-www-form-urlencoded")];
    let ask_sts = request(Method::POST, &external.token_url.to_string(), &form, body.join("&"))?;
    let answer = send_request(http, STS, ask_sts).await?;
    if answer.status != 200 {
        return Err(refused(STS, &answer));
    }
    let federated = usable_token(STS, read(STS, &answer)?)?;
    let Some(url) = &external.impersonation_url else {
        return Ok(federated);
    };
    const IAM: &str = "Google's IAM";
    let bearer = format!("Bearer {}", federated.value);
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/json"),
        (header::AUTHORIZATION.as_str(), bearer.as_str()),
    ];
    let body = json!({"scope": [SCOPE], "lifetime": format!("{LIFETIME}s")}).to_string();
    let answer = send_request(http, IAM, request(Method::POST, &url.to_string(), &headers, body)?).await?;
    if answer.status != 200 {
        return Err(refused(IAM, &answer));
    }
    let given: ImpersonationAnswer = read(IAM, &answer)?;
    let seconds = given.expire_time.duration_since(Timestamp::now()).as_secs();
    let plain = TokenAnswer {
        access_token: given.access_token,
        expires_in: seconds,
        token_type: None,
    };
    usable_token(IAM, plain)
}

/// Reads the external token from its file. Valet reads the file before each use, because the identity provider renews
/// the token.
async fn subject_token(external: &External) -> Result<String, SignError> {
    let unusable = |why: &str| {
        unusable(&format!(
            "the token for workload identity federation cannot be used, because {why}; check the file in GOOGLE_APPLICATION_CREDENTIALS"
        ))
    };
    let text = tokio::fs::read_to_string(&external.file)
        .await
        .map_err(|_| unusable("the token file cannot be read"))?;
    let token = match &external.field {
        None => text,
        Some(field) => serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|v| v[field].as_str().map(str::to_owned))
            .ok_or_else(|| {
                unusable("the token file is not JSON, or it does not contain the field in subject_token_field_name")
            })?,
    };
    match token.trim() {
        "" => Err(unusable("the token file is empty")),
        token => Ok(token.to_owned()),
    }
}
