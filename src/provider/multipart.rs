//! The operator's requests for multipart uploads. The operator initiates and completes an upload. The workload
//! uploads the parts with signed URLs.

use futures::future::BoxFuture;

use crate::{
    api::ObservedObject,
    core::{AbortAccess, Access, AllowedRequest, Assembly, SignError, UploadFact, UploadsFact},
};

/// A store that supports multipart uploads. Each request takes at most some seconds, except [`complete`].
///
/// [`complete`]: Multipart::complete
pub trait Multipart: Send + Sync {
    /// Initiates a multipart upload and returns its upload ID. The object gets the content type of the request.
    ///
    /// # Errors
    /// Returns [`SignError`] if the store did not initiate the upload.
    fn begin<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<String, SignError>>;

    /// Lists the parts that the workload has uploaded.
    fn arrived<'a>(&'a self, access: &'a Access, upload: &'a str) -> BoxFuture<'a, UploadFact>;

    /// Completes the upload. Some stores need minutes for this request.
    fn complete<'a>(&'a self, access: &'a Access, assembly: &'a Assembly) -> BoxFuture<'a, Completion>;

    /// Aborts the upload and deletes its parts. The method succeeds if the upload no longer exists.
    ///
    /// # Errors
    /// Returns the reason why the upload can still exist. The text contains no secrets.
    fn abort<'a>(&'a self, upload: &'a AbortAccess) -> BoxFuture<'a, Result<(), String>>;

    /// Lists the open multipart uploads of exactly this object key. The list does not show who initiated them.
    fn open<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, UploadsFact>;
}

/// The result of a request that completes a multipart upload.
#[derive(Clone, Debug, PartialEq)]
pub enum Completion {
    /// The upload is completed. The object has the properties that the store returned.
    Done(ObservedObject),
    /// An object with this key exists and must not be replaced. An earlier attempt to complete the upload can have
    /// written it.
    Exists,
    /// The store does not know the upload. Either an earlier attempt completed it, or somebody aborted it.
    Gone,
    /// The store refuses to complete the upload. The message contains no secrets.
    Refused(String),
    /// The store did not answer or had an internal error. The upload can be completed nevertheless.
    Unreachable(String),
}
