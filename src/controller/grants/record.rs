//! Writes log lines and counts metrics for the events of a reconcile.

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::effects::ClusterEffects;
use crate::{
    api::{ConditionType, Grant, GrantStatus, Progress, Reason, printable},
    core::{GrantFacts, ObjectFact, UploadFact, store_id},
    reconcile::Note,
};

impl<G: Grant> ClusterEffects<'_, G> {
    pub(super) fn record(&self, grant: &GrantFacts, note: &Note<'_>) {
        let kind = G::OPERATION.kind();
        let (namespace, name, secret) = (grant.namespace.as_str(), grant.name.as_str(), grant.secret_name());
        let metrics = &self.context.metrics;
        match note {
            Note::CredentialIssued { expires_at, is_first } => {
                info!(kind, namespace, name, secret, expires = %expires_at, "credential issued");
                let age = grant
                    .created
                    .map(|c| Timestamp::now().duration_since(c).as_secs_f64().max(0.0));
                metrics.credential_issued(G::OPERATION, age.filter(|_| *is_first));
            }
            Note::SecretEmptied => info!(
                kind,
                namespace,
                name,
                secret,
                "Valet removed the data from the Secret, because finalizers delay the deletion of the Secret"
            ),
            Note::SecretDeleted => info!(kind, namespace, name, secret, "Secret deleted"),
            Note::StoreChanged => debug!(
                kind,
                namespace,
                name,
                "the store changed while Valet signed the credential; Valet evaluates the grant again"
            ),
            Note::ObjectPolled(found) => self.polled(
                grant,
                match found {
                    ObjectFact::Present { .. } => "present",
                    ObjectFact::Absent => "absent",
                    ObjectFact::Hidden => "forbidden",
                    ObjectFact::ClockSkewed(_) | ObjectFact::Unreachable(_) | ObjectFact::Unread => "error",
                },
            ),
            Note::UploadPolled(found) => match found {
                UploadFact::Open(_) => self.polled(grant, "absent"),
                UploadFact::Hidden => self.polled(grant, "forbidden"),
                UploadFact::Unreachable(_) => self.polled(grant, "error"),
                // The metrics do not count this result as a poll. Valet next sends a HEAD request for the object, and
                // the metrics count that request.
                UploadFact::Gone | UploadFact::Aborted { .. } | UploadFact::Unread => {}
            },
            Note::UploadInitiated => metrics.multipart_upload("initiated"),
            Note::UploadCompleted { parts } => {
                info!(kind, namespace, name, parts, "multipart upload completed");
                metrics.multipart_upload("completed");
            }
            Note::UploadAborted { parts } => {
                info!(kind, namespace, name, parts, "multipart upload aborted");
                metrics.multipart_upload("aborted");
            }
            Note::UploadAbandoned(why) => {
                warn!(namespace, name, "{}", printable(why));
                metrics.multipart_upload("abandoned");
            }
            Note::AbortFailed(why) => warn!(
                namespace,
                name, "an unused multipart upload could not be aborted: {why}"
            ),
            Note::GrantDeleted => info!(kind, namespace, name, "finished grant deleted"),
        }
    }

    fn polled(&self, grant: &GrantFacts, outcome: &'static str) {
        let (kind, namespace, name) = store_id(&grant.terms.store_ref, &grant.namespace);
        self.context.metrics.polled((kind, &namespace, &name), outcome);
    }

    /// Counts a change of the grant's reason.
    pub(super) fn status_written(&self, grant: &GrantFacts, status: &GrantStatus) {
        let ready = |s: &GrantStatus| {
            s.conditions
                .iter()
                .find(|c| c.type_ == ConditionType::Ready.as_str())
                .map(|c| c.reason.clone())
        };
        let (before, after) = (ready(&grant.status), ready(status));
        if before == after {
            return;
        }
        let Some(reason) = after.and_then(|reason| reason.parse::<Reason>().ok()) else {
            return;
        };
        let metrics = &self.context.metrics;
        if status.finished_time.is_some() {
            metrics.finished(G::OPERATION, reason);
            if let Some(notified_at) = self.notified_at.filter(|_| reason == Reason::Completed) {
                metrics.completed_after_notification(notified_at.elapsed().as_secs_f64());
            }
        } else if reason.progress() == Progress::Stalled {
            let (namespace, name) = (&grant.namespace, &grant.name);
            info!(
                kind = G::OPERATION.kind(),
                namespace,
                name,
                reason = reason.as_str(),
                "grant refused"
            );
            metrics.refused(G::OPERATION, namespace, reason);
        }
    }
}
