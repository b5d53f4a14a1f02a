//! Tests of the timers of renewal: one nanosecond before they are due, exactly then, and one nanosecond after. Other
//! tests cover forged records.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use valet::{
    api::{GrantStatus, Reason, annotation},
    core::{GrantFacts, Lifetime, RenewRequest, Step, StoreFact, StoreView, renewal_due},
};

use crate::{
    checks::{condition, ready},
    clocks::{steps, until},
    common::{Dice, TICK, around, at, constrain, download, renew_always, rule, store, upload},
    world::World,
};

/// When a credential of 600 s is renewed, for the UID of the test grant.
const DUE: i64 = 367;

fn renewing(grant: GrantFacts) -> GrantFacts {
    let mut grant = grant;
    renew_always(&mut grant);
    grant.terms.expiration_seconds = 600;
    grant
}

/// Creates a simulated world in which the credential was issued at the start and the status was written.
fn issued(grant: GrantFacts) -> World {
    let mut world = World::new(grant, store([rule()]));
    world.reconcile();
    assert_eq!(ready(world.grant()), "Issued");
    world
}

fn unusable() -> StoreFact {
    StoreFact::Unusable {
        reason: Reason::CredentialsNotFound,
        message: "they are gone".into(),
    }
}

#[test]
fn credential_is_renewed_exactly_at_its_scheduled_time() {
    let mut world = issued(renewing(download()));
    assert_eq!(until(&world), Some(at(DUE)));
    assert_eq!(steps(&mut world, around(at(DUE))), ["rest", "publish", "publish"]);
    // Before the renewal of an upload, Valet polls for the object.
    let mut world = issued(renewing(upload()));
    world.now = at(DUE - 1);
    world.last_poll = Some(world.now);
    assert_eq!(until(&world), Some(at(DUE)));
    assert_eq!(steps(&mut world, around(at(DUE))), ["rest", "poll", "poll"]);
}

#[test]
fn renewal_time_is_late_but_well_before_the_expiry() {
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..200 {
        let mut grant = renewing(download());
        grant.uid = format!("uid-{n}");
        let mut world = issued(grant.clone());
        let due = until(&world).unwrap();
        let key = Lifetime {
            issued_at: at(0),
            expires_at: at(600),
        };
        assert_eq!(
            due,
            renewal_due(key, &grant.uid),
            "the time depends only on the credential and the UID"
        );
        assert!((at(350)..=at(400)).contains(&due), "{due}");
        assert_eq!(world.grant().status.renewal_time, Some(Time(due)));
        assert_eq!(steps(&mut world, around(due)), ["rest", "publish", "publish"]);
        seen.insert(due);
    }
    assert!(
        seen.len() > 40,
        "the renewals are due in {} different seconds",
        seen.len()
    );
}

#[test]
fn requested_renewal_runs_once_and_at_the_requested_time() {
    let mut world = issued(download());
    world.request(&at(100).to_string());
    // The status shows the time of the renewal before the renewal is due.
    world.now = at(50);
    world.reconcile();
    assert_eq!(world.grant().status.renewal_time, Some(Time(at(100))));
    assert_eq!(until(&world), Some(at(100)));
    assert_eq!(steps(&mut world, around(at(100))), ["rest", "publish", "publish"]);
    world.now = at(100);
    world.reconcile();
    assert_eq!(world.keys.len(), 2);
    for second in [100, 101, 200, 399] {
        world.now = at(second);
        assert!(matches!(world.next(), Step::Rest { .. }), "{second}");
    }
}

/// A requested renewal whose time is not later than the second of issue is already fulfilled.
#[test]
fn renewal_request_for_a_time_before_the_issue_is_ignored() {
    for (requested, keys) in [
        (at(9), 1),
        (at(10) - TICK, 1),
        (at(10), 1),
        (at(10) + TICK, 2),
        (at(11) - TICK, 2),
        (at(11), 2),
    ] {
        let mut world = World::new(download(), store([rule()]));
        world.now = at(10) + SignedDuration::from_millis(500);
        world.reconcile();
        world.request(&requested.to_string());
        world.now = at(20);
        world.reconcile();
        assert_eq!(world.keys.len(), keys, "{requested}");
    }
}

#[test]
fn failed_renewal_is_overdue_three_minutes_before_the_expiry() {
    let mut world = issued(renewing(download()));
    world.store = unusable();
    world.now = at(DUE);
    // The pause between retries is a tenth of the remaining time, so it gets shorter.
    let mut tries = vec![];
    while world.now < at(600) {
        let next = world.reconcile().unwrap();
        tries.push(next.duration_since(world.now).as_millis());
        world.now = next;
    }
    assert_eq!(tries[0], 23_300);
    assert!(
        tries.len() < 40 && tries.iter().all(|t| (1..=23_300).contains(t)),
        "{tries:?}"
    );
    assert!(tries[3..].is_sorted_by(|a, b| a >= b), "{tries:?}");

    let mut world = issued(renewing(download()));
    world.store = unusable();
    world.now = at(419);
    assert_eq!(
        world.reconcile(),
        Some(at(420)),
        "a timer is set for the change of the condition"
    );
    assert_eq!(steps(&mut world, around(at(420))), ["rest", "report", "report"]);
    world.now = at(420);
    world.reconcile();
    let failing = condition(&world.grant().status, "RenewalFailing").unwrap();
    assert_eq!(
        failing.message,
        "the credential expires at 2027-01-15T08:10:00Z, and Valet could not renew the credential: they are gone"
    );
    assert_eq!(world.notices, [Reason::RenewalOverdue]);
    assert_eq!(ready(world.grant()), "Issued");
    // The Secret is still deleted when the credential expires.
    assert_eq!(
        steps(&mut world, around(at(600))),
        ["rest", "delete Secret", "delete Secret"]
    );
    // After a successful renewal the condition is removed.
    world.now = at(500);
    world.store = StoreFact::Usable(store([rule()]));
    world.reconcile();
    assert!(condition(&world.grant().status, "RenewalFailing").is_none());
    assert_eq!(world.notices.len(), 1);
}

