use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{
    grant_facts::GrantFacts,
    metadata::MetadataDomains,
    multipart_upload::{ArrivedPart, OpenUpload},
    quota_limits::QuotaLimit,
    repairs::Repairs,
    secret_state::{RememberedSecret, SecretVersion},
};
use crate::api::{Capabilities, ClusterAccessRule, ObservedObject, Reason, ShortSessions, annotation};

/// All facts on which Valet bases a decision about a grant. A fact that Valet has not read yet has a special value,
/// for example `Unread`.
#[derive(Clone, Debug)]
pub struct Facts {
    pub grant: GrantFacts,
    /// The grant's store.
    pub store: StoreFact,
    /// The access rules of the store, if Valet cannot use the store now but knows its access rules.
    pub rules: Option<RulesView>,
    /// The Secret with the name from `spec.secretName` of the grant, or with the grant's name if this field is not
    /// set.
    pub secret: SecretFact,
    /// What this process remembers about the Secret, if it does not have to read the Secret again yet.
    pub remembered_secret: Option<RememberedSecret>,
    /// The object in the store that has the grant's object key.
    pub object: ObjectFact,
    /// The grant's multipart upload.
    pub upload: UploadFact,
    /// All multipart uploads of the grant's object key.
    pub uploads: UploadsFact,
    /// The ID of the multipart upload that Valet initiated for this grant, from the memory of this process. The
    /// records in the grant Secret and in the grant's status also contain the ID.
    pub own_upload: Option<String>,
    /// The reason why the store did not complete the multipart upload in this reconcile. The text contains no
    /// secrets.
    pub completion_refused: Option<String>,
    /// Says if the quota allows one more live grant.
    pub quota: QuotaFact,
    /// The time at which this process last polled the store for the object.
    pub last_poll: Option<Timestamp>,
    /// True if this process has received a notification about the object and has not polled the store since then.
    /// Valet does not trust a notification. A notification only causes an earlier poll.
    pub poll_requested: bool,
    /// How often and when this process restored the grant Secret.
    pub repairs: Repairs,
    /// The reason why the API server refused to write the Secret in this reconcile. The text contains no secrets.
    pub secret_refused: Option<String>,
    /// The reason why the API server refused to remove the Secret's data in this reconcile. The text contains no
    /// secrets.
    pub emptying_refused: Option<String>,
    /// The reason why the provider did not sign in this reconcile. The text contains no secrets.
    pub sign_refused: Option<(Reason, String)>,
    /// The operator's settings.
    pub settings: Settings,
}

/// Settings from the operator's flags.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The number of seconds after which Valet deletes a finished grant if the grant's spec sets no number. `None`
    /// means that Valet does not delete such finished grants.
    pub ttl_seconds_after_finished: Option<i64>,
    /// The domains of labels and annotations that grants may set on their Secrets.
    pub secret_metadata: MetadataDomains,
}

impl Facts {
    /// Creates facts in which only the grant and the settings are known.
    pub fn new(grant: GrantFacts, settings: Settings) -> Self {
        Self {
            grant,
            store: StoreFact::Unread,
            rules: None,
            secret: SecretFact::Unread,
            remembered_secret: None,
            object: ObjectFact::Unread,
            upload: UploadFact::Unread,
            uploads: UploadsFact::Unread,
            own_upload: None,
            completion_refused: None,
            quota: QuotaFact::Unasked,
            last_poll: None,
            poll_requested: false,
            repairs: Repairs::default(),
            secret_refused: None,
            emptying_refused: None,
            sign_refused: None,
            settings,
        }
    }
}

/// The facts about the store of a grant.
#[derive(Clone, Debug)]
pub enum StoreFact {
    /// The store was not read yet.
    Unread,
    /// The store does not exist.
    Missing,
    /// The store exists, but Valet cannot use the store now.
    Unusable {
        reason: Reason,
        /// The message for the owner of the store. The message contains no secrets.
        message: String,
    },
    /// Valet can use the store.
    Usable(StoreView),
}

/// The facts about a store that Valet can use.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreView {
    /// The maximum number of live grants of the store in all namespaces together.
    pub max_live_grants: Option<i64>,
    /// The store's access rules.
    pub rules: Arc<Vec<ClusterAccessRule>>,
    /// The labels of the grant's namespace. Access rules can select namespaces by label.
    pub namespace_labels: Arc<BTreeMap<String, String>>,
    /// The constraints and modes that the store supports.
    pub capabilities: Arc<Capabilities>,
    /// The time at which the store's signing credentials expire.
    pub credentials_expire: Option<Timestamp>,
    /// Says what Valet does if the store's signing credentials expire before the requested expiry of a grant's
    /// credential. Valet then issues either a credential with a shorter lifetime or no credential.
    pub short_sessions: ShortSessions,
    /// The store's current signing credentials, if the provider can identify them.
    pub signer: Option<Signer>,
    /// The reason why Valet does not know yet which constraints the store enforces. For example, the store does not
    /// answer, or the store's clock is wrong. The value is `None` if Valet knows the constraints, or if the store
    /// needs no probe.
    pub not_probed: Option<NotProbedYet>,
    /// The time by which the store's clock is ahead of the operator's clock, if it is known.
    pub skew: Option<SignedDuration>,
}

