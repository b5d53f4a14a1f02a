use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::scope::SenderScope;
use crate::{
    api::Grant,
    core::{StoreId, store_id},
    fairness::FairQueue,
    notifications::ObjectCreated,
};

/// Notifications for a grant make Valet reconcile this grant at most once per second. Without this limit, a sender
/// could make Valet poll the store very often with repeated or forged notifications.
const PAUSE: Duration = Duration::from_secs(1);
/// Notifications make Valet start at most one reconcile every 5 ms, which is 200 reconciles per second. Each
/// reconcile sends one HEAD request and up to four requests to the apiserver. The remaining grants wait in queues,
/// and Valet serves the namespaces in turn.
const DISPATCH_PAUSE: Duration = Duration::from_millis(5);

/// An index of the uploads that grants wait for. The index finds a grant by the bucket and the object key. The
/// watches keep the index up to date. The time of a lookup does not depend on the number of grants.
#[derive(Default)]
pub struct UploadIndex {
    table: Mutex<Table>,
    wake: Notify,
}

#[derive(Default)]
struct Table {
    /// The uploads that grants wait for, by UID of the grant.
    uploads: HashMap<Arc<str>, Upload>,
    /// The UIDs of the grants that wait for an object key. Several grants can name one object key, and their stores
    /// can differ.
    keys: HashMap<Arc<str>, HashSet<Arc<str>>>,
    buckets: HashMap<StoreId, String>,
    /// The UIDs of the grants that wait for a reconcile, by namespace.
    queue: FairQueue<Arc<str>>,
}

struct Upload {
    namespace: String,
    name: String,
    store: StoreId,
    key: Arc<str>,
    /// The time when Valet last enqueued the grant because of a notification.
    called: Option<Instant>,
    /// The time when a notification for the grant arrived. It is `None` if no notification waits to be handled.
    notified_at: Option<Instant>,
}

/// A grant that Valet must reconcile because of a notification.
#[derive(Debug, PartialEq, Eq)]
pub struct NotifiedGrant {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// The time when the notification arrived.
    pub notified_at: Instant,
}

impl UploadIndex {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an UploadGrant from the watch.
    pub fn applied(&self, grant: &impl Grant) {
        self.table().note(grant);
    }

    /// Removes a deleted grant.
    pub fn deleted(&self, uid: &str) {
        self.table().remove(uid);
    }

    /// Removes all grants whose UIDs are not in `uids`.
    pub fn retain(&self, uids: &HashSet<String>) {
        let mut table = self.table();
        let is_gone = |uid: &&Arc<str>| !uids.contains(uid.as_ref());
        let gone: Vec<_> = table.uploads.keys().filter(is_gone).cloned().collect();
        for uid in gone {
            table.remove(&uid);
        }
    }

    /// Records the bucket of a store. `None` means that the store was deleted.
    pub fn store(&self, id: &StoreId, bucket: Option<String>) {
        let mut table = self.table();
        match bucket {
            Some(bucket) => table.buckets.insert(id.clone(), bucket),
            None => table.buckets.remove(id),
        };
    }

    /// Handles a notification that an object was created. Returns true if a grant waits for this object, and if the
    /// sender is allowed to send notifications for the store of the grant.
    pub fn notify(self: &Arc<Self>, arrived: &ObjectCreated, sender: &SenderScope) -> bool {
        let now = Instant::now();
        let mut table = self.table();
        let mut found = false;
        for uid in table.grants_for_object(arrived, sender) {
            found = true;
            let Some(upload) = table.uploads.get_mut(&uid) else {
                continue;
            };
            // The reconcile reads the latest state of the object, so one pending reconcile per grant is enough.
            if upload.notified_at.is_some() {
                continue;
            }
            upload.notified_at = Some(now);
            match upload.called.map(|called| called + PAUSE) {
                Some(due) if due > now => {
                    let upload_index = self.clone();
                    tokio::spawn(async move {
                        sleep_until(due).await;
                        upload_index.table().enqueue(&uid);
                        upload_index.wake.notify_one();
                    });
                }
                _ => table.enqueue(&uid),
            }
        }
        drop(table);
        if found {
            self.wake.notify_one();
        }
        found
    }

