//! The simulated cluster and store as effects of the real interpreter. The process can crash after each effect, and
//! other clients can act after each effect.

use std::collections::BTreeMap;

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret as KubeSecret;
use valet::{
    api::GrantStatus,
    core::{
        AbortAccess, Access, AllowedRequest, Assembly, Completion, Credential, Facts, GrantEvent, GrantFacts,
        ObjectFact, OpenUpload, Owner, PublishMode, QuotaFact, QuotaLimit, QuotaLimits, RememberedSecret, Repairs,
        SECRET_CAPACITY, SecretFact, SecretState, SecretView, SignError, Signed, SignedUrl, Step, StoreFact,
        StoreView, UploadFact, UploadsFact,
    },
    reconcile::{Effects, Error, InitiatedUpload, Outcome, Reconcile, StoreReading},
};

use super::{Bucket, Memory, Secret, Upload, World};
use crate::checks;

/// The largest number of steps that a reconcile may take.
const MOST_STEPS: usize = 14;

/// The resync interval. It is short, so that each life lasts until the first resync after a crash.
const RESYNC: SignedDuration = SignedDuration::from_secs(30);

/// The pause before a reconcile is repeated after a conflict or a refused permit.
const PAUSE: SignedDuration = SignedDuration::from_secs(1);

enum Ended {
    Rested(Option<Timestamp>),
    /// Other clients changed the grant or its Secret during the reconcile, so the watches start another reconcile.
    Changed,
    Crashed,
}

impl World {
    /// Runs reconciles until nothing is left to do, and returns the time of the next one.
    pub fn reconcile(&mut self) -> Option<Timestamp> {
        loop {
            match self.until_rest() {
                Ended::Rested(until) => return until,
                Ended::Changed => {}
                // A new process has no memory.
                Ended::Crashed => self.forget(),
            }
        }
    }

    fn until_rest(&mut self) -> Ended {
        if self.grant.is_none() {
            return Ended::Rested(None);
        }
        let mut facts = Facts::new(self.read_current(), self.settings.clone());
        facts.repairs = self.repairs;
        facts.last_poll = self.last_poll;
        facts.poll_requested = self.heard;
        if self.memory == Memory::Caches {
            facts.secret = self.see_secret();
            self.see_store(&mut facts);
        }
        if std::mem::take(&mut self.has_postponed_status) {
            facts.secret = SecretFact::Absent;
        }
        if self.memory == Memory::Secret {
            facts.remembered_secret = self.remembered_secret(&facts.grant.uid);
        }
        self.trace.clear();
        self.is_disturbed = false;
        let now = self.now;
        // A simulated effect never waits. If the reconcile waits nevertheless, the process has crashed.
        let Some(outcome) = Reconcile::new(self, facts, now).run().now_or_never() else {
            return Ended::Crashed;
        };
        let is_there = self.grant.is_some();
        if !is_there {
            // The garbage collector also deletes a Secret that was created after its grant was deleted.
            self.collected();
        }
        match outcome {
            _ if !is_there => Ended::Rested(None),
            _ if self.is_disturbed => Ended::Changed,
            Ok(Outcome::Rest(until)) => Ended::Rested(until),
            // The pause is left out, so that both reconciles belong to the same instant of the life.
            Ok(Outcome::StatusPostponed) => Ended::Changed,
            // A finalizer of another client keeps the grant.
            Ok(Outcome::Deleted) => Ended::Changed,
            Err(Error::Conflict(_) | Error::Gone(_) | Error::Queued(_)) => Ended::Rested(Some(now + PAUSE)),
            Err(error) => panic!("{error}: {:#?}", self.trace),
        }
    }

    /// Returns what the process remembers about the Secret. The watch on Secrets has reported all changes of other
    /// clients.
    fn remembered_secret(&mut self, uid: &str) -> Option<RememberedSecret> {
        let current = self.secret_version();
        let is_seen =
            matches!(&self.secret_state, SecretState::Seen { version, .. } if current.as_ref() == Some(version));
        if current != self.watched_secret && !is_seen {
            self.secret_state = SecretState::MayHaveChanged;
        }
        self.watched_secret = current;
        self.secret_state.remembered(uid, RESYNC, self.now)
    }

