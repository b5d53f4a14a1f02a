//! Tests of statuses and Secrets that another client forged. Valet ignores and corrects records without a valid
//! record signature. No forged record leads to a credential that is longer than the spec asks, that expires after the
//! deadline or the store's session, or that the access rules refuse; `checks::signs` checks this for every issued
//! credential. `records` tests what a forger can still gain.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use valet::{
    api::{Binding, GrantStatus, annotation},
    core::{GrantFacts, Owner, Step},
};

use crate::{
    checks::{condition, ready},
    common::{Dice, TICK, at, download, rule, store, upload},
    world::World,
};

fn says(type_: &str, status: &str, reason: &str) -> Condition {
    Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message: "so somebody says".into(),
        observed_generation: Some(1),
        last_transition_time: Time(at(0)),
    }
}

/// The current time in these tests. The forgery happened before it.
const NOON: i64 = 1000;

fn world(grant: GrantFacts) -> World {
    let mut world = World::new(grant, store([rule()]));
    world.forged = true;
    world.now = at(NOON);
    world
}

/// Runs the operator for some time. The Secret is deleted now and then, so that Valet signs credentials again.
fn play_on(world: &mut World) {
    let mut wake = world.reconcile();
    for _ in 0..3 {
        world.delete_secret();
        wake = world.reconcile();
        if let Some(next) = wake.filter(|t| *t < at(100_000)) {
            world.now = next;
        } else {
            world.now += SignedDuration::from_secs(40);
        }
        wake = world.reconcile().or(wake);
    }
    let _ = wake;
}

#[test]
fn forged_status_never_leads_to_a_credential_beyond_the_limits() {
    let second = |s: i64| Some(at(NOON + s));
    let instants = [
        None,
        Some("0001-01-01T00:00:00Z".parse().unwrap()),
        second(-604_800),
        second(-200),
        Some(at(NOON) - TICK),
        second(0),
        Some(at(NOON) + TICK),
        second(60),
        second(300),
        second(301),
        second(604_800),
        Some(Timestamp::MAX),
    ];
    let mut keys = 0;
    for issued in instants {
        for expires in instants {
            for generation in [None, Some(1), Some(99)] {
                for (deadline, credentials) in
                    [(None, None), (Some(at(NOON + 100)), None), (None, Some(at(NOON + 105)))]
                {
                    for grant in [upload(), download()] {
                        let mut world = world(grant);
                        let grant = world.grant.as_mut().unwrap();
                        grant.terms.deadline_time = deadline.map(Time);
                        grant.status = GrantStatus {
                            observed_generation: generation,
                            issued_time: issued.map(Time),
                            expiration_time: expires.map(Time),
                            binding: Some(Binding {
                                name: "elsewhere".into(),
                                expiration_time: expires.map(Time),
                            }),
                            conditions: vec![says("Ready", "True", "Issued"), says("Active", "True", "Issued")],
                            ..GrantStatus::default()
                        };
                        world.usable(|s| s.credentials_expire = credentials);
                        play_on(&mut world);
                        keys += world.keys.len();
                    }
                }
            }
        }
    }
    assert!(
        keys > 1000,
        "only {keys} credentials were signed, so the test may check nothing"
    );
}

/// Valet re-signs with the recorded lifetime only if the record is authentic and fits the spec. It ignores any other
/// record.
#[test]
fn only_an_authentic_record_that_fits_the_spec_is_reused() {
    let mut dice = Dice::new(7);
    for n in 0..1000 {
        let mut world = world(download());
        let issued = at(NOON + dice.below(500) as i64 - 400);
        let seconds = if n % 2 == 0 { 300 } else { dice.below(800) as i64 };
        let fits = seconds == 300;
        let expires = issued + SignedDuration::from_secs(seconds);
        world.grant.as_mut().unwrap().status = GrantStatus {
            observed_generation: Some(1),
            issued_time: Some(Time(issued)),
            expiration_time: Some(Time(expires)),
            ..GrantStatus::default()
        };
        let is_own = n % 3 != 0;
        if is_own {
            world.sign_status();
        }
        world.reconcile();
        let said = format!("recorded from {issued} to {expires}, by Valet: {is_own}");
        if is_own && expires <= at(NOON) {
            assert!(world.keys.is_empty(), "{said}");
            continue;
        }
        let key = world.keys[0];
        if is_own && fits && issued <= at(NOON) {
            assert_eq!((key.issued_at, key.expires_at), (issued, expires), "{said}");
        } else {
            assert_eq!(key.issued_at, at(NOON), "{said}");
        }
    }
}

