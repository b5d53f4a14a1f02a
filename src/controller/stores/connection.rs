//! A connected store, and the problems that prevent a connection.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    api::{ClusterAccessRule, Reason, ShortSessions},
    controller::{
        error::Error,
        probe_cache::{ProbeCache, Problem, StoreProbe, age_for_grants},
    },
    core::{NotProbedYet, SignError, Signer, StoreId},
    provider::Provider,
};

/// The reason why Valet cannot connect to a store. Either the store itself has a problem, or a call to the apiserver
/// failed.
pub(super) enum ConnectError {
    Unusable(Problem),
    Failed(Error),
}

impl From<Problem> for ConnectError {
    fn from(why: Problem) -> Self {
        Self::Unusable(why)
    }
}

impl From<Error> for ConnectError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<SignError> for ConnectError {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Credentials { reason, message } => Self::Unusable((reason, message)),
            other => Self::Failed(other.into()),
        }
    }
}

/// Separates a problem of the store from a failed call to the apiserver. If the store itself has a problem, the outer
/// result is `Ok` and contains the problem. If a call to the apiserver failed, the outer result is `Err`.
pub(super) fn problem_as_value<T>(result: Result<T, ConnectError>) -> Result<Result<T, Problem>, Error> {
    match result {
        Ok(found) => Ok(Ok(found)),
        Err(ConnectError::Unusable(why)) => Ok(Err(why)),
        Err(ConnectError::Failed(error)) => Err(error),
    }
}

#[derive(Clone)]
pub(super) enum CachedStore {
    Missing,
    Unusable {
        reason: Reason,
        message: String,
        /// The access rules of the store. They apply even while Valet cannot use the store.
        rules: Arc<Vec<ClusterAccessRule>>,
    },
    Usable(Connection),
}

#[derive(Clone)]
pub(super) struct Connection {
    /// A text that identifies the store, its credentials and its settings. Valet reuses the provider and its session
    /// until this text changes.
    pub(super) fingerprint: String,
    pub(super) max_live_grants: Option<i64>,
    pub(super) rules: Arc<Vec<ClusterAccessRule>>,
    pub(super) short_sessions: ShortSessions,
    /// The current signer of the store. The value is `None` if Valet does not know the signer.
    pub(super) signer: Option<Signer>,
    pub(super) provider: Arc<dyn Provider>,
    pub(super) store_probe: Arc<StoreProbe>,
    /// The value of the annotation that requests a conformance check.
    pub(super) check_request: Option<String>,
}

/// The facts about a store for which Valet can sign a credential now.
pub(super) struct Usable {
    pub(super) connection: Connection,
    pub(super) credentials_expire: Option<Timestamp>,
    pub(super) not_probed: Option<NotProbedYet>,
}

impl Connection {
    /// Checks whether Valet can use the store now to sign a credential with the expiry `wanted_until`. If Valet can use
    /// the store, the method returns the connection and the facts about the store. Otherwise it returns the reason.
    pub(super) async fn usable(
        self,
        id: &StoreId,
        probe_cache: &Arc<ProbeCache>,
        wanted_until: Timestamp,
    ) -> Result<Usable, ConnectError> {
        let provider = self.provider.as_ref();
        let credentials_expire = in_time(async {
            provider.prepare(wanted_until).await;
            provider.credentials_expire().await
        })
        .await?;
        let request = self.check_request.as_ref();
        let Some(outcome) = probe_cache.outcome(id, &self.store_probe, &self.provider, request, age_for_grants)
        else {
            return Err(self
                .store_probe
                .overdue_problem()
                .map_or(Error::NotProbed.into(), ConnectError::Unusable));
        };
        if let Some(why) = outcome.forbids(request.is_some()) {
            return Err(why.into());
        }
        let not_probed = outcome.not_probed(provider);
        Ok(Usable {
            connection: self,
            credentials_expire,
            not_probed,
        })
    }
}

/// Valet waits at most 5 seconds for a store's credentials from STS, from an identity token or from an external
/// process.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn in_time<T>(work: impl Future<Output = Result<T, SignError>>) -> Result<T, SignError> {
    tokio::time::timeout(CREDENTIALS_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| {
            let message = format!(
                "the store's credentials could not be obtained within {seconds} s",
                seconds = CREDENTIALS_TIMEOUT.as_secs()
            );
            Err(SignError::Credentials {
                reason: Reason::StoreUnreachable,
                message,
            })
        })
}
