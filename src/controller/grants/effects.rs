//! Sends the requests of one reconcile of a grant to the apiserver and to the grant's store.

use std::{collections::BTreeMap, future::poll_fn, sync::Arc, task::Poll};

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, Preconditions},
    runtime::events::{Event, EventType},
};
use serde_json::json;
use tokio::time::Instant;

use super::context::Context;
use crate::{
    api::{Grant, GrantStatus, MULTIPART_FINALIZER, Operation, Reason, UploadMode, printable},
    controller::{
        error::call,
        status_writer::{patch_params, write_status},
        store_limiter::StorePermit,
        strip_metadata::strip_grant,
    },
    core::{
        AbortAccess, Access, AllowedRequest, Assembly, Completion, Facts, GrantEvent, GrantFacts, ObjectFact,
        PublishMode, QuotaFact, QuotaLimits, Repairs, SecretFact, SecretView, SignError, Signed, StoreFact,
        StoreView, UploadFact, UploadsFact, record::Subject, store_id,
    },
    provider::{Multipart, Provider},
    reconcile::{DEADLINE, Effects, Error, InitiatedUpload, Note, StoreReading},
    telemetry::warn_once,
};

/// The error message of a request to a store, if Valet has no connection to the store.
const NO_STORE: &str = "the store was deleted, or cannot be used";

/// Gives one reconcile of a grant access to the apiserver, to the grant's store and to the memory of this process.
pub(super) struct ClusterEffects<'a, G: Grant> {
    pub(super) context: &'a Context<G>,
    /// The version of the grant that the next decision uses.
    pub(super) grant: Arc<G>,
    provider: Option<Arc<dyn Provider>>,
    /// The permit of this reconcile to send requests to the store. `None` if the reconcile has no permit.
    permit: Option<StorePermit>,
    /// If a notification caused this reconcile, the arrival time of the notification.
    pub(super) notified_at: Option<Instant>,
    /// The time at which Valet cancels all running requests of this reconcile to the store.
    deadline: Instant,
}

impl<'a, G: Grant> ClusterEffects<'a, G> {
    pub(super) fn new(context: &'a Context<G>, grant: Arc<G>) -> Self {
        let notified_at = context.local_state.notified_at(&grant.uid().unwrap_or_default());
        Self {
            context,
            grant,
            provider: None,
            permit: None,
            notified_at,
            deadline: Instant::now() + DEADLINE,
        }
    }

    /// Returns the facts that are known at the start of the reconcile.
    pub(super) fn first_facts(&self) -> Facts {
        let local_state = &self.context.local_state;
        let mut facts = Facts::new(local_state.facts(self.grant.as_ref()), self.context.settings.clone());
        facts.repairs = local_state.repairs(&facts.grant.uid);
        facts.remembered_secret =
            local_state.remembered_secret(&facts.grant.uid, self.context.resync, Timestamp::now());
        if local_state.has_deleted_secret(&facts.grant.uid, Instant::now()) {
            facts.secret = SecretFact::Absent;
        }
        facts.last_poll = local_state.last_poll(&facts.grant.uid);
        facts.poll_requested = self.notified_at.is_some();
        facts
    }

    /// Waits for the result of a request to the store. If the deadline of the reconcile passes first, cancels the
    /// request and returns a message.
    async fn with_time_limit<T>(&self, work: impl Future<Output = T>) -> Result<T, String> {
        tokio::time::timeout_at(self.deadline, work).await.map_err(|_| {
            format!(
                "the store did not answer within {seconds} s, the time limit of one reconcile",
                seconds = DEADLINE.as_secs()
            )
        })
    }

    /// Waits for the result of a request that signs a credential. Like [`ClusterEffects::with_time_limit`], cancels the request
    /// at the deadline of the reconcile.
    async fn signed_within<T>(&self, work: impl Future<Output = Result<T, SignError>>) -> Result<T, SignError> {
        self.with_time_limit(work).await.unwrap_or_else(|message| {
            let reason = Reason::StoreUnreachable;
            Err(SignError::Credentials { reason, message })
        })
    }

    fn provider(&self) -> Result<Arc<dyn Provider>, SignError> {
        let gone = || SignError::Refused("the store of this grant can no longer be used".into());
        self.provider.clone().ok_or_else(gone)
    }

    fn multipart(&self) -> Option<&dyn Multipart> {
        self.provider.as_deref().and_then(Provider::multipart)
    }

