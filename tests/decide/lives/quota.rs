//! Simulated lives of grants under a quota (`maxLiveGrants`) of a store or of an access rule.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use valet::{
    api::{ClusterAccessRule, Reason},
    core::{QuotaLimits, Read, Step, StoreFact, decide},
};

use super::{downloading, ends, good_store, terms, unusable, uploading, with};
use crate::{
    checks::condition,
    common::{at, rule, store},
    play::{Life, play},
    world::{Bucket, Memory, World},
};

fn limited() -> StoreFact {
    let mut view = good_store();
    view.max_live_grants = Some(2);
    StoreFact::Usable(view)
}

/// A store whose quota of two grants is used up by other grants.
fn waiting(world: World) -> World {
    with(world, |w| {
        w.store = limited();
        w.room = false;
    })
}

fn served(world: &mut World) {
    world.room = true;
}

fn taken(world: &mut World) {
    world.room = false;
}

fn narrowed(world: &mut World) {
    world.store = limited();
    world.room = false;
}

pub static QUOTA: &[Life] = &[
    Life {
        name: "waits for quota, and then gets its whole lifetime",
        world: || waiting(downloading()),
        events: &[(500.0, served)],
        until: 700,
        end: ends("Current Issued", &[(500, 800)], [1, 0, 0], &[]),
    },
    Life {
        name: "waits for quota that never becomes free",
        world: || waiting(uploading()),
        events: &[],
        until: 100_000,
        end: ends("InProgress TooManyGrants", &[], [0, 0, 0], &[]),
    },
    Life {
        name: "waits for quota until the limit is removed",
        world: || waiting(uploading()),
        events: &[(500.0, |w| w.store = StoreFact::Usable(good_store()))],
        until: 700,
        end: ends("Current Issued", &[(500, 800)], [1, 0, 0], &[]),
    },
    Life {
        name: "waits for quota beyond its deadline",
        world: || with(waiting(uploading()), |w| terms(w).deadline_time = Some(Time(at(90)))),
        events: &[(100.0, served)],
        until: 200,
        end: ends("Failed ExpiredUnused", &[], [0, 0, 0], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "keeps its credential when the limit is lowered",
        world: downloading,
        events: &[(50.0, narrowed)],
        until: 250,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "gets another lifetime while other grants wait for quota",
        world: || with(downloading(), |w| w.store = limited()),
        events: &[(40.0, taken), (50.0, |w| w.edit(|g| g.terms.expiration_seconds = 600))],
        until: 250,
        end: ends("Current Issued", &[(0, 300), (50, 650)], [1, 1, 0], &[]),
    },
    Life {
        name: "keeps its quota when its Secret is deleted while other grants wait",
        world: || with(downloading(), |w| w.store = limited()),
        events: &[(40.0, taken), (50.0, World::delete_secret), (50.5, |w| w.edit(|_| {}))],
        until: 250,
        end: ends("Current Issued", &[(0, 300), (0, 300)], [2, 0, 0], &[]),
    },
    Life {
        name: "suspended, releases its quota and later waits for quota",
        world: || with(downloading(), |w| w.store = limited()),
        events: &[
            (50.0, |w| w.edit(|g| g.terms.suspend = Some(true))),
            (60.0, taken),
            (70.0, |w| w.edit(|g| g.terms.suspend = None)),
            (100.0, served),
        ],
        until: 250,
        end: ends("Current Issued", &[(0, 300), (0, 300)], [2, 0, 1], &[]),
    },
    Life {
        name: "a write-once upload for an existing object waits for quota",
        world: || with(waiting(uploading()), |w| w.bucket = super::old_object()),
        events: &[(100.0, served)],
        until: 200,
        end: ends("Current ObjectExists", &[], [0, 0, 0], &[]),
    },
    Life {
        name: "waits for quota, and then its store is not usable",
        world: || waiting(uploading()),
        events: &[(100.0, |w| w.store = unusable(Reason::CredentialsNotFound))],
        until: 200,
        end: ends(
            "InProgress CredentialsNotFound",
            &[],
            [0, 0, 0],
            &[Reason::CredentialsNotFound],
        ),
    },
];

/// A grant that waits for quota sends no request to the store, sets no timer and writes its status once.
#[test]
fn grant_that_waits_for_quota_sends_no_request_and_sets_no_timer() {
    let life = super::life("waits for quota that never becomes free");
    let mut world = play(life, Memory::Grant, None, jiff::SignedDuration::ZERO);
    assert_eq!((world.counts.reports, world.last_poll), (1, None));
    assert_eq!(world.reconcile(), None, "the grant must not set a timer");
    let message = &condition(&world.grant().status, "Ready").unwrap().message;
    assert!(
        message.contains("at most 2 live grants in all namespaces together"),
        "{message}"
    );
    world.bucket = Bucket::Down;
    world.reconcile();
    assert_eq!(world.counts.reports, 1);
}

/// If several rules allow a grant, the largest quota applies. A rule without a quota sets no limit. Rules that do not
/// allow the grant are ignored.
#[test]
fn largest_quota_of_all_matching_rules_applies() {
    let with = |numbers: &[(Option<i64>, bool)]| -> Vec<ClusterAccessRule> {
        let one = |(most, allows): &(Option<i64>, bool)| {
            let mut rule = rule();
            rule.rule.max_live_grants = *most;
            if !allows {
                rule.rule.key_prefix = Some("elsewhere/".into());
            }
            rule
        };
        numbers.iter().map(one).collect()
    };
    for (rules, whole, most) in [
        (with(&[(None, true)]), None, None),
        (with(&[(Some(3), true)]), None, Some((Some(3), None))),
        (with(&[(Some(3), true), (Some(5), true)]), None, Some((Some(5), None))),
        (with(&[(Some(3), true), (None, true)]), None, None),
        (with(&[(Some(3), true), (Some(9), false)]), None, Some((Some(3), None))),
        (
            with(&[(Some(3), true), (None, false)]),
            Some(4),
            Some((Some(3), Some(4))),
        ),
        (with(&[(None, true)]), Some(4), Some((None, Some(4)))),
    ] {
        let mut world = downloading();
        let mut view = store([]);
        view.rules = Arc::new(rules);
        view.max_live_grants = whole;
        world.store = StoreFact::Usable(view);
        let step = decide(&world.facts(), world.now);
        match most {
            None => assert!(matches!(step, Step::Publish(_)), "{step:?}"),
            Some((namespace, store)) => assert_eq!(step, Step::Read(Read::Quota(QuotaLimits { namespace, store }))),
        }
    }
}
