use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use kube::{Api, Client};
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::{
    apiserver::Apiserver,
    clock::watch_clock,
    cluster::check_crds,
    history::went_back,
    kinds::{Kind, Shelf},
    lease::{Lease, Term},
    options::Options,
    places::Places,
    record_key::RecordKeyStore,
    requests::Requests,
    silent::went_silent,
    states,
    stores::{Stores, scoped},
    watch::{watch_namespaces, watch_secrets},
};
use crate::{
    api::{ClusterObjectStore, DownloadGrant, ObjectStore, Operation, UploadGrant},
    net::Outward,
    notifications::{Awaited, GOOGLE_CERTIFICATES, GoogleTokens, Leader, Receiver, Tokens, Topics},
    telemetry::{Health, Metrics, Progress, REPEATS, States, serve},
};

/// How often what was counted for things that are gone is looked through.
const FORGETTING: Duration = Duration::from_secs(60);

/// Resolves for everybody at once.
pub type Stop = Shared<BoxFuture<'static, ()>>;

/// What all parts share.
pub struct Parts {
    /// The apiserver.
    pub client: Client,
    /// Stores, kept fresh.
    pub stores: Arc<Stores>,
    /// Places for grants with a key, where their number is limited.
    pub places: Arc<Places>,
    /// How many visits wait for one store.
    pub requests: Arc<Requests>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether reconciles come to their end.
    pub progress: Arc<Progress>,
    /// What the probes say.
    pub health: Health,
    /// The uploads of which stores are to tell, if they do.
    pub awaited: Option<Arc<Awaited>>,
    /// What the operator was started with.
    pub options: Options,
    /// Resolves when it is to end.
    pub stop: Stop,
}

/// The parts that must have listed what there is before the operator counts as ready: two kinds of grant, two of
/// store, and the namespaces; with [`Options::watch_secrets`] also the Secrets.
const WATCHES: usize = 5;

