//! An Azure container: its settings and its URLs.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Mutex as AsyncMutex;

use super::{capabilities, credentials::Credentials, delegation::Delegation, microsoft};
use crate::{
    api::{AddressingStyle, Capabilities, UnsignedHeaders, store::azure::AzureBlobStore},
    net::{EgressPolicy, client::Http},
    provider::{
        abilities::Provider,
        findings::{Documented, Findings},
    },
};

/// An Azure container and the credentials that sign for it.
pub struct AzureBlob {
    pub(super) store: AzureBlobStore,
    pub(super) credentials: Credentials,
    pub(super) http: Http,
    /// This is true if the store belongs to a tenant. Valet then sends requests only to hosts that the egress policy
    /// permits.
    pub(super) is_tenants: bool,
    /// This is true if Valet is allowed to send write requests to the operator's endpoint.
    allows_writes: bool,
    /// The capabilities that Valet assumes before any probe.
    assumed: Capabilities,
    /// The results of the probes and conformance checks.
    pub(super) findings: Findings,
    /// The last user delegation key of the operator's identity, and the time when Valet fetched this key.
    pub(super) delegation: AsyncMutex<Option<(Timestamp, Arc<Delegation>)>>,
}

impl Provider for AzureBlob {
    fn name(&self) -> &'static str {
        "azure-blob"
    }

    fn capabilities(&self) -> Arc<Capabilities> {
        self.findings.apply(
            &self.assumed,
            Documented {
                unsigned_headers_are_harmless: self.store.unsigned_headers == UnsignedHeaders::Tolerate,
                refuses_unsigned: self.is_microsofts(),
                // A SAS with the permission `c` (create) cannot overwrite a blob ("Create a service SAS"). Valet also
                // assumes this for stores outside Azure.
                write_once: true,
                keeps_prefix: false,
                may_write: self.allows_writes(),
            },
        )
    }
}

impl AzureBlob {
    /// Creates the provider from the store's settings and credentials, without any request.
    ///
    /// The argument `egress` is the egress policy of a store that a tenant owns. With this policy, the provider sends
    /// requests only to hosts that the policy permits.
    pub fn new(store: AzureBlobStore, credentials: Credentials, egress: Option<EgressPolicy>) -> Self {
        let is_azures = microsoft::is_endpoint(&base(&store, store.endpoint.as_ref()));
        let allows_writes = is_azures || egress.as_ref().is_none_or(EgressPolicy::allows_writes);
        Self {
            assumed: capabilities::of(&store, &credentials),
            store,
            credentials,
            is_tenants: egress.is_some(),
            allows_writes,
            http: Http::new(egress).only_reading(!allows_writes),
            findings: Findings::default(),
            delegation: AsyncMutex::default(),
        }
    }

    /// Returns the URL of the account that the operator sends its own requests to.
    pub(super) fn account_url(&self) -> String {
        base(&self.store, self.store.endpoint.as_ref())
    }

    /// Returns true if the operator's endpoint belongs to Azure.
    pub(super) fn is_microsofts(&self) -> bool {
        microsoft::is_endpoint(&self.account_url())
    }

    /// Returns true if the operator is allowed to send write requests to the store. If a tenant chose the endpoint,
    /// the platform team must have allowed write requests.
    pub(super) fn allows_writes(&self) -> bool {
        self.allows_writes
    }

    /// Returns the URL of the account that workloads use.
    pub(super) fn public_base(&self) -> String {
        base(
            &self.store,
            self.store.public_endpoint.as_ref().or(self.store.endpoint.as_ref()),
        )
    }
}

/// Returns the account's URL without a slash at its end.
fn base(store: &AzureBlobStore, endpoint: Option<&String>) -> String {
    let account = &store.account;
    let endpoint = match endpoint {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => format!("https://{account}.blob.core.windows.net"),
    };
    match store.addressing_style {
        AddressingStyle::VirtualHost => endpoint,
        AddressingStyle::Path => format!("{endpoint}/{account}"),
    }
}
