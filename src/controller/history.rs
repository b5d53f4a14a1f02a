//! Detects that somebody reset the cluster to an earlier state, for example with an etcd restore.
//!
//! After a reset, the resource versions are lower than before. Watches then wait for higher resource versions and may
//! deliver no events for hours. The memory of the operator also still contains changes that the reset has undone.

use std::time::Duration;

use kube::{Api, Client, api::ListParams, core::DeserializeGuard};
use tokio::time::sleep;

use super::{
    error::{Error, call},
    stores::scoped_api,
};
use crate::{api::UploadGrant, telemetry::warn_once};

/// The pause between two reads of the cluster's resource version. Each read is a list request for at most one object.
/// The apiserver does not answer this request from its cache.
const PERIOD: Duration = Duration::from_secs(15);
/// If the resource version is lower than before, Valet reads the resource version again after this pause. Valet reports
/// a reset only if the second result is also lower.
const AGAIN: Duration = Duration::from_secs(2);

/// The highest resource version that Valet has read from the cluster. Resource versions of one kind can be compared,
/// and they only increase (KEP-5504).
#[derive(Debug, Default)]
struct Newest(Option<u128>);

impl Newest {
    /// Records a resource version. Returns the highest resource version that Valet has read before, if it is higher
    /// than `version`. Otherwise returns `None`.
    fn note(&mut self, version: u128) -> Option<u128> {
        let newer = self.0.filter(|newest| *newest > version);
        self.0 = self.0.max(Some(version));
        newer
    }
}

/// Waits until somebody resets the cluster to an earlier state. Then returns a message.
pub async fn wait_for_restored_history(client: Client, namespace: Option<&str>) -> String {
    let api: Api<DeserializeGuard<UploadGrant>> = scoped_api(client, namespace);
    let mut newest = Newest::default();
    loop {
        if let Some((before, now)) = poll_history(&api, &mut newest).await {
            sleep(AGAIN).await;
            if poll_history(&api, &mut newest).await.is_some() {
                return format!(
                    "the cluster's resource version fell from {before} to {now}; the cluster was reset to an earlier state, for example by an etcd restore; the operator restarts, because its cached data describes the later state"
                );
            }
        }
        sleep(PERIOD).await;
    }
}

/// Reads the current resource version of the cluster. If this version is lower than the highest version that Valet has
/// read before, returns both: first the highest version, then the current version. Otherwise, or if the current version
/// cannot be read, returns `None`.
async fn poll_history(api: &Api<DeserializeGuard<UploadGrant>>, newest: &mut Newest) -> Option<(u128, u128)> {
    match version(api).await {
        Ok(version) => Some((newest.note(version?)?, version?)),
        Err(error) => {
            warn_once!(
                &error.cause(),
                "Valet cannot read the cluster's resource version: {error}"
            );
            None
        }
    }
}

/// Lists the grants and returns the resource version of the list. The apiserver does not answer this request from its
/// cache. Returns `None` if the version is not a number.
async fn version(api: &Api<DeserializeGuard<UploadGrant>>) -> Result<Option<u128>, Error> {
    // The request contains no resource version, so the apiserver must answer with the newest state. It must not use its
    // cache.
    let list = call(
        "reading the cluster's resource version",
        api.list_metadata(&ListParams::default().limit(1)),
    )
    .await?;
    Ok(list.metadata.resource_version.and_then(|v| v.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_resource_version_is_detected_until_the_highest_is_reached() {
        let mut newest = Newest::default();
        for (version, newer) in [
            (100, None),
            (100, None),
            (150, None),
            (120, Some(150)),
            (149, Some(150)),
            (150, None),
            (151, None),
        ] {
            assert_eq!(newest.note(version), newer, "{version}");
        }
    }
}
