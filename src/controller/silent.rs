//! Detects a watch that no longer delivers events. If a watch delivers no events, the watch cache still contains old
//! versions of objects. This module looks for objects whose version in the watch cache has been wrong for minutes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kube::{Api, Client, ResourceExt, api::ListParams, core::DeserializeGuard};
use tokio::time::sleep;

use super::{
    error::{Error, call},
    shard_filter::ForeignGrants,
    stores::scoped_api,
    watch::Requeuer,
};
use crate::{
    api::{DownloadGrant, Grant, UploadGrant},
    telemetry::{Health, warn_once},
};

/// Valet lists the metadata of all grants every 300 seconds, and compares the list with the watch cache. A difference
/// counts only if it exists in two consecutive lists.
const PERIOD: Duration = Duration::from_secs(300);
/// The page size of the lists of grants. With this page size, one page fits into memory even if every grant has the
/// maximum size.
const PAGE: u32 = 100;

/// The resource version of each object, by UID.
type Versions = HashMap<String, String>;

/// The watch cache of one kind of grant, and the versions of the grants that other shards serve.
type Watched<G> = (Requeuer<G>, Arc<ForeignGrants>);

/// Compares the objects in a list with the objects in the watch cache.
#[derive(Debug, Default)]
struct Comparison {
    listed: Versions,
    watched: Versions,
}

impl Comparison {
    /// Returns the number of objects whose changes the watch has missed.
    ///
    /// A listed object counts if its version has not changed since the last list, but the watch cache has a different
    /// version. An object also counts if neither of the last two lists contained it, although the watch cache contained
    /// it both times.
    fn count_missed(&mut self, listed: Versions, watched: Versions) -> usize {
        let unchanged = |(uid, version): &(&String, &String)| self.listed.get(*uid) == Some(version);
        let otherwise = listed
            .iter()
            .filter(unchanged)
            .filter(|(uid, version)| watched.get(*uid) != Some(version));
        let is_gone = |uid: &&String| !listed.contains_key(*uid) && !self.listed.contains_key(*uid);
        let gone = watched
            .keys()
            .filter(is_gone)
            .filter(|uid| self.watched.contains_key(*uid));
        let count_missed = otherwise.count() + gone.count();
        *self = Self { listed, watched };
        count_missed
    }
}

/// Waits until the watch of one kind of grant has missed changes for minutes. Then returns a message.
pub async fn went_silent(
    client: Client,
    namespace: Option<&str>,
    (uploads, downloads): (Watched<UploadGrant>, Watched<DownloadGrant>),
    health: Health,
) -> String {
    let (mut of_uploads, mut of_downloads) = (Comparison::default(), Comparison::default());
    loop {
        sleep(PERIOD).await;
        if !health.is_working() {
            continue;
        }
        let count_missed = [
            (
                UploadGrant::OPERATION,
                compare(&mut of_uploads, &client, namespace, &uploads).await,
            ),
            (
                DownloadGrant::OPERATION,
                compare(&mut of_downloads, &client, namespace, &downloads).await,
            ),
        ];
        for (operation, number) in count_missed {
            if number > 0 {
                let (kind, minutes) = (operation.kind(), PERIOD.as_secs() / 60);
                return format!(
                    "the watch of {kind} objects has missed changes of {number} objects for {minutes} minutes; a possible cause is an etcd restore; the operator restarts"
                );
            }
        }
    }
}

async fn compare<G: Grant>(
    comparison: &mut Comparison,
    client: &Client,
    namespace: Option<&str>,
    watched: &Watched<G>,
) -> usize {
    match listed::<G>(client, namespace, &watched.1).await {
        // Valet first lists the grants and then reads the watch cache. A correct watch cache is therefore at least as
        // new as the list.
        Ok(listed) => {
            let known = watched.0.known();
            let watched = known.iter().filter_map(|grant| version(grant.as_ref())).collect();
            comparison.count_missed(listed, watched)
        }
        Err(error) => {
            warn_once!(
                &error.cause(),
                "Valet cannot list the grants and compare the list with the watch cache: {error}"
            );
            *comparison = Comparison::default();
            0
        }
    }
}

