//! Access tokens: what the operator presents to Google's IAM, so that it signs.

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

/// A token is fetched anew when less than this is left of it. Google's metadata server hands out a new one 4 minutes
/// before the old one ends; asking sooner would bring the same again.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_secs(225);
/// What a token is for. The roles of its identity decide what it really may.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long one that is asked for with a key shall live, in seconds; Google gives no longer one.
const LIFETIME: i64 = 3600;
/// How long to wait before the one second try.
const PAUSE: Duration = Duration::from_millis(250);

/// Where tokens come from.
#[derive(Clone)]
pub enum Source {
    /// A service account's key (RFC 7523, the JWT bearer grant).
    Key(Arc<ServiceAccountKey>),
    /// The metadata server of a Google Cloud machine or of GKE's workload identity.
    Metadata {
        /// Host, and port if it is not 80.
        host: String,
    },
    /// Another issuer's token, which Google takes for one of its own (workload identity federation).
    External(Arc<External>),
    /// There are none, and why.
    Unusable(String),
}

/// What the file of a workload identity federation says.
#[derive(Debug)]
pub struct External {
    /// The provider that takes the other token.
    pub audience: String,
    /// What kind of token the other one is.
    pub subject_token_type: String,
    /// Google's STS.
    pub token_url: Uri,
    /// The file with the other token.
    pub file: PathBuf,
    /// The field with the token, if the file is JSON.
    pub field: Option<String>,
    /// Where a service account's token is had for the federated one, if there is an account.
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

/// A source with the token that it gave last.
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
    /// Nothing is asked for yet. The client must lead to wherever the source is.
    pub fn new(source: Source, http: Http) -> Self {
        Self {
            source,
            http,
            last: Mutex::new(None),
        }
    }

    /// A token that lives for another while, as the value of an Authorization header. It is for Google's IAM alone, and
    /// for nothing that a store's settings name: whoever sees it can do what the operator can.
    ///
    /// # Errors
    /// [`SignError::Credentials`], if there is none.
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
            .unwrap_or_else(|_| Err(unreachable("no token could be had in time".into())));
        match (fetched, last.as_ref()) {
            (Ok(token), _) => {
                let value = format!("Bearer {}", token.value);
                *last = Some(token);
                Ok(value)
            }
            // What is left of the last one serves while its source is away; what the source refuses is over.
            (Err(SignError::Credentials { reason, .. }), Some(token))
                if reason == Reason::StoreUnreachable && now < token.expires =>
            {
                Ok(format!("Bearer {}", token.value))
            }
            (Err(e), _) => Err(e),
        }
    }

    /// The service account that the source is of.
    ///
    /// # Errors
    /// [`SignError::Credentials`], if it is none's, or nobody says whose.
    pub async fn account(&self) -> Result<String, SignError> {
        let nobody = |what: &str| {
            unusable(&format!(
                "{what} is no service account, and only service accounts can sign; name one in spec.gcs.credentials.signAs"
            ))
        };
        match &self.source {
            Source::Key(key) => Ok(key.email.clone()),
            Source::Metadata { host } => {
                let answer = metadata(&self.http, host, "email").await?;
                let email = std::str::from_utf8(&answer.body).unwrap_or_default().trim();
                // Without a bound account GKE names the workload identity pool instead.
                match email.split_once('@') {
                    Some((name, domain)) if !name.is_empty() && domain.ends_with(".gserviceaccount.com") => {
                        Ok(email.to_owned())
                    }
                    _ => Err(nobody("the operator's identity")),
                }
            }
            Source::External(external) => {
                let url = external.impersonation_url.as_ref().map(ToString::to_string);
                let last = url.as_deref().and_then(|url| url.rsplit('/').next());
                let email = last.and_then(|last| last.strip_suffix(":generateAccessToken"));
                let email = email.filter(|e| e.contains('@')).map(str::to_owned);
                email.ok_or_else(|| nobody("the operator's federated identity"))
            }
            Source::Unusable(why) => Err(unusable(why)),
        }
    }

    /// Forgets the last token, which was not taken.
    pub async fn forget(&self) {
        *self.last.lock().await = None;
    }
}

/// There is nothing to sign with.
pub fn unusable(why: &str) -> SignError {
    SignError::Credentials {
        reason: Reason::CredentialsInvalid,
        message: why.to_owned(),
    }
}

/// Asks once, and once more if the other side had trouble of its own.
pub async fn ask(http: &Http, whom: &str, request: Request<Full<Bytes>>) -> Result<Answer, SignError> {
    let again = request.clone();
    let first = http.send(request).await;
    let answer = match first {
        Ok(answer) if answer.status < 500 && answer.status != 429 => return Ok(answer),
        // There was time enough.
        Err(e @ (Unanswered::Slow | Unanswered::Inward(_) | Unanswered::Untrusted(_) | Unanswered::Rootless)) => {
            Err(e)
        }
        Ok(_)
        | Err(Unanswered::Connection | Unanswered::NotByProxy | Unanswered::Malformed | Unanswered::TooLong) => {
            tokio::time::sleep(PAUSE).await;
            http.send(again).await
        }
    };
    match answer {
        Ok(answer) if answer.status < 500 && answer.status != 429 => Ok(answer),
        Ok(answer) => Err(unreachable(format!("{whom} answered {}", answer.status))),
        Err(Unanswered::Inward(inward)) => Err(SignError::Credentials {
            reason: Reason::EndpointNotAllowed,
            message: inward.to_string(),
        }),
        Err(e) => Err(unreachable(format!("{whom} cannot be asked: {e}"))),
    }
}

