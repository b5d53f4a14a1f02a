//! Tests of decisions with a remembered Secret: which steps Valet executes without reading the Secret.

use jiff::{SignedDuration, Timestamp};
use valet::core::{Facts, ObjectFact, Read, SecretFact, SecretState, Signer, Step, decide};

use crate::{
    checks::ready,
    common::{around, at, download, rule, store, upload},
    world::{Memory, World},
};

const RESYNC: SignedDuration = SignedDuration::from_mins(10);

/// Creates a simulated world in which the credential was issued at the start and the status was written. The
/// credential expires after 300 seconds.
fn issued(grant: valet::core::GrantFacts) -> World {
    let mut world = World::new(grant, store([rule()]));
    world.memory = Memory::Secret;
    world.reconcile();
    assert_eq!(ready(world.grant()), "Issued");
    world
}

/// Returns the facts of a reconcile that has not read the Secret.
fn facts(world: &World) -> Facts {
    let mut facts = world.facts();
    facts.secret = SecretFact::Unread;
    facts.remembered_secret = world
        .secret_state
        .clone()
        .remembered(&world.grant().uid, RESYNC, world.now);
    facts
}

fn next(world: &World) -> Step {
    decide(&facts(world), world.now)
}

/// From `since` on the store signs with other credentials.
fn rotate(world: &mut World, since: Timestamp) {
    let fingerprint = "second".to_owned();
    world.usable(|store| store.signer = Some(Signer { fingerprint, since }));
}

fn is_read_of_secret(step: &Step) -> bool {
    *step == Step::Read(Read::Secret)
}

#[test]
fn valet_rests_and_polls_without_reading_the_secret() {
    let mut world = issued(upload());
    world.now = at(1);
    assert!(matches!(next(&world), Step::Rest { until: Some(until) } if until == at(2)));
    world.now = at(2);
    assert!(matches!(next(&world), Step::Read(Read::Object(_))));
    let mut facts = facts(&world);
    facts.object = ObjectFact::Absent;
    facts.last_poll = Some(at(2));
    assert!(matches!(decide(&facts, at(2)), Step::Rest { until: Some(until) } if until == at(6)));
}

#[test]
fn secret_is_read_exactly_at_the_end_of_the_resync_interval() {
    let mut grant = download();
    grant.terms.expiration_seconds = 3600;
    let mut world = issued(grant);
    let steps = around(at(600)).map(|now| {
        world.now = now;
        is_read_of_secret(&next(&world))
    });
    assert_eq!(steps, [false, true, true]);
    world.now = at(1);
    assert!(matches!(next(&world), Step::Rest { until: Some(until) } if until == at(600)));
}

#[test]
fn expired_secret_is_deleted_without_a_read() {
    let mut world = issued(download());
    let version = world.secret.as_ref().unwrap().view.clone();
    let steps = around(at(300)).map(|now| {
        world.now = now;
        next(&world)
    });
    assert!(matches!(steps[0], Step::Rest { .. }));
    for step in &steps[1..] {
        let expected = Step::DeleteSecret {
            uid: version.uid.clone(),
            resource_version: version.resource_version.clone(),
        };
        assert_eq!(*step, expected);
    }
}

/// A process that has just started knows no version of the Secret. It waits and polls, but does not delete.
#[test]
fn process_that_has_not_seen_the_secret_reads_it_before_the_deletion() {
    let mut world = issued(download());
    world.secret_state = SecretState::ReadAt {
        at: at(1000),
        since: at(0),
    };
    world.now = at(1);
    assert!(matches!(next(&world), Step::Rest { until: Some(until) } if until == at(300)));
    world.now = at(300);
    assert!(is_read_of_secret(&next(&world)));
}

#[test]
fn credential_that_the_status_does_not_describe_needs_a_read() {
    let mut world = issued(download());
    // The Secret has a new credential, and the write of the status failed.
    let SecretState::Seen { version, .. } = &mut world.secret_state else {
        panic!("{:?}", world.secret_state);
    };
    version.expires_at = Some(at(400));
    world.now = at(1);
    assert!(is_read_of_secret(&next(&world)));
}

#[test]
fn status_of_another_client_needs_a_read() {
    let mut world = issued(download());
    world.edit(|grant| grant.status.expiration_time = None);
    world.now = at(1);
    assert!(is_read_of_secret(&next(&world)));
}

#[test]
fn new_spec_needs_a_read() {
    let mut world = issued(download());
    world.now = at(1);
    world.edit(|grant| {
        grant.generation += 1;
        grant.terms.expiration_seconds = 200;
    });
    assert!(is_read_of_secret(&next(&world)));
}

/// Re-signing is spread over two minutes. Until it is due, Valet does not read the Secret.
#[test]
fn secret_is_read_when_its_re_signing_is_due() {
    let mut world = issued(download());
    rotate(&mut world, at(10));
    world.now = at(10);
    let Step::Rest { until: Some(due) } = next(&world) else {
        panic!("{:?}", next(&world));
    };
    assert!((at(10)..at(130)).contains(&due), "{due}");
    let steps = around(due).map(|now| {
        world.now = now;
        is_read_of_secret(&next(&world))
    });
    assert_eq!(steps, [false, true, true]);
}

/// A process that has not seen the Secret does not know which credentials of the store signed its content.
#[test]
fn process_that_has_not_seen_the_secret_reads_it_after_a_rotation() {
    for (since, is_read) in [(at(5), false), (at(6), true)] {
        let mut world = issued(download());
        world.secret_state = SecretState::ReadAt {
            at: at(200),
            since: at(5),
        };
        rotate(&mut world, since);
        world.now = at(20);
        assert_eq!(is_read_of_secret(&next(&world)), is_read, "{since}");
    }
}

#[test]
fn clock_that_was_set_back_needs_a_read() {
    let mut world = issued(download());
    world.now = at(-1);
    assert!(is_read_of_secret(&next(&world)));
}
