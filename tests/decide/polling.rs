//! Tests of polling: what a poll changes in the status, how often Valet polls, and how long it repeats a failed poll.

use jiff::SignedDuration;
use valet::{
    api::{Overwrite, Reason},
    core::{POLL_PATIENCE, Read, Step, StoreFact},
};

use crate::{
    checks::{condition, ready},
    common::{around, at, constrain, rule, store, upload},
    lives::life,
    play::play,
    world::{Bucket, Memory, World},
};

fn completed(name: &str) -> (String, String, String) {
    let world = play(life(name), Memory::Grant, None, SignedDuration::ZERO);
    let c = condition(&world.grant().status, "Completed").expect("Completed");
    (c.status.clone(), c.reason.clone(), c.message.clone())
}

/// If the clock is set back, polling goes on and does not wait until the clock has caught up.
#[test]
fn clock_set_back_does_not_stop_polling() {
    let mut world = World::new(upload(), store([rule()]));
    world.reconcile();
    world.now = at(20);
    world.last_poll = Some(at(3600));
    assert!(matches!(world.next(), Step::Read(Read::Object(_))));
}

#[test]
fn completed_condition_has_expected_reason_for_each_outcome() {
    for (name, status, reason, message) in [
        (
            "an upload grant without an upload",
            "False",
            "ExpiredUnused",
            "nothing was uploaded",
        ),
        (
            "an upload that arrives",
            "True",
            "Completed",
            "the uploaded object of 48213 bytes is in the store; the Secret was deleted",
        ),
        (
            "a write-once upload for an existing object",
            "True",
            "ObjectExists",
            "the object already existed before this grant; a write-once upload cannot replace an existing object, \
             so Valet issues no credential",
        ),
        (
            "an object that does not match the grant, write-once",
            "False",
            "ObjectMismatch",
            "the object in the store does not match the grant: the object has 48213 bytes instead of 48212 bytes; \
             another client wrote this object without the grant's credential; find out which client wrote the \
             object, and create a new grant",
        ),
        (
            "an object that does not match the grant, which the credential may overwrite",
            "False",
            "ObjectMismatch",
            "the object in the store does not match the grant and was not uploaded with this credential: the object \
             has 48213 bytes instead of 48212 bytes",
        ),
        (
            "an object that does not match the grant and is deleted before the expiry",
            "False",
            "ExpiredUnused",
            "nothing was uploaded",
        ),
        (
            "a store that hides the object",
            "Unknown",
            "NotObservable",
            "the store's credentials are not allowed to read the object (the store refused a HEAD request)",
        ),
        (
            "a store that does not answer at the expiry or an hour later",
            "Unknown",
            "StoreUnreachable",
            "ClusterObjectStore media does not answer correctly: connection refused",
        ),
        (
            "a store that is deleted after the issue",
            "Unknown",
            "StoreNotFound",
            "the store was deleted",
        ),
        ("labels for the Secret are requested", "", "", ""),
    ] {
        if status.is_empty() {
            let world = play(life(name), Memory::Grant, None, SignedDuration::ZERO);
            assert!(
                condition(&world.grant().status, "Completed").is_none(),
                "{name}: the condition Completed of a download"
            );
            continue;
        }
        assert_eq!(
            completed(name),
            (status.into(), reason.into(), message.into()),
            "{name}"
        );
    }
}

#[test]
fn status_contains_the_object_only_after_a_poll_found_it() {
    for (name, seen) in [
        ("an upload that arrives", true),
        ("a write-once upload for an existing object", true),
        ("an upload grant without an upload", false),
        ("a store that hides the object", false),
    ] {
        let world = play(life(name), Memory::Grant, None, SignedDuration::ZERO);
        let object = world.grant().status.object.as_ref();
        assert_eq!(object.map(|o| o.size), seen.then_some(Some(48_213)), "{name}");
    }
}

/// A credential of five minutes leads to nine polls: at 2, 6, 14, 30, 62, 122, 182 and 242 s and at the expiry. A
/// write-once grant also polls once before it is issued.
#[test]
fn credential_of_five_minutes_causes_nine_polls_after_issue() {
    let mut world = World::new(upload(), store([rule()]));
    let mut polls = vec![];
    let mut wake = world.reconcile();
    polls.extend(world.last_poll);
    while let Some(next) = wake.filter(|t| *t <= at(300)) {
        world.now = next;
        wake = world.reconcile();
        polls.extend(world.last_poll.filter(|l| polls.last() != Some(l)));
    }
    let seconds: Vec<_> = polls.iter().map(|t| t.duration_since(at(0)).as_secs()).collect();
    assert_eq!(seconds, [0, 2, 6, 14, 30, 62, 122, 182, 242, 300]);
    // The status was written only twice in this time.
    assert_eq!(world.counts.reports, 2);
}

