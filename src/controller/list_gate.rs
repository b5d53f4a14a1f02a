//! A watch starts with a list of all objects. This module holds back the objects of the list until the list is
//! complete.

use kube::runtime::watcher;

/// Holds back items while a watch lists its objects.
///
/// A watch delivers the objects of a list page by page, but the watch cache receives all of them at the end of the
/// list. Before the end, a reconcile does not find a new object in the watch cache, and it uses the old version of a
/// changed object. The controller then reconciles the object only after its next change. Therefore the reconcile must
/// wait until the list is complete.
#[derive(Debug)]
pub struct ListGate<T> {
    is_listing: bool,
    held: Vec<T>,
}

impl<T> Default for ListGate<T> {
    fn default() -> Self {
        Self {
            is_listing: false,
            held: Vec::new(),
        }
    }
}

impl<T> ListGate<T> {
    /// Processes an event of the watch. If the event is the end of a list, the method returns all waiting items.
    pub fn seen<K>(&mut self, event: &watcher::Event<K>) -> Vec<T> {
        match event {
            watcher::Event::Init => self.is_listing = true,
            watcher::Event::InitDone => {
                self.is_listing = false;
                return std::mem::take(&mut self.held);
            }
            watcher::Event::InitApply(_) | watcher::Event::Apply(_) | watcher::Event::Delete(_) => {}
        }
        Vec::new()
    }

    /// Returns the item if no list is in progress. Otherwise holds the item back until the list is complete.
    pub fn pass(&mut self, item: T) -> Option<T> {
        if self.is_listing {
            self.held.push(item);
            return None;
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use watcher::Event;

    use super::*;

    #[test]
    fn items_of_a_list_pass_when_the_list_is_complete() {
        let mut gate = ListGate::default();
        assert_eq!(gate.pass("before"), Some("before"));
        assert!(gate.seen(&Event::<()>::Init).is_empty());
        assert_eq!(gate.pass("first"), None);
        // If a list fails, the watch starts a new list.
        assert!(gate.seen(&Event::<()>::Init).is_empty());
        assert_eq!(gate.pass("second"), None);
        assert!(gate.seen(&Event::InitApply(())).is_empty());
        assert_eq!(gate.seen(&Event::<()>::InitDone), ["first", "second"]);
        assert_eq!(gate.pass("after"), Some("after"));
        assert!(gate.seen(&Event::<()>::InitDone).is_empty());
    }
}
