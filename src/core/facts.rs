use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{metadata::MetadataDomains, quota::QuotaLimit, renewal::RenewRequest, repair::Repairs};
use crate::{
    api::{
        Ask, Capabilities, ClusterAccessRule, GROUP, Grant, GrantStatus, MULTIPART_FINALIZER, ObservedObject,
        Operation, Reason, SecretTemplate, ShortSessions, Terms, annotation,
    },
    core::record::KnownStatus,
};

/// All facts on which a decision about a grant is based. A fact that Valet has not read yet has a special value, for
/// example `Unread`.
#[derive(Clone, Debug)]
pub struct Facts {
    pub grant: GrantFacts,
    /// The grant's store.
    pub store: StoreFact,
    /// The access rules of the store, if Valet cannot use the store now but knows its access rules.
    pub rules: Option<RulesView>,
    /// The Secret that has the name from the grant's spec.
    pub secret: SecretFact,
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
    /// The answer to the question if the quota allows one more live grant.
    pub place: QuotaFact,
    /// The time at which this process last polled the store for the object.
    pub last_poll: Option<Timestamp>,
    /// True if a notification reported the object and this process has not polled the store after that. Valet does
    /// not trust a notification. A notification only makes Valet poll earlier.
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
    /// The number of seconds after which Valet deletes a finished grant, if the grant's spec does not set it. `None`
    /// means that Valet does not delete finished grants.
    pub ttl_seconds_after_finished: Option<i64>,
    /// The domains of labels and annotations that grants may set on their Secrets.
    pub secret_metadata: MetadataDomains,
}

/// Facts from the grant object.
#[derive(Clone, Debug, PartialEq)]
pub struct GrantFacts {
    /// The namespace of the grant and of its Secret.
    pub namespace: String,
    pub name: String,
    /// The grant's UID. If a user deletes a grant and creates a new grant with its name, the two grants have
    /// different UIDs.
    pub uid: String,
    /// The `metadata.generation` of the grant.
    pub generation: i64,
    /// The `metadata.creationTimestamp` of the grant.
    pub created: Option<Timestamp>,
    /// True if the grant is being deleted.
    pub deleting: bool,
    /// The `metadata.deletionTimestamp` of the grant.
    pub deleted_at: Option<Timestamp>,
    /// True if the grant has the finalizer for multipart uploads.
    pub held: bool,
    /// The fields of the spec that uploads and downloads share.
    pub terms: Terms,
    /// The fields of the spec that are specific to the kind of grant.
    pub ask: Ask,
    /// The status as Valet last wrote it. It does not contain changes that clients other than Valet made.
    pub status: GrantStatus,
    /// True if the cluster has exactly the status that Valet last wrote. Otherwise Valet must write the status again.
    pub status_is_own: bool,
    /// The GitOps tool that would create the grant again if Valet deleted the grant.
    pub tracked_by: Option<&'static str>,
    /// The request for a new credential, from the annotation `renew-requested-at`.
    pub renew_requested: RenewRequest,
    /// The schema rules that the spec violates. The list can have entries only if the installed CRD is older than
    /// this version of Valet.
    pub broken_rules: Vec<String>,
}

