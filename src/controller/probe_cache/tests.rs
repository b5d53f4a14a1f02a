use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::{FutureExt, future::BoxFuture};
use jiff::SignedDuration;

use super::*;
use crate::{
    api::Capabilities,
    core::{Access, AllowedRequest, ObjectFact, SignError, Signed},
    provider::{ObjectReader, Prober, Signer},
};

/// A mock store. Each test sets the answer of this store.
struct Store {
    finding: Mutex<Finding>,
    takes: Duration,
    probes: AtomicUsize,
    checks: AtomicUsize,
    is_interrupted: AtomicBool,
    skew: Mutex<Option<SignedDuration>>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            finding: Mutex::new(Finding::Usable),
            takes: Duration::ZERO,
            probes: AtomicUsize::default(),
            checks: AtomicUsize::default(),
            is_interrupted: AtomicBool::default(),
            skew: Mutex::default(),
        }
    }
}

impl Provider for Store {
    fn name(&self) -> &'static str {
        "test"
    }
    fn capabilities(&self) -> Arc<Capabilities> {
        Arc::default()
    }
}

impl Signer for Store {
    fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
        std::future::ready(Ok(None)).boxed()
    }
    fn sign<'a>(&'a self, _: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
        std::future::ready(Err(SignError::Refused("a test".into()))).boxed()
    }
}

impl ObjectReader for Store {
    fn head<'a>(&'a self, _: &'a Access) -> BoxFuture<'a, ObjectFact> {
        std::future::ready(ObjectFact::Absent).boxed()
    }
}

impl Prober for Store {
    fn requires_probe(&self) -> bool {
        true
    }
    fn probe(&self) -> BoxFuture<'_, Probed> {
        async {
            self.probes.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(self.takes).await;
            Probed {
                skew: self.skew().filter(|skew| is_skewed(Some(*skew))),
                ..Probed::of(self.finding.lock().unwrap().clone())
            }
        }
        .boxed()
    }
    fn skew(&self) -> Option<SignedDuration> {
        *self.skew.lock().unwrap()
    }
    fn check_conformance(&self) -> BoxFuture<'_, ConformanceReport> {
        self.checks.fetch_add(1, Ordering::Relaxed);
        let found = ConformanceReport {
            interrupted: self.is_interrupted.load(Ordering::Relaxed),
            ..ConformanceReport::default()
        };
        std::future::ready(found).boxed()
    }
}

const AT_ONCE: fn(&Outcome) -> Duration = |_| Duration::ZERO;
const NEVER: fn(&Outcome) -> Duration = |_| Duration::MAX;

fn id(namespace: &str, name: &str) -> StoreId {
    (StoreKind::ObjectStore, namespace.into(), name.into())
}

/// Returns a probe cache, and a channel that receives the notifications of its listener.
fn probe_cache() -> (Arc<ProbeCache>, tokio::sync::mpsc::UnboundedReceiver<bool>) {
    let (told, hears) = tokio::sync::mpsc::unbounded_channel();
    let probe_cache = Arc::new(ProbeCache::default());
    let listener: Listener = Arc::new(move |_, is_news| told.send(is_news).unwrap_or_default());
    probe_cache.listen(StoreKind::ObjectStore, listener);
    (probe_cache, hears)
}

fn taking(takes: Duration) -> Arc<Store> {
    Arc::new(Store {
        takes,
        ..Store::default()
    })
}

const FOR_EVER: Duration = Duration::from_secs(36_000);

#[tokio::test(start_paused = true)]
async fn changed_probe_result_is_reported_and_equal_one_is_not() {
    let (probe_cache, mut hears) = probe_cache();
    let (store, store_probe) = (taking(Duration::ZERO), Arc::new(StoreProbe::default()));
    let provider: Arc<dyn Provider> = store.clone();
    let mut look = async |age| {
        probe_cache.outcome(&id("a", "s"), &store_probe, &provider, None, age);
        hears.recv().await.unwrap()
    };
    assert!(look(NEVER).await, "the first result must count as news");
    assert!(!look(AT_ONCE).await, "the same result must not count as news");
    *store.finding.lock().unwrap() = Finding::Unreachable("away".into());
    assert!(look(AT_ONCE).await);
}

