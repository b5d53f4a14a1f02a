//! Leader election with a Lease (coordination.k8s.io/v1). Only the leader reconciles objects. All other replicas wait
//! for the Lease. The Lease only avoids duplicate work and duplicate Events. It does no harm if two replicas act as
//! leader for a short time.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
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
use crate::{api::annotation, core::Shard, telemetry::warn_once};

/// If the leader has not renewed the Lease for 10 seconds, a waiting replica may become the leader. This value is
/// short, so that a failover takes only seconds. It is also long enough to keep the leader during a restart of the
/// apiserver.
const DURATION: Duration = Duration::from_secs(10);
/// A leader stops all work if it could not renew the Lease for 7 seconds. A waiting replica may become the leader only
/// after 3 more seconds.
const RENEW_DEADLINE: Duration = Duration::from_secs(7);
/// The pause between two renewals of the Lease. A waiting replica also pauses for this time between two attempts to
/// acquire the Lease.
const PERIOD: Duration = Duration::from_secs(2);
/// A replica that receives notifications reads the Lease of each other shard at least this often. It reads a Lease
/// earlier if the leader does not answer.
const FOLLOW_PERIOD: Duration = Duration::from_secs(30);

/// Returns the name of the Lease of this shard in the operator's namespace.
pub fn lease_name(shard: Shard) -> String {
    match shard.is_only() {
        true => "valet".to_owned(),
        false => format!("valet-shard-{}", shard.index()),
    }
}

/// Tells whether this replica is the leader, according to this replica's own clock. If a leader was frozen or cannot
/// reach the apiserver, a second replica may have become the leader. The first replica must then no longer export the
/// leader's metrics of grants and stores.
#[derive(Debug, Default)]
pub struct Leadership(Mutex<Until>);

#[derive(Clone, Copy, Debug, Default)]
enum Until {
    /// This replica is not the leader. A different replica may be the leader.
    #[default]
    NotYet,
    /// This replica is the leader until this time, unless it renews the Lease.
    Then(Instant),
    /// Leader election is off, so this replica is always the leader.
    TheEnd,
}

impl Leadership {
    fn set(&self, until: Until) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Marks this replica as the leader until the process ends. The operator calls this method if leader election is
    /// off.
    pub fn for_ever(&self) {
        self.set(Until::TheEnd);
    }

    /// Records that the Lease was renewed at the time `renewed`.
    fn renewed(&self, renewed: Instant) {
        self.set(Until::Then(renewed + RENEW_DEADLINE));
    }

    /// Returns true if this replica is the leader at the time `now`.
    pub fn is_on(&self, now: Instant) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Until::NotYet => false,
            Until::Then(end) => now < end,
            Until::TheEnd => true,
        }
    }
}

/// A replica that takes part in the leader election.
pub struct Lease {
    api: Api<LeaseObject>,
    /// The name of the Lease in the operator's namespace.
    name: String,
    identity: String,
    /// The address of this replica's notification receiver. Replicas that are not the leader forward notifications to
    /// the leader's address.
    address: Option<SocketAddr>,
    /// The address of the leader's notification receiver.
    leader: Arc<Leader>,
    /// Records whether this replica is the leader, and when its leadership ends.
    term: Arc<Leadership>,
}

/// The version of the Lease that this process wrote last.
pub struct Held {
    lease: LeaseObject,
    renewed: Instant,
}

/// A version of the Lease that a different replica wrote, and the time at which this replica first saw this version.
/// Valet uses only the clock of this machine, because the times in the Lease come from the clock of the leader's
/// machine.
struct Seen {
    version: Option<String>,
    since: Instant,
}

impl Seen {
    /// Returns true if the leader has not renewed the Lease for longer than the lease duration.
    fn is_stale(&self, lease: &LeaseObject, now: Instant) -> bool {
        let seconds = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds).unwrap_or(0);
        let theirs = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        self.version == lease.resource_version() && now.duration_since(self.since) >= theirs
    }
}

