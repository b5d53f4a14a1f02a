//! Tests of every timer: one nanosecond before it is due, exactly when it is due, and one nanosecond after.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use valet::{
    api::{GrantStatus, Reason},
    core::{GrantFacts, Owner, Read, Step, StoreFact, StoreView},
};

use crate::{
    checks::ready,
    common::{TICK, around, at, download, rule, store, upload},
    world::World,
};

fn world(grant: GrantFacts) -> World {
    World::new(grant, store([rule()]))
}

/// Creates a simulated world in which the credential was issued at the start and the status was written.
fn issued(grant: GrantFacts) -> World {
    let mut world = world(grant);
    world.reconcile();
    assert_eq!(ready(world.grant()), "Issued");
    world
}

/// The names of the next steps at these three times.
pub fn steps(world: &mut World, instants: [Timestamp; 3]) -> [&'static str; 3] {
    instants.map(|now| {
        world.now = now;
        name(&world.next())
    })
}

fn name(step: &Step) -> &'static str {
    match step {
        Step::Read(Read::Store) => "read the store",
        Step::Read(Read::Secret) => "read the Secret",
        Step::Read(Read::Object(_)) => "poll",
        Step::Read(Read::Upload(..)) => "list the parts",
        Step::Read(Read::Uploads(_)) => "list the uploads",
        Step::AddFinalizer => "add finalizer",
        Step::Complete(..) => "complete",
        Step::Abort(_) | Step::AbortOrphans(_) => "abort",
        Step::RemoveFinalizer { .. } => "remove finalizer",
        Step::Read(Read::Quota(_)) => "request quota",
        Step::Publish(_) => "publish",
        Step::UpdateMetadata { .. } => "update metadata",
        Step::Empty { .. } => "empty",
        Step::DeleteSecret { .. } => "delete Secret",
        Step::Report { .. } => "report",
        Step::DeleteGrant => "delete grant",
        Step::Rest { .. } => "rest",
    }
}

pub fn until(world: &World) -> Option<Timestamp> {
    match world.next() {
        Step::Rest { until } => until,
        other => panic!("expected Rest, not {other:?}"),
    }
}

#[test]
fn secret_is_deleted_exactly_at_the_expiry() {
    let mut world = issued(download());
    assert_eq!(until(&world), Some(at(300)));
    assert_eq!(
        steps(&mut world, around(at(300))),
        ["rest", "delete Secret", "delete Secret"]
    );
}

#[test]
fn credential_expires_at_a_whole_second() {
    let mut grant = download();
    grant.created = Some(at(0));
    let mut world = world(grant);
    world.now = at(0) + SignedDuration::from_millis(999);
    world.reconcile();
    // Credential lifetimes count from the whole second before the time of issue.
    assert_eq!(until(&world), Some(at(300)));
}

#[test]
fn deadline_ends_the_credential_and_prevents_a_new_one() {
    let with_deadline = |deadline| {
        let mut grant = download();
        grant.terms.deadline_time = Some(Time(deadline));
        grant
    };
    let mut late = world(with_deadline(at(100)));
    assert_eq!(steps(&mut late, around(at(100))), ["publish", "report", "report"]);
    late.now = at(100) - TICK;
    let Step::Publish(last) = late.next() else {
        panic!("the last possible time is valid");
    };
    assert_eq!(last.request.lifetime.seconds(), 1);

    // A deadline is rounded down to a whole second, because credentials expire at whole seconds.
    let mut fraction = world(with_deadline(at(100) + SignedDuration::from_millis(500)));
    assert_eq!(steps(&mut fraction, around(at(100))), ["publish", "report", "report"]);

    // A deadline that is set after the credential was issued is also rounded down.
    let mut pulled = issued(download());
    pulled.edit(|g| g.terms.deadline_time = Some(Time(at(100))));
    pulled.store = StoreFact::Unusable {
        reason: Reason::CredentialsExpired,
        message: "they are over".into(),
    };
    pulled.reconcile();
    assert_eq!(
        until(&pulled),
        Some(at(100)),
        "a shorter credential is not possible; this one is deleted in time"
    );
    assert_eq!(
        steps(&mut pulled, around(at(100))),
        ["rest", "delete Secret", "delete Secret"]
    );
}

#[test]
fn finished_grant_is_deleted_exactly_at_its_ttl() {
    for (own, tracked, operators, seconds) in [
        (None, None, Some(3600), Some(3600)),
        (None, None, Some(0), Some(0)),
        (None, None, None, None),
        (None, Some("Flux"), Some(3600), None),
        (Some(Some(60)), None, Some(3600), Some(60)),
        (Some(Some(60)), Some("Argo CD"), None, Some(60)),
        (Some(Some(0)), None, Some(3600), Some(0)),
        (Some(None), None, Some(3600), None),
        (Some(Some(-1)), None, Some(3600), None),
        (Some(Some(31_536_000)), None, Some(0), Some(31_536_000)),
    ] {
        let mut grant = download();
        grant.terms.ttl_seconds_after_finished = own;
        grant.gitops_tool = tracked;
        let mut world = issued(grant);
        world.settings.ttl_seconds_after_finished = operators;
        world.now = at(300);
        world.reconcile();
        let said = format!("own {own:?}, tracked by {tracked:?}, the operator's {operators:?}");
        match seconds {
            Some(0) => assert!(world.grant.is_none(), "{said}"),
            Some(seconds) => {
                let end = at(300 + seconds);
                assert_eq!(until(&world), Some(end), "{said}");
                assert_eq!(
                    steps(&mut world, around(end)),
                    ["rest", "delete grant", "delete grant"],
                    "{said}"
                );
            }
            None => {
                assert_eq!(until(&world), None, "{said}");
                let far = at(4_000_000_000);
                assert_eq!(steps(&mut world, around(far)), ["rest"; 3], "{said}");
            }
        }
    }
}

