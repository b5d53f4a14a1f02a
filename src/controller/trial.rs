//! What a store turned out to be like, and who has yet to hear of it. Stores are probed and checked in tasks of their own:
//! who wants to know reads the last result, and hears of the next one.

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

use super::{slot::FRESHNESS, stores::Why};
use crate::{
    api::{Reason, StoreKind, annotation},
    conformance::Canary,
    core::{StoreId, Untried, is_skewed, skewed},
    provider::{Finding, Probed, Provider},
};

/// The longest that one probe may take. What needs longer counts as a store that does not answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that one check with real keys may take, with clearing away what it wrote. It ends by itself before.
const CANARY_TIMEOUT: Duration = Duration::from_secs(70);
/// Between the beginnings of two checks of one store, whatever asks for them.
const CANARY_PAUSE: Duration = Duration::from_secs(60);
/// How often a check is begun again that was cut short, since the store went away meanwhile.
const MAX_CANARIES: u32 = 3;
/// Stores of one namespace that are probed or checked at one time. Whoever may make one may make many.
const AT_A_TIME: usize = 4;
/// The platform's own.
const SHARED_AT_A_TIME: usize = 16;
/// A grant waits for so long for a probe that was never made, without a word. Then its condition says so.
const SILENCE: Duration = Duration::from_secs(12);

/// What came of trying one store out, with these settings and credentials. One trial serves every grant of the store.
pub struct Trial(Mutex<State>);

struct State {
    last: Option<Outcome>,
    /// Whether a task tries the store out now, or waits to do so.
    under_way: bool,
    /// Since when it is known that the store is to be tried out.
    since: Instant,
    /// The request that the last checks answered, and how many of them there were.
    canaries: (String, u32),
}

/// What a store turned out to be like.
#[derive(Clone)]
pub struct Outcome {
    when: Instant,
    /// What the last trial showed.
    pub probed: Probed,
    /// And a round trip with real keys, if somebody asked for it.
    pub canary: Option<Tried>,
    /// Whether the store has answered in any trial.
    has_answered: bool,
}

/// A round trip with real keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// What asked for it.
    pub request: String,
    /// When it was made.
    pub when: Timestamp,
    /// What it found.
    pub found: Canary,
}

impl Default for Trial {
    fn default() -> Self {
        Self(Mutex::new(State {
            last: None,
            under_way: false,
            since: Instant::now(),
            canaries: (String::new(), 0),
        }))
    }
}

impl Trial {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Why nothing is known of the store although it is some time since somebody wanted to know.
    pub fn overdue(&self) -> Option<Why> {
        let state = self.lock();
        let is_overdue = state.last.is_none() && state.since.elapsed() > SILENCE;
        is_overdue.then(|| {
            let message =
                "the store has not been probed yet, since other stores of its namespace take long; it goes on by itself";
            (Reason::Pending, message.to_owned())
        })
    }

    /// Takes what a probe showed; whether that is something else than before.
    fn probed(&self, probed: Probed) -> bool {
        let mut state = self.lock();
        let before = state.last.take();
        let is_news = before.as_ref().is_none_or(|before| before.probed != probed);
        state.last = Some(Outcome {
            when: Instant::now(),
            // While the clocks differ, nothing is concluded from an answer.
            has_answered: probed.finding == Finding::Usable && probed.skew.is_none()
                || before.as_ref().is_some_and(|o| o.has_answered),
            canary: before.and_then(|o| o.canary),
            probed,
        });
        is_news
    }

    /// Takes what a check found; whether that is something else than before.
    fn checked(&self, request: &str, found: Canary) -> bool {
        let mut state = self.lock();
        state.canaries = match &state.canaries {
            (last, times) if last == request => (request.to_owned(), times + 1),
            _ => (request.to_owned(), 1),
        };
        let Some(outcome) = &mut state.last else {
            return false;
        };
        let is_news = outcome.canary.as_ref().is_none_or(|before| before.found != found);
        outcome.canary = Some(Tried {
            request: request.to_owned(),
            when: Timestamp::now(),
            found,
        });
        is_news
    }
}

impl State {
    /// Whether a check is to be made that this asks for, apart from how often one may be.
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

/// Is told that a store was tried out, and whether something else came of it than before.
pub type Listener = Arc<dyn Fn(&StoreId, bool) + Send + Sync>;

/// Tries stores out, and says so to whom it concerns.
#[derive(Default)]
pub struct Trials {
    /// How many more may be tried out now, by namespace; the platform's own under the empty one.
    permits: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// When a store was last checked with real keys. It outlasts the store's object: made again it is not checked sooner.
    canaries: Mutex<HashMap<StoreId, Instant>>,
    listeners: Mutex<HashMap<StoreKind, Listener>>,
}

/// A task that tries a store out; it has ended when this is dropped.
struct UnderWay(Arc<Trial>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.lock().under_way = false;
    }
}