#[test]
fn invalid_finished_status_is_corrected() {
    for reason in [
        "Issued",
        "Bogus",
        "",
        "NamespaceNotAllowed",
        "StoreUnreachable",
        "completed",
    ] {
        for finished in [at(-1_000_000), at(NOON), at(1_000_000)] {
            let mut world = world(download());
            world.grant.as_mut().unwrap().status = GrantStatus {
                observed_generation: Some(1),
                finished_time: Some(Time(finished)),
                conditions: vec![says("Ready", "True", reason)],
                ..GrantStatus::default()
            };
            world.reconcile();
            assert_eq!(ready(world.grant()), "Issued", "'{reason}' at {finished}");
            assert!(world.grant().status.finished_time.is_none());
        }
    }
}

/// Valet ignores a forged status that claims a finished grant.
#[test]
fn forged_finished_status_is_corrected_and_the_secret_stays() {
    for reason in [
        "Completed",
        "ObjectExists",
        "Expired",
        "ExpiredUnused",
        "ObjectMismatch",
        "Revoked",
    ] {
        for (issued, restarted) in [(false, false), (true, false), (true, true)] {
            let mut world = world(upload());
            if issued {
                world.reconcile();
            }
            if restarted {
                world.forget();
            }
            let status = &mut world.grant.as_mut().unwrap().status;
            status.finished_time = Some(Time(at(NOON)));
            status.conditions = vec![says("Ready", "True", reason), says("Completed", "True", reason)];
            world.reconcile();
            assert!(world.secret.is_some(), "{reason}");
            assert_eq!(world.keys.len(), 1, "{reason}");
            assert_eq!(ready(world.grant()), "Issued", "{reason}");
            let completed = condition(&world.grant().status, "Completed").unwrap();
            assert_eq!(completed.status, "False", "{reason}");
            assert!(world.grant().status.finished_time.is_none(), "{reason}");
        }
    }
}

#[test]
fn forged_issued_status_is_ignored_if_there_is_no_secret() {
    let mut world = world(download());
    world.store = valet::core::StoreFact::Missing;
    world.grant.as_mut().unwrap().status = GrantStatus {
        observed_generation: Some(1),
        issued_time: Some(Time(at(NOON - 10))),
        expiration_time: Some(Time(at(NOON + 200))),
        binding: Some(Binding {
            name: "avatar-42".into(),
            expiration_time: Some(Time(at(NOON + 200))),
        }),
        conditions: vec![says("Ready", "True", "Issued"), says("Active", "True", "Issued")],
        ..GrantStatus::default()
    };
    world.reconcile();
    let status = &world.grant().status;
    assert_eq!(ready(world.grant()), "StoreNotFound");
    assert_eq!(condition(status, "Active").unwrap().status, "False");
    assert!(status.binding.is_none());
}

/// If a part of the status was removed, one write restores it.
#[test]
fn missing_expiry_in_status_binding_is_restored() {
    let mut world = world(download());
    world.reconcile();
    let whole = world.grant().status.clone();
    let binding = world.grant.as_mut().unwrap().status.binding.as_mut();
    binding.expect("the credential is issued").expiration_time = None;
    world.now += SignedDuration::from_secs(1);
    world.reconcile();
    assert_eq!(world.grant().status, whole);
    assert_eq!(world.keys.len(), 1, "nothing is signed for the correction");
}

/// Valet keeps conditions whose type is not its own.
#[test]
fn conditions_of_other_controllers_are_kept() {
    let mut world = world(download());
    let theirs = says("example.com/Approved", "True", "ByHand");
    world.grant.as_mut().unwrap().status.conditions = vec![theirs.clone()];
    world.reconcile();
    world.now = at(NOON + 300);
    world.reconcile();
    assert_eq!(ready(world.grant()), "Expired");
    assert_eq!(condition(&world.grant().status, "example.com/Approved"), Some(&theirs));
}

