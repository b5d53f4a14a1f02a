//! The subcommands of the program: `valet controller`, `valet crds` and `valet sign`.

mod print;
mod sign;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    controller,
    core::{MetadataDomains, Shard},
    telemetry::{LogFormat, init_logs},
};

/// Issues signed, time-limited credentials for one object in an object store.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the operator: watch grants, issue credentials and end them on time.
    Controller(Box<ControllerArgs>),
    /// Print the CustomResourceDefinitions. To install them, run: valet crds | kubectl apply -f -
    Crds,
    /// Check a grant offline, as the operator does, and print the grant Secret.
    ///
    /// Checks the grant against the store's access rules and signs it, with the same code as the operator. For a
    /// ClusterObjectStore, the command uses the credentials in the environment (AWS_ACCESS_KEY_ID and so on, or a
    /// profile). For an ObjectStore, the command uses the ObjectStore's Secret, which must be in the files. Without
    /// --online, the command sends no requests. If the operator would refuse the grant, the command prints the same
    /// message as the operator and exits with status 1.
    Sign(sign::SignArgs),
}

#[derive(Debug, Args)]
struct ControllerArgs {
    /// Kubeconfig file of the cluster. Without this flag: the KUBECONFIG variable, the default file, or the pod's
    /// service account.
    #[arg(long, env = "VALET_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Context in the kubeconfig. Without this flag: the current context.
    #[arg(long, env = "VALET_CONTEXT", value_name = "NAME")]
    context: Option<String>,