/// A passing trouble.
pub fn unreachable(message: String) -> SignError {
    SignError::Credentials {
        reason: Reason::StoreUnreachable,
        message,
    }
}

/// The answer's JSON. The error's own text would quote what could not be read.
pub fn read<T: DeserializeOwned>(whom: &str, answer: &Answer) -> Result<T, SignError> {
    serde_json::from_slice(&answer.body)
        .map_err(|_| unreachable(format!("{whom} answered something that is no answer")))
}

/// A request, put together. Its parts are checked when they are read, so that this fails for nothing that a person wrote.
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
        .map_err(|_| SignError::Refused("a request could not be put together".into()))
}

fn taken(whom: &str, answer: TokenAnswer) -> Result<Token, SignError> {
    let is_bearer = answer.token_type.is_none_or(|t| t.eq_ignore_ascii_case("bearer"));
    let is_sound = !answer.access_token.is_empty() && answer.access_token.bytes().all(|b| b.is_ascii_graphic());
    // Whatever it says, a token that is said to live for years is not kept for years.
    let seconds = answer.expires_in.clamp(0, 12 * LIFETIME);
    if !is_bearer || !is_sound || seconds == 0 {
        return Err(unreachable(format!("{whom} answered without a token that can be used")));
    }
    Ok(Token {
        value: answer.access_token,
        expires: Timestamp::now() + SignedDuration::from_secs(seconds),
    })
}

async fn by_key(http: &Http, key: &ServiceAccountKey, now: Timestamp) -> Result<Token, SignError> {
    const WHOM: &str = "Google's token endpoint";
    let assertion = assertion(key, now)?;
    let body = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
    let form = [(header::CONTENT_TYPE.as_str(), "application/x-www-form-urlencoded")];
    let answer = ask(
        http,
        WHOM,
        request(Method::POST, &key.token_uri.to_string(), &form, body)?,
    )
    .await?;
    match answer.status {
        200 => taken(WHOM, read(WHOM, &answer)?),
        status => Err(SignError::Credentials {
            reason: Reason::CredentialsRefused,
            message: format!(
                "Google gives no token for the service account's key ({status}{}); is the key deleted or disabled, or its account? put a good one into the Secret of spec.gcs.credentials",
                code(&answer)
            ),
        }),
    }
}

/// A JWT by which the account asks for a token.
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

/// OAuth's word for what is wrong, if it is one of its words.
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
    taken(METADATA, read(METADATA, &answer)?)
}

async fn metadata(http: &Http, host: &str, what: &str) -> Result<Answer, SignError> {
    let uri = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/{what}");
    let flavor = [("metadata-flavor", "Google")];
    let answer = ask(http, METADATA, request(Method::GET, &uri, &flavor, Bytes::new())?).await?;
    match answer.status {
        // Something else may listen where the metadata server is not.
        200 if is_google(&answer.headers) => Ok(answer),
        200 => Err(SignError::Credentials {
            reason: Reason::CredentialsInvalid,
            message: format!("what answers at {host} is no metadata server of Google's; set spec.gcs.credentials.secretRef, or GCE_METADATA_HOST"),
        }),
        404 => Err(SignError::Credentials {
            reason: Reason::CredentialsInvalid,
            message: "the operator's machine has no service account; bind one to the operator's Kubernetes service account (workload identity), or set spec.gcs.credentials.secretRef".into(),
        }),
        status => Err(SignError::Credentials {
            reason: Reason::CredentialsInvalid,
            message: format!("the metadata server gives no token ({status}); may the operator's Kubernetes service account act as its Google one (roles/iam.workloadIdentityUser)?"),
        }),
    }
}

fn is_google(headers: &HeaderMap) -> bool {
    headers.get("metadata-flavor").is_some_and(|v| v == "Google")
}

/// RFC 8693: another issuer's token for one of Google's, and if there is an account, that for one of the account's.
async fn by_federation(http: &Http, external: &External) -> Result<Token, SignError> {
    const STS: &str = "Google's STS";
    let refused = |who: &str, answer: &Answer| SignError::Credentials {
        reason: Reason::CredentialsRefused,
        message: format!(
            "{who} gives no token for the operator's identity ({}{}); check the workload identity pool and its provider",
            answer.status,
            code(answer)
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
    let answer = ask(http, STS, ask_sts).await?;
    if answer.status != 200 {
        return Err(refused(STS, &answer));
    }
    let federated = taken(STS, read(STS, &answer)?)?;
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
    let answer = ask(http, IAM, request(Method::POST, &url.to_string(), &headers, body)?).await?;
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
    taken(IAM, plain)
}

/// The other issuer's token, read anew each time: whoever puts it there renews it.
async fn subject_token(external: &External) -> Result<String, SignError> {
    let unusable = |why: &str| {
        unusable(&format!(
            "the operator's own token for workload identity federation {why}; see the file of GOOGLE_APPLICATION_CREDENTIALS"
        ))
    };
    let text = tokio::fs::read_to_string(&external.file)
        .await
        .map_err(|_| unusable("cannot be read"))?;
    let token = match &external.field {
        None => text,
        Some(field) => serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|v| v[field].as_str().map(str::to_owned))
            .ok_or_else(|| unusable("is not the JSON that its configuration says"))?,
    };
    match token.trim() {
        "" => Err(unusable("is empty")),
        token => Ok(token.to_owned()),
    }
}
