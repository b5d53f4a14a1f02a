use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{QuotaCandidate, QuotaLedger, QuotaLimit, QuotaLimits};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn who(namespace: &str, second: i64) -> QuotaCandidate {
    QuotaCandidate {
        namespace: namespace.into(),
        uid: format!("{namespace}-{second}").into(),
        since: at(second),
    }
}

fn names(calls: &[(Arc<str>, Arc<str>)]) -> Vec<&str> {
    calls.iter().map(|(_, uid)| &**uid).collect()
}

const TWO: QuotaLimits = QuotaLimits {
    namespace: Some(2),
    store: None,
};
const THREE_IN_ALL: QuotaLimits = QuotaLimits {
    namespace: None,
    store: Some(3),
};

#[test]
fn oldest_waiting_grant_is_next_and_is_enqueued_once() {
    let mut quotas = QuotaLedger::default();
    let now = at(100);
    assert_eq!(quotas.request(&who("a", 3), TWO, now), Ok(()));
    assert_eq!(quotas.request(&who("a", 4), TWO, now), Ok(()));
    assert_eq!(
        quotas.request(&who("a", 4), TWO, now),
        Ok(()),
        "its place is already reserved"
    );
    // The quota of namespace `a` is used up, so every further grant of namespace `a` waits, even an older grant.
    // Grants of namespace `b` still receive quota.
    for second in [2, 5, 1] {
        assert_eq!(
            quotas.request(&who("a", second), TWO, now),
            Err(QuotaLimit::Namespace(2))
        );
    }
    assert_eq!(quotas.request(&who("b", 9), TWO, now), Ok(()));
    assert!(quotas.requeues(now).is_empty());
    quotas.set_used(&who("a", 3), at(200));
    quotas.set_used(&who("a", 4), at(300));
    assert!(quotas.requeues(now).is_empty(), "a used place is not free");
    quotas.remove(&who("a", 4));
    assert_eq!(names(&quotas.requeues(now)), ["a-1"]);
    assert!(quotas.requeues(now).is_empty(), "once");
    // Valet has enqueued a grant and reserved quota for it, so a different grant does not receive this quota.
    assert_eq!(quotas.request(&who("a", 2), TWO, now), Err(QuotaLimit::Namespace(2)));
    // The enqueued grant no longer needs quota, so the next grant in the queue receives the quota.
    quotas.remove(&who("a", 1));
    assert_eq!(names(&quotas.requeues(now)), ["a-2"]);
    assert_eq!(quotas.request(&who("a", 2), TWO, now), Ok(()));
    // A grant with an expired credential uses no quota, even if its status is not updated yet.
    assert!(quotas.requeues(at(199)).is_empty());
    assert_eq!(names(&quotas.requeues(at(200))), ["a-5"]);
    assert_eq!(quotas.request(&who("a", 5), TWO, at(200)), Ok(()));
    for second in [3, 2, 5] {
        quotas.remove(&who("a", second));
    }
    quotas.remove(&who("b", 9));
    assert!(quotas.is_empty(), "no state remains of deleted grants");
}

#[test]
fn store_quota_goes_to_the_namespace_with_fewest_live_grants() {
    let mut quotas = QuotaLedger::default();
    let now = at(100);
    for second in 1..=3 {
        assert_eq!(quotas.request(&who("loud", second), THREE_IN_ALL, now), Ok(()));
        quotas.set_used(&who("loud", second), at(1000));
    }
    for second in 4..=9 {
        assert_eq!(
            quotas.request(&who("loud", second), THREE_IN_ALL, now),
            Err(QuotaLimit::Store(3))
        );
    }
    for second in 50..=52 {
        assert_eq!(
            quotas.request(&who("late", second), THREE_IN_ALL, now),
            Err(QuotaLimit::Store(3))
        );
    }
    assert_eq!(
        quotas.request(&who("last", 60), THREE_IN_ALL, now),
        Err(QuotaLimit::Store(3))
    );
    let mut order = vec![];
    for (free, second) in [("loud", 1), ("loud", 2), ("loud", 3), ("late", 50)] {
        quotas.remove(&who(free, second));
        let calls = quotas.requeues(now);
        let [(namespace, uid)] = calls.as_slice() else {
            panic!("one place, one call: {calls:?}")
        };
        let second = uid.rsplit('-').next().unwrap().parse().unwrap();
        assert_eq!(quotas.request(&who(namespace, second), THREE_IN_ALL, now), Ok(()));
        quotas.set_used(&who(namespace, second), at(1000));
        order.push(uid.to_string());
    }
    // No namespace has a live grant, so the oldest grant receives quota first. After that, the namespaces receive
    // quota in turn.
    assert_eq!(order, ["late-50", "last-60", "loud-4", "late-51"]);
}

