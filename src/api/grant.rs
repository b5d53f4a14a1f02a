use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::CustomResourceExt;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    DownloadMode, GrantStatus, Multipart, Operation, Parts, ResponseHeaders, Terms, UploadConstraints, UploadMode,
};

/// The fields of a grant's spec that depend on the operation, and so on the kind of the grant. [`Terms`] contains the
/// fields that an UploadGrant and a DownloadGrant share.
#[derive(Clone, Debug, PartialEq)]
pub enum OperationSpec {
    /// The holder can write the object.
    Upload {
        mode: UploadMode,
        /// This field says how the object is divided into parts. Only [`UploadMode::Multipart`] uses it.
        multipart: Multipart,
        constraints: UploadConstraints,
    },
    /// The holder can read the object.
    Download {
        mode: DownloadMode,
        /// This is the version of the object that the holder can read. `None` means the newest version.
        version: Option<String>,
        response: ResponseHeaders,
    },
}

impl OperationSpec {
    /// Returns the operation that an access rule must allow.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Upload { .. } => Operation::Upload,
            Self::Download { .. } => Operation::Download,
        }
    }

    /// Returns true if the holder gets temporary credentials instead of a signed URL.
    pub fn is_for_credentials(&self) -> bool {
        match self {
            Self::Upload { mode, .. } => *mode == UploadMode::Credentials,
            Self::Download { mode, .. } => *mode == DownloadMode::Credentials,
        }
    }

    /// Returns true if `spec.key` is allowed to end with '/'. Such a key is a prefix.
    pub fn takes_prefix(&self) -> bool {
        let by_form = matches!(
            self,
            Self::Upload {
                mode: UploadMode::PostForm,
                ..
            }
        );
        by_form || self.is_for_credentials()
    }

    /// Returns true if the grant is for a multipart upload. Each part then has its own signed URL.
    pub fn is_multipart(&self) -> bool {
        matches!(
            self,
            Self::Upload {
                mode: UploadMode::Multipart,
                ..
            }
        )
    }

    /// Returns the parts of the object. Returns `None` if the grant is not for a multipart upload.
    pub fn parts(&self) -> Option<Parts> {
        match self {
            Self::Upload {
                mode: UploadMode::Multipart,
                multipart,
                constraints,
            } => multipart.parts(constraints),
            Self::Upload { .. } | Self::Download { .. } => None,
        }
    }
}

/// A common interface of UploadGrant and DownloadGrant. The modules outside `api` use only this interface, so they
/// need no separate code for each kind of grant.
pub trait Grant:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + CustomResourceExt
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// This kind of grant permits this operation: an UploadGrant permits uploads, and a DownloadGrant permits
    /// downloads.
    const OPERATION: Operation;
    /// Returns the fields that UploadGrant and DownloadGrant share.
    fn terms(&self) -> &Terms;
    /// Returns the fields that differ between UploadGrant and DownloadGrant.
    fn operation_spec(&self) -> OperationSpec;
    /// Returns the spec, which is a different type for each kind of grant.
    fn spec(&self) -> impl Serialize + '_;
    /// Returns the status of the grant, or `None` if nobody has written a status yet.
    fn grant_status(&self) -> Option<&GrantStatus>;
    /// Returns a mutable reference to the status. Valet needs it to make its watch cache smaller: it removes unneeded
    /// status fields from each cached grant.
    fn grant_status_mut(&mut self) -> Option<&mut GrantStatus>;
    /// Runs the CEL rules of the CRD in this process.
    ///
    /// # Errors
    /// Returns one sentence for each broken rule. A sentence begins with the path of the field.
    fn check(&self) -> Result<(), Vec<String>>;
}
