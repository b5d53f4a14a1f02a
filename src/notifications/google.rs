use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, Request, Uri, header::AUTHORIZATION};
use http_body_util::Full;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};
use tracing::warn;

use super::scope::{NamedSender, SenderScope};
use crate::net::client::Http;

/// The URL at which Google publishes the public keys for the signatures of its identity tokens.
pub const CERTIFICATES: &str = "https://www.googleapis.com/oauth2/v3/certs";
/// The issuers that a Google identity token can name.
const ISSUERS: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];
/// Valet downloads Google's public keys again when the cached keys are one hour old. Google replaces the keys about
/// once a week. Google publishes a new key one day before it signs the first token with this key.
const FRESHNESS: Duration = Duration::from_secs(3600);
/// Valet waits at least one minute between two downloads of Google's public keys. Without this pause, an attacker
/// could cause many downloads with forged tokens that name unknown keys.
const PAUSE: Duration = Duration::from_secs(60);
/// Valet accepts a token for 60 seconds after the token has expired, because Google's clock can differ from the
/// operator's clock.
const SKEW: i64 = 60;
/// The maximum length of an identity token that Valet accepts, in bytes. Google's tokens have about 1 KiB.
const LONGEST: usize = 8 * 1024;

/// Verifies the identity tokens that Pub/Sub sends (OpenID Connect). A valid token is signed by Google, and names the
/// configured audience and one of the configured accounts.
pub struct GoogleTokens {
    accounts: Vec<NamedSender>,
    audience: String,
    certificates: Uri,
    http: Http,
    keys: Mutex<Keys>,
}

/// Google's public keys (modulus and exponent). The map finds a public key by its key ID.
type Known = Arc<BTreeMap<String, RsaPublicKeyComponents<Vec<u8>>>>;

#[derive(Default)]
struct Keys {
    tried: Option<Instant>,
    read: Option<Instant>,
    known: Known,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    exp: i64,
    email: String,
    #[serde(default)]
    email_verified: bool,
}

#[derive(Deserialize)]
struct Published {
    keys: Vec<PublishedKey>,
}

#[derive(Deserialize)]
struct PublishedKey {
    kid: String,
    kty: String,
    n: String,
    e: String,
}

impl GoogleTokens {
    /// Creates a verifier for identity tokens of these accounts and this audience. `certificates` is the URL of
    /// Google's public keys.
    pub fn new(accounts: Vec<NamedSender>, audience: String, certificates: Uri) -> Self {
        Self {
            accounts,
            audience,
            certificates,
            http: Http::new(None),
            keys: Mutex::default(),
        }
    }