/// A renewal must extend the expiry by more than 60 s. With 60 s there is no renewal, with 61 s there is one.
#[test]
fn renewal_must_extend_the_expiry_by_more_than_one_minute() {
    for (end, step) in [(665, "rest"), (666, "publish")] {
        let mut world = issued(renewing(download()));
        world.usable(|s: &mut StoreView| s.credentials_expire = Some(at(end)));
        world.now = at(DUE);
        assert_eq!(steps(&mut world, [at(DUE); 3]), [step; 3], "{end}");
    }
}

/// There is no renewal if the expiry is less than a minute before the deadline.
#[test]
fn no_renewal_if_expiry_is_within_a_minute_of_the_deadline() {
    for (deadline, renewal) in [(660, None), (661, Some(at(DUE)))] {
        let mut grant = renewing(download());
        grant.terms.deadline_time = Some(Time(at(deadline)));
        let world = issued(grant);
        assert_eq!(
            world.grant().status.renewal_time.as_ref().map(|t| t.0),
            renewal,
            "{deadline}"
        );
    }
    // The deadline limits a renewal in the same way after the store was unusable.
    let mut grant = renewing(download());
    grant.terms.deadline_time = Some(Time(at(1000)));
    let mut world = issued(grant);
    world.store = unusable();
    world.now = at(600);
    world.reconcile();
    assert_eq!(ready(world.grant()), "CredentialsNotFound");
    world.store = StoreFact::Usable(store([rule()]));
    assert_eq!(steps(&mut world, around(at(940))), ["publish", "report", "report"]);
}

/// Forged records can trigger a renewal, as the annotation on the grant can. They never lead to a credential beyond
/// the limits (`checks::signs` checks each one), and never to an endless series of renewals.
#[test]
fn forged_records_lead_to_no_endless_renewals() {
    let values = [
        "",
        "soon",
        "-1",
        "0",
        "9223372036854775807",
        "1970-01-01T00:00:00Z",
        "9999-12-30T00:00:00Z",
        "-009999-01-02T01:59:59Z",
        "2027-01-15T07:58:20Z",
        "2027-01-15T08:01:40.5Z",
    ];
    let keys = [
        annotation::ISSUED_AT,
        annotation::EXPIRES_AT,
        annotation::RENEWALS,
        annotation::EARLIER_EXPIRES_AT,
        annotation::EXPIRATION_SECONDS,
    ];
    let mut dice = Dice::new(23);
    let mut made = 0;
    for n in 0..2000 {
        let mut grant = renewing(if n % 2 == 0 { upload() } else { download() });
        if n % 4 == 0 {
            constrain(&mut grant, |c| c.overwrite = valet::api::Overwrite::Allow);
        }
        grant.terms.deadline_time = Some(Time(at(5000)));
        let mut world = issued(grant);
        world.forged = true;
        for _ in 0..4 {
            let before = world.keys.len();
            world.edit_secret(|s| {
                for _ in 0..2 {
                    s.annotations
                        .insert((*dice.pick(&keys)).into(), (*dice.pick(&values)).into());
                }
            });
            if dice.one_in(3)
                && let Some(grant) = &mut world.grant
            {
                grant.renew_requested = RenewRequest::parse(Some(*dice.pick(&values)));
            }
            if dice.one_in(4)
                && let Some(grant) = &mut world.grant
            {
                let time = |dice: &mut Dice| (!dice.one_in(3)).then(|| Time(at(dice.below(4000) as i64 - 2000)));
                grant.status = GrantStatus {
                    issued_time: time(&mut dice),
                    expiration_time: time(&mut dice),
                    renewal_time: time(&mut dice),
                    earlier_expiration_time: time(&mut dice),
                    renewals: Some(*dice.pick(&[i64::MIN, -1, 0, 7, i64::MAX])),
                    ..grant.status.clone()
                };
            }
            if dice.one_in(4) {
                world.delete_secret();
            }
            world.now += SignedDuration::from_secs(dice.below(300) as i64);
            // Repeated reconciles at the same time lead to at most one more credential.
            for _ in 0..5 {
                world.reconcile();
            }
            let more = world.keys.len() - before;
            assert!(more <= 2, "{n}: {more} credentials for one forged record");
            made += more;
        }
    }
    assert!(
        made > 500,
        "only {made} credentials were signed, so the test may check nothing"
    );
}

/// A clock that runs backwards does not lead to repeated signing.
#[test]
fn clock_set_back_leads_to_no_renewal() {
    let mut world = issued(renewing(download()));
    world.now = at(DUE);
    world.reconcile();
    for second in [366, 100, -1000, 0, 367] {
        world.now = at(second);
        world.reconcile();
    }
    assert_eq!(world.keys.len(), 2);
    let _: Option<Timestamp> = until(&world);
}
