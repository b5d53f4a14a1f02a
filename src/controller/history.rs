//! Notices that the cluster was set back to an earlier state, as when etcd is restored from a backup. Watches then wait for
//! versions that were there before, and say nothing, perhaps for hours; all that is remembered is of a history that did not happen.

use std::time::Duration;

use kube::{Api, Client, api::ListParams, core::DeserializeGuard};
use tokio::time::sleep;

use super::{
    error::{Error, call},
    stores::scoped,
};
use crate::{api::UploadGrant, telemetry::warn_once};

/// How often the cluster's version is read: one list of at most one object, as it is in etcd at that moment.
const PERIOD: Duration = Duration::from_secs(15);
/// A version that went back is read again after this long before anybody believes it.
const AGAIN: Duration = Duration::from_secs(2);

/// The newest version of the cluster that was seen. Versions of one kind can be compared, and only grow (KEP-5504).
#[derive(Debug, Default)]
struct Newest(Option<u128>);

impl Newest {
    /// Notes a version; the newer one that was seen before, if there was one.
    fn note(&mut self, version: u128) -> Option<u128> {
        let newer = self.0.filter(|newest| *newest > version);
        self.0 = self.0.max(Some(version));
        newer
    }
}

/// Waits until the cluster is found in an earlier state than before, and says so.
pub async fn went_back(client: Client, namespace: Option<&str>) -> String {
    let api: Api<DeserializeGuard<UploadGrant>> = scoped(client, namespace);
    let mut newest = Newest::default();
    loop {
        if let Some((before, now)) = look(&api, &mut newest).await {
            sleep(AGAIN).await;
            if look(&api, &mut newest).await.is_some() {
                return format!(
                    "the cluster was at version {before} and is at version {now}: it was set back to an earlier state, as when etcd is restored; the operator must start again, since what it knows is of a later time"
                );
            }
        }
        sleep(PERIOD).await;
    }
}

/// The version that was seen before, and the one that is there now, if that is an earlier one.
async fn look(api: &Api<DeserializeGuard<UploadGrant>>, newest: &mut Newest) -> Option<(u128, u128)> {
    match version(api).await {
        Ok(version) => Some((newest.note(version?)?, version?)),
        Err(error) => {
            warn_once!(&error.cause(), "the cluster's version cannot be read: {error}");
            None
        }
    }
}

/// The version of the collection, read without any cache. `None` if it is no number.
async fn version(api: &Api<DeserializeGuard<UploadGrant>>) -> Result<Option<u128>, Error> {
    // Without a version the apiserver must answer with what is there now; the caches of HA apiservers would not do.
    let list = call(
        "reading the cluster's version",
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
