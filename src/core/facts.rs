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

/// All facts that a decision is based on. A fact that was not read yet is marked as unread.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The grant.
    pub grant: GrantFacts,
    /// The grant's store.
    pub store: StoreFact,
    /// The access rules of a store that is unusable now, if known.
    pub rules: Option<RulesView>,
    /// The Secret with the wanted name.
    pub secret: SecretFact,
    /// The object with the grant's object key.
    pub object: ObjectFact,
    /// The grant's multipart upload.
    pub upload: UploadFact,
    /// All multipart uploads of the grant's object key.
    pub uploads: UploadsFact,
    /// The multipart upload that Valet initiated for this grant, from the memory of this process. The authenticated
    /// records in [`SecretFact`] and in the grant's status also contain its ID.
    pub own_upload: Option<String>,
    /// Why the store did not complete the multipart upload in this reconcile. The message contains no secrets.
    pub completion_refused: Option<String>,
    /// Whether the quota allows one more live grant.
    pub place: QuotaFact,
    /// When this process last polled for the object.
    pub last_poll: Option<Timestamp>,
    /// Whether a notification says that the object was created, and this process has not polled since. The
    /// notification only makes Valet poll early.
    pub poll_requested: bool,
    /// How often this process restored the Secret.
    pub repairs: Repairs,
    /// Why the API server refused the Secret in this reconcile. The message contains no secrets.
    pub secret_refused: Option<String>,
    /// Why the API server refused to empty the Secret in this reconcile. The message contains no secrets.
    pub emptying_refused: Option<String>,
    /// Why the provider did not sign in this reconcile. The message contains no secrets.
    pub sign_refused: Option<(Reason, String)>,
    /// The operator's settings.
    pub settings: Settings,
}

/// Settings from the operator's flags.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Seconds until a finished grant is deleted, unless its spec sets another value. `None`: never.
    pub ttl_seconds_after_finished: Option<i64>,
    /// The domains of labels and annotations that grants may set on their Secrets.
    pub secret_metadata: MetadataDomains,
}

/// Facts from the grant object.
#[derive(Clone, Debug)]
pub struct GrantFacts {
    /// Namespace of the grant and its Secret.
    pub namespace: String,
    pub name: String,
    /// The grant's UID. Two grants with the same name have different UIDs.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// Whether the grant is being deleted.
    pub deleting: bool,
    /// `metadata.deletionTimestamp`.
    pub deleted_at: Option<Timestamp>,
    /// Whether the grant has the multipart upload finalizer.
    pub held: bool,
    /// The fields of the spec that uploads and downloads share.
    pub terms: Terms,
    /// The fields of the spec that are specific to the kind of grant.
    pub ask: Ask,
    /// The status as Valet last wrote it. Changes by other clients are ignored.
    pub status: GrantStatus,
    /// Whether the cluster contains exactly this status. If not, Valet must write it again.
    pub status_is_own: bool,
    /// The GitOps tool that would create the grant again after a deletion.
    pub tracked_by: Option<&'static str>,
    /// The request for a new credential, from the annotation.
    pub renew_requested: RenewRequest,
    /// Schema rules that the spec violates. It is empty unless the installed CRD is older than this program.
    pub broken_rules: Vec<String>,
}

impl Facts {
    /// Creates facts in which only the grant is known.
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
    /// Reads a grant without its status. [`GrantFacts::with_status`] adds the status.
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
            // On a DownloadGrant another client added the finalizer, so Valet does not remove it.
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

    /// Name of the Secret that receives the credential.
    pub fn secret_name(&self) -> &str {
        self.terms.secret_name.as_deref().unwrap_or(&self.name)
    }

    /// The labels and annotations from `spec.secretTemplate`.
    pub fn template(&self) -> SecretTemplate {
        self.terms.secret_template.clone().unwrap_or_default()
    }
}

/// The annotation that Argo CD sets on its resources.
const TRACKING_ID: &str = "argocd.argoproj.io/tracking-id";

