use std::{path::PathBuf, sync::Arc, time::Duration};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};
use tokio::{sync::Mutex, time::Instant};
use tracing::{info, warn};

use super::scope::{STORE_NAMES, SenderScope};

/// A token must have at least 16 characters. An attacker could guess a shorter token. In base64, 16 characters
/// contain 96 bits.
const SHORTEST: usize = 16;
/// The maximum size of the token file, in bytes. A file of this size has space for a thousand tokens.
const LONGEST_FILE: u64 = 64 * 1024;
/// Valet reads the token file again if its cached content is older than one second. This delay does not matter,
/// because Kubernetes updates a mounted Secret only about one minute after a change.
const FRESHNESS: Duration = Duration::from_secs(1);

/// The tokens that the notification receiver accepts. Each line of the token file contains one token, and the stores
/// for which its sender is allowed to send notifications. Valet keeps only digests of the tokens in memory.
pub struct Tokens {
    file: PathBuf,
    read: Mutex<Read>,
}

struct Read {
    at: Instant,
    known: Arc<Vec<Known>>,
    /// This is the last problem with the token file that Valet wrote to the log.
    trouble: Option<String>,
}

struct Known {
    digest: digest::Digest,
    scope: SenderScope,
}

impl Tokens {
    /// Reads the token file for the first time.
    ///
    /// # Errors
    /// Returns a message if Valet cannot use the file. The operator then does not start, because the receiver would
    /// reject all notifications.
    pub async fn open(file: PathBuf) -> Result<Self, String> {
        let known = read(&file).await?;
        Ok(Self {
            file,
            read: Mutex::new(Read {
                at: Instant::now(),
                known: Arc::new(known),
                trouble: None,
            }),
        })
    }

    /// Returns the stores for which the tokens of the request are valid. Returns `None` if the request has no valid
    /// token.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Option<SenderScope> {
        let known = self.known().await;
        let mut admitted = SenderScope::default();
        // Valet compares the digest of a token with the digests of all known tokens, each in constant time. Therefore
        // the duration of the comparison does not reveal the length or the content of a valid token.
        for token in presented(headers) {
            let presented = digest::digest(&digest::SHA256, &token);
            for known in known.iter() {
                if verify_slices_are_equal(known.digest.as_ref(), presented.as_ref()).is_ok() {
                    admitted.extend(&known.scope);
                }
            }
        }
        // Each valid token is valid for at least one store, so an empty scope means that no token was valid.
        Some(admitted).filter(|scope| !scope.is_empty())
    }

    async fn known(&self) -> Arc<Vec<Known>> {
        let mut last = self.read.lock().await;
        if last.at.elapsed() >= FRESHNESS {
            last.at = Instant::now();
            // If Valet cannot read the token file, Valet rejects all tokens. The cached tokens are possibly revoked.
            let (known, trouble) = match read(&self.file).await {
                Ok(known) => (known, None),
                Err(why) => (Vec::new(), Some(why)),
            };
            if trouble != last.trouble {
                match &trouble {
                    Some(why) => warn!("all notifications are rejected: {why}"),
                    None => info!(
                        "the problem with the token file for notifications is solved, and its tokens are accepted again"
                    ),
                }
            }
            last.known = Arc::new(known);
            last.trouble = trouble;
        }
        last.known.clone()
    }
}

async fn read(file: &std::path::Path) -> Result<Vec<Known>, String> {
    let name = format!("--notifications-token-file {}", file.display());
    let length = tokio::fs::metadata(file)
        .await
        .map_err(|e| format!("{name}: {e}"))?
        .len();
    if length > LONGEST_FILE {
        return Err(format!(
            "{name}: the file has {length} bytes, but at most {LONGEST_FILE} bytes are allowed; remove unused tokens"
        ));
    }
    let text = tokio::fs::read_to_string(file)
        .await
        .map_err(|e| format!("{name}: {e}"))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let known = lines
        .enumerate()
        .map(|(at, line)| {
            one(line).map_err(|why| format!("{name}: token {number} is invalid: {why}", number = at + 1))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if known.is_empty() {
        return Err(format!(
            "{name}: the file contains no token; write one token per line, followed by the names of the stores whose notifications can have this token"
        ));
    }
    Ok(known)
}

/// Parses one line of the token file. The error contains no text from the line.
fn one(line: &str) -> Result<Known, String> {
    let mut words = line.split_ascii_whitespace();
    let token = words.next().unwrap_or_default();
    if token.len() < SHORTEST || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!(
            "the token has fewer than {SHORTEST} characters, or it contains characters other than printable ASCII; use the output of: openssl rand -hex 32"
        ));
    }
    let scope = SenderScope::read(words)
        .map_err(|word| format!("word {word} after the token is not a valid store name; {STORE_NAMES}"))?;
    if scope.is_empty() {
        return Err(format!(
            "no store name follows the token; add the store names after the token, separated by spaces; {STORE_NAMES}"
        ));
    }
    Ok(Known {
        digest: digest::digest(&digest::SHA256, token.as_bytes()),
        scope,
    })
}

