//! The conformance check of a Google Cloud Storage bucket.

use std::collections::BTreeSet;

use futures::{FutureExt, future::BoxFuture};
use http::Method;

use super::{
    google,
    store::{Gcs, Target},
    tokens::{request, send_request},
};
use crate::{
    api::{Capability, LengthRange, OperationSpec, Overwrite, UploadConstraints, UploadMode},
    conformance::{
        BODY, BODY_MD5, Checker, ConformanceReport, LONGER, Missing, OTHER, OTHER_TYPE, PreparedRequest, TYPE,
        Tamper, Transport, Unavailable, forge_last, get, in_time,
    },
    core::{SignError, Signed, SigningRequest},
};

/// Runs the conformance check with objects under the prefix `probe_key`, at the operator's endpoint.
pub async fn check(gcs: &Gcs, probe_key: &str) -> ConformanceReport {
    let mut checker = Checker::new(gcs, probe_key);
    let result = in_time(run_checks(&mut checker, google::is_store(&gcs.store))).await;
    checker.end(result).await
}

fn upload(mode: UploadMode, overwrite: Overwrite) -> OperationSpec {
    let size = BODY.len() as i64;
    OperationSpec::Upload {
        mode,
        multipart: Default::default(),
        constraints: UploadConstraints {
            content_type: Some(TYPE.into()),
            content_length_range: Some(LengthRange { min: 1, max: size }),
            overwrite,
            ..UploadConstraints::default()
        },
    }
}

fn put() -> OperationSpec {
    upload(UploadMode::Put, Overwrite::Forbid)
}

/// Returns an upload with a checksum constraint but without a size constraint. If there were a size constraint, the
/// store could refuse a wrong body because of its size. The check would then not test the checksum.
fn with_checksum() -> OperationSpec {
    OperationSpec::Upload {
        mode: UploadMode::Put,
        multipart: Default::default(),
        constraints: UploadConstraints {
            checksum_md5: Some(BODY_MD5.into()),
            ..UploadConstraints::default()
        },
    }
}

fn form() -> OperationSpec {
    upload(UploadMode::PostForm, Overwrite::Allow)
}

/// Sends the requests of the conformance check. If `is_googles` is true, the hosts belong to Google. The check then
/// expects that the store rejects a POST form that writes outside its prefix.
async fn run_checks(checker: &mut Checker<'_, Gcs>, is_googles: bool) -> Result<(), Unavailable> {
    if let Err(status) = checker.accepts("put", &put()).await? {
        checker.found.not_tested.push(format!(
            "the conformance check stopped, because the store answered status {status} to a PUT request under prefix {folder}/; allow the service account to create objects under this prefix",
            folder = checker.folder
        ));
        return Ok(());
    }
    let by_length: Tamper = |r| r.body = LONGER.into();
    let by_checksum: Tamper = |r| r.body = OTHER.into();
    let by_type: Tamper = |r| r.set("content-type", OTHER_TYPE);
    // One header enforces both an exact size and a size range. Therefore one request checks both capabilities.
    let either = [Capability::ContentLengthRange, Capability::ContentLength];
    checker
        .enforces(&put(), "put", |_| {}, &[Missing::Url(Capability::WriteOnce)])
        .await?;
    checker
        .enforces(&put(), "type", by_type, &[Missing::Url(Capability::ContentType)])
        .await?;
    checker
        .enforces(&put(), "length", by_length, &either.map(Missing::Url))
        .await?;
    checker
        .enforces(
            &with_checksum(),
            "checksum",
            by_checksum,
            &[Missing::Url(Capability::ChecksumMD5)],
        )
        .await?;
    checker.must_enforce("PUT", "put-x", &put(), None).await?;

    let reads = checker.accepts("put", &get()).await?.is_ok();
    if reads {
        let other: Tamper = |r| r.url = r.url.replace("text%2Fplain", "text%2Fhtml");
        checker
            .enforces(&get(), "put", other, &[Missing::Url(Capability::ResponseHeaders)])
            .await?;
        checker.must_enforce("GET", "put", &get(), None).await?;
    } else {
        let why = "the conformance check skipped signed URLs for GET, because the service account is not allowed to read objects under spec.gcs.probeKey";
        checker.found.not_tested.push(why.into());
    }

    if let Err(status) = checker.accepts("form", &form()).await? {
        checker.found.missing.push(Missing::Forms);
        let why = format!(
            "the conformance check skipped POST forms, because the store answered status {status} to a valid POST form"
        );
        checker.found.not_tested.push(why);
        return Ok(());
    }
    checker
        .enforces(&form(), "form-type", by_type, &[Missing::Form(Capability::ContentType)])
        .await?;
    checker
        .enforces(&form(), "form-length", by_length, &either.map(Missing::Form))
        .await?;
    checker.must_enforce("POST", "form-x", &form(), None).await?;
    if reads {
        checker.check_prefix(&form(), is_googles).await?;
    } else {
        let why = "the conformance check did not test POST forms for a prefix, because the store's credentials are not allowed to read the uploaded objects";
        checker.found.not_tested.push(why.into());
    }
    Ok(())
}

impl Transport for Gcs {
    fn sign<'a>(&'a self, request: &'a SigningRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
        self.sign_request(Target::Operator, request).boxed()
    }

    fn send(&self, sent: PreparedRequest) -> BoxFuture<'_, Result<u16, Unavailable>> {
        async move {
            let (body, content_type) = sent.content();
            let headers: Vec<(&str, &str)> = sent
                .headers
                .iter()
                .chain(&content_type)
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let method = Method::from_bytes(sent.method.as_bytes()).unwrap_or_default();
            let request = request(method, &sent.url, &headers, body)?;
            Ok(send_request(&self.http, "the store", request).await?.status)
        }
        .boxed()
    }

    /// Makes the URL's signature invalid. The signature is the last parameter of the URL.
    fn forge(sent: &mut PreparedRequest) {
        let signature = match &mut sent.fields {
            Some(fields) => fields
                .iter_mut()
                .find(|(name, _)| name == "x-goog-signature")
                .map(|(_, value)| value),
            None => Some(&mut sent.url),
        };
        if let Some(text) = signature {
            forge_last(text);
        }
    }

    /// Deletes the objects that the conformance check wrote. In a bucket with versioning, older versions of these
    /// objects remain.
    fn delete_test_objects<'a>(
        &'a self,
        _: &'a str,
        written: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Option<&'static str>> {
        async move {
            let mut is_gone = true;
            for key in written {
                let answer = Gcs::send(self, "DELETE", key, &[], &[]).await;
                is_gone &= answer.is_ok_and(|a| a.status < 300 || a.status == 404);
            }
            (!is_gone).then_some("storage.objects.delete")
        }
        .boxed()
    }
}
