//! Presigned requests (AWS Signature Version 4, query string). The signature covers all values that Valet sets on the
//! request builder of the AWS SDK.

use aws_sdk_s3::{
    Client,
    presigning::{PresignedRequest, PresigningConfig},
};

use super::responses::refused;
use crate::{
    api::{Overwrite, ResponseHeaders, UploadConstraints},
    core::{Credential, SignError, SignedUrl},
};

/// Returns the headers that the signature covers. The client must send them unchanged.
pub fn headers(presigned: &PresignedRequest) -> Vec<(String, String)> {
    presigned.headers().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

fn credential(presigned: PresignedRequest) -> Credential {
    Credential::Request {
        url: SignedUrl::new(presigned.uri().to_owned()),
        method: presigned.method().to_owned(),
        headers: headers(&presigned),
    }
}

/// Presigns an upload with one PUT request.
pub async fn put(
    client: &Client,
    bucket: &str,
    key: &str,
    constraints: &UploadConstraints,
    presigning: PresigningConfig,
) -> Result<Credential, SignError> {
    let UploadConstraints {
        content_type,
        content_length,
        content_length_range,
        checksum_sha256,
        checksum_md5,
        overwrite,
    } = constraints;
    if content_length_range.is_some() {
        return Err(SignError::Refused(
            "a presigned PUT cannot enforce contentLengthRange".into(),
        ));
    }
    client
        .put_object()
        .bucket(bucket)
        .key(key)
        .set_content_type(content_type.clone())
        .set_content_length(*content_length)
        .set_checksum_sha256(checksum_sha256.clone())
        .set_content_md5(checksum_md5.clone())
        .set_if_none_match((*overwrite == Overwrite::Forbid).then(|| "*".to_owned()))
        .presigned(presigning)
        .await
        .map(credential)
        .map_err(|e| refused(&e))
}

/// Presigns a download.
pub async fn get(
    client: &Client,
    bucket: &str,
    key: &str,
    version: Option<String>,
    response: &ResponseHeaders,
    presigning: PresigningConfig,
) -> Result<Credential, SignError> {
    let ResponseHeaders {
        content_type,
        content_disposition,
        content_encoding,
        content_language,
        cache_control,
    } = response.clone();
    client
        .get_object()
        .bucket(bucket)
        .key(key)
        .set_version_id(version)
        .set_response_content_type(content_type)
        .set_response_content_disposition(content_disposition)
        .set_response_content_encoding(content_encoding)
        .set_response_content_language(content_language)
        .set_response_cache_control(cache_control)
        .presigned(presigning)
        .await
        .map(credential)
        .map_err(|e| refused(&e))
}
