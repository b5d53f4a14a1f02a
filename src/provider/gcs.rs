//! Provider for Google Cloud Storage. It signs V4 URLs for PUT and GET requests, and POST forms. A service account
//! key or Google's IAM makes the signature. The provider uses Google's XML API, because a signed URL is a request to
//! this API.

mod capabilities;
mod conformance;
mod form;
mod google;
mod headers;
mod key;
mod limits;
mod probe;
mod prober;
mod reader;
mod responses;
mod secret;
mod settings;
mod signer;
mod signing_account;
mod source;
mod store;
mod tokens;
mod v4;

pub use key::ServiceAccountKey;
pub use source::from_environment;
pub use store::Gcs;
pub use tokens::Source;

#[cfg(test)]
mod tests;
