//! Notices that a watch has gone silent: objects that have been the same for minutes, and that the operator knows otherwise.

use std::{collections::HashMap, time::Duration};

use kube::{Api, Client, ResourceExt, api::ListParams, core::DeserializeGuard};
use tokio::time::sleep;

use super::{
    error::{Error, call},
    stores::scoped,
    watch::Caller,
};
use crate::{
    api::{DownloadGrant, Grant, UploadGrant},
    telemetry::{Health, warn_once},
};

/// How often all grants are listed, metadata only. A difference counts when it has lasted for a whole period.
const PERIOD: Duration = Duration::from_secs(300);
/// Objects of one page: all of them fit into memory, also where each is as large as may be.
const PAGE: u32 = 100;

/// Versions of objects, by UID.
type Versions = HashMap<String, String>;

/// Compares what is there with what a watch has brought.
#[derive(Debug, Default)]
struct Comparison {
    listed: Versions,
    watched: Versions,
}

impl Comparison {
    /// How many objects the watch has missed since the last time: those that are as they were then, and are not known in this version;
    /// and those that are known, and were not there, neither then nor now.
    fn missed(&mut self, listed: Versions, watched: Versions) -> usize {
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
        let missed = otherwise.count() + gone.count();
        *self = Self { listed, watched };
        missed
    }
}

/// Waits until the watch of a kind of grant is found to have missed changes for minutes, and says so.
pub async fn went_silent(
    client: Client,
    namespace: Option<&str>,
    (uploads, downloads): (Caller<UploadGrant>, Caller<DownloadGrant>),
    health: Health,
) -> String {
    let (mut of_uploads, mut of_downloads) = (Comparison::default(), Comparison::default());
    loop {
        sleep(PERIOD).await;
        if !health.works() {
            continue;
        }
        let missed = [
            (
                UploadGrant::OPERATION,
                compare(&mut of_uploads, &client, namespace, &uploads).await,
            ),
            (
                DownloadGrant::OPERATION,
                compare(&mut of_downloads, &client, namespace, &downloads).await,
            ),
        ];
        for (operation, number) in missed {
            if number > 0 {
                let (kind, minutes) = (operation.kind(), PERIOD.as_secs() / 60);
                return format!(
                    "the watch of {kind} has missed changes of {number} objects for {minutes} minutes, as after etcd was restored; the operator must start again"
                );
            }
        }
    }
}

async fn compare<G: Grant>(
    comparison: &mut Comparison,
    client: &Client,
    namespace: Option<&str>,
    caller: &Caller<G>,
) -> usize {
    match listed::<G>(client, namespace).await {
        // What is watched is read after the list: it must be at least as new.
        Ok(listed) => {
            let known = caller.known();
            let watched = known.iter().filter_map(|grant| version(grant.as_ref())).collect();
            comparison.missed(listed, watched)
        }
        Err(error) => {
            warn_once!(
                &error.cause(),
                "grants cannot be compared with what is watched: {error}"
            );
            *comparison = Comparison::default();
            0
        }
    }
}

async fn listed<G: Grant>(client: &Client, namespace: Option<&str>) -> Result<Versions, Error> {
    let api: Api<DeserializeGuard<G>> = scoped(client.clone(), namespace);
    let (mut versions, mut params) = (Versions::new(), ListParams::default().limit(PAGE));
    loop {
        let page = call("listing grants", api.list_metadata(&params)).await?;
        versions.extend(page.items.iter().filter_map(version));
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
    use super::*;

    fn versions(of: &[(&str, u32)]) -> Versions {
        of.iter()
            .map(|(uid, version)| ((*uid).to_owned(), version.to_string()))
            .collect()
    }

    /// Objects by UID and version.
    type Objects = &'static [(&'static str, u32)];

    fn missed(rounds: &[(Objects, Objects)]) -> Vec<usize> {
        let mut comparison = Comparison::default();
        let round = |(listed, watched): &(Objects, Objects)| comparison.missed(versions(listed), versions(watched));
        rounds.iter().map(round).collect()
    }

    #[test]
    fn watch_that_is_a_moment_late_has_missed_nothing() {
        assert_eq!(
            missed(&[(&[("a", 1)], &[("a", 1)]), (&[("a", 1)], &[("a", 1)])]),
            [0, 0]
        );
        // A change, a new object and a deletion that are under way each time.
        assert_eq!(
            missed(&[
                (&[("a", 2), ("b", 3)], &[("a", 1), ("c", 1)]),
                (&[("a", 4), ("d", 5)], &[("a", 2), ("b", 3)])
            ]),
            [0, 0]
        );
        // The watch is ahead of the list.
        assert_eq!(
            missed(&[(&[("a", 1)], &[("a", 2)]), (&[("a", 2)], &[("a", 3), ("b", 4)])]),
            [0, 0]
        );
    }

    #[test]
    fn watch_that_is_silent_has_missed_what_lasts() {
        // Changed, new, or set back to an older version, for a whole period.
        assert_eq!(
            missed(&[(&[("a", 2)], &[("a", 1)]), (&[("a", 2)], &[("a", 1)])]),
            [0, 1]
        );
        assert_eq!(missed(&[(&[("a", 2)], &[]), (&[("a", 2)], &[])]), [0, 1]);
        assert_eq!(
            missed(&[(&[("a", 2)], &[("a", 9)]), (&[("a", 2)], &[("a", 9)])]),
            [0, 1]
        );
        // Gone for a whole period.
        assert_eq!(
            missed(&[(&[], &[("a", 1), ("b", 1)]), (&[], &[("a", 1), ("b", 1)])]),
            [0, 2]
        );
        // It came back to life in between.
        assert_eq!(
            missed(&[(&[("a", 2)], &[("a", 1)]), (&[("a", 2)], &[("a", 2)])]),
            [0, 0]
        );
    }
}
