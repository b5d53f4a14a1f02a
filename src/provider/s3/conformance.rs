//! The conformance check of an S3 store.

mod parts;
mod session_credentials;

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use aws_sdk_s3::{
    Client,
    config::{
        Config, ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut,
        retry::RetryConfig,
    },
    primitives::ByteStream,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{FutureExt, future::BoxFuture};

use super::{
    S3,
    prefix::is_amazons,
    responses::{is_name, tag_as_md5},
};
use crate::{
    api::{Ask, Capability, LengthRange, Multipart, Overwrite, UploadConstraints, UploadMode},
    conformance::{
        BODY, BODY_MD5, Checker, ConformanceReport, LONGER, Missing, OTHER, OTHER_TYPE, PreparedRequest, TYPE,
        Tamper, Transport, Unavailable, forge_last, get, in_time,
    },
    core::{SignError, Signed, SigningRequest},
};

/// The S3 store that the conformance check tests, and the client that sends the requests.
struct Bucket<'a> {
    s3: &'a S3,
    client: Client,
}

/// Runs the conformance check with objects under the prefix `probe_key`, at the operator's endpoint. The second
/// returned value is true if the store's entity tags are MD5 checksums. It is `None` if the check could not find this
/// out.
pub async fn canary(s3: &S3, probe_key: &str) -> (ConformanceReport, Option<bool>) {
    let client = match s3.session().await {
        Ok(session) => session.talker.clone(),
        Err(e) => {
            let untried = ConformanceReport {
                untried: vec![e.to_string()],
                ..ConformanceReport::default()
            };
            return (untried, None);
        }
    };
    let bucket = Bucket { s3, client };
    let mut trip = Checker::new(&bucket, probe_key);
    let result = in_time(async {
        go(&mut trip, is_amazons(&s3.store)).await?;
        // If the earlier checks had no result, the following checks cannot have a result either.
        if !trip.found.held.is_empty() {
            parts::parts(&bucket, &mut trip).await?;
            if s3.role().is_some() {
                session_credentials::lent(&bucket, &mut trip).await?;
            }
        }
        Ok(())
    })
    .await;
    let written = bucket.client.head_object().bucket(&s3.store.bucket);
    let written = written.key(format!("{}/put", trip.folder)).send().await;
    let tag = written.ok().and_then(|head| tag_as_md5(&head));
    (trip.end(result).await, tag.map(|tag| tag == BODY_MD5))
}

fn put(constraints: UploadConstraints) -> Ask {
    Ask::Upload {
        mode: UploadMode::Put,
        multipart: Multipart::default(),
        constraints,
    }
}

/// Returns all constraints that a presigned PUT request can enforce, except checksums. With a checksum, the store
/// could refuse a body that is too long because of its checksum. The check would then not test the size.
fn pinned(overwrite: Overwrite) -> UploadConstraints {
    UploadConstraints {
        content_type: Some(TYPE.into()),
        content_length: Some(BODY.len() as i64),
        overwrite,
        ..UploadConstraints::default()
    }
}

fn by_sha256(overwrite: Overwrite) -> UploadConstraints {
    UploadConstraints {
        checksum_sha256: Some(BASE64_STANDARD.encode(digest(&SHA256, BODY))),
        ..pinned(overwrite)
    }
}

fn by_md5(overwrite: Overwrite) -> UploadConstraints {
    UploadConstraints {
        checksum_md5: Some(BODY_MD5.into()),
        ..pinned(overwrite)
    }
}

/// Returns a POST form with these constraints and with a range for the size.
fn form(constraints: UploadConstraints) -> Ask {
    let size = BODY.len() as i64;
    Ask::Upload {
        mode: UploadMode::PostForm,
        multipart: Multipart::default(),
        constraints: UploadConstraints {
            content_length: None,
            content_length_range: Some(LengthRange { min: 1, max: size }),
            overwrite: Overwrite::Allow,
            ..constraints
        },
    }
}

