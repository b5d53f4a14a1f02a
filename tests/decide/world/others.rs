//! Actions of other clients: users, workloads and the store.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use valet::{
    api::annotation,
    core::{ArrivedPart, GrantFacts, Owner, RenewRequest, SecretView, Step, StoreFact, StoreView},
};

use super::{Bucket, Secret, THEIRS, Upload, World};

impl World {
    /// Changes the spec and increases the generation, as the API server does.
    pub fn edit(&mut self, change: impl FnOnce(&mut GrantFacts)) {
        if let Some(grant) = &mut self.grant {
            change(grant);
            grant.generation += 1;
        }
    }

    /// Annotates the grant, as `kubectl annotate` does. The generation does not change.
    pub fn request(&mut self, value: &str) {
        if let Some(grant) = &mut self.grant {
            grant.renew_requested = RenewRequest::parse(Some(value));
        }
    }

    pub fn delete_secret(&mut self) {
        if self.secret.take().is_some() {
            self.may_create_again = true;
        }
    }

    /// Creates a Secret with the name of the grant's Secret.
    pub fn plant(&mut self, owner: Owner) {
        let uid = self.fresh("secret");
        let view = self.view(uid, owner, BTreeMap::new(), BTreeMap::new());
        self.secret = Some(Secret {
            view,
            signed: None,
            data: BTreeMap::new(),
        });
    }

    pub fn edit_data(&mut self) {
        let version = self.fresh("rv");
        if let Some(secret) = &mut self.secret {
            let theirs = ByteString(b"https://evil.example/".to_vec());
            secret.data.insert("url".into(), theirs);
            secret.view.resource_version = version;
        }
        self.read_secret();
    }

    pub fn edit_secret(&mut self, change: impl FnOnce(&mut SecretView)) {
        let version = self.fresh("rv");
        if let Some(secret) = &mut self.secret {
            change(&mut secret.view);
            secret.view.resource_version = version;
        }
        self.read_secret();
    }

    /// Receives a notification that the object was created. It can be forged.
    pub fn notify(&mut self) {
        self.heard = true;
    }

    /// Uploads the object now.
    pub fn put_object(&mut self) {
        self.bucket = Bucket::Holds {
            since: self.now,
            says_when: true,
        };
    }

    /// Uploads a part with the current credential. The part has `more` bytes more than expected.
    pub fn put_part(&mut self, number: i64, more: i64) {
        let wanted = self
            .grant()
            .operation_spec
            .parts()
            .expect("it is a multipart upload")
            .part(number);
        let Some(secret) = self
            .own_secret()
            .filter(|s| s.signed.is_some_and(|key| !key.has_expired(self.now)))
        else {
            return;
        };
        let id = secret.view.annotations.get(annotation::UPLOAD_ID).cloned();
        if let Some(upload) = self.uploads.iter_mut().find(|u| Some(&u.id) == id.as_ref()) {
            upload.parts.retain(|part| part.number != number);
            upload.parts.push(ArrivedPart {
                number,
                size: wanted.size.max + more,
                e_tag: format!("\"{number}\""),
            });
        }
    }

    /// Deletes the grant, as `kubectl delete` does.
    pub fn delete(&mut self) {
        let now = self.now;
        match &mut self.grant {
            Some(grant) if grant.held => {
                grant.deleting = true;
                grant.deleted_at = Some(now);
                grant.generation += 1;
            }
            _ => self.collected(),
        }
    }

    /// Deletes a grant that a finalizer of another client keeps.
    pub fn delete_with_finalizer(&mut self) {
        let now = self.now;
        if let Some(grant) = &mut self.grant {
            grant.deleting = true;
            grant.deleted_at = Some(now);
            grant.generation += 1;
        }
    }

    /// Another client initiates a multipart upload for the same object key, without parts.
    pub fn their_upload(&mut self) {
        self.uploads.push(Upload {
            id: THEIRS.into(),
            initiated: self.now,
            parts: vec![],
        });
    }

    /// Calls `watcher` with each step before the step is executed.
    pub fn watch_steps(&mut self, watcher: impl Fn(&Step) + Send + 'static) {
        self.watcher = Some(Box::new(watcher));
    }

    /// The grant is gone, and the garbage collector deletes its Secret.
    pub(super) fn collected(&mut self) {
        self.grant = None;
        self.secret = self.secret.take().filter(|s| s.view.owner != Owner::ThisGrant);
    }

    pub fn usable(&mut self, change: impl FnOnce(&mut StoreView)) {
        match &mut self.store {
            StoreFact::Usable(view) => change(view),
            other => panic!("the store is not usable: {other:?}"),
        }
    }
}
