//! Signs the parts of a multipart upload.

use aws_sdk_s3::{Client, presigning::PresigningConfig};

use super::{presigned, responses::refused};
use crate::{
    api::MAX_PARTS,
    core::{SignError, SignedPart, SignedUrl, SigningRequest},
};

/// Presigns one PUT request for each part of a multipart upload.
pub async fn sign(
    client: &Client,
    bucket: &str,
    request: &SigningRequest,
    presigning: PresigningConfig,
) -> Result<Vec<SignedPart>, SignError> {
    let upload = request
        .upload
        .as_ref()
        .ok_or_else(|| SignError::Refused("the multipart upload was not initiated".into()))?;
    let parts = request
        .operation_spec
        .parts()
        .filter(|parts| parts.count() <= MAX_PARTS)
        .ok_or_else(|| {
            SignError::Refused(format!(
                "the multipart upload has more than {MAX_PARTS} parts, or an unknown number of parts"
            ))
        })?;
    let mut signed = Vec::new();
    for part in parts.all() {
        let presigned = client
            .upload_part()
            .bucket(bucket)
            .key(request.key.as_str())
            .upload_id(upload)
            .part_number(i32::try_from(part.number).unwrap_or(i32::MAX))
            .set_content_length(part.exact_size())
            .presigned(presigning.clone())
            .await
            .map_err(|e| refused(&e))?;
        signed.push(SignedPart {
            part,
            url: SignedUrl::new(presigned.uri().to_owned()),
            headers: presigned::headers(&presigned),
        });
    }
    Ok(signed)
}
