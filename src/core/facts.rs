use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{metadata::MetadataDomains, places::Limit, renewal::RenewRequest, repair::Repairs};
use crate::{
    api::{
        Ask, Capabilities, ClusterAccessRule, GROUP, Grant, GrantStatus, MULTIPART_FINALIZER, ObservedObject,
        Operation, Reason, SecretTemplate, ShortSessions, Terms, annotation,
    },
    core::record::KnownStatus,
};

/// Everything that a decision rests on. What has not been read yet is a fact, too.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The grant itself.
    pub grant: GrantFacts,
    /// The store that it names.
    pub store: StoreFact,
    /// The rules of a store that cannot be used now, if they are known.
    pub rules: Option<RulesView>,
    /// The Secret of the wanted name.
    pub secret: SecretFact,
    /// The object of the wanted key.
    pub object: ObjectFact,
    /// The upload in parts that the key is for.
    pub upload: UploadFact,
    /// All uploads in parts of the wanted key.
    pub uploads: UploadsFact,
    /// The multipart upload that Valet itself began for this very grant, as the memory of this process has it. The records
    /// name it, too, in [`SecretFact`] and in the grant's status, which are as Valet wrote them.
    pub own_upload: Option<String>,
    /// Why the store did not put the parts together, if that was tried just now. No secrets in the message.
    pub completion_refused: Option<String>,
    /// Whether there is room for one more grant with a key.
    pub place: PlaceFact,
    /// When this process last looked for the object.
    pub last_look: Option<Timestamp>,
    /// Whether somebody says that the object has come, and this process has not looked since. Nothing is believed but
    /// that now is a good time to look.
    pub look_requested: bool,
    /// What this process knows of restorations of the Secret.
    pub repairs: Repairs,
    /// Why the apiserver did not take the Secret, if it was tried just now. No secrets in the message.
    pub secret_refused: Option<String>,
    /// Why the apiserver did not let the Secret be emptied, if it was tried just now. No secrets in the message.
    pub emptying_refused: Option<String>,
    /// Why the provider did not sign, if it was tried just now. No secrets in the message.
    pub sign_refused: Option<(Reason, String)>,
    /// What the operator was started with.
    pub settings: Settings,
}

/// Defaults that the operator was started with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Seconds until a finished grant is deleted, unless its spec says otherwise; `None` keeps it.
    pub ttl_seconds_after_finished: Option<i64>,
    /// The domains of labels and annotations that grants may put on their Secrets.
    pub secret_metadata: MetadataDomains,
}

/// What one reads off the grant.
#[derive(Clone, Debug)]
pub struct GrantFacts {
    /// Namespace of the grant and of its Secret.
    pub namespace: String,
    /// The grant's name.
    pub name: String,
    /// The grant's UID; never the same for two grants of one name.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// Whether the grant is being deleted.
    pub deleting: bool,
    /// Since when.
    pub deleted_at: Option<Timestamp>,
    /// Whether its deletion waits for us: it has the finalizer of uploads in parts.
    pub held: bool,
    /// The spec's shared part.
    pub terms: Terms,
    /// The spec's own part.
    pub ask: Ask,
    /// The status as Valet wrote it last. Of a status that somebody else has written nothing is a fact.
    pub status: GrantStatus,
    /// Whether that is what stands in the cluster. If not, it has to be written again.
    pub status_is_own: bool,
    /// The GitOps tool that would make the grant again if it were deleted.
    pub tracked_by: Option<&'static str>,
    /// Whether and when somebody wants a new key.
    pub renew_requested: RenewRequest,
    /// Schema rules that the spec breaks: empty unless the installed CRD is older than this program.
    pub broken_rules: Vec<String>,
}

impl Facts {
    /// Only the grant is known.
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
            place: PlaceFact::Unasked,
            last_look: None,
            look_requested: false,
            repairs: Repairs::default(),
            secret_refused: None,
            emptying_refused: None,
            sign_refused: None,
            settings,
        }
    }
}

impl GrantFacts {
    /// Reads a grant. Of its status nothing is known yet: see [`GrantFacts::with_status`].
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
            // On a download it is somebody else's, whatever it is called, and not Valet's to take off.
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

