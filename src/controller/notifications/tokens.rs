use std::{path::PathBuf, sync::Arc, time::Duration};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};
use tokio::{sync::Mutex, time::Instant};
use tracing::{info, warn};

/// A token that is shorter can be guessed: 16 characters of base64 are 96 bits.
const SHORTEST: usize = 16;
/// The longest file that is read: room for a thousand tokens.
const LONGEST_FILE: u64 = 64 * 1024;
/// How old what was read may be. A mounted Secret changes a minute after the Secret itself, so a second is nothing.
const FRESHNESS: Duration = Duration::from_secs(1);

/// The tokens that may be presented, from a file with one a line. Only their digests are kept.
pub struct Tokens {
    file: PathBuf,
    read: Mutex<Read>,
}

struct Read {
    at: Instant,
    digests: Arc<Vec<digest::Digest>>,
    /// What is wrong with the file, as it was said last.
    trouble: Option<String>,
}

impl Tokens {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// A sentence, if it cannot be used: better no start than a receiver that nobody can reach.
    pub async fn open(file: PathBuf) -> Result<Self, String> {
        let digests = read(&file).await?;
        Ok(Self {
            file,
            read: Mutex::new(Read {
                at: Instant::now(),
                digests: Arc::new(digests),
                trouble: None,
            }),
        })
    }

    /// Whether the request presents one of the tokens.
    pub async fn admit(&self, headers: &HeaderMap) -> bool {
        let known = self.known().await;
        // Every known token is compared, whichever it is, and digests are compared in constant time: how long it takes
        // tells neither a token's length nor its beginning.
        presented(headers).iter().fold(false, |admitted, token| {
            let presented = digest::digest(&digest::SHA256, token);
            known.iter().fold(admitted, |admitted, known| {
                verify_slices_are_equal(known.as_ref(), presented.as_ref()).is_ok() | admitted
            })
        })
    }

    async fn known(&self) -> Arc<Vec<digest::Digest>> {
        let mut last = self.read.lock().await;
        if last.at.elapsed() >= FRESHNESS {
            last.at = Instant::now();
            // With a file that cannot be read nobody is let in: its tokens may have been withdrawn.
            let (digests, trouble) = match read(&self.file).await {
                Ok(digests) => (digests, None),
                Err(why) => (Vec::new(), Some(why)),
            };
            if trouble != last.trouble {
                match &trouble {
                    Some(why) => warn!("no notification is taken: {why}"),
                    None => info!("the file with tokens for notifications can be read again"),
                }
            }
            last.digests = Arc::new(digests);
            last.trouble = trouble;
        }
        last.digests.clone()
    }
}

async fn read(file: &std::path::Path) -> Result<Vec<digest::Digest>, String> {
    let name = format!("--notifications-token-file {}", file.display());
    let length = tokio::fs::metadata(file)
        .await
        .map_err(|e| format!("{name}: {e}"))?
        .len();
    if length > LONGEST_FILE {
        return Err(format!("{name} has {length} bytes; at most {LONGEST_FILE} are read"));
    }
    let text = tokio::fs::read_to_string(file)
        .await
        .map_err(|e| format!("{name}: {e}"))?;
    let tokens: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if tokens.is_empty() {
        return Err(format!("{name} has no token; write one a line"));
    }
    if let Some(line) = tokens
        .iter()
        .position(|t| t.len() < SHORTEST || !t.bytes().all(|b| b.is_ascii_graphic()))
    {
        return Err(format!(
            "{name}: token {} has fewer than {SHORTEST} characters, or others than printable ASCII; use the output of: openssl rand -hex 32",
            line + 1
        ));
    }
    Ok(tokens
        .iter()
        .map(|t| digest::digest(&digest::SHA256, t.as_bytes()))
        .collect())
}

/// The tokens that a request presents, in any of the ways in which stores can: `Authorization: Bearer TOKEN` (MinIO),
/// `Authorization: Basic` with the token as the password (versitygw and SNS, from `http://user:TOKEN@...`), the bare
/// token in `Authorization` or in `X-Api-Key` (EventBridge).
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
    // Nobody has more than one or two.
    found.truncate(4);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef-first";

    async fn admits(tokens: &Tokens, name: &'static str, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        tokens.admit(&headers).await
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
    async fn every_way_that_stores_have() {
        let path = file(&format!("\n{TOKEN}\n  another-token-of-some-length \n"));
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
            assert_eq!(admits(&tokens, name, &value).await, good, "{name}: {value}");
        }
        assert!(!tokens.admit(&HeaderMap::new()).await);
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_file_is_read_anew() {
        let path = file(TOKEN);
        let tokens = Tokens::open(path.clone()).await.unwrap();
        let old = format!("Bearer {TOKEN}");
        let new = "Bearer 0123456789abcdef-second";
        assert!(admits(&tokens, "authorization", &old).await);
        std::fs::write(&path, format!("{TOKEN}\n0123456789abcdef-second")).unwrap();
        tokio::time::advance(FRESHNESS).await;
        assert!(admits(&tokens, "authorization", &old).await);
        assert!(admits(&tokens, "authorization", new).await);
        std::fs::write(&path, "0123456789abcdef-second").unwrap();
        tokio::time::advance(FRESHNESS).await;
        assert!(!admits(&tokens, "authorization", &old).await);
        assert!(admits(&tokens, "authorization", new).await);
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(FRESHNESS).await;
        assert!(!admits(&tokens, "authorization", new).await, "gone means withdrawn");
        std::fs::write(&path, TOKEN).unwrap();
        tokio::time::advance(FRESHNESS).await;
        assert!(admits(&tokens, "authorization", &old).await);
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_lets_everybody_in_is_refused() {
        for (content, says) in [
            ("", "has no token"),
            ("\n \n", "has no token"),
            ("0123456789abcde", "token 1 has fewer than 16 characters"),
            ("0123456789abcdef\nshort", "token 2 has fewer"),
            ("0123456789 abcdef", "others than printable ASCII"),
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
