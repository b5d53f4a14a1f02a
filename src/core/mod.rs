//! The decision logic. It decides if a grant may have a credential, and which step Valet executes next. The result of
//! [`decide`] depends only on the given [`Facts`] and the given time. The function uses no API client, no clock and
//! no random numbers.
//!
//! A decision is one [`Step`]. Valet reads a missing fact, writes one object, or waits until a time. The controller
//! executes the step, updates the facts and calls [`decide`] again.
//!
//! Each write is based on current facts, because the controller updates the facts after every step. If the operator
//! crashes, the next call of [`decide`] starts with the state of the cluster.

pub mod credential;
mod decide;
mod enforce;
mod facts;
mod grant_secret;
mod issue;
mod key;
mod lending;
mod lifetime;
mod media_type;
mod metadata;
mod multipart;
mod object;
mod policy;
mod quota;
pub mod record;
mod renewal;
mod repair;
mod rotation;
mod scope;
mod selector;
mod skew;
mod states;
mod status;
mod step;
mod store_id;
mod suspend;
mod total;
mod transition;

pub use credential::{Credential, Entries, Form, Headers, SignError, Signed, SignedPart, SignedUrl};
pub use decide::decide;
pub use facts::{
    ArrivedPart, Facts, GrantFacts, ObjectFact, OpenUpload, Owner, QuotaFact, RulesView, SecretFact, SecretView,
    Settings, Signer, StoreFact, StoreView, Untried, UploadFact, UploadsFact, is_read,
};
pub use grant_secret::{SECRET_CAPACITY, secret_bytes, secret_data, secret_object, secret_owner};
pub use key::{KeyError, ObjectKey};
pub use lifetime::{Lifetime, POLL_PATIENCE, next_poll, second};
pub use metadata::MetadataDomains;
pub use policy::{AbortAccess, Access, Allowance, AllowedRequest, Refusal, admit, allowance, still_allowed};
pub use quota::{QuotaCandidate, QuotaLedger, QuotaLimit, QuotaLimits};
pub use renewal::{RenewRequest, renewal_due};
pub use repair::Repairs;
pub use rotation::RESIGN_SPREAD;
pub use scope::{Concern, concern};
pub use skew::{MOST_SKEW, TOLERATED_SKEW, is_skewed, skewed};
pub use step::{Assembly, Completion, GrantEvent, Publish, PublishMode, Read, SigningRequest, Step};
pub use store_id::{StoreId, store_id};
