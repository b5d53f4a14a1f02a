//! Tests of clock skew between operator and store. Skew never finishes a grant for good, nothing is signed for a
//! wrong time, and the conditions name the skew.

use jiff::SignedDuration;
use valet::core::GrantFacts;

use crate::{
    checks::{condition, ready},
    common::{at, download, rule, store, upload},
    world::{Bucket, World},
};

/// Creates a simulated world in which a credential of 300 s was issued at the start and the status was written.
fn issued(grant: GrantFacts) -> World {
    let mut world = World::new(grant, store([rule()]));
    world.reconcile();
    assert_eq!(ready(world.grant()), "Issued");
    world
}

/// Sets the operator's clock to `ahead` seconds ahead of the store's, and reconciles.
fn step(world: &mut World, second: i64, ahead: i64) {
    world.now = at(second + ahead);
    world.usable(|s| s.skew = Some(SignedDuration::from_secs(-ahead)));
    world.reconcile();
}

fn is_finished(world: &World) -> bool {
    world.grant().status.finished_time.is_some()
}

#[test]
fn clock_step_forward_finishes_no_grant_for_good() {
    for (grant, bucket) in [
        (upload(), Bucket::Skewed),
        (upload(), Bucket::Empty),
        (upload(), Bucket::Hidden),
        (download(), Bucket::Empty),
    ] {
        for ahead in [300, 960, 1200] {
            let case = format!("{:?} {bucket:?} {ahead}", grant.operation_spec);
            let mut world = issued(grant.clone());
            world.bucket = bucket.clone();
            for second in [100, 160, 220, 299] {
                step(&mut world, second, ahead);
                assert!(!is_finished(&world), "{case}");
                assert_eq!(ready(world.grant()), "ClockSkewed", "{case}");
            }
            // The clock is right again before the expiry: the lifetime is unchanged.
            world.bucket = Bucket::Empty;
            step(&mut world, 200, 0);
            assert_eq!(ready(world.grant()), "Issued", "{case}");
            // After the expiry by both clocks, the grant has expired.
            step(&mut world, 301, 0);
            assert!(is_finished(&world), "{case}");
        }
    }
}

/// The upload grant does not finish while the store refuses requests because of the skew, even after a long time.
#[test]
fn upload_does_not_finish_while_store_refuses_for_clock_skew() {
    let mut world = issued(upload());
    world.bucket = Bucket::Skewed;
    for second in [301, 5_000, 500_000] {
        step(&mut world, second, 1200);
        assert!(!is_finished(&world), "{second}");
    }
}

#[test]
fn poll_refused_for_clock_skew_is_reported_as_clock_skew() {
    let mut world = issued(upload());
    world.bucket = Bucket::Skewed;
    step(&mut world, 10, -1200);
    // The operator's clock decides when to poll.
    step(&mut world, 1300, -1200);
    assert_eq!(ready(world.grant()), "Issued");
    let completed = condition(&world.grant().status, "Completed").unwrap();
    assert_eq!(
        (completed.status.as_str(), completed.reason.as_str()),
        ("Unknown", "ClockSkewed")
    );
}

#[test]
fn nothing_is_signed_if_clock_skew_exceeds_the_tolerance() {
    for grant in [upload(), download()] {
        // For a credential of 300 s, the tolerance is a tenth of the lifetime and at least 30 s.
        for (ahead, is_signed) in [
            (0, true),
            (29, true),
            (-30, true),
            (31, false),
            (-90, false),
            (1200, false),
        ] {
            let mut world = World::new(grant.clone(), store([rule()]));
            step(&mut world, 0, ahead);
            let expected = if is_signed { "Issued" } else { "ClockSkewed" };
            assert_eq!(ready(world.grant()), expected, "{ahead}");
            assert_eq!(world.own_secret().is_some(), is_signed, "{ahead}");
            step(&mut world, 100, 0);
            assert_eq!(ready(world.grant()), "Issued", "{ahead}");
        }
    }
}
