//! The status of a store that several operators serve, each for its own namespace and with credentials of its own. None
//! writes what another one says, and what they say together follows from that alone: so two of them that disagree do not
//! write in turns.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::store_status::{CLOCK, EXPIRATION, HEADERS, KEYS};
use crate::api::{Reason, StoreStatus, set_ready};

/// What each operator says for itself, as `NAMESPACE/TYPE`.
const OWN: [&str; 5] = [READY, HEADERS, CLOCK, KEYS, EXPIRATION];
/// The summary, for kstatus.
const SUMMARY: [&str; 3] = [READY, "Reconciling", "Stalled"];
const READY: &str = "Ready";
/// What the summary says where several have looked.
const ALL_CAN: &str = "each operator that has looked at the store can use it";

/// The type under which the operator of a namespace has its condition.
pub fn of(namespace: &str, type_: &str) -> String {
    format!("{namespace}/{type_}")
}

/// What the operator of `namespace` has said so far, as if it were the only one.
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
        // Then the rest of it stands there without the name.
        let rest = status
            .conditions
            .iter()
            .filter(|c| [HEADERS, CLOCK, KEYS, EXPIRATION].contains(&c.type_.as_str()));
        conditions.extend(rest.cloned());
    }
    StoreStatus {
        conditions,
        ..status.clone()
    }
}

/// Whether no other operator has said anything.
fn is_alone(status: &StoreStatus, namespace: &str) -> bool {
    !status
        .conditions
        .iter()
        .any(|c| is_ready(c).is_some_and(|n| n != namespace))
}

/// The status with what the operator of `namespace` says now. The summary `Ready` is True when all say so that have seen the
/// present generation; otherwise it is the first one's word that does not, by name. What only one can say (capabilities, the
/// credentials' end, the canary) is left out as soon as there are two; the end then stands in each one's own word.
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
        ready.message += &format!("; the credentials end at {}", end.0);
    }
    for condition in &own.conditions {
        if alone && condition.type_ != READY {
            // The one voice that there is need not say it twice.
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
        status.canary = own.canary;
    } else {
        status.capabilities = Vec::new();
        status.credentials_expiration_time = None;
        status.canary = None;
    }
    let word = word(&status.conditions, generation, alone);
    // With the times that it had.
    status
        .conditions
        .extend(summary.into_iter().filter(|c| SUMMARY.contains(&c.type_.as_str())));
    if let Some((reason, message)) = word {
        set_ready(&mut status.conditions, (reason, &message), generation, now);
    }
    // One order, whoever writes.
    status.conditions.sort_by(|a, b| {
        let is_another = |c: &Condition| c.type_.contains('/');
        (is_another(a), &a.type_).cmp(&(is_another(b), &b.type_))
    });
    status
}

/// The status without what the operator of `namespace` said.
pub fn without(status: &StoreStatus, namespace: &str) -> StoreStatus {
    let mut status = status.clone();
    status.conditions.retain(|c| {
        let own = c.type_.strip_prefix(namespace).and_then(|t| t.strip_prefix('/'));
        !own.is_some_and(|type_| OWN.contains(&type_))
    });
    status
}

/// What all say together. Whoever writes it writes the same, so where there are several it has nothing that only one of them
/// says of itself, unless that is what is wrong.
fn word(conditions: &[Condition], generation: Option<i64>, alone: bool) -> Option<(Reason, String)> {
    let mut voices: Vec<_> = conditions
        .iter()
        .filter(|c| c.observed_generation == generation)
        .filter_map(|c| is_ready(c).map(|namespace| (namespace, c)))
        .collect();
    voices.sort_by_key(|(namespace, c)| (c.status == "True", *namespace));
    let (namespace, first) = voices.first()?;
    let reason = Reason::ALL.iter().find(|r| r.as_str() == first.reason).copied()?;
    let message = match first.status.as_str() {
        "True" if alone => first.message.clone(),
        "True" => ALL_CAN.to_owned(),
        _ => format!("for namespace {namespace}: {}", first.message),
    };
    Some((reason, message))
}

