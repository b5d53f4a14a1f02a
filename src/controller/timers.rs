//! Enqueues grants at given times.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The low bits of a [`TimerId`] contain a number, so that the timers of one millisecond differ.
const NUMBER_BITS: u32 = 20;
const NUMBERS: u64 = 1 << NUMBER_BITS;

/// The times at which the operator reconciles grants next.
///
/// The scheduler of kube-runtime has the same function. It needs about 600 bytes for each waiting grant, and this type needs
/// about 80 bytes.
pub struct Timers {
    /// The times in [`TimerId`] are relative to this time.
    began: Instant,
    waiting: Mutex<Waiting>,
    /// Wakes [`Timers::run`] if the first timer changes.
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    /// The namespace and the name of each waiting grant, separated by a slash.
    grants: BTreeMap<TimerId, Box<str>>,
    /// The number of the last timer.
    number: u64,
}

/// The timer of one grant. When the value is dropped, the timer stops.
pub struct Timer {
    timers: Arc<Timers>,
    id: TimerId,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.timers.lock().grants.remove(&self.id);
    }
}

/// The milliseconds from the start of the process to the end of a timer, and a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TimerId(NonZeroU64);

impl TimerId {
    fn new(milliseconds: u64, number: u64) -> Self {
        let time = milliseconds.min(u64::MAX >> NUMBER_BITS) << NUMBER_BITS;
        // A number is never zero.
        Self(NonZeroU64::new(time | number).unwrap_or(NonZeroU64::MIN))
    }

    fn milliseconds(self) -> u64 {
        self.0.get() >> NUMBER_BITS
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            waiting: Mutex::default(),
            changed: Notify::new(),
        }
    }
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a timer for a grant. The timer ends after the pause, and at most one millisecond later.
    pub fn start(self: &Arc<Self>, namespace: &str, name: &str, pause: Duration) -> Timer {
        let since_start = self.began.elapsed().saturating_add(pause);
        let milliseconds = u64::try_from(since_start.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let mut waiting = self.lock();
        // More than a million timers in one millisecond would need more than a million grants.
        let id = loop {
            waiting.number = waiting.number % (NUMBERS - 1) + 1;
            let id = TimerId::new(milliseconds, waiting.number);
            if !waiting.grants.contains_key(&id) {
                break id;
            }
        };
        let is_first = waiting.grants.first_key_value().is_none_or(|(first, _)| id < *first);
        waiting.grants.insert(id, format!("{namespace}/{name}").into());
        drop(waiting);
        if is_first {
            self.changed.notify_one();
        }
        Timer {
            timers: self.clone(),
            id,
        }
    }

    /// Calls `enqueue` with the namespace and the name of each grant whose timer ends. The future never resolves.
    pub async fn run(&self, enqueue: impl Fn(&str, &str)) {
        loop {
            while let Some(grant) = self.pop_ended() {
                if let Some((namespace, name)) = grant.split_once('/') {
                    enqueue(namespace, name);
                }
            }
            let first = self.lock().grants.first_key_value().map(|(id, _)| *id);
            match first.and_then(|first| self.began.checked_add(Duration::from_millis(first.milliseconds()))) {
                Some(end) => {
                    tokio::select! {
                        () = sleep_until(end) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    fn pop_ended(&self) -> Option<Box<str>> {
        let now = self.began.elapsed().as_millis();
        let mut waiting = self.lock();
        let first = waiting.grants.first_entry()?;
        (u128::from(first.key().milliseconds()) <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Enqueued = Arc<Mutex<Vec<(String, Duration)>>>;

    /// Starts `run`, and returns the timers and the list of enqueued grants, with the times since the start.
    fn timers() -> (Arc<Timers>, Enqueued) {
        let (timers, enqueued) = (Arc::new(Timers::default()), Enqueued::default());
        tokio::spawn({
            let (timers, enqueued, began) = (timers.clone(), enqueued.clone(), Instant::now());
            async move {
                let add = |namespace: &str, name: &str| {
                    let grant = format!("{namespace} {name}");
                    enqueued.lock().unwrap().push((grant, began.elapsed()));
                };
                timers.run(add).await;
            }
        });
        (timers, enqueued)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn grants_are_enqueued_in_the_order_of_their_times() {
        let (timers, enqueued) = timers();
        let _late = timers.start("web", "late", 600 * SECOND);
        tokio::time::sleep(SECOND).await;
        let _early = timers.start("web", "early", Duration::from_micros(2_000_500));
        let _other = timers.start("media", "early", Duration::from_micros(2_000_500));
        let stopped = timers.start("web", "stopped", 3 * SECOND);
        let _now = timers.start("web", "at once", Duration::ZERO);
        drop(stopped);
        tokio::time::sleep(700 * SECOND).await;
        let milliseconds: Vec<_> = enqueued
            .lock()
            .unwrap()
            .iter()
            .map(|(grant, time)| (grant.clone(), time.as_millis()))
            .collect();
        let expected = [
            ("web at once", 1000),
            ("web early", 3001),
            ("media early", 3001),
            ("web late", 600_000),
        ];
        assert_eq!(milliseconds, expected.map(|(grant, time)| (grant.to_owned(), time)));
        assert!(timers.lock().grants.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn timers_of_the_same_time_do_not_replace_each_other() {
        let (timers, enqueued) = timers();
        timers.lock().number = NUMBERS - 3;
        let mut started: Vec<_> = (0..5).map(|n| timers.start("web", &n.to_string(), SECOND)).collect();
        started.remove(0);
        // The number of the first timer is free again, and the numbers of the others are not.
        timers.lock().number = NUMBERS - 3;
        started.extend(["5", "6"].map(|name| timers.start("web", name, SECOND)));
        tokio::time::sleep(2 * SECOND).await;
        let mut grants: Vec<_> = enqueued
            .lock()
            .unwrap()
            .iter()
            .map(|(grant, _)| grant.clone())
            .collect();
        grants.sort();
        assert_eq!(grants, ["web 1", "web 2", "web 3", "web 4", "web 5", "web 6"]);
    }

    /// A pause can be as long as the lifetime of a credential, or as long as `--resync`.
    #[tokio::test(start_paused = true)]
    async fn longest_pause_does_not_overflow() {
        let (timers, enqueued) = timers();
        let _started = ["never", "now"].map(|name| {
            let pause = if name == "now" { Duration::ZERO } else { Duration::MAX };
            timers.start("web", name, pause)
        });
        tokio::time::sleep(SECOND).await;
        assert_eq!(enqueued.lock().unwrap().len(), 1);
    }
}
