use jiff::{SignedDuration, Timestamp};

use super::{Effects, Error, InitiatedUpload, Note};
use crate::core::{Access, Facts, Read, SecretFact, Step, StoreFact, UploadFact, decide};

/// The maximum number of steps in one reconcile. Nine steps are enough to handle a grant from its creation to its end
/// in one reconcile.
pub const MAX_STEPS: usize = 16;

/// The result of a reconcile that ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The next reconcile starts at this time, or when the grant, its Secret or its store changes. `None` means that
    /// only a change starts the next reconcile.
    Rest(Option<Timestamp>),
    /// The reconcile has deleted the Secret and has not written the status yet, because other grants wait for a
    /// reconcile. The next reconcile starts after a short pause.
    StatusPostponed,
    /// The grant was deleted, or it is being deleted and Valet has removed its finalizer. Only a change of the grant
    /// starts the next reconcile.
    Deleted,
}

/// One reconcile of one grant.
pub struct Reconcile<'e, E: Effects> {
    pub(super) effects: &'e mut E,
    /// The facts that the reconcile knows so far.
    pub facts: Facts,
    /// The start time of the reconcile. All decisions of the reconcile use this time.
    pub(super) now: Timestamp,
}

impl<'e, E: Effects> Reconcile<'e, E> {
    /// Prepares a reconcile that starts with these facts.
    pub fn new(effects: &'e mut E, facts: Facts, now: Timestamp) -> Self {
        Self { effects, facts, now }
    }

    /// Executes the steps of the reconcile in order, until nothing is left to do.
    ///
    /// # Errors
    /// Returns an [`Error`] if a step fails. Valet does not undo the steps before this step. The next
    /// reconcile starts with the state that these steps have left.
    pub async fn run(&mut self) -> Result<Outcome, Error> {
        for _ in 0..MAX_STEPS {
            let upload = |upload: &mut Option<InitiatedUpload>| upload.as_ref().map(|u| u.id.clone());
            self.facts.own_upload = self.effects.initiated_upload(&self.facts.grant, upload);
            let step = decide(&self.facts, self.now);
            self.effects.before_step(&self.facts, &step);
            match step {
                Step::Rest { until } => return Ok(Outcome::Rest(until)),
                Step::DeleteGrant => return self.delete_grant().await,
                step if waits_for_store(&step) && self.effects.is_late() => return Err(Error::Deadline),
                Step::RemoveFinalizer { notice } => {
                    self.effects.return_permit();
                    self.remove_finalizer(notice).await?;
                    // Valet has removed its finalizer. The apiserver now deletes the grant, unless the grant has
                    // finalizers from other programs.
                    if self.facts.grant.deleting && !self.facts.grant.held {
                        return Ok(Outcome::Deleted);
                    }
                }
                step @ Step::DeleteSecret { .. } => {
                    self.execute(step).await?;
                    if self.has_only_status_left() && self.effects.postpones_status(&self.facts.grant) {
                        return Ok(Outcome::StatusPostponed);
                    }
                }
                step => self.execute(step).await?,
            }
        }
        Err(Error::Restless(MAX_STEPS))
    }

    /// Returns true if the Secret is deleted because its credential has expired, and no new credential follows.
    fn has_only_status_left(&self) -> bool {
        let grant = &self.facts.grant;
        let has_expired = grant
            .status
            .expiration_time
            .as_ref()
            .is_some_and(|end| end.0 <= self.now);
        matches!(self.facts.secret, SecretFact::Absent) && has_expired && !grant.terms.renews()
    }

    async fn execute(&mut self, step: Step) -> Result<(), Error> {
        if !is_part_of_store_request(&step) {
            self.effects.return_permit();
        }
        match step {
            Step::Read(Read::Store) => self.read_store().await,
            Step::Read(Read::Secret) => self.read_secret().await,
            Step::Read(Read::Object(access)) => self.read_object(&access).await,
            Step::Read(Read::Upload(access, upload)) => self.read_upload(&access, &upload).await,
            Step::Read(Read::Uploads(access)) => self.read_uploads(&access).await,
            Step::Read(Read::Quota(limits)) => {
                self.effects.return_permit();
                let (grant, store) = (&self.facts.grant, &self.facts.store);
                self.facts.quota = self.effects.reserve_quota(grant, limits, store).await;
                Ok(())
            }
            Step::Publish(publish) => self.publish(*publish).await,
            Step::AddFinalizer => self.write_finalizer(true).await,
            Step::Complete(access, assembly) => self.complete(&access, assembly).await,
            Step::Abort(upload) => self.abort(&upload).await,
            Step::AbortOrphans(uploads) => self.abort_orphans(&uploads).await,
            Step::UpdateMetadata {
                uid,
                resource_version,
                labels,
                annotations,
                is_repair,
            } => {
                self.update_metadata(&uid, &resource_version, labels, annotations)
                    .await?;
                self.repaired(is_repair);
                Ok(())
            }
            Step::Empty { uid, resource_version } => self.empty_secret(&uid, &resource_version).await,
            Step::DeleteSecret { uid, resource_version } => self.delete_secret(&uid, &resource_version).await,
            Step::Report { status, notice } => self.report(*status, notice).await,
            Step::RemoveFinalizer { .. } | Step::DeleteGrant | Step::Rest { .. } => {
                unreachable!("run() handles these steps")
            }
        }
    }