    fn saw_secret(&mut self) {
        self.watched_secret = self.secret_version();
        self.secret_state.saw(self.watched_secret.clone(), self.now);
    }

    /// Ends each effect: lets other clients act, and crashes the process if it is time. `is_write` says if the effect
    /// changed the cluster or the store.
    async fn did(&mut self, is_write: bool) {
        let n = self.steps;
        self.steps += 1;
        if is_write {
            self.writes.push(n);
        }
        if let Some(mut meddler) = self.meddler.take() {
            let before = self.watched();
            meddler(self);
            self.is_disturbed |= self.watched() != before;
            self.meddler.get_or_insert(meddler);
        }
        if self.crash == Some(n) {
            std::future::pending::<()>().await;
        }
    }

    /// Returns the current grant, and remembers its version. A write with this version succeeds only if nobody has
    /// changed the grant since.
    fn read_current(&mut self) -> GrantFacts {
        self.version = self.grant.clone();
        self.learn()
    }

    /// Checks the preconditions of a write to the grant.
    fn current_grant(&mut self) -> Result<&mut GrantFacts, Error> {
        let is_current = self.grant == self.version;
        let grant = self.grant.as_mut().ok_or(Error::Gone("the grant"))?;
        if !is_current {
            return Err(Error::Conflict("the grant"));
        }
        Ok(grant)
    }

    /// Returns the Secret as the operator sees it after a write.
    fn written_secret(&mut self) -> Result<SecretView, Error> {
        self.sign_secret();
        self.note_written();
        let secret = self.secret.as_ref();
        Ok(secret.map(|s| s.view.clone()).expect("the Secret was written"))
    }

    fn has_version(&self, uid: &str, resource_version: &str) -> Result<(), Error> {
        match &self.secret {
            None => Err(Error::Gone("the Secret")),
            Some(_) if self.is_current(uid, resource_version) => Ok(()),
            Some(_) => Err(Error::Conflict("the Secret")),
        }
    }

    fn publish(&mut self, grant: &GrantFacts, mode: &PublishMode, secret: KubeSecret) -> Result<SecretView, Error> {
        const IMMUTABLE: &str = "field is immutable when `immutable` is set";
        if let Some(why) = &self.refuses {
            return Err(Error::Refused(why.clone()));
        }
        if self.refuses_replacement && matches!(mode, PublishMode::Replace { .. }) {
            return Err(Error::Refused(IMMUTABLE.into()));
        }
        let uid = match mode {
            PublishMode::Create if self.secret.is_some() => return Err(Error::Conflict("the Secret")),
            PublishMode::Create => self.fresh("secret"),
            PublishMode::Replace { uid, resource_version } => {
                self.has_version(uid, resource_version)?;
                uid.clone()
            }
        };
        match mode {
            PublishMode::Create => self.counts.creates += 1,
            PublishMode::Replace { .. } => self.counts.replaces += 1,
        }
        let publish = self.publishing.take().expect("a decision comes before each write");
        checks::published(self, grant, &publish);
        let metadata = secret.metadata;
        let (labels, annotations) = (metadata.labels, metadata.annotations);
        let view = self.view(
            uid,
            Owner::ThisGrant,
            labels.unwrap_or_default(),
            annotations.unwrap_or_default(),
        );
        let lifetime = publish.request.lifetime;
        self.secret = Some(Secret {
            view,
            signed: Some(lifetime),
            data: secret.data.unwrap_or_default(),
        });
        self.keys.push(lifetime);
        let renewals = checks::renewals(&publish.annotations);
        self.published.insert((grant.generation, renewals), lifetime);
        self.may_create_again = false;
        self.written_secret()
    }

    /// Aborts a multipart upload if the store answers. Returns whether it did.
    fn abort(&mut self, id: &str) -> bool {
        // For a deleted store, the operator needs the remembered store settings, which this simulation does not have.
        if matches!(self.bucket, Bucket::Down | Bucket::Hidden) || matches!(self.store, StoreFact::Missing) {
            return false;
        }
        self.uploads.retain(|u| u.id != id);
        true
    }

