//! The operator in the simulation: it executes the steps of `decide` one by one until the reconcile ends.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use valet::{
    api::{Reason, annotation},
    core::{
        Facts, ObjectFact, OpenUpload, Owner, Publish, PublishMode, QuotaFact, QuotaLimit, QuotaLimits, Read,
        SecretFact, Step, StoreFact, UploadFact, UploadsFact, decide,
    },
};

use super::{Bucket, Memory, Secret, Upload, World};
use crate::checks;

/// The largest number of steps that a reconcile may take.
const MOST_STEPS: usize = 14;

enum Ended {
    Rested(Option<Timestamp>),
    Crashed,
}

impl World {
    /// Runs a reconcile to its end, and returns the time of the next one.
    pub fn reconcile(&mut self) -> Option<Timestamp> {
        loop {
            match self.until_rest() {
                Ended::Rested(until) => return until,
                // A new process has no memory.
                Ended::Crashed => self.forget(),
            }
        }
    }

    fn until_rest(&mut self) -> Ended {
        if self.grant.is_none() {
            return Ended::Rested(None);
        }
        let mut facts = Facts::new(self.learn(), self.settings.clone());
        facts.repairs = self.repairs;
        facts.last_poll = self.last_poll;
        facts.poll_requested = self.heard;
        if self.memory == Memory::Caches {
            facts.secret = self.see_secret();
            self.see_store(&mut facts);
        }
        let mut trace = vec![];
        loop {
            facts.own_upload = self.begun.clone().or_else(|| self.own_upload.clone());
            let step = decide(&facts, self.now);
            assert!(trace.len() < MOST_STEPS, "I13: the reconcile does not end: {trace:#?}");
            trace.push(step.clone());
            checks::step(self, &facts, &step);
            if let Some(watcher) = &self.watcher {
                watcher(&step);
            }
            let n = self.steps;
            self.steps += 1;
            let rest = self.take(step, &mut facts);
            if let Some(mut meddler) = self.meddler.take() {
                meddler(self);
                self.meddler.get_or_insert(meddler);
            }
            if self.crash == Some(n) {
                return Ended::Crashed;
            }
            if let Some(until) = rest {
                return Ended::Rested(until);
            }
            if self.grant.is_none() {
                return Ended::Rested(None);
            }
            // Writes of all clients are visible at once.
            facts.grant = self.learn();
            facts.repairs = self.repairs;
        }
    }

    /// Executes one step. At the end of a reconcile, returns the time of the next one.
    fn take(&mut self, step: Step, facts: &mut Facts) -> Option<Option<Timestamp>> {
        match step {
            Step::Read(read) => self.read(read, facts),
            Step::AddFinalizer => {
                if let Some(grant) = &mut self.grant {
                    grant.held = true;
                }
            }
            Step::Complete(_, assembly) => {
                if assembly.write_once && matches!(self.bucket, Bucket::Holds { .. }) {
                    facts.completion_refused = Some("another object was written".into());
                    facts.upload = UploadFact::Unread;
                    facts.object = ObjectFact::Unread;
                } else if let Some(n) = self.uploads.iter().position(|u| u.id == assembly.upload) {
                    // The object's modification time is the time at which the multipart upload was initiated.
                    let upload = self.uploads.remove(n);
                    self.bucket = Bucket::Holds {
                        since: upload.begun,
                        says_when: true,
                    };
                    facts.upload = UploadFact::Gone;
                    facts.object = self.see_object();
                } else {
                    facts.upload = UploadFact::Gone;
                    facts.object = ObjectFact::Unread;
                }
            }
            Step::Abort(upload) => {
                let parts = match &facts.upload {
                    UploadFact::Open(parts) => parts.len(),
                    _ => 0,
                };
                facts.upload = if self.abort(upload.upload()) {
                    UploadFact::Aborted { parts }
                } else {
                    UploadFact::Unreachable("forbidden".into())
                };
            }
            Step::AbortOrphans(uploads) => {
                facts.uploads = UploadsFact::Unread;
                for upload in uploads {
                    if !self.abort(upload.upload()) {
                        facts.uploads = UploadsFact::Unreachable("forbidden".into());
                    }
                }
            }
            Step::RemoveFinalizer { notice } => {
                self.blind |= matches!(self.bucket, Bucket::Hidden);
                self.notices.extend(notice.map(|n| n.reason));
                if let Some(grant) = &mut self.grant {
                    grant.held = false;
                    if grant.deleting {
                        self.collected();
                        return Some(None);
                    }
                }
            }
            Step::Publish(publish) => self.publish(*publish, facts),
            Step::UpdateMetadata {
                uid,
                resource_version,
                labels,
                annotations,
                is_repair,
            } => {
                if self.is_current(&uid, &resource_version) {
                    self.counts.retouches += 1;
                    self.edit_secret(|view| {
                        view.labels = labels;
                        view.annotations = annotations;
                        view.has_sole_owner = true;
                    });
                    self.sign_secret();
                    self.note_written();
                    self.repaired(is_repair);
                }
                facts.secret = self.observe_secret();
            }
            Step::Empty { uid, resource_version } => {
                if self.refuses_replacement {
                    facts.emptying_refused = Some("field is immutable when `immutable` is set".into());
                } else if self.is_current(&uid, &resource_version) {
                    if let Some(secret) = &mut self.secret {
                        secret.data.clear();
                    }
                    self.edit_secret(|view| view.has_data = false);
                }
                facts.secret = self.observe_secret();
            }
            Step::DeleteSecret { uid, resource_version } => {
                if self.is_current(&uid, &resource_version) {
                    self.counts.withdraws += 1;
                    if self.secret.as_ref().is_some_and(|s| !s.view.finalizers.is_empty()) {
                        self.edit_secret(|view| view.deleting = true);
                    } else {
                        self.secret = None;
                    }
                    self.repairs.is_expected = false;
                    self.may_create_again = self.grant().status.finished_time.is_none();
                }
                facts.secret = self.see_secret();
            }
            Step::Report { status, notice } => {
                self.counts.reports += 1;
                self.notices.extend(notice.map(|n| n.reason));
                // The API server stores JSON, which has times in whole seconds.
                let kept = serde_json::from_value(serde_json::to_value(&*status).unwrap()).unwrap();
                if let Some(grant) = &mut self.grant {
                    grant.status = kept;
                }
                self.sign_status();
            }
            Step::DeleteGrant => {
                self.delete();
                if self.grant.is_none() {
                    return Some(None);
                }
            }
            Step::Rest { until } => return Some(until),
        }
        None
    }

