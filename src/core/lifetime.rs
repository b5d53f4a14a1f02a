use jiff::{SignedDuration, Timestamp};

/// The time for which Valet repeats the last poll. After an upload credential expired, Valet polls the store one last
/// time. If the store does not answer this last poll, Valet repeats it for at most one hour, which is longer than most
/// outages. After this hour, the grant finishes, even if Valet does not know whether the object was uploaded.
pub const POLL_PATIENCE: SignedDuration = SignedDuration::from_hours(1);

/// A grant's credential expires at least 5 seconds before the store's signing credentials, because clocks can differ.
const CREDENTIALS_MARGIN: SignedDuration = SignedDuration::from_secs(5);

/// The time between the issue of an upload credential and the first poll for the object.
const FIRST_POLL: SignedDuration = SignedDuration::from_secs(2);
/// The maximum pause before a retry. It is also the maximum pause between two polls in the first ten minutes.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(60);
/// The maximum pause between two polls for an object. Later than ten minutes after the issue, each pause is a tenth of
/// the time since the issue.
pub const LONGEST_OBJECT_PAUSE: SignedDuration = SignedDuration::from_mins(5);
/// The maximum pause between two polls for the parts of a multipart upload. The object exists only after Valet has found
/// all parts and has completed the upload, so this pause is shorter.
pub const LONGEST_PARTS_PAUSE: SignedDuration = LONGEST_PAUSE;

/// The times of additional polls, in seconds after a grant finished without an upload. Valet needs these polls,
/// because an upload that started before the credential expired can finish after the expiry.
///
/// Most uploads need less than one minute, and the last poll follows after 15 minutes. In 15 minutes, a client can
/// upload 5 GiB at 6 MB/s.
const LATE_POLLS: [i64; 3] = [60, 300, 900];

/// The start and the end of the time in which a credential is valid. Both times are whole seconds, because times in
/// signatures are whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The first second in which the credential works.
    pub issued_at: Timestamp,
    /// The first second in which the credential no longer works.
    pub expires_at: Timestamp,
}

/// The reason why Valet can issue no credential: a new credential would be valid for less than one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTime {
    /// The grant's deadline has passed.
    DeadlinePassed,
    /// The store's signing credentials expire too soon.
    CredentialsExpired(Timestamp),
}

/// Rounds a time down to the whole second.
pub fn second(t: Timestamp) -> Timestamp {
    // The function rounds up a time before 1970. This does not matter, because no grant has a deadline before 1970.
    Timestamp::from_second(t.as_second()).unwrap_or(t)
}

