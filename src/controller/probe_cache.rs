//! Runs probes and conformance checks of stores in background tasks. Readers get the last result at once, and are
//! notified of the next one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{slot::FRESHNESS, stores::Problem};
use crate::{
    api::{Reason, StoreKind, annotation},
    conformance::ConformanceReport,
    core::{StoreId, Untried, is_skewed, skewed},
    provider::{Finding, Probed, Provider},
};

/// The time limit of one probe. A slower store counts as not answering.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit of one conformance check, including the cleanup of its objects. A check normally stops by itself
/// earlier.
const CANARY_TIMEOUT: Duration = Duration::from_secs(70);
/// The minimum time between the starts of two conformance checks of one store.
const CANARY_PAUSE: Duration = Duration::from_secs(60);
/// How often a conformance check is started in total if it is interrupted because the store stops answering.
const MAX_CANARIES: u32 = 3;
/// The maximum number of ObjectStores of one namespace that are probed at the same time. One tenant can create many
/// stores.
const AT_A_TIME: usize = 4;
/// The maximum number of ClusterObjectStores that are probed at the same time.
const SHARED_AT_A_TIME: usize = 16;
/// How long a grant waits for the first probe without a condition. After this time its condition says why it waits.
const SILENCE: Duration = Duration::from_secs(12);

/// The last result for one store with its current settings and credentials. All grants of the store share it.
pub struct StoreProbe(Mutex<State>);

struct State {
    last: Option<Outcome>,
    /// Whether a background task probes the store now, or waits for a permit to do so.
    under_way: bool,
    /// When the first probe became necessary.
    since: Instant,
    /// The last check request, and the number of checks that were made for it.
    canaries: (String, u32),
}

/// The last result of a store's probe and conformance check.
#[derive(Clone)]
pub struct Outcome {
    when: Instant,
    /// The result of the last probe.
    pub probed: Probed,
    /// The result of the last conformance check, if one was requested.
    pub canary: Option<ProbeResult>,
    /// Whether the store has answered any probe.
    has_answered: bool,
}

/// A completed conformance check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// The value of the annotation that requested the check.
    pub request: String,
    /// When the check was made.
    pub when: Timestamp,
    /// The result of the check.
    pub found: ConformanceReport,
}

impl Default for StoreProbe {
    fn default() -> Self {
        Self(Mutex::new(State {
            last: None,
            under_way: false,
            since: Instant::now(),
            canaries: (String::new(), 0),
        }))
    }
}

impl StoreProbe {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Why the first probe of the store has no result yet, if it is overdue.
    pub fn overdue(&self) -> Option<Problem> {
        let state = self.lock();
        let is_overdue = state.last.is_none() && state.since.elapsed() > SILENCE;
        is_overdue.then(|| {
            let message =
                "the store has not been probed yet, because probes of other stores take long; Valet probes it automatically";
            (Reason::Pending, message.to_owned())
        })
    }

    /// Records the result of a probe. Returns whether it differs from the last result.
    fn probed(&self, probed: Probed) -> bool {
        let mut state = self.lock();
        let before = state.last.take();
        let is_news = before.as_ref().is_none_or(|before| before.probed != probed);
        state.last = Some(Outcome {
            when: Instant::now(),
            // While the clocks differ, an answer proves nothing.
            has_answered: probed.finding == Finding::Usable && probed.skew.is_none()
                || before.as_ref().is_some_and(|o| o.has_answered),
            canary: before.and_then(|o| o.canary),
            probed,
        });
        is_news
    }

    /// Records the result of a conformance check. Returns whether it differs from the last result.
    fn checked(&self, request: &str, found: ConformanceReport) -> bool {
        let mut state = self.lock();
        state.canaries = match &state.canaries {
            (last, times) if last == request => (request.to_owned(), times + 1),
            _ => (request.to_owned(), 1),
        };
        let Some(outcome) = &mut state.last else {
            return false;
        };
        let is_news = outcome.canary.as_ref().is_none_or(|before| before.found != found);
        outcome.canary = Some(ProbeResult {
            request: request.to_owned(),
            when: Timestamp::now(),
            found,
        });
        is_news
    }
}