    /// Enqueues the waiting grants one after the other, with a pause after each grant. The function never returns.
    pub async fn serve(&self, mut call: impl FnMut(NotifiedGrant)) {
        loop {
            let next = self.table().dequeue();
            match next {
                Some(due) => {
                    call(due);
                    sleep(DISPATCH_PAUSE).await;
                }
                None => self.wake.notified().await,
            }
        }
    }
}

impl Table {
    fn note(&mut self, grant: &impl Grant) {
        let meta = grant.meta();
        let (Some(uid), Some(namespace), Some(name)) = (&meta.uid, &meta.namespace, &meta.name) else {
            return;
        };
        let finished = grant.grant_status().is_some_and(|s| s.finished_time.is_some());
        if finished || meta.deletion_timestamp.is_some() {
            self.remove(uid);
            return;
        }
        if self.uploads.contains_key(uid.as_str()) {
            // The index already contains this grant. The entry needs no update, because the store and the object key of
            // a grant are immutable.
            return;
        }
        let uid: Arc<str> = uid.as_str().into();
        let key: Arc<str> = grant.terms().key.as_str().into();
        let upload = Upload {
            namespace: namespace.clone(),
            name: name.clone(),
            store: store_id(&grant.terms().store_ref, namespace),
            key: key.clone(),
            called: None,
            notified_at: None,
        };
        self.uploads.insert(uid.clone(), upload);
        self.keys.entry(key).or_default().insert(uid);
    }

    fn remove(&mut self, uid: &str) {
        let Some(upload) = self.uploads.remove(uid) else { return };
        if let Some(uids) = self.keys.get_mut(&upload.key) {
            uids.remove(uid);
            if uids.is_empty() {
                self.keys.remove(&upload.key);
            }
        }
    }

    /// Returns the grants that wait for an upload with this bucket and object key, sorted by namespace. The list
    /// contains only grants whose store is in the scope of the sender. A matching bucket name alone is not enough,
    /// because any ObjectStore can name this bucket.
    fn grants_for_object(&self, arrived: &ObjectCreated, sender: &SenderScope) -> Vec<Arc<str>> {
        let mut found: Vec<_> = arrived
            .keys
            .iter()
            .filter_map(|key| self.keys.get(key.as_str()))
            .flatten()
            .filter_map(|uid| self.uploads.get(uid).map(|upload| (uid, upload)))
            .filter(|(_, Upload { store, .. })| {
                sender.covers(store) && self.buckets.get(store) == Some(&arrived.bucket)
            })
            .collect();
        found.sort_by(|(_, one), (_, other)| one.namespace.cmp(&other.namespace));
        found.into_iter().map(|(uid, _)| uid.clone()).collect()
    }

    fn enqueue(&mut self, uid: &Arc<str>) {
        if let Some(upload) = self.uploads.get(uid) {
            self.queue.push(&upload.namespace, uid.clone());
        }
    }

