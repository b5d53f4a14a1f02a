//! Reads the state of objects in S3 stores.

use aws_sdk_s3::types::ChecksumMode;
use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    credentials_cache::Session,
    responses::{DateOfAnswer, absence, tag_as_md5},
    store::S3,
};
use crate::{
    api::ObservedObject,
    core::{Access, ObjectFact, ObjectKey},
    provider::abilities::ObjectReader,
};

impl ObjectReader for S3 {
    fn head<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, ObjectFact> {
        async {
            let session = match self.session().await {
                Ok(session) => session,
                Err(e) => return ObjectFact::Unreachable(e.to_string()),
            };
            let date = DateOfAnswer::default();
            let answer = session
                .operator
                .head_object()
                .bucket(&self.store.bucket)
                .key(access.key().as_str())
                .checksum_mode(ChecksumMode::Enabled)
                .customize()
                .interceptor(date.clone())
                .send()
                .await;
            let head = match answer {
                Ok(head) => head,
                Err(e) => {
                    return match absence(&e) {
                        ObjectFact::Hidden => self.hidden(&session, access.key()).await,
                        fact => fact,
                    };
                }
            };
            let modified = head.last_modified().and_then(|t| Timestamp::from_second(t.secs()).ok());
            // Valet computes the age of the object relative to the `Date` header of the answer. If the answer has no
            // `Date` header, Valet uses the operator's clock.
            let age = modified.map(|m| date.seen().unwrap_or_else(Timestamp::now).duration_since(m));
            let modified_at = age.and_then(|age| Timestamp::now().checked_sub(age).ok());
            ObjectFact::Present {
                object: ObservedObject {
                    size: head.content_length(),
                    e_tag: head.e_tag().map(str::to_owned),
                    content_type: head.content_type().map(str::to_owned),
                    checksum_md5: self.tags_are_md5().then(|| tag_as_md5(&head)).flatten(),
                    checksum_sha256: head.checksum_sha256().map(str::to_owned),
                    version: head.version_id().filter(|v| *v != "null").map(str::to_owned),
                    last_modified_time: modified.map(Time),
                    ..ObservedObject::default()
                }
                .checked(),
                modified_at,
            }
        }
        .boxed()
    }
}

impl S3 {
    /// Returns the reason why the store refused a HEAD request. The method first checks whether clock skew is the
    /// reason. An answer to HEAD has no body, so the method then sends a GET request. The answer to GET shows whether
    /// the credentials are the reason.
    async fn hidden(&self, session: &Session, key: &ObjectKey) -> ObjectFact {
        if let Some(why) = self.findings.clock.problem() {
            return ObjectFact::ClockSkewed(why);
        }
        let get = session
            .operator
            .get_object()
            .bucket(&self.store.bucket)
            .key(key.as_str());
        match get.range("bytes=0-0").send().await {
            Err(e) => self.clock_trouble(&e).map_or(ObjectFact::Hidden, ObjectFact::ClockSkewed),
            // The credentials can read the object with GET but not with HEAD. The likely reason is a proxy in front
            // of the store that blocks HEAD requests.
            Ok(_) => ObjectFact::Unreachable(
                "the store refused a HEAD request with status 403 but allowed a GET request with the same credentials; check proxies and firewalls between the operator and the store".into(),
            ),
        }
    }
}
