use std::time::Duration;

use thiserror::Error;

use crate::{api::printable, core::SignError};

/// The longest that one reconcile may take. After that no step of it begins, and what waits for a store is cut off. A call to
/// the apiserver that is under way then is waited for, so that its answer is not lost.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// The longest that one call to the apiserver may take. The client itself would wait for ever.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a step was not taken. Messages carry no Secret's data.
#[derive(Debug, Error)]
pub enum Error {
    /// What was judged is not what is there any more: read again and judge again.
    #[error("{0} changed meanwhile")]
    Conflict(&'static str),
    /// What was to be changed is gone.
    #[error("{0} is gone")]
    Gone(&'static str),
    /// The apiserver refuses for a reason that a person must remove (quota, admission, a namespace that ends).
    #[error("the apiserver refused: {0}")]
    Refused(String),
    /// The apiserver could not be asked.
    #[error("{call}: {why}")]
    Api {
        /// What was tried.
        call: &'static str,
        /// What went wrong.
        why: String,
    },
    /// As many visits as may wait for the store do so: this one stands in line.
    #[error("the store has as many requests as it may; {0} rounds of them come before")]
    InLine(usize),
    /// The store is probed for the first time: whoever waits for the result is called when it is there.
    #[error("the store is being probed")]
    NotProbed,
    /// It took too long, and gives its turn to others.
    #[error(
        "the reconcile took longer than {} s and was ended; a store, its STS or the apiserver is slow",
        DEADLINE.as_secs()
    )]
    Deadline,
    /// The signer did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A decision that does not come to rest: a mistake of ours, kept from doing harm.
    #[error("no rest after {0} steps")]
    Restless(usize),
}

impl Error {
    /// What failures have in common that have the same cause: the message without what is quoted in it, as names of objects are.
    pub fn cause(&self) -> String {
        let message = self.to_string();
        let parts = message.split('"').enumerate();
        let kept: Vec<_> = parts.map(|(at, part)| if at % 2 == 0 { part } else { "…" }).collect();
        kept.join("\"")
    }
}

/// Makes one call to the apiserver, within [`CALL_TIMEOUT`].
///
/// # Errors
/// [`Error::Api`], [`Error::Conflict`], [`Error::Gone`] or [`Error::Refused`], as the answer says.
pub async fn call<T>(what: &'static str, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(CALL_TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(classify(what, &error)),
        Err(_) => Err(Error::Api {
            call: what,
            why: format!("no answer within {} s", CALL_TIMEOUT.as_secs()),
        }),
    }
}

fn classify(call: &'static str, error: &kube::Error) -> Error {
    match error {
        kube::Error::Api(status) => match status.code {
            404 => Error::Gone(call),
            409 => Error::Conflict(call),
            // An admission webhook's message may quote the object that it refused.
            403 | 422 if may_quote(&status.message) => Error::Refused(format!("{} {}", status.code, status.reason)),
            403 | 422 => Error::Refused(printable(&status.message).into_owned()),
            code => Error::Api {
                call,
                why: format!("{code} {}", printable(&status.reason)),
            },
        },
        // The text of a parse error quotes what it could not parse.
        kube::Error::SerdeError(e) => Error::Api {
            call,
            why: format!("the answer is not what it should be (column {})", e.column()),
        },
        other => Error::Api { call, why: root(other) },
    }
}

/// The shortest part of a Secret's data that is taken for one: base64 of 18 bytes.
const QUOTED: usize = 24;

/// Whether a text may quote a URL or something of a Secret, as it is or in base64, in which the apiserver hands Secrets to
/// webhooks. Names and sentences have no such long words of capitals, small letters and digits.
fn may_quote(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let is_quoted = |word: &str| {
        let has = |kind: fn(&u8) -> bool| word.as_bytes().iter().any(kind);
        word.len() >= QUOTED && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit)
    };
    text.contains("://")
        || text.to_ascii_lowercase().contains("%3a%2f%2f")
        || text.split(|c| !is_plain(c)).any(is_quoted)
}

/// The innermost cause: the part of a chain that says something.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    printable(&cause.to_string()).into_owned()
}

#[cfg(test)]
mod tests {
    use kube::core::{Status, response::StatusSummary};

    use super::*;

    fn said(message: &str) -> String {
        let status = Status {
            status: Some(StatusSummary::Failure),
            message: message.into(),
            reason: "Forbidden".into(),
            code: 403,
            ..Status::default()
        };
        classify("a test", &kube::Error::Api(status.boxed())).to_string()
    }

    #[test]
    fn cause_is_the_same_for_all_objects() {
        let refused =
            |name: &str| Error::Refused(format!("secrets \"{name}\" is forbidden: exceeded quota: compute"));
        assert_eq!(refused("a").cause(), refused("b").cause());
        assert_eq!(
            refused("a").cause(),
            "the apiserver refused: secrets \"…\" is forbidden: exceeded quota: compute"
        );
        let api = |why: &str| Error::Api {
            call: "reading a Secret",
            why: why.into(),
        };
        assert_eq!(
            api("Connection refused").cause(),
            "reading a Secret: Connection refused"
        );
        assert_ne!(api("Connection refused").cause(), api("no answer within 10 s").cause());
    }

    #[test]
    fn what_a_webhook_quotes_is_not_repeated() {
        for quoted in [
            "denied: url is https://store.example/b/k?X-Amz-Signature=abc",
            "denied: https%3A%2F%2Fstore.example",
            // The beginning of a URL, as the data of a Secret has it.
            "admission webhook \"policy.example\" denied the request: {\"data\":{\"url\":\"aHR0cHM6Ly9zdG9yZS5leGFtcGxlL2I\"}}",
            // A secret access key.
            "denied: found wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        ] {
            assert_eq!(said(quoted), "the apiserver refused: 403 Forbidden", "{quoted}");
        }
        for plain in [
            "secrets \"upload-42\" is forbidden: exceeded quota: compute, requested: secrets=1, used: secrets=1, limited: secrets=1",
            "ValidatingAdmissionPolicy 'valet.example' with binding 'valet.example' denied request: the Secrets of grants only",
            "User \"system:serviceaccount:valet-system:valet\" cannot create resource \"secrets\" in the namespace \"a-namespace-with-a-long-name-0123456789\"",
            "no secrets for 9b2f8c1e-5d7a-4e55-9c0e-3f2a1b4c5d6e",
        ] {
            assert_eq!(said(plain), format!("the apiserver refused: {plain}"));
        }
    }
}
