//! The egress policy of tenants' stores, with the HTTP clients that enforce it.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use ipnet::IpNet;

use super::{connections::Connections, egress::EgressRules};

/// The egress policy: it says which addresses the stores of tenants can use, and whether the operator is allowed to
/// send write requests there.
///
/// Valet needs the policy because a user who can create an ObjectStore chooses where the operator sends requests. The
/// operator can reach addresses that a tenant cannot reach: its loopback address, the machine's metadata server, and
/// services of other teams.
///
/// All stores of tenants share the HTTP clients of the policy. Each client needs a few hundred kilobytes for
/// certificate authorities, and a tenant can create thousands of stores.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    rules: EgressRules,
    /// This is true if the operator is allowed to send write requests to endpoints that tenants choose.
    allows_writes: bool,
    pub(super) clients: Arc<Clients>,
}

/// The shared HTTP clients that connect only to permitted addresses. Valet creates each client when it uses the
/// client for the first time.
#[derive(Default)]
pub(super) struct Clients {
    pub aws: OnceLock<SharedHttpClient>,
    /// The HTTP client for all requests that Valet sends without the AWS SDK. It is `None` if the machine has no
    /// certificate authorities.
    pub plain: OnceLock<Option<Connections>>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

impl Deref for EgressPolicy {
    type Target = EgressRules;

    fn deref(&self) -> &EgressRules {
        &self.rules
    }
}

impl EgressPolicy {
    /// Creates a policy that permits public addresses and the networks in `allowed`.
    pub fn new(allowed: impl Into<Arc<[IpNet]>>) -> Self {
        Self::of(EgressRules::new(allowed))
    }

    fn of(rules: EgressRules) -> Self {
        Self {
            rules,
            allows_writes: false,
            clients: Arc::default(),
        }
    }

    /// Denies these networks, even if they are public or the platform team allows them.
    #[must_use]
    pub fn denying(self, denied: impl Into<Arc<[IpNet]>>) -> Self {
        Self {
            allows_writes: self.allows_writes,
            ..Self::of(self.rules.denying(denied))
        }
    }

    /// Creates a policy that denies all addresses.
    pub fn deny_all() -> Self {
        Self::of(EgressRules::deny_all())
    }

    /// If `allows_writes` is true, the policy allows write requests to endpoints that tenants choose.
    pub fn changing(self, allows_writes: bool) -> Self {
        Self { allows_writes, ..self }
    }

    /// Returns true if the operator is allowed to send write requests to endpoints that tenants choose.
    pub fn allows_writes(&self) -> bool {
        self.allows_writes
    }

    /// Returns the rules of the policy. An HTTP client contains a copy of these rules. It cannot contain the policy
    /// itself, because the policy contains the HTTP client.
    pub(super) fn rules(&self) -> EgressRules {
        self.rules.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::client::Http;

    /// Two stores share one HTTP client. This saves memory.
    #[test]
    fn stores_with_the_same_egress_policy_share_an_http_client() {
        let egress = EgressPolicy::default();
        let _first = Http::new(Some(egress.clone()));
        assert!(egress.clients.plain.get().is_some());
        let of_another = EgressPolicy::new(["10.0.0.0/8".parse().unwrap()]);
        assert!(
            of_another.clients.plain.get().is_none(),
            "two policies that allow different networks must not share an HTTP client"
        );
    }
}