    async fn delete_grant(&mut self) -> Result<Outcome, Error> {
        self.effects.return_permit();
        match self.effects.delete_grant(&self.facts.grant).await {
            Ok(()) => {
                self.note(Note::GrantDeleted);
                Ok(Outcome::Deleted)
            }
            Err(Error::Conflict(what)) => Err(Error::Gone(what)),
            Err(e) => Err(e),
        }
    }

    async fn read_store(&mut self) -> Result<(), Error> {
        let seconds = SignedDuration::from_secs(self.facts.grant.terms.expiration_seconds);
        // A credential that Valet signs now expires at `wanted_until`.
        let wanted_until = self.now.checked_add(seconds).unwrap_or(Timestamp::MAX);
        let found = self.effects.read_store(&self.facts.grant, wanted_until).await?;
        self.facts.store = found.fact;
        self.facts.rules = found.rules;
        Ok(())
    }

    pub(super) async fn read_object(&mut self, access: &Access) -> Result<(), Error> {
        self.take_permit()?;
        let found = self.effects.read_object(access).await;
        self.note(Note::ObjectPolled(&found));
        self.facts.object = found;
        if let StoreFact::Usable(store) = &mut self.facts.store {
            // The response to the HEAD request contains the store's time. Valet therefore also knows the current
            // clock difference.
            store.skew = self.effects.skew();
        }
        if matches!(self.facts.upload, UploadFact::Open(_)) {
            self.facts.upload = UploadFact::Unread;
        }
        self.polled();
        Ok(())
    }

    /// Records that this reconcile polled the store for the grant's object.
    pub(super) fn polled(&mut self) {
        self.facts.last_poll = Some(self.now);
        self.facts.poll_requested = false;
        self.effects.remember_poll(&self.facts.grant, self.now);
    }

    /// Reads the grant again after a conflict.
    pub(super) async fn read_grant(&mut self) -> Result<(), Error> {
        self.facts.grant = self.effects.read_grant(&self.facts.grant).await?;
        Ok(())
    }

    /// Returns true if the grant or its store has changed since the decision to sign. Signing can take seconds, and a
    /// change in this time can forbid the credential. Valet must then not publish the credential.
    ///
    /// The method also reads the changed grant again, or removes the outdated facts of the store. The next decision
    /// therefore uses the current state.
    pub(super) async fn is_stale(&mut self) -> Result<bool, Error> {
        if self.effects.has_newer_grant(&self.facts.grant)? {
            self.read_grant().await?;
            return Ok(true);
        }
        let StoreFact::Usable(view) = &self.facts.store else {
            return Ok(false);
        };
        if self.effects.is_current_store(&self.facts.grant, view).await? {
            return Ok(false);
        }
        self.note(Note::StoreChanged);
        self.facts.store = StoreFact::Unread;
        Ok(true)
    }

    pub(super) fn take_permit(&mut self) -> Result<(), Error> {
        self.effects.take_permit(&self.facts.grant)
    }

    pub(super) fn note(&mut self, note: Note<'_>) {
        self.effects.note(&self.facts.grant, note);
    }
}

/// Returns true if the step can wait for a store or for quota. All other steps wait only for the apiserver.
fn waits_for_store(step: &Step) -> bool {
    match step {
        Step::Read(read) => matches!(
            read,
            Read::Store | Read::Object(_) | Read::Upload(..) | Read::Uploads(_) | Read::Quota(_)
        ),
        Step::Publish(_) | Step::Complete(..) | Step::Abort(_) | Step::AbortOrphans(_) => true,
        Step::UpdateMetadata { .. }
        | Step::Empty { .. }
        | Step::DeleteSecret { .. }
        | Step::Report { .. }
        | Step::AddFinalizer
        | Step::RemoveFinalizer { .. }
        | Step::DeleteGrant
        | Step::Rest { .. } => false,
    }
}

/// Returns true if a reconcile keeps its permit for requests to the store during this step. A reconcile gives its
/// permit back before it writes to the apiserver.
fn is_part_of_store_request(step: &Step) -> bool {
    matches!(
        step,
        Step::Read(_) | Step::Publish(_) | Step::Complete(..) | Step::Abort(_) | Step::AbortOrphans(_)
    )
}
