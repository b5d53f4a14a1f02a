//! Writes the labels and annotations of the grant Secret, and corrects them after a change by another client.

use std::{
    collections::BTreeMap,
    ops::ControlFlow::{self, Break, Continue},
};

use jiff::Timestamp;

use super::{credential_record::CredentialRecord, evaluator::Evaluator};
use crate::{
    api::{MANAGED_BY_LABEL, MANAGED_BY_VALUE, annotation},
    core::{facts::SecretView, lifetime::Lifetime, step::Step},
};

impl Evaluator<'_> {
    /// Returns the labels and annotations that the Secret must have. Valet's own labels and annotations override
    /// those of the tenant.
    pub(super) fn metadata(&self, record: &CredentialRecord) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let credential = record.credential;
        let template = self.g.template();
        let mut labels = template.labels;
        labels.insert(MANAGED_BY_LABEL.into(), MANAGED_BY_VALUE.into());
        let mut annotations = template.annotations;
        let store = &self.g.terms.store_ref;
        annotations.extend([
            (annotation::ISSUED_AT.into(), credential.issued_at.to_string()),
            (annotation::EXPIRES_AT.into(), credential.expires_at.to_string()),
            (annotation::GRANT_UID.into(), self.g.uid.clone()),
            (annotation::GRANT_GENERATION.into(), self.g.generation.to_string()),
            (
                annotation::STORE.into(),
                format!("{}/{}", store.kind.as_str(), store.name),
            ),
        ]);
        if let Some(seconds) = record.expiration_seconds {
            annotations.insert(annotation::EXPIRATION_SECONDS.into(), seconds.to_string());
        }
        if let Some(fingerprint) = &record.signed_with {
            annotations.insert(annotation::SIGNED_WITH.into(), fingerprint.clone());
        }
        if record.renewals > 0 {
            annotations.insert(annotation::RENEWALS.into(), record.renewals.to_string());
        }
        if let Some(upload) = self.upload_id() {
            annotations.insert(annotation::UPLOAD_ID.into(), upload.to_owned());
        }
        if let Some(end) = record.earlier {
            annotations.insert(annotation::EARLIER_EXPIRES_AT.into(), end.to_string());
        }
        (labels, annotations)
    }

    /// Corrects the labels, the annotations and the owner of the Secret that contains the credential. `credential` is the
    /// lifetime of this credential.
    ///
    /// If another client repeatedly changes the metadata, Valet waits before it corrects the metadata. In this case,
    /// the result is the time of the correction.
    pub(super) fn correct_metadata(
        &self,
        secret: &SecretView,
        credential: Lifetime,
    ) -> ControlFlow<Step, Option<Timestamp>> {
        let (labels, annotations) = self.metadata(&CredentialRecord {
            expiration_seconds: Some(self.requested_seconds()),
            ..self.record(credential)
        });
        let template_gone = |have: &BTreeMap<String, String>, want: &BTreeMap<String, String>| {
            want.iter().any(|(k, v)| have.get(k) != Some(v))
        };
        let differs = template_gone(&secret.labels, &labels)
            || template_gone(&secret.annotations, &annotations)
            || !secret.has_sole_owner;
        if !differs {
            return Continue(None);
        }
        // Valet has already written the correct metadata for this generation of the grant. If the metadata is now
        // different, a client other than Valet has changed it.
        let is_repair = secret.generation == Some(self.g.generation);
        if let Some(due) = self.f.repairs.due(self.now).filter(|_| is_repair) {
            return Continue(Some(due));
        }
        let (mut all_labels, mut all_annotations) = (secret.labels.clone(), secret.annotations.clone());
        all_labels.extend(labels);
        all_annotations.extend(annotations);
        Break(Step::UpdateMetadata {
            uid: secret.uid.clone(),
            resource_version: secret.resource_version.clone(),
            labels: all_labels,
            annotations: all_annotations,
            is_repair,
        })
    }
}
