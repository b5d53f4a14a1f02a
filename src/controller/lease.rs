//! One replica works, the others wait (a Lease of coordination.k8s.io/v1). The lease saves work and events; nothing
//! rests on it: two replicas that both think they hold it do no harm.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease as LeaseObject, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{error::Error, error::call, secrets::FIELD_MANAGER};
use crate::notifications::Leader;
use crate::{api::annotation, telemetry::warn_once};

/// Name of the Lease in the operator's namespace.
const NAME: &str = "valet";
/// A holder that has not renewed for this long is taken for dead: short enough for a hand-over within seconds, long
/// enough for an apiserver that restarts.
const DURATION: Duration = Duration::from_secs(10);
/// A holder that could not renew for this long stops by itself, before anybody else may take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(7);
/// Pause between two renewals, and between two looks of those that wait.
const PERIOD: Duration = Duration::from_secs(2);

/// Whether this replica works, at any moment and by its own clock: one that was frozen, or does not reach the apiserver, does
/// not know at once that another one has taken over, and must not tell of grants and stores meanwhile.
#[derive(Debug, Default)]
pub struct Term(Mutex<Until>);

#[derive(Clone, Copy, Debug, Default)]
enum Until {
    /// Somebody else's, as far as is known.
    #[default]
    NotYet,
    /// By the lease, unless it is renewed.
    Then(Instant),
    /// There is no lease to wait for.
    TheEnd,
}

impl Term {
    fn set(&self, until: Until) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// It works from now on, without a lease.
    pub fn for_ever(&self) {
        self.set(Until::TheEnd);
    }

    /// It has the lease since `renewed`.
    fn renewed(&self, renewed: Instant) {
        self.set(Until::Then(renewed + RENEW_DEADLINE));
    }

    /// Whether it works at this moment.
    pub fn is_on(&self, now: Instant) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Until::NotYet => false,
            Until::Then(end) => now < end,
            Until::TheEnd => true,
        }
    }
}

/// A candidate for the lease.
pub struct Lease {
    api: Api<LeaseObject>,
    identity: String,
    /// Where others reach our receiver of notifications.
    address: Option<SocketAddr>,
    /// Where the holder's is.
    leader: Arc<Leader>,
    /// Is told while the lease is ours.
    term: Arc<Term>,
}

/// The lease as this process wrote it last.
pub struct Held {
    lease: LeaseObject,
    renewed: Instant,
}

/// The lease as somebody else wrote it, and since when that has not changed. Only our own clock counts: what stands
/// in the lease was written by another one.
struct Seen {
    version: Option<String>,
    since: Instant,
}

impl Seen {
    /// Whether the holder has had its time.
    fn is_stale(&self, lease: &LeaseObject, now: Instant) -> bool {
        let seconds = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds).unwrap_or(0);
        let theirs = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        self.version == lease.resource_version() && now.duration_since(self.since) >= theirs
    }
}

