//! What this process knows about the object of a grant in the store, and about its multipart upload.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{memory::UploadMemory, table::LocalState};
use crate::{api::Grant, provider::Provider, reconcile::InitiatedUpload};

impl<G: Grant> LocalState<G> {
    fn of_upload<T>(&self, uid: &str, change: impl FnOnce(&mut UploadMemory) -> T) -> T {
        self.of(uid, |r| change(r.upload.get_or_insert_default()))
    }

    /// Returns the time at which Valet last polled the store for the object.
    pub fn last_poll(&self, uid: &str) -> Option<Timestamp> {
        self.lock().get(uid)?.upload.as_ref()?.last_poll
    }

    /// Records the time of a poll. This poll also handles the notification that arrived at the time `notified_at`. If another
    /// notification arrived later, Valet must poll again.
    pub fn polled(&self, uid: &str, at: Timestamp, notified_at: Option<Instant>) {
        self.of_upload(uid, |upload| {
            upload.last_poll = Some(at);
            if upload.notified_at <= notified_at {
                upload.notified_at = None;
            }
        });
    }

    /// Records the arrival time of a notification about the grant's object.
    pub fn notify(&self, uid: &str, at: Instant) {
        self.of_upload(uid, |upload| upload.notified_at = Some(at));
    }

    /// Returns the arrival time of the last notification about the grant's object. Returns `None` if Valet has polled
    /// the store since then.
    pub fn notified_at(&self, uid: &str) -> Option<Instant> {
        self.lock().get(uid)?.upload.as_ref()?.notified_at
    }

    /// Reads or changes the record of the multipart upload that this process initiated for the grant. Other programs
    /// can change the grant's annotations and status, but they cannot change this record.
    pub fn initiated_upload<T>(&self, uid: &str, change: impl FnOnce(&mut Option<InitiatedUpload>) -> T) -> T {
        let mut lock = self.lock();
        if let Some(upload) = lock.get_mut(uid).and_then(|r| r.upload.as_mut()) {
            return change(&mut upload.initiated);
        }
        let mut initiated = None;
        let result = change(&mut initiated);
        if initiated.is_some() {
            let upload = &mut lock.entry(uid.to_owned()).or_default().upload;
            upload.get_or_insert_default().initiated = initiated;
        }
        result
    }

    /// Returns the remembered connection to the store that has the grant's multipart upload.
    pub fn provider(&self, uid: &str) -> Option<Arc<dyn Provider>> {
        self.lock().get(uid)?.upload.as_ref()?.provider.clone()
    }

    /// Remembers the connection to the store that has the grant's multipart upload. `None` removes the connection.
    pub fn set_provider(&self, uid: &str, provider: Option<Arc<dyn Provider>>) {
        if provider.is_some() || self.provider(uid).is_some() {
            self.of_upload(uid, |upload| upload.provider = provider);
        }
    }
}
