//! Looks at the object: what they say in the status, how many there are, how long they are repeated.

use jiff::SignedDuration;
use valet::{
    api::Reason,
    grant::{LOOK_PATIENCE, Step, StoreFact},
};

use crate::{
    checks::{condition, ready},
    common::{around, at, rule, store, upload},
    lives::life,
    play::play,
    world::{Bucket, Memory, World},
};

fn completed(name: &str) -> (String, String, String) {
    let world = play(life(name), Memory::Grant, None, SignedDuration::ZERO);
    let c = condition(&world.grant().status, "Completed").expect("Completed");
    (c.status.clone(), c.reason.clone(), c.message.clone())
}

#[test]
fn completed_says_what_is_known() {
    for (name, status, reason, message) in [
        (
            "an upload that nobody makes",
            "False",
            "ExpiredUnused",
            "nothing was uploaded",
        ),
        (
            "an upload that arrives",
            "True",
            "Completed",
            "the upload of 48213 bytes is in the store; the key was withdrawn",
        ),
        (
            "a write-once upload of what is there already",
            "True",
            "ObjectExists",
            "the object is in the store, from before this grant; a write-once upload needs no key for it",
        ),
        (
            "a store that hides the object",
            "Unknown",
            "NotObservable",
            "the store's credentials do not permit to look (HEAD was refused)",
        ),
        (
            "a store that does not answer at the end, nor an hour later",
            "Unknown",
            "StoreUnreachable",
            "ClusterObjectStore media does not answer as it should: connection refused",
        ),
        (
            "a store that is deleted under a key, for good",
            "Unknown",
            "StoreNotFound",
            "the store was deleted",
        ),
        ("labels for the Secret are asked for", "", "", ""),
    ] {
        if status.is_empty() {
            let world = play(life(name), Memory::Grant, None, SignedDuration::ZERO);
            assert!(
                condition(&world.grant().status, "Completed").is_none(),
                "{name}: of a download"
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
fn the_object_stands_in_the_status_once_it_was_seen() {
    for (name, seen) in [
        ("an upload that arrives", true),
        ("a write-once upload of what is there already", true),
        ("an upload that nobody makes", false),
        ("a store that hides the object", false),
    ] {
        let world = play(life(name), Memory::Grant, None, SignedDuration::ZERO);
        let object = world.grant().status.object.as_ref();
        assert_eq!(object.map(|o| o.size), seen.then_some(Some(48_213)), "{name}");
    }
}

/// A key of five minutes costs nine looks on time, not one a second: at 2, 6, 14, 30, 62, 122, 182, 242 s and at
/// the end; and one before the key, since it is write-once.
#[test]
fn looks_are_few() {
    let mut world = World::new(upload(), store([rule()]));
    let mut looks = vec![];
    let mut wake = world.reconcile();
    looks.extend(world.last_look);
    while let Some(next) = wake.filter(|t| *t <= at(300)) {
        world.now = next;
        wake = world.reconcile();
        looks.extend(world.last_look.filter(|l| looks.last() != Some(l)));
    }
    let seconds: Vec<_> = looks.iter().map(|t| t.duration_since(at(0)).as_secs()).collect();
    assert_eq!(seconds, [0, 2, 6, 14, 30, 62, 122, 182, 242, 300]);
    // Only the first two and the last of these wrote a status: the key, nothing yet, nothing at all.
    assert_eq!(world.counts.reports, 2);
}

/// The last look is repeated for an hour after the key's end and not a moment longer.
#[test]
fn patience_with_a_silent_store_ends_after_an_hour() {
    let mut world = World::new(upload(), store([rule()]));
    world.reconcile();
    world.bucket = Bucket::Down;
    world.now = at(300);
    world.reconcile();
    assert_eq!(ready(world.grant()), "StoreUnreachable");
    let over = at(300) + LOOK_PATIENCE;
    for (now, reason) in around(over).into_iter().zip(["StoreUnreachable", "Expired", "Expired"]) {
        world.now = now;
        world.reconcile();
        assert_eq!(ready(world.grant()), reason, "{now}");
    }
}

/// A store that is slow to be usable gets the same patience.
#[test]
fn patience_with_an_unusable_store_ends_after_an_hour() {
    let mut world = World::new(upload(), store([rule()]));
    world.reconcile();
    world.store = StoreFact::Unusable {
        reason: Reason::CredentialsNotFound,
        message: "Secret media-keys does not exist".into(),
    };
    world.now = at(300);
    world.reconcile();
    let over = at(300) + LOOK_PATIENCE;
    for (now, reason) in around(over)
        .into_iter()
        .zip(["CredentialsNotFound", "Expired", "Expired"])
    {
        world.now = now;
        world.reconcile();
        assert_eq!(ready(world.grant()), reason, "{now}");
    }
}

/// A look that fails during a key's life says nothing and costs nothing.
#[test]
fn a_failed_look_changes_nothing() {
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
