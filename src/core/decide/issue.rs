//! Decides whether Valet issues a credential now, and for how long the credential is valid. Before that, it checks
//! that the store is usable and that the access rules allow the grant.

use std::ops::ControlFlow::{self, Break, Continue};

use super::{credential_record::CredentialRecord, evaluator::Evaluator};
use crate::{
    api::{Reason, StoreKind},
    core::{
        facts::{ObjectFact, QuotaFact, SecretFact, StoreFact, StoreView},
        lifetime::{Lifetime, NoTime},
        policy::{Access, admit, quota_limits},
        quota_limits::QuotaLimit,
        step::{Publish, PublishMode, Read, Step},
    },
};

/// The credential that Valet issued last for this grant.
#[derive(Clone, Copy)]
struct Last {
    /// The lifetime of the last credential, even if the credential has expired.
    credential: Option<Lifetime>,
    /// The lifetime of the last credential, if this credential is still valid.
    live: Option<Lifetime>,
    /// True if Valet must replace the last credential with a new credential.
    is_due: bool,
}

/// The credential that Valet signs next.
#[derive(Clone, Copy)]
struct Next {
    lifetime: Lifetime,
    /// True if the new credential is a renewal. Three kinds of credentials are not renewals: the grant's first
    /// credential, an old credential that Valet signs again, and a credential that Valet signs only because the grant's
    /// spec has changed.
    is_renewal: bool,
}

