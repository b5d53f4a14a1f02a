use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
};

/// A queue in which the keys, for example namespaces, take turns. [`FairQueue::pop`] returns the oldest item of the
/// next key.
///
/// The queue contains each item of a key at most once. The queue keeps no data about keys without items.
#[derive(Debug)]
pub struct FairQueue<I> {
    /// The keys that have items. Each key is in this list once, and the first key in the list has the next turn.
    keys: VecDeque<String>,
    /// The items of each key. A key without items has no entry.
    items: HashMap<String, Items<I>>,
}

#[derive(Debug)]
struct Items<I> {
    /// The items in order of arrival.
    order: VecDeque<I>,
    known: HashSet<I>,
}

impl<I> Default for FairQueue<I> {
    fn default() -> Self {
        Self {
            keys: VecDeque::new(),
            items: HashMap::new(),
        }
    }
}

impl<I: Clone + Eq + Hash> FairQueue<I> {
    /// Adds an item at the end of the items of its key. If the queue already contains the item, the item keeps its
    /// position.
    pub fn push(&mut self, key: &str, item: I) {
        let items = self.items.entry(key.to_owned()).or_insert_with(|| {
            self.keys.push_back(key.to_owned());
            Items {
                order: VecDeque::new(),
                known: HashSet::new(),
            }
        });
        if items.known.insert(item.clone()) {
            items.order.push_back(item);
        }
    }

    /// Removes and returns the oldest item of the next key for which `is_allowed` returns true. This key then moves
    /// to the end of the order. The keys for which `is_allowed` returns false keep their positions.
    pub fn pop(&mut self, is_allowed: impl Fn(&str) -> bool) -> Option<(String, I)> {
        let position = self.keys.iter().position(|key| is_allowed(key))?;
        let key = self.keys.remove(position)?;
        let items = self.items.get_mut(&key)?;
        let item = items.order.pop_front()?;
        items.known.remove(&item);
        if items.order.is_empty() {
            self.items.remove(&key);
        } else {
            self.keys.push_back(key.clone());
        }
        Some((key, item))
    }

    /// Removes an item if the queue contains it.
    pub fn remove(&mut self, key: &str, item: &I) {
        let Some(items) = self.items.get_mut(key) else {
            return;
        };
        if !items.known.remove(item) {
            return;
        }
        items.order.retain(|other| other != item);
        if items.order.is_empty() {
            self.items.remove(key);
            self.keys.retain(|other| other != key);
        }
    }

    /// Returns the number of keys that have items.
    pub fn count_keys(&self) -> usize {
        self.keys.len()
    }

    /// Returns true if a key other than this one has items.
    pub fn has_other_key(&self, key: &str) -> bool {
        self.keys.iter().any(|other| other != key)
    }

    /// Returns the number of items of all keys.
    pub fn len(&self) -> usize {
        self.items.values().map(|items| items.order.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(items: &[(&str, u32)]) -> FairQueue<u32> {
        let mut queue = FairQueue::default();
        for (key, item) in items {
            queue.push(key, *item);
        }
        queue
    }

    /// Removes all items, and returns them in the order of the queue.
    fn drain(queue: &mut FairQueue<u32>) -> Vec<(String, u32)> {
        std::iter::from_fn(|| queue.pop(|_| true)).collect()
    }

    fn expected(items: &[(&str, u32)]) -> Vec<(String, u32)> {
        items.iter().map(|(key, item)| ((*key).to_owned(), *item)).collect()
    }

    #[test]
    fn keys_take_turns_and_items_of_a_key_keep_their_order() {
        let mut queue = queue(&[("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1), ("b", 2)]);
        assert_eq!(queue.len(), 6);
        assert_eq!(
            drain(&mut queue),
            expected(&[("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("a", 3)])
        );
        assert!(queue.is_empty());
    }

    #[test]
    fn key_that_comes_later_waits_for_one_item_of_each_earlier_key() {
        let mut queue = FairQueue::default();
        for item in 0..1000 {
            queue.push("loud", item);
        }
        assert_eq!(queue.pop(|_| true), Some(("loud".to_owned(), 0)));
        queue.push("quiet", 7);
        assert_eq!(queue.pop(|_| true), Some(("loud".to_owned(), 1)));
        assert_eq!(queue.pop(|_| true), Some(("quiet".to_owned(), 7)));
    }

    #[test]
    fn repeated_item_keeps_its_position_and_equal_items_of_two_keys_differ() {
        let mut queue = queue(&[("a", 1), ("a", 2), ("a", 1), ("b", 1), ("b", 1)]);
        assert_eq!(queue.len(), 3);
        assert_eq!(drain(&mut queue), expected(&[("a", 1), ("b", 1), ("a", 2)]));
        queue.push("a", 1);
        assert_eq!(queue.len(), 1, "an item can join again after it left the queue");
    }

    #[test]
    fn key_that_is_not_allowed_keeps_its_position() {
        let mut queue = queue(&[("a", 1), ("b", 1), ("b", 2), ("c", 1)]);
        assert_eq!(queue.pop(|key| key != "a"), Some(("b".to_owned(), 1)));
        assert_eq!(queue.pop(|_| false), None);
        assert_eq!(drain(&mut queue), expected(&[("a", 1), ("c", 1), ("b", 2)]));
    }

    #[test]
    fn removed_item_leaves_no_data() {
        let mut queue = queue(&[("a", 1), ("b", 1), ("b", 2)]);
        queue.remove("a", &1);
        queue.remove("b", &1);
        queue.remove("b", &9);
        queue.remove("c", &1);
        assert_eq!((queue.len(), queue.keys.len()), (1, 1));
        assert_eq!(drain(&mut queue), expected(&[("b", 2)]));
        assert!(queue.keys.is_empty() && queue.items.is_empty());
    }
}
