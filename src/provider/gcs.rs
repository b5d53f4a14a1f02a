//! Provider for Google Cloud Storage. The provider signs POST forms, and V4 URLs for PUT and GET requests and for
//! resumable uploads. A service account key or Google's IAM makes each signature. The provider uses Google's XML API,
//! because Google's signed URLs work only with this API.

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