impl Evaluator<'_> {
    /// Returns the next step for a grant that is not suspended and has not expired. The method makes several checks in
    /// order. Each check either ends the method with the next step, or lets the method continue with the next check.
    pub(super) fn issue(&self, credential: Option<Lifetime>) -> Step {
        let live = self.live(credential);
        let due = live.and_then(|credential| self.renewal_at(credential));
        let last = Last {
            credential,
            live,
            is_due: due.is_some_and(|due| due <= self.now),
        };
        match self.sign(last) {
            Break(step) => step,
            Continue(publish) => Step::Publish(Box::new(publish)),
        }
    }

    fn sign(&self, last: Last) -> ControlFlow<Step, Publish> {
        let store = self.usable_store(last)?;
        let access = match admit(self.g, store) {
            Ok(access) => access,
            Err(refusal) => return Break(self.refuse(refusal)),
        };
        let next = self.lifetime(store, last)?;
        let is_repair = !next.is_renewal && self.is_repair(last.live, next.lifetime);
        if let Some(due) = self.f.repairs.due(self.now).filter(|_| is_repair) {
            return Break(self.await_repair(due));
        }
        self.reserve_quota(store, &access, last)?;
        self.check_object(&access, last, next)?;
        self.check_for_problems(store, last, next)?;
        if self.is_multipart() && !self.g.held {
            return Break(Step::AddFinalizer);
        }
        let mode = self.publish_mode()?;
        let recorded_seconds = self.g.terms.expiration_seconds;
        let (labels, annotations) = self.metadata(&self.next_record(next.lifetime, recorded_seconds));
        Continue(Publish {
            mode,
            request: access.to_sign(next.lifetime, self.upload_id().map(str::to_owned)),
            labels,
            annotations,
            is_repair,
        })
    }

    fn usable_store(&self, last: Last) -> ControlFlow<Step, &StoreView> {
        Break(match &self.f.store {
            StoreFact::Usable(store) => return Continue(store),
            StoreFact::Unread => Step::Read(Read::Store),
            StoreFact::Missing => {
                let store = &self.g.terms.store_ref;
                // Users who omit `kind` usually mean a ClusterObjectStore.
                let remedy = match store.kind {
                    StoreKind::ObjectStore => {
                        "create the store, or create a new grant with the correct spec.storeRef; if the store is shared by several namespaces, set spec.storeRef.kind to ClusterObjectStore"
                    }
                    StoreKind::ClusterObjectStore => {
                        "create the store, or create a new grant with the correct spec.storeRef"
                    }
                };
                let message = format!("{store} does not exist; {remedy}");
                self.without_credential(Reason::StoreNotFound, message)
            }
            StoreFact::Unusable { reason, message } => {
                // The access rules apply even while Valet cannot use the store.
                if let Some(refusal) = self.forbidden() {
                    self.refuse(refusal)
                // While the store has a problem, Valet usually keeps a Secret with a valid credential. But if the
                // problem has the reason `ConstraintsNotEnforced`, Valet deletes the Secret, because the holder of the
                // credential could do more than the grant allows.
                } else if *reason != Reason::ConstraintsNotEnforced
                    && self.own_secret().is_some()
                    && (last.live.is_some() || last.credential.is_none())
                {
                    self.published(last.credential, last.is_due.then_some(message.as_str()))
                } else {
                    self.without_credential(*reason, message.clone())
                }
            }
        })
    }

    /// Decides if the grant needs a new credential. If so, returns the lifetime of the new credential.
    fn lifetime(&self, store: &StoreView, last: Last) -> ControlFlow<Step, Next> {
        let Last {
            credential,
            live,
            is_due,
        } = last;
        let terms = &self.g.terms;
        let recorded_seconds = terms.expiration_seconds;
        let fresh = Lifetime::new(self.now, recorded_seconds, self.deadline(), store.credentials_expire);
        let is_renewal = credential.is_some_and(|credential| {
            live.is_none() || is_due && fresh.is_ok_and(|fresh| self.is_worth_replacing(credential, fresh))
        });
        let end_soon = || {
            let end = store
                .credentials_expire
                .map_or_else(|| "soon".to_owned(), |t| format!("at {t}"));
            let store = &terms.store_ref;
            format!("the credentials of {store} expire {end}; renew these credentials")
        };
        let lifetime = match (self.own_secret(), live) {
            (Some(secret), Some(credential)) if !is_renewal && !self.asks_for_new_lifetime(secret, credential) => {
                if self.resign_at(secret, credential).is_none_or(|due| due > self.now) {
                    return Break(self.published(Some(credential), is_due.then(end_soon).as_deref()));
                }
                // The store has new signing credentials. Valet therefore signs a new credential with the issue time
                // and the expiry of the old credential.
                match fresh {
                    Ok(fresh) => Ok(credential.again(fresh, recorded_seconds)),
                    Err(_) => return Break(self.published(Some(credential), Some(&end_soon()))),
                }
            }
            // The Secret was deleted, but its credential is still valid and matches the spec. Valet signs the
            // credential again with the old issue time and expiry. A user must not get a longer lifetime by deleting
            // the Secret.
            (None, Some(credential)) if !is_renewal && self.is_as_asked(credential) => {
                fresh.map(|fresh| credential.again(fresh, recorded_seconds))
            }
            (secret, live) => {
                if let Some(refusal) = self.shortened_by_store(fresh, store) {
                    return Break(match (secret, live) {
                        (Some(_), Some(credential)) if is_renewal => {
                            self.published(Some(credential), Some(&refusal.message))
                        }
                        _ => self.refuse(refusal),
                    });
                }
                match self.another_length(live, fresh) {
                    Ok(lifetime) => lifetime,
                    Err(refusal) => return Break(self.refuse(refusal)),
                }
            }
        };
        match lifetime {
            Ok(lifetime) => Continue(Next { lifetime, is_renewal }),
            Err(NoTime::DeadlinePassed) => Break(self.expired(None)),
            Err(NoTime::CredentialsExpired(end)) => {
                let store = &terms.store_ref;
                let message = format!("the credentials of {store} expired at {end}; renew these credentials");
                Break(self.without_credential(Reason::CredentialsExpired, message))
            }
        }
    }

    /// Reserves quota for the grant if an access rule or the store limits the number of live grants. Valet reserves
    /// quota before it sends any request to the store. A grant that waits for quota therefore causes no requests to
    /// the store.
    fn reserve_quota(&self, store: &StoreView, access: &Access, last: Last) -> ControlFlow<Step> {
        if self.own_secret().is_some() && last.live.is_some() {
            return Continue(());
        }
        let limits = quota_limits(self.g, access.key(), store);
        match self.f.quota {
            QuotaFact::Unasked if limits.is_limited() => Break(Step::Read(Read::Quota(limits))),
            QuotaFact::Full(limit) if limits.is_limited() => {
                Break(self.without_credential(Reason::TooManyGrants, self.quota_reached(limit)))
            }
            QuotaFact::Unasked | QuotaFact::Given | QuotaFact::Full(_) => Continue(()),
        }
    }

    /// Returns the message for a grant that waits for quota. The message does not change while the grant waits, because
    /// each changed message would cause a write of the grant's status.
    fn quota_reached(&self, limit: QuotaLimit) -> String {
        let (store, namespace) = (&self.g.terms.store_ref, &self.g.namespace);
        match limit {
            QuotaLimit::Namespace(limit) => format!(
                "{store} allows at most {limit} live grants for namespace {namespace}, and the limit is reached; this grant waits in a queue, oldest grant first; wait until a live grant ends, or revoke or delete grants that you no longer need"
            ),
            QuotaLimit::Store(limit) => format!(
                "{store} allows at most {limit} live grants in all namespaces together, and the limit is reached; this grant waits in a queue until a live grant ends; next in the queue is the oldest waiting grant of the namespace with the fewest live grants"
            ),
        }
    }

    /// Checks if the object of the grant already exists. Valet checks this before it issues the first credential of a
    /// write-once upload. It also checks this before it renews the credential of an upload.
    fn check_object(&self, access: &Access, last: Last, next: Next) -> ControlFlow<Step> {
        let credential = last.credential;
        let matters = (credential.is_none() && self.write_once()) || (next.is_renewal && self.awaits_object());
        if !matters {
            return Continue(());
        }
        match &self.f.object {
            ObjectFact::Unread => Break(Step::Read(Read::Object(access.clone()))),
            // The object exists. The operator may have published a credential and then crashed, and a client may have
            // uploaded the object with that credential. Valet therefore reads the Secret before it decides.
            ObjectFact::Present { .. } if matches!(self.secret, SecretFact::Unread) => {
                Break(Step::Read(Read::Secret))
            }
            ObjectFact::Present { object, modified_at } if self.is_newer(credential, *modified_at) => {
                match self.mismatch(object) {
                    None if self.is_standing() => Continue(()),
                    None => Break(self.completed(credential, object)),
                    Some(why) if self.write_once() => Break(self.another_object(&why)),
                    // The object does not match the grant. Valet still issues the next credential, so that its holder
                    // can replace the object.
                    Some(_) => Continue(()),
                }
            }
            ObjectFact::Present { object, .. } if self.write_once() => Break(self.exists_already(object)),
            ObjectFact::Unreachable(why) if credential.is_none() => {
                Break(self.without_credential(Reason::StoreUnreachable, self.unreachable(why)))
            }
            ObjectFact::ClockSkewed(why) if credential.is_none() => {
                Break(self.without_credential(Reason::ClockSkewed, why.clone()))
            }
            // Valet issues the credential even if it cannot check whether the object exists. This is safe, because
            // the store itself rejects a write-once upload to an existing object.
            ObjectFact::Unreachable(_)
            | ObjectFact::ClockSkewed(_)
            | ObjectFact::Absent
            | ObjectFact::Present { .. }
            | ObjectFact::Hidden => Continue(()),
        }
    }

    /// Stops the reconcile if Valet cannot sign a credential or cannot write the Secret. The cause is an error
    /// earlier in this reconcile, or a problem of the store.
    fn check_for_problems(&self, store: &StoreView, last: Last, next: Next) -> ControlFlow<Step> {
        let not_taken = self.f.secret_refused.as_ref().map(|why| {
            let message = format!(
                "the API server refused Secret {name}: {why}",
                name = self.g.secret_name()
            );
            (Reason::SecretNotWritable, message)
        });
        let not_signed = || {
            let known = self.f.sign_refused.clone().or_else(|| self.not_probed(store));
            known.or_else(|| self.clock_trouble(store, next.lifetime))
        };
        let Some((reason, message)) = not_taken.or_else(not_signed) else {
            return Continue(());
        };
        // Valet cannot sign a new credential now. If the spec asks for a different lifetime, Valet must not keep the
        // old credential. If the old credential only needs a renewal or a new signature, Valet keeps the old credential
        // until it expires.
        Break(match (self.own_secret(), last.live) {
            (Some(secret), Some(credential))
                if next.is_renewal || !self.asks_for_new_lifetime(secret, credential) =>
            {
                self.published(Some(credential), Some(&message))
            }
            _ => self.without_credential(reason, message),
        })
    }

    /// Decides whether Valet creates the Secret or replaces an existing Secret. If the Secret is being deleted, the
    /// grant waits.
    fn publish_mode(&self) -> ControlFlow<Step, PublishMode> {
        match self.secret {
            SecretFact::Present(s) if s.deleting => {
                let message = format!(
                    "Secret {name} is being deleted; Valet creates a new Secret after the deletion",
                    name = self.g.secret_name()
                );
                Break(self.without_credential(Reason::SecretNotWritable, message))
            }
            SecretFact::Present(s) => Continue(PublishMode::Replace {
                uid: s.uid.clone(),
                resource_version: s.resource_version.clone(),
            }),
            SecretFact::Absent | SecretFact::Unread => Continue(PublishMode::Create),
        }
    }

    /// Returns the record of a credential that Valet is about to publish. If the grant already had a credential with
    /// another issue time, the record counts one more renewal.
    fn next_record(&self, credential: Lifetime, expiration_seconds: i64) -> CredentialRecord {
        let is_another = self
            .credential()
            .is_some_and(|before| before.issued_at != credential.issued_at);
        CredentialRecord {
            credential,
            expiration_seconds: Some(expiration_seconds),
            renewals: self.renewals().saturating_add(i64::from(is_another)),
            signed_with: self.signer().map(|s| s.fingerprint.clone()),
            earlier: self
                .copies_expire_at(self.credential())
                .filter(|end| *end > credential.expires_at),
        }
    }

    /// Returns true if the lifetime of the credential is the lifetime that the spec asks for, or is shorter only
    /// because the store's signing credentials expire earlier. Valet calls this method for a credential whose Secret
    /// was deleted.
    fn is_as_asked(&self, credential: Lifetime) -> bool {
        let seconds = self.g.terms.expiration_seconds;
        let same_wish = self.recorded_seconds() == Some(seconds) && self.own_end(credential) == credential.expires_at;
        same_wish || credential.expires_at == credential.requested_end(seconds, self.own_deadline())
    }
}
