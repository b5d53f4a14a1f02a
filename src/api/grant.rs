use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::CustomResourceExt;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    DownloadMode, GrantStatus, Multipart, Operation, Parts, ResponseHeaders, Terms, UploadConstraints, UploadMode,
};

/// What the holder of the credential may do. [`Terms`] contains the fields that both kinds of grant share.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Write the object.
    Upload {
        mode: UploadMode,
        /// The division into parts. Only used with [`UploadMode::Multipart`].
        multipart: Multipart,
        constraints: UploadConstraints,
    },
    /// Read the object.
    Download {
        mode: DownloadMode,
        /// The version of the object; `None` for the newest version.
        version: Option<String>,
        response: ResponseHeaders,
    },
}

impl Ask {
    /// The operation that an access rule must allow.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Upload { .. } => Operation::Upload,
            Self::Download { .. } => Operation::Download,
        }
    }

    /// Whether the holder gets temporary credentials instead of a signed URL.
    pub fn is_for_credentials(&self) -> bool {
        match self {
            Self::Upload { mode, .. } => *mode == UploadMode::Credentials,
            Self::Download { mode, .. } => *mode == DownloadMode::Credentials,
        }
    }

    /// Whether `spec.key` may end with '/' and be a prefix.
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

    /// The parts of the object; `None` if this is not a multipart upload.
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

/// A common interface of UploadGrant and DownloadGrant. All modules except `api` use it, so both kinds share one code
/// path.
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
    /// The operation that this kind of grant permits.
    const OPERATION: Operation;
    /// The fields that both kinds share.
    fn terms(&self) -> &Terms;
    /// The fields that differ between the two kinds.
    fn ask(&self) -> Ask;
    /// The status that was last written, if any.
    fn grant_status(&self) -> Option<&GrantStatus>;
    /// The status for in-place changes. The caller removes fields that it does not need to keep in memory.
    fn grant_status_mut(&mut self) -> Option<&mut GrantStatus>;
    /// Runs the CEL rules of the CRD in this process.
    ///
    /// # Errors
    /// One sentence for each broken rule, beginning with the path of the field.
    fn check(&self) -> Result<(), Vec<String>>;
}
