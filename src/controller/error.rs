use std::time::Duration;

use thiserror::Error;

use crate::sign::SignError;

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
    /// The signer did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A decision that does not come to rest: a mistake of ours, kept from doing harm.
    #[error("no rest after {0} steps")]
    Restless(usize),
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
            403 | 422 if status.message.contains("://") => {
                Error::Refused(format!("{} {}", status.code, status.reason))
            }
            403 | 422 => Error::Refused(status.message.clone()),
            code => Error::Api {
                call,
                why: format!("{code} {}", status.reason),
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

/// The innermost cause: the part of a chain that says something.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
