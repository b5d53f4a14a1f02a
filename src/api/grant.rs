use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::CustomResourceExt;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    DownloadMode, GrantStatus, Multipart, Operation, Parts, ResponseHeaders, Terms, UploadConstraints, UploadMode,
};

/// What the holder of the key may do, beyond the terms that both kinds share.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Write the object.
    Upload {
        /// In which way.
        mode: UploadMode,
        /// How it is cut, if that is in parts.
        multipart: Multipart,
        /// What the object must be.
        constraints: UploadConstraints,
    },
    /// Read the object.
    Download {
        /// In which way.
        mode: DownloadMode,
        /// Which version; absent: the newest.
        version: Option<String>,
        /// What to answer with.
        response: ResponseHeaders,
    },
}

impl Ask {
    /// The operation that access rules speak of.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Upload { .. } => Operation::Upload,
            Self::Download { .. } => Operation::Download,
        }
    }

    /// Whether the holder gets temporary credentials instead of one signed request.
    pub fn is_for_credentials(&self) -> bool {
        match self {
            Self::Upload { mode, .. } => *mode == UploadMode::Credentials,
            Self::Download { mode, .. } => *mode == DownloadMode::Credentials,
        }
    }

    /// Whether the key may end with '/' and stand for everything below it.
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

    /// The parts in which the object comes, if it does.
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

/// Both kinds of grant, as everything past the API sees them: one path for both.
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
    /// The kind's operation.
    const OPERATION: Operation;
    /// What both kinds share.
    fn terms(&self) -> &Terms;
    /// What the kinds differ in.
    fn ask(&self) -> Ask;
    /// The status as last written, if any.
    fn grant_status(&self) -> Option<&GrantStatus>;
    /// The same, to shorten what is kept of it.
    fn grant_status_mut(&mut self) -> Option<&mut GrantStatus>;
    /// Runs the CRD's own CEL rules here.
    ///
    /// # Errors
    /// One sentence per broken rule, with the field's path first.
    fn check(&self) -> Result<(), Vec<String>>;
}