/// Lists the grants, except those that another shard serves and whose listed version the watch has delivered.
async fn listed<G: Grant>(
    client: &Client,
    namespace: Option<&str>,
    foreign: &ForeignGrants,
) -> Result<Versions, Error> {
    let api: Api<DeserializeGuard<G>> = scoped_api(client.clone(), namespace);
    let (mut versions, mut params) = (Versions::new(), ListParams::default().limit(PAGE));
    loop {
        let page = call("listing grants", api.list_metadata(&params)).await?;
        let page_versions = page.items.iter().filter_map(version);
        versions.extend(page_versions.filter(|(uid, version)| !foreign.has(uid, version)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(versions),
        }
    }
}

fn version(object: &impl ResourceExt) -> Option<(String, String)> {
    Some((object.uid()?, object.resource_version()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kube::runtime::{reflector, watcher::Event};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::StoreKind,
        controller::{local_state::LocalState, mock_apiserver, shard_filter::ShardFilter},
        core::{Shard, record::RecordKey},
        telemetry::Progress,
    };

    fn versions(of: &[(&str, u32)]) -> Versions {
        of.iter()
            .map(|(uid, version)| ((*uid).to_owned(), version.to_string()))
            .collect()
    }

    /// The UIDs and versions of several objects.
    type Objects = &'static [(&'static str, u32)];

    fn count_missed(rounds: &[(Objects, Objects)]) -> Vec<usize> {
        let mut comparison = Comparison::default();
        let round =
            |(listed, watched): &(Objects, Objects)| comparison.count_missed(versions(listed), versions(watched));
        rounds.iter().map(round).collect()
    }

    #[test]
    fn watch_with_a_short_delay_has_missed_nothing() {
        assert_eq!(
            count_missed(&[(&[("a", 1)], &[("a", 1)]), (&[("a", 1)], &[("a", 1)])]),
            [0, 0]
        );
        // Shortly before each comparison, one object was changed, one was created and one was deleted. The watch has
        // not delivered these events yet.
        assert_eq!(
            count_missed(&[
                (&[("a", 2), ("b", 3)], &[("a", 1), ("c", 1)]),
                (&[("a", 4), ("d", 5)], &[("a", 2), ("b", 3)])
            ]),
            [0, 0]
        );
        // The watch cache is newer than the list.
        assert_eq!(
            count_missed(&[(&[("a", 1)], &[("a", 2)]), (&[("a", 2)], &[("a", 3), ("b", 4)])]),
            [0, 0]
        );
    }

    #[test]
    fn watch_has_missed_differences_that_last_a_whole_period() {
        // The watch cache has missed a change, a new object or a reset to an older version. The difference exists in
        // two consecutive lists.
        assert_eq!(
            count_missed(&[(&[("a", 2)], &[("a", 1)]), (&[("a", 2)], &[("a", 1)])]),
            [0, 1]
        );
        assert_eq!(count_missed(&[(&[("a", 2)], &[]), (&[("a", 2)], &[])]), [0, 1]);
        assert_eq!(
            count_missed(&[(&[("a", 2)], &[("a", 9)]), (&[("a", 2)], &[("a", 9)])]),
            [0, 1]
        );
        // The objects were deleted, but the watch cache still has them at two consecutive comparisons.
        assert_eq!(
            count_missed(&[(&[], &[("a", 1), ("b", 1)]), (&[], &[("a", 1), ("b", 1)])]),
            [0, 2]
        );
        // The watch delivered the missing change between the two comparisons.
        assert_eq!(
            count_missed(&[(&[("a", 2)], &[("a", 1)]), (&[("a", 2)], &[("a", 2)])]),
            [0, 0]
        );
    }

    /// Returns the answer of an apiserver that has grants with these names and versions.
    fn list(grants: &[(&'static str, u32)]) -> Value {
        let items: Vec<_> = grants
            .iter()
            .map(|(name, version)| json!({"metadata": meta(name, *version)}))
            .collect();
        json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {"resourceVersion": "9"},
            "items": items,
        })
    }

    fn meta(name: &str, version: u32) -> Value {
        json!({"name": name, "namespace": "web", "uid": name, "resourceVersion": version.to_string()})
    }

    /// A shard does not keep the grants of other shards. These grants must not count as missed, because the operator
    /// would then restart every ten minutes.
    #[tokio::test]
    async fn grants_of_other_shards_are_missed_only_if_the_watch_has_not_delivered_them() {
        let grants = Arc::new(Mutex::new(vec![("own", 1), ("foreign", 2)]));
        let client = mock_apiserver::client({
            let grants = grants.clone();
            move |_| list(&grants.lock().unwrap())
        });
        let shard = Shard::new(0, 2).unwrap();
        let is_own = |name: &String| shard.serves(&(StoreKind::ObjectStore, "web".into(), name.clone()));
        let own = (0..).map(|n| n.to_string()).find(is_own).unwrap();
        let foreign_store = (0..).map(|n| n.to_string()).find(|name| !is_own(name)).unwrap();
        let (cache, mut writer) = reflector::store();
        let local_state = Arc::new(LocalState::new(RecordKey::new([0; 32])));
        let (requeuer, _requeues) = Requeuer::new(cache.clone(), local_state, Arc::new(Progress::default()));
        let foreign = Arc::<ForeignGrants>::default();
        let filter = ShardFilter {
            shard,
            cache,
            foreign: foreign.clone(),
        };
        let mut deliver = |name: &str, store: &str, version: u32| {
            let grant = json!({"metadata": meta(name, version), "spec": {"storeRef": {"name": store}, "key": "a"}});
            let event = filter.pass(Event::Apply(serde_json::from_value(grant).unwrap()));
            if let Some(event) = event {
                writer.apply_watcher_event(&event);
            }
        };
        deliver("own", &own, 1);
        deliver("foreign", &foreign_store, 2);
        let watched: Watched<UploadGrant> = (requeuer, foreign);
        let mut comparison = Comparison::default();
        let mut count = async || compare(&mut comparison, &client, None, &watched).await;
        assert_eq!([count().await, count().await, count().await], [0, 0, 0]);

        // The foreign grant has changed, and the watch has not delivered the change for a whole period.
        *grants.lock().unwrap() = vec![("own", 1), ("foreign", 5)];
        assert_eq!([count().await, count().await], [0, 1]);
        deliver("foreign", &foreign_store, 5);
        assert_eq!([count().await, count().await], [0, 0]);
        // The foreign grant was deleted.
        *grants.lock().unwrap() = vec![("own", 1)];
        assert_eq!([count().await, count().await], [0, 0]);
    }
}
