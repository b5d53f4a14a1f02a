//! Plays a life: wakes the operator when it asked to be woken and when something happens, and says how it ended.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jiff::{SignedDuration, Timestamp};
use valet::{
    api::Reason,
    core::{Lifetime, Owner},
};

use crate::{
    checks::{condition, kstatus, ready},
    common::{START, at},
    world::{Counts, Memory, THEIRS, World},
};

/// Something happens, so many seconds into the life.
pub type Event = (f64, fn(&mut World));

pub struct Life {
    pub name: &'static str,
    pub world: fn() -> World,
    pub events: &'static [Event],
    /// When we stop watching, in seconds.
    pub until: i64,
    pub end: Expect,
}

/// What is known of a life's end beforehand.
#[derive(Clone, Copy)]
pub struct Expect {
    /// kstatus' verdict and the reason, or `gone`.
    pub state: &'static str,
    /// The keys that were published: from second to second.
    pub keys: &'static [(i64, i64)],
    /// Secrets that were created, replaced and withdrawn.
    pub writes: [usize; 3],
    /// The events that a person saw.
    pub notices: &'static [Reason],
}

/// How a life ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub state: String,
    pub active: String,
    pub completed: String,
    pub secret: Option<Owner>,
    pub keys: Vec<Lifetime>,
    pub creates: usize,
    pub replaces: usize,
    pub withdraws: usize,
    pub notices: Vec<Reason>,
    /// Uploads of the grant's that go on at the store.
    pub left: usize,
}

/// Plays the life to its end. The operator wakes that much later than it asked for.
pub fn play(life: &Life, memory: Memory, crash: Option<usize>, late: SignedDuration) -> World {
    let mut world = (life.world)();
    world.memory = memory;
    world.crash = crash;
    let end = at(life.until);
    let mut events = life.events.iter().peekable();
    let mut wake = world.reconcile();
    let mut awakenings = 0;
    loop {
        let event = events.peek().map(|(t, _)| instant(*t));
        let timer = wake.map(|t| t + late);
        let Some(next) = [event, timer].into_iter().flatten().min().filter(|t| *t <= end) else {
            break;
        };
        world.now = world.now.max(next);
        if event == Some(next) {
            let before = world.watched();
            (events.next().unwrap().1)(&mut world);
            // Nobody tells the operator of an object, nor that it would fare better now.
            if world.watched() == before && timer.is_none_or(|t| t > world.now) {
                continue;
            }
        }
        wake = world.reconcile();
        awakenings += 1;
        assert!(awakenings < 2_000, "I13: the operator does not sleep");
    }
    assert!(events.peek().is_none(), "an event after the end");
    world.now = end;
    world.crash = None;
    world.reconcile();
    // I8: stable. Three resyncs more, and not one write.
    let before = world.counts;
    for _ in 0..3 {
        world.reconcile();
    }
    assert_eq!(world.counts, before, "I8: writes without a cause");
    world
}

fn instant(seconds: f64) -> Timestamp {
    at(0) + SignedDuration::from_secs_f64(seconds)
}

pub fn end(world: &World) -> End {
    let says = |type_: &str| {
        world
            .grant
            .as_ref()
            .and_then(|g| condition(&g.status, type_))
            .map_or(String::new(), |c| format!("{} {}", c.status, c.reason))
    };
    let Counts {
        creates,
        replaces,
        withdraws,
        ..
    } = world.counts;
    End {
        state: world
            .grant
            .as_ref()
            .map_or("gone".into(), |g| format!("{} {}", kstatus(g), ready(g))),
        active: says("Active"),
        completed: says("Completed"),
        secret: world.secret.as_ref().map(|s| s.view.owner.clone()),
        keys: world.keys.clone(),
        creates,
        replaces,
        withdraws,
        notices: world.notices.clone(),
        left: world.uploads.iter().filter(|u| u.id != THEIRS).count(),
    }
}

impl Life {
    /// Holds the end against what is known beforehand; lifetimes only if nobody was late.
    pub fn expect(&self, world: &World, on_time: bool) {
        let end = end(world);
        assert_eq!(end.state, self.end.state);
        assert_eq!(
            [end.creates, end.replaces, end.withdraws],
            self.end.writes,
            "creates, replaces, withdraws"
        );
        assert_eq!(end.notices, self.end.notices);
        assert!(
            end.left == 0 || end.notices.contains(&Reason::PartsLeft),
            "left at the store"
        );
        assert_eq!(end.keys.len(), self.end.keys.len());
        if on_time {
            let seconds = |t: Timestamp| t.as_second() - START;
            let keys: Vec<_> = end
                .keys
                .iter()
                .map(|k| (seconds(k.issued_at), seconds(k.expires_at)))
                .collect();
            assert_eq!(keys, self.end.keys);
        }
    }
}

/// Does something with every life and says with which of them it failed.
pub fn with_each(lives: impl Iterator<Item = &'static Life>, test: impl Fn(&Life)) {
    let failed: Vec<_> = lives
        .filter(|life| catch_unwind(AssertUnwindSafe(|| test(life))).is_err())
        .map(|life| life.name)
        .collect();
    assert!(failed.is_empty(), "these lives went wrong: {failed:#?}");
}
