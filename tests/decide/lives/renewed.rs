//! Tests of a single renewal: how many writes it takes and what the status says about it.

use jiff::SignedDuration;
use valet::api::Reason;

use super::{
    downloading, ends, old_object, overwriting,
    renewals::{always, until},
    uploading,
};
use crate::{
    checks::{condition, ready},
    common::at,
    play::{Life, play},
    world::{Bucket, Memory, World},
};

/// If the Secret cannot be replaced, the renewal waits until the old credential has expired. This life is not in the
/// table, because a crash changes the time of the retry.
#[test]
fn renewal_waits_for_expiry_if_secret_cannot_be_replaced() {
    let life = Life {
        name: "a Secret that cannot be replaced",
        world: || always(downloading()),
        events: &[(300.0, |w| w.refuses_replacement = true)],
        until: 700,
        end: ends(
            "Current Issued",
            &[(0, 600), (601, 1201)],
            [2, 0, 1],
            &[Reason::RenewalOverdue],
        ),
    };
    for memory in [Memory::Grant, Memory::Caches, Memory::Secret] {
        life.expect(&play(&life, memory, None, SignedDuration::ZERO), true);
    }
}

/// An operator that was down when the credential expired renews the credential first, with one write of the Secret.
#[test]
fn credential_that_expired_without_operator_is_renewed() {
    for (start, keys) in [(downloading as fn() -> World, 2), (overwriting, 2), (uploading, 2)] {
        let mut world = always(start());
        world.reconcile();
        world.now = at(10_000);
        world.reconcile();
        assert_eq!(ready(world.grant()), "Issued");
        assert_eq!(world.keys.len(), keys);
        let last = world.keys[1];
        assert_eq!((last.issued_at, last.expires_at), (at(10_000), at(10_600)));
        let counts = world.counts;
        assert_eq!((counts.creates, counts.replaces, counts.withdraws), (1, 1, 0));
    }
}

/// Each renewal writes the Secret once and the status once.
#[test]
fn renewal_writes_secret_and_status_once() {
    let mut world = always(downloading());
    let mut wake = world.reconcile();
    let mut reports = vec![world.counts.reports];
    for _ in 0..3 {
        world.now = wake.unwrap();
        wake = world.reconcile();
        reports.push(world.counts.reports);
    }
    assert_eq!(reports, [1, 2, 3, 4]);
    assert_eq!((world.counts.replaces, world.counts.retouches), (3, 0));
    assert_eq!(world.grant().status.renewals, Some(3));
}

/// The status shows the time of the next renewal and the number of renewals.
#[test]
fn status_shows_next_renewal_time_and_number_of_renewals() {
    let mut world = until(always(downloading()), 700);
    world.reconcile();
    let when = |world: &World| world.grant().status.renewal_time.as_ref().map(|t| t.0);
    assert_eq!((when(&world), world.grant().status.renewals), (Some(at(367)), None));
    world.request("2027-01-15T08:02:00.5Z");
    world.now = at(100);
    assert_eq!(world.reconcile(), Some(at(121)));
    assert_eq!(when(&world), Some(at(121)));
    world.now = at(121);
    world.reconcile();
    // Another renewal would gain less than a minute, so the status shows no renewal time.
    assert_eq!((when(&world), world.grant().status.renewals), (None, Some(1)));
    assert_eq!(world.reconcile(), Some(at(700)));
}

/// With `overwrite: Allow` and renewal, the condition `Completed` becomes true after an upload and the credential
/// stays.
#[test]
fn reusable_upload_credential_stays_after_an_upload() {
    let mut world = until(always(overwriting()), 3000);
    world.reconcile();
    world.put_object();
    world.now = at(2);
    world.reconcile();
    let says = |world: &World, type_: &str| {
        let c = condition(&world.grant().status, type_).unwrap();
        format!("{} {}", c.status, c.reason)
    };
    assert_eq!(says(&world, "Ready"), "True Issued");
    assert_eq!(says(&world, "Active"), "True Issued");
    assert_eq!(says(&world, "Completed"), "True Completed");
    assert!(world.grant().status.object.is_some());
    // `Completed` stays true if the object is deleted later or the store does not answer.
    for bucket in [Bucket::Empty, Bucket::Hidden, Bucket::Down, old_object()] {
        world.bucket = bucket;
        let reports = world.counts.reports;
        world.now += SignedDuration::from_secs(65);
        world.reconcile();
        assert_eq!(says(&world, "Completed"), "True Completed");
        assert_eq!(world.counts.reports, reports);
    }
}
