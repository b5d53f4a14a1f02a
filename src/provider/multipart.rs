//! Uploads in parts, as far as the operator has a hand in them. What the workload does is in the URLs.

use futures::future::BoxFuture;

use crate::{
    api::ObservedObject,
    core::{AbortAccess, Access, AllowedRequest, Assembly, SignError, UploadFact, UploadsFact},
};

/// A store to which objects can be uploaded in parts. Each request takes at most some seconds, but for [`complete`].
///
/// [`complete`]: Multipart::complete
pub trait Multipart: Send + Sync {
    /// Begins an upload and brings the store's name for it. What is uploaded will have the content type of the request.
    ///
    /// # Errors
    /// [`SignError`].
    fn begin<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<String, SignError>>;

    /// The parts of an upload that have come.
    fn arrived<'a>(&'a self, access: &'a Access, upload: &'a str) -> BoxFuture<'a, UploadFact>;

    /// Puts the parts together. Stores may take minutes for that.
    fn complete<'a>(&'a self, access: &'a Access, assembly: &'a Assembly) -> BoxFuture<'a, Completion>;

    /// Throws an upload away, with what has come of it. That there is none is as good.
    ///
    /// # Errors
    /// Why it may still be there, without secrets.
    fn abort<'a>(&'a self, upload: &'a AbortAccess) -> BoxFuture<'a, Result<(), String>>;

    /// The uploads of exactly this key that go on. Nobody can tell here whose they are.
    fn open<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, UploadsFact>;
}

/// How it went to put parts together.
#[derive(Clone, Debug, PartialEq)]
pub enum Completion {
    /// They are the object, which is like this as far as the store says so.
    Done(ObservedObject),
    /// An object is there that must not be replaced. It may be the one of an earlier try.
    Exists,
    /// The store does not know the upload: an earlier try went well, or somebody aborted it.
    Gone,
    /// The store says that it cannot be. No secrets in the message.
    Refused(String),
    /// The store did not answer, or answered with an error of its own: it may have happened all the same.
    Unreachable(String),
}
