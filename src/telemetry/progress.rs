//! Records when reconciles end. With this record, the liveness probe detects an operator whose reconciles no longer
//! end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

/// The operator counts as stalled if reconciles are due or running, but no reconcile has ended for 60 seconds.
/// Normally every reconcile ends within 25 seconds.
pub const STALLED_AFTER: Duration = Duration::from_secs(60);

/// The number of running reconciles, and the time when the last reconcile ended.
#[derive(Debug)]
pub struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    under_way: usize,
    /// This is true if a reconcile was enqueued and no reconcile has ended since then.
    is_due: bool,
    /// The start of the period [`STALLED_AFTER`]. The period starts again when a reconcile ends. It also starts again
    /// when a reconcile becomes due or starts while no other reconcile is due or running.
    since: Instant,
    last: Option<Timestamp>,
}

/// A running reconcile. When this value is dropped, the reconcile counts as ended.
#[derive(Debug)]
pub struct UnderWay(Arc<Progress>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.under_way = state.under_way.saturating_sub(1);
        drop(state);
        self.0.ended(Instant::now());
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self(Mutex::new(State {
            under_way: 0,
            is_due: false,
            since: Instant::now(),
            last: None,
        }))
    }
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a reconcile was enqueued.
    pub fn due(&self) {
        self.lock().with_work(Instant::now()).is_due = true;
    }

    /// Records the start of a reconcile.
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.lock().with_work(Instant::now()).under_way += 1;
        UnderWay(self.clone())
    }

    /// Records that a reconcile has ended or was not necessary.
    pub fn ended(&self, now: Instant) {
        let mut state = self.lock();
        state.is_due = false;
        state.since = now;
        state.last = Some(Timestamp::now());
    }

    /// Returns true if reconciles are due or running, but no reconcile has ended for the time [`STALLED_AFTER`].
    pub fn is_stalled(&self, now: Instant) -> bool {
        let state = self.lock();
        state.has_work() && now.saturating_duration_since(state.since) > STALLED_AFTER
    }

    /// Returns the time when the last reconcile ended.
    pub fn last_ended(&self) -> Option<Timestamp> {
        self.lock().last
    }
}

impl State {
    fn has_work(&self) -> bool {
        self.is_due || self.under_way > 0
    }

    /// Call this method before a reconcile becomes due or starts. If no other reconcile is due or running, the time for
    /// [`STALLED_AFTER`] starts at `now`.
    fn with_work(&mut self, now: Instant) -> &mut Self {
        if !self.has_work() {
            self.since = now;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operator_is_stalled_if_no_reconcile_ends_for_a_minute() {
        let progress = Arc::new(Progress::default());
        let stalled_in = |seconds: u64| progress.is_stalled(Instant::now() + Duration::from_secs(seconds));
        assert!(!stalled_in(3600), "an idle operator is not stalled");
        let (first, second) = (progress.begin(), progress.begin());
        assert!(!stalled_in(59) && stalled_in(61));
        // Two reconciles are running, and one of them ends. After that, the operator counts as stalled only if no
        // reconcile ends for one more minute.
        progress.ended(Instant::now() + Duration::from_secs(40));
        assert!(!stalled_in(99) && stalled_in(101));
        drop((first, second));
        assert!(!stalled_in(3600) && progress.last_ended().is_some());
    }

    #[test]
    fn operator_is_stalled_if_a_due_reconcile_does_not_begin() {
        let progress = Arc::new(Progress::default());
        let stalled_in = |seconds: u64| progress.is_stalled(Instant::now() + Duration::from_secs(seconds));
        progress.due();
        assert!(!stalled_in(59) && stalled_in(61));
        drop(progress.begin());
        assert!(!stalled_in(3600));
    }
}
