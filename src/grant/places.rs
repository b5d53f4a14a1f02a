//! Where the number of grants with a key is limited: how many may have one, who has, and who is next.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use super::{
    facts::{GrantFacts, StoreView},
    key::ObjectKey,
    policy::{chooses, examine},
};

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
}

#[derive(Clone, Debug, Default)]
struct Namespace {
    holders: HashMap<String, Holder>,
    waiting: BTreeMap<Turn, Waiting>,
    /// Those whom nobody has looked at yet. They are before who is younger, until it is known what becomes of them: so
    /// two operators, and one before and after a crash, give the same places to the same grants.
    new: BTreeSet<Turn>,
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
    fn line(&self) -> Vec<(&Turn, Most)> {
        let waiting = self.waiting.iter().map(|(turn, w)| (turn, w.most));
        let mut line: Vec<_> = waiting
            .chain(self.new.iter().map(|turn| (turn, Most::default())))
            .collect();
        line.sort_by_key(|(turn, _)| *turn);
        line
    }

    fn remove(&mut self, who: &Candidate) {
        self.holders.remove(&who.uid);
        self.waiting.remove(&who.turn());
        self.new.remove(&who.turn());
    }
}

impl Places {
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
    pub fn is_new(&mut self, who: &Candidate) {
        let there = self.namespaces.entry(who.namespace.clone()).or_default();
        if !there.waiting.contains_key(&who.turn()) {
            there.new.insert(who.turn());
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
            .map(|(name, n)| (name, n.held(now), n.line().into_iter().peekable()))
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
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn who(namespace: &str, second: i64) -> Candidate {
        Candidate {
            namespace: namespace.into(),
            uid: format!("{namespace}-{second}"),
            since: at(second),
        }
    }

    fn names(calls: &[(String, String)]) -> Vec<&str> {
        calls.iter().map(|(_, uid)| uid.as_str()).collect()
    }

    const TWO: Most = Most {
        namespace: Some(2),
        store: None,
    };
    const THREE_IN_ALL: Most = Most {
        namespace: None,
        store: Some(3),
    };

    #[test]
    fn the_oldest_is_next_and_each_is_called_once() {
        let mut places = Places::default();
        let now = at(100);
        assert_eq!(places.ask(&who("a", 3), TWO, now), Ok(()));
        assert_eq!(places.ask(&who("a", 4), TWO, now), Ok(()));
        assert_eq!(places.ask(&who("a", 4), TWO, now), Ok(()), "it has its place");
        // Who comes later waits, whatever his age; another namespace is not concerned.
        for second in [2, 5, 1] {
            assert_eq!(places.ask(&who("a", second), TWO, now), Err(Limit::Namespace(2)));
        }
        assert_eq!(places.ask(&who("b", 9), TWO, now), Ok(()));
        assert!(places.calls(now).is_empty());
        places.holds(&who("a", 3), at(200));
        places.holds(&who("a", 4), at(300));
        assert!(places.calls(now).is_empty(), "a place that is used is no free one");
        places.leaves(&who("a", 4));
        assert_eq!(names(&places.calls(now)), ["a-1"]);
        assert!(places.calls(now).is_empty(), "once");
        // Nobody gets in before the one that was called.
        assert_eq!(places.ask(&who("a", 2), TWO, now), Err(Limit::Namespace(2)));
        // It does not want it any more: the next one.
        places.leaves(&who("a", 1));
        assert_eq!(names(&places.calls(now)), ["a-2"]);
        assert_eq!(places.ask(&who("a", 2), TWO, now), Ok(()));
        // A key that is over holds no place, whoever has yet to say so.
        assert!(places.calls(at(199)).is_empty());
        assert_eq!(names(&places.calls(at(200))), ["a-5"]);
        assert_eq!(places.ask(&who("a", 5), TWO, at(200)), Ok(()));
        for second in [3, 2, 5] {
            places.leaves(&who("a", second));
        }
        places.leaves(&who("b", 9));
        assert!(places.is_empty(), "nothing is kept of who has gone");
    }

    #[test]
    fn a_whole_stores_places_go_to_the_namespace_with_the_fewest() {
        let mut places = Places::default();
        let now = at(100);
        for second in 1..=3 {
            assert_eq!(places.ask(&who("loud", second), THREE_IN_ALL, now), Ok(()));
            places.holds(&who("loud", second), at(1000));
        }
        for second in 4..=9 {
            assert_eq!(
                places.ask(&who("loud", second), THREE_IN_ALL, now),
                Err(Limit::Store(3))
            );
        }
        for second in 50..=52 {
            assert_eq!(
                places.ask(&who("late", second), THREE_IN_ALL, now),
                Err(Limit::Store(3))
            );
        }
        assert_eq!(places.ask(&who("last", 60), THREE_IN_ALL, now), Err(Limit::Store(3)));
        let mut order = vec![];
        for (free, second) in [("loud", 1), ("loud", 2), ("loud", 3), ("late", 50)] {
            places.leaves(&who(free, second));
            let calls = places.calls(now);
            let [(namespace, uid)] = calls.as_slice() else {
                panic!("one place, one call: {calls:?}")
            };
            let second = uid.rsplit('-').next().unwrap().parse().unwrap();
            assert_eq!(places.ask(&who(namespace, second), THREE_IN_ALL, now), Ok(()));
            places.holds(&who(namespace, second), at(1000));
            order.push(uid.clone());
        }
        // None has any: the oldest. Then each namespace in its turn.
        assert_eq!(order, ["late-50", "last-60", "loud-4", "late-51"]);
    }

    #[test]
    fn rules_of_one_namespace_with_different_numbers_do_not_block_each_other() {
        let mut places = Places::default();
        let now = at(100);
        let generous = Most {
            namespace: Some(3),
            store: None,
        };
        let narrow = Most {
            namespace: Some(1),
            store: None,
        };
        assert_eq!(places.ask(&who("a", 1), generous, now), Ok(()));
        assert_eq!(places.ask(&who("a", 2), narrow, now), Err(Limit::Namespace(1)));
        assert_eq!(
            places.ask(&who("a", 3), generous, now),
            Ok(()),
            "the older one has no claim to it"
        );
        places.leaves(&who("a", 1));
        assert!(places.calls(now).is_empty(), "one has a key, and one is what it may");
        places.leaves(&who("a", 3));
        assert_eq!(names(&places.calls(now)), ["a-2"]);
    }

    /// After a restart nothing is known but statuses. Who waits goes before who is younger, whatever the order of visits.
    #[test]
    fn a_restart_keeps_the_order() {
        let mut places = Places::default();
        let now = at(100);
        places.holds(&who("a", 1), at(200));
        for second in [5, 3, 4] {
            places.waits(&who("a", second));
        }
        let one_left = [5, 4, 3].map(|second| places.ask(&who("a", second), TWO, now).is_ok());
        assert_eq!(one_left, [false, false, true]);
        // A number that was lowered takes nothing from those who have their keys.
        let mut full = Places::default();
        for second in 1..=5 {
            full.holds(&who("a", second), at(200));
        }
        assert_eq!(full.ask(&who("a", 0), TWO, now), Err(Limit::Namespace(2)));
        for second in 1..=3 {
            full.leaves(&who("a", second));
            assert!(full.calls(now).is_empty());
        }
        full.leaves(&who("a", 4));
        assert_eq!(names(&full.calls(now)), ["a-0"]);
    }

    /// A grant whose key was published by somebody who died before he could say so has its place, and so has one that
    /// another operator is about to visit.
    #[test]
    fn who_has_not_been_looked_at_is_before_who_is_younger() {
        let mut places = Places::default();
        let now = at(100);
        for second in 1..=4 {
            places.is_new(&who("a", second));
        }
        let second_and_third = [3, 2].map(|second| places.ask(&who("a", second), TWO, now).is_ok());
        assert_eq!(second_and_third, [false, true]);
        places.holds(&who("a", 2), at(200));
        assert!(places.calls(now).is_empty());
        // Nothing comes of the first: it was for another rule's reason that it got no key.
        places.leaves(&who("a", 1));
        assert_eq!(
            names(&places.calls(now)),
            ["a-3"],
            "who is visited in any case is not called"
        );
        assert_eq!(places.ask(&who("a", 3), TWO, now), Ok(()));
        assert_eq!(places.ask(&who("a", 4), TWO, now), Err(Limit::Namespace(2)));
    }

    /// Against a slow obvious reckoning: never more than may be, nobody waits beside room, the oldest first.
    #[test]
    fn whatever_happens_the_numbers_hold() {
        let mut seed = 7_u64;
        let mut dice = move |n: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let most = Most {
            namespace: Some(3),
            store: Some(7),
        };
        let mut given = 0;
        for _ in 0..200 {
            let (mut places, now) = (Places::default(), at(100));
            let mut has: BTreeMap<String, Candidate> = BTreeMap::new();
            let mut waits: BTreeMap<String, Candidate> = BTreeMap::new();
            for step in 0..200 {
                let uid = if dice(3) > 0 || has.is_empty() {
                    let new = who(&format!("n{}", dice(4)), step);
                    if places.ask(&new, most, now).is_ok() {
                        has.insert(new.uid.clone(), new);
                    } else {
                        waits.insert(new.uid.clone(), new);
                    }
                    None
                } else {
                    let all: Vec<_> = has.keys().chain(waits.keys()).cloned().collect();
                    Some(all[dice(all.len() as u64) as usize].clone())
                };
                if let Some(uid) = uid {
                    let gone = has.remove(&uid).or_else(|| waits.remove(&uid)).unwrap();
                    places.leaves(&gone);
                }
                for (namespace, uid) in places.calls(now) {
                    let called = waits.remove(&uid).expect("who is called waits");
                    let older = waits
                        .values()
                        .any(|w| w.namespace == namespace && w.turn() < called.turn());
                    assert!(!older, "the oldest of a namespace first");
                    assert_eq!(places.ask(&called, most, now), Ok(()), "who is called is served");
                    has.insert(uid, called);
                    given += 1;
                }
                let of = |n: &str| has.values().filter(|c| c.namespace == n).count();
                assert!(has.len() <= 7 && (0..4).all(|n| of(&format!("n{n}")) <= 3));
                for w in waits.values() {
                    assert!(has.len() == 7 || of(&w.namespace) == 3, "somebody waits beside room");
                }
            }
        }
        assert!(given > 1000, "{given} were called");
    }
}
