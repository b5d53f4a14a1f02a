//! What a bucket is like: whether the account that signs is taken, whether the bucket is there, whether the clocks agree,
//! and whether the store obeys headers that are not signed. Nothing is written by a store that behaves.

use http::{HeaderMap, header};
use jiff::{SignedDuration, Timestamp};

use super::Gcs;
use crate::{
    api::Reason,
    sign::{Finding, Probed, SignError, http::Answer},
};

/// Difference of clocks below which nothing is said: half of what the shortest sensible keys live.
const TOLERATED_SKEW: SignedDuration = SignedDuration::from_secs(30);

/// Tries the bucket with a few harmless requests at a key that is not there.
pub async fn probe(gcs: &Gcs, key: &str) -> Probed {
    let mut probed = Probed {
        finding: Finding::Usable,
        skew: None,
        refuses_unsigned: None,
    };
    let answer = match gcs.send("GET", key, &[], &[]).await {
        Ok(answer) => answer,
        Err(e) => {
            probed.finding = unusable(e);
            return probed;
        }
    };
    probed.skew = date(&answer.headers)
        .map(|theirs| theirs.duration_since(Timestamp::now()))
        .filter(|skew| skew.abs() >= TOLERATED_SKEW);
    probed.finding = finding(&answer, &gcs.store.bucket);
    if probed.finding != Finding::Usable {
        return probed;
    }
    match refuses_unsigned(gcs, key).await {
        Ok(seen) => probed.refuses_unsigned = seen,
        Err(e) => probed.finding = unusable(e),
    }
    probed
}

fn unusable(error: SignError) -> Finding {
    match error {
        SignError::Credentials {
            reason: Reason::StoreUnreachable,
            message,
        } => Finding::Unreachable(message),
        SignError::Credentials { reason, message } => Finding::Broken(reason, message),
        e => Finding::Unreachable(e.to_string()),
    }
}

/// The `Date` of an answer: the store's own idea of now.
pub fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let date = headers.get(header::DATE)?.to_str().ok()?;
    jiff::fmt::rfc2822::parse(date).ok().map(|z| z.timestamp())
}

/// The code of an error ("HTTP status and error codes for XML").
fn code(answer: &Answer) -> &str {
    let text = std::str::from_utf8(&answer.body).unwrap_or_default();
    text.split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"))
        .map(|(code, _)| code)
        .filter(|code| code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric()))
        .unwrap_or_default()
}

/// What an answer to a read of what is not there says of the store.
fn finding(answer: &Answer, bucket: &str) -> Finding {
    let refused = |code: &str| {
        let said = if code.is_empty() {
            String::new()
        } else {
            format!(" ({code})")
        };
        Finding::Broken(
            Reason::CredentialsRefused,
            format!(
                "the store does not take what the account signs{said}; is its key deleted or disabled, or the account? put a good key into the Secret of spec.gcs.credentials"
            ),
        )
    };
    match (answer.status, code(answer)) {
        (_, "NoSuchBucket") => Finding::Broken(
            Reason::BucketNotFound,
            format!("the store has no bucket {bucket}; create it, or correct spec.gcs.bucket"),
        ),
        (_, "RequestTimeTooSkewed" | "ExpiredToken") => Finding::Broken(
            Reason::ClockSkewed,
            "the store's clock and the operator's differ by more than it tolerates; set the clocks right (NTP)"
                .into(),
        ),
        (
            _,
            code @ ("SignatureDoesNotMatch"
            | "InvalidSecurity"
            | "InvalidAccessKeyId"
            | "AuthenticationRequired"
            | "InvalidAuthentication"),
        ) => refused(code),
        (401, code) => refused(code),
        (
            _,
            code @ ("UserProjectMissing"
            | "UserProjectInvalid"
            | "UserProjectAccessDenied"
            | "AccountProblem"
            | "UserProjectAccountProblem"),
        ) => Finding::Broken(
            Reason::CredentialsRefused,
            format!(
                "the store wants the project that pays to be set right ({code}); Valet names none: use a bucket whose owner pays"
            ),
        ),
        // Not there, or not to be seen: both say that bucket and credentials are right.
        (200 | 206 | 403 | 404 | 416, _) => Finding::Usable,
        (status @ (301 | 302 | 307 | 308), _) => {
            Finding::Unreachable(format!("it answered {status}; check spec.gcs.endpoint"))
        }
        (status, _) => Finding::Unreachable(format!("it answered {status}")),
    }
}

/// Sends a signed PUT with a header that was not signed: it asks to copy an object that does not exist. A store that obeys
/// the header looks for that object and does not find it; one that refuses the header says so.
async fn refuses_unsigned(gcs: &Gcs, key: &str) -> Result<Option<bool>, SignError> {
    let now = Timestamp::now().as_nanosecond();
    let absent = format!("{}/{key}-absent-{now}", gcs.store.bucket);
    let once = [
        ("x-goog-if-generation-match", "0"),
        ("x-goog-content-length-range", "0,0"),
    ];
    let copy = [("x-goog-copy-source", absent.as_str())];
    // Somebody may have put an object there, which must not keep this from being found out.
    let below = format!("{key}/{now}");
    let (key, answer) = match gcs.send("PUT", key, &once, &copy).await? {
        answer if answer.status == 412 => (below.as_str(), gcs.send("PUT", &below, &once, &copy).await?),
        answer => (key, answer),
    };
    Ok(match (answer.status, code(&answer)) {
        // It took the header for nothing and wrote an empty object, as the URL permits.
        (200, _) => {
            gcs.send("DELETE", key, &[], &[]).await?;
            Some(true)
        }
        (_, "NoSuchKey") => Some(false),
        (404, "") => Some(false),
        (400 | 403, "SignatureDoesNotMatch" | "MalformedSecurityHeader" | "ExcessHeaderValues") => Some(true),
        (403, _) => {
            // Refused for the header, or since this account may not do that at all? The same with everything signed.
            let all = [&copy[..], &once[..1]].concat();
            let signed = gcs.send("PUT", key, &all, &[]).await?;
            (signed.status == 404).then_some(true)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use hyper::body::Bytes;

    use super::*;

    fn of(status: u16, body: &str) -> Finding {
        let answer = Answer {
            status,
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_owned()),
        };
        finding(&answer, "media")
    }

    #[test]
    fn what_answers_say_of_a_store() {
        let xml = |code: &str| {
            format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>m</Message></Error>")
        };
        let reason = |status, code: &str| match of(status, &xml(code)) {
            Finding::Broken(reason, message) => {
                assert!(!message.contains("<"), "{message}");
                reason.as_str()
            }
            Finding::Usable => "usable",
            Finding::Unreachable(_) => "unreachable",
        };
        for (status, code, wanted) in [
            (404, "NoSuchKey", "usable"),
            (403, "AccessDenied", "usable"),
            (404, "NoSuchBucket", "BucketNotFound"),
            (403, "SignatureDoesNotMatch", "CredentialsRefused"),
            (403, "InvalidSecurity", "CredentialsRefused"),
            (401, "", "CredentialsRefused"),
            (403, "RequestTimeTooSkewed", "ClockSkewed"),
            (400, "ExpiredToken", "ClockSkewed"),
            (400, "UserProjectMissing", "CredentialsRefused"),
            (503, "ServiceUnavailable", "unreachable"),
            (301, "", "unreachable"),
        ] {
            assert_eq!(reason(status, code), wanted, "{status} {code}");
        }
        assert_eq!(of(200, "<Code>"), Finding::Usable);
        assert_eq!(of(404, "not found"), Finding::Usable);
    }
}
