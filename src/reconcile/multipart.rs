//! Executes the steps for multipart uploads.

use super::{Effects, Error, InitiatedUpload, Note, Reconcile};
use crate::{
    api::annotation,
    core::{
        AbortAccess, Access, Assembly, Completion, ObjectFact, Publish, SecretFact, SignError, UploadFact,
        UploadsFact,
    },
};

impl<E: Effects> Reconcile<'_, E> {
    /// Initiates the multipart upload of a grant that has no multipart upload yet.
    ///
    /// Only this process knows the upload ID until it has written the Secret. If the write fails, the next attempt in
    /// this process uses the same multipart upload again.
    pub(super) async fn initiate(&mut self, publish: &mut Publish) -> Result<(), SignError> {
        let id = match self.unrecorded_upload() {
            Some(id) => id,
            None => {
                let id = self.effects.initiate_upload(&publish.request).await?;
                let initiated = InitiatedUpload {
                    id: id.clone(),
                    is_recorded: false,
                };
                self.effects
                    .initiated_upload(&self.facts.grant, |upload| *upload = Some(initiated));
                self.note(Note::UploadInitiated);
                id
            }
        };
        publish.annotations.insert(annotation::UPLOAD_ID.into(), id.clone());
        publish.request.set_upload(id);
        Ok(())
    }

    pub(super) async fn read_upload(&mut self, access: &Access, upload: &str) -> Result<(), Error> {
        self.take_permit()?;
        let fact = self.effects.read_upload(access, upload).await;
        self.note(Note::UploadPolled(&fact));
        if fact == UploadFact::Gone {
            self.facts.object = ObjectFact::Unread;
        }
        self.facts.upload = fact;
        self.polled();
        Ok(())
    }

    pub(super) async fn read_uploads(&mut self, access: &Access) -> Result<(), Error> {
        self.take_permit()?;
        // If this process initiated an upload whose ID is in no Secret, the process remembers the upload ID. The
        // process can therefore abort this upload before it lists all uploads.
        if let Some(id) = self.unrecorded_upload()
            && self.effects.abort_upload(&access.to_abort(&id)).await.is_ok()
        {
            self.forget_upload(&id);
        }
        self.facts.uploads = self.effects.read_uploads(access).await;
        let is_contested = self.effects.is_contested(&self.facts.grant);
        if let UploadsFact::Listed { uploads, contested } = &mut self.facts.uploads {
            *contested = !uploads.is_empty() && is_contested;
        }
        Ok(())
    }

    /// Returns the ID of the multipart upload that this process initiated, if no Secret contains this ID.
    fn unrecorded_upload(&mut self) -> Option<String> {
        let id = |upload: &mut Option<InitiatedUpload>| InitiatedUpload::unrecorded(upload);
        self.effects.initiated_upload(&self.facts.grant, id)
    }

    fn forget_upload(&mut self, id: &str) {
        self.effects.initiated_upload(&self.facts.grant, |upload| {
            upload.take_if(|upload| upload.id == id);
        });
    }

    /// Aborts the upload that this process initiated, if the Secret contains the ID of a different upload. In this
    /// case, another replica of the operator wrote the Secret first. No client uses the upload of this process.
    pub(super) async fn abort_unrecorded(&mut self, access: &Access) {
        let SecretFact::Present(secret) = &self.facts.secret else {
            return;
        };
        let recorded = secret.upload_id.clone();
        let Some(id) = self.unrecorded_upload() else {
            return;
        };
        if recorded.as_ref() == Some(&id) {
            self.effects.initiated_upload(&self.facts.grant, |upload| {
                if let Some(upload) = upload {
                    upload.is_recorded = true;
                }
            });
            return;
        }
        if let Err(why) = self.effects.abort_upload(&access.to_abort(&id)).await {
            // Valet could not abort the upload now. When the grant ends, Valet lists the uploads of the object key,
            // finds this upload and aborts it.
            self.note(Note::AbortFailed(&why));
        }
        self.forget_upload(&id);
    }

    pub(super) async fn complete(&mut self, access: &Access, assembly: Assembly) -> Result<(), Error> {
        self.take_permit()?;
        match self.effects.complete_upload(access, &assembly).await {
            Completion::Done(object) => {
                self.note(Note::UploadCompleted {
                    parts: assembly.parts.len(),
                });
                self.facts.upload = UploadFact::Gone;
                self.read_object(access).await?;
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
        self.take_permit()?;
        let parts = match &self.facts.upload {
            UploadFact::Open(parts) => parts.len(),
            _ => 0,
        };
        self.facts.upload = match self.abort_one(upload).await {
            Ok(()) => {
                self.note(Note::UploadAborted { parts });
                UploadFact::Aborted { parts }
            }
            Err(why) => UploadFact::Unreachable(why),
        };
        Ok(())
    }

    /// Aborts multipart uploads whose IDs are in no Secret.
    pub(super) async fn abort_orphans(&mut self, uploads: &[AbortAccess]) -> Result<(), Error> {
        self.take_permit()?;
        self.facts.uploads = UploadsFact::Unread;
        for upload in uploads {
            if let Err(why) = self.abort_one(upload).await {
                self.facts.uploads = UploadsFact::Unreachable(why);
                break;
            }
        }
        Ok(())
    }

    async fn abort_one(&mut self, upload: &AbortAccess) -> Result<(), String> {
        self.effects.abort_upload(upload).await?;
        self.forget_upload(upload.upload());
        Ok(())
    }
}
