use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What Valet does with a grant that asks for a longer lifetime than the signing credentials have left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ShortSessions {
    /// Issue a credential that expires with the signing credentials.
    #[default]
    Truncate,
    /// Issue no credential.
    Refuse,
}

/// Whether an access rule allows something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Permission {
    #[default]
    #[allow(missing_docs)]
    Forbid,
    #[allow(missing_docs)]
    Allow,
}

/// Whether an access rule allows renewal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RenewalPermission {
    #[default]
    #[allow(missing_docs)]
    Allow,
    #[allow(missing_docs)]
    Forbid,
}
