//! Keeps the current credentials of a store and the clients that use them. It also renews temporary credentials.

use std::sync::Arc;

use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError},
};
use aws_sdk_s3::Client;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::RwLock;

use crate::{api::Reason, core::SignError, net::client::SOURCE_TIMEOUT};

/// Valet renews temporary credentials when a third of their lifetime is left, but never earlier than 15 minutes before
/// their expiry. For example, the shortest session of STS lasts 15 minutes, and Valet uses it for 10 minutes.
///
/// A signed URL expires at the latest with the session that signed it. If Valet used each session until its end, many
/// signed URLs would expire early.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(15);
/// While the current credentials still work, Valet waits 30 seconds between two attempts to renew them.
const PAUSE: SignedDuration = SignedDuration::from_secs(30);
/// If a grant needs a longer lifetime than the current credentials have left, Valet renews the credentials early. Valet
/// waits 60 seconds between two early renewals. Valet therefore sends at most one request per minute to STS, even if
/// there are many such grants.
const PAUSE_ON_DEMAND: SignedDuration = SignedDuration::from_secs(60);
/// Valet does not sign with credentials that expire within 5 seconds.
const LAST: SignedDuration = SignedDuration::from_secs(5);
/// If the expiry of temporary credentials is unknown, a URL that Valet signs with them is valid for at most 15 minutes.
/// Valet uses this limit because an STS session lasts at least 15 minutes.
const UNKNOWN_END: SignedDuration = SignedDuration::from_mins(15);
/// After a failed attempt to fetch credentials, Valet waits 2 seconds before the next attempt. During these 2
/// seconds, callers get the error of the failed attempt.
const FAILURE_HOLDS: SignedDuration = SignedDuration::from_secs(2);

/// A set of credentials, and the clients that use these credentials. A URL expires with the session that signed it, so
/// one struct contains the clients that sign and the expiry of their credentials.
pub struct Session {
    /// The current credentials. Valet signs POST forms with them directly, because the AWS SDK cannot sign POST
    /// forms.
    pub credentials: Credentials,
    /// The time when the credentials expire. It is `None` if they do not expire.
    pub expires: Option<Timestamp>,
    fetched: Timestamp,
    /// The client that signs URLs for the workloads' endpoint.
    pub signer: Client,
    /// The client that sends requests to the operator's endpoint.
    pub operator: Client,
    /// The STS client. If the store has `assumeRole`, the client requests a session for each credential.
    pub sts: Option<aws_sdk_sts::Client>,
}

impl Session {
    /// Returns true if the credentials are temporary and their expiry is unknown.
    pub fn expiry_is_unknown(&self) -> bool {
        self.expires.is_none() && self.credentials.session_token().is_some()
    }

    /// Returns the latest possible expiry of a URL that these credentials sign at the time `now`. Returns `None` if
    /// there is no limit.
    pub fn end(&self, now: Timestamp) -> Option<Timestamp> {
        match self.expires {
            None if self.expiry_is_unknown() => Some(now + UNKNOWN_END),
            end => end,
        }
    }
}

/// The clients that use one set of credentials.
pub struct Clients {
    pub signer: Client,
    pub operator: Client,
    pub sts: Option<aws_sdk_sts::Client>,
}

/// A source of credentials, and the session that currently signs.
pub struct Sessions {
    source: SharedCredentialsProvider,
    slot: RwLock<Slot>,
}

#[derive(Default)]
struct Slot {
    session: Option<Arc<Session>>,
    /// At this time, Valet last requested fresh credentials.
    attempted: Option<Timestamp>,
    /// If the last attempt to fetch credentials failed, this is its error.
    failed: Option<SignError>,
}

