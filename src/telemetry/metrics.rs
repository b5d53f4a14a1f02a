use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        histogram::exponential_buckets,
    },
    registry::{Registry, Unit},
};

use crate::api::{Operation, Reason};

/// What the operator counts. No label carries a URL, a key or a UID.
pub struct Metrics {
    registry: Registry,
    keys_issued: Family<KindLabel, Counter>,
    refusals: Family<ReasonLabel, Counter>,
    finished: Family<ReasonLabel, Counter>,
    grant_to_key: Family<KindLabel, Histogram>,
    reconcile: Family<KindLabel, Histogram>,
    reconcile_errors: Family<KindLabel, Counter>,
    looks: Family<LookLabel, Counter>,
    leader: Gauge,
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookLabel {
    outcome: &'static str,
}

/// What a scrape shows of one grant.
#[derive(Clone, Debug)]
pub struct GrantState {
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The reason of its `Ready` condition; empty before the first visit.
    pub reason: String,
    /// When its key ends (seconds since 1970), while it has one.
    pub expires: Option<i64>,
}

impl Metrics {
    /// All metrics; `grants` tells the state of every grant at each scrape, so that nothing can drift.
    pub fn new(grants: impl Fn() -> Vec<GrantState> + Send + Sync + 'static) -> Self {
        let mut registry = Registry::with_prefix("valet");
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.005, 2.0, 14));
        let metrics = Self {
            keys_issued: Family::default(),
            refusals: Family::default(),
            finished: Family::default(),
            grant_to_key: Family::new_with_constructor(histogram),
            reconcile: Family::new_with_constructor(histogram),
            reconcile_errors: Family::default(),
            looks: Family::default(),
            leader: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("keys_issued", "Keys written into Secrets", metrics.keys_issued.clone());
        registry.register(
            "grants_refused",
            "Grants that were refused, by reason",
            metrics.refusals.clone(),
        );
        registry.register(
            "grants_finished",
            "Grants that finished, by reason",
            metrics.finished.clone(),
        );
        registry.register_with_unit(
            "grant_to_key",
            "Time from a grant's creation (whole seconds, by the apiserver's clock) to its key",
            Unit::Seconds,
            metrics.grant_to_key.clone(),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "Time of one reconciliation",
            Unit::Seconds,
            metrics.reconcile.clone(),
        );
        registry.register(
            "reconcile_errors",
            "Reconciliations that failed and are tried again",
            metrics.reconcile_errors.clone(),
        );
        registry.register(
            "store_looks",
            "HEAD requests for uploads, by outcome",
            metrics.looks.clone(),
        );
        registry.register(
            "leader",
            "1 on the replica that works, 0 on those that wait",
            metrics.leader.clone(),
        );
        registry.register_collector(Box::new(Grants(Box::new(grants))));
        Self { registry, ..metrics }
    }

    /// A key was written into a Secret, `seconds` after its grant was created.
    pub fn key_issued(&self, operation: Operation, seconds: Option<f64>) {
        let label = KindLabel { kind: operation.kind() };
        self.keys_issued.get_or_create(&label).inc();
        if let Some(seconds) = seconds {
            self.grant_to_key.get_or_create(&label).observe(seconds);
        }
    }

    /// A grant was refused.
    pub fn refused(&self, operation: Operation, reason: Reason) {
        self.refusals
            .get_or_create(&ReasonLabel {
                kind: operation.kind(),
                reason: reason.as_str(),
            })
            .inc();
    }

    /// A grant finished.
    pub fn finished(&self, operation: Operation, reason: Reason) {
        self.finished
            .get_or_create(&ReasonLabel {
                kind: operation.kind(),
                reason: reason.as_str(),
            })
            .inc();
    }

    /// A reconciliation took that long.
    pub fn reconciled(&self, operation: Operation, seconds: f64) {
        self.reconcile
            .get_or_create(&KindLabel { kind: operation.kind() })
            .observe(seconds);
    }

    /// A reconciliation failed.
    pub fn reconcile_failed(&self, operation: Operation) {
        self.reconcile_errors
            .get_or_create(&KindLabel { kind: operation.kind() })
            .inc();
    }

    /// A store was asked for an object.
    pub fn looked(&self, outcome: &'static str) {
        self.looks.get_or_create(&LookLabel { outcome }).inc();
    }

    /// This replica works from now on.
    pub fn leading(&self) {
        self.leader.set(1);
    }

    /// The text that a scrape gets (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

struct Grants(Box<dyn Fn() -> Vec<GrantState> + Send + Sync>);

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grants")
    }
}

impl Collector for Grants {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let grants = (self.0)();
        let mut count: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        for g in &grants {
            *count.entry((g.kind, &g.reason)).or_default() += 1;
        }
        let mut family = encoder.encode_descriptor(
            "grants",
            "Grants that exist, by the reason of their Ready condition",
            None,
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        for ((kind, reason), n) in count {
            ConstGauge::new(n).encode(family.encode_family(&[("kind", kind), ("reason", reason)])?)?;
        }
        let mut family = encoder.encode_descriptor(
            "key_expiration_timestamp",
            "When a live key ends",
            Some(&Unit::Seconds),
            prometheus_client::metrics::MetricType::Gauge,
        )?;
        for g in &grants {
            if let Some(expires) = g.expires {
                let labels = [("kind", g.kind), ("namespace", &g.namespace), ("name", &g.name)];
                ConstGauge::new(expires).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
