use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    channel::mpsc,
    future::{BoxFuture, Shared},
    stream::{self, BoxStream},
};
use ipnet::IpNet;
use kube::{
    Api, Client, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        Controller, WatchStreamExt,
        controller::Config as ControllerConfig,
        events::{Recorder, Reporter},
        predicates, reflector,
        reflector::ObjectRef,
        utils::Predicate,
        watcher,
    },
};
use tracing::{info, warn};

use super::{
    cluster::{check_crds, connect},
    grants,
    lease::Lease,
    memory::Memory,
    notifications::{Awaited, GOOGLE_CERTIFICATES, GoogleTokens, Leader, Receiver, Tokens, Topics},
    places::Places,
    requests::Requests,
    secrets::{FIELD_MANAGER, Secrets},
    states,
    store_status::{self, AT_A_TIME},
    stores::{Stores, scoped},
    turns::Turns,
    watch::{Caller, Watched, brief, config, watch_namespaces, watch_secrets, watch_stores},
};
use crate::{
    api::{ClusterObjectStore, DownloadGrant, Grant, ObjectStore, Operation, Store, StoreKind, UploadGrant},
    grant::Settings,
    sign::Outward,
    telemetry::{Health, Metrics, States, serve},
};

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
    /// Whether to watch grants' Secrets, which takes the right to list every Secret; otherwise what happens to one is
    /// seen at the next visit, `sweep` later at the latest.
    pub watch_secrets: bool,
    /// Where stores say that objects have come, if they do.
    pub notifications: Option<Notifications>,
    /// Whether to wait for a Lease in the operator's namespace before working, and to stop when it is lost.
    pub leader_elect: bool,
}

/// How notifications of stores are taken.
#[derive(Clone, Debug)]
pub struct Notifications {
    /// Where.
    pub address: SocketAddr,
    /// The file with the tokens that may be presented, one a line.
    pub token_file: PathBuf,
    /// The SNS topics that may send, by ARN.
    pub sns_topics: Vec<String>,
    /// Google's accounts whose identity tokens are taken for this audience.
    pub google: Option<(Vec<String>, String)>,
    /// Where other replicas reach this one, if they do.
    pub advertise: Option<SocketAddr>,
}

type Stop = Shared<BoxFuture<'static, ()>>;

/// What all parts share.
struct Parts {
    client: Client,
    stores: Arc<Stores>,
    places: Arc<Places>,
    requests: Arc<Requests>,
    metrics: Arc<Metrics>,
    health: Health,
    awaited: Option<Arc<Awaited>>,
    options: Options,
    stop: Stop,
}

/// The parts that must have listed what there is before the operator counts as ready: two kinds of grant, two of
/// store, and the namespaces; with [`Options::watch_secrets`] also the Secrets.
const WATCHES: usize = 5;

/// Runs the operator until `stop` resolves and the work in hand is done.
///
/// # Errors
/// A sentence, if it cannot start: no cluster, no CRDs, no address.
pub async fn run(options: Options, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), String> {
    let client = connect(&options).await?;
    check_crds(&client, options.namespace.as_deref()).await?;

    let uploads = Kind::<UploadGrant>::new();
    let downloads = Kind::<DownloadGrant>::new();
    let callers = (uploads.caller.clone(), downloads.caller.clone());
    let (own, shared) = (Shelf::<ObjectStore>::new(), Shelf::<ClusterObjectStore>::new());
    let scraped = (callers.clone(), own.reader.clone(), shared.reader.clone());
    let scope = options.namespace.clone();
    let metrics = Metrics::new(move || {
        let ((uploads, downloads), own, shared) = &scraped;
        States {
            grants: [states::grants(uploads), states::grants(downloads)].concat(),
            stores: [states::stores(own, None), states::stores(shared, scope.as_deref())].concat(),
        }
    });
    let call = {
        let (uploads, downloads) = callers.clone();
        move |operation, namespace: &str, name: &str| match operation {
            Operation::Upload => uploads.call(name, namespace),
            Operation::Download => downloads.call(name, namespace),
        }
    };
    let requests = Arc::new(Requests::new(options.concurrency, call.clone()));
    let share_environment = options.share_environment;
    let parts = Parts {
        stores: Arc::new(Stores::new(
            client.clone(),
            options.operator_namespace.clone(),
            share_environment,
            Outward::new(options.private_endpoints.clone()),
            requests.clone(),
        )),
        places: Arc::new(Places::new(call)),
        requests,
        client: client.clone(),
        metrics: Arc::new(metrics),
        health: Health::waiting_for(WATCHES + usize::from(options.watch_secrets)),
        awaited: options.notifications.is_some().then(Arc::default),
        options,
        stop: stop.boxed().shared(),
    };
    parts.health.standing_by(parts.options.leader_elect);
    let namespace = parts.options.namespace.as_deref();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = namespace.unwrap_or("(all)"),
        http = %parts.options.http_address,
        "valet is starting"
    );

    let http = serve(
        parts.options.http_address,
        parts.health.clone(),
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
    );
    let mut held = None;
    if parts.options.leader_elect {
        info!("waiting for the lease");
        tokio::select! {
            result = &mut http => return result,
            () = parts.stop.clone() => return Ok(()),
            lease = candidate.acquire() => held = Some(lease),
        }
        parts.health.standing_by(false);
    }
    parts.metrics.leading();
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
    tokio::select! {
        result = http => return result,
        _ = watches => return Err("a watch ended, which none should".into()),
        why = lost => return Err(format!("the lease was lost: {why}; another replica goes on")),
        // The visits in hand are seen to their end.
        _ = work => {}
    }
    if let Some(held) = held {
        candidate.release(held).await;
    }
    info!("valet has stopped; published keys stay valid, and the next start takes everything up again");
    Ok(())
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

