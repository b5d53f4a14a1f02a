//! The credentials that sign now, what is made of them, and when fresh ones are fetched.

use std::sync::Arc;

use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError},
};
use aws_sdk_s3::Client;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::RwLock;

use crate::{api::Reason, core::SignError, net::client::SOURCE_TIMEOUT};

/// Temporary credentials are fetched anew when a third of their life is left, but no more than this: keys are not cut
/// short by a session that is about to end anyway, and a session of 15 minutes, the shortest that STS makes, lasts for
/// ten.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(15);
/// Pause between two attempts to get fresh ones while those at hand still work.
const PAUSE: SignedDuration = SignedDuration::from_secs(30);
/// The same for the sake of one grant that asks for a longer life than they have left: a store with many such grants
/// asks STS once a minute.
const PAUSE_ON_DEMAND: SignedDuration = SignedDuration::from_secs(60);
/// With less than this left, credentials sign nothing any more.
const LAST: SignedDuration = SignedDuration::from_secs(5);
/// How long what temporary credentials sign may live if nothing says when they end: the shortest session that STS makes.
const UNKNOWN_END: SignedDuration = SignedDuration::from_mins(15);
/// For so long, everybody is told of the last failure instead of waiting for another one.
const FAILURE_HOLDS: SignedDuration = SignedDuration::from_secs(2);

/// One set of credentials and what is made of it. A URL dies with the session that signed it, so both go together.
pub struct Session {
    /// Signs forms, which the SDK does not.
    pub credentials: Credentials,
    /// When they end, if they do.
    pub expires: Option<Timestamp>,
    /// When they were fetched.
    fetched: Timestamp,
    /// Signs for the host that workloads use.
    pub signer: Client,
    /// Talks to the host that the operator uses.
    pub talker: Client,
    /// Asks for the credentials of single keys, where each has its own.
    pub sts: Option<aws_sdk_sts::Client>,
}

impl Session {
    /// Whether the credentials are temporary, and nothing says when they end.
    pub fn end_is_unknown(&self) -> bool {
        self.expires.is_none() && self.credentials.session_token().is_some()
    }

    /// The latest end of what is signed with them at `now`; `None` if there is none.
    pub fn end(&self, now: Timestamp) -> Option<Timestamp> {
        match self.expires {
            None if self.end_is_unknown() => Some(now + UNKNOWN_END),
            end => end,
        }
    }
}

/// What is made of credentials, beside themselves.
pub struct Clients {
    /// See [`Session::signer`].
    pub signer: Client,
    /// See [`Session::talker`].
    pub talker: Client,
    /// See [`Session::sts`].
    pub sts: Option<aws_sdk_sts::Client>,
}

/// A source of credentials and the session that is at hand.
pub struct Sessions {
    source: SharedCredentialsProvider,
    slot: RwLock<Slot>,
}

#[derive(Default)]
struct Slot {
    session: Option<Arc<Session>>,
    /// When fresh credentials were last asked for.
    tried: Option<Timestamp>,
    /// Why there are none, since then.
    failed: Option<SignError>,
}

impl Slot {
    /// What is to be used, if nothing is to be fetched now.
    fn settled(&self, now: Timestamp, until: Option<Timestamp>) -> Option<Result<Arc<Session>, SignError>> {
        // A clock that was set back since makes no failure, and no attempt, last until it has caught up.
        let since = |tried: Timestamp| Some(now.duration_since(tried)).filter(|d| !d.is_negative());
        let tried = self.tried.and_then(since).unwrap_or(SignedDuration::MAX);
        match &self.session {
            Some(session) if session.expires.is_none_or(|end| now + LAST < end) => {
                let life = Life {
                    fetched: session.fetched,
                    // Whoever renews those of an unknown end says nothing: they are fetched again as if they were short.
                    expires: session.end(session.fetched),
                };
                (!life.is_due(now, until, tried)).then(|| Ok(session.clone()))
            }
            _ => self.failed.clone().filter(|_| tried < FAILURE_HOLDS).map(Err),
        }
    }
}

/// The time of credentials.
#[derive(Clone, Copy)]
struct Life {
    fetched: Timestamp,
    expires: Option<Timestamp>,
}

impl Life {
    /// Whether fresh credentials are to be fetched in place of these, which work; the last attempt was so long ago.
    fn is_due(self, now: Timestamp, until: Option<Timestamp>, tried: SignedDuration) -> bool {
        let Some(end) = self.expires else { return false };
        let lead = RENEW_BEFORE.min(end.duration_since(self.fetched) / 3);
        let is_short = until.is_some_and(|until| end < until);
        (now + lead >= end && tried >= PAUSE) || (is_short && tried >= PAUSE_ON_DEMAND)
    }
}