/// The reason why Valet does not know yet which constraints a store enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotProbedYet {
    pub reason: Reason,
    /// A text that explains why Valet does not know yet which constraints the store enforces. Valet inserts this text
    /// into the message of a condition.
    pub why: String,
    /// True if only write-once uploads must wait for the probe of the store.
    pub only_write_once: bool,
}

/// The access rules of a store, and the namespace labels that Valet needs to evaluate these rules.
#[derive(Clone, Debug)]
pub struct RulesView {
    pub rules: Arc<Vec<ClusterAccessRule>>,
    /// The labels of the grant's namespace. Access rules can select namespaces by label.
    pub namespace_labels: Arc<BTreeMap<String, String>>,
}

/// Identifies the credentials and the settings with which Valet signs for a store. If they change, Valet signs issued
/// credentials again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// A one-way hash of the store's long-term credentials and of the settings that signed URLs depend on, such as the
    /// bucket and the address. The hash changes whenever one of these values changes.
    pub fingerprint: String,
    /// The time at which this process first saw the fingerprint.
    pub since: Timestamp,
}

/// The facts about the Secret with the name from `spec.secretName` of the grant, or with the grant's name if this
/// field is not set.
#[derive(Clone, Debug)]
// The large variant is not boxed, because only one value of this type exists per reconcile.
#[allow(clippy::large_enum_variant)]
pub enum SecretFact {
    /// The Secret was not read yet.
    Unread,
    /// The Secret does not exist.
    Absent,
    Present(SecretView),
}

