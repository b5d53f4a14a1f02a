/// The limits that apply to a grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaLimits {
    /// The maximum number of live grants in the grant's namespace.
    pub namespace: Option<i64>,
    /// The maximum number of live grants of the store in all namespaces together.
    pub store: Option<i64>,
}

impl QuotaLimits {
    /// Returns true if the namespace or the store has a limit.
    pub fn is_limited(self) -> bool {
        self.namespace.is_some() || self.store.is_some()
    }
}

/// The limit because of which a grant must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaLimit {
    /// The limit of the grant's namespace.
    Namespace(i64),
    /// The limit of the whole store.
    Store(i64),
}
