use std::{
    collections::{BTreeMap, HashMap},
    future::ready,
    sync::Arc,
    time::Duration,
};

use backon::ExponentialBuilder;
use futures::{Stream, StreamExt, channel::mpsc};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef},
        utils::{Backoff, ResetTimerBackoff},
        watcher,
    },
};
use tokio::time::{Instant, sleep};

use super::{
    cached_grant::CachedGrant,
    list_gate::ListGate,
    local_state::LocalState,
    shard_filter::is_own_store,
    stores::{Stores, check_request, scoped_api},
    strip_metadata::{strip_store, strip_watched},
};
use crate::{
    api::{GROUP, Grant, MANAGED_BY_LABEL, MANAGED_BY_VALUE, Store, StoreKind},
    core::{Shard, StoreId, store_id},
    notifications::{NotifiedGrant, UploadIndex},
    provider::registry::bucket,
    telemetry::{Health, Progress, warn_once},
};

/// Enqueues grants of one kind. The controller reconciles an enqueued grant soon.
pub struct Requeuer<G: Grant> {
    known: reflector::Store<CachedGrant<G>>,
    local_state: Arc<LocalState<G>>,
    progress: Arc<Progress>,
    requeues: mpsc::UnboundedSender<ObjectRef<CachedGrant<G>>>,
}

impl<G: Grant> Clone for Requeuer<G> {
    fn clone(&self) -> Self {
        Self {
            known: self.known.clone(),
            local_state: self.local_state.clone(),
            progress: self.progress.clone(),
            requeues: self.requeues.clone(),
        }
    }
}

impl<G: Grant> Requeuer<G> {
    /// Creates the `Requeuer`, and the stream of grants that it enqueues.
    pub fn new(
        known: reflector::Store<CachedGrant<G>>,
        local_state: Arc<LocalState<G>>,
        progress: Arc<Progress>,
    ) -> (Self, impl Stream<Item = ObjectRef<CachedGrant<G>>> + Send + 'static) {
        let (requeues, receiver) = mpsc::unbounded();
        let requeuer = Self {
            known,
            local_state,
            progress,
            requeues,
        };
        (requeuer, receiver)
    }

    /// Enqueues one grant. Returns true if the watch cache has a grant with this name.
    pub fn enqueue(&self, name: &str, namespace: &str) -> bool {
        let reference = ObjectRef::new(name).within(namespace);
        let is_there = self.known.get(&reference).is_some();
        if is_there {
            self.progress.due();
        }
        // Sending fails only while the operator shuts down. The reconcile is not needed then.
        let _ = self.requeues.unbounded_send(reference);
        is_there
    }

    /// Returns true if the watch cache has a grant with the UID of `grant`. Returns false if the grant was deleted,
    /// for example during its reconcile.
    pub fn is_there(&self, grant: &impl ResourceExt) -> bool {
        self.watched(grant).is_some()
    }

    /// Returns the version of this grant from the watch cache. Returns `None` if the grant in the watch cache has a
    /// different UID.
    pub fn watched(&self, grant: &impl ResourceExt) -> Option<Arc<CachedGrant<G>>> {
        let reference = ObjectRef::new(&grant.name_any()).within(&grant.namespace().unwrap_or_default());
        self.known.get(&reference).filter(|known| known.uid() == grant.uid())
    }

    /// Processes a grant from the watch. If a client other than Valet has changed the status of the grant, this
    /// method enqueues a reconcile that corrects the status.
    pub fn status_seen(&self, grant: &G) {
        let Some(pause) = self.local_state.foreign_status(grant, Timestamp::now()) else {
            return;
        };
        let (name, namespace) = (grant.name_any(), grant.namespace().unwrap_or_default());
        if pause.is_zero() {
            self.enqueue(&name, &namespace);
            return;
        }
        let requeuer = self.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            requeuer.enqueue(&name, &namespace);
        });
    }

    /// Enqueues all grants after a step of the wall clock, for example after somebody has set the clock. Timers that
    /// started before the step may fire too late.
    pub fn clock_stepped(&self) {
        for grant in self.known.state() {
            self.enqueue(&grant.name_any(), &grant.namespace().unwrap_or_default());
        }
    }

    /// Enqueues the grant of the object that a notification names. The reconcile then polls the store for this object.
    pub fn notified(&self, notified: &NotifiedGrant) {
        self.local_state.notify(&notified.uid, notified.notified_at);
        self.enqueue(&notified.name, &notified.namespace);
    }

    /// Enqueues all grants of a store that has changed.
    pub fn store_changed(&self, id: &StoreId) {
        let (kind, store_namespace, store_name) = id;
        for cached in self.known.state() {
            let namespace = cached.namespace().unwrap_or_default();
            let is_visible = *kind == StoreKind::ClusterObjectStore || namespace == *store_namespace;
            if is_visible
                && cached.may_contain(store_name)
                && let Ok(grant) = cached.grant()
                && store_id(&grant.terms().store_ref, &namespace) == *id
            {
                self.enqueue(&cached.name_any(), &namespace);
            }
        }
    }

    /// Enqueues the grants of a namespace whose labels have changed, because access rules can select namespaces by
    /// label.
    fn namespace_changed(&self, namespace: &str) {
        for cached in self.known.state() {
            if cached.namespace().as_deref() == Some(namespace)
                && let Ok(grant) = cached.grant()
                && grant.terms().store_ref.kind == StoreKind::ClusterObjectStore
            {
                self.enqueue(&cached.name_any(), namespace);
            }
        }
    }

    /// Enqueues the grant of a Secret that a client other than Valet has changed or deleted.
    fn secret_changed(&self, owner_name: &str, owner_uid: &str, namespace: &str, version: Option<&str>) {
        let is_own = match version {
            Some(version) => self.local_state.is_own_secret(owner_uid, version),
            // Valet deleted the Secret, and the next reconcile is already enqueued.
            None => self.local_state.has_deleted_secret(owner_uid, Instant::now()),
        };
        if !is_own {
            self.local_state.forget_secret(owner_uid);
            self.enqueue(owner_name, namespace);
        }
    }

    /// Returns all grants in the watch cache.
    pub fn known(&self) -> Vec<Arc<CachedGrant<G>>> {
        self.known.state()
    }
}

