use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to do where the credentials that sign end before the key should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ShortSessions {
    /// The key ends with them.
    #[default]
    Truncate,
    /// There is no key.
    Refuse,
}

/// Whether something may be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Permission {
    #[default]
    #[allow(missing_docs)]
    Forbid,
    #[allow(missing_docs)]
    Allow,
}

/// Whether grants may be renewed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RenewalPermission {
    #[default]
    #[allow(missing_docs)]
    Allow,
    #[allow(missing_docs)]
    Forbid,
}
