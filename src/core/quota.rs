//! Quotas: limits on the number of live grants (`maxLiveGrants`), and the queue of the grants that wait.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    facts::{GrantFacts, StoreView},
    key::ObjectKey,
    lifetime::add,
    policy::{chooses, examine, may_choose},
};
use crate::api::ClusterAccessRule;

/// How long a grant that was not reconciled yet counts before younger grants in the queue. The time is enough for the
/// first reconcile after a start of the operator. A grant that is never reconciled blocks others no longer than this.
const NEW_COUNTS: SignedDuration = SignedDuration::from_secs(15);

/// The limits that apply to a grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaLimits {
    /// The limit for live grants of the grant's namespace.
    pub namespace: Option<i64>,
    /// The limit for live grants of all namespaces together.
    pub store: Option<i64>,
}

impl QuotaLimits {
    /// Whether there is any limit.
    pub fn is_limited(self) -> bool {
        self.namespace.is_some() || self.store.is_some()
    }
}

/// The limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaLimit {
    /// The limit of the grant's namespace.
    Namespace(i64),
    /// The limit of the whole store.
    Store(i64),
}

impl QuotaLimit {
    /// The message for the tenant. It contains nothing that changes while the grant waits, because every change would
    /// cause a write for each waiting grant.
    pub(super) fn message(self, grant: &GrantFacts) -> String {
        let (store, namespace) = (&grant.terms.store_ref, &grant.namespace);
        match self {
            Self::Namespace(n) => format!(
                "{store} allows namespace {namespace} at most {n} live grants, and the limit is reached; this grant waits in a queue, oldest first, until a live grant ends: wait, or revoke or delete grants that you no longer need"
            ),
            Self::Store(n) => format!(
                "{store} allows at most {n} live grants in all namespaces together, and the limit is reached; this grant waits in a queue until a live grant ends; the namespace with the fewest live grants is first, and its oldest grant"
            ),
        }
    }
}

/// The limits that apply to a grant. If several access rules allow the grant, the most generous limit counts.
pub(super) fn most(grant: &GrantFacts, key: &ObjectKey, store: &StoreView) -> QuotaLimits {
    let mine: Vec<_> = store
        .rules
        .iter()
        .filter(|r| chooses(&r.namespaces, &grant.namespace, &store.namespace_labels))
        .map(|r| &r.rule)
        .collect();
    let allowing = mine.iter().filter(|rule| examine(grant, key, rule, &mine).is_ok());
    let limits: Option<Vec<i64>> = allowing.map(|rule| rule.max_live_grants).collect();
    QuotaLimits {
        namespace: limits.and_then(|all| all.into_iter().max()),
        store: store.max_live_grants,
    }
}

/// A grant that counts for a quota or waits in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaCandidate {
    pub namespace: String,
    pub uid: String,
    /// When the grant was created. This decides its position in the queue.
    pub since: Timestamp,
}

impl QuotaCandidate {
    fn turn(&self) -> Turn {
        (self.since, self.uid.clone())
    }
}

/// The position in the queue of a namespace. It is the same for every operator and after a restart.
type Turn = (Timestamp, String);

/// The live grants and waiting grants of one store. The state comes from the watch: the status of a grant shows
/// whether it is live.
#[derive(Clone, Debug, Default)]
pub struct QuotaLedger {
    namespaces: BTreeMap<String, Namespace>,
    /// The store's access rules, as last read. Grants in namespaces without an access rule do not count and do not
    /// wait in the queue.
    rules: Option<Arc<Vec<ClusterAccessRule>>>,
}

#[derive(Clone, Debug, Default)]
struct Namespace {
    holders: HashMap<String, Holder>,
    waiting: BTreeMap<Turn, Waiting>,
    /// Grants that were not reconciled yet, each with the time at which this process first saw it. They come before
    /// younger grants for a limited time, or until their first reconcile. Two operators, or one operator before and
    /// after a crash, therefore choose the same grants.
    new: BTreeMap<Turn, Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// The grant is live until this time.
    Key(Timestamp),
    /// A place is reserved: the credential is about to be published, or its status is not written yet.
    Reserved,
}

