//! What the operator remembers about a grant Secret, so that it does not have to read the Secret in each reconcile.

use jiff::{SignedDuration, Timestamp};

use super::lifetime::hash;

/// What this process remembers about a grant Secret that it does not have to read again yet.
///
/// The status of the grant describes the credential in the Secret. Together with the status, this value replaces a read
/// of the Secret for decisions that only wait, poll the store or delete the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RememberedSecret {
    /// At this time, Valet reads the Secret again, because other clients can change or delete the Secret.
    pub read_at: Timestamp,
    /// The time at which this process last read or wrote the Secret. If this process has not seen the Secret yet, this is
    /// the time at which it first reconciled the grant.
    pub seen_at: Timestamp,
    /// The version of the Secret that this process last read or wrote. `None` if it has not seen the Secret yet.
    pub version: Option<SecretVersion>,
}

/// One version of a grant Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVersion {
    /// The `metadata.uid` of the Secret.
    pub uid: String,
    /// The `metadata.resourceVersion` of the Secret.
    pub resource_version: String,
    /// The time at which the credential in the Secret was signed.
    pub issued_at: Option<Timestamp>,
    /// The time at which the credential in the Secret expires.
    pub expires_at: Option<Timestamp>,
    /// The fingerprint of the store's credentials that signed the credential in the Secret.
    pub signed_with: Option<String>,
}

/// What this process knows about a grant Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SecretState {
    /// This process has not reconciled the grant yet.
    #[default]
    NotSeen,
    /// This process first reconciled the grant at the time `since`, and has not read the Secret yet. It reads the Secret
    /// at the time `at`.
    ReadAt { at: Timestamp, since: Timestamp },
    /// This process read or wrote this version of the Secret at the time `at`.
    Seen { version: SecretVersion, at: Timestamp },
    /// The Secret may have changed, so Valet reads it in the next reconcile.
    MayHaveChanged,
}

impl SecretState {
    /// Records the Secret that this process read or wrote at the time `at`. `None` means that the Secret does not exist,
    /// or that it is not a Secret that Valet wrote for the grant.
    pub fn saw(&mut self, version: Option<SecretVersion>, at: Timestamp) {
        *self = version.map_or(Self::MayHaveChanged, |version| Self::Seen { version, at });
    }

    /// Returns what this process remembers about the Secret of the grant with this UID. Returns `None` if Valet must
    /// read the Secret.
    ///
    /// Valet reads each Secret again after the time `resync`. After a start, Valet spreads the first reads over this
    /// time, because thousands of simultaneous reads would delay new grants.
    pub fn remembered(&mut self, uid: &str, resync: SignedDuration, now: Timestamp) -> Option<RememberedSecret> {
        let after = |time: Timestamp, pause| time.checked_add(pause).unwrap_or(Timestamp::MAX);
        if *self == Self::NotSeen {
            let spread = u64::try_from(resync.as_millis())
                .unwrap_or(u64::MAX)
                .clamp(1, u64::MAX / 2);
            let pause = SignedDuration::from_millis((hash(uid) % spread).cast_signed());
            *self = Self::ReadAt {
                at: after(now, pause),
                since: now,
            };
        }
        match self {
            Self::NotSeen | Self::MayHaveChanged => None,
            Self::ReadAt { at, since } => Some(RememberedSecret {
                read_at: *at,
                seen_at: *since,
                version: None,
            }),
            Self::Seen { version, at } => Some(RememberedSecret {
                read_at: after(*at, resync),
                seen_at: *at,
                version: Some(version.clone()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESYNC: SignedDuration = SignedDuration::from_mins(10);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn first_reads_after_a_start_are_spread_over_the_resync_interval() {
        let read_at = |uid: &str| SecretState::default().remembered(uid, RESYNC, at(0)).unwrap().read_at;
        let times: Vec<_> = (0..600).map(|n| read_at(&n.to_string())).collect();
        assert!(times.iter().all(|time| (at(0)..at(600)).contains(time)));
        for minute in 0..10 {
            let reads = times
                .iter()
                .filter(|t| (at(minute * 60)..at(minute * 60 + 60)).contains(*t));
            assert!((30..=90).contains(&reads.count()), "reads in minute {minute}");
        }
    }

    #[test]
    fn secret_is_read_again_after_the_resync_interval() {
        let version = SecretVersion {
            uid: "u".into(),
            resource_version: "7".into(),
            issued_at: None,
            expires_at: None,
            signed_with: None,
        };
        let mut state = SecretState::default();
        state.saw(Some(version.clone()), at(5));
        let remembered = state.remembered("u", RESYNC, at(99)).unwrap();
        assert_eq!((remembered.read_at, remembered.seen_at), (at(605), at(5)));
        assert_eq!(remembered.version, Some(version));
    }

    #[test]
    fn missing_or_changed_secret_is_read_in_each_reconcile() {
        let mut state = SecretState::default();
        state.saw(None, at(5));
        assert_eq!(state.remembered("u", RESYNC, at(6)), None);
        assert_eq!(state.remembered("u", RESYNC, at(7)), None);
    }
}
