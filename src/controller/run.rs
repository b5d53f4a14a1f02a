use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use kube::Api;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::{
    apiserver::Apiserver,
    clock::watch_clock,
    cluster::check_crds,
    controllers::{GrantController, StoreController},
    history::wait_for_restored_history,
    leader_election::{Leadership, Lease, follow_leaders, lease_name},
    metrics_snapshot,
    options::Options,
    quota::Quotas,
    record_key::RecordKeyStore,
    shared_context::SharedContext,
    silent::went_silent,
    store_limiter::StoreLimiter,
    stores::{Stores, scoped_api},
    watch::{watch_namespaces, watch_secrets},
};
use crate::{
    api::{ClusterObjectStore, DownloadGrant, ObjectStore, Operation, UploadGrant},
    core::Shard,
    net::EgressPolicy,
    notifications::{GOOGLE_CERTIFICATES, GoogleTokens, Leader, Receiver, Tokens, Topics},
    telemetry::{Health, Metrics, Progress, REPEATS, States, serve},
};

/// Valet removes the metric series of deleted objects every 60 seconds.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(60);

/// The number of watches that must complete their first list before the operator is ready. The operator watches
/// UploadGrants, DownloadGrants, ObjectStores, ClusterObjectStores and namespaces. With [`Options::watch_secrets`], the
/// operator also watches Secrets, which this number does not include.
const WATCHES: usize = 5;

