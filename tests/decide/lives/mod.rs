//! The table of lives. A life is a simulated sequence of events for one grant. Each life runs with a cold and a warm
//! cache, on time and late, and with a crash after every write. Every run must end in the same state, with the same
//! credentials and the same number of creates and deletes.

mod ordinary;
mod parts;
mod polling;
mod quota;
mod renewals;
mod renewed;
mod spec;
mod stores;
mod suspended;
mod total;

use jiff::SignedDuration;
use valet::{
    api::{Overwrite, Reason, Terms},
    core::{StoreFact, StoreView},
};

use crate::{
    common::{TICK, at, constrain, download, rule, store, upload},
    play::{Expect, Life, end, play, with_each},
    world::{Bucket, Memory, World},
};

fn uploading() -> World {
    World::new(upload(), store([rule()]))
}

fn downloading() -> World {
    World::new(download(), store([rule()]))
}

fn overwriting() -> World {
    let mut world = uploading();
    constrain(world.grant.as_mut().unwrap(), |c| c.overwrite = Overwrite::Allow);
    world
}

fn with(mut world: World, change: impl FnOnce(&mut World)) -> World {
    change(&mut world);
    world
}

fn unusable(reason: Reason) -> StoreFact {
    StoreFact::Unusable {
        reason,
        message: "it is not well".into(),
    }
}

fn good_store() -> StoreView {
    store([rule()])
}

const fn ends(
    state: &'static str,
    keys: &'static [(i64, i64)],
    writes: [usize; 3],
    notices: &'static [Reason],
) -> Expect {
    Expect {
        state,
        keys,
        writes,
        notices,
    }
}

fn terms(world: &mut World) -> &mut Terms {
    &mut world.grant.as_mut().unwrap().terms
}

fn old_object() -> Bucket {
    Bucket::Holds {
        since: at(-1000),
        says_when: true,
    }
}

pub fn all() -> impl Iterator<Item = &'static Life> {
    [
        ordinary::ORDINARY,
        spec::SPEC_AND_SECRET,
        stores::FOREIGN_SECRETS,
        stores::STORES,
        polling::POLLING,
        suspended::SUSPENDED,
        quota::QUOTA,
        renewals::RENEWALS,
        parts::PARTS,
        total::TOTAL,
    ]
    .into_iter()
    .flatten()
}

pub fn life(name: &str) -> &'static Life {
    all().find(|l| l.name == name).expect("there is no life with this name")
}
#[test]
fn every_simulated_grant_reaches_its_expected_end_state() {
    with_each(all(), |life| {
        for memory in [Memory::Grant, Memory::Caches, Memory::Secret] {
            for late in [SignedDuration::ZERO, TICK, SignedDuration::from_millis(999)] {
                eprintln!("{}: {memory:?}, reconciles run {late:?} late", life.name);
                life.expect(&play(life, memory, None, late), late.is_zero());
            }
        }
    });
}

#[test]
fn a_crash_at_any_step_changes_nothing() {
    let crashes = std::cell::Cell::new(0);
    with_each(all(), |life| {
        for memory in [Memory::Grant, Memory::Caches, Memory::Secret] {
            let whole = play(life, memory, None, SignedDuration::ZERO);
            // A crash after a read has the same result as a crash after the write before it.
            for n in &whole.writes {
                eprintln!("{}: {memory:?}, crash after effect {n}", life.name);
                let world = play(life, memory, Some(*n), SignedDuration::ZERO);
                end(&world).assert_is_after_crash(&end(&whole));
                crashes.set(crashes.get() + 1);
            }
        }
    });
    assert!(
        crashes.get() > 1000,
        "only {crashes:?} crashes, so the table may be incomplete"
    );
}
