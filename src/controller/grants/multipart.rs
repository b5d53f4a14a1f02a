//! Executes the steps of a decision that concern multipart uploads.

use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tracing::{info, warn};

use super::{Error, FIELD_MANAGER, Reconciliation, call};
use crate::{
    api::{Grant, MULTIPART_FINALIZER, UploadMode, annotation, printable},
    core::{
        AbortAccess, Access, Assembly, GrantEvent, ObjectFact, Publish, SecretFact, SignError, UploadFact,
        UploadsFact, store_id,
    },
    provider::{Completion, Multipart, Provider},
};

/// The message if there is no connection to the store.
const NO_STORE: &str = "the store was deleted, or cannot be used";

impl<G: Grant> Reconciliation<'_, G> {
    /// Remembers the connection to the store of a grant that has the finalizer for multipart uploads. If the store
    /// can no longer be used, this method restores the remembered connection. Valet needs it because the uploaded
    /// parts are still in the bucket.
    pub(super) fn remember_store(&mut self) {
        let grant = &self.facts.grant;
        if !grant.held {
            return;
        }
        match &self.provider {
            Some(provider) => self.context.memory.keep_provider(&grant.uid, Some(provider.clone())),
            None => self.provider = self.context.memory.provider(&grant.uid),
        }
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        self.provider.as_deref().and_then(Provider::multipart)
    }

    pub(super) async fn read_upload(&mut self, access: &Access, upload: &str) -> Result<(), Error> {
        self.may_ask_store()?;
        let fact = match self.multipart() {
            Some(store) => self
                .within(store.arrived(access, upload))
                .await
                .unwrap_or_else(UploadFact::Unreachable),
            None => UploadFact::Unreachable(NO_STORE.into()),
        };
        let outcome = match fact {
            UploadFact::Open(_) => Some("absent"),
            UploadFact::Hidden => Some("forbidden"),
            UploadFact::Unreachable(_) => Some("error"),
            // The metrics count this poll when the HEAD request follows.
            UploadFact::Gone | UploadFact::Aborted { .. } | UploadFact::Unread => None,
        };
        let grant = &self.facts.grant;
        if let Some(outcome) = outcome {
            let (kind, namespace, name) = store_id(&grant.terms.store_ref, &grant.namespace);
            self.context.metrics.looked((kind, &namespace, &name), outcome);
        }
        if fact == UploadFact::Gone {
            self.facts.object = ObjectFact::Unread;
        }
        self.facts.upload = fact;
        self.facts.last_poll = Some(self.now);
        self.facts.poll_requested = false;
        self.context.memory.looked(&grant.uid, self.now, self.heard);
        Ok(())
    }

    pub(super) async fn read_uploads(&mut self, access: &Access) -> Result<(), Error> {
        self.may_ask_store()?;
        // If this process initiated an upload that no Secret records, it knows the upload ID. It therefore aborts the
        // upload without a list request.
        let uid = &self.facts.grant.uid;
        if let (Some(begun), Some(store)) = (self.context.memory.begun(uid), self.multipart())
            && self
                .within(store.abort(&access.to_abort(&begun)))
                .await
                .is_ok_and(|aborted| aborted.is_ok())
        {
            self.context.memory.aborted(uid, &begun);
        }
        self.facts.uploads = match self.multipart() {
            Some(store) => self
                .within(store.open(access))
                .await
                .unwrap_or_else(UploadsFact::Unreachable),
            None => UploadsFact::Unreachable(NO_STORE.into()),
        };
        let is_contested = self.is_contested();
        if let UploadsFact::Listed { uploads, contested } = &mut self.facts.uploads {
            *contested = !uploads.is_empty() && is_contested;
        }
        Ok(())
    }

    /// Returns true if another unfinished grant has a multipart upload for the same object key. The grants may refer
    /// to different stores, because two stores can use the same bucket.
    fn is_contested(&self) -> bool {
        let grant = &self.facts.grant;
        self.context
            .caller
            .known()
            .iter()
            .filter_map(|other| other.0.as_ref().ok())
            .any(|other| {
                let terms = other.terms();
                other.uid().as_deref() != Some(&grant.uid)
                    && terms.key == grant.terms.key
                    && other.ask().parts().is_some()
                    && other.grant_status().is_none_or(|status| status.finished_time.is_none())
            })
    }

    pub(super) async fn hold(&mut self) -> Result<(), Error> {
        let mut finalizers = self.grant.finalizers().to_vec();
        finalizers.push(MULTIPART_FINALIZER.to_owned());
        self.write_finalizers("adding the grant's finalizer", finalizers)
            .await?;
        self.remember_store();
        Ok(())
    }

    pub(super) async fn release(&mut self, notice: Option<GrantEvent>) -> Result<(), Error> {
        if let Some(notice) = notice {
            // The message is also logged, because Events cannot be written in a namespace that is being deleted.
            warn!(
                namespace = self.facts.grant.namespace,
                name = self.facts.grant.name,
                "{}",
                printable(&notice.message)
            );
            self.context.metrics.upload_in_parts("abandoned");
            self.tell(notice).await;
        }
        let finalizers = self.grant.finalizers().iter().filter(|f| *f != MULTIPART_FINALIZER);
        let finalizers = finalizers.cloned().collect();
        self.write_finalizers("removing the grant's finalizer", finalizers)
            .await?;
        self.context.memory.keep_provider(&self.facts.grant.uid, None);
        Ok(())
    }

    async fn write_finalizers(&mut self, what: &'static str, finalizers: Vec<String>) -> Result<(), Error> {
        let patch = json!({"metadata": {
            // The UID and the resource version are preconditions. The patch fails if another client has changed the
            // finalizers.
            "uid": self.facts.grant.uid,
            "resourceVersion": self.grant.resource_version(),
            "finalizers": finalizers,
        }});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default()
        };
        let api = self.api();
        match call(what, api.patch(&self.facts.grant.name, &params, &Patch::Merge(patch))).await {
            Ok(written) => {
                self.has_grant(written);
                Ok(())
            }
            Err(Error::Conflict(_)) => self.read_grant().await,
            Err(e) => Err(e),
        }
    }

    /// Initiates the multipart upload for which the part URLs are signed, unless the grant already has an upload.
    /// Only this process knows the upload ID until the Secret is written. A second attempt in this process therefore
    /// uses the same upload.
    pub(super) async fn begin(&self, provider: &dyn Provider, publish: &mut Publish) -> Result<(), SignError> {
        if publish.request.ask.parts().is_none() || publish.request.upload.is_some() {
            return Ok(());
        }
        let uid = &self.facts.grant.uid;
        let upload = match self.context.memory.begun(uid) {
            Some(begun) => begun,
            None => {
                let store = multipart(provider)?;
                let begun = store.begin(&publish.request).await?;
                self.context.memory.keep_begun(uid, begun.clone());
                self.context.metrics.upload_in_parts("begun");
                begun
            }
        };
        publish.annotations.insert(annotation::UPLOAD_ID.into(), upload.clone());
        publish.request.set_upload(upload);
        Ok(())
    }

    /// Aborts the upload that this process initiated, if the Secret records a different upload. In this case another
    /// replica wrote the Secret first, and no client uses the upload of this process.
    pub(super) async fn drop_loser(&mut self, access: &Access) {
        let uid = self.facts.grant.uid.clone();
        let SecretFact::Present(secret) = &self.facts.secret else {
            return;
        };
        let recorded = secret.upload_id.clone();
        let Some(begun) = self.context.memory.begun(&uid) else {
            return;
        };
        if recorded.as_ref() == Some(&begun) {
            self.context.memory.recorded(&uid);
            return;
        }
        if let Some(store) = self.multipart()
            && let Err(why) = self.within(store.abort(&access.to_abort(&begun))).await.flatten()
        {
            // Valet finds the upload again and aborts it when the grant ends.
            warn!(
                namespace = self.facts.grant.namespace,
                name = self.facts.grant.name,
                "an unused multipart upload could not be aborted: {why}"
            );
        }
        self.context.memory.aborted(&uid, &begun);
    }

    pub(super) async fn complete(&mut self, access: &Access, assembly: Assembly) -> Result<(), Error> {
        self.may_ask_store()?;
        let completion = match self.provider.clone() {
            Some(provider) => {
                let (access, assembly) = (access.clone(), assembly.clone());
                // If the reconcile reaches its deadline, the task continues for up to one minute. A store may need
                // this time to assemble many parts, and closing the connection could interrupt it. The next poll
                // finds the result.
                let task = tokio::spawn(async move {
                    match provider.multipart() {
                        Some(store) => store.complete(&access, &assembly).await,
                        None => Completion::Unreachable(NO_STORE.into()),
                    }
                });
                let ended = self.within(task).await;
                let ended = ended.and_then(|joined| joined.map_err(|_| "the request was interrupted".into()));
                ended.unwrap_or_else(Completion::Unreachable)
            }
            None => Completion::Unreachable(NO_STORE.into()),
        };
        match completion {
            Completion::Done(object) => {
                let grant = &self.facts.grant;
                info!(
                    kind = G::OPERATION.kind(),
                    namespace = grant.namespace,
                    name = grant.name,
                    parts = assembly.parts.len(),
                    "multipart upload completed"
                );
                self.context.metrics.upload_in_parts("completed");
                self.facts.upload = UploadFact::Gone;
                self.head(access).await?;
                if !matches!(self.facts.object, ObjectFact::Present { .. }) {
                    // The store's credentials have permission to write the object but not to read it. The object
                    // exists, because the store has just confirmed the upload.
                    self.facts.object = ObjectFact::Present {
                        object,
                        modified_at: Some(self.now),
                    };
                }
            }
            Completion::Exists => {
                self.facts.upload = UploadFact::Unread;
                self.facts.object = ObjectFact::Unread;
                self.facts.completion_refused = Some("another client has written the object in the meantime".into());
            }
            Completion::Gone => {
                self.facts.upload = UploadFact::Gone;
                self.facts.object = ObjectFact::Unread;
            }
            Completion::Refused(why) => self.facts.completion_refused = Some(why),
            Completion::Unreachable(why) => self.facts.upload = UploadFact::Unreachable(why),
        }
        Ok(())
    }

    /// Aborts the multipart upload for which the grant's part URLs were signed.
    pub(super) async fn abort(&mut self, upload: &AbortAccess) -> Result<(), Error> {
        self.may_ask_store()?;
        let parts = match &self.facts.upload {
            UploadFact::Open(parts) => parts.len(),
            _ => 0,
        };
        self.facts.upload = match self.abort_one(upload).await {
            Ok(()) => {
                self.context.metrics.upload_in_parts("aborted");
                info!(
                    kind = G::OPERATION.kind(),
                    namespace = self.facts.grant.namespace,
                    name = self.facts.grant.name,
                    parts,
                    "multipart upload aborted"
                );
                UploadFact::Aborted { parts }
            }
            Err(why) => UploadFact::Unreachable(why),
        };
        Ok(())
    }

    /// Aborts multipart uploads that no Secret records.
    pub(super) async fn abort_orphans(&mut self, uploads: &[AbortAccess]) -> Result<(), Error> {
        self.may_ask_store()?;
        self.facts.uploads = UploadsFact::Unread;
        for upload in uploads {
            if let Err(why) = self.abort_one(upload).await {
                self.facts.uploads = UploadsFact::Unreachable(why);
                break;
            }
        }
        Ok(())
    }

    async fn abort_one(&self, upload: &AbortAccess) -> Result<(), String> {
        let store = self.multipart().ok_or(NO_STORE)?;
        self.within(store.abort(upload)).await??;
        self.context.memory.aborted(&self.facts.grant.uid, upload.upload());
        Ok(())
    }
}

fn multipart(provider: &dyn Provider) -> Result<&dyn Multipart, SignError> {
    let mode = UploadMode::Multipart.as_str();
    provider.multipart().ok_or_else(|| {
        SignError::Impossible(format!(
            "the store does not support multipart uploads (spec.mode: {mode})"
        ))
    })
}