impl Sessions {
    /// Takes a source. Nothing is fetched yet.
    pub fn new(source: SharedCredentialsProvider) -> Self {
        Self {
            source,
            slot: RwLock::default(),
        }
    }

    /// The source, for sessions of somebody else's.
    pub fn source(&self) -> SharedCredentialsProvider {
        self.source.clone()
    }

    /// The session to sign with. Fetches fresh credentials if it is time for that, or if those at hand end before
    /// `until`; when that fails, those at hand go on as long as they work.
    pub async fn current(
        &self,
        until: Option<Timestamp>,
        clients: impl Fn(&Credentials) -> Clients,
    ) -> Result<Arc<Session>, SignError> {
        let now = Timestamp::now();
        let at_hand = {
            let slot = self.slot.read().await;
            if let Some(settled) = slot.settled(now, until) {
                return settled;
            }
            slot.session.clone()
        };
        let alive = at_hand.filter(|s| s.expires.is_none_or(|end| now + LAST < end));
        let mut slot = match (&alive, self.slot.try_write()) {
            (_, Ok(slot)) => slot,
            // Somebody is fetching; nobody need wait for it.
            (Some(alive), Err(_)) => return Ok(alive.clone()),
            (None, Err(_)) => self.slot.write().await,
        };
        if let Some(settled) = slot.settled(Timestamp::now(), until) {
            return settled;
        }
        // The default chain has no bound of its own: it may start a process that prints them.
        let fetched = tokio::time::timeout(SOURCE_TIMEOUT, self.source.provide_credentials())
            .await
            .unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(SOURCE_TIMEOUT)));
        slot.tried = Some(Timestamp::now());
        slot.failed = None;
        match (fetched, alive) {
            (Ok(credentials), _) => {
                let expires = credentials.expiry().and_then(|t| Timestamp::try_from(t).ok());
                // The same ones again are no new session.
                let is_same = |s: &Arc<Session>| {
                    s.expires == expires && s.credentials.access_key_id() == credentials.access_key_id()
                };
                if let Some(same) = slot.session.clone().filter(is_same) {
                    return Ok(same);
                }
                let Clients { signer, talker, sts } = clients(&credentials);
                let session = Arc::new(Session {
                    expires,
                    fetched: now,
                    signer,
                    talker,
                    sts,
                    credentials,
                });
                slot.session = Some(session.clone());
                Ok(session)
            }
            (Err(e), Some(alive)) => {
                tracing::warn!("fresh credentials cannot be had ({}); those at hand go on", kind_of(&e));
                Ok(alive)
            }
            // The error's own text can name files and endpoints of the operator's environment, which tenants do not
            // need to know; its kind says enough for the condition.
            (Err(e), None) => {
                let failure = SignError::Credentials {
                    reason: Reason::CredentialsInvalid,
                    message: format!(
                        "the operator's default credentials chain gave none ({}); set spec.s3.credentials.secretRef, or give the operator's service account a role",
                        kind_of(&e)
                    ),
                };
                slot.failed = Some(failure.clone());
                Err(failure)
            }
        }
    }
}

