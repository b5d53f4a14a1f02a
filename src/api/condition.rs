use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Progress, Reason, printable};

/// Sets one condition and keeps the others, which other controllers may have written. The transition time changes
/// only with the status (Kubernetes API conventions, "Typical status properties"). The message becomes [`printable`].
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: &str,
    (reason, message): (Reason, &str),
    generation: Option<i64>,
    now: Timestamp,
) {
    let old = conditions.iter_mut().find(|c| c.type_ == type_);
    let since = old
        .as_ref()
        // 1970 is the default of the schema, so the object had no status yet.
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

/// Sets `Ready`, `Reconciling` and `Stalled`. `Reconciling` and `Stalled` are removed instead of set to False:
/// kstatus treats both the same, and the status stays small.
pub fn set_ready(
    conditions: &mut Vec<Condition>,
    (reason, message): (Reason, &str),
    generation: Option<i64>,
    now: Timestamp,
) {
    let progress = reason.progress();
    let ready = if progress == Progress::Current { "True" } else { "False" };
    set_condition(conditions, "Ready", ready, (reason, message), generation, now);
    for (type_, holds) in [("Reconciling", Progress::InProgress), ("Stalled", Progress::Stalled)] {
        if progress == holds {
            set_condition(conditions, type_, "True", (reason, message), generation, now);
        } else {
            conditions.retain(|c| c.type_ != type_);
        }
    }
}
