//! The controllers of grants and stores. UploadGrants and DownloadGrants share one implementation. ObjectStores and
//! ClusterObjectStores also share one implementation.

use std::{future::ready, sync::Arc};

use futures::{
    StreamExt,
    channel::mpsc,
    stream::{self, BoxStream},
};
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::{
        Controller, WatchStreamExt,
        controller::Config as ControllerConfig,
        events::{Recorder, Reporter},
        reflector,
        reflector::ObjectRef,
        watcher,
    },
};

use super::{
    cached_grant::{CachedGrant, WatchedGrant},
    grant_watch::GrantWatch,
    grants,
    list_gate::ListGate,
    local_state::LocalState,
    namespace_limiter::NamespaceLimiter,
    secrets::{FIELD_MANAGER, Secrets},
    shard_filter::{ForeignGrants, ShardFilter},
    shared_context::SharedContext,
    store_status::{self, AT_A_TIME},
    stores::scoped_api,
    watch::{Requeuer, backoff, config, watch_stores},
};
use crate::{
    api::{DownloadGrant, Grant, Operation, Store, StoreKind, UploadGrant},
    core::record::RecordKey,
    core::{Settings, StoreId},
    telemetry::Progress,
};

/// The controller of one kind of grant. It watches the grants and reconciles them.
pub struct GrantController<G: Grant> {
    reader: reflector::Store<CachedGrant<G>>,
    writer: reflector::store::Writer<CachedGrant<G>>,
    local_state: Arc<LocalState<G>>,
    pub requeuer: Requeuer<G>,
    /// The versions of the grants that other shards serve.
    pub foreign: Arc<ForeignGrants>,
    requeues: BoxStream<'static, ObjectRef<CachedGrant<G>>>,
}

impl<G: Grant> GrantController<G> {
    /// Creates the controller, but does not start its watch. The controller uses the record key `records` to verify
    /// that Valet wrote a record.
    pub fn new(records: RecordKey, progress: Arc<Progress>) -> Self {
        let (reader, writer) = reflector::store();
        let local_state = Arc::new(LocalState::new(records));
        let (requeuer, requeues) = Requeuer::new(reader.clone(), local_state.clone(), progress);
        Self {
            reader,
            writer,
            local_state,
            requeuer,
            foreign: Arc::default(),
            requeues: requeues.boxed(),
        }
    }

    /// Watches and reconciles grants until the operator stops. The future resolves after all running reconciles have
    /// finished.
    pub fn work(self, parts: &SharedContext) -> impl Future<Output = ()> + use<G> {
        let Self {
            reader,
            writer,
            local_state,
            requeues,
            requeuer,
            foreign,
        } = self;
        let namespace_limiter =
            NamespaceLimiter::new(parts.options.concurrency, parts.options.namespace.is_some(), {
                let requeuer = requeuer.clone();
                move |namespace, name| requeuer.enqueue(name, namespace)
            });
        let concurrency = namespace_limiter.concurrency();
        let context = Arc::new(grants::Context {
            client: parts.client.clone(),
            stores: parts.stores.clone(),
            secrets: Secrets::new(parts.client.clone(), local_state.records().clone()),
            local_state: local_state.clone(),
            recorder: recorder(parts),
            metrics: parts.metrics.clone(),
            namespace_limiter,
            progress: parts.progress.clone(),
            quotas: parts.quotas.clone(),
            store_limiter: parts.store_limiter.clone(),
            requeuer: requeuer.clone(),
            foreign: foreign.clone(),
            settings: Settings {
                ttl_seconds_after_finished: parts.options.ttl_seconds_after_finished,
                secret_metadata: parts.options.secret_metadata.clone(),
            },
            resync: parts.options.resync,
        });
        let timers = {
            let (timers, requeuer) = (local_state.timers().clone(), requeuer.clone());
            async move {
                timers
                    .run(|namespace, name| {
                        requeuer.enqueue(name, namespace);
                    })
                    .await;
            }
        };
        let api: Api<WatchedGrant<G>> = scoped_api(parts.client.clone(), parts.options.namespace.as_deref());
        let mut grant_watch = GrantWatch {
            cache: reader.clone(),
            local_state,
            quotas: parts.quotas.clone(),
            upload_index: parts.upload_index.clone().filter(|_| G::OPERATION == Operation::Upload),
            requeuer,
            missed: ListGate::default(),
            health: Some(parts.health.clone()),
        };
        let filter = ShardFilter {
            shard: parts.options.shard,
            cache: reader.clone(),
            foreign,
        };
        let watch = watcher(api, config())
            .backoff(backoff())
            .filter_map(move |event| ready(event.map(|event| filter.pass(event)).transpose()))
            .reflect(writer)
            .for_each(move |event| {
                grant_watch.seen(&event);
                ready(())
            });
        let reconciles = Controller::for_stream(stream::pending(), reader)
            .with_config(ControllerConfig::default().concurrency(concurrency))
            .reconcile_on(requeues)
            .graceful_shutdown_on(parts.stop.clone())
            .run(grants::reconcile, |g, e, c| grants::on_error(g, e, c), context)
            .for_each(|_| ready(()));
        async move {
            // The watch and the timers never end by themselves.
            let events = std::pin::pin!(futures::future::join(watch, timers));
            let reconciles = std::pin::pin!(reconciles);
            futures::future::select(reconciles, events).await;
        }
    }
}

