//! Provider for Amazon S3 and S3-compatible stores. It signs POST forms and presigned URLs for PUT and GET requests
//! (AWS Signature Version 4, query string).

mod amazon;
mod assume_role;
mod capabilities;
mod conformance;
mod credentials_cache;
mod environment;
mod fingerprint;
mod form;
mod grant_session;
mod limits;
mod multipart;
mod multipart_parts;
mod presigned;
mod probe;
mod prober;
mod raw_request;
mod reader;
mod responses;
mod secret;
mod session_credentials;
mod session_policy;
mod session_policy_check;
mod settings;
mod signer;
mod store;

pub use store::S3;
