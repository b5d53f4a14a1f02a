//! Reports changes of a store's conditions in the log and as Events. The conditions of a store decide which
//! credentials Valet issues. With the log and the Events, administrators can find out later when a condition changed.

use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    ResourceExt,
    runtime::events::{Event, EventType, Recorder},
};
use tracing::info;

use super::error::call;
use crate::{
    api::{ConditionType, Store, StoreKind, printable},
    telemetry::warn_once,
};

/// The types of conditions whose changes are reported. `Reconciling` and `Stalled` are not in the list, because they
/// only repeat `Ready`.
const VERDICTS: [&str; 4] = [
    ConditionType::Ready.as_str(),
    ConditionType::UnsignedHeadersRefused.as_str(),
    ConditionType::ClockInSync.as_str(),
    ConditionType::ConstraintsEnforced.as_str(),
];

/// A change of a condition: the old condition and the new condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    before: Option<String>,
    now: Condition,
}

/// Returns the conditions whose status or reason has changed. A new message alone does not count as a change, because
/// a message may contain a time.
pub fn changed_conditions(before: &[Condition], now: &[Condition]) -> Vec<Change> {
    let find = |conditions: &[Condition], type_: &str| conditions.iter().find(|c| c.type_ == type_).cloned();
    let changed = |type_: &&str| {
        let (before, now) = (find(before, type_), find(now, type_)?);
        let is_same = before
            .as_ref()
            .is_some_and(|b| (&b.status, &b.reason) == (&now.status, &now.reason));
        (!is_same).then(|| Change {
            before: before.map(|b| format!("{} {}", b.status, b.reason)),
            now,
        })
    };
    VERDICTS.iter().filter_map(changed).collect()
}

/// Logs the changes and writes an Event for each change. An operator that serves one namespace writes no Events about
/// ClusterObjectStores. Such Events belong to the namespace `default`, and this operator has no permissions there.
pub async fn publish<S: Store>(recorder: &Recorder, store: &S, scope: Option<&str>, changed_conditions: Vec<Change>) {
    for Change { before, now } in changed_conditions {
        let message = &now.message;
        info!(
            kind = S::KIND.as_str(),
            namespace = store.namespace(),
            name = store.name_any(),
            condition = now.type_,
            before = before.as_deref().unwrap_or("none"),
            now = format!("{} {}", now.status, now.reason),
            "a condition of the store changed: {message}"
        );
        if scope.is_some() && S::KIND == StoreKind::ClusterObjectStore {
            continue;
        }
        let note = format!("{} is {}: {}", now.type_, now.status, now.message);
        let event = Event {
            type_: match now.status.as_str() {
                "False" => EventType::Warning,
                _ => EventType::Normal,
            },
            reason: now.reason,
            note: Some(printable(&note).into_owned()),
            action: "CheckStore".into(),
            secondary: None,
        };
        let publish: BoxFuture<'_, _> = Box::pin(async { recorder.publish(&event, &store.object_ref(&())).await });
        if let Err(error) = call("writing an event about a store", publish).await {
            // If Valet cannot write the Event, it only logs the error. The status of the store already contains the
            // same information.
            warn_once!(
                &error.cause(),
                namespace = store.namespace(),
                name = store.name_any(),
                "{error}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::{Reason, set_condition, set_ready};

    #[test]
    fn condition_has_changed_only_if_status_or_reason_differs() {
        let mut conditions = Vec::new();
        let now = Timestamp::UNIX_EPOCH;
        set_ready(&mut conditions, (Reason::Ready, "the store answers"), Some(1), now);
        set_condition(
            &mut conditions,
            ConditionType::ClockInSync.as_str(),
            "True",
            (Reason::Ready, "in sync"),
            Some(1),
            now,
        );
        let seen = |before: &[Condition], after: &[Condition]| {
            changed_conditions(before, after)
                .into_iter()
                .map(|c| (c.now.type_, c.before, c.now.status, c.now.reason))
                .collect::<Vec<_>>()
        };
        let of = |type_: &str, before: Option<&str>, status: &str, reason: &str| {
            (
                type_.to_owned(),
                before.map(str::to_owned),
                status.to_owned(),
                reason.to_owned(),
            )
        };
        assert_eq!(
            seen(&[], &conditions),
            [
                of("Ready", None, "True", "Ready"),
                of(ConditionType::ClockInSync.as_str(), None, "True", "Ready")
            ]
        );
        assert_eq!(seen(&conditions, &conditions), []);

        let before = conditions.clone();
        set_condition(
            &mut conditions,
            ConditionType::ClockInSync.as_str(),
            "True",
            (Reason::Ready, "in sync, still"),
            Some(2),
            now,
        );
        assert_eq!(seen(&before, &conditions), []);
        set_ready(&mut conditions, (Reason::CredentialsRefused, "no"), Some(2), now);
        set_condition(
            &mut conditions,
            ConditionType::ClockInSync.as_str(),
            "False",
            (Reason::ClockSkewed, "60 s"),
            Some(2),
            now,
        );
        set_condition(
            &mut conditions,
            ConditionType::UnsignedHeadersRefused.as_str(),
            "True",
            (Reason::HeadersRefused, "refused"),
            Some(2),
            now,
        );
        assert_eq!(
            seen(&before, &conditions),
            [
                of("Ready", Some("True Ready"), "False", "CredentialsRefused"),
                of(
                    ConditionType::UnsignedHeadersRefused.as_str(),
                    None,
                    "True",
                    "HeadersRefused"
                ),
                of(
                    ConditionType::ClockInSync.as_str(),
                    Some("True Ready"),
                    "False",
                    "ClockSkewed"
                ),
            ]
        );
        // A change from the new conditions back to the old conditions also counts. A new reason counts even if the
        // status of the condition is unchanged.
        let after = conditions.clone();
        assert_eq!(
            seen(&after, &before).len(),
            2,
            "a removed condition must not count as a changed condition"
        );
        set_ready(&mut conditions, (Reason::StoreUnreachable, "no"), Some(2), now);
        assert_eq!(
            seen(&after, &conditions),
            [of(
                "Ready",
                Some("False CredentialsRefused"),
                "False",
                "StoreUnreachable"
            )]
        );
    }
}
