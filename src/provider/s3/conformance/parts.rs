//! Checks multipart uploads: the signed URL of a part, and the requests with which the operator initiates and
//! completes an upload.

use super::transport::{Bucket, constrained, put};
use crate::{
    api::{Capability, OperationSpec, Overwrite, Reason, UploadMode},
    conformance::{Checker, ConformanceReport, LONGER, Missing, Unavailable},
    core::Completion,
    core::{Assembly, SignError, UploadFact},
};

/// The name of the object that the multipart uploads of the check write. The check first creates this object with a PUT
/// request, so that the object exists when a multipart upload completes.
const NAME: &str = "parts";

/// Checks two properties of multipart uploads. First, the signed URL of a part must allow only the upload of this
/// part. Second, the completion of a write-once upload must not replace an existing object.
pub async fn parts(bucket: &Bucket<'_>, checker: &mut Checker<'_, Bucket<'_>>) -> Result<(), Unavailable> {
    let overwrite = match checker.found.missing.contains(&Missing::Url(Capability::WriteOnce)) {
        true => Overwrite::Allow,
        false => Overwrite::Forbid,
    };
    let operation_spec = OperationSpec::Upload {
        mode: UploadMode::Multipart,
        multipart: Default::default(),
        constraints: constrained(overwrite),
    };
    if let Err(status) = checker.accepts(NAME, &put(constrained(overwrite))).await? {
        let why = format!(
            "the conformance check skipped multipart uploads, because the store answered status {status} to the PUT request that prepares these uploads"
        );
        checker.found.not_tested.push(why);
        return Ok(());
    }
    let request = checker.request(NAME, &operation_spec, false)?;
    let upload = match bucket.s3.initiate_upload(&request).await {
        Ok(upload) => upload,
        Err(SignError::Impossible(why)) => {
            checker.found.missing.push(Missing::Parts);
            checker.found.not_tested.push(why);
            return Ok(());
        }
        Err(SignError::Credentials { reason, message }) if reason != Reason::StoreUnreachable => {
            checker.found.not_tested.push(message);
            return Ok(());
        }
        Err(e) => return Err(e.into()),
    };
    checker.upload = Some(upload.clone());
    let result = attempt(bucket, checker, &operation_spec, &upload).await;
    checker.upload = None;
    if let Err(why) = bucket.s3.abort_wholly(&request.key, &upload).await {
        let folder = &checker.folder;
        checker.found.left = Some(format!(
            "the conformance check could not abort its multipart upload of object key {folder}/{NAME}: {why}"
        ));
    }
    result
}

async fn attempt(
    bucket: &Bucket<'_>,
    checker: &mut Checker<'_, Bucket<'_>>,
    operation_spec: &OperationSpec,
    upload: &str,
) -> Result<(), Unavailable> {
    if let Err(status) = checker.accepts(NAME, operation_spec).await? {
        let why = format!(
            "the conformance check skipped multipart uploads, because the store answered status {status} to the upload of a valid part"
        );
        checker.found.missing.push(Missing::Parts);
        checker.found.not_tested.push(why);
        return Ok(());
    }
    let length = Missing::Part(Capability::ContentLength);
    checker
        .enforces(operation_spec, NAME, |r| r.body = LONGER.into(), &[length])
        .await?;
    checker.must_enforce("UploadPart", NAME, operation_spec, None).await?;

    let key = checker.request(NAME, operation_spec, false)?.key;
    let parts = match bucket.s3.list_parts(&key, upload).await {
        UploadFact::Open(parts) => parts,
        UploadFact::Unreachable(why) => return Err(Unavailable(why)),
        _ => Vec::new(),
    };
    if parts.is_empty() {
        let why = "the conformance check skipped write-once multipart uploads, because the credentials do not have the permission s3:ListMultipartUploadParts";
        checker.found.not_tested.push(why.into());
        return Ok(());
    }
    let whole = Assembly {
        upload: upload.to_owned(),
        parts,
        write_once: true,
    };
    completed(bucket.s3.complete_upload(&key, &whole).await, &mut checker.found)
}

/// Records whether the store enforces write-once for multipart uploads. `completion` is the result of a write-once
/// multipart upload to an object key that already had an object.
fn completed(completion: Completion, found: &mut ConformanceReport) -> Result<(), Unavailable> {
    let once = Missing::Part(Capability::WriteOnce);
    match completion {
        Completion::Exists => found.enforced.push(once.name()),
        Completion::Done(_) => found.missing.push(once),
        Completion::Unreachable(why) => return Err(Unavailable(why)),
        Completion::Gone => found.not_tested.push(format!(
            "the conformance check skipped {name}, because the store no longer has the multipart upload",
            name = once.name()
        )),
        Completion::Refused(why) => found.not_tested.push(format!(
            "the conformance check skipped {name}: {why}",
            name = once.name()
        )),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ObservedObject;

    /// If the store refused the upload because the object exists, it enforces write-once. If the store completed the
    /// upload, it does not enforce write-once. No other answer shows whether the store enforces write-once.
    #[test]
    fn result_of_a_completion_decides_if_write_once_is_enforced() {
        let once = Missing::Part(Capability::WriteOnce);
        for (completion, enforces, misses, stays) in [
            (Completion::Exists, true, false, true),
            (Completion::Done(ObservedObject::default()), false, true, true),
            (Completion::Refused("no".into()), false, false, true),
            (Completion::Gone, false, false, true),
            (Completion::Unreachable("away".into()), false, false, false),
        ] {
            let (case, mut found) = (format!("{completion:?}"), ConformanceReport::default());
            assert_eq!(completed(completion, &mut found).is_ok(), stays, "{case}");
            assert_eq!(
                (found.enforces(once), found.missing.contains(&once)),
                (enforces, misses),
                "{case}"
            );
            assert_eq!(
                found.not_tested.len(),
                usize::from(!enforces && !misses && stays),
                "{case}"
            );
        }
    }
}
