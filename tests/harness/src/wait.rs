//! Functions that wait for a result with a timeout.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The minimum time between two calls.
const INTERVAL: Duration = Duration::from_millis(50);
/// The maximum time between two calls.
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);

/// Calls `look` until it returns a value, and returns this value. Returns `None` after `timeout`. Calls `look` at least
/// once, and once more after the timeout.
///
/// The pause between two calls is twice as long as the last call, but at least 50 ms and at most 1 s. A call of kubectl
/// takes 0.1 s of CPU time, so tests that wait would otherwise slow down all other tests.
pub fn poll<T>(timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + timeout;
    loop {
        let began = Instant::now();
        if let Some(found) = look() {
            return Some(found);
        }
        if began >= end {
            return None;
        }
        let pause = (began.elapsed() * 2).clamp(INTERVAL, LONGEST_INTERVAL);
        thread::sleep(pause.min(end.saturating_duration_since(Instant::now())));
    }
}

/// As [`poll`], for tests.
///
/// # Panics
/// Panics after `timeout`, with `what` and the duration in the message.
#[track_caller]
pub fn eventually<T>(timeout: Duration, what: &str, look: impl FnMut() -> Option<T>) -> T {
    match poll(timeout, look) {
        Some(found) => found,
        None => panic!("waited {} s in vain for {what}", timeout.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poll_ends_after_its_timeout() {
        let mut looks = 0;
        let found = poll(Duration::from_millis(120), || {
            looks += 1;
            None::<()>
        });
        assert_eq!(found, None);
        assert!(looks >= 2, "at the start and at the end");
        assert_eq!(poll(Duration::ZERO, || Some(1)), Some(1));
    }

    #[test]
    #[should_panic(expected = "waited 0 s in vain for Godot")]
    fn eventually_panics_with_its_description_after_the_timeout() {
        eventually(Duration::ZERO, "Godot", || None::<()>);
    }
}
