//! Multipart uploads in S3 (Amazon S3 User Guide, "Uploading and copying objects using multipart upload").

use std::time::Duration;

use aws_sdk_s3::{
    config::timeout::TimeoutConfig,
    error::{ProvideErrorMetadata, SdkError},
    types::{CompletedMultipartUpload, CompletedPart},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use jiff::Timestamp;

use super::{
    credentials_cache::Session,
    limits::REQUEST_TIMEOUT,
    responses::{is_name, printable_code, unreachable},
    store::S3,
};
use crate::{
    api::{MAX_PARTS, ObservedObject, OperationSpec, Reason, is_entity_tag},
    core::{
        AbortAccess, Access, AllowedRequest, ArrivedPart, Assembly, Completion, ObjectKey, OpenUpload, SignError,
        SigningRequest, UploadFact, UploadsFact,
    },
    provider::abilities::Multipart,
};

/// The timeout of the request CompleteMultipartUpload. Amazon documents that this request can take minutes. If the
/// timeout passes, the next reconcile finds out whether the store completed the upload.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(60);

/// Valet examines at most 20 open uploads of one object key. The limit is high enough for all uploads that crashes of
/// the operator can leave open.
const MOST_OPEN: i32 = 20;
/// Valet reads at most 20 pages of ListParts. A page can contain up to 1000 parts, and a multipart upload of Valet has
/// at most 500 parts. More than one page is necessary only if a client uploaded additional parts, or if the store
/// returns short pages.
const MOST_PAGES: usize = 20;

/// The timeout of operations that send several requests. These operations are ListParts, ListMultipartUploads, and an
/// abort that Valet confirms with a further request.
const SEVERAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Valet examines at most this number of open uploads at the same time.
const CONCURRENT_PART_LISTS: usize = 5;
/// Valet requests at most this number of parts in one page of ListParts.
const PARTS_A_PAGE: i32 = 500;

/// Runs a future with a timeout. The error is a text for the message of a condition.
async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(SEVERAL_TIMEOUT, work).await.map_err(|_| {
        format!(
            "the store is too slow; the requests for the multipart upload did not finish within {seconds} s",
            seconds = SEVERAL_TIMEOUT.as_secs()
        )
    })
}

impl Multipart for S3 {
    fn initiate<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<String, SignError>> {
        self.initiate_upload(request).boxed()
    }

    fn arrived<'a>(&'a self, access: &'a Access, upload: &'a str) -> BoxFuture<'a, UploadFact> {
        async move {
            let listed = self.list_parts(access.key(), upload);
            in_time(listed).await.unwrap_or_else(UploadFact::Unreachable)
        }
        .boxed()
    }

    fn complete<'a>(&'a self, access: &'a Access, assembly: &'a Assembly) -> BoxFuture<'a, Completion> {
        self.complete_upload(access.key(), assembly).boxed()
    }

    fn abort<'a>(&'a self, upload: &'a AbortAccess) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let (key, id) = (upload.key(), upload.upload());
            let aborted = async {
                if upload.may_list() {
                    self.abort_wholly(key, id).await
                } else {
                    self.abort_upload(key, id).await
                }
            };
            in_time(aborted).await.flatten()
        }
        .boxed()
    }

    fn open<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, UploadsFact> {
        async move {
            let listed = self.list_uploads(access.key());
            in_time(listed).await.unwrap_or_else(UploadsFact::Unreachable)
        }
        .boxed()
    }
}

