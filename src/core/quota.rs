//! Quotas limit the number of live grants (`maxLiveGrants`). Grants over the limit wait in a queue.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    lifetime::add,
    namespaces::can_match_name,
    quota_limits::{QuotaLimit, QuotaLimits},
};
use crate::api::ClusterAccessRule;

/// A grant that was never reconciled receives quota before younger grants, but only for this time. After the operator
/// starts, 15 seconds are enough for the first reconcile of each grant. If a grant is never reconciled, it delays
/// younger grants for at most 15 seconds.
const NEW_COUNTS: SignedDuration = SignedDuration::from_secs(15);

/// A grant that uses quota or waits for quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaCandidate {
    pub namespace: Arc<str>,
    pub uid: Arc<str>,
    /// The creation time of the grant. Older grants are served first.
    pub since: Timestamp,
}

impl QuotaCandidate {
    fn position(&self) -> Position {
        (self.since, self.uid.clone())
    }
}

/// The position of a grant in the queue of its namespace. The position depends only on the grant's creation time and
/// UID. Every operator therefore computes the same position, also after a restart.
type Position = (Timestamp, Arc<str>);

/// The live grants and waiting grants of one store. Each watch event contains the status of a grant, which shows if
/// the grant is live. Valet therefore updates this ledger with each watch event.
#[derive(Clone, Debug, Default)]
pub struct QuotaLedger {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    /// The access rules that Valet last read from the store. A grant in a namespace without an access rule uses no
    /// quota and does not wait in the queue.
    rules: Option<Arc<Vec<ClusterAccessRule>>>,
}

#[derive(Clone, Debug, Default)]
struct Namespace {
    holders: HashMap<Arc<str>, Holder>,
    waiting: BTreeMap<Position, Waiting>,
    /// Grants that were never reconciled, each with the time at which this process first saw the grant.
    ///
    /// Such a grant receives quota before younger grants. This priority ends at the first reconcile of the grant, or
    /// after a limited time. Because of this priority, a crash of the operator does not change which grants receive
    /// quota.
    new: BTreeMap<Position, Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// The grant has a credential that expires at this time.
    Key(Timestamp),
    /// Valet has reserved quota for the grant. Its credential is not published yet, or its status does not report the
    /// credential yet.
    Reserved,
}