/// Runs the operator until `stop` resolves and running reconciles have finished.
///
/// # Errors
///
/// Returns a message if the operator cannot start. For example, it cannot connect to the cluster, the CRDs are not
/// installed, or an address is in use.
pub async fn run(options: Options, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), String> {
    let apiserver = Apiserver::connect(&options).await?;
    let (client, contact) = (apiserver.client.clone(), apiserver.contact.clone());
    let connection = apiserver.watch_for_change(options.clone());
    check_crds(&client, options.namespace.as_deref()).await?;

    let progress = Arc::new(Progress::default());
    let kept = RecordKeyStore::new(client.clone(), &options.operator_namespace);
    let records = kept.open().await?;
    let uploads = GrantController::<UploadGrant>::new(records.clone(), progress.clone());
    let downloads = GrantController::<DownloadGrant>::new(records.clone(), progress.clone());
    let requeuers = (uploads.requeuer.clone(), downloads.requeuer.clone());
    let foreign = (uploads.foreign.clone(), downloads.foreign.clone());
    let (own, shared) = (
        StoreController::<ObjectStore>::new(),
        StoreController::<ClusterObjectStore>::new(),
    );
    let call = {
        let (uploads, downloads) = requeuers.clone();
        move |operation, namespace: &str, name: &str| match operation {
            Operation::Upload => uploads.enqueue(name, namespace),
            Operation::Download => downloads.enqueue(name, namespace),
        }
    };
    let store_limiter = Arc::new(StoreLimiter::new(options.concurrency, call.clone()));
    let stores = Arc::new(Stores::new(
        client.clone(),
        options.operator_namespace.clone(),
        options.share_environment,
        EgressPolicy::new(options.private_endpoints.clone())
            .denying(options.denied_endpoints.clone())
            .changing(options.tenants_change),
        store_limiter.clone(),
    ));
    let term = Arc::new(Leadership::default());
    let shard = options.shard;
    let metrics = Metrics::new(progress.clone(), (shard.index(), shard.count()), {
        let (term, stores) = (term.clone(), stores.clone());
        let ((uploads, downloads), own, shared) = (requeuers.clone(), own.reader.clone(), shared.reader.clone());
        let scope = options.namespace.clone();
        move || match term.is_on(tokio::time::Instant::now()) {
            false => States::default(),
            true => States {
                leads: true,
                grants: [metrics_snapshot::grants(&uploads), metrics_snapshot::grants(&downloads)].concat(),
                stores: [
                    metrics_snapshot::stores(&own, &stores, None),
                    metrics_snapshot::stores(&shared, &stores, scope.as_deref()),
                ]
                .concat(),
            },
        }
    });
    let parts = SharedContext {
        stores,
        quotas: Arc::new(Quotas::new(call)),
        store_limiter,
        client: client.clone(),
        metrics: Arc::new(metrics),
        progress,
        health: Health::waiting_for(WATCHES + usize::from(options.watch_secrets), contact),
        upload_index: options.notifications.is_some().then(Arc::default),
        options,
        stop: stop.boxed().shared(),
    };
    parts.health.standby(parts.options.leader_elect);
    let namespace = parts.options.namespace.as_deref();
    parts.options.log();

    let http = serve(
        parts.options.http_address,
        parts.health.clone(),
        parts.progress.clone(),
        parts.metrics.clone(),
        parts.stop.clone(),
    );
    // If the HTTP server ends with an error, the operator ends with the same error. If the HTTP server stops normally,
    // the operator still finishes its running reconciles.
    let http = async { http.await.and(std::future::pending().await) };
    let leader = Arc::new(Leader::default());
    let others: Vec<_> = shard.others().map(|shard| (shard, Arc::<Leader>::default())).collect();
    let receiver = receive(&parts, leader.clone(), others.clone()).await?;
    let followed = parts.options.notifications.is_some().then(|| {
        let followed = follow_leaders(client.clone(), parts.options.operator_namespace.clone(), others);
        AbortOnDrop(tokio::spawn(followed))
    });
    let http = async {
        tokio::select! { result = http => result, result = receiver => result }
    };
    let mut http = std::pin::pin!(http);
    let advertise = parts.options.notifications.as_ref().and_then(|n| n.advertise);
    let candidate = Lease::new(
        client.clone(),
        &parts.options.operator_namespace,
        lease_name(shard),
        identity(),
        advertise,
        leader,
        term.clone(),
    );
    let mut held = None;
    let mut connection = std::pin::pin!(connection);
    let repeats = tokio::spawn(log_repeats());
    let _ends = (AbortOnDrop(repeats), followed);
    if parts.options.leader_elect {
        info!("waiting for the Lease");
        tokio::select! {
            result = &mut http => return result,
            why = &mut connection => {
                error!("{why}");
                return Err(why);
            }
            () = parts.stop.clone() => return Ok(()),
            lease = candidate.acquire() => held = Some(lease),
        }
        parts.health.standby(false);
    } else {
        term.for_ever();
    }
    let namespace = namespace.map(str::to_owned);
    let secrets = async {
        if parts.options.watch_secrets {
            watch_secrets(
                client.clone(),
                namespace.clone(),
                requeuers.clone(),
                parts.health.clone(),
            )
            .await;
        } else {
            std::future::pending().await
        }
    };
    let requeues = async {
        match &parts.upload_index {
            Some(upload_index) => upload_index.serve(|call| requeuers.0.notified(&call)).await,
            None => std::future::pending().await,
        }
    };
    let forgets = async {
        loop {
            sleep(CLEANUP_INTERVAL).await;
            parts.metrics.forget_gone(Instant::now());
        }
    };
    let clock = watch_clock(|| {
        requeuers.0.clock_stepped();
        requeuers.1.clock_stepped();
    });
    let watches = futures::future::join5(
        requeues,
        secrets,
        watch_namespaces(
            client.clone(),
            namespace.clone(),
            parts.stores.clone(),
            requeuers.clone(),
            parts.health.clone(),
        ),
        shared.run(&parts, Api::all(client.clone()), |c, _| Api::all(c), requeuers.clone()),
        own.run(
            &parts,
            scoped_api(client.clone(), namespace.as_deref()),
            Api::namespaced,
            requeuers.clone(),
        ),
    );
    // Each controller is a task of its own, so an event for one controller does not wake all other parts of the operator.
    let work = async {
        let mut tasks = [
            AbortOnDrop(tokio::spawn(uploads.work(&parts))),
            AbortOnDrop(tokio::spawn(downloads.work(&parts))),
        ];
        futures::future::try_join_all(tasks.iter_mut().map(|task| &mut task.0)).await
    };
    let lost = async {
        match &mut held {
            Some(held) => candidate.renew_until_lost(held).await,
            None => std::future::pending().await,
        }
    };
    let backwards = wait_for_restored_history(client.clone(), namespace.as_deref());
    let silent = went_silent(
        client.clone(),
        namespace.as_deref(),
        ((requeuers.0.clone(), foreign.0), (requeuers.1.clone(), foreign.1)),
        parts.health.clone(),
    );
    let restart = tokio::select! {
        result = http => return result,
        why = connection => Some(why),
        why = backwards => Some(why),
        why = silent => Some(why),
        () = forgets => None,
        why = kept.watch_for_change(&records) => Some(why),
        () = clock => None,
        _ = watches => return Err("a watch ended unexpectedly".into()),
        why = lost => return Err(format!("this replica has lost the Lease, and another replica takes over: {why}")),
        // Running reconciles finish before the operator stops.
        ended = work => match ended {
            Ok(_) => None,
            Err(panic) => return Err(format!("a controller has failed unexpectedly: {panic}")),
        },
    };
    if let Some(held) = held {
        candidate.release(held).await;
    }
    if let Some(why) = restart {
        error!("{why}");
        return Err(why);
    }
    info!(
        "valet has stopped; issued credentials stay valid until they expire; Valet continues all work at the next start"
    );
    Ok(())
}

/// Aborts a task when the value that owns the task is dropped.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Logs a summary of each repeated failure. Valet does not write one log line for each repetition.
async fn log_repeats() {
    loop {
        sleep(Duration::from_secs(1)).await;
        if let Some(line) = REPEATS.take_due(Instant::now()) {
            warn!("{line}");
        }
    }
}

/// Runs the notification receiver if the options configure one. The returned future ends only with an error.
async fn receive(
    parts: &SharedContext,
    leader: Arc<Leader>,
    others: Vec<(Shard, Arc<Leader>)>,
) -> Result<impl Future<Output = Result<(), String>> + use<>, String> {
    let wanted = match (&parts.options.notifications, &parts.upload_index) {
        (Some(options), Some(upload_index)) => {
            let receiver = Receiver {
                tokens: Tokens::open(options.token_file.clone()).await?,
                topics: Topics::new(options.sns_topics.clone()),
                google: options.google.clone().map(|(accounts, audience)| {
                    let certificates = http::Uri::from_static(GOOGLE_CERTIFICATES);
                    GoogleTokens::new(accounts, audience, certificates)
                }),
                upload_index: upload_index.clone(),
                health: parts.health.clone(),
                leader,
                shard: parts.options.shard,
                others,
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

/// Returns an identity that is unique to this process. It consists of the name of the pod, the process ID and the
/// start time.
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
