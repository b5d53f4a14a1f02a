//! One replica works, the others wait (a Lease of coordination.k8s.io/v1). The lease saves work and events; nothing
//! rests on it: two replicas that both think they hold it do no harm.

use std::{net::SocketAddr, sync::Arc, time::Duration};

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

use super::{error::Error, error::call, notifications::Leader, secrets::FIELD_MANAGER};
use crate::api::annotation;

/// Name of the Lease in the operator's namespace.
const NAME: &str = "valet";
/// A holder that has not renewed for this long is taken for dead: short enough for a hand-over within seconds, long
/// enough for an apiserver that restarts.
const DURATION: Duration = Duration::from_secs(10);
/// A holder that could not renew for this long stops by itself, before anybody else may take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(7);
/// Pause between two renewals, and between two looks of those that wait.
const PERIOD: Duration = Duration::from_secs(2);

/// A candidate for the lease.
pub struct Lease {
    api: Api<LeaseObject>,
    identity: String,
    /// Where others reach our receiver of notifications.
    address: Option<SocketAddr>,
    /// Where the holder's is.
    leader: Arc<Leader>,
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
    /// it takes notifications; who waits learns in `leader` what the holder says.
    pub fn new(
        client: Client,
        namespace: &str,
        identity: String,
        address: Option<SocketAddr>,
        leader: Arc<Leader>,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            identity,
            address,
            leader,
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
                    info!(identity = self.identity, "leading");
                    return held;
                }
                Ok(None) | Err(Error::Conflict(_)) => {}
                Err(error) => warn!("the lease cannot be had for now: {error}"),
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
                Ok(Ok(lease)) => *held = Held { lease, renewed: began },
                Ok(Err(Error::Conflict(_) | Error::Gone(_))) => {
                    // Perhaps our own write, whose answer was lost.
                    match call("reading the lease", self.api.get_opt(NAME)).await {
                        Ok(Some(lease)) if holder(&lease) == Some(&self.identity) => held.lease = lease,
                        Ok(_) => return "somebody else has taken it".into(),
                        Err(error) => warn!("the lease cannot be read: {error}"),
                    }
                }
                Ok(Err(error)) => warn!("the lease cannot be renewed for now: {error}"),
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