impl Holder {
    fn set_used(self, now: Timestamp) -> bool {
        match self {
            Self::Key(until) => until > now,
            Self::Reserved => true,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// The limits from the last evaluation of the grant. The value has no limits if this process has not evaluated
    /// the grant yet.
    most: QuotaLimits,
    /// True if Valet has enqueued the grant after its last evaluation.
    called: bool,
}

impl Namespace {
    fn held(&self, now: Timestamp) -> i64 {
        let held = self.holders.values().filter(|h| h.set_used(now)).count();
        i64::try_from(held).unwrap_or(i64::MAX)
    }

    /// Returns the grants of the namespace that wait for quota, oldest first. Each grant is in a pair with the limits
    /// from its last evaluation.
    fn queue(&self, now: Timestamp) -> Vec<(&Position, QuotaLimits)> {
        let waiting = self.waiting.iter().map(|(position, w)| (position, w.most));
        let new = self.new.iter().filter(|(_, since)| counts_until(**since) > now);
        let mut queue: Vec<_> = waiting
            .chain(new.map(|(position, _)| (position, QuotaLimits::default())))
            .collect();
        queue.sort_by_key(|(position, _)| *position);
        queue
    }

    fn remove(&mut self, who: &QuotaCandidate) {
        self.holders.remove(&who.uid);
        self.waiting.remove(&who.position());
        self.new.remove(&who.position());
    }
}

fn counts_until(since: Timestamp) -> Timestamp {
    add(since, NEW_COUNTS)
}

impl QuotaLedger {
    /// Stores the current access rules of the store.
    pub fn judged_by(&mut self, rules: Arc<Vec<ClusterAccessRule>>) {
        self.rules = Some(rules);
    }

    /// Returns true if an access rule may apply to the namespace. A rule with a label selector may apply to any
    /// namespace.
    fn is_named(&self, namespace: &str) -> bool {
        let rules = self.rules.as_ref();
        rules.is_none_or(|rules| rules.iter().any(|rule| can_match_name(&rule.namespaces, namespace)))
    }

    /// Grants that were never reconciled receive quota first, but only for a limited time. Returns the time at which
    /// this priority ends for the last of these grants. Returns `None` if no grant has this priority.
    pub fn new_until(&self, now: Timestamp) -> Option<Timestamp> {
        let named = self.namespaces.iter().filter(|(name, _)| self.is_named(name));
        let ends = named
            .flat_map(|(_, n)| n.new.values())
            .map(|since| counts_until(*since));
        ends.filter(|end| *end > now).max()
    }

    /// Returns true if the store has no live grants and no waiting grants.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// Returns the name of a namespace as this ledger stores it. All grants of a namespace can share this string.
    pub fn shared_namespace(&self, namespace: &str) -> Option<Arc<str>> {
        self.namespaces.get_key_value(namespace).map(|(name, _)| name.clone())
    }

    /// Returns true if at least one grant waits for quota.
    pub fn has_waiting(&self) -> bool {
        self.namespaces.values().any(|n| !n.waiting.is_empty())
    }

    /// Records that the grant has a credential with the expiry time `until`.
    pub fn set_used(&mut self, who: &QuotaCandidate, until: Timestamp) {
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        there.remove(who);
        there.holders.insert(who.uid.clone(), Holder::Key(until));
    }

    /// Records a grant that has not been reconciled yet.
    pub fn is_new(&mut self, who: &QuotaCandidate, now: Timestamp) {
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        if !there.waiting.contains_key(&who.position()) {
            there.new.entry(who.position()).or_insert(now);
        }
    }

    /// Records a grant whose status says that it waits for quota.
    pub fn waits(&mut self, who: &QuotaCandidate) {
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        there.holders.remove(&who.uid);
        there.new.remove(&who.position());
        there.waiting.entry(who.position()).or_insert(Waiting {
            most: QuotaLimits::default(),
            called: false,
        });
    }

    /// Removes a grant that is neither live nor waiting, or that was deleted.
    pub fn remove(&mut self, who: &QuotaCandidate) {
        let Some(there) = self.namespaces.get_mut(&who.namespace) else {
            return;
        };
        there.remove(who);
        if there.holders.is_empty() && there.waiting.is_empty() && there.new.is_empty() {
            self.namespaces.remove(&who.namespace);
        }
    }

    /// Returns true if quota is reserved for the grant, but its status does not report a credential yet.
    pub fn is_reserved(&self, who: &QuotaCandidate) -> bool {
        let there = self.namespaces.get(&who.namespace);
        there.and_then(|n| n.holders.get(&who.uid)) == Some(&Holder::Reserved)
    }

    /// Reserves quota for the grant. The reservation lasts until [`Self::set_used`], [`Self::waits`] or
    /// [`Self::remove`] is called for the grant.
    ///
    /// # Errors
    ///
    /// Returns the [`QuotaLimit`] that is reached. The grant then waits in the queue.
    pub fn request(&mut self, who: &QuotaCandidate, most: QuotaLimits, now: Timestamp) -> Result<(), QuotaLimit> {
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        if there.holders.get(&who.uid).is_some_and(|h| h.set_used(now)) {
            return Ok(());
        }
        let position = who.position();
        there.new.remove(&position);
        there.waiting.insert(position.clone(), Waiting { most, called: false });
        if !self
            .served(now, Some(&position))
            .iter()
            .any(|(_, served)| *served == position)
        {
            let held = self.namespaces.get(&who.namespace).map_or(0, |n| n.held(now));
            return Err(match (most.namespace, most.store) {
                (Some(n), Some(store)) if held < n => QuotaLimit::Store(store),
                (None, Some(store)) => QuotaLimit::Store(store),
                (n, _) => QuotaLimit::Namespace(n.unwrap_or_default()),
            });
        }
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        there.waiting.remove(&position);
        there.holders.insert(who.uid.clone(), Holder::Reserved);
        Ok(())
    }

    /// Returns the waiting grants that can receive quota now and that Valet has not enqueued yet. Each result is a
    /// pair of a namespace and a UID.
    pub fn requeues(&mut self, now: Timestamp) -> Vec<(Arc<str>, Arc<str>)> {
        let served = self.served(now, None);
        let mut calls = vec![];
        for (namespace, position) in served {
            let there = self.namespaces.get_mut(&namespace);
            if let Some(waiting) = there.and_then(|n| n.waiting.get_mut(&position))
                && !waiting.called
            {
                waiting.called = true;
                calls.push((namespace, position.1));
            }
        }
        calls
    }

    /// Returns the waiting grants that can receive quota, in the order in which they receive it. The next grant in
    /// the list is always the oldest waiting grant of the namespace with the fewest live grants. A grant in the list
    /// counts as live when the function chooses the next grant.
    ///
    /// The list ends when a limit is reached, or after the grant `last`.
    fn served(&self, now: Timestamp, last: Option<&Position>) -> Vec<(Arc<str>, Position)> {
        let mut lines: Vec<_> = self
            .namespaces
            .iter()
            .filter(|(name, _)| self.is_named(name))
            .map(|(name, n)| (name, n.held(now), n.queue(now).into_iter().peekable()))
            .collect();
        let mut all: i64 = lines.iter().map(|(_, held, _)| held).sum();
        let mut served = vec![];
        loop {
            // The free quota only decreases in this loop. If a grant cannot receive quota now, it therefore cannot
            // receive quota later in this loop.
            for (_, held, queue) in &mut lines {
                let has_room = |most: &QuotaLimits| {
                    most.namespace.is_none_or(|n| *held < n) && most.store.is_none_or(|n| all < n)
                };
                while queue.next_if(|(_, most)| !has_room(most)).is_some() {}
            }
            let next = lines
                .iter_mut()
                .filter_map(|queue| Some((queue.1, queue.2.peek()?.0.clone(), queue)))
                .min_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            let Some((_, position, (name, held, queue))) = next else {
                return served;
            };
            queue.next();
            *held += 1;
            all += 1;
            let is_last = last == Some(&position);
            served.push((name.clone(), position));
            if is_last {
                return served;
            }
        }
    }
}

#[cfg(test)]
mod tests;
