//! The verbs of the program: `valet controller`, `valet crds`, `valet sign`.

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
    core::MetadataDomains,
    telemetry::{LogFormat, init_logs},
};

/// Hands out valet keys: signed, scoped, time-limited URLs for one object in an object store.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the operator: watch grants, sign keys, keep their time.
    Controller(Box<ControllerArgs>),
    /// Print the custom resource definitions, for: valet crds | kubectl apply -f -
    Crds,
    /// Do offline what the operator would do with a grant, and print the Secret.
    ///
    /// Judges the grant by the store's access rules and signs it by the operator's own code: for a ClusterObjectStore with the
    /// credentials in the environment (AWS_ACCESS_KEY_ID and so on, or a profile), for an ObjectStore with its Secret, which
    /// must be among the files. Nothing is sent to anybody, unless --online is given. What the operator would refuse is
    /// refused, with the same message and exit code 1.
    Sign(sign::SignArgs),
}

#[derive(Debug, Args)]
struct ControllerArgs {
    /// Kubeconfig file of the cluster. Without it: the KUBECONFIG variable, the default file, or the pod's service
    /// account.
    #[arg(long, env = "VALET_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Context in the kubeconfig. Without it: its current context.
    #[arg(long, env = "VALET_CONTEXT", value_name = "NAME")]
    context: Option<String>,

    /// Serve the grants of this namespace only. Without it: all namespaces.
    #[arg(long, env = "VALET_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Namespace in which the credentials Secrets of ClusterObjectStores are.
    #[arg(
        long,
        env = "VALET_OPERATOR_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "valet-system"
    )]
    operator_namespace: String,

    /// Address on which /livez, /readyz and /metrics are served.
    #[arg(
        long,
        env = "VALET_HTTP_ADDRESS",
        value_name = "IP:PORT",
        default_value = "0.0.0.0:8080"
    )]
    http_address: SocketAddr,

    /// How log lines look: human for people, json for collectors.
    #[arg(long, env = "VALET_LOG_FORMAT", value_enum, default_value = "human")]
    log_format: LogFormat,

    /// How much is logged: error, warn, info, debug or trace, or a filter such as info,valet=debug. URLs and
    /// credentials are logged at no level.
    #[arg(
        long,
        env = "VALET_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info,kube_runtime=warn"
    )]
    log_level: String,

    /// Seconds after which a finished grant is deleted, unless its spec says otherwise; "never" keeps it.
    #[arg(long, env = "VALET_TTL_SECONDS_AFTER_FINISHED", value_name = "SECONDS", default_value = "3600", value_parser = ttl)]
    ttl_seconds_after_finished: Ttl,

    /// Grants of each kind for ClusterObjectStores that are reconciled at the same time; one namespace has a quarter of that,
    /// unless --namespace is given. Grants for ObjectStores are reconciled besides: four times as many, and an eighth for one
    /// namespace.
    #[arg(long, env = "VALET_CONCURRENCY", value_name = "NUMBER", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,

    /// Seconds after which a grant is looked at again even if nothing seems to have happened, in case a watch missed
    /// it.
    #[arg(long, env = "VALET_SWEEP_SECONDS", value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86400))]
    sweep_seconds: u64,

    /// Watch grants' Secrets, so that one that is deleted or edited is restored at once. Takes the right to list and
    /// watch Secrets, and with it to read all of them. Without it that is seen when the grant is looked at next, at
    /// the latest after --sweep-seconds.
    #[arg(long, env = "VALET_WATCH_SECRETS")]
    watch_secrets: bool,

    /// Let ObjectStores without credentials of their own sign with the operator's: whoever may create one can then
    /// reach whatever the operator's identity can.
    #[arg(long, env = "VALET_SHARE_CREDENTIALS_WITH_NAMESPACES")]
    share_credentials_with_namespaces: bool,

    /// Networks, as CIDRs separated by commas, in which the endpoints of ObjectStores may be although their addresses
    /// are not public. ClusterObjectStores are the platform's own and may lead anywhere.
    #[arg(
        long,
        env = "VALET_ALLOW_PRIVATE_ENDPOINTS",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    allow_private_endpoints: Vec<ipnet::IpNet>,

    /// Networks, as CIDRs separated by commas, in which the endpoints of ObjectStores may not be: public addresses that lead
    /// inwards, such as those of the nodes, of the apiserver and of NAT64 prefixes of your own. It wins over
    /// --allow-private-endpoints.
    #[arg(long, env = "VALET_DENY_ENDPOINTS", value_name = "CIDR", value_delimiter = ',')]
    deny_endpoints: Vec<ipnet::IpNet>,

    /// Domains, separated by commas, whose labels and annotations grants may put on their Secrets (spec.secretTemplate), beside
    /// names without a domain. Other systems act on Secrets by labels of their own: allow a domain only if every tenant may
    /// do what they make of it.
    #[arg(
        long,
        env = "VALET_ALLOW_SECRET_METADATA",
        value_name = "DOMAIN",
        value_delimiter = ',',
        default_value = MetadataDomains::DEFAULT
    )]
    allow_secret_metadata: Vec<String>,
    /// What the operator may send to an endpoint that an ObjectStore names: ReadOnly (GET and HEAD, which change nothing), or All,
    /// which adds multipart uploads, assumeRole, and probes and conformance checks that write. Amazon's, Azure's and Google's own
    /// hosts, and ClusterObjectStores, are not concerned.
    #[arg(
        long,
        env = "VALET_TENANT_STORE_REQUESTS",
        value_name = "WHICH",
        value_enum,
        ignore_case = true,
        default_value = "ReadOnly"
    )]
    tenant_store_requests: TenantStoreRequests,

    /// Address on which stores may say that objects have come (POST /notifications); off unless it is given. Takes
    /// --notifications-token-file, too. Without it uploads are seen by asking the store, after 2 s and then less and less
    /// often, a minute apart at most.
    #[arg(
        long,
        env = "VALET_NOTIFICATIONS_ADDRESS",
        value_name = "IP:PORT",
        requires = "notifications_token_file"
    )]
    notifications_address: Option<SocketAddr>,

    /// File with the tokens that notifications must present: one a line, each of at least 16 characters, and behind it the
    /// stores that its sender may report objects of: NAME for a ClusterObjectStore, NAMESPACE/NAME for an ObjectStore, * for all
    /// ClusterObjectStores, NAMESPACE/* for all ObjectStores of a namespace. The file is read again when it changes.
    #[arg(long, env = "VALET_NOTIFICATIONS_TOKEN_FILE", value_name = "FILE")]
    notifications_token_file: Option<PathBuf>,

    /// SNS topics whose subscriptions are confirmed when they ask, separated by commas, each with a store that it may report
    /// objects of, named as in --notifications-token-file. For several stores, write the topic again with each.
    #[arg(
        long,
        env = "VALET_NOTIFICATIONS_SNS_TOPICS",
        value_name = "ARN=STORE",
        value_delimiter = ','
    )]
    notifications_sns_topics: Vec<controller::NamedSender>,

    /// Google service accounts as whom Pub/Sub may send notifications, separated by commas, each with a store that it may
    /// report objects of, named as in --notifications-token-file: their identity tokens are taken in place of a token of that
    /// file. For several stores, write the account again with each.
    #[arg(
        long,
        env = "VALET_NOTIFICATIONS_GOOGLE_ACCOUNTS",
        value_name = "EMAIL=STORE",
        value_delimiter = ',',
        requires = "notifications_google_audience"
    )]
    notifications_google_accounts: Vec<controller::NamedSender>,

    /// The audience that those identity tokens must be for: what the subscription has as its audience, by default its
    /// push endpoint.
    #[arg(
        long,
        env = "VALET_NOTIFICATIONS_GOOGLE_AUDIENCE",
        value_name = "URL",
        requires = "notifications_google_accounts"
    )]
    notifications_google_audience: Option<String>,

    /// IP address at which other replicas reach this one, in a pod its own: one that waits for the Lease passes
    /// notifications on to the one that works.
    #[arg(long, env = "VALET_POD_IP", value_name = "IP")]
    pod_ip: Option<IpAddr>,

    /// Work only while holding the Lease "valet" in the operator's namespace, and let other replicas wait. Without it
    /// several replicas do no harm, but the same work several times.
    #[arg(long, env = "VALET_LEADER_ELECT")]
    leader_elect: bool,
}