impl Lease {
    /// Creates a candidate for the Lease with this name in the operator's namespace. `identity` must be unique to this process.
    ///
    /// The leader writes the `address` of its notification receiver to the Lease. A replica that is not the leader
    /// stores the leader's address in `leader`. `term` records whether this replica is the leader, and when its
    /// leadership ends.
    pub fn new(
        client: Client,
        namespace: &str,
        name: String,
        identity: String,
        address: Option<SocketAddr>,
        leader: Arc<Leader>,
        term: Arc<Leadership>,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name,
            identity,
            address,
            leader,
            term,
        }
    }

    /// Waits until this replica holds the Lease.
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
                Err(error) => warn_once!(
                    &error.cause(),
                    "this replica cannot acquire the Lease and tries again: {error}"
                ),
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
        let lease = match call("reading the Lease", self.api.get_opt(&self.name)).await? {
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                };
                let mut lease = LeaseObject {
                    metadata,
                    spec: Some(self.spec(None)),
                };
                self.write_address(&mut lease);
                let lease = call("creating the Lease", self.api.create(&params, &lease)).await?;
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
            self.leader.is_at(advertised_address(&lease));
            return Ok(None);
        }
        // The request contains the resource version of the Lease that this replica read. If several replicas try to
        // acquire the Lease at the same time, only one request therefore succeeds.
        let mut ours = lease.clone();
        ours.spec = Some(self.spec(lease.spec.as_ref()));
        self.write_address(&mut ours);
        let lease = call("acquiring the Lease", self.api.replace(&self.name, &params, &ours)).await?;
        Ok(Some(Held { lease, renewed: began }))
    }

    /// Renews the Lease until this replica loses it, and then returns the reason. The caller must stop all work when
    /// this function returns.
    pub async fn renew_until_lost(&self, held: &mut Held) -> String {
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
            // The elapsed time since the last renewal also includes any time for which this process was frozen.
            let Some(left) = RENEW_DEADLINE.checked_sub(held.renewed.elapsed()) else {
                let seconds = held.renewed.elapsed().as_secs();
                return format!("the Lease could not be renewed for {seconds} s");
            };
            let began = Instant::now();
            let mut ours = held.lease.clone();
            if let Some(spec) = &mut ours.spec {
                spec.renew_time = Some(MicroTime(Timestamp::now()));
            }
            match timeout(
                left,
                call("renewing the Lease", self.api.replace(&self.name, &params, &ours)),
            )
            .await
            {
                Ok(Ok(lease)) => {
                    self.term.renewed(began);
                    *held = Held { lease, renewed: began };
                }
                Ok(Err(Error::Conflict(_) | Error::Gone(_))) => {
                    // The Lease has changed since this process read it. The response to an earlier write of this
                    // process may have been lost, so this process may have made the change itself.
                    match call("reading the Lease", self.api.get_opt(&self.name)).await {
                        Ok(Some(lease)) if version(&lease) < version(&held.lease) => {
                            return "the resource version of the Lease fell, because the cluster was reset to an earlier state, for example by an etcd restore".into();
                        }
                        Ok(Some(lease)) if holder(&lease) == Some(&self.identity) => held.lease = lease,
                        Ok(_) => return "another replica has acquired the Lease".into(),
                        Err(error) => warn_once!(&error.cause(), "the Lease cannot be read: {error}"),
                    }
                }
                Ok(Err(error)) => warn_once!(
                    &error.cause(),
                    "this replica cannot renew the Lease and tries again: {error}"
                ),
                Err(_) => {}
            }
        }
    }

    /// Releases the Lease, so that a waiting replica can acquire it at once.
    pub async fn release(&self, held: Held) {
        let mut free = held.lease;
        if let Some(spec) = &mut free.spec {
            spec.holder_identity = Some(String::new());
        }
        if let Err(error) = call(
            "releasing the Lease",
            self.api.replace(&self.name, &PostParams::default(), &free),
        )
        .await
        {
            warn!("this replica could not release the Lease; the Lease will expire: {error}");
        }
    }

    fn write_address(&self, lease: &mut LeaseObject) {
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

/// Keeps the addresses of the leaders of other shards. The function never returns.
pub async fn follow_leaders(client: Client, namespace: String, leaders: Vec<(Shard, Arc<Leader>)>) {
    let api: Api<LeaseObject> = Api::namespaced(client, &namespace);
    let follow = async |(shard, leader): (Shard, Arc<Leader>)| {
        let name = lease_name(shard);
        loop {
            match call("reading the Lease of another shard", api.get_opt(&name)).await {
                Ok(lease) => leader.is_at(lease.as_ref().and_then(advertised_address)),
                Err(error) => warn_once!(
                    &error.cause(),
                    lease = name,
                    "this replica cannot read the Lease and cannot forward notifications to the shard: {error}"
                ),
            }
            // A pause between two reads limits the number of reads while a leader does not answer.
            sleep(PERIOD).await;
            let _ = timeout(FOLLOW_PERIOD, leader.was_unreachable()).await;
        }
    };
    join_all(leaders.into_iter().map(follow)).await;
}

/// Returns the address of the leader's notification receiver, which the leader advertises in the Lease.
fn advertised_address(lease: &LeaseObject) -> Option<SocketAddr> {
    lease.annotations().get(annotation::NOTIFICATIONS_ADDRESS)?.parse().ok()
}

fn holder(lease: &LeaseObject) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref()
}

/// Returns the resource version of the Lease as a number. Resource versions of one kind can be compared (KEP-5504).
/// Returns `None` if the resource version is not a number. In comparisons, `None` is less than every number.
fn version(lease: &LeaseObject) -> Option<u128> {
    lease.resource_version()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leadership must end 7 seconds after the last renewal, even if this replica has not noticed that it cannot
    /// renew the Lease. Three seconds later, a waiting replica may become the leader.
    #[test]
    fn leadership_ends_on_time_if_it_is_not_renewed() {
        let (term, begin) = (Leadership::default(), Instant::now());
        let after = |millis| begin + Duration::from_millis(millis);
        assert!(
            !term.is_on(begin),
            "a replica without the Lease must not count as the leader"
        );
        term.renewed(begin);
        assert!(term.is_on(after(6999)) && !term.is_on(after(7000)));
        term.renewed(after(2000));
        assert!(term.is_on(after(8999)) && !term.is_on(after(9000)));
        term.set(Until::NotYet);
        assert!(!term.is_on(after(2000)), "another replica has acquired the Lease");
        term.for_ever();
        assert!(term.is_on(after(86_400_000)));
    }
}