    fn read(&mut self, read: Read, facts: &mut Facts) {
        match read {
            Read::Secret => facts.secret = self.observe_secret(),
            Read::Store => self.see_store(facts),
            Read::Object(_) => {
                facts.object = self.see_object();
                if matches!(facts.upload, UploadFact::Open(_)) {
                    facts.upload = UploadFact::Unread;
                }
                self.polled(facts);
            }
            Read::Upload(_, id) => {
                facts.upload = match (&self.bucket, &self.store, self.uploads.iter().find(|u| u.id == id)) {
                    (Bucket::Down, ..) => UploadFact::Unreachable("connection refused".into()),
                    (_, StoreFact::Missing | StoreFact::Unusable { .. } | StoreFact::Unread, _) => {
                        UploadFact::Unreachable("nobody knows where".into())
                    }
                    (Bucket::Hidden, ..) => UploadFact::Hidden,
                    (.., Some(upload)) => UploadFact::Open(upload.parts.clone()),
                    (.., None) => UploadFact::Gone,
                };
                if facts.upload == UploadFact::Gone {
                    facts.object = ObjectFact::Unread;
                }
                self.polled(facts);
            }
            Read::Uploads(_) => {
                // The process aborts an unrecorded multipart upload by its ID, without a list.
                if let Some(begun) = self.begun.take()
                    && matches!(
                        (&self.bucket, &self.store),
                        (Bucket::Empty | Bucket::Holds { .. }, StoreFact::Usable(_))
                    )
                {
                    self.abort(&begun);
                }
                facts.uploads = match (&self.bucket, &self.store) {
                    (Bucket::Down, _) => UploadsFact::Unreachable("connection refused".into()),
                    (Bucket::Hidden, _) => UploadsFact::Hidden,
                    (_, StoreFact::Usable(_)) => UploadsFact::Listed {
                        uploads: self
                            .uploads
                            .iter()
                            .map(|u| OpenUpload {
                                id: u.id.clone(),
                                begun: Some(u.begun),
                                has_parts: !u.parts.is_empty(),
                            })
                            .collect(),
                        contested: false,
                    },
                    _ => UploadsFact::Unreachable("nobody knows where".into()),
                };
            }
            Read::Quota(most) => facts.place = self.place(most),
        }
    }

    fn polled(&mut self, facts: &mut Facts) {
        facts.last_poll = Some(self.now);
        self.last_poll = Some(self.now);
        (facts.poll_requested, self.heard) = (false, false);
    }