/// The trait [`Multipart`] and the conformance check use the following methods. None of these methods checks whether an
/// access rule allows the grant.
impl S3 {
    /// Initiates a multipart upload for a grant or for a conformance check.
    pub(super) async fn initiate_upload(&self, request: &SigningRequest) -> Result<String, SignError> {
        let OperationSpec::Upload { constraints, .. } = &request.operation_spec else {
            return Err(SignError::Refused(
                "a DownloadGrant cannot initiate a multipart upload".into(),
            ));
        };
        self.check_writes_allowed()?;
        let session = self.session().await?;
        let initiated = session
            .operator
            .create_multipart_upload()
            .bucket(&self.store.bucket)
            .key(request.key.as_str())
            .set_content_type(constraints.content_type.clone())
            .send()
            .await
            .map_err(|e| {
                self.clock_problem(&e)
                    .map_or_else(|| not_initiated(&e), not_initiated_yet)
            })?;
        let named = initiated.upload_id.filter(|name| is_name(name));
        named.ok_or_else(|| SignError::Credentials {
            reason: Reason::StoreUnreachable,
            message: "the store initiated a multipart upload but returned no valid upload ID".into(),
        })
    }

    /// Lists the parts of a multipart upload that the store has received.
    pub(super) async fn list_parts(&self, key: &ObjectKey, upload: &str) -> UploadFact {
        let session = match self.session().await {
            Ok(session) => session,
            Err(e) => return UploadFact::Unreachable(e.to_string()),
        };
        let mut arrived = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let answer = session
                .operator
                .list_parts()
                .bucket(&self.store.bucket)
                .key(key.as_str())
                .upload_id(upload)
                .max_parts(PARTS_A_PAGE)
                .set_part_number_marker(marker.take())
                .send()
                .await;
            let page = match answer {
                Ok(page) => page,
                Err(e) => {
                    return self
                        .clock_problem(&e)
                        .map_or_else(|| not_listed(&e), UploadFact::Unreachable);
                }
            };
            arrived.extend(page.parts().iter().filter_map(|part| {
                Some(ArrivedPart {
                    number: part.part_number()?.into(),
                    size: part.size().filter(|size| *size >= 0)?,
                    e_tag: part.e_tag().filter(|tag| is_entity_tag(tag))?.to_owned(),
                })
            }));
            // A client can upload parts with part numbers for which Valet signed no URL. The list can therefore be very
            // long. A multipart upload of Valet has at most `MAX_PARTS` parts, and Valet stops reading at double this
            // number.
            let is_more = page.is_truncated() == Some(true) && arrived.len() < 2 * MAX_PARTS.unsigned_abs() as usize;
            match page.next_part_number_marker.filter(|_| is_more) {
                Some(next) => marker = Some(next),
                None => return UploadFact::Open(arrived),
            }
        }
        UploadFact::Unreachable(format!(
            "the store's list of the uploaded parts is longer than {MOST_PAGES} pages, and Valet reads no more pages"
        ))
    }

    pub(super) async fn complete_upload(&self, key: &ObjectKey, assembly: &Assembly) -> Completion {
        if let Err(e) = self.check_writes_allowed() {
            return Completion::Refused(e.to_string());
        }
        let session = match self.session().await {
            Ok(session) => session,
            Err(e) => return Completion::Unreachable(e.to_string()),
        };
        let part = |part: &ArrivedPart| {
            CompletedPart::builder()
                .part_number(i32::try_from(part.number).unwrap_or(i32::MAX))
                .e_tag(&part.e_tag)
                .build()
        };
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(assembly.parts.iter().map(part).collect()))
            .build();
        let slow = TimeoutConfig::builder()
            .connect_timeout(REQUEST_TIMEOUT)
            .read_timeout(COMPLETE_TIMEOUT)
            .operation_timeout(COMPLETE_TIMEOUT)
            .build();
        let answer = session
            .operator
            .complete_multipart_upload()
            .bucket(&self.store.bucket)
            .key(key.as_str())
            .upload_id(&assembly.upload)
            .multipart_upload(parts)
            .set_if_none_match(assembly.write_once.then(|| "*".to_owned()))
            .customize()
            .config_override(aws_sdk_s3::config::Builder::new().timeout_config(slow))
            .send()
            .await;
        match answer {
            Ok(done) => {
                let object = ObservedObject {
                    size: Some(assembly.parts.iter().map(|part| part.size).sum()),
                    e_tag: done.e_tag,
                    version: done.version_id.filter(|v| v != "null"),
                    ..ObservedObject::default()
                };
                Completion::Done(object.checked())
            }
            Err(e) => self
                .clock_problem(&e)
                .map_or_else(|| not_completed(&e), Completion::Unreachable),
        }
    }

    async fn abort_upload(&self, key: &ObjectKey, upload: &str) -> Result<(), String> {
        self.check_writes_allowed().map_err(|e| e.to_string())?;
        let session = self.session().await.map_err(|e| e.to_string())?;
        let answer = session
            .operator
            .abort_multipart_upload()
            .bucket(&self.store.bucket)
            .key(key.as_str())
            .upload_id(upload)
            .send()
            .await;
        if let Err(e) = answer
            && code(&e) != Some("NoSuchUpload")
        {
            return Err(self
                .clock_problem(&e)
                .unwrap_or_else(|| refusal(&e, "s3:AbortMultipartUpload")));
        }
        Ok(())
    }

    /// Aborts a multipart upload, and then checks that no parts are left in the store.
    pub(super) async fn abort_wholly(&self, key: &ObjectKey, upload: &str) -> Result<(), String> {
        self.abort_upload(key, upload).await?;
        // If a client uploads a part during the abort, the store can keep this part (Amazon S3 API Reference,
        // "AbortMultipartUpload"). Therefore Valet lists the parts after the abort.
        match self.list_parts(key, upload).await {
            UploadFact::Open(parts) => Err(format!(
                "the store still has the multipart upload with {count} parts after Valet aborted this upload",
                count = parts.len()
            )),
            _ => Ok(()),
        }
    }

    /// Lists the open multipart uploads of exactly this object key.
    pub(super) async fn list_uploads(&self, key: &ObjectKey) -> UploadsFact {
        let session = match self.session().await {
            Ok(session) => session,
            Err(e) => return UploadsFact::Unreachable(e.to_string()),
        };
        let answer = session
            .operator
            .list_multipart_uploads()
            .bucket(&self.store.bucket)
            .prefix(key.as_str())
            .max_uploads(MOST_OPEN)
            .send()
            .await;
        let listed = match answer {
            Ok(listed) => listed,
            Err(e) => {
                return match (self.clock_problem(&e), status(&e)) {
                    (Some(why), _) => UploadsFact::Unreachable(why),
                    (None, Some(401 | 403 | 405 | 501)) => UploadsFact::Hidden,
                    (None, _) => UploadsFact::Unreachable(unreachable(&e)),
                };
            }
        };
        let listed = listed.uploads().iter().filter(|u| u.key() == Some(key.as_str()));
        // A store can return more uploads than Valet requested, so Valet also applies the limit to the answer.
        let listed: Vec<_> = listed
            .take(usize::try_from(MOST_OPEN).unwrap_or_default())
            .filter_map(|upload| {
                let id = upload.upload_id().filter(|id| is_name(id))?.to_owned();
                let initiated = upload.initiated().and_then(|t| Timestamp::from_second(t.secs()).ok());
                Some((id, initiated))
            })
            .collect();
        let session = &session;
        let uploads_with_parts = listed.into_iter().map(|(id, initiated)| async move {
            let has_parts = self.has_parts(session, key, &id).await?;
            Some(OpenUpload {
                id,
                initiated,
                has_parts,
            })
        });
        let uploads = stream::iter(uploads_with_parts).buffered(CONCURRENT_PART_LISTS);
        let uploads = uploads.filter_map(std::future::ready).collect().await;
        UploadsFact::Listed {
            uploads,
            contested: false,
        }
    }

    /// If a clock problem can be the reason for a refusal, returns a description of this problem. Otherwise returns
    /// `None`. While the clocks differ, a refusal does not show that a permission is missing.
    fn clock_problem<E: ProvideErrorMetadata>(&self, error: &SdkError<E>) -> Option<String> {
        matches!(status(error), Some(400 | 401 | 403)).then(|| self.clock_trouble(error))?
    }

    /// Returns true if a multipart upload has at least one part. Returns `None` if the upload no longer exists.
    async fn has_parts(&self, session: &Session, key: &ObjectKey, upload: &str) -> Option<bool> {
        let first = session
            .operator
            .list_parts()
            .bucket(&self.store.bucket)
            .key(key.as_str())
            .upload_id(upload)
            .max_parts(1)
            .send()
            .await;
        match first {
            Ok(page) => Some(!page.parts().is_empty()),
            Err(e) if not_listed(&e) == UploadFact::Gone => None,
            // If Valet cannot list the parts, it assumes that a client uses the upload. Valet then does not abort the
            // upload.
            Err(_) => Some(true),
        }
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|r| r.status().as_u16())
}