impl Holder {
    fn holds(self, now: Timestamp) -> bool {
        match self {
            Self::Key(until) => until > now,
            Self::Reserved => true,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// The limits at the last evaluation. Without limits if this process has not evaluated the grant.
    most: QuotaLimits,
    /// Whether the grant was enqueued since then.
    called: bool,
}

impl Namespace {
    fn held(&self, now: Timestamp) -> i64 {
        let held = self.holders.values().filter(|h| h.holds(now)).count();
        i64::try_from(held).unwrap_or(i64::MAX)
    }

    /// The queue of grants that may get a place, oldest first, with their known limits.
    fn line(&self, now: Timestamp) -> Vec<(&Turn, QuotaLimits)> {
        let waiting = self.waiting.iter().map(|(turn, w)| (turn, w.most));
        let new = self.new.iter().filter(|(_, since)| counts_until(**since) > now);
        let mut line: Vec<_> = waiting
            .chain(new.map(|(turn, _)| (turn, QuotaLimits::default())))
            .collect();
        line.sort_by_key(|(turn, _)| *turn);
        line
    }

    fn remove(&mut self, who: &QuotaCandidate) {
        self.holders.remove(&who.uid);
        self.waiting.remove(&who.turn());
        self.new.remove(&who.turn());
    }
}

fn counts_until(since: Timestamp) -> Timestamp {
    add(since, NEW_COUNTS)
}

impl QuotaLedger {
    /// Sets the store's current access rules.
    pub fn judged_by(&mut self, rules: Arc<Vec<ClusterAccessRule>>) {
        self.rules = Some(rules);
    }

    /// Whether an access rule may apply to a namespace. A rule with a label selector may apply to any namespace.
    fn is_named(&self, namespace: &str) -> bool {
        let rules = self.rules.as_ref();
        rules.is_none_or(|rules| rules.iter().any(|rule| may_choose(&rule.namespaces, namespace)))
    }

    /// When the last grant without a reconcile stops counting, if any counts now.
    pub fn new_until(&self, now: Timestamp) -> Option<Timestamp> {
        let named = self.namespaces.iter().filter(|(name, _)| self.is_named(name));
        let ends = named
            .flat_map(|(_, n)| n.new.values())
            .map(|since| counts_until(*since));
        ends.filter(|end| *end > now).max()
    }

    /// Whether no grants are known.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// Whether any grant waits.
    pub fn has_waiting(&self) -> bool {
        self.namespaces.values().any(|n| !n.waiting.is_empty())
    }

    /// Records that the grant is live until this time.
    pub fn holds(&mut self, who: &QuotaCandidate, until: Timestamp) {
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        there.remove(who);
        there.holders.insert(who.uid.clone(), Holder::Key(until));
    }

    /// Records a grant that was not reconciled yet.
    pub fn is_new(&mut self, who: &QuotaCandidate, now: Timestamp) {
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        if !there.waiting.contains_key(&who.turn()) {
            there.new.entry(who.turn()).or_insert(now);
        }
    }

    /// Records a grant that waits, according to its status.
    pub fn waits(&mut self, who: &QuotaCandidate) {
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        there.holders.remove(&who.uid);
        there.new.remove(&who.turn());
        there.waiting.entry(who.turn()).or_insert(Waiting {
            most: QuotaLimits::default(),
            called: false,
        });
    }

    /// Removes a grant that is not live and does not wait, or that was deleted.
    pub fn leaves(&mut self, who: &QuotaCandidate) {
        let Some(there) = self.namespaces.get_mut(&who.namespace) else {
            return;
        };
        there.remove(who);
        if there.holders.is_empty() && there.waiting.is_empty() && there.new.is_empty() {
            self.namespaces.remove(&who.namespace);
        }
    }

    /// Whether a place is reserved for the grant and its credential is not reported yet.
    pub fn is_reserved(&self, who: &QuotaCandidate) -> bool {
        let there = self.namespaces.get(&who.namespace);
        there.and_then(|n| n.holders.get(&who.uid)) == Some(&Holder::Reserved)
    }

    /// Reserves a place for the grant. The place stays reserved until [`Self::holds`], [`Self::waits`] or
    /// [`Self::leaves`] is called for the grant.
    ///
    /// # Errors
    ///
    /// The limit that is reached. The grant then waits in the queue.
    pub fn ask(&mut self, who: &QuotaCandidate, most: QuotaLimits, now: Timestamp) -> Result<(), QuotaLimit> {
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        if there.holders.get(&who.uid).is_some_and(|h| h.holds(now)) {
            return Ok(());
        }
        let turn = who.turn();
        there.new.remove(&turn);
        there.waiting.insert(turn.clone(), Waiting { most, called: false });
        if !self.served(now, Some(&turn)).iter().any(|(_, served)| *served == turn) {
            let held = self.namespaces.get(&who.namespace).map_or(0, |n| n.held(now));
            return Err(match (most.namespace, most.store) {
                (Some(n), Some(store)) if held < n => QuotaLimit::Store(store),
                (None, Some(store)) => QuotaLimit::Store(store),
                (n, _) => QuotaLimit::Namespace(n.unwrap_or_default()),
            });
        }
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        there.waiting.remove(&turn);
        there.holders.insert(who.uid.clone(), Holder::Reserved);
        Ok(())
    }

    /// The grants that have a place now and were not enqueued yet, as pairs of namespace and UID.
    pub fn calls(&mut self, now: Timestamp) -> Vec<(String, String)> {
        let served = self.served(now, None);
        let mut calls = vec![];
        for (namespace, turn) in served {
            let there = self.namespaces.get_mut(&namespace);
            if let Some(waiting) = there.and_then(|n| n.waiting.get_mut(&turn))
                && !waiting.called
            {
                waiting.called = true;
                calls.push((namespace, turn.1));
            }
        }
        calls
    }

    /// The grants that get a place, in order: the oldest grant of the namespace with the fewest live grants, until a
    /// limit is reached. The list ends with `last`, if that grant gets a place.
    fn served(&self, now: Timestamp, last: Option<&Turn>) -> Vec<(String, Turn)> {
        let mut lines: Vec<_> = self
            .namespaces
            .iter()
            .filter(|(name, _)| self.is_named(name))
            .map(|(name, n)| (name, n.held(now), n.line(now).into_iter().peekable()))
            .collect();
        let mut all: i64 = lines.iter().map(|(_, held, _)| held).sum();
        let mut served = vec![];
        loop {
            // Free places only decrease in this loop, so a grant without a place now gets none later.
            for (_, held, line) in &mut lines {
                let has_room = |most: &QuotaLimits| {
                    most.namespace.is_none_or(|n| *held < n) && most.store.is_none_or(|n| all < n)
                };
                while line.next_if(|(_, most)| !has_room(most)).is_some() {}
            }
            let next = lines
                .iter_mut()
                .filter_map(|line| Some((line.1, line.2.peek()?.0.clone(), line)))
                .min_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            let Some((_, turn, (name, held, line))) = next else {
                return served;
            };
            line.next();
            *held += 1;
            all += 1;
            let is_last = last == Some(&turn);
            served.push(((*name).clone(), turn));
            if is_last {
                return served;
            }
        }
    }
}

#[cfg(test)]
mod tests;
