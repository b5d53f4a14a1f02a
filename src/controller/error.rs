//! Calls to the apiserver with a time limit.

use crate::api::printable;
pub use crate::reconcile::{CALL_TIMEOUT, DEADLINE, Error};

/// Makes one call to the apiserver, with the time limit [`CALL_TIMEOUT`].
///
/// # Errors
///
/// Returns [`Error::Conflict`], [`Error::Gone`] or [`Error::Refused`] if one of these errors describes the
/// apiserver's answer. Returns [`Error::Api`] for all other failures.
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
            // The message of an admission webhook may quote the Secret that the webhook refused.
            403 | 422 if is_safe_to_quote(&status.message) => {
                Error::Refused(format!("{} {}", status.code, status.reason))
            }
            403 | 422 => Error::Refused(printable(&status.message).into_owned()),
            code => Error::Api {
                call,
                why: format!("{code} {}", printable(&status.reason)),
            },
        },
        // The message contains only the column of a parse error, because the text of a parse error quotes the input.
        kube::Error::SerdeError(e) => Error::Api {
            call,
            why: format!(
                "the apiserver's answer cannot be parsed (at column {column})",
                column = e.column()
            ),
        },
        other => Error::Api { call, why: root(other) },
    }
}

/// If a word in an error message has at least 24 characters, it may be part of a Secret's data. 24 characters of
/// base64 are 18 bytes.
const QUOTED: usize = 24;

/// Returns true if a text may quote a URL or a part of a Secret. The quote can be in base64, because the apiserver
/// sends Secrets to webhooks in base64.
///
/// The function looks for long words with uppercase letters, lowercase letters and digits. Names and normal sentences
/// do not contain such words.
fn is_safe_to_quote(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let is_quoted = |word: &str| {
        let has = |kind: fn(&u8) -> bool| word.as_bytes().iter().any(kind);
        word.len() >= QUOTED && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_digit)
    };
    text.contains("://")
        || text.to_ascii_lowercase().contains("%3a%2f%2f")
        || text.split(|c| !is_plain(c)).any(is_quoted)
}

/// Returns the message of the innermost cause of an error. The innermost cause is the most specific one.
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

    fn shown(message: &str) -> String {
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
    fn error_cause_is_the_same_for_all_objects() {
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
    fn error_with_credential_quoted_by_a_webhook_is_not_shown() {
        for quoted in [
            "denied: url is https://store.example/b/k?X-Amz-Signature=abc",
            "denied: https%3A%2F%2Fstore.example",
            // The message contains the beginning of a URL in base64, as in the data of a Secret.
            "admission webhook \"policy.example\" denied the request: {\"data\":{\"url\":\"aHR0cHM6Ly9zdG9yZS5leGFtcGxlL2I\"}}",
            // The message contains a secret access key.
            "denied: found wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        ] {
            assert_eq!(shown(quoted), "the apiserver refused: 403 Forbidden", "{quoted}");
        }
        for plain in [
            "secrets \"upload-42\" is forbidden: exceeded quota: compute, requested: secrets=1, used: secrets=1, limited: secrets=1",
            "ValidatingAdmissionPolicy 'valet.example' with binding 'valet.example' denied request: only the Secrets of grants are allowed",
            "User \"system:serviceaccount:valet-system:valet\" cannot create resource \"secrets\" in the namespace \"a-namespace-with-a-long-name-0123456789\"",
            "no secrets for 9b2f8c1e-5d7a-4e55-9c0e-3f2a1b4c5d6e",
        ] {
            assert_eq!(shown(plain), format!("the apiserver refused: {plain}"));
        }
    }
}
