//! The operator's own requests for multipart uploads. The operator initiates and completes a multipart upload. The
//! workload uploads the parts with signed URLs.

use futures::future::BoxFuture;

use crate::core::{AbortAccess, Access, AllowedRequest, Assembly, Completion, SignError, UploadFact, UploadsFact};

/// A store that supports multipart uploads. Each method takes at most some seconds, except [`complete`].
///
/// [`complete`]: Multipart::complete
pub trait Multipart: Send + Sync {
    /// Initiates a multipart upload and returns its upload ID. The request sets the content type of the object.
    ///
    /// # Errors
    /// Returns [`SignError`] if the store did not initiate the upload.
    fn begin<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<String, SignError>>;

    /// Lists the parts that the workload has uploaded.
    fn arrived<'a>(&'a self, access: &'a Access, upload: &'a str) -> BoxFuture<'a, UploadFact>;

    /// Completes the multipart upload. Some stores need minutes for this request.
    fn complete<'a>(&'a self, access: &'a Access, assembly: &'a Assembly) -> BoxFuture<'a, Completion>;

    /// Aborts the multipart upload and deletes its parts. The method also succeeds if the upload no longer exists.
    ///
    /// # Errors
    /// Returns the reason why the multipart upload can still exist in the store. The text contains no secrets.
    fn abort<'a>(&'a self, upload: &'a AbortAccess) -> BoxFuture<'a, Result<(), String>>;

    /// Lists the open multipart uploads of exactly this object key. The list does not show which client initiated an
    /// upload.
    fn open<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, UploadsFact>;
}
