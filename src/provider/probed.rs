//! The result of a probe, for all providers.

use jiff::SignedDuration;

use crate::{api::Reason, core::SignError};

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The finding says whether Valet can use the store with its settings and credentials.
    pub finding: Finding,
    /// The value says how far the store's clock is ahead of the operator's clock. It is `None` if the difference is
    /// too small to matter, or if the store's answer contained no time.
    pub skew: Option<SignedDuration>,
    /// This is true if the store refuses unsigned headers. It is `None` if the probe could not find out.
    pub refuses_unsigned: Option<bool>,
    /// The reason why `refuses_unsigned` is `None`, as a part of a condition message.
    pub not_reported: Option<String>,
    /// Facts about the store that users need to know before they create grants. Each fact is a part of a condition
    /// message.
    pub notices: Vec<String>,
}

impl Probed {
    /// Creates a result that contains only this finding.
    pub fn of(finding: Finding) -> Self {
        Self {
            finding,
            skew: None,
            refuses_unsigned: None,
            not_reported: None,
            notices: Vec::new(),
        }
    }
}

/// The finding of a probe: it says whether Valet can use the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The probe found no problem with the store.
    Usable,
    /// The store's settings or its credentials are wrong. No grant of the store gets a working credential until
    /// somebody changes them. The message contains no secrets.
    Broken(Reason, String),
    /// The store does not answer. The message contains no secrets.
    Unreachable(String),
}

/// If a probe cannot sign its own requests, this conversion turns the signing error into the finding of the probe.
impl From<SignError> for Finding {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Credentials {
                reason: Reason::StoreUnreachable,
                message,
            } => Self::Unreachable(message),
            SignError::Credentials { reason, message } => Self::Broken(reason, message),
            other => Self::Unreachable(other.to_string()),
        }
    }
}