/// Whether Valet reads this annotation of a grant or store: its own annotations and that of a GitOps tool.
pub fn is_read(annotation: &str) -> bool {
    annotation == TRACKING_ID || annotation.split('/').next() == Some(GROUP)
}

/// Finds the GitOps tool that manages the resource, by labels and annotations.
fn tracked_by(
    labels: Option<&BTreeMap<String, String>>,
    annotations: Option<&BTreeMap<String, String>>,
) -> Option<&'static str> {
    const LABELS: [(&str, &str); 4] = [
        ("kustomize.toolkit.fluxcd.io/name", "Flux"),
        ("helm.toolkit.fluxcd.io/name", "Flux"),
        ("argocd.argoproj.io/instance", "Argo CD"),
        // The default label of Argo CD before version 3. Helm charts also set it. A false match only keeps a finished
        // grant.
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

/// What is known about the store.
#[derive(Clone, Debug)]
pub enum StoreFact {
    /// The store was not read yet.
    Unread,
    /// The store does not exist.
    Missing,
    /// The store exists, but it is unusable now.
    Unusable {
        /// The reason of the condition.
        reason: Reason,
        /// The explanation for the store's owner. It contains no secrets.
        message: String,
    },
    /// The store is usable.
    Usable(StoreView),
}

/// A usable store.
#[derive(Clone, Debug)]
pub struct StoreView {
    /// The maximum number of live grants in all namespaces together.
    pub max_live_grants: Option<i64>,
    /// The access rules.
    pub rules: Arc<Vec<ClusterAccessRule>>,
    /// Labels of the grant's namespace, for the selectors of the rules.
    pub namespace_labels: Arc<BTreeMap<String, String>>,
    /// What the store can enforce.
    pub capabilities: Arc<Capabilities>,
    /// When the store's signing credentials expire.
    pub credentials_expire: Option<Timestamp>,
    /// What to do if the signing credentials expire before the requested end of a credential.
    pub short_sessions: ShortSessions,
    /// The store's current signing credentials, if the provider can identify them.
    pub signer: Option<Signer>,
    /// Why Valet has not yet tested what the store enforces: the store does not answer, or its clock differs. `None`
    /// if no test is needed.
    pub untried: Option<Untried>,
    /// How far the store's clock is ahead of the operator's, if known.
    pub skew: Option<SignedDuration>,
}

/// Why Valet has not yet tested what a store enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untried {
    /// The reason of the condition.
    pub reason: Reason,
    /// The explanation as a clause.
    pub why: String,
    /// Whether only write-once uploads need the test.
    pub only_write_once: bool,
}

/// The access rules of a store.
#[derive(Clone, Debug)]
pub struct RulesView {
    pub rules: Arc<Vec<ClusterAccessRule>>,
    /// Labels of the grant's namespace, for the selectors of the rules.
    pub namespace_labels: Arc<BTreeMap<String, String>>,
}

/// What a store signs with: its bucket, address and long-term credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// A one-way hash: equal for equal settings and credentials, different for any other.
    pub fingerprint: String,
    /// When this process first saw the fingerprint.
    pub since: Timestamp,
}

/// What is known about the Secret with the wanted name.
#[derive(Clone, Debug)]
// One value exists per reconcile, so boxing the large variant would save nothing.
#[allow(clippy::large_enum_variant)]
pub enum SecretFact {
    /// The Secret was not read yet.
    Unread,
    /// The Secret does not exist.
    Absent,
    /// The Secret exists.
    Present(SecretView),
}