    /// A reservation is given if the quota has room or the grant already has a valid credential.
    fn place(&self, most: QuotaLimits) -> QuotaFact {
        let status = &self.grant().status;
        let end = status.expiration_time.as_ref().filter(|_| status.binding.is_some());
        let limit = most
            .namespace
            .map(QuotaLimit::Namespace)
            .or(most.store.map(QuotaLimit::Store));
        match limit.expect("quota is only requested with a limit") {
            _ if self.room || end.is_some_and(|end| end.0 > self.now) => QuotaFact::Given,
            limit => QuotaFact::Full(limit),
        }
    }

    fn publish(&mut self, mut publish: Publish, facts: &mut Facts) {
        if let Some(why) = &self.unsigned {
            facts.sign_refused = Some(why.clone());
            return;
        }
        if publish.request.ask.parts().is_some() && publish.request.upload.is_none() {
            let upload = self.begun.clone().unwrap_or_else(|| self.begin());
            self.begun = Some(upload.clone());
            publish.annotations.insert(annotation::UPLOAD_ID.into(), upload);
        }
        if self.too_large {
            facts.sign_refused = Some((Reason::CapabilityMissing, "the key has too many bytes".into()));
            return;
        }
        if let Some(why) = &self.refuses {
            facts.secret_refused = Some(why.clone());
            return;
        }
        if self.refuses_replacement && matches!(publish.mode, PublishMode::Replace { .. }) {
            facts.secret_refused = Some("field is immutable when `immutable` is set".into());
            return;
        }
        match &publish.mode {
            PublishMode::Create if self.secret.is_some() => {
                // HTTP 409: another client was faster.
                facts.secret = self.observe_secret();
                self.abort_upload_of_losing_secret();
                return;
            }
            PublishMode::Replace { uid, resource_version } if !self.is_current(uid, resource_version) => {
                facts.secret = self.observe_secret();
                self.abort_upload_of_losing_secret();
                return;
            }
            PublishMode::Create => self.counts.creates += 1,
            PublishMode::Replace { .. } => self.counts.replaces += 1,
        }
        self.own_upload = self.begun.take().or(self.own_upload.take());
        checks::published(self, &publish);
        let uid = match &publish.mode {
            PublishMode::Create => self.fresh("secret"),
            PublishMode::Replace { uid, .. } => uid.clone(),
        };
        let (labels, annotations) = (publish.labels.clone(), publish.annotations.clone());
        let view = self.view(uid, Owner::ThisGrant, labels, annotations);
        let lifetime = publish.request.lifetime;
        self.secret = Some(Secret {
            view,
            signed: Some(lifetime),
            data: BTreeMap::from([("url".to_owned(), ByteString(format!("{lifetime:?}").into_bytes()))]),
        });
        self.sign_secret();
        self.keys.push(lifetime);
        let renewals = checks::renewals(&publish.annotations);
        self.published.insert((self.grant().generation, renewals), lifetime);
        self.may_create_again = false;
        self.note_written();
        facts.secret = self.observe_secret();
        self.repaired(publish.is_repair);
    }

    /// Reads the Secret, and remembers if it is authentic.
    fn observe_secret(&mut self) -> SecretFact {
        if self.own_secret().is_some_and(|s| s.view.is_authentic) {
            self.repairs.is_expected = true;
        }
        self.see_secret()
    }

    fn repaired(&mut self, is_repair: bool) {
        if is_repair {
            self.repairs.restored(self.now);
        }
    }

    /// If another Secret won, aborts the multipart upload that was initiated for the losing Secret.
    fn abort_upload_of_losing_secret(&mut self) {
        let Some(secret) = &self.secret else { return };
        let recorded = secret.view.upload_id.as_ref();
        if let Some(begun) = self.begun.take_if(|begun| Some(&*begun) != recorded) {
            self.uploads.retain(|u| u.id != begun);
        }
    }

    /// Aborts a multipart upload if the store answers. Returns whether it did.
    fn abort(&mut self, id: &str) -> bool {
        // For a deleted store, the operator needs the remembered store settings, which this simulation does not have.
        if matches!(self.bucket, Bucket::Down | Bucket::Hidden) || matches!(self.store, StoreFact::Missing) {
            return false;
        }
        self.uploads.retain(|u| u.id != id);
        self.begun.take_if(|begun| begun == id);
        self.own_upload.take_if(|own| own == id);
        true
    }

    /// Initiates a multipart upload.
    pub fn begin(&mut self) -> String {
        let id = self.fresh("upload");
        self.uploads.push(Upload {
            id: id.clone(),
            begun: self.now,
            parts: vec![],
        });
        id
    }

    fn note_written(&mut self) {
        self.written
            .extend(self.secret.as_ref().and_then(|s| s.view.generation));
    }
}
