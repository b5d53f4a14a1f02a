//! The settings of the operator, which come from the command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use tracing::info;

use crate::notifications::NamedSender;

use crate::core::{MetadataDomains, Shard};

/// The settings of the operator.
#[derive(Clone, Debug)]
pub struct Options {
    /// The path of a kubeconfig file. Without it, Valet tries `KUBECONFIG`, then the default file, and then the pod's
    /// service account.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig that Valet uses.
    pub context: Option<String>,
    /// The namespace that the operator serves. `None` means all namespaces.
    pub namespace: Option<String>,
    /// The namespace in which the credentials of ClusterObjectStores are stored.
    pub operator_namespace: String,
    /// The address that serves `/livez`, `/readyz` and `/metrics`.
    pub http_address: SocketAddr,
    /// The number of seconds after which Valet deletes a finished grant. `None` means that Valet does not delete
    /// finished grants.
    pub ttl_seconds_after_finished: Option<i64>,
    /// The maximum number of concurrent reconciles of each kind of grant.
    pub concurrency: u16,
    /// The resync period: the maximum time between two reconciles of a grant.
    pub resync: Duration,
    /// True if an ObjectStore is allowed to use the operator's own credentials. This applies to an ObjectStore whose
    /// spec names no credentials Secret.
    pub share_environment: bool,
    /// Networks in which endpoints of ObjectStores are allowed, although these networks are not public.
    pub private_endpoints: Vec<IpNet>,
    /// Networks in which endpoints of ObjectStores are forbidden, even if another setting allows them.
    pub denied_endpoints: Vec<IpNet>,
    /// The domains of the labels and annotations that grants may set on their Secrets.
    pub secret_metadata: MetadataDomains,
    /// True if Valet may send write requests to the endpoints of ObjectStores. If false, Valet sends only read requests
    /// to them.
    pub tenants_change: bool,
    /// True if Valet watches grant Secrets. The watch needs the permission to list all Secrets. Without this watch,
    /// Valet notices a changed Secret only at the next reconcile of its grant, which takes place within the resync
    /// period.
    pub watch_secrets: bool,
    /// The settings of the notification receiver. `None` disables it.
    pub notifications: Option<Notifications>,
    /// True if leader election is on. The operator then works only while it holds a Lease in its namespace. It stops
    /// when it loses the Lease.
    pub leader_elect: bool,
    /// The stores that this operator serves, if several operators divide the stores among themselves.
    pub shard: Shard,
}

impl Options {
    /// Logs the effective settings once at startup. The settings contain no secrets.
    pub fn log(&self) {
        let Self {
            kubeconfig,
            context,
            namespace,
            operator_namespace,
            http_address,
            ttl_seconds_after_finished,
            concurrency,
            resync,
            share_environment,
            private_endpoints,
            denied_endpoints,
            secret_metadata,
            tenants_change,
            watch_secrets,
            notifications,
            leader_elect,
            shard,
        } = self;
        let text = |path: &PathBuf| path.display().to_string();
        let networks = |all: &[IpNet]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let senders = |senders: &[NamedSender]| senders.iter().map(|s| s.name.clone()).collect::<Vec<_>>().join(",");
        info!(
            version = env!("CARGO_PKG_VERSION"),
            kubeconfig = kubeconfig.as_ref().map(text),
            context,
            namespace = namespace.as_deref().unwrap_or("(all)"),
            operator_namespace,
            %http_address,
            ttl_seconds_after_finished = ttl_seconds_after_finished.map_or("never".into(), |s| s.to_string()),
            concurrency,
            resync_seconds = resync.as_secs(),
            watch_secrets,
            leader_elect,
            shard = shard.index(),
            shards = shard.count(),
            share_credentials_with_namespaces = share_environment,
            allow_private_endpoints = networks(private_endpoints),
            deny_endpoints = networks(denied_endpoints),
            allow_secret_metadata = %secret_metadata,
            tenant_store_requests = if *tenants_change { "All" } else { "ReadOnly" },
            notifications_address = notifications.as_ref().map(|n| n.address.to_string()),
            notifications_token_file = notifications.as_ref().map(|n| text(&n.token_file)),
            notifications_sns_topics = notifications.as_ref().map(|n| senders(&n.sns_topics)),
            notifications_google_accounts = notifications.as_ref().and_then(|n| n.google.as_ref()).map(|(a, _)| senders(a)),
            "valet is starting"
        );
    }
}

/// The settings of the notification receiver.
#[derive(Clone, Debug)]
pub struct Notifications {
    /// The address that the receiver listens on.
    pub address: SocketAddr,
    /// The path of the token file. Each line contains a token and the stores for which the token is valid.
    pub token_file: PathBuf,
    /// The ARNs of the accepted SNS topics.
    pub sns_topics: Vec<NamedSender>,
    /// The Google accounts that may send notifications, and the audience that their identity tokens must have.
    pub google: Option<(Vec<NamedSender>, String)>,
    /// The address at which other replicas reach the notification receiver of this replica.
    pub advertise: Option<SocketAddr>,
}