/// Returns the tokens of a request. Different senders send a token in different headers:
/// - MinIO sends `Authorization: Bearer TOKEN`.
/// - versitygw and SNS send `Authorization: Basic` with the token as the password (from `http://user:TOKEN@...`).
/// - EventBridge sends only the token, in `Authorization` or in `X-Api-Key`.
fn presented(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for value in headers.get_all(AUTHORIZATION) {
        let value = value.as_bytes().trim_ascii();
        let scheme = value.iter().position(|b| *b == b' ').map(|at| value.split_at(at));
        match scheme {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer") => found.push(rest.trim_ascii().to_vec()),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"basic") => {
                let pair = STANDARD.decode(rest.trim_ascii()).unwrap_or_default();
                let colon = pair.iter().position(|b| *b == b':');
                found.extend(colon.map(|at| pair[at + 1..].to_vec()));
            }
            Some(_) => {}
            None => found.push(value.to_vec()),
        }
    }
    found.extend(headers.get_all("x-api-key").iter().map(|v| v.as_bytes().to_vec()));
    // A sender presents one or two tokens. Valet checks the first four tokens and ignores all further ones.
    found.truncate(4);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef-first";

    async fn authenticates(tokens: &Tokens, name: &'static str, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        tokens.authenticate(&headers).await.is_some()
    }

    fn file(content: &str) -> PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("valet-tokens-{}-{n}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        path
    }

    #[tokio::test]
    async fn token_is_accepted_in_every_header_that_stores_send() {
        let path = file(&format!(
            "\n{TOKEN} media\n  another-token-of-some-length   team-a/uploads \n"
        ));
        let tokens = Tokens::open(path.clone()).await.unwrap();
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for (name, value, good) in [
            ("authorization", format!("Bearer {TOKEN}"), true),
            ("authorization", format!("bearer   {TOKEN}"), true),
            ("authorization", TOKEN.to_owned(), true),
            ("authorization", basic(&format!("valet:{TOKEN}")), true),
            ("authorization", basic(&format!(":{TOKEN}")), true),
            ("x-api-key", "another-token-of-some-length".into(), true),
            ("x-api-key", TOKEN.into(), true),
            ("authorization", format!("Bearer {TOKEN}x"), false),
            ("authorization", format!("Bearer {}", &TOKEN[..TOKEN.len() - 1]), false),
            ("authorization", "Bearer".into(), false),
            ("authorization", "Bearer ".into(), false),
            ("authorization", "Basic !!!".into(), false),
            ("authorization", basic(TOKEN), false),
            ("authorization", basic(&format!("{TOKEN}:")), false),
            ("authorization", format!("Digest {TOKEN}"), false),
            ("authorization", String::new(), false),
            ("x-api-key", String::new(), false),
            ("cookie", TOKEN.into(), false),
        ] {
            assert_eq!(authenticates(&tokens, name, &value).await, good, "{name}: {value}");
        }
        assert!(tokens.authenticate(&HeaderMap::new()).await.is_none());
        std::fs::remove_file(path).unwrap();
    }

    /// A token is valid only for the stores on its line. If the same token is on two lines, it is valid for the stores
    /// of both lines.
    #[tokio::test]
    async fn token_allows_only_the_stores_on_its_lines() {
        let other = "another-token-of-some-length";
        let path = file(&format!(
            "{TOKEN} media backups\n{other} team-a/uploads\n{TOKEN} team-b/*\n"
        ));
        let tokens = Tokens::open(path.clone()).await.unwrap();
        let scope = async |token: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-api-key", token.parse().unwrap());
            tokens.authenticate(&headers).await.unwrap()
        };
        let read = |words: &[&str]| SenderScope::read(words.iter().copied()).unwrap();
        assert_eq!(scope(TOKEN).await, read(&["media", "backups", "team-b/*"]));
        assert_eq!(scope(other).await, read(&["team-a/uploads"]));
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn changed_token_file_is_read_again() {
        let path = file(&format!("{TOKEN} media"));
        let tokens = Tokens::open(path.clone()).await.unwrap();
        let old = format!("Bearer {TOKEN}");
        let new = "Bearer 0123456789abcdef-second";
        assert!(authenticates(&tokens, "authorization", &old).await);
        std::fs::write(&path, format!("{TOKEN} media\n0123456789abcdef-second media")).unwrap();
        tokio::time::advance(FRESHNESS).await;
        assert!(authenticates(&tokens, "authorization", &old).await);
        assert!(authenticates(&tokens, "authorization", new).await);
        std::fs::write(&path, "0123456789abcdef-second media").unwrap();
        tokio::time::advance(FRESHNESS).await;
        assert!(!authenticates(&tokens, "authorization", &old).await);
        assert!(authenticates(&tokens, "authorization", new).await);
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(FRESHNESS).await;
        assert!(
            !authenticates(&tokens, "authorization", new).await,
            "a token must be rejected after the token file was deleted"
        );
        std::fs::write(&path, format!("{TOKEN} media")).unwrap();
        tokio::time::advance(FRESHNESS).await;
        assert!(authenticates(&tokens, "authorization", &old).await);
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn token_file_with_weak_tokens_or_without_stores_is_rejected() {
        for (content, says) in [
            ("", "contains no token"),
            ("\n \n", "contains no token"),
            (
                "0123456789abcde media",
                "token 1 is invalid: the token has fewer than 16 characters",
            ),
            (
                "0123456789abcdef media\nshort media",
                "token 2 is invalid: the token has fewer than 16 characters",
            ),
            ("0123456789\u{e9}abcdef media", "characters other than printable ASCII"),
            // A token without store names on its line is invalid. Such a token must not be valid for all stores,
            // because a tenant's store can name any bucket.
            (
                "0123456789abcdef",
                "token 1 is invalid: no store name follows the token",
            ),
            (
                "0123456789abcdef media Team-A/x",
                "token 1 is invalid: word 2 after the token is not a valid store name",
            ),
        ] {
            let path = file(content);
            let error = Tokens::open(path.clone()).await.err().unwrap();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("0123"), "{error}");
            std::fs::remove_file(path).unwrap();
        }
        let missing = Tokens::open("/nonexistent/tokens".into()).await.err().unwrap();
        assert!(
            missing.contains("--notifications-token-file /nonexistent/tokens"),
            "{missing}"
        );
    }
}
