use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
    time::Instant,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        histogram::exponential_buckets,
    },
    registry::{Registry, Unit},
};

use super::{expiring_counters::ExpiringCounters, progress::Progress};
use crate::api::{Operation, Reason, StoreKind};

/// The metrics of the operator. No label contains a URL, an object key or a UID.
pub struct Metrics {
    registry: Registry,
    credentials_issued: Family<KindLabel, Counter>,
    finished: Family<ReasonLabel, Counter>,
    grant_to_credential: Family<KindLabel, Histogram>,
    reconcile: Family<KindLabel, Histogram>,
    reconcile_errors: Family<KindLabel, Counter>,
    multipart_uploads: Family<OutcomeLabel, Counter>,
    notifications: Family<OutcomeLabel, Counter>,
    notification_to_completed: Histogram,
    watched: Arc<Watched>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    kind: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct RefusalLabel {
    kind: &'static str,
    namespace: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct PollLabel {
    store_kind: &'static str,
    store_namespace: String,
    store: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabel {
    version: &'static str,
}

/// The state of one grant at the time of a scrape.
#[derive(Clone, Debug)]
pub struct GrantState {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    /// The reason of the grant's `Ready` condition. It is `Pending` before the first reconcile.
    pub reason: String,
    /// The time when the credential expires, in seconds since 1970. It is `None` if there is no credential.
    pub expires: Option<i64>,
    /// The time when Valet renews the credential, in seconds since 1970. It is `None` if Valet does not renew the
    /// credential.
    pub renewal: Option<i64>,
}

/// The state of one store at the time of a scrape.
#[derive(Clone, Debug)]
pub struct StoreState {
    pub kind: &'static str,
    /// The namespace of the store. It is empty for a ClusterObjectStore.
    pub namespace: String,
    pub name: String,
    /// If several operators serve the store, this is the namespace of the operator that exports this state. Otherwise
    /// it is empty.
    pub scope: String,
    /// This is true if the store's `Ready` condition is True.
    pub ready: bool,
    /// The reason of the store's `Ready` condition.
    pub reason: String,
    /// The time when the store's current credentials expire, in seconds since 1970. It is `None` if they do not
    /// expire.
    pub credentials_expire: Option<i64>,
    /// The type and the status of each condition that probes of the store set.
    pub conditions: Vec<(String, String)>,
}

/// The state of all watched grants and stores at the time of a scrape. Valet computes it for each scrape from the
/// watch cache.
#[derive(Clone, Debug, Default)]
pub struct States {
    /// This is true if this replica is the leader. A replica that waits for the Lease, or has possibly lost it,
    /// exports no state of grants and stores.
    pub leads: bool,
    pub grants: Vec<GrantState>,
    pub stores: Vec<StoreState>,
}

impl Metrics {
    /// Registers all metrics. At each scrape, the function `states` returns the state of every grant and store. The
    /// result also says whether this replica is the leader.
    ///
    /// `shard` contains the number of this shard and the number of shards. If there are several shards, all metrics have
    /// the label `shard`, because each shard counts only its own grants and stores.
    pub fn new(
        progress: Arc<Progress>,
        shard: (u16, u16),
        states: impl Fn() -> States + Send + Sync + 'static,
    ) -> Self {
        let (index, shards) = shard;
        let label = (shards > 1).then(|| ("shard".into(), index.to_string().into()));
        let mut registry = Registry::with_prefix_and_labels("valet", label.into_iter());
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.005, 2.0, 14));
        let metrics = Self {
            credentials_issued: Family::default(),
            finished: Family::default(),
            grant_to_credential: Family::new_with_constructor(histogram),
            reconcile: Family::new_with_constructor(histogram),
            reconcile_errors: Family::default(),
            multipart_uploads: Family::default(),
            notifications: Family::default(),
            notification_to_completed: histogram(),
            watched: Arc::new(Watched {
                progress,
                states: Box::new(states),
                refusals: ExpiringCounters::default(),
                polls: ExpiringCounters::default(),
            }),
            registry: Registry::default(),
        };
        registry.register(
            "credentials_issued",
            "Credentials written to grant Secrets",
            metrics.credentials_issued.clone(),
        );
        registry.register(
            "grants_finished",
            "Grants that finished, by reason",
            metrics.finished.clone(),
        );
        registry.register_with_unit(
            "grant_to_credential",
            "Time from the creation of a grant to its first credential; the apiserver's clock gives the creation time in whole seconds",
            Unit::Seconds,
            metrics.grant_to_credential.clone(),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "Duration of one reconcile of a grant",
            Unit::Seconds,
            metrics.reconcile.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Reconciles that failed and are repeated",
            metrics.reconcile_errors.clone(),
        );
        registry.register(
            "multipart_uploads",
            "Multipart uploads, by outcome",
            metrics.multipart_uploads.clone(),
        );
        registry.register(
            "notifications",
            "Notifications of created objects, by outcome",
            metrics.notifications.clone(),
        );
        registry.register_with_unit(
            "notification_to_completed",
            "Time from a notification about an upload to the Completed status of the grant",
            Unit::Seconds,
            metrics.notification_to_completed.clone(),
        );
        let build = Family::<BuildLabel, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&BuildLabel { version }).set(1);
        registry.register(
            "build_info",
            "Always 1; the label version is the version of Valet in this replica",
            build,
        );
        let number = Gauge::<i64>::default();
        number.set(shards.into());
        registry.register(
            "shards",
            "Number of shards that divide the stores among themselves (--shards)",
            number,
        );
        registry.register_collector(Box::new(metrics.watched.clone()));
        Self { registry, ..metrics }
    }