async fn go(trip: &mut Checker<'_, Bucket<'_>>, is_expected: bool) -> Result<(), Unavailable> {
    let mut overwrite = Overwrite::Forbid;
    let once = Missing::Url(Capability::WriteOnce);
    let mut refused = trip.good("put", &put(by_sha256(overwrite))).await?.err();
    if refused.is_some() {
        // If a store does not support write-once uploads, it can refuse all of them. The check then tries an upload
        // that is allowed to overwrite an object.
        refused = trip.good("put", &put(by_sha256(Overwrite::Allow))).await?.err();
        if refused.is_none() {
            overwrite = Overwrite::Allow;
            trip.found.missing.push(once);
        }
    }
    let (plain, summed) = (put(pinned(overwrite)), put(by_md5(overwrite)));
    let put = put(by_sha256(overwrite));
    if let Some(status) = refused {
        trip.found.untried.push(format!(
            "the conformance check stopped, because the store answered status {status} to a PUT request under prefix {folder}/; allow the credentials to write under this prefix, with the encryption that the bucket requires",
            folder = trip.folder
        ));
        return Ok(());
    }
    let other: Tamper = |r| r.body = OTHER.into();
    if overwrite == Overwrite::Forbid {
        trip.holds(&put, "put", |_| {}, &[once]).await?;
    }
    let bends: [(&Ask, &str, Tamper, Capability); 4] = [
        (
            &put,
            "type",
            |r| r.set("content-type", OTHER_TYPE),
            Capability::ContentType,
        ),
        (&plain, "length", |r| r.body = LONGER.into(), Capability::ContentLength),
        (&put, "checksum", other, Capability::ChecksumSHA256),
        (&summed, "md5", other, Capability::ChecksumMD5),
    ];
    for (ask, name, bend, capability) in bends {
        trip.holds(ask, name, bend, &[Missing::Url(capability)]).await?;
    }
    trip.binds("PUT", "put-x", &put, None).await?;

    let reads = trip.good("put", &get()).await?.is_ok();
    if reads {
        let typed: Tamper = |r| r.url = r.url.replace("text%2Fplain", "text%2Fhtml");
        trip.holds(&get(), "put", typed, &[Missing::Url(Capability::ResponseHeaders)])
            .await?;
        trip.binds("GET", "put", &get(), None).await?;
    } else {
        let why = "the conformance check skipped signed URLs for GET, because the credentials are not allowed to read objects under spec.s3.probeKey";
        trip.found.untried.push(why.into());
    }

    let (plain, form) = (form(pinned(overwrite)), form(by_sha256(overwrite)));
    if let Err(status) = trip.good("form", &form).await? {
        trip.found.missing.push(Missing::Forms);
        let why = format!(
            "the conformance check skipped POST forms, because the store answered status {status} to a valid POST form"
        );
        trip.found.untried.push(why);
        return Ok(());
    }
    let bends: [(&Ask, &str, Tamper, &[Capability]); 3] = [
        (
            &form,
            "form-type",
            |r| r.set("Content-Type", OTHER_TYPE),
            &[Capability::ContentType],
        ),
        (
            &plain,
            "form-length",
            |r| r.body = LONGER.into(),
            // A POST form contains an exact length as a range with equal limits, so one request checks both
            // capabilities.
            &[Capability::ContentLengthRange, Capability::ContentLength],
        ),
        (&form, "form-checksum", other, &[Capability::ChecksumSHA256]),
    ];
    for (ask, name, bend, capabilities) in bends {
        let promises: Vec<_> = capabilities.iter().copied().map(Missing::Form).collect();
        trip.holds(ask, name, bend, &promises).await?;
    }
    trip.binds("POST", "form-x", &form, None).await?;
    if reads {
        trip.below(&form, is_expected).await?;
    } else {
        let why = "the conformance check skipped POST forms for a prefix, because only GET requests can show which objects the store wrote";
        trip.found.untried.push(why.into());
    }
    Ok(())
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
                    _ => Err(Unavailable(super::unreachable(&e))),
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

    /// Deletes the objects of the conformance check with all their versions. For each object, it deletes at most
    /// [`MAX_VERSIONS`] versions.
    fn clear_away<'a>(
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
                    // The listing can contain objects of a different client, or more versions than the check wrote.
                    // The check does not delete them and mentions them in its result.
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

/// Selects from a listing the objects that this conformance check wrote. The check deletes no further objects. For
/// each object, it deletes no more versions than it can have written.
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

/// Replaces the HTTP request of an AWS SDK call with a request that Valet built from a signed URL or form.
pub(super) struct Raw {
    pub(super) method: String,
    pub(super) uri: String,
    pub(super) headers: Vec<(String, String)>,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raw(<redacted>)")
    }
}

impl Intercept for Raw {
    fn name(&self) -> &'static str {
        "Raw"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        let request = context.request_mut();
        request.set_method(&self.method)?;
        request.set_uri(self.uri.clone())?;
        let headers = request.headers_mut();
        let of_the_sdk: Vec<_> = headers
            .iter()
            .map(|(name, _)| name.to_owned())
            .filter(|name| {
                name == "authorization"
                    || name == "content-type"
                    || name.starts_with("x-amz-")
                    || name.starts_with("amz-sdk")
            })
            .collect();
        for name in of_the_sdk {
            headers.remove(name);
        }
        for (name, value) in &self.headers {
            // The AWS SDK sets these two headers itself.
            if !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("host") {
                headers.insert(name.to_ascii_lowercase(), value.clone());
            }
        }
        Ok(())
    }
}