/// The maximum number of objects in one page of a list. Valet must keep a whole page in memory before it can remove
/// unneeded data from the objects. One object can have a size of 1.5 MB, which is the limit of etcd.
const PAGE: u32 = 20;

/// Returns the configuration of watches. With the page size in this configuration, one page fits into memory even if
/// every object has the maximum size. The apiserver ends each watch after a time that is shorter than the client's
/// timeout for watches.
pub fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE).timeout(240)
}

/// The minimum and the maximum pause before Valet restarts a failed watch. A longer outage of the apiserver reaches the
/// maximum. The maximum is short, because a watch often fails twice after an outage: the apiserver no longer has the
/// resource version of the watch, so Valet must list the objects again. With the maximum of 30 s in kube-runtime, new
/// grants would wait for a minute after an outage.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// After a watch has run without a failure for this time, the pause is the minimum again.
const PAUSE_RESET: Duration = Duration::from_secs(30);

/// Returns the pauses between the restarts of a failed watch. Each pause is twice as long as the pause before, and
/// contains a random part.
pub fn backoff() -> impl Backoff {
    let (min, max) = RESTART_PAUSE;
    let pauses = ExponentialBuilder::new()
        .with_min_delay(min)
        .with_max_delay(max)
        .with_jitter()
        .without_max_times();
    ResetTimerBackoff::new(watcher::ExponentialBackoff::from(pauses), PAUSE_RESET)
}

/// The UID, the generation and the check request of a store when Valet last saw the store.
type Seen = (Option<String>, Option<i64>, Option<String>);

/// Watches the stores of one kind that this shard serves, and enqueues the grants of stores that change.
pub async fn watch_stores<S, U, D>(
    (api, shard): (Api<DeserializeGuard<S>>, Shard),
    stores: Arc<Stores>,
    changed: mpsc::UnboundedSender<ObjectRef<DeserializeGuard<S>>>,
    writer: reflector::store::Writer<DeserializeGuard<S>>,
    requeuers: (Requeuer<U>, Requeuer<D>),
    upload_index: Option<Arc<UploadIndex>>,
    health: Health,
) where
    S: Store,
    U: Grant,
    D: Grant,
{
    let mut health = Some(health);
    let stores_seen = watcher(api, config())
        .backoff(backoff())
        .filter(move |event| ready(event.as_ref().map_or(true, |event| is_own_store::<S, _>(shard, event))));
    let light = stores_seen.modify(|store: &mut DeserializeGuard<S>| strip_watched(store, strip_store));
    let mut events = std::pin::pin!(light.reflect(writer));
    // A store counts as changed only if it has a new generation or a new request for a conformance check. A new
    // status does not count, because the decisions about grants do not depend on the status of a store.
    let mut generations: HashMap<ObjectRef<DeserializeGuard<S>>, Seen> = HashMap::new();
    let mut gate = ListGate::default();
    while let Some(event) = events.next().await {
        for reference in event.as_ref().map(|event| gate.seen(event)).unwrap_or_default() {
            let _ = changed.unbounded_send(reference);
        }
        let Some((store, gone)) = change(S::KIND.as_str(), event, &mut health) else {
            continue;
        };
        let reference = ObjectRef::from_obj(&store);
        let seen = (store.uid(), store.meta().generation, check_request(store.meta()));
        let news = if gone {
            generations.remove(&reference).is_some()
        } else {
            generations.insert(reference.clone(), seen.clone()) != Some(seen)
        };
        if !news {
            continue;
        }
        let id = (S::KIND, store.namespace().unwrap_or_default(), store.name_any());
        if gone {
            stores.gone(&id);
        } else {
            stores.changed(&id);
        }
        if let Some(upload_index) = &upload_index {
            upload_index.store(&id, store.0.as_ref().ok().filter(|_| !gone).and_then(bucket));
        }
        requeuers.0.store_changed(&id);
        requeuers.1.store_changed(&id);
        if let Some(reference) = gate.pass(reference) {
            let _ = changed.unbounded_send(reference);
        }
    }
}