impl Slot {
    /// Decides whether Valet must fetch credentials now. If Valet must fetch credentials, the method returns `None`.
    /// Otherwise the method returns the current session, or the error of the last attempt.
    fn settled(&self, now: Timestamp, until: Option<Timestamp>) -> Option<Result<Arc<Session>, SignError>> {
        // If somebody set the clock back after the last attempt, the time of this attempt is in the future. Valet
        // ignores a time in the future. Otherwise Valet would make no new attempt until the clock reaches that time.
        let since = |attempted: Timestamp| Some(now.duration_since(attempted)).filter(|d| !d.is_negative());
        let attempted = self.attempted.and_then(since).unwrap_or(SignedDuration::MAX);
        match &self.session {
            Some(session) if session.expires.is_none_or(|end| now + LAST < end) => {
                let life = Life {
                    fetched: session.fetched,
                    // If the expiry of the credentials is unknown, Valet renews them as if they had a lifetime of 15
                    // minutes.
                    expires: session.end(session.fetched),
                };
                (!life.is_due(now, until, attempted)).then(|| Ok(session.clone()))
            }
            _ => self.failed.clone().filter(|_| attempted < FAILURE_HOLDS).map(Err),
        }
    }
}

/// The time when credentials were fetched, and the time when they expire.
#[derive(Clone, Copy)]
struct Life {
    fetched: Timestamp,
    expires: Option<Timestamp>,
}

impl Life {
    /// Returns true if Valet must renew credentials although they still work. `attempted` is the time since the last
    /// attempt to renew them.
    fn is_due(self, now: Timestamp, until: Option<Timestamp>, attempted: SignedDuration) -> bool {
        let Some(end) = self.expires else { return false };
        let lead = RENEW_BEFORE.min(end.duration_since(self.fetched) / 3);
        let is_short = until.is_some_and(|until| end < until);
        (now + lead >= end && attempted >= PAUSE) || (is_short && attempted >= PAUSE_ON_DEMAND)
    }
}

impl Sessions {
    /// Creates the cache. The function does not fetch credentials.
    pub fn new(source: SharedCredentialsProvider) -> Self {
        Self {
            source,
            slot: RwLock::default(),
        }
    }

    /// Returns the source of credentials, so that a second provider can use it.
    pub fn source(&self) -> SharedCredentialsProvider {
        self.source.clone()
    }

