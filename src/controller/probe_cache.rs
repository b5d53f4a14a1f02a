//! Runs probes and conformance checks of stores in background tasks. A reconcile does not wait for these tasks. It
//! receives the last result at once. When a task has a new result, the cache calls a listener.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::slot::{FRESHNESS, lock};
use crate::{
    api::{Reason, StoreKind, annotation},
    conformance::ConformanceReport,
    core::{NotProbedYet, StoreId, is_skewed, skewed},
    provider::{Finding, Probed, Provider},
};

/// The reason and the message for the condition of a store that Valet cannot use.
pub type Problem = (Reason, String);

/// The time limit of one probe. If a probe takes longer, Valet treats the store as unreachable.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Valet cancels a conformance check after 70 seconds. This time includes the deletion of the test objects. Normally
/// a conformance check ends earlier.
const CHECK_TIMEOUT: Duration = Duration::from_secs(70);
/// The minimum time between the starts of two conformance checks of one store.
const CHECK_PAUSE: Duration = Duration::from_secs(60);
/// The maximum number of attempts for one requested conformance check. An attempt fails if the store stops answering.
const MAX_CHECKS: u32 = 3;
/// Valet probes at most 4 ObjectStores of one namespace at the same time, because one tenant can create many
/// ObjectStores.
const AT_A_TIME: usize = 4;
/// Valet probes at most 16 ClusterObjectStores at one time.
const SHARED_AT_A_TIME: usize = 16;
/// A grant waits for the first probe of its store. If the probe has no result after 12 seconds, the grant's condition
/// `Ready` reports the delay.
const SILENCE: Duration = Duration::from_secs(12);

/// The last result of the probe and the conformance check of one store. If the store's settings or credentials change,
/// Valet discards the result. All grants of the store use the same result.
pub struct StoreProbe(Mutex<State>);

struct State {
    last: Option<Outcome>,
    /// True if a background task probes the store now or waits for a permit to probe the store.
    under_way: bool,
    /// The time at which the first probe became necessary.
    since: Instant,
    /// The last value of the annotation that requests a conformance check, and the number of checks that Valet
    /// started for this value.
    checks: (String, u32),
}

/// The last result of a store's probe and conformance check.
#[derive(Clone)]
pub struct Outcome {
    when: Instant,
    /// The result of the last probe.
    pub probed: Probed,
    /// The result of the last conformance check, if one was requested.
    pub conformance_check: Option<ProbeResult>,
    /// True if a probe has shown that Valet can use the store. The probe counts only if the clocks of the store and
    /// the operator agreed.
    has_answered: bool,
}

/// The result of a completed conformance check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// The value of the annotation that requested the check.
    pub request: String,
    /// The time at which the check was made.
    pub when: Timestamp,
    /// The findings of the check.
    pub found: ConformanceReport,
}

impl Default for StoreProbe {
    fn default() -> Self {
        Self(Mutex::new(State {
            last: None,
            under_way: false,
            since: Instant::now(),
            checks: (String::new(), 0),
        }))
    }
}

impl StoreProbe {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Returns a reason and a message if the first probe of the store takes too long. Returns `None` otherwise.
    pub fn overdue_problem(&self) -> Option<Problem> {
        let state = self.lock();
        let is_overdue = state.last.is_none() && state.since.elapsed() > SILENCE;
        is_overdue.then(|| {
            let message =
                "Valet has not probed the store yet, because probes of other stores take long; Valet will probe the store automatically";
            (Reason::Pending, message.to_owned())
        })
    }

    /// Records the result of a probe. Returns true if it differs from the last result.
    fn probed(&self, probed: Probed) -> bool {
        let mut state = self.lock();
        let before = state.last.take();
        let is_news = before.as_ref().is_none_or(|before| before.probed != probed);
        state.last = Some(Outcome {
            when: Instant::now(),
            // Valet ignores the answer of a probe while the clocks differ, because the store may have rejected the
            // requests only because of the clock difference.
            has_answered: probed.finding == Finding::Usable && probed.skew.is_none()
                || before.as_ref().is_some_and(|o| o.has_answered),
            conformance_check: before.and_then(|o| o.conformance_check),
            probed,
        });
        is_news
    }

    /// Records the result of a conformance check. Returns true if it differs from the last result.
    fn checked(&self, request: &str, found: ConformanceReport) -> bool {
        let mut state = self.lock();
        state.checks = match &state.checks {
            (last, times) if last == request => (request.to_owned(), times + 1),
            _ => (request.to_owned(), 1),
        };
        let Some(outcome) = &mut state.last else {
            return false;
        };
        let is_news = outcome
            .conformance_check
            .as_ref()
            .is_none_or(|before| before.found != found);
        outcome.conformance_check = Some(ProbeResult {
            request: request.to_owned(),
            when: Timestamp::now(),
            found,
        });
        is_news
    }
}