impl Facts {
    /// Creates facts in which only the grant and the settings are known.
    pub fn new(grant: GrantFacts, settings: Settings) -> Self {
        Self {
            grant,
            store: StoreFact::Unread,
            rules: None,
            secret: SecretFact::Unread,
            object: ObjectFact::Unread,
            upload: UploadFact::Unread,
            uploads: UploadsFact::Unread,
            own_upload: None,
            completion_refused: None,
            place: QuotaFact::Unasked,
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

impl GrantFacts {
    /// Reads all facts about a grant except its status. [`GrantFacts::with_status`] adds the status.
    pub fn of(grant: &impl Grant) -> Self {
        let meta = grant.meta();
        let ask = grant.ask();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            deleting: meta.deletion_timestamp.is_some(),
            deleted_at: meta.deletion_timestamp.as_ref().map(|t| t.0),
            // Valet never adds the finalizer to a DownloadGrant. If a DownloadGrant has the finalizer, another
            // program added it, and Valet does not remove it.
            held: ask.operation() == Operation::Upload
                && meta.finalizers.iter().flatten().any(|f| f == MULTIPART_FINALIZER),
            terms: grant.terms().clone(),
            ask,
            status: GrantStatus::default(),
            status_is_own: false,
            tracked_by: tracked_by(meta.labels.as_ref(), meta.annotations.as_ref()),
            renew_requested: RenewRequest::parse(
                meta.annotations
                    .as_ref()
                    .and_then(|a| a.get(annotation::RENEW_REQUESTED_AT))
                    .map(String::as_str),
            ),
            broken_rules: grant.check().err().unwrap_or_default(),
        }
    }

    /// Adds the authenticated part of the grant's status.
    #[must_use]
    pub fn with_status(self, known: KnownStatus) -> Self {
        Self {
            status: known.status,
            status_is_own: known.is_own,
            ..self
        }
    }

    /// Returns the name of the Secret that receives the credential.
    pub fn secret_name(&self) -> &str {
        self.terms.secret_name.as_deref().unwrap_or(&self.name)
    }

    /// Returns the labels and annotations from `spec.secretTemplate`.
    pub fn template(&self) -> SecretTemplate {
        self.terms.secret_template.clone().unwrap_or_default()
    }
}

/// The annotation that Argo CD sets on its resources.
const TRACKING_ID: &str = "argocd.argoproj.io/tracking-id";

/// Returns true if Valet reads this annotation of a grant or store. Valet reads its own annotations and the tracking
/// annotation of Argo CD.
pub fn is_read(annotation: &str) -> bool {
    annotation == TRACKING_ID || annotation.split('/').next() == Some(GROUP)
}

/// Returns the name of the GitOps tool that manages the resource. The labels and annotations of the resource show
/// which tool this is.
fn tracked_by(
    labels: Option<&BTreeMap<String, String>>,
    annotations: Option<&BTreeMap<String, String>>,
) -> Option<&'static str> {
    const LABELS: [(&str, &str); 4] = [
        ("kustomize.toolkit.fluxcd.io/name", "Flux"),
        ("helm.toolkit.fluxcd.io/name", "Flux"),
        ("argocd.argoproj.io/instance", "Argo CD"),
        // Argo CD before version 3 sets this label by default, and Helm charts also set it. Valet cannot tell them
        // apart. If Helm set the label, the only effect is that Valet keeps a finished grant.
        ("app.kubernetes.io/instance", "Argo CD or Helm"),
    ];
    const ANNOTATIONS: [(&str, &str); 1] = [(TRACKING_ID, "Argo CD")];
    let find = |marks: &[(&str, &'static str)], map: Option<&BTreeMap<String, String>>| {
        marks
            .iter()
            .find(|(key, _)| map.is_some_and(|m| m.contains_key(*key)))
            .map(|(_, tool)| *tool)
    };
    find(&ANNOTATIONS, annotations).or_else(|| find(&LABELS, labels))
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
    /// The setting for the case that the store's signing credentials expire before the requested expiry of a grant's
    /// credential. In this case, the setting says if Valet issues a credential with a shorter lifetime or no
    /// credential.
    pub short_sessions: ShortSessions,
    /// The store's current signing credentials, if the provider can identify them.
    pub signer: Option<Signer>,
    /// The reason why Valet does not know yet which constraints the store enforces. For example, the store does not
    /// answer, or its clock is wrong. The value is `None` if Valet knows the constraints, or if the store needs no
    /// probe.
    pub untried: Option<Untried>,
    /// The time by which the store's clock is ahead of the operator's clock, if it is known.
    pub skew: Option<SignedDuration>,
}

/// The reason why Valet does not know yet which constraints a store enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untried {
    pub reason: Reason,
    /// The reason why Valet does not know yet which constraints the store enforces, as a clause of a message.
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

/// Identifies the signing credentials of a store: the bucket, the address and the long-term credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// A one-way hash of the store's settings and credentials. The hash changes whenever a setting or a credential
    /// changes.
    pub fingerprint: String,
    /// The time at which this process first saw the fingerprint.
    pub since: Timestamp,
}

/// The facts about the Secret that has the name from the grant's spec.
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

/// The facts about a grant Secret, without its data. Times and numbers come from Valet's annotations. They are absent
/// if a client other than Valet has changed the Secret.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretView {
    /// The `metadata.uid` of the Secret, which is a precondition of later writes.
    pub uid: String,
    /// The `metadata.resourceVersion` of the Secret, which is a precondition of later writes.
    pub resource_version: String,
    pub owner: Owner,
    /// True if the Secret is being deleted.
    pub deleting: bool,
    /// True if nobody has changed the Secret's data and Valet's annotations after Valet wrote them.
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
    /// The generation of the grant when Valet last wrote the Secret.
    pub generation: Option<i64>,
    /// The lifetime in seconds that the grant asked for when the credential was signed.
    pub expiration_seconds: Option<i64>,
    /// The fingerprint of the store's credentials that signed the credential in the Secret.
    pub signed_with: Option<String>,
    /// The number of credentials that Valet issued for the grant before the credential in the Secret.
    pub renewals: Option<i64>,
    /// The latest expiry of all earlier credentials of the grant, if this expiry is later than `expires_at`.
    pub earlier_expires_at: Option<Timestamp>,
    /// The upload ID of the multipart upload. The part URLs in the Secret belong to this upload.
    pub upload_id: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl SecretView {
    /// Reads times and numbers from Valet's annotations. Does nothing if the Secret is not authentic, because a
    /// client other than Valet may have changed the annotations.
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
    /// The Secret belongs to a deleted grant that had the kind and the name of this grant. The garbage collector
    /// deletes this Secret.
    Predecessor,
    /// The Secret does not belong to this grant. The text says how Valet knows this.
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
        /// The store's response contains its current time and the modification time. The difference is the age of the
        /// object, and Valet subtracts this age from the time of the response.
        modified_at: Option<Timestamp>,
    },
    /// The store's credentials do not have permission to read the object.
    Hidden,
    /// The store rejected the request, and its clock differs from the operator's clock. The clock difference alone
    /// can be the cause of the rejection. Valet therefore knows nothing about the credentials and the object. The
    /// text is a clause of a message and contains the clock difference.
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

/// A part that a client has uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrivedPart {
    /// The part number. The first part has number 1.
    pub number: i64,
    /// The size of the part in bytes.
    pub size: i64,
    /// The ETag of the part. The request that completes the upload contains it.
    pub e_tag: String,
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

/// A multipart upload that is in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenUpload {
    /// The store's ID of the upload.
    pub id: String,
    /// The time at which the upload was initiated, by the store's clock.
    pub begun: Option<Timestamp>,
    /// True if the upload has at least one part.
    pub has_parts: bool,
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
