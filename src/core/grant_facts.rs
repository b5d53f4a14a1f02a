use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{record::KnownStatus, renew_request::RenewRequest};
use crate::api::{
    GROUP, Grant, GrantStatus, MULTIPART_FINALIZER, Operation, OperationSpec, SecretTemplate, Terms, annotation,
};

/// Facts from the grant object.
#[derive(Clone, Debug, PartialEq)]
pub struct GrantFacts {
    /// The namespace of the grant and of its Secret.
    pub namespace: String,
    pub name: String,
    /// The grant's UID. If a user deletes a grant and creates a new grant with the same name, the two grants have
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
    pub operation_spec: OperationSpec,
    /// The status as Valet last wrote it. It does not contain changes that clients other than Valet made.
    pub status: GrantStatus,
    /// True if the cluster has exactly the status that Valet last wrote. Otherwise Valet must write the status again.
    pub status_is_own: bool,
    /// The GitOps tool that would create the grant again if Valet deleted the grant.
    pub gitops_tool: Option<&'static str>,
    /// The request for a new credential, from the annotation `renew-requested-at`.
    pub renew_requested: RenewRequest,
    /// The schema rules that the spec violates. The list is always empty if the installed CRD is at least as new as
    /// this version of Valet.
    pub broken_rules: Vec<String>,
}

impl GrantFacts {
    /// Reads all facts about a grant except its status. [`GrantFacts::with_status`] adds the status.
    pub fn of(grant: &impl Grant) -> Self {
        Self::with_broken_rules(grant, grant.check().err().unwrap_or_default())
    }

    /// Does the same as [`GrantFacts::of`], for a grant whose schema rules Valet has evaluated before. `broken_rules`
    /// are the rules that the spec violates.
    pub fn with_broken_rules(grant: &impl Grant, broken_rules: Vec<String>) -> Self {
        let meta = grant.meta();
        let operation_spec = grant.operation_spec();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            deleting: meta.deletion_timestamp.is_some(),
            deleted_at: meta.deletion_timestamp.as_ref().map(|t| t.0),
            // Valet never adds the finalizer to a DownloadGrant. If a DownloadGrant has the finalizer, another
            // program added the finalizer, and Valet does not remove it.
            held: operation_spec.operation() == Operation::Upload
                && meta.finalizers.iter().flatten().any(|f| f == MULTIPART_FINALIZER),
            terms: grant.terms().clone(),
            operation_spec,
            status: GrantStatus::default(),
            status_is_own: false,
            gitops_tool: gitops_tool(meta.labels.as_ref(), meta.annotations.as_ref()),
            renew_requested: RenewRequest::parse(
                meta.annotations
                    .as_ref()
                    .and_then(|a| a.get(annotation::RENEW_REQUESTED_AT))
                    .map(String::as_str),
            ),
            broken_rules,
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
fn gitops_tool(
    labels: Option<&BTreeMap<String, String>>,
    annotations: Option<&BTreeMap<String, String>>,
) -> Option<&'static str> {
    const LABELS: [(&str, &str); 4] = [
        ("kustomize.toolkit.fluxcd.io/name", "Flux"),
        ("helm.toolkit.fluxcd.io/name", "Flux"),
        ("argocd.argoproj.io/instance", "Argo CD"),
        // Argo CD before version 3 sets this label by default, and Helm charts also set this label. Valet cannot find
        // out which of the two set the label. If Helm set the label, the only effect is that Valet keeps a finished
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