    /// Removes and returns the next waiting grant. While a grant waits in the queue, somebody can delete it, or it can
    /// finish. The method skips such a grant.
    fn dequeue(&mut self) -> Option<NotifiedGrant> {
        while let Some((namespace, uid)) = self.queue.pop(|_| true) {
            let Some(upload) = self.uploads.get_mut(&uid) else {
                continue;
            };
            let Some(notified_at) = upload.notified_at.take() else {
                continue;
            };
            upload.called = Some(Instant::now());
            return Some(NotifiedGrant {
                uid: uid.to_string(),
                namespace,
                name: upload.name.clone(),
                notified_at,
            });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{StoreKind, UploadGrant};

    fn grant(uid: &str, namespace: &str, key: &str, more: Value) -> UploadGrant {
        let mut grant = json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "UploadGrant",
            "metadata": {"name": format!("grant-{uid}"), "namespace": namespace, "uid": uid},
            "spec": {"storeRef": {"kind": "ClusterObjectStore", "name": "media"}, "key": key},
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            grant[field] = value.clone();
        }
        serde_json::from_value(grant).unwrap()
    }

    fn news(bucket: &str, keys: &[&str]) -> ObjectCreated {
        ObjectCreated {
            bucket: bucket.into(),
            keys: keys.iter().map(|k| (*k).to_owned()).collect(),
        }
    }

    /// Returns a sender that is allowed to send notifications for every store in the tests.
    fn anybody() -> SenderScope {
        scope(&["*", "web/*", "api/*"])
    }

    fn scope(words: &[&str]) -> SenderScope {
        SenderScope::read(words.iter().copied()).unwrap()
    }

    fn media() -> StoreId {
        (StoreKind::ClusterObjectStore, String::new(), "media".into())
    }

    /// Collects the grants that Valet enqueues, with the times in milliseconds. The function stops when Valet has
    /// enqueued no grant for a minute.
    async fn calls(upload_index: &Arc<UploadIndex>) -> Vec<(String, u128)> {
        let began = Instant::now();
        let mut calls = vec![];
        let serve = upload_index.serve(|call| calls.push((call.uid, began.elapsed().as_millis())));
        let _ = tokio::time::timeout(Duration::from_secs(60), serve).await;
        calls
    }

    fn names(calls: &[(String, u128)]) -> Vec<&str> {
        calls.iter().map(|(uid, _)| uid.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn notification_enqueues_the_grants_that_wait_for_the_object() {
        let upload_index = Arc::new(UploadIndex::default());
        for (uid, namespace, key) in [("a", "web", "k"), ("b", "api", "k"), ("c", "web", "other")] {
            upload_index.applied(&grant(uid, namespace, key, json!({})));
        }
        assert!(
            !upload_index.notify(&news("media", &["k"]), &anybody()),
            "a notification must be ignored while the store is unknown"
        );
        upload_index.store(&media(), Some("media".into()));
        assert!(!upload_index.notify(&news("elsewhere", &["k"]), &anybody()));
        assert!(!upload_index.notify(&news("media", &["K", "k/", ""]), &anybody()));
        assert!(upload_index.notify(&news("media", &["x", "k"]), &anybody()));
        assert_eq!(names(&calls(&upload_index).await), ["b", "a"]);

        // In this part of the test, the store first gets a different bucket, and then the store is deleted.
        upload_index.store(&media(), Some("moved".into()));
        assert!(!upload_index.notify(&news("media", &["k"]), &anybody()));
        assert!(upload_index.notify(&news("moved", &["k"]), &anybody()));
        upload_index.store(&media(), None);
        assert!(!upload_index.notify(&news("moved", &["k"]), &anybody()));

        // An ObjectStore and a ClusterObjectStore are different stores, even if they have the same name.
        let own = json!({"spec": {"storeRef": {"name": "media"}, "key": "own"}});
        upload_index.applied(&grant("d", "web", "", own));
        upload_index.store(&media(), Some("media".into()));
        assert!(!upload_index.notify(&news("media", &["own"]), &anybody()));
        upload_index.store(
            &(StoreKind::ObjectStore, "api".into(), "media".into()),
            Some("media".into()),
        );
        assert!(!upload_index.notify(&news("media", &["own"]), &anybody()));
        upload_index.store(
            &(StoreKind::ObjectStore, "web".into(), "media".into()),
            Some("media".into()),
        );
        assert!(upload_index.notify(&news("media", &["own"]), &anybody()));
    }

    /// A tenant can create an ObjectStore for any bucket and a grant for any object key. If a sender is allowed to
    /// send notifications only for a different store, its notifications must have no effect on this grant.
    #[tokio::test(start_paused = true)]
    async fn notification_from_the_sender_of_another_store_is_ignored() {
        let upload_index = Arc::new(UploadIndex::default());
        let spy = json!({"spec": {"storeRef": {"name": "spy"}, "key": "k"}});
        upload_index.applied(&grant("spy", "team-a", "", spy));
        upload_index.applied(&grant("owner", "team-b", "k", json!({})));
        let spys = (StoreKind::ObjectStore, "team-a".to_owned(), "spy".to_owned());
        upload_index.store(&spys, Some("media".into()));
        upload_index.store(&media(), Some("media".into()));
        for (sender, notified_at) in [
            (&["backups"][..], &[][..]),
            (&["team-a/other", "team-b/*"], &[]),
            (&["media"], &["owner"]),
            (&["*"], &["owner"]),
            (&["team-a/spy"], &["spy"]),
        ] {
            assert_eq!(
                upload_index.notify(&news("media", &["k"]), &scope(sender)),
                !notified_at.is_empty()
            );
            assert_eq!(names(&calls(&upload_index).await), notified_at, "{sender:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn notification_for_a_finished_or_deleted_grant_is_ignored() {
        let upload_index = Arc::new(UploadIndex::default());
        upload_index.store(&media(), Some("media".into()));
        let tell = |key: &str| upload_index.notify(&news("media", &[key]), &anybody());
        upload_index.applied(&grant("a", "web", "a", json!({})));
        let finished = json!({"status": {"finishedTime": "2027-01-15T08:00:00Z"}});
        upload_index.applied(&grant("a", "web", "a", finished));
        assert!(!tell("a"));
        upload_index.applied(&grant("b", "web", "b", json!({})));
        upload_index.deleted("b");
        assert!(!tell("b"));
        // After an interruption, the watch lists all grants again. If the new list does not contain a grant, somebody
        // deleted the grant during the interruption.
        upload_index.applied(&grant("c", "web", "c", json!({})));
        upload_index.applied(&grant("d", "web", "d", json!({})));
        assert!(tell("c"));
        upload_index.retain(&HashSet::from(["d".to_owned()]));
        assert!(!tell("c"));
        assert!(tell("d"));
        assert_eq!(
            names(&calls(&upload_index).await),
            ["d"],
            "the deleted grant c must not be reconciled"
        );
        let table = upload_index.table();
        assert_eq!((table.uploads.len(), table.keys.len(), table.queue.len()), (1, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_notifications_cause_one_reconcile_per_second() {
        let upload_index = Arc::new(UploadIndex::default());
        upload_index.store(&media(), Some("media".into()));
        upload_index.applied(&grant("a", "web", "a", json!({})));
        let speaker = upload_index.clone();
        tokio::spawn(async move {
            for _ in 0..4000 {
                assert!(speaker.notify(&news("media", &["a"]), &anybody()));
                sleep(Duration::from_millis(1)).await;
            }
        });
        let calls = calls(&upload_index).await;
        let times: Vec<_> = calls.iter().map(|(_, t)| *t).collect();
        assert!((4..=5).contains(&calls.len()), "{times:?}");
        assert!(times[0] < 10, "the first reconcile must be immediate: {times:?}");
        assert!(times.windows(2).all(|t| t[1] - t[0] >= 1000), "{times:?}");
        // Valet never loses the last notification: if no reconcile is pending when this notification arrives, the
        // notification causes a further reconcile.
        assert!(times.last().is_some_and(|t| *t >= 3999), "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn notification_flood_in_one_namespace_does_not_delay_others() {
        let upload_index = Arc::new(UploadIndex::default());
        upload_index.store(&media(), Some("media".into()));
        for n in 0..1000 {
            upload_index.applied(&grant(&format!("flood-{n}"), "loud", "same", json!({})));
        }
        upload_index.applied(&grant("calm", "quiet", "mine", json!({})));
        assert!(upload_index.notify(&news("media", &["same"]), &anybody()));
        assert!(upload_index.notify(&news("media", &["mine"]), &anybody()));
        let calls = calls(&upload_index).await;
        assert_eq!(calls.len(), 1001);
        let calm = calls.iter().position(|(uid, _)| uid == "calm");
        assert!(calm <= Some(1), "{calm:?}");
        let last = calls.last().map_or(0, |(_, t)| *t);
        assert!(
            last >= 1000 * DISPATCH_PAUSE.as_millis(),
            "the reconciles of 1001 grants must be spread over time, but all started within {last} ms"
        );
    }
}