/// The metadata of a Secret, without its data. The times and numbers are evidence. They are absent if the Secret is
/// not as Valet wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretView {
    /// `metadata.uid`, for preconditions.
    pub uid: String,
    /// `metadata.resourceVersion`, for preconditions.
    pub resource_version: String,
    /// The owner of the Secret.
    pub owner: Owner,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its data and Valet's annotations are as Valet wrote them.
    pub is_authentic: bool,
    /// Whether the grant is its only owner.
    pub has_sole_owner: bool,
    /// Its finalizers. Valet sets none on a Secret.
    pub finalizers: Vec<String>,
    /// Whether the Secret has any data.
    pub has_data: bool,
    /// When its credential was signed.
    pub issued_at: Option<Timestamp>,
    /// When its credential expires.
    pub expires_at: Option<Timestamp>,
    /// The generation of the grant for which the Secret was last written.
    pub generation: Option<i64>,
    /// The lifetime that the grant asked for when the credential was signed.
    pub expiration_seconds: Option<i64>,
    /// The fingerprint of the credentials that signed it.
    pub signed_with: Option<String>,
    /// How many credentials the grant had before this one.
    pub renewals: Option<i64>,
    /// When the last earlier credential expires, if it expires later than this one.
    pub earlier_expires_at: Option<Timestamp>,
    /// The store's ID of the multipart upload that its URLs are for.
    pub upload_id: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl SecretView {
    /// Reads the evidence from the annotations, if the Secret is as Valet wrote it.
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

/// The owner of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This grant. The type, the label, the controller reference and the UID all match.
    ThisGrant,
    /// A deleted grant with the same kind and name. The garbage collector deletes the Secret.
    Predecessor,
    /// Another owner. The text gives the evidence.
    Foreign(&'static str),
}

/// What is known about the object.
#[derive(Clone, Debug)]
pub enum ObjectFact {
    /// The object was not read yet.
    Unread,
    /// The store has no such object.
    Absent,
    /// The object exists.
    Present {
        /// The store's description of the object.
        object: ObservedObject,
        /// When the object was last modified, by the operator's clock: the time of the response minus the object's
        /// age by the store's clock. `None` if the store does not return a time.
        modified_at: Option<Timestamp>,
    },
    /// The store's credentials may not read the object.
    Hidden,
    /// The store rejected the request and its clock differs from the operator's, so neither the credentials nor the
    /// object can be judged. The text is a clause with the difference.
    ClockSkewed(String),
    /// The store did not answer, or answered with a server error. The message contains no secrets.
    Unreachable(String),
}

/// What is known about a multipart upload.
#[derive(Clone, Debug, PartialEq)]
pub enum UploadFact {
    /// The upload was not read yet.
    Unread,
    /// The upload is in progress and has these parts.
    Open(Vec<ArrivedPart>),
    /// The store does not have the upload. It was completed or aborted.
    Gone,
    /// Valet aborted the upload in this reconcile.
    Aborted {
        /// The number of parts that had arrived.
        parts: usize,
    },
    /// The store's credentials may not list the parts.
    Hidden,
    /// The store did not answer, or answered with a server error. The message contains no secrets.
    Unreachable(String),
}

/// An uploaded part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrivedPart {
    /// The part number, from 1.
    pub number: i64,
    /// The size in bytes.
    pub size: i64,
    /// The part's ETag, which completes the upload.
    pub e_tag: String,
}

/// What is known about all multipart uploads of one object key.
#[derive(Clone, Debug, PartialEq)]
pub enum UploadsFact {
    /// The uploads were not listed yet.
    Unread,
    /// These uploads are in progress.
    Listed {
        uploads: Vec<OpenUpload>,
        /// Whether another unfinished grant of this cluster has a multipart upload for the same object. Then an
        /// upload may belong to that grant.
        contested: bool,
    },
    /// The store's credentials may not list the uploads.
    Hidden,
    /// The store did not answer, or answered with a server error. The message contains no secrets.
    Unreachable(String),
}

/// A multipart upload that is in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenUpload {
    /// The store's ID of the upload.
    pub id: String,
    /// When the upload was initiated, by the store's clock.
    pub begun: Option<Timestamp>,
    /// Whether the upload has at least one part.
    pub has_parts: bool,
}

/// Whether the quota allows one more live grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaFact {
    /// The quota was not checked yet.
    Unasked,
    /// The quota allows it, and a place is reserved for this grant.
    Given,
    /// The quota is used up until another grant's credential expires.
    Full(QuotaLimit),
}