/// A user who can edit the Secret can write any annotations, and Valet copies them into the status. A credential that
/// is signed again from such a status still respects the limits.
#[test]
fn forged_annotation_never_leads_to_credential_beyond_the_limits() {
    let values = [
        "",
        "soon",
        "9999-12-30T00:00:00Z",
        "-009999-01-02T01:59:59Z",
        "2027-01-15T08:16:40Z",
        "2027-01-22T08:00:00Z",
        "2027-01-15T08:20:00.999999999Z",
        "0",
        "-1",
        "604800",
        "9223372036854775807",
    ];
    let keys = [
        annotation::ISSUED_AT,
        annotation::EXPIRES_AT,
        annotation::GRANT_GENERATION,
        annotation::EXPIRATION_SECONDS,
        annotation::GRANT_UID,
    ];
    let mut dice = Dice::new(11);
    for n in 0..3000 {
        let mut world = world(if n % 2 == 0 { upload() } else { download() });
        world.grant.as_mut().unwrap().terms.deadline_time = Some(Time(at(NOON + 2000)));
        world.reconcile();
        for _ in 0..3 {
            world.edit_secret(|s| {
                for _ in 0..2 {
                    s.annotations
                        .insert((*dice.pick(&keys)).into(), (*dice.pick(&values)).into());
                }
                if dice.one_in(4) {
                    s.annotations.remove(*dice.pick(&keys));
                }
            });
            world.reconcile();
            if dice.one_in(2) {
                world.delete_secret();
                world.reconcile();
            }
            if dice.one_in(3) {
                world.edit(|g| g.terms.expiration_seconds = 60 + dice.below(600) as i64);
            }
            world.now += SignedDuration::from_secs(dice.below(200) as i64);
            world.reconcile();
        }
    }
}

/// Valet never writes to a Secret that is not fully the grant's own, whatever the status claims.
#[test]
fn foreign_secret_is_never_changed_whatever_the_status_claims() {
    for owner in [
        Owner::Foreign("its type is Opaque"),
        Owner::Foreign("it has no label"),
        Owner::Foreign("it has no owner"),
        Owner::Foreign("its owner is another grant"),
        Owner::Foreign("its grant-uid says otherwise"),
        Owner::Predecessor,
    ] {
        for deleting in [false, true] {
            for reason in ["Issued", "Completed", "KeyNotAllowed"] {
                let mut world = world(upload());
                world.plant(owner.clone());
                world.edit_secret(|s| {
                    s.deleting = deleting;
                    s.annotations.insert(annotation::ISSUED_AT.into(), at(0).to_string());
                    s.annotations.insert(annotation::EXPIRES_AT.into(), at(10).to_string());
                    s.annotations.insert(annotation::GRANT_UID.into(), upload().uid);
                });
                let planted = world.secret.as_ref().unwrap().view.clone();
                let status = &mut world.grant.as_mut().unwrap().status;
                *status = GrantStatus {
                    observed_generation: Some(1),
                    issued_time: Some(Time(at(NOON - 10))),
                    expiration_time: Some(Time(at(NOON + 10))),
                    finished_time: (reason == "Completed").then_some(Time(at(NOON))),
                    conditions: vec![says("Ready", "True", reason)],
                    ..GrantStatus::default()
                };
                for second in [0, 5, 10, 100, 4000] {
                    world.now = at(NOON + second);
                    world.reconcile();
                    if let Some(secret) = &world.secret {
                        assert_eq!(secret.view, planted, "{owner:?}, {reason}");
                    }
                }
                assert_eq!(world.counts.creates + world.counts.replaces, 0);
                assert_eq!(world.counts.withdraws + world.counts.retouches, 0);
                assert!(world.secret.is_some());
            }
        }
    }
}

/// A clock that is set back does not lead to a longer credential: the re-issued credential counts from the current
/// time.
#[test]
fn clock_set_back_does_not_extend_a_credential() {
    let mut world = world(download());
    world.reconcile();
    world.delete_secret();
    world.now = at(NOON - 500);
    world.reconcile();
    let again = world.keys.last().unwrap();
    assert_eq!((again.issued_at, again.expires_at), (at(NOON - 500), at(NOON - 200)));
    assert!(matches!(world.next(), Step::Rest { until: Some(_) }));
}