/// The facts about a grant Secret, without the Secret's data. Times and numbers come from Valet's annotations on the
/// Secret. If a client other than Valet has changed the Secret, times and numbers are `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretView {
    /// The `metadata.uid` of the Secret. Later writes have this UID as a precondition.
    pub uid: String,
    /// The `metadata.resourceVersion` of the Secret. Later writes have this version as a precondition.
    pub resource_version: String,
    pub owner: Owner,
    /// True if the Secret is being deleted.
    pub deleting: bool,
    /// True if nobody has changed the Secret's data or Valet's annotations since Valet wrote them.
    pub is_authentic: bool,
    /// True if the grant is the only owner of the Secret.
    pub has_sole_owner: bool,
    /// The finalizers of the Secret. Valet itself adds no finalizer to a Secret.
    pub finalizers: Vec<String>,
    /// True if the Secret has any data.
    pub has_data: bool,
    /// The time at which the credential in the Secret was signed.
    pub issued_at: Option<Timestamp>,
    /// The time at which the credential in the Secret expires.
    pub expires_at: Option<Timestamp>,
    /// The `metadata.generation` that the grant had when Valet last wrote the Secret.
    pub generation: Option<i64>,
    /// The lifetime in seconds that the grant asked for when the credential was signed.
    pub expiration_seconds: Option<i64>,
    /// The fingerprint of the store's credentials that signed the credential in the Secret.
    pub signed_with: Option<String>,
    /// The number of credentials that Valet issued for the grant before the credential in the Secret.
    pub renewals: Option<i64>,
    /// The latest expiry of the grant's previous credentials. The value is `None` if no previous credential expires
    /// after `expires_at`.
    pub earlier_expires_at: Option<Timestamp>,
    /// The upload ID of the multipart upload. The part URLs in the Secret belong to this upload.
    pub upload_id: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl SecretView {
    /// Creates the facts about a Secret that only the grant owns, without finalizers. [`SecretView::read_evidence`] adds
    /// the times and numbers.
    pub fn new(
        uid: String,
        resource_version: String,
        owner: Owner,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    ) -> Self {
        Self {
            uid,
            resource_version,
            owner,
            deleting: false,
            is_authentic: false,
            has_sole_owner: true,
            finalizers: Vec::new(),
            has_data: true,
            issued_at: None,
            expires_at: None,
            generation: None,
            expiration_seconds: None,
            signed_with: None,
            renewals: None,
            earlier_expires_at: None,
            upload_id: None,
            labels,
            annotations,
        }
    }

    /// Returns the version of a Secret that belongs to the grant and that no other client has changed. Returns `None`
    /// for all other Secrets.
    pub fn version(&self) -> Option<SecretVersion> {
        let is_own = self.owner == Owner::ThisGrant && self.is_authentic && self.has_sole_owner;
        (is_own && !self.deleting && self.finalizers.is_empty()).then(|| SecretVersion {
            uid: self.uid.clone(),
            resource_version: self.resource_version.clone(),
            issued_at: self.issued_at,
            expires_at: self.expires_at,
            signed_with: self.signed_with.clone(),
        })
    }

    /// Reads times and numbers from Valet's annotations. If the Secret is not authentic, the method sets the times and
    /// numbers to `None`, because a client other than Valet may have changed the annotations.
    pub fn read_evidence(&mut self, is_authentic: bool) {
        let none = BTreeMap::new();
        let annotations = if is_authentic { &self.annotations } else { &none };
        let text = |key: &str| annotations.get(key).cloned();
        let time = |key: &str| text(key).and_then(|t| t.parse::<Timestamp>().ok());
        let number = |key: &str| text(key).and_then(|n| n.parse::<i64>().ok());
        self.issued_at = time(annotation::ISSUED_AT);
        self.expires_at = time(annotation::EXPIRES_AT);
        self.generation = number(annotation::GRANT_GENERATION);
        self.expiration_seconds = number(annotation::EXPIRATION_SECONDS);
        self.signed_with = text(annotation::SIGNED_WITH);
        self.renewals = number(annotation::RENEWALS);
        self.earlier_expires_at = time(annotation::EARLIER_EXPIRES_AT);
        self.upload_id = text(annotation::UPLOAD_ID);
        self.is_authentic = is_authentic;
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The Secret belongs to this grant: the type, the label, the controller reference and the UID all match.
    ThisGrant,
    /// The Secret belongs to a deleted grant with the same kind and the same name as this grant. The garbage
    /// collector deletes this Secret.
    Predecessor,
    /// The Secret does not belong to this grant. The text gives the reason for this conclusion.
    Foreign(&'static str),
}

/// The facts about the object in the store.
#[derive(Clone, Debug)]
pub enum ObjectFact {
    /// Valet has not asked the store about the object yet.
    Unread,
    /// The store has no object with the grant's object key.
    Absent,
    Present {
        /// The store's description of the object.
        object: ObservedObject,
        /// The time at which the object was last modified, by the operator's clock. The value is `None` if the store
        /// does not return a time.
        ///
        /// The store's response contains two times of the store's clock: the time of the response and the
        /// modification time. The difference between these times is the age of the object. Valet subtracts this age
        /// from the time at which the operator received the response.
        modified_at: Option<Timestamp>,
    },
    /// The store's credentials do not have permission to read the object.
    Hidden,
    /// The store rejected the request, and the store's clock differs from the operator's clock. The clock difference
    /// alone can be the cause of the rejection. Valet therefore learns nothing about the credentials and the object.
    /// The text describes the clock difference. Valet inserts this text into the message of a condition.
    ClockSkewed(String),
    /// The store did not answer, or answered with a server error. The message contains no secrets.
    Unreachable(String),
}

/// The facts about a multipart upload.
#[derive(Clone, Debug, PartialEq)]
pub enum UploadFact {
    /// Valet has not asked the store about the multipart upload yet.
    Unread,
    /// The multipart upload is in progress, and clients have uploaded these parts.
    Open(Vec<ArrivedPart>),
    /// The store no longer has the upload, because somebody completed or aborted it.
    Gone,
    /// Valet has aborted the upload in this reconcile.
    Aborted {
        /// The number of parts that clients had uploaded before Valet aborted the upload.
        parts: usize,
    },
    /// The store's credentials do not have permission to list the parts.
    Hidden,
    /// The store did not answer, or answered with a server error. The message contains no secrets.
    Unreachable(String),
}

/// The facts about all multipart uploads with one object key.
#[derive(Clone, Debug, PartialEq)]
pub enum UploadsFact {
    /// Valet has not listed the multipart uploads yet.
    Unread,
    /// The store listed the uploads that are in progress.
    Listed {
        uploads: Vec<OpenUpload>,
        /// True if a second unfinished grant of this cluster has a multipart upload for the object key of this grant.
        /// An upload in the list may then belong to the second grant.
        contested: bool,
    },
    /// The store's credentials do not have permission to list the uploads.
    Hidden,
    /// The store did not answer, or answered with a server error. The message contains no secrets.
    Unreachable(String),
}

/// The answer of the quota for a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaFact {
    /// The quota has not been checked yet.
    Unasked,
    /// The quota allows one more live grant, and Valet has reserved it for this grant.
    Given,
    /// The quota is used up. The grant waits until a credential of a different grant expires.
    Full(QuotaLimit),
}
