use super::{key::ObjectKey, lifetime::Lifetime};
use crate::api::OperationSpec;

/// Describes everything that a credential allows. A provider signs it. For a grant, an [`AllowedRequest`] contains
/// this type. Probes and conformance checks create values of this type for their own test objects.
#[derive(Clone, Debug, PartialEq)]
pub struct SigningRequest {
    pub key: ObjectKey,
    /// The operation (upload or download) with all its constraints.
    pub operation_spec: OperationSpec,
    /// The start and end of the credential's validity, in whole seconds.
    pub lifetime: Lifetime,
    /// The namespace and the name of the grant, in the form `namespace.name`. Some providers write it to the logs of
    /// the store.
    pub holder: String,
    /// The store's ID of the multipart upload, if Valet has initiated one.
    pub upload: Option<String>,
}
