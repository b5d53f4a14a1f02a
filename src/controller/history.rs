//! Detects that the cluster was reset to an earlier state, for example by an etcd restore. After a reset, watches
//! wait for resource versions from before the reset. They deliver no events, perhaps for hours. The operator's memory
//! also describes changes that no longer exist.

use std::time::Duration;

use kube::{Api, Client, api::ListParams, core::DeserializeGuard};
use tokio::time::sleep;

use super::{
    error::{Error, call},
    stores::scoped,
};
use crate::{api::UploadGrant, telemetry::warn_once};

/// The pause between two reads of the cluster's resource version. Each read is one consistent list with a limit of
/// one object.
const PERIOD: Duration = Duration::from_secs(15);
/// If Valet reads a lower resource version, it reads the version again after this pause to confirm it.
const AGAIN: Duration = Duration::from_secs(2);

/// The highest resource version that Valet has read from the cluster. Resource versions of one kind can be compared,
/// and they only increase (KEP-5504).
#[derive(Debug, Default)]
struct Newest(Option<u128>);

impl Newest {
    /// Records a resource version. If an earlier version was higher, returns the highest earlier version.
    fn note(&mut self, version: u128) -> Option<u128> {
        let newer = self.0.filter(|newest| *newest > version);
        self.0 = self.0.max(Some(version));
        newer
    }
}

/// Waits until the cluster has been reset to an earlier state. Then returns a message.
pub async fn went_back(client: Client, namespace: Option<&str>) -> String {
    let api: Api<DeserializeGuard<UploadGrant>> = scoped(client, namespace);
    let mut newest = Newest::default();
    loop {
        if let Some((before, now)) = look(&api, &mut newest).await {
            sleep(AGAIN).await;
            if look(&api, &mut newest).await.is_some() {
                return format!(
                    "the cluster's resource version fell from {before} to {now}; the cluster was reset to an earlier state, for example by an etcd restore; the operator restarts, because its cached data describes the later state"
                );
            }
        }
        sleep(PERIOD).await;
    }
}

/// Reads the current resource version. If it is lower than an earlier one, returns the highest earlier version and
/// the current version.
async fn look(api: &Api<DeserializeGuard<UploadGrant>>, newest: &mut Newest) -> Option<(u128, u128)> {
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

/// Reads the resource version of the list of grants without a cache. Returns `None` if the version is not a number.
async fn version(api: &Api<DeserializeGuard<UploadGrant>>) -> Result<Option<u128>, Error> {
    // The request contains no resource version. The apiserver must therefore answer with the newest state, and not
    // from its cache.
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