/// What is sent to endpoints that tenants name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum TenantStoreRequests {
    /// Only requests that change nothing.
    #[value(name = "ReadOnly")]
    ReadOnly,
    /// Also those that write, delete or assume a role.
    #[value(name = "All")]
    All,
}

/// Seconds, or never.
#[derive(Clone, Copy, Debug)]
struct Ttl(Option<i64>);

fn ttl(text: &str) -> Result<Ttl, String> {
    match text {
        "never" => Ok(Ttl(None)),
        _ => match text.parse::<i64>() {
            Ok(seconds) if seconds >= 0 => Ok(Ttl(Some(seconds))),
            _ => Err("give a number of seconds, 0 or more, or the word never".into()),
        },
    }
}

/// Runs the verb that the command line names.
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
    let options = controller::Options {
        kubeconfig: args.kubeconfig,
        context: args.context,
        namespace: args.namespace,
        operator_namespace: args.operator_namespace,
        http_address: args.http_address,
        ttl_seconds_after_finished: args.ttl_seconds_after_finished.0,
        concurrency: args.concurrency,
        sweep: Duration::from_secs(args.sweep_seconds),
        share_environment: args.share_credentials_with_namespaces,
        private_endpoints: args.allow_private_endpoints,
        denied_endpoints: args.deny_endpoints,
        secret_metadata: MetadataDomains::new(args.allow_secret_metadata),
        tenants_change: args.tenant_store_requests == TenantStoreRequests::All,
        watch_secrets: args.watch_secrets,
        notifications,
        leader_elect: args.leader_elect,
    };
    controller::run(options, stop_signal()).await
}

/// Resolves at SIGTERM (the kubelet's word) or at Ctrl-C.
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
        let yaml = serde_yaml::to_string(&crd).map_err(|e| format!("a CRD cannot be written as YAML: {e}"))?;
        text.push_str("---\n");
        text.push_str(&yaml);
    }
    print_text(&text)
}

/// Prints, and takes a reader that has gone away (as in `valet crds | head`) for satisfied.
fn print_text(text: &str) -> Result<(), String> {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(format!("standard output: {e}")),
        _ => Ok(()),
    }
}