/// A reader receives the last result at once, even if the next probe takes a long time.
#[tokio::test(start_paused = true)]
async fn caller_does_not_wait_for_a_running_probe() {
    let (probe_cache, mut hears) = probe_cache();
    let (store, store_probe) = (taking(FOR_EVER), Arc::new(StoreProbe::default()));
    let provider: Arc<dyn Provider> = store.clone();
    let began = Instant::now();
    let look = |age| probe_cache.outcome(&id("a", "s"), &store_probe, &provider, None, age);
    for _ in 0..100 {
        assert!(look(AT_ONCE).is_none());
    }
    assert!(began.elapsed() < Duration::from_secs(1) && store_probe.overdue_problem().is_none());
    hears.recv().await.unwrap();
    assert!(began.elapsed() < PROBE_TIMEOUT + Duration::from_secs(1));
    match look(NEVER).map(|outcome| outcome.probed.finding) {
        Some(Finding::Unreachable(why)) => assert!(why.contains("10 s"), "{why}"),
        other => panic!("the store must count as unreachable: {other:?}"),
    }
    assert_eq!(
        store.probes.load(Ordering::Relaxed),
        1,
        "only one probe of a store must run at a time"
    );
}

/// Valet probes a store again when the clocks of the store and the operator start to differ, and when they agree
/// again. It does this even if the last result is new.
#[tokio::test(start_paused = true)]
async fn store_is_probed_again_when_clock_skew_begins_or_ends() {
    let (probe_cache, _hears) = probe_cache();
    let (store, store_probe) = (taking(Duration::ZERO), Arc::new(StoreProbe::default()));
    let provider: Arc<dyn Provider> = store.clone();
    for (skew, expected) in [
        (None, 1),
        (Some(0), 1),
        (Some(29), 1),
        (Some(-90), 2),
        (Some(1200), 2),
        (Some(0), 3),
        (None, 3),
    ] {
        *store.skew.lock().unwrap() = skew.map(SignedDuration::from_secs);
        for _ in 0..20 {
            probe_cache.outcome(&id("a", "s"), &store_probe, &provider, None, NEVER);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(store.probes.load(Ordering::Relaxed), expected, "{skew:?}");
    }
    // Valet cannot measure the clock difference of a store that does not answer.
    *store.finding.lock().unwrap() = Finding::Unreachable("away".into());
    *store.skew.lock().unwrap() = Some(SignedDuration::from_secs(90));
    for _ in 0..20 {
        probe_cache.outcome(&id("a", "s"), &store_probe, &provider, None, NEVER);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    *store.skew.lock().unwrap() = Some(SignedDuration::ZERO);
    for _ in 0..20 {
        probe_cache.outcome(&id("a", "s"), &store_probe, &provider, None, NEVER);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(
        store.probes.load(Ordering::Relaxed),
        4,
        "only the age of the result must cause another probe"
    );
}

/// Slow stores of one namespace delay only the probes of stores in this namespace. They do not delay the probes of
/// stores in a second namespace.
#[tokio::test(start_paused = true)]
async fn slow_stores_of_one_namespace_delay_no_probe_of_another() {
    let (probe_cache, mut hears) = probe_cache();
    let slow: Arc<dyn Provider> = taking(FOR_EVER);
    let all: Vec<_> = (0..40).map(|_| Arc::new(StoreProbe::default())).collect();
    for (n, store_probe) in all.iter().enumerate() {
        probe_cache.outcome(&id("loud", &n.to_string()), store_probe, &slow, None, NEVER);
    }
    let quick: Arc<dyn Provider> = taking(Duration::ZERO);
    let (store_probe, began) = (Arc::new(StoreProbe::default()), Instant::now());
    let look = || probe_cache.outcome(&id("quiet", "s"), &store_probe, &quick, None, NEVER);
    look();
    hears.recv().await.unwrap();
    assert!(look().is_some() && began.elapsed() < Duration::from_secs(1));
    tokio::time::sleep(SILENCE + Duration::from_secs(1)).await;
    assert!(
        all[39].overdue_problem().is_some(),
        "a long wait for a probe must have a message"
    );
}

/// Each value of the annotation causes only a limited number of conformance checks. If somebody changes the value
/// often, Valet starts at most one check per minute.
#[tokio::test(start_paused = true)]
async fn conformance_checks_are_limited_per_request_and_per_minute() {
    let (probe_cache, _hears) = probe_cache();
    let (store, store_probe) = (taking(Duration::ZERO), Arc::new(StoreProbe::default()));
    let provider: Arc<dyn Provider> = store.clone();
    let checks = || store.checks.load(Ordering::Relaxed);
    let look = |store_probe: &Arc<StoreProbe>, request: String| {
        probe_cache.outcome(&id("a", "s"), store_probe, &provider, Some(&request), age_for_status);
    };
    let second = || tokio::time::sleep(Duration::from_secs(1));
    for _ in 0..600 {
        look(&store_probe, "one".into());
        second().await;
    }
    assert_eq!(checks(), 1, "each request must start exactly one check");
    for n in 0..600 {
        look(&store_probe, n.to_string());
        second().await;
    }
    assert!((10..=11).contains(&checks()), "{} checks in ten minutes", checks() - 1);
    let before = checks();
    store.is_interrupted.store(true, Ordering::Relaxed);
    for _ in 0..1200 {
        look(&store_probe, "another".into());
        second().await;
    }
    assert_eq!(
        checks() - before,
        MAX_CHECKS as usize,
        "an interrupted check must be repeated"
    );
    // If somebody deletes the store and creates it again, Valet still starts at most one check per minute.
    let before = checks();
    for n in 0..60 {
        look(&Arc::new(StoreProbe::default()), n.to_string());
        second().await;
    }
    assert!(checks() - before <= 2, "{}", checks() - before);
}

/// The test covers all combinations of the probe result, the request for a conformance check, and the result of the
/// conformance check.
#[test]
fn probe_and_check_results_decide_if_credentials_are_signed() {
    let outcome = |finding, conformance_check: Option<ConformanceReport>| Outcome {
        when: Instant::now(),
        probed: Probed::of(finding),
        conformance_check: conformance_check.map(|found| ProbeResult {
            request: "now".into(),
            when: Timestamp::UNIX_EPOCH,
            found,
        }),
        has_answered: false,
    };
    let away = || Finding::Unreachable("away".into());
    let broken = || Finding::Broken(Reason::BucketNotFound, "none".into());
    let good = || Some(ConformanceReport::default());
    let bad = || {
        Some(ConformanceReport {
            unenforced: Some("bad".into()),
            ..ConformanceReport::default()
        })
    };
    for (finding, conformance_check, is_to_be_tried, expected) in [
        (Finding::Usable, None, false, None),
        (Finding::Usable, None, true, Some(Reason::Pending)),
        (Finding::Usable, good(), true, None),
        (Finding::Usable, bad(), true, Some(Reason::ConstraintsNotEnforced)),
        (away(), None, false, None),
        (away(), None, true, Some(Reason::StoreUnreachable)),
        (away(), good(), true, None),
        (away(), bad(), true, Some(Reason::ConstraintsNotEnforced)),
        (broken(), None, false, Some(Reason::BucketNotFound)),
        (broken(), bad(), true, Some(Reason::BucketNotFound)),
    ] {
        let case = format!("{finding:?} {conformance_check:?} {is_to_be_tried}");
        let forbids = outcome(finding, conformance_check).forbids(is_to_be_tried);
        assert_eq!(forbids.map(|(reason, _)| reason), expected, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn store_counts_as_not_probed_until_it_answers() {
    let away = || Finding::Unreachable("away".into());
    let (probe_cache, mut hears) = probe_cache();
    let (store, store_probe) = (taking(Duration::ZERO), Arc::new(StoreProbe::default()));
    *store.finding.lock().unwrap() = away();
    let provider: Arc<dyn Provider> = store.clone();
    let mut not_probed = async || {
        probe_cache.outcome(&id("a", "s"), &store_probe, &provider, None, AT_ONCE);
        hears.recv().await.unwrap();
        let outcome = probe_cache
            .outcome(&id("a", "s"), &store_probe, &provider, None, NEVER)
            .unwrap();
        outcome.not_probed(provider.as_ref()).map(|not_probed| not_probed.why)
    };
    assert_eq!(not_probed().await.as_deref(), Some("away"));
    *store.finding.lock().unwrap() = Finding::Usable;
    assert_eq!(not_probed().await, None);
    // An earlier result stays valid while the store does not answer.
    *store.finding.lock().unwrap() = away();
    assert_eq!(not_probed().await, None);
}