/// A notification leads to one poll at once and does not change the schedule of polls.
#[test]
fn notification_causes_one_poll_at_once() {
    for (announced, expected) in [
        (1.0, [0, 1, 2, 6, 14]),
        (7.0, [0, 2, 6, 7, 14]),
        (13.999, [0, 2, 6, 13, 14]),
    ] {
        let announced = at(0) + SignedDuration::from_secs_f64(announced);
        let mut world = World::new(upload(), store([rule()]));
        let mut wake = world.reconcile();
        let mut polls = vec![at(0)];
        while polls.len() < expected.len() {
            let timer = wake.expect("a timer is set");
            let is_due = world.now < announced && announced < timer;
            world.now = if is_due { announced } else { timer };
            world.heard = is_due;
            wake = world.reconcile();
            polls.extend(world.last_poll);
        }
        let seconds: Vec<_> = polls.iter().map(|t| t.duration_since(at(0)).as_secs()).collect();
        assert_eq!(seconds, expected);
    }
}

/// A notification for a DownloadGrant or for a finished grant leads to no poll.
#[test]
fn notification_for_download_or_finished_grant_causes_no_poll() {
    let mut world = World::new(crate::common::download(), store([rule()]));
    world.reconcile();
    world.notify();
    world.reconcile();
    assert_eq!(world.last_poll, None);
    let mut world = play(
        life("an upload that arrives"),
        Memory::Grant,
        None,
        SignedDuration::ZERO,
    );
    let before = (world.counts, world.last_poll);
    world.notify();
    world.reconcile();
    assert_eq!((world.counts, world.last_poll), before);
}

/// After a notification the upload is complete at once, not at the next scheduled poll (30 s).
#[test]
fn upload_completes_at_once_after_a_notification() {
    let world = play(
        life("an upload with a notification"),
        Memory::Grant,
        None,
        SignedDuration::ZERO,
    );
    let finished = world.grant().status.finished_time.as_ref().expect("it has finished").0;
    assert_eq!(finished.as_second(), at(20).as_second());
}

/// Valet repeats a failed last poll for one hour after the expiry, and then stops.
#[test]
fn failed_last_poll_is_repeated_for_one_hour() {
    let mut world = World::new(upload(), store([rule()]));
    world.reconcile();
    world.bucket = Bucket::Down;
    world.now = at(300);
    world.reconcile();
    assert_eq!(ready(world.grant()), "StoreUnreachable");
    let over = at(300) + POLL_PATIENCE;
    for (now, reason) in around(over).into_iter().zip(["StoreUnreachable", "Expired", "Expired"]) {
        world.now = now;
        world.reconcile();
        assert_eq!(ready(world.grant()), reason, "{now}");
    }
}

/// Valet also waits one hour for a store that is not usable.
#[test]
fn last_poll_waits_one_hour_for_an_unusable_store() {
    let mut world = World::new(upload(), store([rule()]));
    world.reconcile();
    world.store = StoreFact::Unusable {
        reason: Reason::CredentialsNotFound,
        message: "Secret media-keys does not exist".into(),
    };
    world.now = at(300);
    world.reconcile();
    let over = at(300) + POLL_PATIENCE;
    for (now, reason) in around(over)
        .into_iter()
        .zip(["CredentialsNotFound", "Expired", "Expired"])
    {
        world.now = now;
        world.reconcile();
        assert_eq!(ready(world.grant()), reason, "{now}");
    }
}

/// A poll that fails while the credential is valid does not change the status.
#[test]
fn failed_poll_does_not_change_the_status() {
    let mut world = World::new(upload(), store([rule()]));
    world.reconcile();
    world.now = at(2);
    world.reconcile();
    world.bucket = Bucket::Down;
    let before = world.counts;
    for second in 3..250 {
        world.now = at(second);
        world.reconcile();
    }
    assert_eq!(world.counts, before);
    assert!(matches!(world.next(), Step::Read(_) | Step::Rest { until: Some(_) }));
}

/// Valet records a new credential in the status before it waits for a busy store. Otherwise Valet would issue another
/// credential if a client deleted the Secret in the meantime.
#[test]
fn new_credential_is_recorded_before_a_poll_of_a_busy_store() {
    let mut world = World::new(upload(), store([rule()]));
    constrain(world.grant.as_mut().unwrap(), |c| c.overwrite = Overwrite::Allow);
    world.notify();
    world.meddler = Some(Box::new(|w: &mut World| w.is_busy |= w.counts.creates == 1));
    world.reconcile();
    assert_eq!(world.grant().status.issued_time.as_ref().map(|t| t.0), Some(world.now));
    world.delete_secret();
    world.is_busy = false;
    world.meddler = None;
    world.now = at(5);
    world.reconcile();
    assert_eq!(world.keys.len(), 2);
    assert_eq!(world.keys[0], world.keys[1], "the credential must keep its lifetime");
}