/// Runs the operator until `stop` resolves and the work in hand is done.
///
/// # Errors
/// A sentence, if it cannot start: no cluster, no CRDs, no address.
pub async fn run(options: Options, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), String> {
    let apiserver = Apiserver::connect(&options).await?;
    let (client, contact) = (apiserver.client.clone(), apiserver.contact.clone());
    let connection = apiserver.keep(options.clone());
    check_crds(&client, options.namespace.as_deref()).await?;

    let progress = Arc::new(Progress::default());
    let kept = RecordKeyStore::new(client.clone(), &options.operator_namespace);
    let records = kept.open().await?;
    let uploads = Kind::<UploadGrant>::new(records.clone(), progress.clone());
    let downloads = Kind::<DownloadGrant>::new(records.clone(), progress.clone());
    let callers = (uploads.caller.clone(), downloads.caller.clone());
    let (own, shared) = (Shelf::<ObjectStore>::new(), Shelf::<ClusterObjectStore>::new());
    let call = {
        let (uploads, downloads) = callers.clone();
        move |operation, namespace: &str, name: &str| match operation {
            Operation::Upload => uploads.call(name, namespace),
            Operation::Download => downloads.call(name, namespace),
        }
    };
    let requests = Arc::new(Requests::new(options.concurrency, call.clone()));
    let stores = Arc::new(Stores::new(
        client.clone(),
        options.operator_namespace.clone(),
        options.share_environment,
        Outward::new(options.private_endpoints.clone())
            .denying(options.denied_endpoints.clone())
            .changing(options.tenants_change),
        requests.clone(),
    ));
    let term = Arc::new(Term::default());
    let metrics = Metrics::new(progress.clone(), {
        let (term, stores) = (term.clone(), stores.clone());
        let ((uploads, downloads), own, shared) = (callers.clone(), own.reader.clone(), shared.reader.clone());
        let scope = options.namespace.clone();
        move || match term.is_on(tokio::time::Instant::now()) {
            false => States::default(),
            true => States {
                leads: true,
                grants: [states::grants(&uploads), states::grants(&downloads)].concat(),
                stores: [
                    states::stores(&own, &stores, None),
                    states::stores(&shared, &stores, scope.as_deref()),
                ]
                .concat(),
            },
        }
    });
    let parts = Parts {
        stores,
        places: Arc::new(Places::new(call)),
        requests,
        client: client.clone(),
        metrics: Arc::new(metrics),
        progress,
        health: Health::waiting_for(WATCHES + usize::from(options.watch_secrets), contact),
        awaited: options.notifications.is_some().then(Arc::default),
        options,
        stop: stop.boxed().shared(),
    };
    parts.health.standing_by(parts.options.leader_elect);
    let namespace = parts.options.namespace.as_deref();
    parts.options.log();

    let http = serve(
        parts.options.http_address,
        parts.health.clone(),
        parts.progress.clone(),
        parts.metrics.clone(),
        parts.stop.clone(),
    );
    // The server ends with the others, unless it could not start.
    let http = async { http.await.and(std::future::pending().await) };
    let leader = Arc::new(Leader::default());
    let receiver = receive(&parts, leader.clone()).await?;
    let http = async {
        tokio::select! { result = http => result, result = receiver => result }
    };
    let mut http = std::pin::pin!(http);
    let advertise = parts.options.notifications.as_ref().and_then(|n| n.advertise);
    let candidate = Lease::new(
        client.clone(),
        &parts.options.operator_namespace,
        identity(),
        advertise,
        leader,
        term.clone(),
    );
    let mut held = None;
    let mut connection = std::pin::pin!(connection);
    let repeats = tokio::spawn(log_repeats());
    let _ends = AbortOnDrop(repeats);
    if parts.options.leader_elect {
        info!("waiting for the lease");
        tokio::select! {
            result = &mut http => return result,
            why = &mut connection => {
                error!("{why}");
                return Err(why);
            }
            () = parts.stop.clone() => return Ok(()),
            lease = candidate.acquire() => held = Some(lease),
        }
        parts.health.standing_by(false);
    } else {
        term.for_ever();
    }
    let namespace = namespace.map(str::to_owned);
    let secrets = async {
        if parts.options.watch_secrets {
            watch_secrets(client.clone(), namespace.clone(), callers.clone(), parts.health.clone()).await;
        } else {
            std::future::pending().await
        }
    };
    let calls = async {
        match &parts.awaited {
            Some(awaited) => awaited.serve(|call| callers.0.heard(&call)).await,
            None => std::future::pending().await,
        }
    };
    let forgets = async {
        loop {
            sleep(FORGETTING).await;
            parts.metrics.forget_gone(Instant::now());
        }
    };
    let clock = watch_clock(|| {
        callers.0.clock_stepped();
        callers.1.clock_stepped();
    });
    let watches = futures::future::join5(
        calls,
        secrets,
        watch_namespaces(
            client.clone(),
            namespace.clone(),
            parts.stores.clone(),
            callers.clone(),
            parts.health.clone(),
        ),
        shared.keep(&parts, Api::all(client.clone()), |c, _| Api::all(c), callers.clone()),
        own.keep(
            &parts,
            scoped(client.clone(), namespace.as_deref()),
            Api::namespaced,
            callers.clone(),
        ),
    );
    let work = futures::future::join(uploads.work(&parts), downloads.work(&parts));
    let lost = async {
        match &mut held {
            Some(held) => candidate.keep(held).await,
            None => std::future::pending().await,
        }
    };
    let backwards = went_back(client.clone(), namespace.as_deref());
    let silent = went_silent(
        client.clone(),
        namespace.as_deref(),
        callers.clone(),
        parts.health.clone(),
    );
    let restart = tokio::select! {
        result = http => return result,
        why = connection => Some(why),
        why = backwards => Some(why),
        why = silent => Some(why),
        () = forgets => None,
        why = kept.keep(&records) => Some(why),
        () = clock => None,
        _ = watches => return Err("a watch ended, which none should".into()),
        why = lost => return Err(format!("the lease was lost: {why}; another replica goes on")),
        // The visits in hand are seen to their end.
        _ = work => None,
    };
    if let Some(held) = held {
        candidate.release(held).await;
    }
    if let Some(why) = restart {
        error!("{why}");
        return Err(why);
    }
    info!("valet has stopped; published keys stay valid, and the next start takes everything up again");
    Ok(())
}

/// Ends a task with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Logs the numbers of failures that were not logged one by one.
async fn log_repeats() {
    loop {
        sleep(Duration::from_secs(1)).await;
        if let Some(line) = REPEATS.take_due(Instant::now()) {
            warn!("{line}");
        }
    }
}

/// The receiver of notifications, if there is to be one; it ends only if it cannot work.
async fn receive(
    parts: &Parts,
    leader: Arc<Leader>,
) -> Result<impl Future<Output = Result<(), String>> + use<>, String> {
    let wanted = match (&parts.options.notifications, &parts.awaited) {
        (Some(options), Some(awaited)) => {
            let receiver = Receiver {
                tokens: Tokens::open(options.token_file.clone()).await?,
                topics: Topics::new(options.sns_topics.clone()),
                google: options.google.clone().map(|(accounts, audience)| {
                    let certificates = http::Uri::from_static(GOOGLE_CERTIFICATES);
                    GoogleTokens::new(accounts, audience, certificates)
                }),
                awaited: awaited.clone(),
                health: parts.health.clone(),
                leader,
                metrics: parts.metrics.clone(),
            };
            Some((receiver, options.address))
        }
        _ => None,
    };
    Ok(async {
        match wanted {
            Some((receiver, address)) => receiver.serve(address).await,
            None => std::future::pending().await,
        }
    })
}

/// A name for this process alone: the pod's, and when it started.
fn identity() -> String {
    let host = std::env::var("POD_NAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| "valet".into());
    format!(
        "{host}_{}_{}",
        std::process::id(),
        jiff::Timestamp::now().as_nanosecond()
    )
}