    /// Returns the stores for which the account in the token is allowed to send notifications. Returns `None` if the
    /// request has no valid token.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Option<SenderScope> {
        let presented = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = presented.and_then(|v| v.split_once(' '));
        match token {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && token.len() <= LONGEST => {
                self.sender(token.trim(), Timestamp::now().as_second()).await
            }
            _ => None,
        }
    }

    async fn sender(&self, token: &str, now: i64) -> Option<SenderScope> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (head, claims) = signed.split_once('.')?;
        let decoded = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let head: Head = serde_json::from_slice(&decoded(head)?).ok()?;
        let claims: Claims = serde_json::from_slice(&decoded(claims)?).ok()?;
        let scope = NamedSender::scope_of(&self.accounts, &claims.email);
        // Valet checks these fields of the token before it checks the signature. If a field is wrong, Valet rejects the
        // token without a download of public keys.
        let is_meant = head.alg == "RS256"
            && ISSUERS.contains(&claims.iss.as_str())
            && claims.aud == self.audience
            && claims.email_verified
            && !scope.is_empty()
            && claims.exp > now - SKEW;
        if !is_meant {
            return None;
        }
        let known = self.known(&head.kid).await;
        let signature = decoded(signature)?;
        known
            .get(&head.kid)?
            .verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature)
            .ok()?;
        Some(scope)
    }

    /// Returns Google's public keys. If the cached keys are too old or do not contain this key ID, the method
    /// downloads the keys again.
    async fn known(&self, kid: &str) -> Known {
        let mut keys = self.keys.lock().await;
        let is_fresh = keys.read.is_some_and(|read| read.elapsed() < FRESHNESS) && keys.known.contains_key(kid);
        let was_tried = keys.tried.is_some_and(|tried| tried.elapsed() < PAUSE);
        if !is_fresh && !was_tried {
            keys.tried = Some(Instant::now());
            match self.fetch().await {
                Ok(known) => {
                    keys.known = Arc::new(known);
                    keys.read = Some(Instant::now());
                }
                // After a failed download, Valet continues to use the cached keys.
                Err(why) => warn!("Google's public keys for identity tokens could not be downloaded: {why}"),
            }
        }
        keys.known.clone()
    }

    async fn fetch(&self) -> Result<BTreeMap<String, RsaPublicKeyComponents<Vec<u8>>>, String> {
        let request = Request::get(self.certificates.clone())
            .body(Full::default())
            .map_err(|e| e.to_string())?;
        let answer = self.http.send(request).await.map_err(|e| e.to_string())?;
        if answer.status != 200 {
            return Err(format!("the server answered status {}", answer.status));
        }
        let published: Published = serde_json::from_slice(&answer.body).map_err(|_| "the answer contains no keys")?;
        let read = |key: PublishedKey| {
            let number = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
            let (n, e) = (number(&key.n)?, number(&key.e)?);
            (key.kty == "RSA").then_some((key.kid, RsaPublicKeyComponents { n, e }))
        };
        Ok(published.keys.into_iter().filter_map(read).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use aws_lc_rs::{
        rand::SystemRandom,
        rsa::KeySize,
        signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
    };
    use serde_json::{Value, json};

    use super::*;

    const AUDIENCE: &str = "https://valet.example.com/notifications";
    const ACCOUNT: &str = "pubsub@p.iam.gserviceaccount.com";

    fn encoded(value: &Value) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
    }

    fn token(pair: &RsaKeyPair, head: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encoded(head), encoded(claims));
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            signed.as_bytes(),
            &mut signature,
        )
        .unwrap();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// Starts a server that publishes these keys. Returns the URL of the server and a counter of the requests that
    /// the server received.
    fn publisher(body: String) -> (Uri, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}/certs", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                    line.clear();
                }
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        (uri, asked)
    }

    /// Reads the modulus and the exponent from the DER encoding of an RSAPublicKey (RFC 8017, A.1.1).
    fn public(pair: &RsaKeyPair) -> (String, String) {
        fn value(der: &[u8]) -> (&[u8], &[u8]) {
            let (length, header) = match der[1] {
                n @ ..=0x7f => (usize::from(n), 2),
                0x81 => (usize::from(der[2]), 3),
                _ => (usize::from(u16::from_be_bytes([der[2], der[3]])), 4),
            };
            (&der[header..header + length], &der[header + length..])
        }
        let (sequence, _) = value(pair.public_key().as_ref());
        let (modulus, rest) = value(sequence);
        let number = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes.strip_prefix(&[0]).unwrap_or(bytes));
        (number(modulus), number(value(rest).0))
    }

    #[tokio::test]
    async fn only_google_tokens_for_this_audience_and_account_are_accepted() {
        let (pair, other) = (
            RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        );
        let (n, e) = public(&pair);
        let (uri, asked) = publisher(
            json!({"keys": [{"kid": "k1", "kty": "RSA", "alg": "RS256", "use": "sig", "n": n, "e": e}]}).to_string(),
        );
        let tokens = GoogleTokens::new(vec![format!("{ACCOUNT}=media").parse().unwrap()], AUDIENCE.into(), uri);
        let now = Timestamp::now().as_second();
        let head = json!({"alg": "RS256", "kid": "k1", "typ": "JWT"});
        let claims = json!({
            "iss": "https://accounts.google.com", "aud": AUDIENCE, "email": ACCOUNT, "email_verified": true,
            "iat": now, "exp": now + 3600, "sub": "1", "azp": "1",
        });
        let authenticates = async |token: String| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            let scope = tokens.authenticate(&headers).await;
            let of_the_account = SenderScope::read(["media"].into_iter()).ok();
            assert!(scope.is_none() || scope == of_the_account, "{scope:?}");
            scope.is_some()
        };
        // Valet must reject each of these requests without a download of Google's public keys.
        assert!(tokens.authenticate(&HeaderMap::new()).await.is_none());
        for (name, value) in [
            ("iss", json!("https://accounts.example.com")),
            ("aud", json!("https://other.example.com/notifications")),
            ("aud", json!([AUDIENCE])),
            ("email", json!("someone@p.iam.gserviceaccount.com")),
            ("email_verified", json!(false)),
            ("exp", json!(now - 61)),
            ("exp", json!("never")),
        ] {
            let mut bent = claims.clone();
            bent[name] = value;
            assert!(!authenticates(token(&pair, &head, &bent)).await, "{name}");
        }
        for bent in ["", ".", "..", "a.b.c", "e30.e30.e30"] {
            assert!(!authenticates(bent.into()).await, "{bent}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 0);

        let good = token(&pair, &head, &claims);
        assert!(authenticates(good.clone()).await);
        let mut late = claims.clone();
        late["exp"] = (now - 30).into();
        assert!(
            authenticates(token(&pair, &head, &late)).await,
            "a token that expired 30 seconds ago must be accepted"
        );
        assert!(
            !authenticates(token(&other, &head, &claims)).await,
            "a token with the signature of another private key must be rejected"
        );
        let (signed, signature) = good.rsplit_once('.').unwrap();
        assert!(!authenticates(format!("{signed}.")).await);
        let mut claims = claims;
        claims["sub"] = json!("2");
        assert!(!authenticates(format!("{}.{}.{signature}", encoded(&head), encoded(&claims))).await);
        for head in [
            json!({"alg": "none", "kid": "k1"}),
            json!({"alg": "HS256", "kid": "k1"}),
            json!({"alg": "RS256", "kid": "k2"}),
            json!({"alg": "RS256"}),
        ] {
            assert!(!authenticates(token(&pair, &head, &claims)).await, "{head}");
        }
        assert_eq!(
            asked.load(Ordering::Relaxed),
            1,
            "a token with an unknown key ID must not cause another download of public keys"
        );
    }
}