/// Creates a recorder that writes Events in the name of this operator.
fn recorder(parts: &SharedContext) -> Recorder {
    let reporter = Reporter {
        controller: FIELD_MANAGER.into(),
        instance: std::env::var("HOSTNAME").ok(),
    };
    Recorder::new(parts.client.clone(), reporter)
}

/// The controller of one kind of store. It watches the stores and reconciles them.
pub struct StoreController<S: Store> {
    /// The cache of watched stores.
    pub reader: reflector::Store<DeserializeGuard<S>>,
    writer: reflector::store::Writer<DeserializeGuard<S>>,
}

impl<S: Store> StoreController<S> {
    /// Creates the controller, but does not start its watch.
    pub fn new() -> Self {
        let (reader, writer) = reflector::store();
        Self { reader, writer }
    }

    /// Watches the stores, updates their statuses, and enqueues the grants of stores that change.
    pub async fn run(
        self,
        parts: &SharedContext,
        api: Api<DeserializeGuard<S>>,
        api_of: fn(Client, &str) -> Api<S>,
        requeuers: (Requeuer<UploadGrant>, Requeuer<DownloadGrant>),
    ) {
        let (changed, changes) = mpsc::unbounded();
        let namespace_limiter = NamespaceLimiter::new(AT_A_TIME, parts.options.namespace.is_some(), {
            let changed = changed.clone();
            move |namespace, name| {
                let _ = changed.unbounded_send(reference::<S>(namespace, name));
                true
            }
        });
        let concurrency = namespace_limiter.concurrency();
        // A new probe result changes the status of a store and the decisions about the grants of this store.
        parts.stores.probe_cache.listen(
            S::KIND,
            Arc::new({
                let ((uploads, downloads), changed) = (requeuers.clone(), changed.clone());
                move |id: &StoreId, is_news| {
                    let reference = reference::<S>(&id.1, &id.2);
                    // Sending fails only while the operator stops. In this case nobody needs the update.
                    let _ = changed.unbounded_send(reference);
                    if is_news {
                        uploads.store_changed(id);
                        downloads.store_changed(id);
                    }
                }
            }),
        );
        let context = Arc::new(store_status::Context {
            client: parts.client.clone(),
            stores: parts.stores.clone(),
            scope: parts.options.namespace.clone(),
            api: api_of,
            requeue_grants: Box::new({
                let (uploads, downloads) = requeuers.clone();
                move |id| {
                    uploads.store_changed(id);
                    downloads.store_changed(id);
                }
            }),
            recorder: recorder(parts),
            namespace_limiter,
        });
        let watch = watch_stores(
            (api, parts.options.shard),
            parts.stores.clone(),
            changed,
            self.writer,
            requeuers,
            parts.upload_index.clone(),
            parts.health.clone(),
        );
        let statuses = Controller::for_stream(stream::pending(), self.reader)
            .with_config(ControllerConfig::default().concurrency(concurrency))
            .reconcile_on(changes)
            .run(
                store_status::reconcile,
                |s, e, c| store_status::on_error(s, e, c),
                context,
            )
            .for_each(|_| ready(()));
        futures::future::join(watch, statuses).await;
    }
}

/// Returns the object reference of a store. A ClusterObjectStore has no namespace.
fn reference<S: Store>(namespace: &str, name: &str) -> ObjectRef<DeserializeGuard<S>> {
    let reference = ObjectRef::new(name);
    match S::KIND {
        StoreKind::ObjectStore => reference.within(namespace),
        StoreKind::ClusterObjectStore => reference,
    }
}