#[test]
fn different_quotas_of_one_namespace_do_not_block_each_other() {
    let mut quotas = QuotaLedger::default();
    let now = at(100);
    let generous = QuotaLimits {
        namespace: Some(3),
        store: None,
    };
    let narrow = QuotaLimits {
        namespace: Some(1),
        store: None,
    };
    assert_eq!(quotas.request(&who("a", 1), generous, now), Ok(()));
    assert_eq!(quotas.request(&who("a", 2), narrow, now), Err(QuotaLimit::Namespace(1)));
    assert_eq!(
        quotas.request(&who("a", 3), generous, now),
        Ok(()),
        "the older grant's lower limit does not reserve the place"
    );
    quotas.remove(&who("a", 1));
    assert!(
        quotas.requeues(now).is_empty(),
        "one grant is live, which is the lower limit"
    );
    quotas.remove(&who("a", 3));
    assert_eq!(names(&quotas.requeues(now)), ["a-2"]);
}

/// After a restart, Valet knows only the statuses of grants. Waiting grants are served before younger grants, even if
/// the younger grants are reconciled first.
#[test]
fn queue_order_is_the_same_after_a_restart() {
    let mut quotas = QuotaLedger::default();
    let now = at(100);
    quotas.set_used(&who("a", 1), at(200));
    for second in [5, 3, 4] {
        quotas.waits(&who("a", second));
    }
    let one_left = [5, 4, 3].map(|second| quotas.request(&who("a", second), TWO, now).is_ok());
    assert_eq!(one_left, [false, false, true]);
    // If the limit is lowered, live grants keep their credentials.
    let mut full = QuotaLedger::default();
    for second in 1..=5 {
        full.set_used(&who("a", second), at(200));
    }
    assert_eq!(full.request(&who("a", 0), TWO, now), Err(QuotaLimit::Namespace(2)));
    for second in 1..=3 {
        full.remove(&who("a", second));
        assert!(full.requeues(now).is_empty());
    }
    full.remove(&who("a", 4));
    assert_eq!(names(&full.requeues(now)), ["a-0"]);
}

/// A grant keeps its quota if the operator crashed after it published the credential and before it wrote the status.
/// It also keeps its quota if a second operator is about to reconcile it.
#[test]
fn grant_not_yet_reconciled_is_before_younger_grants() {
    let mut quotas = QuotaLedger::default();
    let now = at(100);
    for second in 1..=4 {
        quotas.is_new(&who("a", second), now);
    }
    let second_and_third = [3, 2].map(|second| quotas.request(&who("a", second), TWO, now).is_ok());
    assert_eq!(second_and_third, [false, true]);
    quotas.set_used(&who("a", 2), at(200));
    assert!(quotas.requeues(now).is_empty());
    // The first grant receives no credential for a reason other than the quota.
    quotas.remove(&who("a", 1));
    assert_eq!(
        names(&quotas.requeues(now)),
        ["a-3"],
        "a grant that is reconciled anyway is not enqueued"
    );
    assert_eq!(quotas.request(&who("a", 3), TWO, now), Ok(()));
    assert_eq!(quotas.request(&who("a", 4), TWO, now), Err(QuotaLimit::Namespace(2)));
}

