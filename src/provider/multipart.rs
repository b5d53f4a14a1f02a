//! The operator's part of multipart uploads. The workload uploads the parts with signed URLs.

use futures::future::BoxFuture;

use crate::{
    api::ObservedObject,
    core::{AbortAccess, Access, AllowedRequest, Assembly, SignError, UploadFact, UploadsFact},
};

/// A store that supports multipart uploads. Each request takes some seconds at most, except [`complete`].
///
/// [`complete`]: Multipart::complete
pub trait Multipart: Send + Sync {
    /// Initiates an upload and returns its upload ID. The object gets the content type of the request.
    ///
    /// # Errors
    /// [`SignError`] if the upload could not be initiated.
    fn begin<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<String, SignError>>;

    /// Lists the uploaded parts.
    fn arrived<'a>(&'a self, access: &'a Access, upload: &'a str) -> BoxFuture<'a, UploadFact>;

    /// Completes the upload. Stores may take minutes.
    fn complete<'a>(&'a self, access: &'a Access, assembly: &'a Assembly) -> BoxFuture<'a, Completion>;

    /// Aborts the upload and deletes its parts. An upload that no longer exists is a success.
    ///
    /// # Errors
    /// Why the upload may still exist, without secrets.
    fn abort<'a>(&'a self, upload: &'a AbortAccess) -> BoxFuture<'a, Result<(), String>>;

    /// Lists the open uploads of exactly this object key. The list does not show who initiated them.
    fn open<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, UploadsFact>;
}

/// The result of completing an upload.
#[derive(Clone, Debug, PartialEq)]
pub enum Completion {
    /// The upload is completed. The object has the properties that the store returned.
    Done(ObservedObject),
    /// An object exists and must not be replaced. An earlier attempt may have written it.
    Exists,
    /// The store does not know the upload: an earlier attempt succeeded, or somebody aborted it.
    Gone,
    /// The store refuses to complete the upload. The message contains no secrets.
    Refused(String),
    /// The store did not answer, or answered with an error of its own. The upload may be completed.
    Unreachable(String),
}