    /// Adds what may be believed of the grant's status.
    #[must_use]
    pub fn with_status(self, known: KnownStatus) -> Self {
        Self {
            status: known.status,
            status_is_own: known.is_own,
            ..self
        }
    }

    /// Name of the Secret that receives the key.
    pub fn secret_name(&self) -> &str {
        self.terms.secret_name.as_deref().unwrap_or(&self.name)
    }

    /// The tenant's labels and annotations for the Secret.
    pub fn template(&self) -> SecretTemplate {
        self.terms.secret_template.clone().unwrap_or_default()
    }
}

/// The annotation by which Argo CD does.
const TRACKING_ID: &str = "argocd.argoproj.io/tracking-id";

/// Whether an annotation of a grant or a store is one that Valet reads: its own, and that of a GitOps tool.
pub fn is_read(annotation: &str) -> bool {
    annotation == TRACKING_ID || annotation.split('/').next() == Some(GROUP)
}

/// Labels and annotations by which GitOps tools recognise what they have made.
fn tracked_by(
    labels: Option<&BTreeMap<String, String>>,
    annotations: Option<&BTreeMap<String, String>>,
) -> Option<&'static str> {
    const LABELS: [(&str, &str); 4] = [
        ("kustomize.toolkit.fluxcd.io/name", "Flux"),
        ("helm.toolkit.fluxcd.io/name", "Flux"),
        ("argocd.argoproj.io/instance", "Argo CD"),
        // Argo CD's own default before version 3; Helm charts set it, too, and keeping their grants harms nobody.
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

/// What is known of the store.
#[derive(Clone, Debug)]
pub enum StoreFact {
    /// Nobody has looked.
    Unread,
    /// There is no such store.
    Missing,
    /// There is one, and it cannot be used now.
    Unusable {
        /// Why.
        reason: Reason,
        /// Why, in a sentence for the person who owns the store. No secrets.
        message: String,
    },
    /// It can be used.
    Usable(StoreView),
}

/// A store that can be used.
#[derive(Clone, Debug)]
pub struct StoreView {
    /// How many grants may have a key at one time, in all namespaces together.
    pub max_live_grants: Option<i64>,
    /// The access rules.
    pub rules: Arc<Vec<ClusterAccessRule>>,
    /// Labels of the grant's namespace, for the rules' selectors.
    pub namespace_labels: Arc<BTreeMap<String, String>>,
    /// What the store can enforce.
    pub capabilities: Arc<Capabilities>,
    /// When the signing credentials end.
    pub credentials_expire: Option<Timestamp>,
    /// What to do if that is before a key should end.
    pub short_sessions: ShortSessions,
    /// What it signs with now, if its provider tells that apart.
    pub signer: Option<Signer>,
    /// Why it is not known yet what the store holds keys for uploads to, where that has to be seen: it does not answer, or its clock
    /// differs.
    pub untried: Option<Untried>,
    /// How far its clock is ahead of the operator's, if it ever said the time.
    pub skew: Option<SignedDuration>,
}

/// Why it is not known yet what a store enforces, where that has to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untried {
    /// From the one list.
    pub reason: Reason,
    /// Why, as a clause.
    pub why: String,
    /// Whether it matters to write-once uploads alone.
    pub only_write_once: bool,
}

/// The access rules of a store, and whom they may choose.
#[derive(Clone, Debug)]
pub struct RulesView {
    /// The rules.
    pub rules: Arc<Vec<ClusterAccessRule>>,
    /// Labels of the grant's namespace, for the rules' selectors.
    pub namespace_labels: Arc<BTreeMap<String, String>>,
}

/// What a store signs with: its bucket, the address, and credentials that last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The same for the same, and another for anything else; it cannot be read backwards.
    pub fingerprint: String,
    /// When this process first saw it.
    pub since: Timestamp,
}

/// What is known of the Secret of the wanted name.
#[derive(Clone, Debug)]
// There is one of these a visit; a box would save nothing.
#[allow(clippy::large_enum_variant)]
pub enum SecretFact {
    /// Nobody has looked.
    Unread,
    /// There is none.
    Absent,
    /// There is one.
    Present(SecretView),
}