    /// Serve only the grants of this namespace. Without this flag: all namespaces.
    #[arg(long, env = "VALET_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Namespace of the credentials Secrets of ClusterObjectStores.
    #[arg(
        long,
        env = "VALET_OPERATOR_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "valet-system"
    )]
    operator_namespace: String,

    /// Address of /livez, /readyz and /metrics.
    #[arg(
        long,
        env = "VALET_HTTP_ADDRESS",
        value_name = "IP:PORT",
        default_value = "0.0.0.0:8080"
    )]
    http_address: SocketAddr,

    /// Format of log lines: human (text) or json (one JSON object per line).
    #[arg(long, env = "VALET_LOG_FORMAT", value_enum, default_value = "human")]
    log_format: LogFormat,

    /// Log level: error, warn, info, debug or trace, or a filter such as info,valet=debug. No level logs URLs or
    /// credentials.
    #[arg(
        long,
        env = "VALET_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info,kube_runtime=warn"
    )]
    log_level: String,

    /// Seconds after which a finished grant is deleted, unless its spec sets another time. "never" keeps finished
    /// grants.
    #[arg(long, env = "VALET_TTL_SECONDS_AFTER_FINISHED", value_name = "SECONDS", default_value = "3600", value_parser = ttl)]
    ttl_seconds_after_finished: Ttl,

    /// Maximum number of grants that the operator reconciles at the same time. The limit applies separately to
    /// UploadGrants and to DownloadGrants, and only to grants for ClusterObjectStores. For grants for ObjectStores, the
    /// total limit is four times as high. While grants of several namespaces wait, one namespace uses at most a quarter
    /// of the value of this flag, or an eighth for ObjectStores.
    #[arg(long, env = "VALET_CONCURRENCY", value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,

    /// Resync interval in seconds. Each grant is reconciled at least this often, in case a watch missed a change.
    #[arg(long, env = "VALET_RESYNC_SECONDS", value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86400))]
    resync_seconds: u64,

    /// Watch grant Secrets, and restore a deleted or changed Secret at once. This flag needs the permissions to list
    /// and watch Secrets, which allow the operator to read all Secrets. Without this flag, the operator finds the
    /// change at the next reconcile of the grant, after --resync-seconds at the latest.
    #[arg(long, env = "VALET_WATCH_SECRETS")]
    watch_secrets: bool,

    /// Sign with the operator's own credentials for an ObjectStore that names no credentials Secret. A user who can
    /// create an ObjectStore can then reach everything that the operator's identity can reach.
    #[arg(long, env = "VALET_SHARE_CREDENTIALS_WITH_NAMESPACES")]
    share_credentials_with_namespaces: bool,

    /// Networks (CIDRs, separated by commas) with non-public addresses that the endpoints of ObjectStores can use.
    /// ClusterObjectStores belong to the platform team and can use any address.
    #[arg(
        long,
        env = "VALET_ALLOW_PRIVATE_ENDPOINTS",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    allow_private_endpoints: Vec<ipnet::IpNet>,

    /// Networks (CIDRs, separated by commas) that the endpoints of ObjectStores cannot use. List the public addresses
    /// that lead into your network, for example the addresses of the nodes and the apiserver, and your own NAT64
    /// prefixes. This flag overrides --allow-private-endpoints.
    #[arg(long, env = "VALET_DENY_ENDPOINTS", value_name = "CIDR", value_delimiter = ',')]
    deny_endpoints: Vec<ipnet::IpNet>,

    /// Domains (separated by commas) of the labels and annotations that grants can set on their Secrets
    /// (spec.secretTemplate). Names without a domain are always allowed. Other systems react to labels of Secrets, so
    /// allow a domain only if every tenant is allowed to trigger these reactions.
    #[arg(
        long,
        env = "VALET_ALLOW_SECRET_METADATA",
        value_name = "DOMAIN",
        value_delimiter = ',',
        default_value = MetadataDomains::DEFAULT
    )]
    allow_secret_metadata: Vec<String>,
    /// Which requests the operator sends to an endpoint that an ObjectStore names. ReadOnly: only GET and HEAD
    /// requests, which change nothing. All: also requests that write, delete or assume a role. Multipart uploads and
    /// assumeRole need All. Probes and conformance checks need All to write objects. This flag does not apply to
    /// ClusterObjectStores, or to the hosts of Amazon, Azure and Google.
    #[arg(
        long,
        env = "VALET_TENANT_STORE_REQUESTS",
        value_name = "WHICH",
        value_enum,
        ignore_case = true,
        default_value = "ReadOnly"
    )]
    tenant_store_requests: TenantStoreRequests,

    /// Address at which the operator receives notifications from stores about new objects (POST /notifications). Off
    /// by default. This flag also needs --notifications-token-file. Without notifications, Valet polls for uploads:
    /// first after 2 s, then less often, but at least once a minute.
    #[arg(
        long,
        env = "VALET_NOTIFICATIONS_ADDRESS",
        value_name = "IP:PORT",
        requires = "notifications_token_file"
    )]
    notifications_address: Option<SocketAddr>,

    /// File with the tokens of notification senders, one token per line. A token has at least 16 characters. After
    /// the token, the line names the stores whose objects the sender can report: NAME for a ClusterObjectStore,
    /// NAMESPACE/NAME for an ObjectStore, * for all ClusterObjectStores, NAMESPACE/* for all ObjectStores of a
    /// namespace. The operator reads the file again when it changes.
    #[arg(long, env = "VALET_NOTIFICATIONS_TOKEN_FILE", value_name = "FILE")]
    notifications_token_file: Option<PathBuf>,

    /// SNS topics (separated by commas) whose subscriptions the operator confirms. Each entry ARN=STORE names a topic
    /// and a store whose objects the topic can report. STORE has the same form as in --notifications-token-file. For
    /// a topic with several stores, write one entry for each store.
    #[arg(
        long,
        env = "VALET_NOTIFICATIONS_SNS_TOPICS",
        value_name = "ARN=STORE",
        value_delimiter = ','
    )]
    notifications_sns_topics: Vec<controller::NamedSender>,

    /// Google service accounts (separated by commas) that Pub/Sub uses to send notifications. Each entry EMAIL=STORE
    /// names an account and a store whose objects the account can report. STORE has the same form as in
    /// --notifications-token-file. For an account with several stores, write one entry for each store. The operator
    /// accepts the identity tokens of these accounts instead of a token from --notifications-token-file.
    #[arg(
        long,
        env = "VALET_NOTIFICATIONS_GOOGLE_ACCOUNTS",
        value_name = "EMAIL=STORE",
        value_delimiter = ',',
        requires = "notifications_google_audience"
    )]
    notifications_google_accounts: Vec<controller::NamedSender>,

    /// Audience that the identity tokens of Pub/Sub must have. Use the audience that is set in the Pub/Sub
    /// subscription. If none is set there, use the URL of the subscription's push endpoint.
    #[arg(
        long,
        env = "VALET_NOTIFICATIONS_GOOGLE_AUDIENCE",
        value_name = "URL",
        requires = "notifications_google_accounts"
    )]
    notifications_google_audience: Option<String>,

    /// IP address at which other replicas reach this replica. In a pod, use the pod's IP. A replica that is not the
    /// leader forwards notifications to the leader.
    #[arg(long, env = "VALET_POD_IP", value_name = "IP")]
    pod_ip: Option<IpAddr>,

    /// Work only while this replica holds the Lease "valet" in the operator's namespace ("valet-shard-I" with several
    /// shards). The other replicas wait. Without this flag, each replica does all of the work. This repeated work does
    /// no harm.
    #[arg(long, env = "VALET_LEADER_ELECT")]
    leader_elect: bool,

    /// Number of operator deployments (1 to 16) that divide the stores among themselves. A hash of the store decides
    /// which deployment serves the store and all its grants. Each deployment needs the same value of this flag and a
    /// different value of --shard.
    #[arg(long, env = "VALET_SHARDS", value_name = "NUMBER", default_value_t = 1)]
    shards: u16,

    /// Number of this deployment, from 0 to --shards minus 1.
    #[arg(long, env = "VALET_SHARD", value_name = "NUMBER", default_value_t = 0)]
    shard: u16,
}

