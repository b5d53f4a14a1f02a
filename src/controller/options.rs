//! What the operator is started with, as the command line says it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use tracing::info;

use crate::notifications::NamedSender;

use crate::core::MetadataDomains;

/// What the operator is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// A kubeconfig file; absent: `KUBECONFIG`, the default file, or the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// A context in it.
    pub context: Option<String>,
    /// Serve the grants of this namespace only.
    pub namespace: Option<String>,
    /// Where ClusterObjectStores' credentials are.
    pub operator_namespace: String,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub http_address: SocketAddr,
    /// Seconds until a finished grant is deleted; `None` keeps it.
    pub ttl_seconds_after_finished: Option<i64>,
    /// Grants visited at the same time, of each kind.
    pub concurrency: u16,
    /// A grant is looked at again after this long at the latest.
    pub sweep: Duration,
    /// Whether an ObjectStore without credentials may sign with the operator's own.
    pub share_environment: bool,
    /// Networks in which ObjectStores' endpoints may be although they are not public.
    pub private_endpoints: Vec<IpNet>,
    /// Networks in which they may not be, whatever else allows them.
    pub denied_endpoints: Vec<IpNet>,
    /// The domains of labels and annotations that grants may put on their Secrets.
    pub secret_metadata: MetadataDomains,
    /// Whether requests that change something may go to endpoints that ObjectStores name.
    pub tenants_change: bool,
    /// Whether to watch grants' Secrets, which takes the right to list every Secret; otherwise what happens to one is
    /// seen at the next visit, `sweep` later at the latest.
    pub watch_secrets: bool,
    /// Where stores say that objects have come, if they do.
    pub notifications: Option<Notifications>,
    /// Whether to wait for a Lease in the operator's namespace before working, and to stop when it is lost.
    pub leader_elect: bool,
}

impl Options {
    /// Logs what is in force, once at the start. There is nothing secret in it.
    pub fn log(&self) {
        let Self {
            kubeconfig,
            context,
            namespace,
            operator_namespace,
            http_address,
            ttl_seconds_after_finished,
            concurrency,
            sweep,
            share_environment,
            private_endpoints,
            denied_endpoints,
            secret_metadata,
            tenants_change,
            watch_secrets,
            notifications,
            leader_elect,
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
            sweep_seconds = sweep.as_secs(),
            watch_secrets,
            leader_elect,
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

/// How notifications of stores are taken.
#[derive(Clone, Debug)]
pub struct Notifications {
    /// Where.
    pub address: SocketAddr,
    /// The file with the tokens that may be presented, one a line, each with its stores.
    pub token_file: PathBuf,
    /// The SNS topics that may send, by ARN.
    pub sns_topics: Vec<NamedSender>,
    /// Google's accounts whose identity tokens are taken for this audience.
    pub google: Option<(Vec<NamedSender>, String)>,
    /// Where other replicas reach this one, if they do.
    pub advertise: Option<SocketAddr>,
}