    /// Returns the session to sign with. The method fetches fresh credentials if renewal is due, or if the current
    /// credentials expire before `until`. If the fetch fails, Valet uses the current credentials until they expire.
    pub async fn current(
        &self,
        until: Option<Timestamp>,
        clients: impl Fn(&Credentials) -> Clients,
    ) -> Result<Arc<Session>, SignError> {
        let now = Timestamp::now();
        let local_credentials = {
            let slot = self.slot.read().await;
            if let Some(settled) = slot.settled(now, until) {
                return settled;
            }
            slot.session.clone()
        };
        let alive = local_credentials.filter(|s| s.expires.is_none_or(|end| now + LAST < end));
        let mut slot = match (&alive, self.slot.try_write()) {
            (_, Ok(slot)) => slot,
            // Another task is fetching fresh credentials at this moment. The current session still works, so this call
            // returns it.
            (Some(alive), Err(_)) => return Ok(alive.clone()),
            (None, Err(_)) => self.slot.write().await,
        };
        if let Some(settled) = slot.settled(Timestamp::now(), until) {
            return settled;
        }
        // The AWS default chain has no timeout and can wait for a process that prints credentials. Therefore Valet
        // sets a timeout.
        let fetched = tokio::time::timeout(SOURCE_TIMEOUT, self.source.provide_credentials())
            .await
            .unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(SOURCE_TIMEOUT)));
        slot.attempted = Some(Timestamp::now());
        slot.failed = None;
        match (fetched, alive) {
            (Ok(credentials), _) => {
                let expires = credentials.expiry().and_then(|t| Timestamp::try_from(t).ok());
                // If the source returns credentials that Valet already has, Valet keeps the session.
                let is_same = |s: &Arc<Session>| {
                    s.expires == expires && s.credentials.access_key_id() == credentials.access_key_id()
                };
                if let Some(same) = slot.session.clone().filter(is_same) {
                    return Ok(same);
                }
                let Clients { signer, operator, sts } = clients(&credentials);
                let session = Arc::new(Session {
                    expires,
                    fetched: now,
                    signer,
                    operator,
                    sts,
                    credentials,
                });
                slot.session = Some(session.clone());
                Ok(session)
            }
            (Err(e), Some(alive)) => {
                let cause = kind_of(&e);
                tracing::warn!(
                    "Valet could not fetch new credentials of the store and uses the current credentials: {cause}"
                );
                Ok(alive)
            }
            // The condition of the store contains only the kind of the error. The full text can name files and
            // endpoints of the operator's environment, and tenants do not need to know them.
            (Err(e), None) => {
                let failure = SignError::Credentials {
                    reason: Reason::CredentialsInvalid,
                    message: format!(
                        "the default AWS credentials chain of the operator returned no credentials ({cause}); set spec.s3.credentials.secretRef, or give the operator's service account an IAM role",
                        cause = kind_of(&e)
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
        E::CredentialsNotLoaded(_) => "no credentials provider has credentials",
        E::ProviderTimedOut(_) => "the credentials provider did not answer in time",
        E::InvalidConfiguration(_) => "the credentials provider's configuration is invalid",
        E::ProviderError(_) => "the credentials provider answered with an error",
        _ => "unknown error",
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
    fn session_is_renewed_some_time_before_its_expiry() {
        let of = |life: i64, now: i64, until: Option<i64>, attempted: i64| {
            let session = Life {
                fetched: at(0),
                expires: Some(at(life)),
            };
            session.is_due(at(now), until.map(at), SignedDuration::from_secs(attempted))
        };
        // Valet uses a session of one hour for 45 minutes, and a session of 15 minutes for 10 minutes. It renews a
        // session of six hours 15 minutes before the session expires.
        for (life, renewal) in [(3600, 2700), (900, 600), (21_600, 20_700), (30, 20)] {
            assert!(!of(life, renewal - 1, None, 3600), "{life}");
            assert!(of(life, renewal, None, 3600), "{life}");
            assert!(!of(life, renewal, None, 29), "{life}: two renewals without a pause");
            assert!(of(life, renewal, None, 30), "{life}");
        }
        // If grants need a longer lifetime than the credentials have left, Valet tries at most once per minute to renew
        // the credentials.
        assert!(!of(3600, 60, Some(3600), 3600));
        assert!(of(3600, 60, Some(3601), 60));
        assert!(!of(3600, 60, Some(3601), 59));
        let lasting = Life {
            fetched: at(0),
            expires: None,
        };
        assert!(!lasting.is_due(at(1_000_000), Some(at(2_000_000)), SignedDuration::MAX));
    }

    /// A source of credentials for tests. The call with the number `n` returns the result of `answer(n)`.
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
            operator: config(),
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

    /// Checks the maximum lifetime of signatures for each kind of credentials.
    #[tokio::test]
    async fn session_token_without_expiry_counts_as_valid_for_15_minutes() {
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
                (session.expiry_is_unknown(), session.end(later)),
                (unknown, end),
                "{token:?} {expiry:?}"
            );
        }
    }

    #[tokio::test]
    async fn session_of_15_minutes_is_not_renewed_at_every_use() {
        let (sessions, asked) = sessions(|_| Some(Duration::from_secs(900)));
        for _ in 0..100 {
            let session = sessions.current(None, clients).await.unwrap();
            assert_eq!(session.credentials.access_key_id(), "AKID0");
        }
        // Here, grants need a longer lifetime than the credentials have left. Valet tries at most once per minute to
        // renew the credentials, even if the attempt fails.
        let until = Some(Timestamp::now() + SignedDuration::from_hours(1));
        for _ in 0..100 {
            sessions.current(until, clients).await.unwrap();
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn clock_set_back_does_not_delay_the_renewal_of_a_session() {
        let (sessions, asked) = sessions(|n| (n > 0).then_some(Duration::from_secs(900)));
        assert!(sessions.current(None, clients).await.is_err());
        sessions.slot.write().await.attempted = Some(Timestamp::now() + SignedDuration::from_hours(1));
        assert!(sessions.current(None, clients).await.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn failed_renewal_of_a_session_keeps_the_current_one() {
        // The first credentials are valid for 7.5 seconds, and all later requests for credentials fail. Valet signs
        // with the first credentials until they expire within 5 seconds.
        let (sessions, asked) = sessions(|n| (n == 0).then_some(Duration::from_millis(7_500)));
        let first = sessions.current(None, clients).await.unwrap();
        {
            let mut slot = sessions.slot.write().await;
            slot.attempted = Some(Timestamp::now() - SignedDuration::from_mins(5));
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
            "the second call must report the same failure without a new request for credentials"
        );
    }
}
