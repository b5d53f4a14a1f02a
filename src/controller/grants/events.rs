//! Reports the results of a reconcile: writes the grant's status, counts metrics and writes Events.

use futures::future::BoxFuture;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType},
};
use serde_json::{Map, Value, json};
use tracing::info;

use super::{Error, FIELD_MANAGER, Reconciliation, call};
use crate::{
    api::{Grant, GrantStatus, Operation, Progress, Reason, printable},
    core::GrantEvent,
    core::record::Subject,
    telemetry::warn_once,
};

impl<G: Grant> Reconciliation<'_, G> {
    pub(super) async fn report(&mut self, mut status: GrantStatus, notice: Option<GrantEvent>) -> Result<(), Error> {
        let api = self.api();
        let uid = self.facts.grant.uid.clone();
        let subject = Subject {
            uid: &uid,
            operation: G::OPERATION,
        };
        status.record_signature = Some(self.context.memory.records().sign_status(subject, &status));
        self.context.memory.accept_status(&uid, Some(&status));
        // The patch also removes status fields that other clients have written.
        let written = self.grant.grant_status().cloned().unwrap_or_default();
        let patch = json!({
            // The UID and the resource version are preconditions. The patch fails if the grant was replaced or
            // changed after it was read.
            "metadata": {"uid": self.facts.grant.uid, "resourceVersion": self.grant.resource_version()},
            "status": merge(&written, &status),
        });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default()
        };
        let written = call(
            "writing the grant's status",
            api.patch_status(&self.facts.grant.name, &params, &Patch::Merge(patch)),
        )
        .await;
        let written = match written {
            Ok(written) => written,
            Err(Error::Conflict(_)) => return self.read_grant().await,
            Err(e) => return Err(e),
        };
        self.count(&status);
        if let Some(kept) = written.grant_status().filter(|s| s.record_signature.is_none()) {
            self.context.memory.lost_signature(&uid, kept);
            self.context.memory.accept_status(&uid, Some(kept));
            static TOLD: std::sync::Once = std::sync::Once::new();
            TOLD.call_once(|| {
                tracing::error!(
                    "the installed CRDs are older than this operator and drop status.recordSignature, so Valet restarts finished grants at each start of the operator; upgrade the CRDs: helm upgrade, or valet crds | kubectl apply -f -"
                );
            });
        }
        self.has_grant(written);
        if let Some(notice) = notice {
            self.tell(notice).await;
        }
        Ok(())
    }

    pub(super) fn count(&self, status: &GrantStatus) {
        let ready = |s: &GrantStatus| {
            s.conditions
                .iter()
                .find(|c| c.type_ == "Ready")
                .map(|c| c.reason.clone())
        };
        let (before, after) = (ready(&self.facts.grant.status), ready(status));
        if before == after {
            return;
        }
        let Some(reason) = Reason::ALL.into_iter().find(|r| Some(r.as_str()) == after.as_deref()) else {
            return;
        };
        if status.finished_time.is_some() {
            self.context.metrics.finished(G::OPERATION, reason);
            if let Some(heard) = self.heard.filter(|_| reason == Reason::Completed) {
                self.context
                    .metrics
                    .completed_after_notification(heard.elapsed().as_secs_f64());
            }
        } else if reason.progress() == Progress::Stalled {
            let (namespace, name) = (&self.facts.grant.namespace, &self.facts.grant.name);
            info!(
                kind = G::OPERATION.kind(),
                namespace,
                name,
                reason = reason.as_str(),
                "grant refused"
            );
            self.context.metrics.refused(G::OPERATION, namespace, reason);
        }
    }

    pub(super) async fn tell(&self, notice: GrantEvent) {
        let event = Event {
            type_: EventType::Warning,
            reason: notice.reason.as_str().into(),
            note: Some(printable(&notice.message).into_owned()),
            action: match G::OPERATION {
                Operation::Upload => "GrantUpload",
                Operation::Download => "GrantDownload",
            }
            .into(),
            secondary: None,
        };
        let publish: BoxFuture<'_, _> =
            Box::pin(async { self.context.recorder.publish(&event, &self.grant.object_ref(&())).await });
        if let Err(error) = call("writing an event", publish).await {
            // A failure to write the Event is only logged, because the status contains the same information.
            warn_once!(
                &error.cause(),
                namespace = self.facts.grant.namespace,
                name = self.facts.grant.name,
                "{error}"
            );
        }
    }
}

/// Returns a JSON merge patch (RFC 7396) that turns the status `old` into the status `new`. The patch sets fields
/// that are missing in `new` to null.
fn merge(old: &GrantStatus, new: &GrantStatus) -> Value {
    let object = |status: &GrantStatus| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (old, mut new) = (object(old), object(new));
    for gone in old.keys() {
        new.entry(gone.clone()).or_insert(Value::Null);
    }
    Value::Object(new)
}