/// The namespace whose operator has this condition as its `Ready`.
fn is_ready(condition: &Condition) -> Option<&str> {
    condition.type_.strip_suffix(READY)?.strip_suffix('/')
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::{CanaryStatus, set_condition};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    /// What an operator says for itself.
    fn says(previous: &StoreStatus, namespace: &str, reason: Reason, generation: i64, now: i64) -> StoreStatus {
        let mut status = own(previous, namespace);
        status.observed_generation = Some(generation);
        let message = format!("as {namespace} sees it");
        set_ready(&mut status.conditions, (reason, &message), Some(generation), at(now));
        set_condition(
            &mut status.conditions,
            HEADERS,
            "True",
            (Reason::HeadersRefused, "so"),
            Some(generation),
            at(now),
        );
        status.capabilities = vec!["ContentType".into()];
        status.canary = Some(CanaryStatus {
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

    /// As the schema's default has it.
    fn fresh() -> StoreStatus {
        let mut status = StoreStatus::default();
        let pending = (Reason::Pending, "nobody yet");
        set_condition(&mut status.conditions, READY, "Unknown", pending, None, at(0));
        set_condition(&mut status.conditions, "Reconciling", "True", pending, None, at(0));
        status
    }

    #[test]
    fn one_alone_says_all_that_there_is() {
        let status = says(&fresh(), "a", Reason::Ready, 1, 1);
        assert_eq!(types(&status), [READY, HEADERS, "a/Ready"]);
        assert_eq!(ready(&status), "True Ready: as a sees it");
        assert!(!status.capabilities.is_empty() && status.canary.is_some());
        assert_eq!(status.credentials_expiration_time, Some(Time(at(1000))));
        assert_eq!(says(&status, "a", Reason::Ready, 1, 9).conditions, status.conditions);
    }

    #[test]
    fn two_that_disagree_do_not_write_in_turns() {
        let a = says(&fresh(), "a", Reason::Ready, 1, 1);
        let b = says(&a, "b", Reason::CredentialsNotFound, 1, 2);
        let settled = says(&b, "a", Reason::Ready, 1, 3);
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
            "False CredentialsNotFound: for namespace b: as b sees it"
        );
        assert!(settled.capabilities.is_empty() && settled.canary.is_none());
        // The end stands in the word of the one who can use the store, and in no summary.
        assert_eq!(settled.credentials_expiration_time, None);
        let message = |type_: &str| {
            let c = settled.conditions.iter().find(|c| c.type_ == type_).unwrap();
            c.message.as_str()
        };
        assert_eq!(
            message("a/Ready"),
            "as a sees it; the credentials end at 2027-01-15T08:16:40Z"
        );
        assert_eq!(message("b/Ready"), "as b sees it");
        // From now on neither has anything to write.
        for now in [4, 5, 6] {
            assert_eq!(says(&settled, "a", Reason::Ready, 1, now), settled);
            assert_eq!(says(&settled, "b", Reason::CredentialsNotFound, 1, now), settled);
        }
        let both = says(&settled, "b", Reason::Ready, 1, 7);
        assert_eq!(ready(&both), format!("True Ready: {ALL_CAN}"));
        assert_eq!(says(&both, "a", Reason::Ready, 1, 8), both);
    }

    #[test]
    fn an_old_word_does_not_count_and_nobody_elses_is_touched() {
        let mut before = says(
            &says(&fresh(), "a", Reason::Ready, 1, 1),
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
        let after = says(&before, "a", Reason::Ready, 2, 3);
        assert_eq!(ready(&after), format!("True Ready: {ALL_CAN}"));
        assert!(after.conditions.contains(&somebodys));
        assert!(types(&after).contains(&"gone/Ready"));
        let left = without(&after, "a");
        assert!(!types(&left).iter().any(|t| t.starts_with("a/")));
        assert!(left.conditions.contains(&somebodys) && types(&left).contains(&"gone/Ready"));
    }

    /// A namespace whose name begins another one's.
    #[test]
    fn names_are_whole() {
        let status = says(
            &says(&fresh(), "team", Reason::Ready, 1, 1),
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