impl Lease {
    /// A candidate in the operator's namespace. `identity` must be this process' alone. A holder says at which `address`
    /// it takes notifications; who waits learns in `leader` what the holder says. `term` is on while the lease is ours.
    pub fn new(
        client: Client,
        namespace: &str,
        identity: String,
        address: Option<SocketAddr>,
        leader: Arc<Leader>,
        term: Arc<Term>,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            identity,
            address,
            leader,
            term,
        }
    }

    /// Waits until the lease is ours.
    pub async fn acquire(&self) -> Held {
        let mut seen = Seen {
            version: None,
            since: Instant::now(),
        };
        loop {
            match self.try_acquire(&mut seen).await {
                Ok(Some(held)) => {
                    self.term.renewed(held.renewed);
                    info!(identity = self.identity, "became leader");
                    return held;
                }
                Ok(None) | Err(Error::Conflict(_)) => {}
                Err(error) => warn_once!(&error.cause(), "the lease cannot be had for now: {error}"),
            }
            sleep(PERIOD).await;
        }
    }

    async fn try_acquire(&self, seen: &mut Seen) -> Result<Option<Held>, Error> {
        let began = Instant::now();
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PostParams::default()
        };
        let lease = match call("reading the lease", self.api.get_opt(NAME)).await? {
            None => {
                let metadata = ObjectMeta {
                    name: Some(NAME.into()),
                    ..ObjectMeta::default()
                };
                let mut lease = LeaseObject {
                    metadata,
                    spec: Some(self.spec(None)),
                };
                self.advertise(&mut lease);
                let lease = call("creating the lease", self.api.create(&params, &lease)).await?;
                return Ok(Some(Held { lease, renewed: began }));
            }
            Some(lease) => lease,
        };
        let holder = lease
            .spec
            .as_ref()
            .and_then(|s| s.holder_identity.as_deref())
            .unwrap_or_default();
        if !holder.is_empty() && holder != self.identity && !seen.is_stale(&lease, began) {
            if seen.version != lease.resource_version() {
                *seen = Seen {
                    version: lease.resource_version(),
                    since: began,
                };
            }
            self.leader.is_at(advertised(&lease));
            return Ok(None);
        }
        // The version that was read goes along: of several that see the lease free, one gets it.
        let mut ours = lease.clone();
        ours.spec = Some(self.spec(lease.spec.as_ref()));
        self.advertise(&mut ours);
        let lease = call("taking the lease", self.api.replace(NAME, &params, &ours)).await?;
        Ok(Some(Held { lease, renewed: began }))
    }

    /// Renews for as long as it can; returns why it cannot any longer. Whoever called must stop working then.
    pub async fn keep(&self, held: &mut Held) -> String {
        let why = self.renew(held).await;
        self.term.set(Until::NotYet);
        why
    }

    async fn renew(&self, held: &mut Held) -> String {
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PostParams::default()
        };
        loop {
            sleep(PERIOD).await;
            // Also after this process was frozen for a while: the clock went on.
            let Some(left) = RENEW_DEADLINE.checked_sub(held.renewed.elapsed()) else {
                return format!("it could not be renewed for {} s", held.renewed.elapsed().as_secs());
            };
            let began = Instant::now();
            let mut ours = held.lease.clone();
            if let Some(spec) = &mut ours.spec {
                spec.renew_time = Some(MicroTime(Timestamp::now()));
            }
            match timeout(left, call("renewing the lease", self.api.replace(NAME, &params, &ours))).await {
                Ok(Ok(lease)) => {
                    self.term.renewed(began);
                    *held = Held { lease, renewed: began };
                }
                Ok(Err(Error::Conflict(_) | Error::Gone(_))) => {
                    // Perhaps our own write, whose answer was lost.
                    match call("reading the lease", self.api.get_opt(NAME)).await {
                        Ok(Some(lease)) if version(&lease) < version(&held.lease) => {
                            return "its version went back: the cluster was set back to an earlier state, as when etcd is restored".into();
                        }
                        Ok(Some(lease)) if holder(&lease) == Some(&self.identity) => held.lease = lease,
                        Ok(_) => return "somebody else has taken it".into(),
                        Err(error) => warn_once!(&error.cause(), "the lease cannot be read: {error}"),
                    }
                }
                Ok(Err(error)) => warn_once!(&error.cause(), "the lease cannot be renewed for now: {error}"),
                Err(_) => {}
            }
        }
    }

    /// Gives the lease up, so that a waiting replica need not wait for its end.
    pub async fn release(&self, held: Held) {
        let mut free = held.lease;
        if let Some(spec) = &mut free.spec {
            spec.holder_identity = Some(String::new());
        }
        if let Err(error) = call(
            "giving the lease up",
            self.api.replace(NAME, &PostParams::default(), &free),
        )
        .await
        {
            warn!("the lease was not given up and will run out: {error}");
        }
    }

    fn advertise(&self, lease: &mut LeaseObject) {
        let marks = lease.annotations_mut();
        match self.address {
            Some(address) => marks.insert(annotation::NOTIFICATIONS_ADDRESS.into(), address.to_string()),
            None => marks.remove(annotation::NOTIFICATIONS_ADDRESS),
        };
    }

    fn spec(&self, previous: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(
                previous
                    .and_then(|p| p.lease_transitions)
                    .map_or(0, |n| n.saturating_add(1)),
            ),
            ..LeaseSpec::default()
        }
    }
}

/// Where the holder takes notifications.
fn advertised(lease: &LeaseObject) -> Option<SocketAddr> {
    lease.annotations().get(annotation::NOTIFICATIONS_ADDRESS)?.parse().ok()
}

fn holder(lease: &LeaseObject) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref()
}

/// The lease's version as a number; of one kind of object they can be compared (KEP-5504). `None`, which is less than any, if it is
/// no number.
fn version(lease: &LeaseObject) -> Option<u128> {
    lease.resource_version()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To the instant: another one may take over three seconds later, whether this one has noticed anything or not.
    #[test]
    fn a_term_ends_by_the_clock() {
        let (term, begin) = (Term::default(), Instant::now());
        let after = |millis| begin + Duration::from_millis(millis);
        assert!(!term.is_on(begin), "it waits");
        term.renewed(begin);
        assert!(term.is_on(after(6999)) && !term.is_on(after(7000)));
        term.renewed(after(2000));
        assert!(term.is_on(after(8999)) && !term.is_on(after(9000)));
        term.set(Until::NotYet);
        assert!(!term.is_on(after(2000)), "somebody else has taken it");
        term.for_ever();
        assert!(term.is_on(after(86_400_000)));
    }
}
