//! Merges the conditions of several operators in the status of one store. Each operator serves one namespace with its
//! own credentials, and writes conditions with the name of this namespace. The status also has summary conditions,
//! which Valet computes from the conditions of all operators.
//!
//! If all operators wrote one condition, two operators with different results would overwrite the condition in a loop.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::{ConditionType, Reason, StoreStatus, set_ready};

/// If several operators serve a store, each operator adds its namespace to conditions of these types, in the form
/// `NAMESPACE/TYPE`.
const OWN: [&str; 5] = [
    READY,
    ConditionType::UnsignedHeadersRefused.as_str(),
    ConditionType::ClockInSync.as_str(),
    ConditionType::ConstraintsEnforced.as_str(),
    ConditionType::CredentialsExpirationKnown.as_str(),
];
/// The types of the summary conditions, which kstatus evaluates.
const SUMMARY: [&str; 3] = [
    READY,
    ConditionType::Reconciling.as_str(),
    ConditionType::Stalled.as_str(),
];
const READY: &str = ConditionType::Ready.as_str();
/// The message of the summary condition `Ready` if several operators serve the store and all of them can use it.
const ALL_CAN: &str = "every operator that has checked the store can use the store";

/// Returns the condition type `NAMESPACE/TYPE`, which belongs to the operator of one namespace.
pub fn of(namespace: &str, type_: &str) -> String {
    format!("{namespace}/{type_}")
}

/// Returns the store's status as the operator of `namespace` would write it if it were the only operator.
pub fn own(status: &StoreStatus, namespace: &str) -> StoreStatus {
    let mut conditions: Vec<_> = status
        .conditions
        .iter()
        .filter_map(|c| {
            let type_ = c.type_.strip_prefix(namespace)?.strip_prefix('/')?;
            Some(Condition {
                type_: type_.to_owned(),
                ..c.clone()
            })
        })
        .collect();
    if is_alone(status, namespace) {
        // If only one operator serves the store, the types of its conditions do not contain its namespace. Only its
        // condition `Ready` has the type `NAMESPACE/Ready`.
        let rest = status
            .conditions
            .iter()
            .filter(|c| ConditionType::FOUND_BY_PROBES.contains(&c.type_.as_str()));
        conditions.extend(rest.cloned());
    }
    StoreStatus {
        conditions,
        ..status.clone()
    }
}

/// Returns true if only the operator of `namespace` has written conditions.
fn is_alone(status: &StoreStatus, namespace: &str) -> bool {
    !status
        .conditions
        .iter()
        .any(|c| is_ready(c).is_some_and(|n| n != namespace))
}

/// Merges the new conditions of the operator of `namespace` into the status. The summary condition `Ready` is True if
/// every operator that checked the current generation reports True. Otherwise it repeats the failing condition of one
/// operator, with the namespace of this operator.
///
/// The fields for capabilities, credentials expiry and conformance check describe only one operator. They are empty
/// if several operators serve the store. In this case, the message of each operator's condition contains its
/// credentials expiry.
pub fn join(previous: &StoreStatus, namespace: &str, mut own: StoreStatus, now: Timestamp) -> StoreStatus {
    let generation = own.observed_generation;
    let mut status = without(previous, namespace);
    let alone = is_alone(previous, namespace);
    let is_ours = |c: &Condition| SUMMARY.contains(&c.type_.as_str()) || OWN.contains(&c.type_.as_str());
    let summary: Vec<_> = status.conditions.iter().filter(|c| is_ours(c)).cloned().collect();
    status.conditions.retain(|c| !is_ours(c));
    own.conditions.retain(|c| OWN.contains(&c.type_.as_str()));
    if !alone
        && let Some(end) = &own.credentials_expiration_time
        && let Some(ready) = own
            .conditions
            .iter_mut()
            .find(|c| c.type_ == READY && c.status == "True")
    {
        ready.message += &format!("; the credentials expire at {}", end.0);
    }
    for condition in &own.conditions {
        if alone && condition.type_ != READY {
            // If only one operator serves the store, the types of its conditions do not contain its namespace. Only its
            // condition `Ready` has the type `NAMESPACE/Ready`.
            status.conditions.push(condition.clone());
            continue;
        }
        status.conditions.push(Condition {
            type_: of(namespace, &condition.type_),
            ..condition.clone()
        });
    }
    status.observed_generation = generation;
    if alone {
        status.capabilities = own.capabilities;
        status.credentials_expiration_time = own.credentials_expiration_time;
        status.conformance_check = own.conformance_check;
    } else {
        status.capabilities = Vec::new();
        status.credentials_expiration_time = None;
        status.conformance_check = None;
    }
    let own_ready = own_ready(&status.conditions, generation, alone);
    // A summary condition keeps its transition time if its status does not change.
    status
        .conditions
        .extend(summary.into_iter().filter(|c| SUMMARY.contains(&c.type_.as_str())));
    if let Some((reason, message)) = own_ready {
        set_ready(&mut status.conditions, (reason, &message), generation, now);
    }
    // Every operator sorts the conditions, so that all operators write them in the same order.
    status.conditions.sort_by(|a, b| {
        let is_another = |c: &Condition| c.type_.contains('/');
        (is_another(a), &a.type_).cmp(&(is_another(b), &b.type_))
    });
    status
}

