use crate::api::Reason;

/// The reason why a grant receives no credential, for conditions and Events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// The message for the user. It names the field, says what is wrong with the field's value, and says what the
    /// user can do.
    pub message: String,
}

impl Refusal {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}