    /// If the grant has the multipart upload finalizer, this method remembers the connection to the grant's store. If
    /// Valet can no longer connect to the store, this method restores the remembered connection. The uploaded parts are
    /// still in the bucket, and Valet needs the connection to abort the upload.
    fn remember_store(&mut self, grant: &GrantFacts) {
        if !grant.held {
            return;
        }
        match &self.provider {
            Some(provider) => self
                .context
                .local_state
                .set_provider(&grant.uid, Some(provider.clone())),
            None => self.provider = self.context.local_state.provider(&grant.uid),
        }
    }

    fn api(&self, grant: &GrantFacts) -> Api<G> {
        Api::namespaced(self.context.client.clone(), &grant.namespace)
    }

    /// Stores the version of the grant that the apiserver returned. The reconcile continues with this version.
    fn has_grant(&mut self, mut now: G) -> GrantFacts {
        strip_grant(&mut now);
        self.grant = Arc::new(now);
        self.context.local_state.wrote(&self.grant);
        // The watch may already have delivered this version, before the apiserver's answer arrived.
        if let Some(cached) = self.context.requeuer.watched(self.grant.as_ref()) {
            self.context.local_state.delivered(cached.as_ref());
        }
        self.context.local_state.facts(self.grant.as_ref())
    }
}

