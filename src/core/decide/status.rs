use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::credential_record::CredentialRecord;
use crate::{
    api::{Binding, ConditionType, GrantStatus, ObservedObject, Operation, Reason, set_condition, set_ready},
    core::{grant_facts::GrantFacts, lifetime::Lifetime},
};

/// The reason why Valet cannot find out when an upload to a prefix is complete.
pub(super) const NO_ONE_OBJECT: &str =
    "spec.key is a prefix and not the key of one object, so Valet cannot find out when the upload is complete";

/// The result of a check for the upload, which Valet reports in the condition `Completed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrival {
    /// Valet knows nothing new about the upload. The condition `Completed` does not change.
    Unchanged,
    /// The object is not in the store yet.
    NotYet,
    /// The store cannot assemble the object from the uploaded parts. The text says why, and what the user can do.
    Flawed(String),
    /// The object is in the store. The value is the store's description of the object.
    Seen(ObservedObject),
    /// The object in the store does not match the grant. The text lists the differences.
    Differs(String),
    /// Valet cannot find out if the object was uploaded. The text says why.
    Unknown(Reason, String),
}

/// The state of a grant, from which Valet computes the grant's status.
#[derive(Clone, Debug, PartialEq)]
pub struct Situation {
    /// The reason of the condition `Ready`.
    pub reason: Reason,
    /// The message of the condition `Ready`.
    pub message: String,
    /// The lifetime of the issued credential, if there is one.
    pub credential: Option<Lifetime>,
    /// True if the credential can be used now.
    pub active: bool,
    /// True if the credential expires earlier than requested, because the store's signing credentials expire.
    pub truncated: bool,
    /// What the condition `Completed` reports about the upload.
    pub arrival: Arrival,
    /// The time at which a new credential will replace the current credential.
    pub renewal: Option<Timestamp>,
    /// The reason and message of the condition `RenewalFailing`, if the renewal fails.
    pub renewal_failing: Option<(Reason, String)>,
    /// True if the grant is finished.
    pub finished: bool,
}

impl Situation {
    /// Creates the state of an unfinished grant that has no usable credential. The state leaves the condition
    /// `Completed` unchanged.
    pub fn of(reason: Reason, message: String, credential: Option<Lifetime>) -> Self {
        Self {
            reason,
            message,
            credential,
            active: false,
            truncated: false,
            arrival: Arrival::Unchanged,
            renewal: None,
            renewal_failing: None,
            finished: false,
        }
    }
}

/// Computes the new status of a grant. The function keeps the conditions of other controllers. It changes the
/// transition time of a condition only if the status of this condition changes.
///
/// `record` describes the credential. `contested` is the message for the case that other clients repeatedly change
/// the Secret.
pub(super) fn project(
    grant: &GrantFacts,
    s: &Situation,
    record: Option<&CredentialRecord>,
    contested: Option<&str>,
    now: Timestamp,
) -> GrantStatus {
    let previous = &grant.status;
    let mut status = previous.clone();
    status.observed_generation = Some(grant.generation);
    match record {
        Some(record) => describe(&mut status, record),
        None => {
            (status.issued_time, status.expiration_time, status.expiration_seconds) = (None, None, None);
            (status.renewals, status.earlier_expiration_time) = (None, None);
        }
    }
    status.renewal_time = s.renewal.map(Time);
    status.binding = s.active.then(|| Binding {
        name: grant.secret_name().to_owned(),
        expiration_time: status.expiration_time.clone(),
    });
    status.finished_time = if s.finished {
        previous.finished_time.clone().or(Some(Time(now)))
    } else {
        None
    };

    let generation = Some(grant.generation);
    set_ready(&mut status.conditions, (s.reason, &s.message), generation, now);
    let mut set = |type_: ConditionType, value: &str, reason: Reason, message: &str| {
        set_condition(&mut status.conditions, type_, value, (reason, message), generation, now);
    };
    match (s.active, s.truncated) {
        (true, false) => set(
            ConditionType::Active,
            "True",
            Reason::Issued,
            "the credential can be used",
        ),
        (true, true) => set(
            ConditionType::Active,
            "True",
            Reason::ExpiryTruncated,
            "the credential can be used, but expires earlier than the grant requests, because Valet signed it with credentials of the store that expire at the same time",
        ),
        (false, _) => set(
            ConditionType::Active,
            "False",
            s.reason,
            "there is no credential to use",
        ),
    }
    if let Some((reason, message)) = &s.renewal_failing {
        set(ConditionType::RenewalFailing, "True", *reason, message);
    }
    if let Some(message) = contested {
        set(ConditionType::SecretContested, "True", Reason::SecretContested, message);
    }
    match s.reason {
        Reason::Suspended => set(ConditionType::Suspended, "True", s.reason, &s.message),
        Reason::Revoked => set(ConditionType::Revoked, "True", s.reason, &s.message),
        _ => {}
    }
    if grant.operation_spec.operation() == Operation::Upload {
        match &s.arrival {
            Arrival::Unchanged if condition(previous, ConditionType::Completed).is_some() => {}
            Arrival::Unchanged | Arrival::NotYet if s.finished => {
                set(ConditionType::Completed, "False", s.reason, "nothing was uploaded");
            }
            Arrival::Unchanged | Arrival::NotYet => {
                set(
                    ConditionType::Completed,
                    "False",
                    Reason::Pending,
                    "nothing has been uploaded yet",
                );
            }
            Arrival::Flawed(message) => set(ConditionType::Completed, "False", Reason::Pending, message),
            Arrival::Seen(object) if s.active => {
                let message = "the uploaded object is in the store; the credential stays valid for the next upload";
                set(ConditionType::Completed, "True", Reason::Completed, message);
                status.object = Some(object.clone());
            }
            Arrival::Seen(object) => {
                set(ConditionType::Completed, "True", s.reason, &s.message);
                status.object = Some(object.clone());
            }
            Arrival::Differs(message) => set(ConditionType::Completed, "False", Reason::ObjectMismatch, message),
            Arrival::Unknown(reason, message) => set(ConditionType::Completed, "Unknown", *reason, message),
        }
    }
    // Valet removes the following conditions when their status is no longer True.
    status.conditions.retain(|c| match c.type_.parse() {
        Ok(ConditionType::RenewalFailing) => s.renewal_failing.is_some(),
        Ok(ConditionType::SecretContested) => contested.is_some(),
        Ok(ConditionType::Suspended) => s.reason == Reason::Suspended,
        Ok(ConditionType::Revoked) => s.reason == Reason::Revoked,
        _ => true,
    });
    for kept in status
        .conditions
        .iter_mut()
        .filter(|c| c.type_ == ConditionType::Completed.as_str())
    {
        kept.observed_generation = generation;
    }
    status
}

/// Copies the record of a credential into the status.
pub(super) fn describe(status: &mut GrantStatus, record: &CredentialRecord) {
    status.issued_time = Some(Time(record.credential.issued_at));
    status.expiration_time = Some(Time(record.credential.expires_at));
    status.expiration_seconds = record.expiration_seconds;
    status.renewals = Some(record.renewals).filter(|n| *n > 0);
    status.earlier_expiration_time = record.earlier.map(Time);
}

/// Returns the condition of the given type.
pub fn condition(status: &GrantStatus, type_: ConditionType) -> Option<&Condition> {
    status.conditions.iter().find(|c| c.type_ == type_.as_str())
}