fn code<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Option<&str> {
    error.as_service_error().and_then(|e| e.code()).and_then(printable_code)
}

/// Describes why the store refused a request, and names the permission that is possibly missing. The description
/// contains no text from the store's answer.
fn refusal<E: std::error::Error + ProvideErrorMetadata + 'static>(error: &SdkError<E>, right: &str) -> String {
    match (status(error), code(error)) {
        (Some(401 | 403), code) => format!(
            "the store refuses the request (code {code}); give the store's credentials the permission {right}",
            code = code.unwrap_or("403")
        ),
        (Some(400..=499), Some(code)) => format!("the store refuses the request (code {code})"),
        _ => unreachable(error),
    }
}

fn not_initiated_yet(why: String) -> SignError {
    SignError::Credentials {
        reason: Reason::ClockSkewed,
        message: format!("the multipart upload could not be initiated: {why}"),
    }
}

fn not_initiated<E: std::error::Error + ProvideErrorMetadata + 'static>(error: &SdkError<E>) -> SignError {
    let why = refusal(error, "s3:PutObject");
    match status(error) {
        Some(405 | 501) => SignError::Impossible(format!("the store does not support multipart uploads: {why}")),
        Some(400..=499) => SignError::Credentials {
            reason: Reason::CredentialsRefused,
            message: format!("the multipart upload could not be initiated: {why}"),
        },
        _ => SignError::Credentials {
            reason: Reason::StoreUnreachable,
            message: format!("the multipart upload could not be initiated: {why}"),
        },
    }
}