impl<G: Grant> Effects for ClusterEffects<'_, G> {
    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    fn postpones_status(&mut self, grant: &GrantFacts) -> bool {
        self.context.namespace_limiter.has_waiting(grant.terms.store_ref.kind)
    }

    fn take_permit(&mut self, grant: &GrantFacts) -> Result<(), Error> {
        if self.permit.is_none() {
            let id = store_id(&grant.terms.store_ref, &grant.namespace);
            let who = (G::OPERATION, grant.namespace.as_str(), grant.name.as_str());
            self.permit = Some(self.context.store_limiter.take(&id, who).map_err(Error::Queued)?);
        }
        Ok(())
    }

    fn return_permit(&mut self) {
        self.permit = None;
    }

    async fn read_store(&mut self, grant: &GrantFacts, wanted_until: Timestamp) -> Result<StoreReading, Error> {
        let context = self.context;
        let mut found = std::pin::pin!(context.stores.fact(grant, wanted_until));
        // Normally the facts are in memory, and the reconcile needs no permit. Otherwise all reconciles of a namespace
        // would wait for the few permits of one store.
        let found = match poll_fn(|cx| Poll::Ready(found.as_mut().poll(cx))).await {
            Poll::Ready(found) => found?,
            Poll::Pending => {
                self.take_permit(grant)?;
                self.with_time_limit(found).await.map_err(|_| Error::Deadline)??
            }
        };
        self.provider = found.provider;
        self.remember_store(grant);
        Ok(StoreReading {
            fact: found.fact,
            rules: found.rules,
        })
    }

    async fn read_secret(&mut self, grant: &GrantFacts) -> Result<Option<SecretView>, Error> {
        let read_at = Timestamp::now();
        let found = self.context.secrets.view(grant).await?;
        self.context.local_state.saw_secret(&grant.uid, found.as_ref(), read_at);
        Ok(found)
    }

    async fn read_grant(&mut self, grant: &GrantFacts) -> Result<GrantFacts, Error> {
        let now = call("reading the grant", self.api(grant).get(&grant.name)).await?;
        if now.uid().as_deref() != Some(grant.uid.as_str()) {
            return Err(Error::Gone("the grant"));
        }
        Ok(self.has_grant(now))
    }

    async fn reserve_quota(&mut self, grant: &GrantFacts, limits: QuotaLimits, store: &StoreFact) -> QuotaFact {
        let rules = match store {
            StoreFact::Usable(store) => Some(store.rules.clone()),
            StoreFact::Unread | StoreFact::Missing | StoreFact::Unusable { .. } => None,
        };
        self.context.quotas.request(grant, G::OPERATION, limits, rules).await
    }

    async fn read_object(&mut self, access: &Access) -> ObjectFact {
        let Some(provider) = &self.provider else {
            return ObjectFact::Unreachable(NO_STORE.into());
        };
        let found = self.with_time_limit(provider.head(access)).await;
        found.unwrap_or_else(ObjectFact::Unreachable)
    }

    async fn read_upload(&mut self, access: &Access, upload: &str) -> UploadFact {
        let Some(store) = self.multipart() else {
            return UploadFact::Unreachable(NO_STORE.into());
        };
        let found = self.with_time_limit(store.arrived(access, upload)).await;
        found.unwrap_or_else(UploadFact::Unreachable)
    }

    async fn read_uploads(&mut self, access: &Access) -> UploadsFact {
        let Some(store) = self.multipart() else {
            return UploadsFact::Unreachable(NO_STORE.into());
        };
        let found = self.with_time_limit(store.open(access)).await;
        found.unwrap_or_else(UploadsFact::Unreachable)
    }

    fn is_contested(&self, grant: &GrantFacts) -> bool {
        // Stores of other shards can have the same bucket.
        if self.context.foreign.has_multipart_upload(&grant.terms.key) {
            return true;
        }
        self.context
            .requeuer
            .known()
            .iter()
            .filter(|other| other.may_contain(&grant.terms.key))
            .filter_map(|other| other.grant().ok())
            .any(|other| {
                let terms = other.terms();
                other.uid().as_deref() != Some(&grant.uid)
                    && terms.key == grant.terms.key
                    && other.operation_spec().parts().is_some()
                    && other.grant_status().is_none_or(|status| status.finished_time.is_none())
            })
    }

    fn skew(&self) -> Option<SignedDuration> {
        self.provider.as_ref().and_then(|provider| provider.skew())
    }

    fn has_newer_grant(&self, grant: &GrantFacts) -> Result<bool, Error> {
        let Some(watched) = self.context.requeuer.watched(self.grant.as_ref()) else {
            return Err(Error::Gone("the grant"));
        };
        let now = watched.meta();
        let is_changed = now.generation.unwrap_or_default() > grant.generation;
        Ok(is_changed || now.deletion_timestamp.is_some() && !grant.deleting)
    }

    async fn is_current_store(&mut self, grant: &GrantFacts, view: &StoreView) -> Result<bool, Error> {
        let Some(provider) = &self.provider else {
            return Ok(false);
        };
        let (store, namespace) = (&grant.terms.store_ref, &grant.namespace);
        let is_current = self.context.stores.is_current(store, namespace, view, provider).await?;
        if !is_current {
            self.provider = None;
        }
        Ok(is_current)
    }

    fn signs_with_requests(&self) -> bool {
        self.provider.as_ref().is_some_and(|p| p.requires_remote_signing())
    }

    async fn initiate_upload(&mut self, request: &AllowedRequest) -> Result<String, SignError> {
        let provider = self.provider()?;
        let mode = UploadMode::Multipart.as_str();
        let unsupported = || {
            SignError::Impossible(format!(
                "the store does not support multipart uploads (spec.mode: {mode})"
            ))
        };
        let store = provider.multipart().ok_or_else(unsupported)?;
        self.signed_within(store.initiate(request)).await
    }

    async fn sign(&mut self, request: &AllowedRequest) -> Result<Signed, SignError> {
        let provider = self.provider()?;
        self.signed_within(provider.sign(request)).await
    }

    async fn complete_upload(&mut self, access: &Access, assembly: &Assembly) -> Completion {
        let Some(provider) = self.provider.clone() else {
            return Completion::Unreachable(NO_STORE.into());
        };
        let (access, assembly) = (access.clone(), assembly.clone());
        // A store may need up to one minute to assemble many parts. The request runs in a separate task, so that the
        // request continues after the reconcile has reached its deadline. If Valet closed the connection, the store
        // could stop assembling the parts. The next poll finds the result.
        let task = tokio::spawn(async move {
            match provider.multipart() {
                Some(store) => store.complete(&access, &assembly).await,
                None => Completion::Unreachable(NO_STORE.into()),
            }
        });
        let ended = self.with_time_limit(task).await;
        let ended = ended.and_then(|joined| joined.map_err(|_| "the request was interrupted".into()));
        ended.unwrap_or_else(Completion::Unreachable)
    }

    async fn abort_upload(&mut self, upload: &AbortAccess) -> Result<(), String> {
        let store = self.multipart().ok_or(NO_STORE)?;
        self.with_time_limit(store.abort(upload)).await?
    }

    async fn write_secret(
        &mut self,
        grant: &GrantFacts,
        mode: &PublishMode,
        secret: Secret,
    ) -> Result<SecretView, Error> {
        let written = self.context.secrets.publish(grant, mode, secret).await;
        self.wrote_secret(grant, written)
    }

    async fn update_secret_metadata(
        &mut self,
        grant: &GrantFacts,
        uid: &str,
        resource_version: &str,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    ) -> Result<SecretView, Error> {
        let secrets = &self.context.secrets;
        let written = secrets
            .update_metadata(grant, uid, resource_version, labels, annotations)
            .await;
        self.wrote_secret(grant, written)
    }

    async fn empty_secret(
        &mut self,
        grant: &GrantFacts,
        uid: &str,
        resource_version: &str,
    ) -> Result<SecretView, Error> {
        let written = self.context.secrets.empty(grant, uid, resource_version).await;
        self.wrote_secret(grant, written)
    }

    async fn delete_secret(&mut self, grant: &GrantFacts, uid: &str, resource_version: &str) -> Result<bool, Error> {
        let local_state = &self.context.local_state;
        local_state.forget_secret(&grant.uid);
        let is_there = self.context.secrets.delete(grant, uid, resource_version).await?;
        if !is_there {
            // This reconcile can end before it writes the status, for example because it must wait for the store.
            local_state.deleted_secret(&grant.uid, Instant::now());
        }
        Ok(is_there)
    }

    async fn write_status(&mut self, grant: &GrantFacts, mut status: GrantStatus) -> Result<GrantFacts, Error> {
        let uid = grant.uid.as_str();
        let operation = G::OPERATION;
        let local_state = &self.context.local_state;
        status.record_signature = Some(local_state.records().sign_status(Subject { uid, operation }, &status));
        local_state.accept_status(uid, Some(&status));
        let current = self.grant.grant_status().cloned().unwrap_or_default();
        let (api, what) = (self.api(grant), "writing the grant's status");
        let written = write_status(what, &api, self.grant.as_ref(), (&current, &status)).await?;
        self.status_written(grant, &status);
        if let Some(kept) = written.grant_status().filter(|s| s.record_signature.is_none()) {
            local_state.lost_signature(uid, kept);
            local_state.accept_status(uid, Some(kept));
            static TOLD: std::sync::Once = std::sync::Once::new();
            TOLD.call_once(|| {
                tracing::error!(
                    "the installed CRDs are older than this operator, so the API server drops status.recordSignature; after each restart, the operator treats finished grants as new grants; upgrade the CRDs: helm upgrade, or valet crds | kubectl apply -f -"
                );
            });
        }
        Ok(self.has_grant(written))
    }

    async fn write_finalizer(&mut self, grant: &GrantFacts, is_present: bool) -> Result<GrantFacts, Error> {
        let others = self.grant.finalizers().iter().filter(|f| *f != MULTIPART_FINALIZER);
        let own = is_present.then(|| MULTIPART_FINALIZER.to_owned());
        let finalizers: Vec<_> = others.cloned().chain(own).collect();
        let patch = json!({"metadata": {
            // The UID and the resource version are preconditions. The patch fails if a client other than Valet has
            // changed the finalizers.
            "uid": grant.uid,
            "resourceVersion": self.grant.resource_version(),
            "finalizers": finalizers,
        }});
        let what = match is_present {
            true => "adding the grant's finalizer",
            false => "removing the grant's finalizer",
        };
        let api = self.api(grant);
        let (params, patch) = (patch_params(), Patch::Merge(patch));
        let written = call(what, api.patch(&grant.name, &params, &patch)).await?;
        let written = self.has_grant(written);
        match is_present {
            true => self.remember_store(&written),
            false => self.context.local_state.set_provider(&grant.uid, None),
        }
        Ok(written)
    }

    async fn delete_grant(&mut self, grant: &GrantFacts) -> Result<(), Error> {
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(grant.uid.clone()),
            resource_version: None,
        });
        let api = self.api(grant);
        call("deleting a finished grant", api.delete(&grant.name, &params)).await?;
        Ok(())
    }

    async fn publish_event(&mut self, grant: &GrantFacts, event: GrantEvent) {
        let event = Event {
            type_: EventType::Warning,
            reason: event.reason.as_str().into(),
            note: Some(printable(&event.message).into_owned()),
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
            warn_once!(
                &error.cause(),
                namespace = grant.namespace,
                name = grant.name,
                "{error}"
            );
        }
    }

    fn remember_poll(&mut self, grant: &GrantFacts, at: Timestamp) {
        self.context.local_state.polled(&grant.uid, at, self.notified_at);
    }

    fn remember_repairs(&mut self, grant: &GrantFacts, change: impl FnOnce(&mut Repairs)) -> Repairs {
        self.context.local_state.update_repairs(&grant.uid, change)
    }

    fn initiated_upload<T>(
        &mut self,
        grant: &GrantFacts,
        change: impl FnOnce(&mut Option<InitiatedUpload>) -> T,
    ) -> T {
        self.context.local_state.initiated_upload(&grant.uid, change)
    }

    fn note(&mut self, grant: &GrantFacts, note: Note<'_>) {
        self.record(grant, &note);
    }
}

impl<G: Grant> ClusterEffects<'_, G> {
    /// Remembers the version of the Secret that this process wrote. The watch event of this version then starts no
    /// reconcile. If the write failed, Valet must read the Secret before the next decision that depends on it.
    fn wrote_secret(&self, grant: &GrantFacts, written: Result<SecretView, Error>) -> Result<SecretView, Error> {
        match &written {
            Ok(view) => self
                .context
                .local_state
                .saw_secret(&grant.uid, Some(view), Timestamp::now()),
            Err(_) => self.context.local_state.forget_secret(&grant.uid),
        }
        written
    }
}
