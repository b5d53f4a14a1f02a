//! The decision logic. It decides if a grant may have a credential, and which step Valet executes next. The result of
//! [`decide`] depends only on the given [`Facts`] and the given time. The function uses no API client, no clock and
//! no random numbers.
//!
//! A decision is one [`Step`]. Valet reads a missing fact, writes one object, or waits until a time. The controller
//! executes the step, updates the facts and calls [`decide`] again.
//!
//! Each write is based on current facts, because the controller updates the facts after every step. If the operator
//! crashes, the next call of [`decide`] starts with the state of the cluster.
//!
//! The files of this module form layers, and `hack/layers.py` checks them. A file imports no file of a later layer.
//!
//! 1. data types, and functions that need no facts about a grant
//! 2. [`Facts`]: what Valet has read about a grant
//! 3. the access rules: from the facts to an [`Access`], which only `policy.rs` can create
//! 4. [`Step`]: what Valet executes next
//! 5. [`decide`]: from the facts to a step

// These modules contain data types and general functions. They do not use the facts that Valet has read about a grant.
pub mod credential;
mod key;
mod lifetime;
mod media_type;
mod metadata;
mod multipart_upload;
mod namespaces;
mod object;
mod packed_text;
mod quota;
mod quota_limits;
pub mod record;
mod refusal;
mod renew_request;
mod repairs;
mod scope;
mod secret_state;
mod shard;
mod signing_request;
mod skew;
mod store_id;

// What Valet has read about a grant.
mod facts;
mod grant_facts;

// The access rules.
mod access_rule;
mod enforce;
mod policy;
mod temporary_credentials;

// What Valet executes next.
mod grant_secret;
mod step;

// The decision.
mod decide;

pub use credential::{Credential, Entries, Form, Headers, SignError, Signed, SignedPart, SignedUrl};
pub use decide::{decide, renewal::renewal_due, rotation::RESIGN_SPREAD};
pub use facts::{
    Facts, NotProbedYet, ObjectFact, Owner, QuotaFact, RulesView, SecretFact, SecretView, Settings, Signer,
    StoreFact, StoreView, UploadFact, UploadsFact,
};
pub use grant_facts::{GrantFacts, is_read};
pub use grant_secret::{SECRET_CAPACITY, secret_bytes, secret_data, secret_object, secret_owner};
pub use key::{KeyError, ObjectKey};
pub use lifetime::{Lifetime, POLL_PATIENCE, second};
pub use metadata::MetadataDomains;
pub use multipart_upload::{ArrivedPart, Assembly, Completion, OpenUpload};
pub use packed_text::PackedText;
pub use policy::{AbortAccess, Access, Allowance, AllowedRequest, admit, allowance, still_allowed};
pub use quota::{QuotaCandidate, QuotaLedger};
pub use quota_limits::{QuotaLimit, QuotaLimits};
pub use refusal::Refusal;
pub use renew_request::RenewRequest;
pub use repairs::Repairs;
pub use scope::{Concern, concern};
pub use secret_state::{RememberedSecret, SecretState, SecretVersion};
pub use shard::Shard;
pub use signing_request::SigningRequest;
pub use skew::{MOST_SKEW, TOLERATED_SKEW, is_skewed, skewed};
pub use step::{GrantEvent, Publish, PublishMode, Read, Step};
pub use store_id::{StoreId, store_id};
