//! Runs a life: starts a reconcile when a timer is due or an event happens, and returns the final state.

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

/// An event and its time in seconds from the start of the life.
pub type Event = (f64, fn(&mut World));

pub struct Life {
    pub name: &'static str,
    pub world: fn() -> World,
    pub events: &'static [Event],
    /// The end of the simulation, in seconds.
    pub until: i64,
    pub end: Expect,
}

/// The expected end of a life.
#[derive(Clone, Copy)]
pub struct Expect {
    /// The verdict of kstatus and the reason, or `gone`.
    pub state: &'static str,
    /// The lifetimes of the issued credentials, in seconds from the start.
    pub keys: &'static [(i64, i64)],
    /// The numbers of Secrets that were created, replaced and deleted.
    pub writes: [usize; 3],
    /// The reasons of the Kubernetes events that Valet published.
    pub notices: &'static [Reason],
}

/// The actual end of a life.
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
    /// The number of the grant's multipart uploads that are still open in the store.
    pub left: usize,
    /// True if Valet can list the multipart uploads at the end.
    pub can_list_uploads: bool,
}

impl End {
    /// Compares the end of a run with a crash and the end of the same run without a crash. The status and its Event are
    /// two writes. If the process crashes between these writes, one Event is lost or published twice.
    pub fn assert_is_after_crash(&self, whole: &Self) {
        let comparable = |end: &Self| Self {
            notices: vec![],
            left: 0,
            ..end.clone()
        };
        assert_eq!(comparable(self), comparable(whole));
        // A crash can leave an upload without parts that no record names. Valet finds the upload in the list of all
        // uploads, unless the store does not answer or the access rules no
        // longer allow the list.
        let unknown = usize::from(!whole.can_list_uploads);
        assert!(
            (whole.left..=whole.left + unknown).contains(&self.left),
            "{} uploads are left instead of {}",
            self.left,
            whole.left
        );
        let is_one_less =
            |less: &[Reason], more: &[Reason]| (0..more.len()).any(|n| less == [&more[..n], &more[n + 1..]].concat());
        let (crashed, whole) = (&self.notices, &whole.notices);
        assert!(
            crashed == whole || is_one_less(crashed, whole) || is_one_less(whole, crashed),
            "{crashed:?} instead of {whole:?}"
        );
    }
}

/// Runs the life to its end. Every timer fires `late` after its time.
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
            // No watch reports changes of the object or of the API server's answers, so only a watched change wakes
            // the operator.
            if world.watched() == before && timer.is_none_or(|t| t > world.now) {
                continue;
            }
        }
        wake = world.reconcile();
        awakenings += 1;
        assert!(awakenings < 2_000, "I13: the operator never stops reconciling");
    }
    assert!(events.peek().is_none(), "an event after the end of the life");
    world.now = end;
    world.crash = None;
    world.reconcile();
    // I8: the end state is stable. Three more resyncs write nothing.
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
        can_list_uploads: world.can_list_uploads(),
        left: world.uploads.iter().filter(|u| u.id != THEIRS).count(),
    }
}

impl Life {
    /// Compares the end with the expectation. Lifetimes are compared only if all timers were on time.
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
            "multipart uploads that are left in the store"
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

/// Runs the test for every life, and names the life that failed.
pub fn with_each(lives: impl Iterator<Item = &'static Life>, test: impl Fn(&Life)) {
    let failed: Vec<_> = lives
        .filter(|life| catch_unwind(AssertUnwindSafe(|| test(life))).is_err())
        .map(|life| life.name)
        .collect();
    assert!(failed.is_empty(), "these lives failed: {failed:#?}");
}
