//! Recognizes the endpoints of Azure. Azure's documentation describes only the behavior of these endpoints. A store at
//! any other endpoint can behave differently, even if it has the same API.

use crate::net::client::is_of;

/// Azure's blob endpoints are in these domains ("Azure Storage endpoints", all clouds).
const DOMAINS: &[&str] = &[
    ".core.windows.net",
    ".core.usgovcloudapi.net",
    ".core.chinacloudapi.cn",
    ".storage.azure.net",
];

/// Returns true if the URL belongs to Azure Blob Storage.
pub fn is_endpoint(url: &str) -> bool {
    is_of(url, DOMAINS)
}
