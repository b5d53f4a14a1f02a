use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Progress, Reason, printable};

/// These are the types of the conditions that Valet writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::AsRefStr, strum::EnumString, strum::IntoStaticStr)]
#[strum(const_into_str)]
pub enum ConditionType {
    /// The condition summarizes the state: it is True if the object is in its desired state.
    Ready,
    /// The object is not ready yet. Valet continues to reconcile the object, and no user needs to change anything.
    /// The condition exists only while it is True.
    Reconciling,
    /// A user must change something. The condition exists only while it is True.
    Stalled,
    /// The grant has a credential that clients can use.
    Active,
    /// The upload of the grant arrived in the store.
    Completed,
    /// `spec.suspend` is true. The condition exists only while it is True.
    Suspended,
    /// `spec.revoke` is true. The condition exists only while it is True.
    Revoked,
    /// Valet cannot renew the credential. The condition exists only while it is True.
    RenewalFailing,
    /// A client that is not Valet repeatedly changes the grant Secret. The condition exists only while it is True.
    SecretContested,
    /// The store rejects unsigned headers.
    UnsignedHeadersRefused,
    /// The store enforces the constraints of credentials. The condition exists only after a conformance check.
    ConstraintsEnforced,
    /// The clock skew between the store and the operator is small.
    ClockInSync,
    /// This condition exists only while Valet does not know when the store's credentials expire. Its status is False.
    CredentialsExpirationKnown,
}

impl ConditionType {
    /// The types of conditions with which probes and conformance checks report what they found about a store.
    pub const FOUND_BY_PROBES: [&'static str; 4] = [
        Self::UnsignedHeadersRefused.as_str(),
        Self::ClockInSync.as_str(),
        Self::ConstraintsEnforced.as_str(),
        Self::CredentialsExpirationKnown.as_str(),
    ];

    /// Returns the name of the condition type in `status.conditions[].type`.
    pub const fn as_str(self) -> &'static str {
        self.into_str()
    }
}

/// Sets one condition. The function keeps all conditions of different types, because other controllers can have
/// written them.
///
/// The transition time changes only if the status of the condition changes (Kubernetes API conventions, "Typical
/// status properties"). The function makes the message [`printable`].
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: impl AsRef<str>,
    status: &str,
    (reason, message): (Reason, &str),
    generation: Option<i64>,
    now: Timestamp,
) {
    let type_ = type_.as_ref();
    let old = conditions.iter_mut().find(|c| c.type_ == type_);
    let since = old
        .as_ref()
        // A transition time in 1970 is the default value in the schema. It means that the object had no status yet.
        .filter(|c| c.status == status && c.last_transition_time.0 > Timestamp::UNIX_EPOCH)
        .map(|c| c.last_transition_time.clone());
    let new = Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.as_str().into(),
        message: printable(message).into_owned(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    };
    match old {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// Sets the conditions `Ready`, `Reconciling` and `Stalled`. If `Reconciling` or `Stalled` is not True, the function
/// removes the condition. kstatus treats a missing condition like False, and the status stays small.
pub fn set_ready(
    conditions: &mut Vec<Condition>,
    (reason, message): (Reason, &str),
    generation: Option<i64>,
    now: Timestamp,
) {
    let progress = reason.progress();
    let ready = if progress == Progress::Current { "True" } else { "False" };
    set_condition(
        conditions,
        ConditionType::Ready,
        ready,
        (reason, message),
        generation,
        now,
    );
    for (type_, holds) in [
        (ConditionType::Reconciling, Progress::InProgress),
        (ConditionType::Stalled, Progress::Stalled),
    ] {
        if progress == holds {
            set_condition(conditions, type_, "True", (reason, message), generation, now);
        } else {
            conditions.retain(|c| c.type_ != type_.as_str());
        }
    }
}
