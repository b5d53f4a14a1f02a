//! Reads the state of blobs.

use futures::{FutureExt, future::BoxFuture};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    responses::{date, error_code, http_date},
    store::AzureBlob,
};
use crate::{
    api::ObservedObject,
    core::{Access, ObjectFact, ObjectKey},
    provider::abilities::ObjectReader,
};

impl ObjectReader for AzureBlob {
    fn head<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, ObjectFact> {
        self.head_object(access.key()).boxed()
    }
}

impl AzureBlob {
    async fn head_object(&self, key: &ObjectKey) -> ObjectFact {
        let answer = match self.read(Method::HEAD, key.as_str(), None).await {
            Ok(answer) => answer,
            Err(trouble) => return ObjectFact::Unreachable(trouble.text()),
        };
        let code = error_code(&answer);
        match (answer.status, code.as_str()) {
            (200, _) => {}
            (404, "ContainerNotFound") => {
                return ObjectFact::Unreachable(
                    "the storage account has no container with the name in spec.azureBlob.container".into(),
                );
            }
            (404, _) => return ObjectFact::Absent,
            (401 | 403, _) => {
                return self
                    .findings
                    .clock
                    .problem()
                    .map_or(ObjectFact::Hidden, ObjectFact::ClockSkewed);
            }
            (status, _) => return ObjectFact::Unreachable(format!("the store answered {status}")),
        }
        let text = |name: &str| Some(answer.headers.get(name)?.to_str().ok()?.to_owned());
        let modified = text("last-modified").and_then(|t| http_date(&t));
        // Valet computes the age of the blob relative to the `Date` header of the answer. If the answer has no `Date`
        // header, Valet uses the operator's clock.
        let age = modified.map(|m| date(&answer).unwrap_or_else(Timestamp::now).duration_since(m));
        ObjectFact::Present {
            object: ObservedObject {
                size: text("content-length").and_then(|n| n.parse().ok()),
                e_tag: text("etag"),
                content_type: text("content-type"),
                checksum_md5: text("content-md5"),
                checksum_crc32c: None,
                checksum_sha256: None,
                version: text("x-ms-version-id"),
                last_modified_time: modified.map(Time),
            }
            .checked(),
            modified_at: age.and_then(|age| Timestamp::now().checked_sub(age).ok()),
        }
    }
}