/// Which requests the operator sends to endpoints that tenants name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum TenantStoreRequests {
    /// Only requests that change nothing.
    #[value(name = "ReadOnly")]
    ReadOnly,
    /// Also requests that write, delete or assume a role.
    #[value(name = "All")]
    All,
}

/// A number of seconds from a flag. `None` stands for the value `never` of the flag.
#[derive(Clone, Copy, Debug)]
struct Ttl(Option<i64>);

fn ttl(text: &str) -> Result<Ttl, String> {
    match text {
        "never" => Ok(Ttl(None)),
        _ => match text.parse::<i64>() {
            Ok(seconds) if seconds >= 0 => Ok(Ttl(Some(seconds))),
            _ => Err("the value must be a number of seconds (0 or more) or the word never".into()),
        },
    }
}

/// Runs the subcommand that the user chose.
pub async fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Controller(args) => run_controller(*args).await,
        Verb::Crds => print_crds(),
        Verb::Sign(args) => sign::run(args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("valet: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn run_controller(args: ControllerArgs) -> Result<(), String> {
    init_logs(args.log_format, &args.log_level)?;
    let notifications = args
        .notifications_address
        .zip(args.notifications_token_file)
        .map(|(address, token_file)| controller::Notifications {
            address,
            token_file,
            sns_topics: args.notifications_sns_topics,
            google: args
                .notifications_google_audience
                .map(|audience| (args.notifications_google_accounts, audience)),
            advertise: args.pod_ip.map(|ip| SocketAddr::new(ip, address.port())),
        });
    let shard = Shard::new(args.shard, args.shards)?;
    if !shard.is_only() && notifications.is_some() && !(args.leader_elect && args.pod_ip.is_some()) {
        return Err("--notifications-address: with several shards, a replica forwards notifications to the leaders of the other shards and finds their addresses in the Leases; set --leader-elect and --pod-ip, or unset --notifications-address".into());
    }
    let options = controller::Options {
        kubeconfig: args.kubeconfig,
        context: args.context,
        namespace: args.namespace,
        operator_namespace: args.operator_namespace,
        http_address: args.http_address,
        ttl_seconds_after_finished: args.ttl_seconds_after_finished.0,
        concurrency: args.concurrency,
        resync: Duration::from_secs(args.resync_seconds),
        share_environment: args.share_credentials_with_namespaces,
        private_endpoints: args.allow_private_endpoints,
        denied_endpoints: args.deny_endpoints,
        secret_metadata: MetadataDomains::new(args.allow_secret_metadata),
        tenants_change: args.tenant_store_requests == TenantStoreRequests::All,
        watch_secrets: args.watch_secrets,
        notifications,
        leader_elect: args.leader_elect,
        shard,
    };
    controller::run(options, stop_signal()).await
}

/// Resolves when the process receives SIGTERM from the kubelet, or SIGINT from Ctrl-C.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

fn print_crds() -> Result<(), String> {
    let mut text = String::from("# Generated by `valet crds`; do not edit.\n");
    for crd in crate::api::crds() {
        let yaml = serde_yaml::to_string(&crd).map_err(|e| format!("cannot write a CRD as YAML: {e}"))?;
        text.push_str("---\n");
        text.push_str(&yaml);
    }
    print::print_text(&text)
}
