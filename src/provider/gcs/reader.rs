//! Reads the state of objects in Google Cloud Storage.

use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{responses, store::Gcs};
use crate::{
    api::ObservedObject,
    core::{Access, ObjectFact, SignError},
    net::client::Answer,
    provider::abilities::ObjectReader,
};

impl ObjectReader for Gcs {
    fn head<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, ObjectFact> {
        async {
            let answer = match self.send("HEAD", access.key().as_str(), &[], &[]).await {
                Ok(answer) => answer,
                Err(SignError::Credentials { message, .. }) => return ObjectFact::Unreachable(message),
                Err(e) => return ObjectFact::Unreachable(e.to_string()),
            };
            match answer.status {
                200 => present(&answer),
                404 => ObjectFact::Absent,
                401 | 403 => self.findings.clock.problem().map_or(ObjectFact::Hidden, ObjectFact::ClockSkewed),
                status => ObjectFact::Unreachable(format!(
                    "the store answered status {status} to a HEAD request; check spec.gcs.endpoint and spec.gcs.addressingStyle"
                )),
            }
        }
        .boxed()
    }
}

/// Reads the object's properties from the headers of an answer ("HTTP headers and query string parameters for XML
/// API").
fn present(answer: &Answer) -> ObjectFact {
    let text = |name: &str| answer.headers.get(name)?.to_str().ok().map(str::to_owned);
    // Valet uses the size of the stored object. The `Content-Length` header can have a different value, because
    // Google can decompress an object while it sends the object.
    let size = text("x-goog-stored-content-length").or_else(|| text("content-length"));
    let modified = text("last-modified")
        .and_then(|t| jiff::fmt::rfc2822::parse(&t).ok())
        .map(|z| z.timestamp());
    let hash = |kind: &str| {
        let hashes = answer.headers.get_all("x-goog-hash").iter();
        let hashes = hashes.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        hashes
            .filter_map(|one| one.trim().split_once('='))
            .find(|(name, _)| *name == kind)
            .map(|(_, value)| value.to_owned())
    };
    // Valet computes the age of the object relative to the `Date` header of the answer. If the answer has no `Date`
    // header, Valet uses the operator's clock.
    let age = modified.map(|m| {
        responses::date(&answer.headers)
            .unwrap_or_else(Timestamp::now)
            .duration_since(m)
    });
    ObjectFact::Present {
        object: ObservedObject {
            size: size.and_then(|s| s.parse().ok()),
            e_tag: text("etag"),
            content_type: text("content-type"),
            checksum_md5: hash("md5"),
            checksum_crc32c: hash("crc32c"),
            version: text("x-goog-generation"),
            last_modified_time: modified.map(Time),
            ..ObservedObject::default()
        }
        .checked(),
        modified_at: age.and_then(|age| Timestamp::now().checked_sub(age).ok()),
    }
}