    /// Initiates a multipart upload.
    pub fn begin(&mut self) -> String {
        let id = self.fresh("upload");
        self.uploads.push(Upload {
            id: id.clone(),
            initiated: self.now,
            parts: vec![],
        });
        id
    }

    fn note_written(&mut self) {
        self.written
            .extend(self.secret.as_ref().and_then(|s| s.view.generation));
    }

    fn upload_fact(&self, id: &str) -> UploadFact {
        match (&self.bucket, &self.store, self.uploads.iter().find(|u| u.id == id)) {
            (Bucket::Down, ..) => UploadFact::Unreachable("connection refused".into()),
            (_, StoreFact::Missing | StoreFact::Unusable { .. } | StoreFact::Unread, _) => {
                UploadFact::Unreachable("nobody knows where".into())
            }
            (Bucket::Hidden, ..) => UploadFact::Hidden,
            (.., Some(upload)) => UploadFact::Open(upload.parts.clone()),
            (.., None) => UploadFact::Gone,
        }
    }

    fn uploads_fact(&self) -> UploadsFact {
        match (&self.bucket, &self.store) {
            (Bucket::Down, _) => UploadsFact::Unreachable("connection refused".into()),
            (Bucket::Hidden, _) => UploadsFact::Hidden,
            (_, StoreFact::Usable(_)) => UploadsFact::Listed {
                uploads: self
                    .uploads
                    .iter()
                    .map(|u| OpenUpload {
                        id: u.id.clone(),
                        initiated: Some(u.initiated),
                        has_parts: !u.parts.is_empty(),
                    })
                    .collect(),
                contested: false,
            },
            _ => UploadsFact::Unreachable("nobody knows where".into()),
        }
    }

    /// Completes a multipart upload.
    fn assemble(&mut self, assembly: &Assembly) -> Completion {
        if assembly.write_once && matches!(self.bucket, Bucket::Holds { .. }) {
            return Completion::Exists;
        }
        let Some(n) = self.uploads.iter().position(|u| u.id == assembly.upload) else {
            return Completion::Gone;
        };
        // The object's modification time is the time at which the multipart upload was initiated.
        let upload = self.uploads.remove(n);
        self.bucket = Bucket::Holds {
            since: upload.initiated,
            says_when: true,
        };
        match self.see_object() {
            ObjectFact::Present { object, .. } => Completion::Done(object),
            other => panic!("the object was just written, but the store says {other:?}"),
        }
    }
}

impl Effects for World {
    fn before_step(&mut self, facts: &Facts, step: &Step) {
        assert!(
            self.is_disturbed || self.trace.len() < MOST_STEPS,
            "I13: the reconcile does not end: {:#?}",
            self.trace
        );
        self.trace.push(step.clone());
        // Another client can delete the grant during the reconcile. The next write to the grant then fails.
        if self.grant.is_some() {
            checks::step(self, facts, step);
        }
        if let Some(watcher) = &self.watcher {
            watcher(step);
        }
        if let Step::Publish(publish) = step {
            self.publishing = Some(publish.as_ref().clone());
        }
    }

    fn postpones_status(&mut self, _: &GrantFacts) -> bool {
        self.has_postponed_status = self.memory == Memory::Secret;
        self.has_postponed_status
    }

    fn take_permit(&mut self, _: &GrantFacts) -> Result<(), Error> {
        if self.is_busy && !self.has_permit {
            return Err(Error::Queued(1));
        }
        self.has_permit = true;
        Ok(())
    }

    fn return_permit(&mut self) {
        self.has_permit = false;
    }

    async fn read_store(&mut self, grant: &GrantFacts, _: Timestamp) -> Result<StoreReading, Error> {
        self.take_permit(grant)?;
        let fact = self.store.clone();
        let is_unusable = matches!(fact, StoreFact::Unusable { .. });
        let rules = is_unusable.then(|| self.rules.clone().unwrap_or_else(|| self.first_rules.clone()));
        self.did(false).await;
        Ok(StoreReading { fact, rules })
    }