impl State {
    /// Returns true if this request needs a conformance check. The method does not check the minimum time between two
    /// conformance checks.
    fn needs_check(&self, request: Option<&String>) -> bool {
        let (Some(request), Some(outcome)) = (request, &self.last) else {
            return false;
        };
        if outcome.probed.finding != Finding::Usable {
            return false;
        }
        match &outcome.conformance_check {
            Some(done) if done.request == *request => done.found.interrupted && self.checks.1 < MAX_CHECKS,
            _ => true,
        }
    }
}

/// The function that the cache calls after each probe and each conformance check. The second argument is true if the
/// result differs from the previous result.
pub type Listener = Arc<dyn Fn(&StoreId, bool) + Send + Sync>;

/// Runs probes and conformance checks, and calls a listener after each of them.
#[derive(Default)]
pub struct ProbeCache {
    /// Limits the concurrent probes of each namespace. ClusterObjectStores use the empty namespace.
    permits: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// The start time of the last conformance check of each store. Valet keeps the entry even if somebody deletes the
    /// store. Otherwise a user could skip the pause between two conformance checks by deleting the store and creating
    /// it again.
    checks: Mutex<HashMap<StoreId, Instant>>,
    listeners: Mutex<HashMap<StoreKind, Listener>>,
}

/// Marks that a background task is running. When the value is dropped, the task counts as ended.
struct UnderWay(Arc<StoreProbe>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.lock().under_way = false;
    }
}

impl ProbeCache {
    /// Sets the listener for stores of this kind.
    pub fn listen(&self, kind: StoreKind, listener: Listener) {
        lock(&self.listeners).insert(kind, listener);
    }

    /// Returns the last result, if there is one. If the result is older than `age`, or if `request` needs a
    /// conformance check, this method also starts a background task. It does not wait for the task.
    pub fn outcome(
        self: &Arc<Self>,
        id: &StoreId,
        store_probe: &Arc<StoreProbe>,
        provider: &Arc<dyn Provider>,
        request: Option<&String>,
        age: fn(&Outcome) -> Duration,
    ) -> Option<Outcome> {
        let mut state = store_probe.lock();
        let is_old = state
            .last
            .as_ref()
            .is_none_or(|o| o.when.elapsed() >= age(o) || o.is_of_another_time(provider.as_ref()));
        let is_due = is_old || state.needs_check(request) && self.may_check(id);
        if is_due && !std::mem::replace(&mut state.under_way, true) {
            let under_way = UnderWay(store_probe.clone());
            let task = self
                .clone()
                .probe_store(id.clone(), under_way, provider.clone(), request.cloned());
            tokio::spawn(task);
        }
        state.last.clone()
    }

    /// Returns true if the minimum time since the start of the store's last conformance check has passed.
    fn may_check(&self, id: &StoreId) -> bool {
        let mut checks = lock(&self.checks);
        checks.retain(|_, began| began.elapsed() < CHECK_PAUSE);
        !checks.contains_key(id)
    }

    /// Returns the semaphore that limits the concurrent probes of all stores in the namespace of this store.
    fn permits(&self, id: &StoreId) -> Arc<Semaphore> {
        let most = match id.0 {
            StoreKind::ObjectStore => AT_A_TIME,
            StoreKind::ClusterObjectStore => SHARED_AT_A_TIME,
        };
        let mut all = lock(&self.permits);
        // If a namespace has no running probes, its entry is removed.
        all.retain(|_, permits| Arc::strong_count(permits) > 1);
        all.entry(id.1.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(most)))
            .clone()
    }

    async fn probe_store(
        self: Arc<Self>,
        id: StoreId,
        under_way: UnderWay,
        provider: Arc<dyn Provider>,
        request: Option<String>,
    ) {
        let store_probe = under_way.0.clone();
        let permits = self.permits(&id);
        // Acquiring fails only if the semaphore is closed, which never happens.
        let Ok(_permit) = permits.acquire().await else { return };
        let probed = timeout(PROBE_TIMEOUT, provider.probe()).await.unwrap_or_else(|_| {
            let why = format!(
                "the probe of the store took longer than {seconds} s",
                seconds = PROBE_TIMEOUT.as_secs()
            );
            Probed::of(Finding::Unreachable(why))
        });
        let is_news = store_probe.probed(probed);
        let request = request.filter(|request| store_probe.lock().needs_check(Some(request)) && self.may_check(&id));
        let Some(request) = request else {
            drop(under_way);
            return self.notify_listener(&id, is_news);
        };
        self.notify_listener(&id, is_news);
        lock(&self.checks).insert(id.clone(), Instant::now());
        let found = timeout(CHECK_TIMEOUT, provider.check_conformance())
            .await
            .unwrap_or_else(|_| ConformanceReport {
                not_tested: vec![format!(
                    "the conformance check did not finish within {seconds} s",
                    seconds = CHECK_TIMEOUT.as_secs()
                )],
                interrupted: true,
                ..ConformanceReport::default()
            });
        let is_news = store_probe.checked(&request, found);
        drop(under_way);
        self.notify_listener(&id, is_news);
    }

    fn notify_listener(&self, id: &StoreId, is_news: bool) {
        let listener = lock(&self.listeners).get(&id.0).cloned();
        if let Some(listener) = listener {
            listener(id, is_news);
        }
    }
}