/// Returns the status without the conditions of the operator of `namespace`.
pub fn without(status: &StoreStatus, namespace: &str) -> StoreStatus {
    let mut status = status.clone();
    status.conditions.retain(|c| {
        let own = c.type_.strip_prefix(namespace).and_then(|t| t.strip_prefix('/'));
        !own.is_some_and(|type_| OWN.contains(&type_))
    });
    status
}

/// Returns the reason and message of the summary condition. Every operator must compute the same reason and message. If
/// several operators can use the store, the message is therefore a fixed text. If one operator reports a failure, the
/// message quotes this operator.
fn own_ready(conditions: &[Condition], generation: Option<i64>, alone: bool) -> Option<(Reason, String)> {
    let mut voices: Vec<_> = conditions
        .iter()
        .filter(|c| c.observed_generation == generation)
        .filter_map(|c| is_ready(c).map(|namespace| (namespace, c)))
        .collect();
    voices.sort_by_key(|(namespace, c)| (c.status == "True", *namespace));
    let (namespace, first) = voices.first()?;
    let reason = first.reason.parse::<Reason>().ok()?;
    let message = match first.status.as_str() {
        "True" if alone => first.message.clone(),
        "True" => ALL_CAN.to_owned(),
        _ => format!("for namespace {namespace}: {}", first.message),
    };
    Some((reason, message))
}