fn not_listed<E: std::error::Error + ProvideErrorMetadata + 'static>(error: &SdkError<E>) -> UploadFact {
    match (status(error), code(error)) {
        (_, Some("NoSuchUpload")) => UploadFact::Gone,
        (Some(401 | 403), _) => UploadFact::Hidden,
        _ => UploadFact::Unreachable(unreachable(error)),
    }
}

/// Describes why the store did not complete an upload. Amazon can answer with status 200 and an error in the body.
/// The AWS SDK returns such an answer as an error.
fn not_completed<E: std::error::Error + ProvideErrorMetadata + 'static>(error: &SdkError<E>) -> Completion {
    match (status(error), code(error)) {
        (_, Some("NoSuchUpload")) => Completion::Gone,
        (Some(412), _) | (_, Some("PreconditionFailed")) => Completion::Exists,
        // The status 409 means that another client is writing an object with this object key at this moment.
        (Some(409), _) => {
            Completion::Unreachable("the store is still processing another request for the same object key".into())
        }
        (_, Some("InternalError" | "SlowDown" | "ServiceUnavailable" | "RequestTimeout" | "OperationAborted")) => {
            Completion::Unreachable(unreachable(error))
        }
        (Some(401 | 403), _) | (Some(400..=499), Some(_)) => Completion::Refused(refusal(error, "s3:PutObject")),
        (Some(200), Some(code)) => Completion::Refused(format!(
            "the store could not complete the multipart upload (code {code})"
        )),
        _ => Completion::Unreachable(unreachable(error)),
    }
}

#[cfg(test)]
mod tests;
