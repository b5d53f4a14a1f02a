use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{decide::Record, facts::GrantFacts, lifetime::Lifetime};
use crate::api::{Binding, GrantStatus, ObservedObject, Operation, Reason, set_condition, set_ready};

/// What `Completed` should say.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrival {
    /// Nothing new: leave it as it stands.
    Unchanged,
    /// The store has no such object.
    NotYet,
    /// Parts are there of which the object cannot be made: why, and what to do.
    Flawed(String),
    /// The object, as the store described it.
    Seen(ObservedObject),
    /// There is an object, and it is not what the grant describes: in what it differs.
    Differs(String),
    /// There is no way to know, and why.
    Unknown(Reason, String),
}

/// The situation that a status is to describe: one row of the table of states.
#[derive(Clone, Debug, PartialEq)]
pub struct Situation {
    /// Why `Ready` is what it is.
    pub reason: Reason,
    /// The same for a person.
    pub message: String,
    /// The key, if one was issued.
    pub key: Option<Lifetime>,
    /// Whether that key can be used now.
    pub active: bool,
    /// Whether it ends earlier than was asked, for its credentials' sake.
    pub truncated: bool,
    /// What is known of the upload.
    pub arrival: Arrival,
    /// When another key will take the place of this one.
    pub renewal: Option<Timestamp>,
    /// What keeps it from doing so, and the same for a person.
    pub renewal_failing: Option<(Reason, String)>,
    /// Whether the grant has done its work.
    pub finished: bool,
}

impl Situation {
    /// No key is out, of the upload there is no news, and the grant goes on.
    pub fn of(reason: Reason, message: String, key: Option<Lifetime>) -> Self {
        Self {
            reason,
            message,
            key,
            active: false,
            truncated: false,
            arrival: Arrival::Unchanged,
            renewal: None,
            renewal_failing: None,
            finished: false,
        }
    }
}

/// Describes the situation, changing as little of the previous status as it can: conditions of others stay, and a
/// condition's time moves only with its status. `record` is of the situation's key; `contested` is what is known of somebody
/// who keeps changing the Secret.
pub(super) fn project(
    grant: &GrantFacts,
    s: &Situation,
    record: Option<&Record>,
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
    let mut set = |type_: &str, value: &str, reason: Reason, message: &str| {
        set_condition(&mut status.conditions, type_, value, (reason, message), generation, now);
    };
    match (s.active, s.truncated) {
        (true, false) => set("Active", "True", Reason::Issued, "the key can be used"),
        (true, true) => set(
            "Active",
            "True",
            Reason::ExpiryTruncated,
            "the key can be used, but ends earlier than asked: the credentials that signed it end then",
        ),
        (false, _) => set("Active", "False", s.reason, "there is no key to use"),
    }
    if let Some((reason, message)) = &s.renewal_failing {
        set("RenewalFailing", "True", *reason, message);
    }
    if let Some(message) = contested {
        set("SecretContested", "True", Reason::SecretContested, message);
    }
    match s.reason {
        Reason::Suspended => set("Suspended", "True", s.reason, &s.message),
        Reason::Revoked => set("Revoked", "True", s.reason, &s.message),
        _ => {}
    }
    if grant.ask.operation() == Operation::Upload {
        match &s.arrival {
            Arrival::Unchanged if condition(previous, "Completed").is_some() => {}
            Arrival::Unchanged | Arrival::NotYet if s.finished => {
                set("Completed", "False", s.reason, "nothing was uploaded");
            }
            Arrival::Unchanged | Arrival::NotYet => {
                set("Completed", "False", Reason::Pending, "nothing has been uploaded yet");
            }
            Arrival::Flawed(message) => set("Completed", "False", Reason::Pending, message),
            Arrival::Seen(object) if s.active => {
                let message = "an upload is in the store; the key stays for the next one";
                set("Completed", "True", Reason::Completed, message);
                status.object = Some(object.clone());
            }
            Arrival::Seen(object) => {
                set("Completed", "True", s.reason, &s.message);
                status.object = Some(object.clone());
            }
            Arrival::Differs(message) => set("Completed", "False", Reason::ObjectMismatch, message),
            Arrival::Unknown(reason, message) => set("Completed", "Unknown", *reason, message),
        }
    }
    // These stand there only while they are True.
    status.conditions.retain(|c| match c.type_.as_str() {
        "RenewalFailing" => s.renewal_failing.is_some(),
        "SecretContested" => contested.is_some(),
        "Suspended" => s.reason == Reason::Suspended,
        "Revoked" => s.reason == Reason::Revoked,
        _ => true,
    });
    for kept in status.conditions.iter_mut().filter(|c| c.type_ == "Completed") {
        kept.observed_generation = generation;
    }
    status
}

/// Says what is recorded of a credential.
pub(super) fn describe(status: &mut GrantStatus, record: &Record) {
    status.issued_time = Some(Time(record.key.issued_at));
    status.expiration_time = Some(Time(record.key.expires_at));
    status.expiration_seconds = record.expiration_seconds;
    status.renewals = Some(record.renewals).filter(|n| *n > 0);
    status.earlier_expiration_time = record.earlier.map(Time);
}

/// A condition of a status, by type.
pub fn condition<'a>(status: &'a GrantStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|c| c.type_ == type_)
}
