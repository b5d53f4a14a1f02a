use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    facts::{Facts, GrantFacts, ObjectFact, Owner, SecretFact, SecretView, StoreFact},
    lifetime::{Lifetime, NoTime, second},
    policy::admit,
    status::condition,
    step::{Publish, PublishMode, Read, SigningRequest, Step},
};
use crate::api::{Ask, MANAGED_BY_LABEL, MANAGED_BY_VALUE, Overwrite, Reason, UploadConstraints, annotation};

/// Says what to do next for one grant.
///
/// It reads as a grant lives: finished, over, refused, on its way, published. Each part either names the step
/// that is missing for its situation or leaves the judgement to the next.
pub fn decide(facts: &Facts, now: Timestamp) -> Step {
    if facts.grant.deleting {
        // The garbage collector takes the Secret, whose owner the grant is.
        return Step::Rest { until: None };
    }
    Judge {
        f: facts,
        g: &facts.grant,
        now,
    }
    .next()
}

/// The facts, the grant among them, and the moment that the decision speaks of.
pub(super) struct Judge<'a> {
    pub(super) f: &'a Facts,
    pub(super) g: &'a GrantFacts,
    pub(super) now: Timestamp,
}

impl Judge<'_> {
    fn next(&self) -> Step {
        if let Some((reason, finished)) = self.finished() {
            return self.finish(reason, finished);
        }
        // A grant that never had a key needs no look at its Secret before the first attempt to create it: the
        // apiserver says so if there is one. All other situations rest on what is really there.
        let issued_before = self.g.status.issued_time.is_some();
        if issued_before && matches!(self.f.secret, SecretFact::Unread) {
            return Step::Read(Read::Secret);
        }
        if let Some(step) = self.somebody_elses() {
            return step;
        }
        let key = self.key();
        if let Some(key) = key
            && self.end(key) <= self.now
        {
            return self.over(Some(key));
        }
        if !self.g.broken_rules.is_empty() {
            return self.refuse(Reason::InvalidSpec, self.g.broken_rules.join("; "));
        }
        let store = match &self.f.store {
            StoreFact::Usable(store) => store,
            StoreFact::Unread => return Step::Read(Read::Store),
            StoreFact::Missing => {
                let message = format!(
                    "{} does not exist; create it, or correct spec.storeRef",
                    self.g.terms.store_ref
                );
                return self.without_key(Reason::StoreNotFound, message);
            }
            // A key that is out does not depend on the store's present state, and its permission was judged by
            // rules that may well still stand.
            StoreFact::Unusable { .. } if self.own_secret().is_some() => return self.published(key),
            StoreFact::Unusable { reason, message } => return self.without_key(*reason, message.clone()),
        };
        let object_key = match admit(self.g, store) {
            Ok(key) => key,
            Err(refusal) => return self.refuse(refusal.reason, refusal.message),
        };

        let terms = &self.g.terms;
        let fresh = Lifetime::new(
            self.now,
            terms.expiration_seconds,
            self.deadline(),
            store.credentials_expire,
        );
        let lifetime = match (self.own_secret(), key) {
            (Some(secret), Some(key)) if !self.asks_for_another(secret, key) => return self.published(Some(key)),
            // The Secret was deleted under a key that is still good for what the grant asks: signing the same
            // seconds again gives the same URL, and nobody gains a second of life by deleting Secrets.
            (None, Some(key)) if self.is_as_asked(key) => {
                fresh.map(|fresh| key.again(fresh, terms.expiration_seconds))
            }
            _ => fresh,
        };
        let lifetime = match lifetime {
            Ok(lifetime) => lifetime,
            Err(NoTime::DeadlinePassed) => return self.over(None),
            Err(NoTime::CredentialsExpired(end)) => {
                let message = format!("the credentials of {} ended at {end}; renew them", terms.store_ref);
                return self.without_key(Reason::CredentialsExpired, message);
            }
        };
        if key.is_none() && self.write_once() {
            match &self.f.object {
                ObjectFact::Unread => return Step::Read(Read::Object),
                // It may have come by a key whose publisher died before he could report it.
                ObjectFact::Present { .. } if matches!(self.f.secret, SecretFact::Unread) => {
                    return Step::Read(Read::Secret);
                }
                ObjectFact::Present { object, .. } => return self.exists_already(object),
                ObjectFact::Unreachable(why) => {
                    return self.without_key(Reason::StoreUnreachable, self.unreachable(why));
                }
                ObjectFact::Absent | ObjectFact::Hidden => {}
            }
        }
        if let Some(why) = &self.f.secret_refused {
            let message = format!("the apiserver did not take Secret {}: {why}", self.g.secret_name());
            // A key that should be replaced and cannot be is not the one that the grant asks for.
            return self.without_key(Reason::SecretNotWritable, message);
        }
        if let Some((reason, message)) = &self.f.sign_refused {
            return self.without_key(*reason, message.clone());
        }
        let mode = match &self.f.secret {
            SecretFact::Present(s) if s.deleting => {
                let message = format!(
                    "Secret {} is being deleted and something holds it; see its finalizers",
                    self.g.secret_name()
                );
                return self.without_key(Reason::SecretNotWritable, message);
            }
            SecretFact::Present(s) => PublishMode::Replace {
                uid: s.uid.clone(),
                resource_version: s.resource_version.clone(),
            },
            SecretFact::Absent | SecretFact::Unread => PublishMode::Create,
        };
        let request = SigningRequest {
            key: object_key,
            ask: self.g.ask.clone(),
            lifetime,
            holder: format!("{}.{}", self.g.namespace, self.g.name),
        };
        let (labels, annotations) = self.metadata(lifetime, terms.expiration_seconds);
        Step::Publish(Box::new(Publish {
            mode,
            request,
            labels,
            annotations,
        }))
    }

    // --- what there is ---------------------------------------------------------------------------------------

    /// The Secret, if it is this grant's.
    pub(super) fn own_secret(&self) -> Option<&SecretView> {
        match &self.f.secret {
            SecretFact::Present(s) if s.owner == Owner::ThisGrant && !s.deleting => Some(s),
            _ => None,
        }
    }

    /// The key that was issued: by the Secret, which is the record, or by the status where the Secret is gone.
    pub(super) fn key(&self) -> Option<Lifetime> {
        let recorded = match &self.f.secret {
            SecretFact::Present(s) if s.owner == Owner::ThisGrant => s.issued_at.zip(s.expires_at),
            _ => None,
        };
        let status = &self.g.status;
        // Anybody can write annotations; a time that a status could not repeat is none.
        let (issued_at, expires_at) = recorded
            .filter(|(issued, expires)| *issued.min(expires) >= Timestamp::UNIX_EPOCH)
            .or_else(|| Some((status.issued_time.as_ref()?.0, status.expiration_time.as_ref()?.0)))?;
        Some(Lifetime {
            issued_at: second(issued_at),
            expires_at: second(expires_at),
        })
    }

    /// The lifetime that the key was asked for with: by the Secret, or by the status where the Secret is gone.
    pub(super) fn asked(&self) -> Option<i64> {
        self.own_secret()
            .and_then(|s| s.expiration_seconds)
            .or(self.g.status.expiration_seconds)
    }

    /// Whether a key that is out of its Secret is the one that the grant asks for now. That it has fewer seconds, since
    /// its credentials ended first, does not make it another one.
    fn is_as_asked(&self, key: Lifetime) -> bool {
        let seconds = self.g.terms.expiration_seconds;
        let same_wish = self.asked() == Some(seconds) && self.end(key) == key.expires_at;
        same_wish || key.expires_at == key.end_asked(seconds, self.deadline())
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.g.terms.deadline_time.as_ref().map(|t| second(t.0))
    }

    /// When the key may be out no longer: at its own end, or at a deadline that was set since.
    pub(super) fn end(&self, key: Lifetime) -> Timestamp {
        self.deadline().map_or(key.expires_at, |d| d.min(key.expires_at))
    }

    /// The reason and the moment with which the grant finished, if it has.
    pub(super) fn finished(&self) -> Option<(Reason, Timestamp)> {
        let since = self.g.status.finished_time.as_ref()?.0;
        let ready = condition(&self.g.status, "Ready")?;
        [
            Reason::Completed,
            Reason::ObjectExists,
            Reason::Expired,
            Reason::ExpiredUnused,
            Reason::ObjectMismatch,
        ]
        .into_iter()
        .find(|r| r.as_str() == ready.reason)
        .map(|r| (r, since))
    }

    pub(super) fn write_once(&self) -> bool {
        matches!(
            &self.g.ask,
            Ask::Upload(UploadConstraints {
                overwrite: Overwrite::Forbid,
                ..
            })
        )
    }

    pub(super) fn is_upload(&self) -> bool {
        matches!(self.g.ask, Ask::Upload(_))
    }

    /// Whether the spec now asks for another lifetime than the published key has. The generation that the Secret
    /// was written for says nothing of it: its labels may have followed a spec whose key had to wait for the store.
    pub(super) fn asks_for_another(&self, secret: &SecretView, key: Lifetime) -> bool {
        secret
            .expiration_seconds
            .is_some_and(|s| s != self.g.terms.expiration_seconds)
            || self.end(key) < key.expires_at
    }

    /// The labels and annotations that the Secret shall have: the tenant's, and ours over them.
    pub(super) fn metadata(
        &self,
        key: Lifetime,
        expiration_seconds: i64,
    ) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let template = self.g.template();
        let mut labels = template.labels;
        labels.insert(MANAGED_BY_LABEL.into(), MANAGED_BY_VALUE.into());
        let mut annotations = template.annotations;
        let store = &self.g.terms.store_ref;
        annotations.extend([
            (annotation::ISSUED_AT.into(), key.issued_at.to_string()),
            (annotation::EXPIRES_AT.into(), key.expires_at.to_string()),
            (annotation::GRANT_UID.into(), self.g.uid.clone()),
            (annotation::GRANT_GENERATION.into(), self.g.generation.to_string()),
            (
                annotation::STORE.into(),
                format!("{}/{}", store.kind.as_str(), store.name),
            ),
            (annotation::EXPIRATION_SECONDS.into(), expiration_seconds.to_string()),
        ]);
        (labels, annotations)
    }
}