    /// Counts a credential that was written to a Secret. `seconds` is the time since the grant was created.
    pub fn credential_issued(&self, operation: Operation, seconds: Option<f64>) {
        let label = KindLabel { kind: operation.kind() };
        self.credentials_issued.get_or_create(&label).inc();
        if let Some(seconds) = seconds {
            self.grant_to_credential.get_or_create(&label).observe(seconds);
        }
    }

    /// Counts a grant when it becomes refused.
    pub fn refused(&self, operation: Operation, namespace: &str, reason: Reason) {
        let labels = RefusalLabel {
            kind: operation.kind(),
            namespace: namespace.to_owned(),
            reason: reason.as_str(),
        };
        self.watched.refusals.count(labels, Instant::now());
    }

    /// Counts a grant that finished.
    pub fn finished(&self, operation: Operation, reason: Reason) {
        self.finished
            .get_or_create(&ReasonLabel {
                kind: operation.kind(),
                reason: reason.as_str(),
            })
            .inc();
    }

    /// Records the duration of a reconcile.
    pub fn reconciled(&self, operation: Operation, seconds: f64) {
        self.reconcile
            .get_or_create(&KindLabel { kind: operation.kind() })
            .observe(seconds);
    }

    /// Counts a failed reconcile.
    pub fn reconcile_failed(&self, operation: Operation) {
        self.reconcile_errors
            .get_or_create(&KindLabel { kind: operation.kind() })
            .inc();
    }

    /// Counts a poll of a store. For a ClusterObjectStore, the namespace is empty.
    pub fn polled(&self, (kind, namespace, name): (StoreKind, &str, &str), outcome: &'static str) {
        let labels = PollLabel {
            store_kind: kind.as_str(),
            store_namespace: namespace.to_owned(),
            store: name.to_owned(),
            outcome,
        };
        self.watched.polls.count(labels, Instant::now());
    }

