//! The conformance check of an S3 store.

mod parts;
mod session_credentials;
mod transport;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};

use super::{amazon, responses::tag_as_md5, store::S3};
use crate::{
    api::{Capability, LengthRange, Multipart, OperationSpec, Overwrite, UploadConstraints, UploadMode},
    conformance::{
        BODY, BODY_MD5, Checker, ConformanceReport, LONGER, Missing, OTHER, OTHER_TYPE, Tamper, Unavailable, get,
        in_time,
    },
};
use transport::{Bucket, constrained, put};

/// Runs the conformance check with objects under the prefix `probe_key`, at the operator's endpoint. The second
/// returned value is true if the store's entity tags are MD5 checksums. It is `None` if the check could not find this
/// out.
pub async fn check(s3: &S3, probe_key: &str) -> (ConformanceReport, Option<bool>) {
    let client = match s3.session().await {
        Ok(session) => session.operator.clone(),
        Err(e) => {
            let not_tested = ConformanceReport {
                not_tested: vec![e.to_string()],
                ..ConformanceReport::default()
            };
            return (not_tested, None);
        }
    };
    let bucket = Bucket { s3, client };
    let mut checker = Checker::new(&bucket, probe_key);
    let result = in_time(async {
        run_checks(&mut checker, amazon::is_store(&s3.store)).await?;
        // If `run_checks` did not find any enforced capability, the following checks cannot have a result either.
        if !checker.found.enforced.is_empty() {
            parts::parts(&bucket, &mut checker).await?;
            if s3.role().is_some() {
                session_credentials::check(&bucket, &mut checker).await?;
            }
        }
        Ok(())
    })
    .await;
    let written = bucket.client.head_object().bucket(&s3.store.bucket);
    let written = written.key(format!("{}/put", checker.folder)).send().await;
    let tag = written.ok().and_then(|head| tag_as_md5(&head));
    (checker.end(result).await, tag.map(|tag| tag == BODY_MD5))
}

fn by_sha256(overwrite: Overwrite) -> UploadConstraints {
    UploadConstraints {
        checksum_sha256: Some(BASE64_STANDARD.encode(digest(&SHA256, BODY))),
        ..constrained(overwrite)
    }
}

fn by_md5(overwrite: Overwrite) -> UploadConstraints {
    UploadConstraints {
        checksum_md5: Some(BODY_MD5.into()),
        ..constrained(overwrite)
    }
}

/// Returns a POST form with these constraints and with a range for the size.
fn form(constraints: UploadConstraints) -> OperationSpec {
    let size = BODY.len() as i64;
    OperationSpec::Upload {
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

async fn run_checks(checker: &mut Checker<'_, Bucket<'_>>, is_expected: bool) -> Result<(), Unavailable> {
    let mut overwrite = Overwrite::Forbid;
    let once = Missing::Url(Capability::WriteOnce);
    let mut refused = checker.accepts("put", &put(by_sha256(overwrite))).await?.err();
    if refused.is_some() {
        // A store that does not support write-once uploads possibly refuses all of them. Therefore the check tries an
        // upload that is allowed to overwrite an object.
        refused = checker.accepts("put", &put(by_sha256(Overwrite::Allow))).await?.err();
        if refused.is_none() {
            overwrite = Overwrite::Allow;
            checker.found.missing.push(once);
        }
    }
    let (plain, with_checksum) = (put(constrained(overwrite)), put(by_md5(overwrite)));
    let put = put(by_sha256(overwrite));
    if let Some(status) = refused {
        checker.found.not_tested.push(format!(
            "the conformance check stopped, because the store answered status {status} to a PUT request under prefix {folder}/; allow the credentials to write objects under this prefix and to use the encryption that the bucket requires",
            folder = checker.folder
        ));
        return Ok(());
    }
    let other: Tamper = |r| r.body = OTHER.into();
    if overwrite == Overwrite::Forbid {
        checker.enforces(&put, "put", |_| {}, &[once]).await?;
    }
    let bends: [(&OperationSpec, &str, Tamper, Capability); 4] = [
        (
            &put,
            "type",
            |r| r.set("content-type", OTHER_TYPE),
            Capability::ContentType,
        ),
        (&plain, "length", |r| r.body = LONGER.into(), Capability::ContentLength),
        (&put, "checksum", other, Capability::ChecksumSHA256),
        (&with_checksum, "md5", other, Capability::ChecksumMD5),
    ];
    for (operation_spec, name, bend, capability) in bends {
        checker
            .enforces(operation_spec, name, bend, &[Missing::Url(capability)])
            .await?;
    }
    checker.must_enforce("PUT", "put-x", &put, None).await?;

    let reads = checker.accepts("put", &get()).await?.is_ok();
    if reads {
        let typed: Tamper = |r| r.url = r.url.replace("text%2Fplain", "text%2Fhtml");
        checker
            .enforces(&get(), "put", typed, &[Missing::Url(Capability::ResponseHeaders)])
            .await?;
        checker.must_enforce("GET", "put", &get(), None).await?;
    } else {
        let why = "the conformance check skipped signed URLs for GET, because the credentials are not allowed to read objects under spec.s3.probeKey";
        checker.found.not_tested.push(why.into());
    }

    let (plain, form) = (form(constrained(overwrite)), form(by_sha256(overwrite)));
    if let Err(status) = checker.accepts("form", &form).await? {
        checker.found.missing.push(Missing::Forms);
        let why = format!(
            "the conformance check skipped POST forms, because the store answered status {status} to a valid POST form"
        );
        checker.found.not_tested.push(why);
        return Ok(());
    }
    let bends: [(&OperationSpec, &str, Tamper, &[Capability]); 3] = [
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
            // A POST form contains an exact length as a range whose minimum and maximum are equal. Therefore one
            // request checks two capabilities: the length range and the exact length.
            &[Capability::ContentLengthRange, Capability::ContentLength],
        ),
        (&form, "form-checksum", other, &[Capability::ChecksumSHA256]),
    ];
    for (operation_spec, name, bend, capabilities) in bends {
        let promises: Vec<_> = capabilities.iter().copied().map(Missing::Form).collect();
        checker.enforces(operation_spec, name, bend, &promises).await?;
    }
    checker.must_enforce("POST", "form-x", &form, None).await?;
    if reads {
        checker.check_prefix(&form, is_expected).await?;
    } else {
        let why = "the conformance check did not test POST forms for a prefix, because the store's credentials are not allowed to read the uploaded objects";
        checker.found.not_tested.push(why.into());
    }
    Ok(())
}
