//! The requests that the conformance check sends to an S3 store.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_s3::{
    Client,
    config::{Config, retry::RetryConfig},
    primitives::ByteStream,
};
use futures::{FutureExt, future::BoxFuture};

use crate::{
    api::{Multipart, OperationSpec, Overwrite, UploadConstraints, UploadMode},
    conformance::{BODY, PreparedRequest, TYPE, Transport, Unavailable, forge_last},
    core::{SignError, Signed, SigningRequest},
    provider::s3::{
        raw_request::Raw,
        responses::{is_name, unreachable},
        store::S3,
    },
};

/// The S3 store that the conformance check tests, and the client that sends the requests.
pub struct Bucket<'a> {
    pub s3: &'a S3,
    pub client: Client,
}

pub fn put(constraints: UploadConstraints) -> OperationSpec {
    OperationSpec::Upload {
        mode: UploadMode::Put,
        multipart: Multipart::default(),
        constraints,
    }
}

/// Returns all constraints that a presigned PUT request can enforce, except checksums. The check sends a body that is
/// too long, to find out whether the store enforces the size. If the request had a checksum, the store could refuse
/// this body because of the wrong checksum. The check would then not test the size.
pub fn constrained(overwrite: Overwrite) -> UploadConstraints {
    UploadConstraints {
        content_type: Some(TYPE.into()),
        content_length: Some(BODY.len() as i64),
        overwrite,
        ..UploadConstraints::default()
    }
}

impl Transport for Bucket<'_> {
    fn sign<'a>(&'a self, request: &'a SigningRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
        self.s3.sign_request(request).boxed()
    }

    fn send(&self, sent: PreparedRequest) -> BoxFuture<'_, Result<u16, Unavailable>> {
        async move {
            let (body, content_type) = sent.content();
            let raw = Raw {
                method: sent.method,
                uri: sent.url,
                headers: sent.headers.into_iter().chain(content_type).collect(),
            };
            let request = self.client.put_object().bucket(&self.s3.store.bucket).key("canary");
            let answer = request
                .body(ByteStream::from(body))
                .customize()
                // The client must not retry a write-once upload. If the first attempt wrote the object, the store
                // would refuse the retry.
                .config_override(Config::builder().retry_config(RetryConfig::disabled()))
                .interceptor(raw)
                .send()
                .await;
            match answer {
                Ok(_) => Ok(200),
                Err(e) => match e.raw_response().map(|r| r.status().as_u16()) {
                    Some(status) if status < 500 || status == 501 => Ok(status),
                    _ => Err(Unavailable(unreachable(&e))),
                },
            }
        }
        .boxed()
    }

    fn forge(sent: &mut PreparedRequest) {
        const NAME: &str = "X-Amz-Signature=";
        if let Some(fields) = &mut sent.fields {
            fields
                .iter_mut()
                .filter(|(name, _)| name == "x-amz-signature")
                .for_each(|(_, value)| forge_last(value));
        } else if let Some(start) = sent.url.find(NAME).map(|at| at + NAME.len()) {
            let end = sent.url[start..].find('&').map_or(sent.url.len(), |n| start + n);
            let mut signature = sent.url[start..end].to_owned();
            forge_last(&mut signature);
            sent.url.replace_range(start..end, &signature);
        }
    }

    /// Deletes the objects of the conformance check with their versions. For each object, the method deletes at most
    /// [`MAX_VERSIONS`] versions.
    fn delete_test_objects<'a>(
        &'a self,
        folder: &'a str,
        written: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Option<&'static str>> {
        async move {
            let bucket = &self.s3.store.bucket;
            let listed = self
                .client
                .list_object_versions()
                .bucket(bucket)
                .prefix(format!("{folder}/"))
                .max_keys(MAX_LISTED)
                .send()
                .await;
            let (versions, mut is_gone) = match listed {
                Ok(list) => {
                    let versions = list.versions().iter().map(|v| (v.key(), v.version_id()));
                    let markers = list.delete_markers().iter().map(|m| (m.key(), m.version_id()));
                    let named: Vec<_> = versions
                        .chain(markers)
                        .filter_map(|(key, version)| Some((key?.to_owned(), version.map(str::to_owned))))
                        .collect();
                    let listed = named.len();
                    let own = own(named, written);
                    // The listing can contain objects of another client, or more versions than the check wrote. The
                    // check does not delete these objects and versions, and reports that some are left.
                    let is_all = own.len() == listed;
                    (own, is_all)
                }
                // The listing can fail because the credentials are not allowed to list, or because the store keeps no
                // versions. The check then deletes its test objects with requests that contain no version ID.
                Err(_) => (written.iter().map(|key| (key.clone(), None)).collect(), true),
            };
            for (key, version) in versions {
                let delete = self.client.delete_object().bucket(bucket).key(key);
                is_gone &= delete.set_version_id(version).send().await.is_ok();
            }
            (!is_gone).then_some("s3:DeleteObject")
        }
        .boxed()
    }
}

/// The conformance check deletes at most 8 versions of one object. The check itself writes each object only a few
/// times.
const MAX_VERSIONS: usize = 8;
/// The maximum number of versions that one listing returns.
const MAX_LISTED: i32 = 400;

/// Selects from a listing the objects that this conformance check wrote. The check deletes no other objects. For each
/// object, the check deletes no more versions than it can have written.
fn own(listed: Vec<(String, Option<String>)>, written: &BTreeSet<String>) -> Vec<(String, Option<String>)> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    listed
        .into_iter()
        .filter(|(key, _)| written.contains(key))
        .filter(|(_, version)| version.as_deref().is_none_or(is_name))
        .filter(|(key, _)| {
            let times = times.entry(key.clone()).or_default();
            *times += 1;
            *times <= MAX_VERSIONS
        })
        .collect()
}