    /// Counts a multipart upload by its outcome: `initiated`, `completed`, `aborted` or `abandoned`. The outcome
    /// `abandoned` means that the parts of the upload are still in the store.
    pub fn multipart_upload(&self, outcome: &'static str) {
        self.multipart_uploads.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Adds `number` to the counter of this outcome. For the outcomes `accepted` and `unknown`, the number counts the
    /// objects in a notification. For all other outcomes, it counts messages.
    pub fn notified(&self, outcome: &'static str, number: usize) {
        if number > 0 {
            self.notifications
                .get_or_create(&OutcomeLabel { outcome })
                .inc_by(number as u64);
        }
    }

    /// Records the time between a notification and the completion of the upload.
    pub fn completed_after_notification(&self, seconds: f64) {
        self.notification_to_completed.observe(seconds);
    }

    /// Removes old counters. The counters of a store are removed one hour after the store was deleted. The counters
    /// of a namespace are removed one hour after its last grant was deleted. The operator must call this method about
    /// once a minute.
    pub fn forget_gone(&self, now: Instant) {
        let States { grants, stores, .. } = (self.watched.states)();
        let namespaces: HashSet<_> = grants.iter().map(|g| g.namespace.as_str()).collect();
        let has_grants = |labels: &RefusalLabel| namespaces.contains(labels.namespace.as_str());
        self.watched.refusals.forget_gone(has_grants, now);
        let stores: HashSet<_> = stores
            .iter()
            .map(|s| (s.kind, s.namespace.as_str(), s.name.as_str()))
            .collect();
        let is_there = |labels: &PollLabel| {
            let PollLabel {
                store_kind,
                store_namespace,
                store,
                ..
            } = labels;
            stores.contains(&(*store_kind, store_namespace.as_str(), store.as_str()))
        };
        self.watched.polls.forget_gone(is_there, now);
    }

    /// Returns the text that a scrape reads (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // The result is ignored, because writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// The metrics of objects that users can delete.
struct Watched {
    progress: Arc<Progress>,
    states: Box<dyn Fn() -> States + Send + Sync>,
    refusals: ExpiringCounters<RefusalLabel>,
    polls: ExpiringCounters<PollLabel>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Collector for Watched {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Number of times that Valet refused a grant, by reason; a grant that stays refused for one reason counts once";
        counters(&mut encoder, "grants_refused", help, &self.refusals)?;
        let help = "Polls for uploads (HEAD requests and lists of parts), by outcome";
        counters(&mut encoder, "store_polls", help, &self.polls)?;
        let States { leads, grants, stores } = (self.states)();
        let help = "1 on the leader, 0 on replicas that wait for the Lease";
        let leader = encoder.encode_descriptor("leader", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(leads)).encode(leader)?;
        let help = "1 if no reconcile has ended for a minute although reconciles are due or running, otherwise 0";
        let stalled = encoder.encode_descriptor("reconciles_stalled", help, None, MetricType::Gauge)?;
        let is_stalled = leads && self.progress.is_stalled(Instant::now());
        ConstGauge::new(i64::from(is_stalled)).encode(stalled)?;
        if let Some(last) = self.progress.last_ended() {
            let help = "Time at which the last reconcile of a grant ended";
            let name = "reconcile_last_finished_timestamp";
            let gauge = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
            ConstGauge::new(last.as_second()).encode(gauge)?;
        }
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, samples: &[(Vec<(&str, &str)>, i64)]| {
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for (labels, value) in samples {
                ConstGauge::new(*value).encode(family.encode_family(&labels.as_slice())?)?;
            }
            Ok::<(), fmt::Error>(())
        };

        let mut count: BTreeMap<(&str, &str, &str), i64> = BTreeMap::new();
        for g in &grants {
            *count.entry((g.kind, &g.namespace, &g.reason)).or_default() += 1;
        }
        let samples: Vec<_> = count
            .into_iter()
            .map(|((kind, namespace, reason), n)| {
                (vec![("kind", kind), ("namespace", namespace), ("reason", reason)], n)
            })
            .collect();
        let help = "Existing grants, by the reason of their Ready condition";
        gauge("grants", help, None, &samples)?;

        let samples: Vec<_> = grants
            .iter()
            .filter_map(|g| Some((identity(g.kind, &g.namespace, &g.name), g.expires?)))
            .collect();
        let help = "Time at which the credential of a live grant expires";
        gauge("credential_expiration_timestamp", help, Some(&Unit::Seconds), &samples)?;

        let samples: Vec<_> = grants
            .iter()
            .filter_map(|g| Some((identity(g.kind, &g.namespace, &g.name), g.renewal?)))
            .collect();
        let help = "Time at which Valet renews the credential of a grant; the time is in the past while the renewal is overdue";
        gauge("credential_renewal_timestamp", help, Some(&Unit::Seconds), &samples)?;

        let samples: Vec<_> = stores
            .iter()
            .map(|s| {
                let mut labels = store_labels(s);
                labels.push(("reason", &s.reason));
                (labels, i64::from(s.ready))
            })
            .collect();
        let help = "1 if the Ready condition of the store is True, otherwise 0; the label reason is the reason of the condition";
        gauge("store_ready", help, None, &samples)?;

        let samples: Vec<_> = stores
            .iter()
            .flat_map(|s| s.conditions.iter().map(move |condition| (s, condition)))
            .map(|(s, (type_, status))| {
                let mut labels = store_labels(s);
                labels.extend([("type", type_.as_str()), ("status", status.as_str())]);
                (labels, 1)
            })
            .collect();
        let help = "Always 1; one series for each condition that a probe has set on a store; the labels contain the type and the status of the condition";
        gauge("store_condition", help, None, &samples)?;

        let samples: Vec<_> = stores
            .iter()
            .filter_map(|s| Some((store_labels(s), s.credentials_expire?)))
            .collect();
        let help = "Time at which the signing credentials of the store expire";
        gauge(
            "store_credentials_expiration_timestamp",
            help,
            Some(&Unit::Seconds),
            &samples,
        )
    }
}

fn identity<'a>(kind: &'a str, namespace: &'a str, name: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![("kind", kind), ("namespace", namespace), ("name", name)]
}

/// Returns the labels of a store's metrics. They include the namespace of the operator that exports the store's
/// state.
fn store_labels(store: &StoreState) -> Vec<(&str, &str)> {
    let mut labels = identity(store.kind, &store.namespace, &store.name);
    labels.push(("scope", &store.scope));
    labels
}

fn counters<L: EncodeLabelSet + Ord + Clone>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: &ExpiringCounters<L>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, number) in counts.all() {
        ConstCounter::new(number).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