impl State {
    /// Whether this request needs a check, apart from the minimum time between checks.
    fn wants_canary(&self, request: Option<&String>) -> bool {
        let (Some(request), Some(outcome)) = (request, &self.last) else {
            return false;
        };
        if outcome.probed.finding != Finding::Usable {
            return false;
        }
        match &outcome.canary {
            Some(done) if done.request == *request => done.found.interrupted && self.canaries.1 < MAX_CANARIES,
            _ => true,
        }
    }
}

/// A callback for a new result. The second argument says whether the result differs from the last one.
pub type Listener = Arc<dyn Fn(&StoreId, bool) + Send + Sync>;

/// Runs probes and conformance checks, and calls the listeners.
#[derive(Default)]
pub struct ProbeCache {
    /// The free permits for probes, by namespace. ClusterObjectStores use the empty namespace.
    permits: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// When the last conformance check of each store started. The entry outlives the store object, so deleting and
    /// recreating a store does not allow an earlier check.
    canaries: Mutex<HashMap<StoreId, Instant>>,
    listeners: Mutex<HashMap<StoreKind, Listener>>,
}

/// Marks a running background task. Dropping it marks the task as ended.
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

    /// Returns the last result, if there is one. Starts a background task if the result is older than `age` or if
    /// `request` needs a conformance check. Does not wait for the task.
    pub fn outcome(
        self: &Arc<Self>,
        id: &StoreId,
        trial: &Arc<StoreProbe>,
        provider: &Arc<dyn Provider>,
        request: Option<&String>,
        age: fn(&Outcome) -> Duration,
    ) -> Option<Outcome> {
        let mut state = trial.lock();
        let is_old = state
            .last
            .as_ref()
            .is_none_or(|o| o.when.elapsed() >= age(o) || o.is_of_another_time(provider.as_ref()));
        let is_due = is_old || state.wants_canary(request) && self.may_check(id);
        if is_due && !std::mem::replace(&mut state.under_way, true) {
            let under_way = UnderWay(trial.clone());
            let task = self
                .clone()
                .try_out(id.clone(), under_way, provider.clone(), request.cloned());
            tokio::spawn(task);
        }
        state.last.clone()
    }

    /// Whether the last check of the store started long enough ago.
    fn may_check(&self, id: &StoreId) -> bool {
        let mut canaries = lock(&self.canaries);
        canaries.retain(|_, began| began.elapsed() < CANARY_PAUSE);
        !canaries.contains_key(id)
    }

    /// The semaphore for probes that this store shares with other stores.
    fn permits(&self, id: &StoreId) -> Arc<Semaphore> {
        let most = match id.0 {
            StoreKind::ObjectStore => AT_A_TIME,
            StoreKind::ClusterObjectStore => SHARED_AT_A_TIME,
        };
        let mut all = lock(&self.permits);
        // Entries of namespaces without running probes are removed.
        all.retain(|_, permits| Arc::strong_count(permits) > 1);
        all.entry(id.1.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(most)))
            .clone()
    }

    async fn try_out(
        self: Arc<Self>,
        id: StoreId,
        under_way: UnderWay,
        provider: Arc<dyn Provider>,
        request: Option<String>,
    ) {
        let trial = under_way.0.clone();
        let permits = self.permits(&id);
        // Acquiring fails only if the semaphore is closed, which never happens.
        let Ok(_permit) = permits.acquire().await else { return };
        let probed = timeout(PROBE_TIMEOUT, provider.probe()).await.unwrap_or_else(|_| {
            let why = format!("the probe took longer than {} s", PROBE_TIMEOUT.as_secs());
            Probed::of(Finding::Unreachable(why))
        });
        let is_news = trial.probed(probed);
        let request = request.filter(|request| trial.lock().wants_canary(Some(request)) && self.may_check(&id));
        let Some(request) = request else {
            drop(under_way);
            return self.tell(&id, is_news);
        };
        self.tell(&id, is_news);
        lock(&self.canaries).insert(id.clone(), Instant::now());
        let found = timeout(CANARY_TIMEOUT, provider.canary())
            .await
            .unwrap_or_else(|_| ConformanceReport {
                untried: vec![format!(
                    "everything: the check took longer than {} s",
                    CANARY_TIMEOUT.as_secs()
                )],
                interrupted: true,
                ..ConformanceReport::default()
            });
        let is_news = trial.checked(&request, found);
        drop(under_way);
        self.tell(&id, is_news);
    }

    fn tell(&self, id: &StoreId, is_news: bool) {
        let listener = lock(&self.listeners).get(&id.0).cloned();
        if let Some(listener) = listener {
            listener(id, is_news);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outcome {
    /// Whether the clocks agreed at the time of the result and differ now, or the reverse. A step of the operator's
    /// clock is visible at once and changes what the result means.
    fn is_of_another_time(&self, provider: &dyn Provider) -> bool {
        let is_answer = !matches!(self.probed.finding, Finding::Unreachable(_));
        let differed = self.probed.skew.is_some();
        let now = provider.skew();
        is_answer && now.is_some() && is_skewed(now) != differed && self.when.elapsed() >= FRESHNESS
    }

    /// Why no credential may be signed, whatever it allows. `is_to_be_tried`: whether a conformance check is
    /// requested.
    pub fn forbids(&self, is_to_be_tried: bool) -> Option<Problem> {
        let worthless = self.canary.as_ref().and_then(|tried| tried.found.worthless.as_ref());
        match &self.probed.finding {
            Finding::Broken(reason, message) => Some((*reason, message.clone())),
            // An owner who requests a check does not want credentials before its result. Some credentials would be
            // weaker than their grants, and issued ones would be deleted without a result.
            Finding::Unreachable(why) if is_to_be_tried && self.canary.is_none() => Some((
                Reason::StoreUnreachable,
                format!("a conformance check must run first, but the store does not answer: {why}"),
            )),
            Finding::Usable if is_to_be_tried && self.canary.is_none() => Some((
                Reason::Pending,
                format!(
                    "a conformance check of the store is running, as annotation {} requests; it takes up to one minute, and no credential is signed before it ends",
                    annotation::CANARY_REQUESTED_AT
                ),
            )),
            Finding::Usable | Finding::Unreachable(_) => {
                worthless.map(|message| (Reason::KeysNotEnforced, message.clone()))
            }
        }
    }

    /// Why it is not yet known which constraints the store enforces: the store has never answered, and this must be
    /// observed.
    pub fn untried(&self, provider: &dyn Provider) -> Option<Untried> {
        let only_write_once = !provider.requires_probe();
        if self.has_answered || only_write_once && !provider.write_once_requires_probe() {
            return None;
        }
        let (reason, why) = match (&self.probed.finding, self.probed.skew) {
            (Finding::Unreachable(why), _) => (Reason::StoreUnreachable, why.clone()),
            (_, Some(skew)) => (Reason::ClockSkewed, skewed(skew)),
            _ => return None,
        };
        Some(Untried {
            reason,
            why,
            only_write_once,
        })
    }
}

/// The maximum age of a result that a credential may be signed with. What a store enforces does not change by itself,
/// and the store's own reconcile repeats a failed probe. A store that did not answer is probed again, but not for
/// every grant.
pub fn age_for_grants(outcome: &Outcome) -> Duration {
    match outcome.probed.finding {
        Finding::Usable | Finding::Broken(..) => Duration::MAX,
        Finding::Unreachable(_) => FRESHNESS,
    }
}

/// The maximum age of a result in a store's status: 50 seconds if the result should change soon, otherwise 5 minutes.
pub fn age_for_status(outcome: &Outcome) -> Duration {
    let is_interrupted = outcome.canary.as_ref().is_some_and(|c| c.found.interrupted);
    match outcome.probed.finding {
        Finding::Usable if !is_interrupted && outcome.probed.skew.is_none() => Duration::from_secs(300),
        Finding::Usable | Finding::Broken(..) | Finding::Unreachable(_) => Duration::from_secs(50),
    }
}

#[cfg(test)]
mod tests;
