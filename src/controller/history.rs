//! Detects that the cluster was reset to an earlier state, for example by an etcd restore. Watches would then wait
//! for resource versions from before the reset and deliver no events, perhaps for hours. The operator's memory would
//! describe changes that no longer exist.

use std::time::Duration;

use kube::{Api, Client, api::ListParams, core::DeserializeGuard};
use tokio::time::sleep;

use super::{
    error::{Error, call},
    stores::scoped,
};
use crate::{api::UploadGrant, telemetry::warn_once};

/// How often the cluster's resource version is read: one consistent list with a limit of one object.
const PERIOD: Duration = Duration::from_secs(15);
/// The pause before a lower version is read again for confirmation.
const AGAIN: Duration = Duration::from_secs(2);

/// The highest resource version of the cluster so far. Resource versions of one kind are comparable and only increase
/// (KEP-5504).
#[derive(Debug, Default)]
struct Newest(Option<u128>);

impl Newest {
    /// Records a version. Returns the highest earlier version if it is higher than this one.
    fn note(&mut self, version: u128) -> Option<u128> {
        let newer = self.0.filter(|newest| *newest > version);
        self.0 = self.0.max(Some(version));
        newer
    }
}

/// Waits until the cluster has been reset to an earlier state, and returns a message.
pub async fn went_back(client: Client, namespace: Option<&str>) -> String {
    let api: Api<DeserializeGuard<UploadGrant>> = scoped(client, namespace);
    let mut newest = Newest::default();
    loop {
        if let Some((before, now)) = look(&api, &mut newest).await {
            sleep(AGAIN).await;
            if look(&api, &mut newest).await.is_some() {
                return format!(
                    "the cluster's resource version fell from {before} to {now}: the cluster was set back to an earlier state, for example by an etcd restore; the operator restarts, because its data describes the later state"
                );
            }
        }
        sleep(PERIOD).await;
    }
}

/// The highest earlier version and the current version, if the current version is lower.
async fn look(api: &Api<DeserializeGuard<UploadGrant>>, newest: &mut Newest) -> Option<(u128, u128)> {
    match version(api).await {
        Ok(version) => Some((newest.note(version?)?, version?)),
        Err(error) => {
            warn_once!(&error.cause(), "the cluster's resource version cannot be read: {error}");
            None
        }
    }
}

/// The resource version of the collection, read without a cache. `None` if it is not a number.
async fn version(api: &Api<DeserializeGuard<UploadGrant>>) -> Result<Option<u128>, Error> {
    // Without a resource version in the request, the apiserver must answer with the newest state, not from its cache.
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
    fn version_that_goes_back_is_noticed_until_the_history_is_as_long_again() {
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