    async fn read_secret(&mut self, _: &GrantFacts) -> Result<Option<SecretView>, Error> {
        self.saw_secret();
        let view = self.secret.as_ref().map(|s| s.view.clone());
        self.did(false).await;
        Ok(view)
    }

    async fn read_grant(&mut self, _: &GrantFacts) -> Result<GrantFacts, Error> {
        if self.grant.is_none() {
            return Err(Error::Gone("the grant"));
        }
        let grant = self.read_current();
        self.did(false).await;
        Ok(grant)
    }

    /// A reservation is given if the quota has room or the grant already has a valid credential.
    async fn reserve_quota(&mut self, grant: &GrantFacts, limits: QuotaLimits, _: &StoreFact) -> QuotaFact {
        let status = &grant.status;
        let end = status.expiration_time.as_ref().filter(|_| status.binding.is_some());
        let limit = limits
            .namespace
            .map(QuotaLimit::Namespace)
            .or(limits.store.map(QuotaLimit::Store));
        let fact = match limit.expect("quota is only requested with a limit") {
            _ if self.room || end.is_some_and(|end| end.0 > self.now) => QuotaFact::Given,
            limit => QuotaFact::Full(limit),
        };
        self.did(false).await;
        fact
    }

    async fn read_object(&mut self, _: &Access) -> ObjectFact {
        assert!(self.has_permit, "a request to the store without a permit");
        let fact = self.see_object();
        self.did(false).await;
        fact
    }

    async fn read_upload(&mut self, _: &Access, upload: &str) -> UploadFact {
        assert!(self.has_permit, "a request to the store without a permit");
        let fact = self.upload_fact(upload);
        self.did(false).await;
        fact
    }

    async fn read_uploads(&mut self, _: &Access) -> UploadsFact {
        assert!(self.has_permit, "a request to the store without a permit");
        let fact = self.uploads_fact();
        self.did(false).await;
        fact
    }

    fn is_contested(&self, _: &GrantFacts) -> bool {
        false
    }

    fn skew(&self) -> Option<SignedDuration> {
        match &self.store {
            StoreFact::Usable(store) => store.skew,
            StoreFact::Unread | StoreFact::Missing | StoreFact::Unusable { .. } => None,
        }
    }

    fn has_newer_grant(&self, grant: &GrantFacts) -> Result<bool, Error> {
        let now = self.grant.as_ref().ok_or(Error::Gone("the grant"))?;
        Ok(now.generation > grant.generation || now.deleting && !grant.deleting)
    }

    async fn is_current_store(&mut self, _: &GrantFacts, view: &StoreView) -> Result<bool, Error> {
        let is_current = matches!(&self.store, StoreFact::Usable(now) if now == view);
        self.did(false).await;
        Ok(is_current)
    }

    fn signs_with_requests(&self) -> bool {
        false
    }

    async fn initiate_upload(&mut self, _: &AllowedRequest) -> Result<String, SignError> {
        assert!(self.has_permit, "a request to the store without a permit");
        if let Some((reason, message)) = self.unsigned.clone() {
            return Err(SignError::Credentials { reason, message });
        }
        let id = self.begin();
        self.did(true).await;
        Ok(id)
    }

    async fn sign(&mut self, request: &AllowedRequest) -> Result<Signed, SignError> {
        if let Some((reason, message)) = self.unsigned.clone() {
            return Err(SignError::Credentials { reason, message });
        }
        let mut url = format!("https://store.example/{:?}", request.lifetime);
        if self.too_large {
            url.push_str(&"x".repeat(SECRET_CAPACITY));
        }
        self.did(false).await;
        Ok(Signed {
            credential: Credential::Request {
                url: SignedUrl::new(url),
                method: "PUT".into(),
                headers: vec![],
            },
            provider: "simulated",
        })
    }

    async fn complete_upload(&mut self, _: &Access, assembly: &Assembly) -> Completion {
        assert!(self.has_permit, "a request to the store without a permit");
        let completion = self.assemble(assembly);
        self.did(true).await;
        completion
    }

    async fn abort_upload(&mut self, upload: &AbortAccess) -> Result<(), String> {
        let is_aborted = self.abort(upload.upload());
        self.did(true).await;
        is_aborted.then_some(()).ok_or_else(|| "forbidden".into())
    }