/// A grant that is never reconciled blocks younger grants only for some seconds.
#[test]
fn grant_not_reconciled_blocks_other_grants_only_for_seconds() {
    let mut quotas = QuotaLedger::default();
    let one = QuotaLimits {
        namespace: None,
        store: Some(1),
    };
    quotas.is_new(&who("a", 1), at(100));
    // The 15 seconds start when Valet first sees the grant. They do not start again when Valet sees the grant again.
    quotas.is_new(&who("a", 1), at(110));
    for second in [100, 114] {
        assert_eq!(
            quotas.request(&who("b", 2), one, at(second)),
            Err(QuotaLimit::Store(1)),
            "{second}"
        );
        assert_eq!(quotas.new_until(at(second)), Some(at(115)));
    }
    assert_eq!(quotas.new_until(at(115)), None);
    assert_eq!(names(&quotas.requeues(at(115))), ["b-2"]);
    assert_eq!(quotas.request(&who("b", 2), one, at(115)), Ok(()));
}

/// A grant in a namespace without an access rule uses no quota and does not wait in the queue. Its status does not
/// matter.
#[test]
fn grant_without_access_rule_uses_no_quota() {
    let rule = |namespaces: serde_json::Value| {
        let rule = serde_json::json!({"namespaces": namespaces, "operations": ["Upload"]});
        vec![serde_json::from_value(rule).unwrap()].into()
    };
    let one = QuotaLimits {
        namespace: None,
        store: Some(1),
    };
    for is_named in [false, true] {
        let mut quotas = QuotaLedger::default();
        let now = at(100);
        quotas.set_used(&who("other", 1), at(1000));
        quotas.is_new(&who("other", 2), now);
        quotas.waits(&who("other", 3));
        let names = if is_named { vec!["a", "other"] } else { vec!["a"] };
        quotas.judged_by(rule(serde_json::json!({"names": names})));
        let recorded_seconds = quotas.request(&who("a", 9), one, now);
        assert_eq!(recorded_seconds.is_ok(), !is_named, "{recorded_seconds:?}");
        // A label selector can match any namespace, so the grant uses quota.
        quotas.remove(&who("a", 9));
        quotas.judged_by(rule(serde_json::json!({"selector": {"matchLabels": {"team": "a"}}})));
        assert_eq!(quotas.request(&who("a", 9), one, now), Err(QuotaLimit::Store(1)));
    }
}

/// Compares the queue with a simple, slow calculation. The number of live grants is never higher than the limit. No
/// grant waits while quota is free, and the oldest grants receive quota first.
#[test]
fn random_sequences_keep_the_quota_and_the_order() {
    let mut seed = 7_u64;
    let mut dice = move |n: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let most = QuotaLimits {
        namespace: Some(3),
        store: Some(7),
    };
    let mut given = 0;
    for _ in 0..200 {
        let (mut quotas, now) = (QuotaLedger::default(), at(100));
        let mut has: BTreeMap<Arc<str>, QuotaCandidate> = BTreeMap::new();
        let mut waits: BTreeMap<Arc<str>, QuotaCandidate> = BTreeMap::new();
        for step in 0..200 {
            let uid = if dice(3) > 0 || has.is_empty() {
                let new = who(&format!("n{}", dice(4)), step);
                if quotas.request(&new, most, now).is_ok() {
                    has.insert(new.uid.clone(), new);
                } else {
                    waits.insert(new.uid.clone(), new);
                }
                None
            } else {
                let all: Vec<_> = has.keys().chain(waits.keys()).cloned().collect();
                Some(all[dice(all.len() as u64) as usize].clone())
            };
            if let Some(uid) = uid {
                let gone = has.remove(&uid).or_else(|| waits.remove(&uid)).unwrap();
                quotas.remove(&gone);
            }
            for (namespace, uid) in quotas.requeues(now) {
                let called = waits.remove(&uid).expect("an enqueued grant was waiting");
                let older = waits
                    .values()
                    .any(|w| w.namespace == namespace && w.position() < called.position());
                assert!(!older, "the oldest of a namespace first");
                assert_eq!(
                    quotas.request(&called, most, now),
                    Ok(()),
                    "an enqueued grant gets a place"
                );
                has.insert(uid, called);
                given += 1;
            }
            let of = |n: &str| has.values().filter(|c| *c.namespace == *n).count();
            assert!(has.len() <= 7 && (0..4).all(|n| of(&format!("n{n}")) <= 3));
            for w in waits.values() {
                assert!(
                    has.len() == 7 || of(&w.namespace) == 3,
                    "a grant waits although a place is free"
                );
            }
        }
    }
    assert!(given > 1000, "{given} were enqueued");
}