/// One kind of grant: the one path that both take.
struct Kind<G: Grant> {
    reader: reflector::Store<Watched<G>>,
    writer: reflector::store::Writer<Watched<G>>,
    memory: Arc<Memory<G>>,
    caller: Caller<G>,
    calls: BoxStream<'static, ObjectRef<Watched<G>>>,
}

impl<G: Grant> Kind<G> {
    fn new() -> Self {
        let (reader, writer) = reflector::store();
        let memory = Arc::new(Memory::default());
        let (caller, calls) = Caller::new(reader.clone(), memory.clone());
        Self {
            reader,
            writer,
            memory,
            caller,
            calls: calls.boxed(),
        }
    }

    /// Watches the grants and visits them until the operator is to stop and the visits in hand are done.
    fn work(self, parts: &Parts) -> impl Future<Output = ()> + use<G> {
        let Self {
            reader,
            writer,
            memory,
            calls,
            caller,
        } = self;
        let reporter = Reporter {
            controller: FIELD_MANAGER.into(),
            instance: std::env::var("HOSTNAME").ok(),
        };
        let context = Arc::new(grants::Context {
            client: parts.client.clone(),
            stores: parts.stores.clone(),
            secrets: Secrets::new(parts.client.clone()),
            memory: memory.clone(),
            recorder: Recorder::new(parts.client.clone(), reporter),
            metrics: parts.metrics.clone(),
            turns: Turns::new(parts.options.concurrency, parts.options.namespace.is_some()),
            places: parts.places.clone(),
            requests: parts.requests.clone(),
            caller,
            settings: Settings {
                ttl_seconds_after_finished: parts.options.ttl_seconds_after_finished,
            },
            sweep: parts.options.sweep,
        });
        let api: Api<Watched<G>> = scoped(parts.client.clone(), parts.options.namespace.as_deref());
        let mut health = Some(parts.health.clone());
        let (awaited, places) = (parts.awaited.clone(), parts.places.clone());
        let listed = reader.clone();
        let seen = watcher(api, config())
            .default_backoff()
            .inspect(move |event| {
                if let (Some(awaited), Ok(event)) = (&awaited, event) {
                    awaited.seen(event);
                }
            })
            .reflect(writer)
            // After that: who sees a grant that is visited go must find it gone.
            .inspect({
                let memory = memory.clone();
                move |event| {
                    if let Ok(event) = event {
                        places.seen(event, &memory);
                    }
                }
            })
            .inspect(move |event| match event {
                Ok(watcher::Event::InitDone) => {
                    memory.keep_only(&listed.state().iter().filter_map(|g| g.uid()).collect());
                    if let Some(health) = health.take() {
                        health.done();
                    }
                }
                Ok(watcher::Event::Delete(grant)) => memory.forget(&grant.uid().unwrap_or_default()),
                Err(error) => warn!(
                    kind = G::OPERATION.kind(),
                    "the watch failed and is started again: {}",
                    brief(error)
                ),
                Ok(_) => {}
            });
        // A status is our own word, and no news; marks of GitOps tools are labels and annotations.
        let news = predicates::generation
            .combine(predicates::finalizers)
            .combine(predicates::labels)
            .combine(predicates::annotations);
        let triggers = seen.applied_objects().predicate_filter(news, Default::default());
        Controller::for_stream(triggers, reader)
            .with_config(ControllerConfig::default().concurrency(parts.options.concurrency))
            .reconcile_on(calls)
            .graceful_shutdown_on(parts.stop.clone())
            .run(grants::reconcile, |g, e, c| grants::on_error(g, e, c), context)
            .for_each(|_| std::future::ready(()))
    }
}

/// One kind of store.
struct Shelf<S: Store> {
    reader: reflector::Store<DeserializeGuard<S>>,
    writer: reflector::store::Writer<DeserializeGuard<S>>,
}

impl<S: Store> Shelf<S> {
    fn new() -> Self {
        let (reader, writer) = reflector::store();
        Self { reader, writer }
    }

    /// Watches the stores: calls for the grants of those that change, and keeps their statuses true.
    async fn keep(
        self,
        parts: &Parts,
        api: Api<DeserializeGuard<S>>,
        api_of: fn(Client, &str) -> Api<S>,
        callers: (Caller<UploadGrant>, Caller<DownloadGrant>),
    ) {
        let (changed, changes) = mpsc::unbounded();
        let context = Arc::new(store_status::Context {
            client: parts.client.clone(),
            stores: parts.stores.clone(),
            scope: parts.options.namespace.clone(),
            api: api_of,
            judge_anew: Box::new({
                let (uploads, downloads) = callers.clone();
                move |id| {
                    uploads.store_changed(id);
                    downloads.store_changed(id);
                }
            }),
            // Stores of the cluster are the platform's own, in no namespace.
            turns: Turns::new(
                AT_A_TIME,
                S::KIND == StoreKind::ClusterObjectStore || parts.options.namespace.is_some(),
            ),
            call: Box::new({
                let changed = changed.clone();
                move |namespace, name| {
                    let _ = changed.unbounded_send(ObjectRef::new(name).within(namespace));
                }
            }),
        });
        let watch = watch_stores(
            api,
            parts.stores.clone(),
            changed,
            self.writer,
            callers,
            parts.awaited.clone(),
            parts.health.clone(),
        );
        let statuses = Controller::for_stream(stream::pending(), self.reader)
            .with_config(ControllerConfig::default().concurrency(AT_A_TIME))
            .reconcile_on(changes)
            .run(
                store_status::reconcile,
                |s, e, c| store_status::on_error(s, e, c),
                context,
            )
            .for_each(|_| std::future::ready(()));
        futures::future::join(watch, statuses).await;
    }
}