/// A Secret's metadata; its data is never a fact. The times and numbers are evidence, and absent from a Secret that is not
/// as Valet wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretView {
    /// `metadata.uid`, for preconditions.
    pub uid: String,
    /// `metadata.resourceVersion`, for preconditions.
    pub resource_version: String,
    /// Whose it is.
    pub owner: Owner,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its data and Valet's annotations are as Valet wrote them.
    pub is_authentic: bool,
    /// Whether the grant is its only owner.
    pub has_sole_owner: bool,
    /// What holds it when it is deleted. Valet sets none on a Secret.
    pub finalizers: Vec<String>,
    /// Whether there is anything in its data.
    pub has_data: bool,
    /// When its key was signed.
    pub issued_at: Option<Timestamp>,
    /// When its key ends.
    pub expires_at: Option<Timestamp>,
    /// The grant's generation that it was last written for.
    pub generation: Option<i64>,
    /// The lifetime that was asked for when its key was signed.
    pub expiration_seconds: Option<i64>,
    /// The fingerprint of what its key was signed with.
    pub signed_with: Option<String>,
    /// How many keys the grant had before this one.
    pub renewals: Option<i64>,
    /// When the last of those ends, if that is later than this one's end.
    pub earlier_expires_at: Option<Timestamp>,
    /// The store's name for the upload in parts that its URLs are for.
    pub upload_id: Option<String>,
    /// All its labels.
    pub labels: BTreeMap<String, String>,
    /// All its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl SecretView {
    /// Reads the evidence off the annotations, if the Secret is as Valet wrote it.
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

/// Whose Secret it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This grant's: type, label, controller reference and UID all say so.
    ThisGrant,
    /// A deleted grant's of the same kind and name; the garbage collector will take it.
    Predecessor,
    /// Somebody else's. Says what shows it.
    Foreign(&'static str),
}

/// What is known of the object.
#[derive(Clone, Debug)]
pub enum ObjectFact {
    /// Nobody has looked.
    Unread,
    /// The store says there is none.
    Absent,
    /// The store described it.
    Present {
        /// As the store described it.
        object: ObservedObject,
        /// When the object was last modified, by our clock: the moment of the store's answer less the object's age,
        /// which is counted by the store's clock alone. `None` if the store does not say.
        modified_at: Option<Timestamp>,
    },
    /// The store's credentials do not permit looking.
    Hidden,
    /// The store refused to be asked, and its clock differs from the operator's: nothing is known of the credentials or the object.
    /// Why, as a clause.
    ClockSkewed(String),
    /// The store did not answer, or answered with an error of its own. No secrets in the message.
    Unreachable(String),
}

/// What is known of an upload in parts.
#[derive(Clone, Debug, PartialEq)]
pub enum UploadFact {
    /// Nobody has looked.
    Unread,
    /// It goes on; these parts have come.
    Open(Vec<ArrivedPart>),
    /// The store does not know it: it was put together or thrown away.
    Gone,
    /// It was thrown away just now, when so many parts had come.
    Aborted {
        /// Their number.
        parts: usize,
    },
    /// The store's credentials do not permit looking.
    Hidden,
    /// The store did not answer, or answered with an error of its own. No secrets in the message.
    Unreachable(String),
}

/// A part that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrivedPart {
    /// From 1.
    pub number: i64,
    /// In bytes.
    pub size: i64,
    /// By which the store knows it.
    pub e_tag: String,
}

/// What is known of all uploads in parts of one key.
#[derive(Clone, Debug, PartialEq)]
pub enum UploadsFact {
    /// Nobody has looked.
    Unread,
    /// These go on.
    Listed {
        /// Each of them.
        uploads: Vec<OpenUpload>,
        /// Whether another grant of this cluster that has not finished is for the same object in parts: then one of
        /// them may be its.
        contested: bool,
    },
    /// The store's credentials do not permit looking.
    Hidden,
    /// The store did not answer, or answered with an error of its own. No secrets in the message.
    Unreachable(String),
}

/// An upload in parts that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenUpload {
    /// The store's name for it.
    pub id: String,
    /// When it was begun, by the store's clock.
    pub begun: Option<Timestamp>,
    /// Whether a part of it has come.
    pub has_parts: bool,
}

/// Whether there is room for one more grant with a key, where their number is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceFact {
    /// Nobody has asked.
    Unasked,
    /// There is, and it is kept for this grant.
    Given,
    /// There is none before another grant's key ends.
    Full(Limit),
}
