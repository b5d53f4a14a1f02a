//! The conformance check of a bucket in memory.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{FutureExt, future::BoxFuture};
use valet::{
    api::{
        Capability, DownloadMode, LengthRange, OperationSpec, Overwrite, ResponseHeaders, UploadConstraints,
        UploadMode,
    },
    conformance::{
        BODY, Checker, ConformanceReport, LONGER, Missing, OTHER, OTHER_TYPE, PreparedRequest, TYPE, Tamper,
        Transport, Unavailable, forge_last, get, in_time,
    },
    core::{Assembly, Completion, SignError, Signed, SigningRequest, UploadFact},
};

use super::store::Memory;

/// Runs the conformance check with objects under the prefix `probe_key`.
pub async fn check(memory: &Memory, probe_key: &str) -> ConformanceReport {
    let mut checker = Checker::new(memory, probe_key);
    let result = in_time(async {
        if let Err(status) = checker
            .accepts("put", &upload(UploadMode::Put, Overwrite::Forbid))
            .await?
        {
            let why =
                format!("the conformance check stopped, because the store answered status {status} to an upload");
            checker.found.not_tested.push(why);
            return Ok(());
        }
        urls(&mut checker).await?;
        forms(&mut checker).await?;
        parts(memory, &mut checker).await
    })
    .await;
    checker.end(result).await
}

/// Returns an upload with a content type and a size range.
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

/// Returns an upload with a checksum constraint and without a size constraint.
fn summed(mode: UploadMode) -> OperationSpec {
    OperationSpec::Upload {
        mode,
        multipart: Default::default(),
        constraints: UploadConstraints {
            checksum_sha256: Some(BASE64_STANDARD.encode(digest(&SHA256, BODY))),
            overwrite: Overwrite::Allow,
            ..UploadConstraints::default()
        },
    }
}

/// Both size capabilities use one header or one form field, so one request checks both.
const SIZES: [Capability; 2] = [Capability::ContentLengthRange, Capability::ContentLength];

async fn urls(checker: &mut Checker<'_, Memory>) -> Result<(), Unavailable> {
    let put = upload(UploadMode::Put, Overwrite::Forbid);
    let other_type: Tamper = |r| r.set("content-type", OTHER_TYPE);
    let delete: Tamper = |r| r.method = "DELETE".into();
    let once = [Missing::Url(Capability::WriteOnce)];
    checker.enforces(&put, "put", |_| {}, &once).await?;
    let typed = [Missing::Url(Capability::ContentType)];
    checker.enforces(&put, "type", other_type, &typed).await?;
    let sizes = SIZES.map(Missing::Url);
    checker
        .enforces(&put, "length", |r| r.body = LONGER.into(), &sizes)
        .await?;
    let sum = [Missing::Url(Capability::ChecksumSHA256)];
    let other_body: Tamper = |r| r.body = OTHER.into();
    checker
        .enforces(&summed(UploadMode::Put), "checksum", other_body, &sum)
        .await?;
    checker.must_enforce("PUT", "put-x", &put, Some(delete)).await?;

    let first = OperationSpec::Download {
        mode: DownloadMode::Url,
        version: Some("1".into()),
        response: ResponseHeaders::default(),
    };
    if checker.accepts("put", &first).await?.is_ok() {
        let second: Tamper = |r| r.url = r.url.replace("version=1", "version=2");
        checker
            .enforces(&first, "put", second, &[Missing::Url(Capability::Version)])
            .await?;
    }
    let html: Tamper = |r| r.url = r.url.replace("text%2Fplain", "text%2Fhtml");
    checker
        .enforces(&get(), "put", html, &[Missing::Url(Capability::ResponseHeaders)])
        .await?;
    checker.must_enforce("GET", "put", &get(), Some(delete)).await
}

async fn forms(checker: &mut Checker<'_, Memory>) -> Result<(), Unavailable> {
    let form = upload(UploadMode::PostForm, Overwrite::Allow);
    if checker.accepts("form", &form).await?.is_err() {
        checker.found.missing.push(Missing::Forms);
        return Ok(());
    }
    let other_type: Tamper = |r| r.set("content-type", OTHER_TYPE);
    let typed = [Missing::Form(Capability::ContentType)];
    checker.enforces(&form, "form-type", other_type, &typed).await?;
    let sizes = SIZES.map(Missing::Form);
    checker
        .enforces(&form, "form-length", |r| r.body = LONGER.into(), &sizes)
        .await?;
    let sum = [Missing::Form(Capability::ChecksumSHA256)];
    let other_body: Tamper = |r| r.body = OTHER.into();
    checker
        .enforces(&summed(UploadMode::PostForm), "form-checksum", other_body, &sum)
        .await?;
    checker.must_enforce("POST", "form-x", &form, None).await?;
    checker.check_prefix(&form, false).await
}

async fn parts(memory: &Memory, checker: &mut Checker<'_, Memory>) -> Result<(), Unavailable> {
    // The object exists already, so the completion of a write-once upload must fail.
    let operation_spec = upload(UploadMode::Multipart, Overwrite::Forbid);
    let request = checker.request("put", &operation_spec, false)?;
    let upload = memory.begin_upload(&request).await?;
    checker.upload = Some(upload.clone());
    if checker.accepts("put", &operation_spec).await?.is_err() {
        checker.found.missing.push(Missing::Parts);
    } else {
        let sizes = SIZES.map(Missing::Part);
        checker
            .enforces(&operation_spec, "put", |r| r.body = LONGER.into(), &sizes)
            .await?;
        checker.must_enforce("UploadPart", "put", &operation_spec, None).await?;
        if let UploadFact::Open(parts) = memory.list_parts(&request.key, &upload).await {
            let whole = Assembly {
                upload: upload.clone(),
                parts,
                write_once: true,
            };
            let once = Missing::Part(Capability::WriteOnce);
            match memory.complete_upload(&request.key, &whole).await {
                Completion::Exists => checker.found.enforced.push(once.name()),
                Completion::Done(_) => checker.found.missing.push(once),
                other => checker.found.not_tested.push(format!("{}: {other:?}", once.name())),
            }
        }
    }
    checker.upload = None;
    checker.found.left = memory.abort_upload(&request.key, &upload).await.err();
    Ok(())
}

impl Transport for Memory {
    fn sign<'a>(&'a self, request: &'a SigningRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
        std::future::ready(self.sign_at(&self.store.endpoint, request)).boxed()
    }

    fn send(&self, sent: PreparedRequest) -> BoxFuture<'_, Result<u16, Unavailable>> {
        async move {
            let (body, content_type) = sent.content();
            let headers = sent.headers.iter().chain(&content_type);
            let headers: Vec<_> = headers.map(|(name, value)| (name.as_str(), value.as_str())).collect();
            Ok(self.send_raw(&sent.method, &sent.url, &headers, body).await?.status)
        }
        .boxed()
    }

    /// The signature is the last parameter of a URL and the last field of a form.
    fn forge(sent: &mut PreparedRequest) {
        match &mut sent.fields {
            Some(fields) => fields.last_mut().into_iter().for_each(|(_, value)| forge_last(value)),
            None => forge_last(&mut sent.url),
        }
    }

    fn delete_test_objects<'a>(
        &'a self,
        _: &'a str,
        written: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Option<&'static str>> {
        async move {
            let mut is_gone = true;
            for key in written {
                is_gone &= self.delete(key).await.is_ok_and(|answer| answer.status < 300);
            }
            (!is_gone).then_some("DELETE")
        }
        .boxed()
    }
}