impl Trials {
    /// Who is told of the stores of this kind.
    pub fn listen(&self, kind: StoreKind, listener: Listener) {
        lock(&self.listeners).insert(kind, listener);
    }

    /// The last result, if there is one. If it is older than its kind may be, or something asks for a check with real keys
    /// that was not made, the store is tried out meanwhile. Nobody waits for that here.
    pub fn outcome(
        self: &Arc<Self>,
        id: &StoreId,
        trial: &Arc<Trial>,
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

    /// Whether the last check of the store was long enough ago.
    fn may_check(&self, id: &StoreId) -> bool {
        let mut canaries = lock(&self.canaries);
        canaries.retain(|_, began| began.elapsed() < CANARY_PAUSE);
        !canaries.contains_key(id)
    }

    /// How many more stores may be tried out now, of those that share that with this one.
    fn permits(&self, id: &StoreId) -> Arc<Semaphore> {
        let most = match id.0 {
            StoreKind::ObjectStore => AT_A_TIME,
            StoreKind::ClusterObjectStore => SHARED_AT_A_TIME,
        };
        let mut all = lock(&self.permits);
        // Of namespaces in which nothing is under way nothing is kept.
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
        // The semaphore is never closed.
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
            .unwrap_or_else(|_| Canary {
                untried: vec![format!("all of it: it took longer than {} s", CANARY_TIMEOUT.as_secs())],
                interrupted: true,
                ..Canary::default()
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
    /// Whether the clocks agreed then and differ now, or the other way round. A step of the operator's clock shows at once, and
    /// what can be concluded about the store is then something else.
    fn is_of_another_time(&self, provider: &dyn Provider) -> bool {
        let is_answer = !matches!(self.probed.finding, Finding::Unreachable(_));
        let differed = self.probed.skew.is_some();
        let now = provider.skew();
        is_answer && now.is_some() && is_skewed(now) != differed && self.when.elapsed() >= FRESHNESS
    }

    /// Why no key is to be signed, whatever it says. `is_to_be_tried`: whether somebody has asked for a round trip with real
    /// keys.
    pub fn forbids(&self, is_to_be_tried: bool) -> Option<Why> {
        let worthless = self.canary.as_ref().and_then(|tried| tried.found.worthless.as_ref());
        match &self.probed.finding {
            Finding::Broken(reason, message) => Some((*reason, message.clone())),
            // Whoever wants a store tried out wants no keys before: some would be weaker than their grants, and some that are
            // out would be withdrawn since nobody has tried yet.
            Finding::Unreachable(why) if is_to_be_tried && self.canary.is_none() => Some((
                Reason::StoreUnreachable,
                format!("it is to be tried out with real keys first, and does not answer: {why}"),
            )),
            Finding::Usable if is_to_be_tried && self.canary.is_none() => Some((
                Reason::Pending,
                format!(
                    "the store is being tried out with real keys first, as its annotation {} asks; this takes up to a minute, and no key is signed before",
                    annotation::CANARY_REQUESTED_AT
                ),
            )),
            Finding::Usable | Finding::Unreachable(_) => {
                worthless.map(|message| (Reason::KeysNotEnforced, message.clone()))
            }
        }
    }

    /// Why it is not known yet what the store holds keys to, where that has to be seen: it has not answered, neither now
    /// nor before.
    pub fn untried(&self, provider: &dyn Provider) -> Option<Untried> {
        let only_write_once = !provider.rests_on_trial();
        if self.has_answered || only_write_once && !provider.write_once_rests_on_trial() {
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

/// How old a result may be by which a key is signed: what a store enforces does not change by itself, and what is broken
/// is looked at again by the store's own sweep. One that did not answer is asked again, though not by every grant.
pub fn age_for_grants(outcome: &Outcome) -> Duration {
    match outcome.probed.finding {
        Finding::Usable | Finding::Broken(..) => Duration::MAX,
        Finding::Unreachable(_) => FRESHNESS,
    }
}

/// How old a result may be in a store's status: a minute for what should change soon.
pub fn age_for_status(outcome: &Outcome) -> Duration {
    let is_interrupted = outcome.canary.as_ref().is_some_and(|c| c.found.interrupted);
    match outcome.probed.finding {
        Finding::Usable if !is_interrupted && outcome.probed.skew.is_none() => Duration::from_secs(300),
        Finding::Usable | Finding::Broken(..) | Finding::Unreachable(_) => Duration::from_secs(50),
    }
}

#[cfg(test)]
mod tests;
