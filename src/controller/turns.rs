//! Who is visited when many wait: a namespace may have a part of all visits at one time, and its others wait without
//! holding up anybody else's.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// One namespace may have one visit in so many. Four namespaces have to be busy at once before a fifth waits for them;
/// and a store that does not answer holds up its own namespace alone.
const SHARE: usize = 4;

/// The visits of one kind of grant that are under way, by namespace.
#[derive(Debug)]
pub struct Turns {
    most: usize,
    namespaces: Mutex<HashMap<String, Line>>,
}

/// One namespace's.
#[derive(Debug, Default)]
struct Line {
    under_way: usize,
    /// Names of those that were turned away, in the order in which they came, each once.
    waiting: VecDeque<String>,
    known: HashSet<String>,
}

/// The right to a visit; it ends when this is dropped.
pub struct Turn<'a, F: FnMut(&str) -> bool> {
    turns: &'a Turns,
    namespace: &'a str,
    call: F,
}

impl Turns {
    /// Of so many visits at a time. Where there is one namespace only, it has them all.
    pub fn new(concurrency: u16, one_namespace: bool) -> Self {
        let all = usize::from(concurrency);
        Self {
            most: if one_namespace { all } else { all.div_ceil(SHARE) },
            namespaces: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Line>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn for this grant, if its namespace has one left. Otherwise it stands in line, and `call` is called for it
    /// (or for another one of its namespace) when a visit ends. It tells whether there is such a one; who has gone is passed over.
    pub fn take<'a, F: FnMut(&str) -> bool>(
        &'a self,
        namespace: &'a str,
        name: &str,
        call: F,
    ) -> Option<Turn<'a, F>> {
        let mut namespaces = self.lock();
        let line = namespaces.entry(namespace.to_owned()).or_default();
        if line.under_way < self.most {
            line.under_way += 1;
            return Some(Turn {
                turns: self,
                namespace,
                call,
            });
        }
        if line.known.insert(name.to_owned()) {
            line.waiting.push_back(name.to_owned());
        }
        None
    }

    /// A visit has ended.
    fn end(&self, namespace: &str) {
        if let Some(line) = self.lock().get_mut(namespace) {
            line.under_way = line.under_way.saturating_sub(1);
        }
    }

    /// Who is next.
    fn next(&self, namespace: &str) -> Option<String> {
        let mut namespaces = self.lock();
        let line = namespaces.get_mut(namespace)?;
        let next = line.waiting.pop_front();
        if let Some(next) = &next {
            line.known.remove(next);
        } else if line.under_way == 0 {
            namespaces.remove(namespace);
        }
        next
    }
}

impl<F: FnMut(&str) -> bool> Drop for Turn<'_, F> {
    fn drop(&mut self) {
        self.turns.end(self.namespace);
        while let Some(next) = self.turns.next(self.namespace) {
            if (self.call)(&next) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_its_share_and_its_others_stand_in_line() {
        let turns = Turns::new(8, false);
        let called = Mutex::new(vec![]);
        let take = |namespace: &'static str, name: &str| {
            turns.take(namespace, name, |next: &str| {
                called.lock().unwrap().push(next.to_owned());
                next != "gone"
            })
        };
        let (first, second) = (take("loud", "1"), take("loud", "2"));
        assert!(first.is_some() && second.is_some());
        for name in ["3", "gone", "4", "3"] {
            assert!(take("loud", name).is_none(), "a quarter of 8 is 2");
        }
        assert!(take("quiet", "1").is_some(), "another namespace is not concerned");
        drop(first);
        assert_eq!(*called.lock().unwrap(), ["3"]);
        let third = take("loud", "3");
        assert!(third.is_some());
        drop((second, third));
        assert_eq!(
            *called.lock().unwrap(),
            ["3", "gone", "4"],
            "each is called once, and nobody waits for who is gone"
        );
        assert!(turns.lock().is_empty(), "nothing is kept of who has gone");
    }

    #[test]
    fn the_only_namespace_has_all_turns_and_every_namespace_has_one() {
        for (concurrency, one, most) in [
            (32, true, 32),
            (32, false, 8),
            (1, false, 1),
            (5, false, 2),
            (1, true, 1),
        ] {
            assert_eq!(Turns::new(concurrency, one).most, most);
        }
    }
}