/// Returns the namespace from the type `NAMESPACE/Ready`. Returns `None` if the type of the condition does not have
/// this form.
fn is_ready(condition: &Condition) -> Option<&str> {
    condition.type_.strip_suffix(READY)?.strip_suffix('/')
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::{ConformanceCheckStatus, set_condition};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    /// Returns the store's status after the operator of one namespace has written its conditions.
    fn reports(previous: &StoreStatus, namespace: &str, reason: Reason, generation: i64, now: i64) -> StoreStatus {
        let mut status = own(previous, namespace);
        status.observed_generation = Some(generation);
        let message = format!("operator {namespace} checked the store");
        set_ready(&mut status.conditions, (reason, &message), Some(generation), at(now));
        set_condition(
            &mut status.conditions,
            ConditionType::UnsignedHeadersRefused.as_str(),
            "True",
            (Reason::HeadersRefused, "so"),
            Some(generation),
            at(now),
        );
        status.capabilities = vec!["ContentType".into()];
        status.conformance_check = Some(ConformanceCheckStatus {
            request: "now".into(),
            time: Time(at(now)),
        });
        status.credentials_expiration_time = Some(Time(at(1000)));
        join(previous, namespace, status, at(now))
    }

    fn types(status: &StoreStatus) -> Vec<&str> {
        status.conditions.iter().map(|c| c.type_.as_str()).collect()
    }

    fn ready(status: &StoreStatus) -> String {
        let c = status.conditions.iter().find(|c| c.type_ == READY).unwrap();
        format!("{} {}: {}", c.status, c.reason, c.message)
    }

    /// Returns a status with the default conditions of the CRD schema.
    fn fresh() -> StoreStatus {
        let mut status = StoreStatus::default();
        let pending = (Reason::Pending, "nobody yet");
        set_condition(&mut status.conditions, READY, "Unknown", pending, None, at(0));
        set_condition(&mut status.conditions, "Reconciling", "True", pending, None, at(0));
        status
    }

    #[test]
    fn single_operator_sets_all_summary_conditions() {
        let status = reports(&fresh(), "a", Reason::Ready, 1, 1);
        assert_eq!(
            types(&status),
            [READY, ConditionType::UnsignedHeadersRefused.as_str(), "a/Ready"]
        );
        assert_eq!(ready(&status), "True Ready: operator a checked the store");
        assert!(!status.capabilities.is_empty() && status.conformance_check.is_some());
        assert_eq!(status.credentials_expiration_time, Some(Time(at(1000))));
        assert_eq!(reports(&status, "a", Reason::Ready, 1, 9).conditions, status.conditions);
    }

    #[test]
    fn operators_that_disagree_do_not_overwrite_each_other() {
        let a = reports(&fresh(), "a", Reason::Ready, 1, 1);
        let b = reports(&a, "b", Reason::CredentialsNotFound, 1, 2);
        let settled = reports(&b, "a", Reason::Ready, 1, 3);
        assert_eq!(
            types(&settled),
            [
                READY,
                "Reconciling",
                "a/Ready",
                "a/UnsignedHeadersRefused",
                "b/Ready",
                "b/UnsignedHeadersRefused"
            ]
        );
        assert_eq!(
            ready(&settled),
            "False CredentialsNotFound: for namespace b: operator b checked the store"
        );
        assert!(settled.capabilities.is_empty() && settled.conformance_check.is_none());
        // Two operators serve the store, so the status field for the credentials expiry is empty. Instead, the
        // condition `a/Ready` contains the credentials expiry of operator a in its message.
        assert_eq!(settled.credentials_expiration_time, None);
        let message = |type_: &str| {
            let c = settled.conditions.iter().find(|c| c.type_ == type_).unwrap();
            c.message.as_str()
        };
        assert_eq!(
            message("a/Ready"),
            "operator a checked the store; the credentials expire at 2027-01-15T08:16:40Z"
        );
        assert_eq!(message("b/Ready"), "operator b checked the store");
        // Both operators have written all their conditions. If they write the conditions again, the status does not
        // change.
        for now in [4, 5, 6] {
            assert_eq!(reports(&settled, "a", Reason::Ready, 1, now), settled);
            assert_eq!(reports(&settled, "b", Reason::CredentialsNotFound, 1, now), settled);
        }
        let both = reports(&settled, "b", Reason::Ready, 1, 7);
        assert_eq!(ready(&both), format!("True Ready: {ALL_CAN}"));
        assert_eq!(reports(&both, "a", Reason::Ready, 1, 8), both);
    }

    #[test]
    fn outdated_conditions_do_not_count_and_foreign_ones_stay() {
        let mut before = reports(
            &reports(&fresh(), "a", Reason::Ready, 1, 1),
            "gone",
            Reason::CredentialsNotFound,
            1,
            2,
        );
        let somebodys = Condition {
            type_: "example.com/Audited".into(),
            ..before.conditions[0].clone()
        };
        before.conditions.push(somebodys.clone());
        let after = reports(&before, "a", Reason::Ready, 2, 3);
        assert_eq!(ready(&after), format!("True Ready: {ALL_CAN}"));
        assert!(after.conditions.contains(&somebodys));
        assert!(types(&after).contains(&"gone/Ready"));
        let left = without(&after, "a");
        assert!(!types(&left).iter().any(|t| t.starts_with("a/")));
        assert!(left.conditions.contains(&somebodys) && types(&left).contains(&"gone/Ready"));
    }

    /// The test uses two namespaces. The name of the first namespace is a prefix of the name of the second namespace.
    #[test]
    fn conditions_of_namespaces_with_a_common_prefix_are_separate() {
        let status = reports(
            &reports(&fresh(), "team", Reason::Ready, 1, 1),
            "team-a",
            Reason::Ready,
            1,
            2,
        );
        assert!(types(&without(&status, "team")).contains(&"team-a/Ready"));
        assert_eq!(
            own(&status, "team")
                .conditions
                .iter()
                .filter(|c| c.type_ == READY)
                .count(),
            1
        );
    }
}