    async fn write_secret(
        &mut self,
        grant: &GrantFacts,
        mode: &PublishMode,
        secret: KubeSecret,
    ) -> Result<SecretView, Error> {
        let written = self.publish(grant, mode, secret);
        match &written {
            Ok(_) => self.saw_secret(),
            Err(_) => self.secret_state = SecretState::MayHaveChanged,
        }
        self.did(true).await;
        written
    }

    async fn update_secret_metadata(
        &mut self,
        _: &GrantFacts,
        uid: &str,
        resource_version: &str,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    ) -> Result<SecretView, Error> {
        self.secret_state = SecretState::MayHaveChanged;
        self.has_version(uid, resource_version)?;
        self.counts.retouches += 1;
        self.edit_secret(|view| {
            view.labels = labels;
            view.annotations = annotations;
            view.has_sole_owner = true;
        });
        let written = self.written_secret();
        self.saw_secret();
        self.did(true).await;
        written
    }

    async fn empty_secret(&mut self, _: &GrantFacts, uid: &str, version: &str) -> Result<SecretView, Error> {
        if self.refuses_replacement {
            return Err(Error::Refused("field is immutable when `immutable` is set".into()));
        }
        self.secret_state = SecretState::MayHaveChanged;
        self.has_version(uid, version)?;
        if let Some(secret) = &mut self.secret {
            secret.data.clear();
        }
        self.edit_secret(|view| view.has_data = false);
        let view = self.secret.as_ref().map(|s| s.view.clone());
        self.did(true).await;
        view.ok_or(Error::Gone("the Secret"))
    }

    async fn delete_secret(&mut self, _: &GrantFacts, uid: &str, resource_version: &str) -> Result<bool, Error> {
        self.secret_state = SecretState::MayHaveChanged;
        match self.has_version(uid, resource_version) {
            Err(Error::Gone(_)) => return Ok(false),
            checked => checked?,
        }
        self.counts.withdraws += 1;
        if self.secret.as_ref().is_some_and(|s| !s.view.finalizers.is_empty()) {
            self.edit_secret(|view| view.deleting = true);
        } else {
            self.secret = None;
        }
        self.may_create_again = self.grant.as_ref().is_some_and(|g| g.status.finished_time.is_none());
        let is_there = self.secret.is_some();
        self.did(true).await;
        Ok(is_there)
    }

    async fn write_status(&mut self, _: &GrantFacts, status: GrantStatus) -> Result<GrantFacts, Error> {
        // The API server stores JSON, which has times in whole seconds.
        let kept = serde_json::from_value(serde_json::to_value(&status).unwrap()).unwrap();
        self.current_grant()?.status = kept;
        self.counts.reports += 1;
        self.sign_status();
        let written = self.read_current();
        self.did(true).await;
        Ok(written)
    }

    async fn write_finalizer(&mut self, _: &GrantFacts, is_present: bool) -> Result<GrantFacts, Error> {
        self.current_grant()?.held = is_present;
        let written = self.read_current();
        if !is_present {
            self.blind |= matches!(self.bucket, Bucket::Hidden);
            if written.deleting {
                self.collected();
            }
        }
        self.did(true).await;
        Ok(written)
    }

    async fn delete_grant(&mut self, _: &GrantFacts) -> Result<(), Error> {
        self.delete();
        self.did(true).await;
        Ok(())
    }

    async fn publish_event(&mut self, _: &GrantFacts, event: GrantEvent) {
        self.notices.push(event.reason);
        self.did(true).await;
    }

    fn remember_poll(&mut self, _: &GrantFacts, at: Timestamp) {
        self.last_poll = Some(at);
        self.heard = false;
    }

    fn remember_repairs(&mut self, _: &GrantFacts, change: impl FnOnce(&mut Repairs)) -> Repairs {
        change(&mut self.repairs);
        self.repairs
    }

    fn initiated_upload<T>(&mut self, _: &GrantFacts, change: impl FnOnce(&mut Option<InitiatedUpload>) -> T) -> T {
        change(&mut self.initiated)
    }
}
