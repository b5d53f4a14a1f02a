//! Waiting for something, with an end.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Between two looks. Short against anything a person would notice, long against the cost of a look.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks every 50 ms until `look` has something to show, and returns that; `None` when `timeout` is over.
/// Looks at least once, and once more when the time is over.
pub fn poll<T>(timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + timeout;
    loop {
        let last = Instant::now() >= end;
        if let Some(found) = look() {
            return Some(found);
        }
        if last {
            return None;
        }
        thread::sleep(INTERVAL.min(end.saturating_duration_since(Instant::now())));
    }
}

/// As [`poll`], for tests.
///
/// # Panics
/// When `timeout` is over, naming `what` was waited for and how long.
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
    fn waiting_has_an_end() {
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
    fn and_says_what_for() {
        eventually(Duration::ZERO, "Godot", || None::<()>);
    }
}
