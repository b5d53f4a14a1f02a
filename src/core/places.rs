//! Where the number of grants with a key is limited: how many may have one, who has, and who is next.

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

/// For so long a grant that nobody has looked at yet comes before younger ones. It is enough for the first look of an operator
/// that has just started; a grant that is never looked at holds up nobody for longer.
const NEW_COUNTS: SignedDuration = SignedDuration::from_secs(15);

/// How many grants may have a key at one time, for one grant to get another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Most {
    /// Of the grant's namespace.
    pub namespace: Option<i64>,
    /// Of all namespaces together.
    pub store: Option<i64>,
}

impl Most {
    /// Whether there is a limit at all.
    pub fn is_limited(self) -> bool {
        self.namespace.is_some() || self.store.is_some()
    }
}

/// The limit that leaves no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// That of the grant's namespace.
    Namespace(i64),
    /// That of the whole store.
    Store(i64),
}

impl Limit {
    /// What the tenant is told. It says nothing that changes while the grant waits: that would be a write for each who
    /// waits whenever one is served.
    pub(super) fn message(self, grant: &GrantFacts) -> String {
        let (store, namespace) = (&grant.terms.store_ref, &grant.namespace);
        match self {
            Self::Namespace(n) => format!(
                "{store} allows namespace {namespace} at most {n} grants with a key at one time, and as many have one; this one gets its key when one of those ends, the oldest first: wait, or revoke or delete grants that are not needed any more"
            ),
            Self::Store(n) => format!(
                "{store} allows at most {n} grants with a key at one time in all namespaces together, and as many have one; this one gets its key when one of those ends, the oldest of the namespace with the fewest first"
            ),
        }
    }
}

/// How many grants may have a key for this one to get one. Of several rules that allow it, the most generous counts.
pub(super) fn most(grant: &GrantFacts, key: &ObjectKey, store: &StoreView) -> Most {
    let mine: Vec<_> = store
        .rules
        .iter()
        .filter(|r| chooses(&r.namespaces, &grant.namespace, &store.namespace_labels))
        .map(|r| &r.rule)
        .collect();
    let allowing = mine.iter().filter(|rule| examine(grant, key, rule, &mine).is_ok());
    let limits: Option<Vec<i64>> = allowing.map(|rule| rule.max_live_grants).collect();
    Most {
        namespace: limits.and_then(|all| all.into_iter().max()),
        store: store.max_live_grants,
    }
}

/// A grant that may want a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// When it was made: its place in the line.
    pub since: Timestamp,
}

impl Candidate {
    fn turn(&self) -> Turn {
        (self.since, self.uid.clone())
    }
}

/// One's place in the line of one's namespace. The same for everybody who reckons it, after a restart, too.
type Turn = (Timestamp, String);

/// Who has a key of one store, and who waits for a place. Kept from what is watched: statuses say who has one.
#[derive(Clone, Debug, Default)]
pub struct Places {
    namespaces: BTreeMap<String, Namespace>,
    /// The store's access rules, as they were last read for one of them. Grants of namespaces that none of these is for hold
    /// no place and do not stand in line.
    rules: Option<Arc<Vec<ClusterAccessRule>>>,
}

#[derive(Clone, Debug, Default)]
struct Namespace {
    holders: HashMap<String, Holder>,
    waiting: BTreeMap<Turn, Waiting>,
    /// Those whom nobody has looked at yet, and since when this process knows them. They are before who is younger for a
    /// while, or until it is known what becomes of them: so two operators, and one before and after a crash, give the same
    /// places to the same grants.
    new: BTreeMap<Turn, Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// The key ends then.
    Key(Timestamp),
    /// A key is about to be published, or has been and nobody has said so yet.
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
    /// By what it was judged last; no limits, if that was before this process.
    most: Most,
    /// Whether it was called for since.
    called: bool,
}

impl Namespace {
    fn held(&self, now: Timestamp) -> i64 {
        let held = self.holders.values().filter(|h| h.holds(now)).count();
        i64::try_from(held).unwrap_or(i64::MAX)
    }

