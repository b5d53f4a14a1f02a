//! Types that the settings of several providers share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The position of the bucket name in a URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AddressingStyle {
    #[default]
    #[allow(missing_docs)]
    VirtualHost,
    #[allow(missing_docs)]
    Path,
}

/// What Valet does if the store obeys headers that are not signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnsignedHeaders {
    /// Issue no PUT URLs, unless `assumeRole` limits the permissions of each URL.
    #[default]
    Refuse,
    /// Issue PUT URLs. The owner of the store must ensure that the store's credentials can read no confidential data.
    Tolerate,
}

/// The name of a Secret. The kind of the store determines the namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