impl Lifetime {
    /// Computes the longest possible lifetime that starts at `now`. The lifetime ends at the earliest of three times:
    /// when the requested number of seconds has passed, at the deadline, and 5 s before the signing credentials
    /// expire.
    ///
    /// # Errors
    ///
    /// Returns [`NoTime`] if less than one second is left.
    pub fn new(
        now: Timestamp,
        expiration_seconds: i64,
        deadline: Option<Timestamp>,
        credentials_expire: Option<Timestamp>,
    ) -> Result<Self, NoTime> {
        let issued_at = second(now);
        let recorded_seconds = add(issued_at, SignedDuration::from_secs(expiration_seconds));
        if deadline.is_some_and(|d| second(d) <= issued_at) {
            return Err(NoTime::DeadlinePassed);
        }
        let session = credentials_expire.map(|t| (t, second(add(t, -CREDENTIALS_MARGIN))));
        if let Some((end, usable)) = session
            && usable <= issued_at
        {
            return Err(NoTime::CredentialsExpired(end));
        }
        let expires_at = [
            Some(recorded_seconds),
            deadline.map(second),
            session.map(|(_, usable)| usable),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(recorded_seconds);
        Ok(Self { issued_at, expires_at })
    }

    /// Returns the lifetime that an issued credential gets when Valet signs it again. `self` is the recorded lifetime
    /// of that credential. `fresh` is the lifetime that a new credential would have now.
    ///
    /// A client other than Valet may have changed the recorded lifetime. The result therefore never ends later than
    /// `fresh`.
    pub fn again(self, fresh: Self, expiration_seconds: i64) -> Self {
        let is_credible = self.issued_at <= fresh.issued_at && self.seconds() <= expiration_seconds;
        Self {
            issued_at: if is_credible { self.issued_at } else { fresh.issued_at },
            expires_at: self.expires_at.min(fresh.expires_at),
        }
    }

    /// Returns the length of the lifetime in seconds.
    pub fn seconds(&self) -> i64 {
        self.expires_at.as_second() - self.issued_at.as_second()
    }

    /// Returns true if the credential has expired at the time `now`. At exactly its expiry time, the credential has
    /// expired.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }

    /// Returns the time at which the user wants the credential to expire. This is the issue time plus the requested
    /// number of seconds, or the deadline if the deadline is earlier.
    pub fn requested_end(&self, expiration_seconds: i64, deadline: Option<Timestamp>) -> Timestamp {
        let recorded_seconds = add(self.issued_at, SignedDuration::from_secs(expiration_seconds));
        deadline.map_or(recorded_seconds, |d| recorded_seconds.min(second(d)))
    }

    /// Returns true if the credential expires earlier than the user requested, because the store's signing
    /// credentials expire.
    pub fn is_truncated(&self, expiration_seconds: i64, deadline: Option<Timestamp>) -> bool {
        self.expires_at < self.requested_end(expiration_seconds, deadline)
    }
}

/// Adds a duration to a timestamp. If the result is out of range, returns the largest or smallest timestamp.
pub fn add(t: Timestamp, d: SignedDuration) -> Timestamp {
    t.checked_add(d).unwrap_or(if d.is_negative() {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

/// Returns the time of the next poll for an upload. `last` is the time of the last poll. The first poll takes place 2
/// s after the credential was issued. The pauses between later polls double up to one minute. Ten minutes after the
/// issue, the pauses become longer again, up to `longest`.
///
/// The time of the next poll depends only on the issue time and the last poll. Valet therefore stores no poll times
/// in the API.
pub fn next_poll(issued_at: Timestamp, last: Option<Timestamp>, longest: SignedDuration) -> Timestamp {
    let mut pause = FIRST_POLL;
    let mut poll = add(issued_at, pause);
    let Some(last) = last else { return poll };
    while poll <= last && pause < longest {
        let by_age = SignedDuration::from_secs(poll.duration_since(issued_at).as_secs() / 10);
        pause = (pause * 2).min(LONGEST_PAUSE).max(by_age).min(longest);
        poll = add(poll, pause);
    }
    if poll <= last {
        let late = last.duration_since(poll).as_secs() / longest.as_secs() + 1;
        poll = add(poll, SignedDuration::from_secs(late * longest.as_secs()));
    }
    poll
}

/// Returns the time of the next additional poll after a grant finished without an upload. Additional polls are
/// necessary because an upload may have been in progress when the grant finished. Returns `None` after the last
/// additional poll, or if the grant finished at least one hour before `now`.
pub fn late_poll(finished: Timestamp, last: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    if add(finished, POLL_PATIENCE) <= now {
        return None;
    }
    let mut polls = LATE_POLLS
        .map(|s| add(finished, SignedDuration::from_secs(s)))
        .into_iter();
    polls.find(|poll| last.is_none_or(|last| last < *poll))
}

/// Returns the time of the next retry after a problem that started at `since`. The pause before the retry equals the
/// age of the problem, so each pause is about twice as long as the previous pause. The pause is at least 1 s and at
/// most one minute.
pub fn retry(since: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let age = since.map_or(SignedDuration::ZERO, |s| now.duration_since(s));
    add(now, age.clamp(SignedDuration::from_secs(1), LONGEST_PAUSE))
}

/// Computes an FNV-1a hash. The hash of a UID must never change between versions of Valet. Otherwise an upgrade of
/// Valet would move the times of renewals.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64, millis: i32) -> Timestamp {
        Timestamp::new(1_700_000_000 + second, millis * 1_000_000).unwrap()
    }

    #[test]
    fn lifetime_is_the_minimum_of_all_limits() {
        let of = |deadline, credentials| Lifetime::new(at(0, 900), 300, deadline, credentials).map(|l| l.seconds());
        assert_eq!(of(None, None), Ok(300));
        assert_eq!(of(Some(at(400, 0)), Some(at(500, 0))), Ok(300));
        assert_eq!(of(Some(at(200, 999)), Some(at(500, 0))), Ok(200));
        assert_eq!(of(Some(at(200, 0)), Some(at(100, 0))), Ok(95));
        assert_eq!(of(Some(at(1, 0)), None), Ok(1));
        assert_eq!(of(Some(at(0, 999)), None), Err(NoTime::DeadlinePassed));
        assert_eq!(of(Some(at(-1, 0)), None), Err(NoTime::DeadlinePassed));
        assert_eq!(of(None, Some(at(6, 0))), Ok(1));
        assert_eq!(of(None, Some(at(5, 999))), Err(NoTime::CredentialsExpired(at(5, 999))));
        assert_eq!(of(None, Some(at(-9, 0))), Err(NoTime::CredentialsExpired(at(-9, 0))));
    }

    #[test]
    fn lifetime_is_over_exactly_at_the_expiry() {
        let l = Lifetime::new(at(0, 0), 10, None, None).unwrap();
        assert!(!l.has_expired(Timestamp::new(1_700_000_009, 999_999_999).unwrap()));
        assert!(l.has_expired(at(10, 0)));
        assert!(l.has_expired(at(11, 0)));
    }

    #[test]
    fn lifetime_is_truncated_only_if_store_credentials_shorten_it() {
        let l = Lifetime::new(at(0, 0), 300, Some(at(200, 0)), None).unwrap();
        assert!(!l.is_truncated(300, Some(at(200, 0))));
        let l = Lifetime::new(at(0, 0), 300, Some(at(200, 0)), Some(at(100, 0))).unwrap();
        assert!(l.is_truncated(300, Some(at(200, 0))));
        assert!(
            !Lifetime::new(at(0, 0), 300, None, None)
                .unwrap()
                .is_truncated(300, None)
        );
    }

    #[test]
    fn poll_interval_doubles_up_to_one_minute_and_grows_again_after_ten_minutes() {
        let poll_after = |last: Option<Timestamp>| next_poll(at(0, 0), last, LONGEST_OBJECT_PAUSE);
        let mut polls = vec![poll_after(None)];
        for _ in 0..9 {
            polls.push(poll_after(polls.last().copied()));
        }
        let seconds: Vec<_> = polls.iter().map(|t| t.as_second() - 1_700_000_000).collect();
        assert_eq!(seconds, [2, 6, 14, 30, 62, 122, 182, 242, 302, 362]);
        for _ in 0..200 {
            polls.push(poll_after(polls.last().copied()));
        }
        for two in polls.windows(2) {
            let age = two[0].as_second() - 1_700_000_000;
            let pause = two[1].duration_since(two[0]).as_secs();
            assert!(
                age < 62 || pause == (age / 10).clamp(60, 300),
                "a pause of {pause} s after {age} s"
            );
        }
        // If a poll is late, the next poll follows after the usual pause. Valet does not send several polls in a
        // short time.
        let late = poll_after(Some(at(10_000, 500)));
        assert!(polls.contains(&late) && late > at(10_000, 500) && late <= at(10_301, 0));
        assert_eq!(poll_after(Some(at(61, 999))), at(62, 0));
        assert_eq!(poll_after(Some(at(62, 0))), at(122, 0));
        let for_parts = next_poll(at(0, 0), Some(at(10_000, 500)), LONGEST_PARTS_PAUSE);
        assert_eq!(for_parts, at(10_022, 0));
    }

    #[test]
    fn late_polls_run_three_times_within_one_hour() {
        let of = |last: Option<i64>, now| late_poll(at(0, 0), last.map(|l| at(l, 0)), at(now, 0));
        assert_eq!(of(Some(0), 0), Some(at(60, 0)));
        assert_eq!(of(Some(59), 59), Some(at(60, 0)));
        assert_eq!(of(Some(60), 60), Some(at(300, 0)));
        assert_eq!(of(Some(310), 310), Some(at(900, 0)));
        assert_eq!(of(Some(899), 899), Some(at(900, 0)));
        assert_eq!(of(Some(900), 900), None);
        // After a restart of the operator, Valet polls once and does not repeat the polls that it missed.
        assert_eq!(of(None, 2000), Some(at(60, 0)));
        assert_eq!(of(Some(2000), 2000), None);
        assert_eq!(of(None, 3599), Some(at(60, 0)));
        assert_eq!(of(None, 3600), None);
    }

    #[test]
    fn retry_pause_doubles_from_one_second_to_one_minute() {
        assert_eq!(retry(None, at(0, 0)), at(1, 0));
        assert_eq!(retry(Some(at(0, 0)), at(0, 500)), at(1, 500));
        assert_eq!(retry(Some(at(0, 0)), at(8, 0)), at(16, 0));
        assert_eq!(retry(Some(at(0, 0)), at(1000, 0)), at(1060, 0));
    }

    #[test]
    fn time_arithmetic_saturates_at_its_limits() {
        assert_eq!(add(Timestamp::MAX, SignedDuration::from_secs(1)), Timestamp::MAX);
        assert_eq!(add(Timestamp::MIN, SignedDuration::from_secs(-1)), Timestamp::MIN);
        assert!(Lifetime::new(at(0, 0), i64::MAX, None, None).is_ok());
    }
}
