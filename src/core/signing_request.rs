use super::{key::ObjectKey, lifetime::Lifetime};
use crate::api::OperationSpec;

/// Describes everything that a credential allows. A provider signs a credential from this description. An
/// [`AllowedRequest`] contains the description of a grant's credential. Probes and conformance checks create
/// descriptions for their own test objects.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningRequest {
    pub key: ObjectKey,
    /// The operation (upload or download) with all its constraints.
    pub operation_spec: OperationSpec,
    /// The start and end of the credential's validity, in whole seconds.
    pub lifetime: Lifetime,
    /// The namespace and the name of the grant, in the form `namespace.name`. Some providers write this text to the
    /// logs of the store.
    pub holder: String,
    /// The store's ID of the multipart upload, if Valet has initiated a multipart upload.
    pub upload: Option<String>,
}
