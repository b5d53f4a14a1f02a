//! Records the time of the apiserver's last answer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The operator is not ready if the apiserver has not answered for 60 seconds. The operator sends a request at least
/// every 15 s, so it notices an outage in time.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// Records the time of the apiserver's last answer. Also records whether Valet has already logged an outage of the
/// apiserver.
#[derive(Clone, Debug)]
pub struct Contact(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    answered: Instant,
    /// The start of an outage of the apiserver that Valet has already logged.
    silent_since: Option<Instant>,
}

/// A change of the connection to the apiserver that must be logged.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// The apiserver has not answered for a minute.
    Lost,
    /// The apiserver answers again after an outage. The value is the duration of the outage.
    Back(Duration),
}

impl Contact {
    /// Creates the record. The time `now` counts as the first answer of the apiserver.
    pub fn new(now: Instant) -> Self {
        Self(Arc::new(Mutex::new(State {
            answered: now,
            silent_since: None,
        })))
    }

    fn with<T>(&self, read: impl FnOnce(&mut State) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records an answer of the apiserver.
    pub fn answered(&self, now: Instant) {
        self.with(|state| state.answered = state.answered.max(now));
    }

    /// Returns the time since the apiserver's last answer. Returns `None` if this time is so short that the operator
    /// counts as ready.
    pub fn time_without_answer(&self, now: Instant) -> Option<Duration> {
        let time_without_answer = self.with(|state| now.saturating_duration_since(state.answered));
        (time_without_answer >= LONGEST_SILENCE).then_some(time_without_answer)
    }

    /// Returns a change of the connection to the apiserver. Each change is returned only once.
    pub fn change(&self, now: Instant) -> Option<Change> {
        let is_silent = self.time_without_answer(now).is_some();
        self.with(|state| match (is_silent, state.silent_since) {
            (true, None) => {
                state.silent_since = Some(state.answered);
                Some(Change::Lost)
            }
            (false, Some(since)) => {
                state.silent_since = None;
                Some(Change::Back(state.answered.saturating_duration_since(since)))
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_apiserver_is_reported_once_and_its_return_once() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let contact = Contact::new(begin);
        assert_eq!(
            (contact.time_without_answer(at(59)), contact.change(at(59))),
            (None, None)
        );
        assert_eq!(contact.time_without_answer(at(60)), Some(Duration::from_secs(60)));
        assert_eq!(contact.change(at(60)), Some(Change::Lost));
        assert_eq!(contact.change(at(90)), None);
        contact.answered(at(95));
        assert_eq!(contact.time_without_answer(at(96)), None);
        assert_eq!(contact.change(at(96)), Some(Change::Back(Duration::from_secs(95))));
        assert_eq!(contact.change(at(97)), None);
    }
}