#[test]
fn secret_of_predecessor_grant_is_a_conflict_after_one_minute() {
    let mut world = world(upload());
    world.plant(Owner::Predecessor);
    world.reconcile();
    assert_eq!(until(&world), Some(at(1)), "the grant is reconciled again soon");
    let reason = |world: &mut World, now| {
        world.now = now;
        world.reconcile();
        ready(world.grant()).to_owned()
    };
    let reasons = around(at(60)).map(|now| reason(&mut world, now));
    assert_eq!(reasons, ["PredecessorSecret", "SecretConflict", "SecretConflict"]);
    let minute_later = at(120) + TICK;
    assert_eq!(
        until(&world),
        Some(minute_later),
        "the grant is then reconciled each minute until the Secret is deleted"
    );
}

/// Signing can fail. A temporary failure is retried; a permanent failure waits for a change of the grant or the
/// store.
#[test]
fn temporary_signing_failure_is_retried_and_permanent_is_not() {
    for (reason, verdict, next) in [
        (Reason::CredentialsRefused, "CredentialsRefused", Some(at(1))),
        (Reason::StoreUnreachable, "StoreUnreachable", Some(at(1))),
        (Reason::CapabilityMissing, "CapabilityMissing", None),
    ] {
        let mut world = world(upload());
        world.unsigned = Some((reason, "STS said no".into()));
        let until = world.reconcile();
        assert_eq!(ready(world.grant()), verdict);
        assert_eq!(until, next, "{verdict}");
        assert_eq!(world.notices, [reason], "exactly one event is sent");
        assert!(world.secret.is_none() && world.keys.is_empty());
        world.unsigned = None;
        world.now = at(1);
        world.reconcile();
        assert_eq!(ready(world.grant()), "Issued");
    }
}

#[test]
fn polls_run_exactly_at_their_scheduled_times() {
    let mut world = issued(upload());
    for second in [2, 6, 14, 30, 62, 122, 182, 242] {
        assert_eq!(until(&world), Some(at(second)));
        assert_eq!(
            steps(&mut world, around(at(second))),
            ["rest", "poll", "poll"],
            "{second}"
        );
        world.now = at(second);
        world.reconcile();
    }
    assert_eq!(until(&world), Some(at(300)), "the expiry is before the next poll");
}

#[test]
fn credential_expires_five_seconds_before_store_credentials() {
    let ends = |end: Timestamp| {
        let mut world = world(download());
        world.usable(|s: &mut StoreView| s.credentials_expire = Some(end));
        match world.next() {
            Step::Publish(p) => Some(p.request.lifetime.expires_at),
            Step::Report { status, .. } => {
                assert_eq!(
                    status.conditions.iter().find(|c| c.type_ == "Ready").unwrap().reason,
                    "CredentialsExpired"
                );
                None
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(around(at(6)).map(ends), [None, Some(at(1)), Some(at(1))]);
    assert_eq!(around(at(305)).map(ends), [Some(at(299)), Some(at(300)), Some(at(300))]);
}

#[test]
fn retry_pause_doubles_up_to_one_minute() {
    let mut world = world(upload());
    world.store = StoreFact::Missing;
    world.reconcile();
    for (after, pause) in [
        (0, 1_000),
        (1, 1_000),
        (999, 1_000),
        (1_000, 1_000),
        (1_001, 1_001),
        (8_000, 8_000),
        (59_999, 59_999),
        (60_000, 60_000),
        (60_001, 60_000),
        (86_400_000, 60_000),
    ] {
        world.now = at(0) + SignedDuration::from_millis(after);
        let next = world.now + SignedDuration::from_millis(pause);
        assert_eq!(until(&world), Some(next), "after {after} ms");
    }
    // A clock that was set back does not shorten the pause.
    world.now = at(-1000);
    assert_eq!(until(&world), Some(at(-999)));
}

/// A refused grant is not retried. It waits for a change of the grant or the store.
#[test]
fn refused_grant_is_not_retried() {
    let mut world = World::new(upload(), store([]));
    world.reconcile();
    for second in [0, 1, 60, 3600, 86_400] {
        world.now = at(second);
        assert_eq!(until(&world), None);
    }
}

#[test]
fn extreme_times_cause_no_panic() {
    for grant in [upload(), download()] {
        for now in [Timestamp::MIN, Timestamp::from_second(0).unwrap(), Timestamp::MAX] {
            for deadline in [Timestamp::MIN, Timestamp::MAX] {
                let mut world = world(grant.clone());
                world.forged = true;
                world.now = now;
                world.grant.as_mut().unwrap().terms.deadline_time = Some(Time(deadline));
                world.grant.as_mut().unwrap().status = GrantStatus {
                    issued_time: Some(Time(deadline)),
                    expiration_time: Some(Time(Timestamp::MAX)),
                    finished_time: Some(Time(deadline)),
                    ..GrantStatus::default()
                };
                let _ = world.next();
            }
        }
    }
}