fn kind_of(error: &CredentialsError) -> &'static str {
    use CredentialsError as E;
    match error {
        E::CredentialsNotLoaded(_) => "no provider has any",
        E::ProviderTimedOut(_) => "the provider did not answer in time",
        E::InvalidConfiguration(_) => "the provider's configuration is invalid",
        E::ProviderError(_) => "the provider answered with an error",
        _ => "unknown trouble",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::{Duration, SystemTime},
    };

    use aws_credential_types::provider::future;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn when_fresh_ones_are_fetched() {
        let of = |life: i64, now: i64, until: Option<i64>, tried: i64| {
            let session = Life {
                fetched: at(0),
                expires: Some(at(life)),
            };
            session.is_due(at(now), until.map(at), SignedDuration::from_secs(tried))
        };
        // An hour's session lasts for 45 minutes, one of 15 minutes for ten, one of six hours but for 15 minutes.
        for (life, renewal) in [(3600, 2700), (900, 600), (21_600, 20_700), (30, 20)] {
            assert!(!of(life, renewal - 1, None, 3600), "{life}");
            assert!(of(life, renewal, None, 3600), "{life}");
            assert!(!of(life, renewal, None, 29), "{life}: twice in a row");
            assert!(of(life, renewal, None, 30), "{life}");
        }
        // For a grant that asks for more than is left, at most once a minute.
        assert!(!of(3600, 60, Some(3600), 3600));
        assert!(of(3600, 60, Some(3601), 60));
        assert!(!of(3600, 60, Some(3601), 59));
        let lasting = Life {
            fetched: at(0),
            expires: None,
        };
        assert!(!lasting.is_due(at(1_000_000), Some(at(2_000_000)), SignedDuration::MAX));
    }

    /// Gives what `answer` says to the n-th question.
    struct Source<F> {
        asked: Arc<AtomicUsize>,
        answer: F,
    }

    impl<F> std::fmt::Debug for Source<F> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Source")
        }
    }

    impl<F: Fn(usize) -> Option<Duration> + Send + Sync> ProvideCredentials for Source<F> {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let n = self.asked.fetch_add(1, Ordering::SeqCst);
            future::ProvideCredentials::ready(match (self.answer)(n) {
                Some(life) => Ok(Credentials::new(
                    format!("AKID{n}"),
                    "secret",
                    Some("token".into()),
                    Some(SystemTime::now() + life),
                    "test",
                )),
                None => Err(CredentialsError::not_loaded("none")),
            })
        }
    }

    fn clients(credentials: &Credentials) -> Clients {
        let config = || {
            let builder = aws_sdk_s3::Config::builder()
                .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
                .credentials_provider(credentials.clone());
            Client::from_conf(builder.build())
        };
        Clients {
            signer: config(),
            talker: config(),
            sts: None,
        }
    }

    fn sessions(answer: impl Fn(usize) -> Option<Duration> + Send + Sync + 'static) -> (Sessions, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let source = Source {
            asked: asked.clone(),
            answer,
        };
        (Sessions::new(SharedCredentialsProvider::new(source)), asked)
    }

    /// What may be signed with each kind of credentials, from the moment of signing on.
    #[tokio::test]
    async fn end_of_a_session_token_without_an_end_is_15_minutes_away() {
        #[derive(Debug)]
        struct Fixed(Credentials);
        impl ProvideCredentials for Fixed {
            fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
            where
                Self: 'a,
            {
                future::ProvideCredentials::ready(Ok(self.0.clone()))
            }
        }
        let soon = SystemTime::now() + Duration::from_secs(3600);
        let later = Timestamp::now() + SignedDuration::from_mins(30);
        for (token, expiry, unknown, end) in [
            (None, None, false, None),
            (None, Some(soon), false, Timestamp::try_from(soon).ok()),
            (Some("t"), Some(soon), false, Timestamp::try_from(soon).ok()),
            (Some("t"), None, true, Some(later + UNKNOWN_END)),
        ] {
            let source = Fixed(Credentials::new("A", "s", token.map(str::to_owned), expiry, "test"));
            let sessions = Sessions::new(SharedCredentialsProvider::new(source));
            let session = sessions.current(None, clients).await.unwrap();
            assert_eq!(
                (session.end_is_unknown(), session.end(later)),
                (unknown, end),
                "{token:?} {expiry:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_session_of_15_minutes_is_not_fetched_at_every_look() {
        let (sessions, asked) = sessions(|_| Some(Duration::from_secs(900)));
        for _ in 0..100 {
            let session = sessions.current(None, clients).await.unwrap();
            assert_eq!(session.credentials.access_key_id(), "AKID0");
        }
        // A grant that asks for more than it has: one attempt a minute, whatever comes of it.
        let until = Some(Timestamp::now() + SignedDuration::from_hours(1));
        for _ in 0..100 {
            sessions.current(until, clients).await.unwrap();
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_holds_nothing_up() {
        let (sessions, asked) = sessions(|n| (n > 0).then_some(Duration::from_secs(900)));
        assert!(sessions.current(None, clients).await.is_err());
        sessions.slot.write().await.tried = Some(Timestamp::now() + SignedDuration::from_hours(1));
        assert!(sessions.current(None, clients).await.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn trouble_with_fresh_ones_does_not_end_those_at_hand() {
        // Of a life of eight seconds five are too little to sign with; it is due from the third before its end on.
        let (sessions, asked) = sessions(|n| (n == 0).then_some(Duration::from_millis(7_500)));
        let first = sessions.current(None, clients).await.unwrap();
        {
            let mut slot = sessions.slot.write().await;
            slot.tried = Some(Timestamp::now() - SignedDuration::from_mins(5));
        }
        let until = Some(Timestamp::now() + SignedDuration::from_hours(1));
        let second = sessions.current(until, clients).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        assert!(Arc::ptr_eq(&first, &second));
        tokio::time::sleep(Duration::from_millis(2_600)).await;
        assert!(sessions.current(None, clients).await.is_err());
        assert_eq!(asked.load(Ordering::SeqCst), 3);
        assert!(sessions.current(None, clients).await.is_err());
        assert_eq!(
            asked.load(Ordering::SeqCst),
            3,
            "a failure is told, not repeated at once"
        );
    }
}