/// Watches the labels of namespaces, and enqueues the grants of a namespace whose labels change.
pub async fn watch_namespaces<U: Grant, D: Grant>(
    client: Client,
    namespace: Option<String>,
    stores: Arc<Stores>,
    requeuers: (Requeuer<U>, Requeuer<D>),
    health: Health,
) {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let config = match namespace {
        // If the operator serves only one namespace, it watches only this namespace. It then needs no permission to
        // watch all namespaces.
        Some(name) => config().fields(&format!("metadata.name={name}")),
        None => config(),
    };
    let mut health = Some(health);
    let mut events = std::pin::pin!(watcher(api, config).backoff(backoff()));
    let mut labels: HashMap<String, BTreeMap<String, String>> = HashMap::new();
    while let Some(event) = events.next().await {
        let Some((namespace, gone)) = change("Namespace", event, &mut health) else {
            continue;
        };
        if gone {
            labels.remove(&namespace.name_any());
            stores.namespace_gone(&namespace.name_any());
            continue;
        }
        let (name, now) = (namespace.name_any(), namespace.labels().clone());
        let before = labels.insert(name.clone(), now.clone());
        if before.is_some_and(|before| before != now) {
            stores.labels_changed(&name);
            requeuers.0.namespace_changed(&name);
            requeuers.1.namespace_changed(&name);
        }
    }
}

/// Watches the metadata of grant Secrets. A watch event only enqueues the grant, and the reconcile then reads the
/// Secret.
pub async fn watch_secrets<U: Grant, D: Grant>(
    client: Client,
    namespace: Option<String>,
    requeuers: (Requeuer<U>, Requeuer<D>),
    health: Health,
) {
    let api: Api<PartialObjectMeta<Secret>> = scoped_api(client, namespace.as_deref());
    let config = config().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY_VALUE}"));
    let mut health = Some(health);
    let mut events = std::pin::pin!(watcher(api, config).backoff(backoff()));
    while let Some(event) = events.next().await {
        let Some((secret, gone)) = change("Secret", event, &mut health) else {
            continue;
        };
        let namespace = secret.namespace().unwrap_or_default();
        let version = secret.resource_version().filter(|_| !gone);
        for owner in secret.owner_references() {
            if owner.api_version.split('/').next() != Some(GROUP) {
                continue;
            }
            if owner.kind == U::OPERATION.kind() {
                requeuers
                    .0
                    .secret_changed(&owner.name, &owner.uid, &namespace, version.as_deref());
            } else if owner.kind == D::OPERATION.kind() {
                requeuers
                    .1
                    .secret_changed(&owner.name, &owner.uid, &namespace, version.as_deref());
            }
        }
    }
}

/// Returns the object of a watch event, and a flag that is true if the object was deleted. When the first list is
/// complete, this function also reports this to `health`. If a watch fails, the watcher restarts the watch.
fn change<K>(
    kind: &str,
    event: Result<watcher::Event<K>, watcher::Error>,
    health: &mut Option<Health>,
) -> Option<(K, bool)> {
    match event {
        Ok(watcher::Event::Delete(object)) => Some((object, true)),
        Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => Some((object, false)),
        Ok(watcher::Event::InitDone) => {
            if let Some(health) = health.take() {
                health.done();
            }
            None
        }
        Ok(watcher::Event::Init) => None,
        Err(error) => {
            watch_failed(kind, &error);
            None
        }
    }
}

/// Logs a failed watch. If several watches fail for the same reason, Valet logs the first failure, and later one
/// summary of all failures.
pub fn watch_failed(kind: &str, error: &watcher::Error) {
    let why = short_cause(error);
    // The text of an error can contain the word "version", followed by numbers that are different for each failure.
    // Valet therefore compares only the text before this word.
    let cause = why.split_once(" version").map_or(why.as_str(), |(cause, _)| cause);
    warn_once!(
        &format!("watching {kind}: {cause}"),
        kind,
        "the watch of {kind} failed, and Valet restarts the watch: {why}"
    );
}

/// Returns a short description of a watch error. The description does not contain the apiserver's answer, which the
/// error may quote.
fn short_cause(error: &watcher::Error) -> String {
    let kind = match error {
        watcher::Error::InitialListFailed(_) => "listing failed",
        watcher::Error::WatchStartFailed(_) => "starting the watch failed",
        watcher::Error::WatchError(_) => "the apiserver ended the watch",
        watcher::Error::WatchFailed(_) => "the watch stream failed",
        _ => "unexpected",
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    format!("{kind} ({cause})")
}

/// The maximum time between two reconciles of a store. Valet reconciles a store even if it has not changed, because
/// the store's credentials can change without an event.
pub const STORE_RESYNC: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// After an outage of an hour, the next attempt of a watch must not be far away.
    #[test]
    fn pause_before_the_restart_of_a_watch_stays_short() {
        let mut pauses = backoff();
        for n in 0..1000 {
            let pause = pauses.next().expect("a watch is restarted without end");
            let (min, max) = RESTART_PAUSE;
            assert!(pause >= min && pause <= 2 * max, "pause {n} is {pause:?}");
        }
    }
}
