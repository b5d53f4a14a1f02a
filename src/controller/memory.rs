use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;

use crate::{api::Grant, sign::Provider};

/// What this process knows of the grants of one kind beyond its watch. All of it can be lost at any moment: it
/// saves reads and writes, and nothing is decided by it alone.
pub struct Memory<G>(Mutex<HashMap<String, Recollection<G>>>);

struct Recollection<G> {
    /// The grant as our own last write left it, until the watch has caught up. Without it, the event of our own
    /// Secret, which arrives first, would find a grant that looks as if nobody had seen it.
    written: Option<Arc<G>>,
    /// When the store was last asked for the grant's object.
    last_look: Option<Timestamp>,
    /// When a notification came after which nobody has looked yet.
    heard: Option<Instant>,
    /// The version of the Secret that we wrote last; its event needs no visit.
    secret_version: Option<String>,
    /// The upload in parts that we began.
    begun: Option<Begun>,
    /// The store at which the grant's upload was last seen to: so that it can be ended when the store's own object is gone.
    provider: Option<Arc<dyn Provider>>,
    /// Failures in a row.
    failures: u32,
}

/// An upload in parts that this process began.
#[derive(Clone)]
struct Begun {
    upload: String,
    /// Whether a Secret of the grant's names it.
    is_recorded: bool,
}

impl<G> Default for Recollection<G> {
    fn default() -> Self {
        Self {
            written: None,
            last_look: None,
            heard: None,
            secret_version: None,
            begun: None,
            provider: None,
            failures: 0,
        }
    }
}

impl<G> Default for Memory<G> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<G: Grant> Memory<G> {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Recollection<G>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of<T>(&self, uid: &str, change: impl FnOnce(&mut Recollection<G>) -> T) -> T {
        change(self.lock().entry(uid.to_owned()).or_default())
    }

    /// The newer of what the watch has and what we wrote. What we wrote is kept until a visit sees that the watch has
    /// it: dropping it earlier would let a visit that was called before that judge the grant from before our write.
    pub fn newest(&self, watched: &Arc<G>) -> Arc<G> {
        let uid = watched.uid().unwrap_or_default();
        let mut lock = self.lock();
        let Some(recollection) = lock.get_mut(&uid) else {
            return watched.clone();
        };
        match &recollection.written {
            Some(written) if version(written.as_ref()) > version(watched.as_ref()) => written.clone(),
            _ => {
                recollection.written = None;
                watched.clone()
            }
        }
    }

    /// What we wrote last, if the watch has yet to bring it.
    pub fn written(&self, watched: &G) -> Option<Arc<G>> {
        let lock = self.lock();
        let written = lock.get(&watched.uid().unwrap_or_default())?.written.as_ref()?;
        (version(written.as_ref()) > version(watched)).then(|| written.clone())
    }

    /// Keeps what our own write came back with.
    pub fn wrote(&self, grant: &Arc<G>) {
        self.of(&grant.uid().unwrap_or_default(), |r| r.written = Some(grant.clone()));
    }

    /// The grant is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// These are the grants that there are: of others, which went while nobody watched, nothing is kept.
    pub fn keep_only(&self, uids: &HashSet<String>) {
        self.lock().retain(|uid, _| uids.contains(uid));
    }

    /// When the store was last asked for the object.
    pub fn last_look(&self, uid: &str) -> Option<Timestamp> {
        self.lock().get(uid).and_then(|r| r.last_look)
    }

    /// The store was asked for the object, by somebody who knew of this notification. A later one is still to be
    /// answered.
    pub fn looked(&self, uid: &str, at: Timestamp, heard: Option<Instant>) {
        self.of(uid, |r| {
            r.last_look = Some(at);
            if r.heard <= heard {
                r.heard = None;
            }
        });
    }

    /// A notification of the grant's object came.
    pub fn hear(&self, uid: &str, at: Instant) {
        self.of(uid, |r| r.heard = Some(at));
    }

    /// When the notification came after which nobody has looked yet.
    pub fn heard(&self, uid: &str) -> Option<Instant> {
        self.lock().get(uid).and_then(|r| r.heard)
    }

    /// We wrote this version of the grant's Secret.
    pub fn wrote_secret(&self, uid: &str, resource_version: &str) {
        self.of(uid, |r| r.secret_version = Some(resource_version.to_owned()));
    }

    /// Whether a version of the grant's Secret is our own last write.
    pub fn is_own_secret(&self, uid: &str, resource_version: &str) -> bool {
        self.lock()
            .get(uid)
            .is_some_and(|r| r.secret_version.as_deref() == Some(resource_version))
    }

    /// The upload in parts that was begun for this grant and is not recorded yet.
    pub fn begun(&self, uid: &str) -> Option<String> {
        let begun = self.lock().get(uid)?.begun.clone();
        begun.filter(|b| !b.is_recorded).map(|b| b.upload)
    }

    /// The upload in parts that this process began for this grant, recorded or not: nobody else can write this.
    pub fn own_upload(&self, uid: &str) -> Option<String> {
        Some(self.lock().get(uid)?.begun.as_ref()?.upload.clone())
    }

    /// An upload in parts was begun for this grant.
    pub fn keep_begun(&self, uid: &str, upload: String) {
        let begun = Begun {
            upload,
            is_recorded: false,
        };
        self.of(uid, |r| r.begun = Some(begun));
    }

    /// The upload that was begun stands in a Secret of the grant's.
    pub fn recorded(&self, uid: &str) {
        if let Some(begun) = self.lock().get_mut(uid).and_then(|r| r.begun.as_mut()) {
            begun.is_recorded = true;
        }
    }

    /// This upload was aborted.
    pub fn aborted(&self, uid: &str, upload: &str) {
        if let Some(r) = self.lock().get_mut(uid) {
            r.begun.take_if(|begun| begun.upload == upload);
        }
    }

    /// The store at which the grant's upload was last seen to.
    pub fn provider(&self, uid: &str) -> Option<Arc<dyn Provider>> {
        self.lock().get(uid).and_then(|r| r.provider.clone())
    }

    /// The grant's upload is seen to at this store; or nothing of it is left there.
    pub fn keep_provider(&self, uid: &str, provider: Option<Arc<dyn Provider>>) {
        self.of(uid, |r| r.provider = provider);
    }

    /// One more failure; how many in a row that makes.
    pub fn failed(&self, uid: &str) -> u32 {
        self.of(uid, |r| {
            r.failures = r.failures.saturating_add(1);
            r.failures
        })
    }

    /// A visit went well.
    pub fn succeeded(&self, uid: &str) {
        if let Some(r) = self.lock().get_mut(uid) {
            r.failures = 0;
        }
    }
}

/// A resource version as a number (KEP-5504: comparable within one kind). One that is none counts as the oldest,
/// so that the watch wins.
fn version<G: Grant>(grant: &G) -> u128 {
    grant.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::UploadGrant;

    #[test]
    fn nothing_is_kept_of_who_is_not_listed() {
        let memory = Memory::<UploadGrant>::default();
        for uid in ["a", "b"] {
            memory.failed(uid);
        }
        memory.keep_only(&HashSet::from(["b".to_owned(), "c".to_owned()]));
        assert_eq!((memory.failed("a"), memory.failed("b")), (1, 2));
    }
}