    /// Whoever may be served, the oldest first, with the limits that are known.
    fn line(&self, now: Timestamp) -> Vec<(&Turn, Most)> {
        let waiting = self.waiting.iter().map(|(turn, w)| (turn, w.most));
        let new = self.new.iter().filter(|(_, since)| counts_until(**since) > now);
        let mut line: Vec<_> = waiting.chain(new.map(|(turn, _)| (turn, Most::default()))).collect();
        line.sort_by_key(|(turn, _)| *turn);
        line
    }

    fn remove(&mut self, who: &Candidate) {
        self.holders.remove(&who.uid);
        self.waiting.remove(&who.turn());
        self.new.remove(&who.turn());
    }
}

fn counts_until(since: Timestamp) -> Timestamp {
    add(since, NEW_COUNTS)
}

impl Places {
    /// These are the store's rules now.
    pub fn judged_by(&mut self, rules: Arc<Vec<ClusterAccessRule>>) {
        self.rules = Some(rules);
    }

    /// Whether a rule may be for a namespace. By its labels any namespace may be chosen, as far as can be told here.
    fn is_named(&self, namespace: &str) -> bool {
        let rules = self.rules.as_ref();
        rules.is_none_or(|rules| rules.iter().any(|rule| may_choose(&rule.namespaces, namespace)))
    }

    /// When the last of those whom nobody has looked at yet stops counting, if one counts now.
    pub fn new_until(&self, now: Timestamp) -> Option<Timestamp> {
        let named = self.namespaces.iter().filter(|(name, _)| self.is_named(name));
        let ends = named
            .flat_map(|(_, n)| n.new.values())
            .map(|since| counts_until(*since));
        ends.filter(|end| *end > now).max()
    }

    /// Whether nothing is known of anybody.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// Whether somebody waits.
    pub fn has_waiting(&self) -> bool {
        self.namespaces.values().any(|n| !n.waiting.is_empty())
    }

    /// The grant has a key until then.
    pub fn holds(&mut self, who: &Candidate, until: Timestamp) {
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        there.remove(who);
        there.holders.insert(who.uid.clone(), Holder::Key(until));
    }

    /// Nobody has looked at the grant yet.
    pub fn is_new(&mut self, who: &Candidate, now: Timestamp) {
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        if !there.waiting.contains_key(&who.turn()) {
            there.new.entry(who.turn()).or_insert(now);
        }
    }

    /// The grant waits, as its status says.
    pub fn waits(&mut self, who: &Candidate) {
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        there.holders.remove(&who.uid);
        there.new.remove(&who.turn());
        there.waiting.entry(who.turn()).or_insert(Waiting {
            most: Most::default(),
            called: false,
        });
    }

    /// The grant has no key and wants none, or has gone.
    pub fn leaves(&mut self, who: &Candidate) {
        let Some(there) = self.namespaces.get_mut(&who.namespace) else {
            return;
        };
        there.remove(who);
        if there.holders.is_empty() && there.waiting.is_empty() && there.new.is_empty() {
            self.namespaces.remove(&who.namespace);
        }
    }

    /// Whether a place is kept for the grant whose key nobody has reported yet.
    pub fn is_reserved(&self, who: &Candidate) -> bool {
        let there = self.namespaces.get(&who.namespace);
        there.and_then(|n| n.holders.get(&who.uid)) == Some(&Holder::Reserved)
    }

    /// A place for the grant, which is kept until somebody says that it holds a key, waits or leaves.
    ///
    /// # Errors
    /// The limit, if it must wait; it then stands in line.
    pub fn ask(&mut self, who: &Candidate, most: Most, now: Timestamp) -> Result<(), Limit> {
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
                (Some(n), Some(store)) if held < n => Limit::Store(store),
                (None, Some(store)) => Limit::Store(store),
                (n, _) => Limit::Namespace(n.unwrap_or_default()),
            });
        }
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        there.waiting.remove(&turn);
        there.holders.insert(who.uid.clone(), Holder::Reserved);
        Ok(())
    }

    /// The UIDs of those for whom there is a place now and who have not been called for yet: namespace and UID.
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

    /// Those for whom there is a place, in the order in which they get it: the oldest of the namespace that has the
    /// fewest, until the limits leave no room. Ends with `last`, if that one is served.
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
            // Room only becomes less, so who has none now is passed over for good.
            for (_, held, line) in &mut lines {
                let has_room =
                    |most: &Most| most.namespace.is_none_or(|n| *held < n) && most.store.is_none_or(|n| all < n);
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