impl Outcome {
    /// Returns true if a clock difference has started or ended since the last result. In both cases Valet must probe
    /// the store again, because a clock difference can change the result of a probe.
    fn is_of_another_time(&self, provider: &dyn Provider) -> bool {
        let is_answer = !matches!(self.probed.finding, Finding::Unreachable(_));
        let differed = self.probed.skew.is_some();
        let now = provider.skew();
        is_answer && now.is_some() && is_skewed(now) != differed && self.when.elapsed() >= FRESHNESS
    }

    /// If Valet must not sign a credential for this store, returns the reason and a message. `is_to_be_tried` is true
    /// if somebody has requested a conformance check.
    pub fn forbids(&self, is_to_be_tried: bool) -> Option<Problem> {
        let unenforced = self
            .conformance_check
            .as_ref()
            .and_then(|tried| tried.found.unenforced.as_ref());
        match &self.probed.finding {
            Finding::Broken(reason, message) => Some((*reason, message.clone())),
            // The store does not answer, and a requested conformance check has no result yet. Valet signs no
            // credentials, because it does not know whether the store enforces the constraints of credentials.
            Finding::Unreachable(why) if is_to_be_tried && self.conformance_check.is_none() => Some((
                Reason::StoreUnreachable,
                format!(
                    "Valet must run a conformance check before signing credentials, but the store does not answer: {why}"
                ),
            )),
            Finding::Usable if is_to_be_tried && self.conformance_check.is_none() => Some((
                Reason::Pending,
                format!(
                    "a conformance check of the store is running, because annotation {requested} requests the check; Valet signs no credential until the check ends; the check takes at most 70 seconds",
                    requested = annotation::CHECK_REQUESTED_AT
                ),
            )),
            Finding::Usable | Finding::Unreachable(_) => {
                unenforced.map(|message| (Reason::ConstraintsNotEnforced, message.clone()))
            }
        }
    }

    /// Returns the reason why Valet does not know yet which constraints the store enforces. Returns `None` if a probe
    /// has shown which constraints the store enforces, or if the provider needs no probe.
    pub fn not_probed(&self, provider: &dyn Provider) -> Option<NotProbedYet> {
        let only_write_once = !provider.requires_probe();
        if self.has_answered || only_write_once && !provider.write_once_requires_probe() {
            return None;
        }
        let (reason, why) = match (&self.probed.finding, self.probed.skew) {
            (Finding::Unreachable(why), _) => (Reason::StoreUnreachable, why.clone()),
            (_, Some(skew)) => (Reason::ClockSkewed, skewed(skew)),
            _ => return None,
        };
        Some(NotProbedYet {
            reason,
            why,
            only_write_once,
        })
    }
}

/// Returns the maximum age of a probe result that allows Valet to sign a credential. Usually the result may have any
/// age, because the constraints that a store enforces do not change by themselves.
///
/// If the store did not answer, the maximum age is 2 seconds. Valet then probes the store again soon, but does not
/// probe it again for every single grant.
pub fn age_for_grants(outcome: &Outcome) -> Duration {
    match outcome.probed.finding {
        Finding::Usable | Finding::Broken(..) => Duration::MAX,
        Finding::Unreachable(_) => FRESHNESS,
    }
}

/// Returns the maximum age of a probe result that Valet writes to a store's status. The maximum is 50 seconds if the
/// result may change soon, and 5 minutes otherwise.
pub fn age_for_status(outcome: &Outcome) -> Duration {
    let is_interrupted = outcome.conformance_check.as_ref().is_some_and(|c| c.found.interrupted);
    match outcome.probed.finding {
        Finding::Usable if !is_interrupted && outcome.probed.skew.is_none() => Duration::from_secs(300),
        Finding::Usable | Finding::Broken(..) | Finding::Unreachable(_) => Duration::from_secs(50),
    }
}

#[cfg(test)]
mod tests;
