use std::{cell::OnceCell, collections::BTreeMap};

use jiff::Timestamp;

use super::{
    facts::{Facts, GrantFacts, Owner, SecretFact, SecretView},
    lifetime::{Lifetime, second},
    policy::Allowance,
    status::condition,
    step::{Read, Step},
};
use crate::api::{Ask, MANAGED_BY_LABEL, MANAGED_BY_VALUE, Overwrite, Reason, UploadConstraints, annotation};

/// Says what to do next for one grant.
///
/// It reads as a grant lives: finished, over, refused, on its way, published. Each part either names the step
/// that is missing for its situation or leaves the judgement to the next.
pub fn decide(facts: &Facts, now: Timestamp) -> Step {
    let judge = Judge {
        f: facts,
        g: &facts.grant,
        now,
        allowance: OnceCell::new(),
    };
    if facts.grant.deleting {
        return judge.leave();
    }
    judge.next()
}

/// What is recorded of a key that is out.
pub(super) struct Record {
    pub(super) key: Lifetime,
    /// The lifetime that it was asked for with, if that is known.
    pub(super) expiration_seconds: Option<i64>,
    /// How many keys the grant had before it.
    pub(super) renewals: i64,
    /// The fingerprint of what it was signed with, if that is known.
    pub(super) signed_with: Option<String>,
    /// When the last of those ends, if it outlives this one.
    pub(super) earlier: Option<Timestamp>,
}

/// The facts, the grant among them, and the moment that the decision speaks of.
pub(super) struct Judge<'a> {
    pub(super) f: &'a Facts,
    pub(super) g: &'a GrantFacts,
    pub(super) now: Timestamp,
    /// What the access rules allow beyond one credential, once that was asked for.
    pub(super) allowance: OnceCell<Allowance>,
}

impl Judge<'_> {
    fn next(&self) -> Step {
        if let Some((reason, finished)) = self.finished() {
            return self.finish(reason, finished);
        }
        if self.g.terms.is_revoked() {
            return self.revoked();
        }
        // A grant that never had a key needs no look at its Secret before the first attempt to create it: the
        // apiserver says so if there is one. All other situations rest on what is really there.
        let issued_before = self.g.status.issued_time.is_some();
        if issued_before && matches!(self.f.secret, SecretFact::Unread) {
            return Step::Read(Read::Secret);
        }
        // Also beside a Secret of somebody else's, which is not touched.
        let key = self.key();
        let is_suspended = self.g.terms.is_suspended();
        if !is_suspended && let Some(refusal) = self.past_total(key) {
            return self.somebody_elses().unwrap_or_else(|| self.refuse(refusal));
        }
        if self.over_at(key).is_some_and(|end| end <= self.now) {
            return self.over(key);
        }
        if !is_suspended && let Some(step) = self.somebody_elses() {
            return step;
        }
        if is_suspended {
            return self.suspended(key);
        }
        if !self.g.broken_rules.is_empty() {
            return self.without_key(Reason::InvalidSpec, self.g.broken_rules.join("; "));
        }
        if let Some(refusal) = self.f.settings.secret_metadata.refusal(&self.g.template()) {
            return self.refuse(refusal);
        }
        self.issue(key)
    }

    // --- what there is ---------------------------------------------------------------------------------------

    /// The Secret, if it is this grant's and as Valet wrote it last.
    pub(super) fn own_secret(&self) -> Option<&SecretView> {
        match &self.f.secret {
            SecretFact::Present(s) if s.owner == Owner::ThisGrant && !s.deleting => {
                Some(s).filter(|s| s.is_authentic && !self.is_older_than_status(s))
            }
            _ => None,
        }
    }

    /// Whether the status knows of a later credential: then somebody has put an earlier Secret back.
    fn is_older_than_status(&self, secret: &SecretView) -> bool {
        let status = &self.g.status;
        let knows_one = status.issued_time.is_some() && status.expiration_time.is_some();
        knows_one && secret.renewals.unwrap_or_default().max(0) < status.renewals.unwrap_or_default()
    }

    /// The key that was issued: by the Secret, which is the record, or by the status where the Secret is gone. A Secret that
    /// is being deleted is no record: anybody who may create Secrets can make one that looks like this grant's and delete it.
    pub(super) fn key(&self) -> Option<Lifetime> {
        let recorded = self.own_secret().and_then(|s| s.issued_at.zip(s.expires_at));
        let status = &self.g.status;
        let (issued_at, expires_at) =
            recorded.or_else(|| Some((status.issued_time.as_ref()?.0, status.expiration_time.as_ref()?.0)))?;
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

    /// How many keys the grant had before the one that is recorded, by the same records.
    pub(super) fn renewals(&self) -> i64 {
        self.own_secret()
            .map_or(self.g.status.renewals, |s| s.renewals)
            .unwrap_or_default()
            .max(0)
    }

    /// When the last of the keys before the recorded one ends, if it outlives that.
    pub(super) fn earlier(&self) -> Option<Timestamp> {
        let status = self.g.status.earlier_expiration_time.as_ref().map(|t| second(t.0));
        let recorded = self.own_secret().map_or(status, |s| s.earlier_expires_at.map(second));
        recorded.filter(|end| self.key().is_some_and(|key| *end > key.expires_at))
    }

    /// Until when some copy of some key of this grant's may work.
    pub(super) fn copies_until(&self, key: Option<Lifetime>) -> Option<Timestamp> {
        key.map(|key| key.expires_at).max(self.earlier())
    }

    /// What is recorded of this key, the one that was issued.
    pub(super) fn record(&self, key: Lifetime) -> Record {
        Record {
            key,
            expiration_seconds: self.asked(),
            renewals: self.renewals(),
            signed_with: self.own_secret().and_then(|s| s.signed_with.clone()),
            earlier: self.earlier(),
        }
    }

    /// The moment after which no credential may work: the grant's own deadline, or the end of the time that the rules allow in
    /// total.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.own_deadline().into_iter().chain(self.total_end()).min()
    }

    /// The grant's own deadline.
    pub(super) fn own_deadline(&self) -> Option<Timestamp> {
        self.g.terms.deadline_time.as_ref().map(|t| second(t.0))
    }

    /// When the key may be out no longer: at its own end, or at a deadline that was set since.
    pub(super) fn end(&self, key: Lifetime) -> Timestamp {
        self.deadline().map_or(key.expires_at, |d| d.min(key.expires_at))
    }

    /// The same by the grant alone, whatever the rules say by now.
    pub(super) fn own_end(&self, key: Lifetime) -> Timestamp {
        self.own_deadline().map_or(key.expires_at, |d| d.min(key.expires_at))
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
            Reason::Revoked,
            Reason::ObjectMismatch,
            Reason::UploadAborted,
        ]
        .into_iter()
        .find(|r| r.as_str() == ready.reason)
        .map(|r| (r, since))
    }

    pub(super) fn write_once(&self) -> bool {
        matches!(
            &self.g.ask,
            Ask::Upload {
                constraints: UploadConstraints {
                    overwrite: Overwrite::Forbid,
                    ..
                },
                ..
            }
        )
    }

    pub(super) fn is_upload(&self) -> bool {
        matches!(self.g.ask, Ask::Upload { .. })
    }

    /// Whether there is one object whose arrival the grant waits for. An upload of whatever lies below a key has none.
    pub(super) fn awaits_object(&self) -> bool {
        self.is_upload() && !self.g.terms.is_prefix()
    }

    /// Whether the key stays out after an upload was seen: it is renewed, and may be used again.
    pub(super) fn is_standing(&self) -> bool {
        // An upload in parts ends with its object.
        self.g.terms.renews() && self.is_upload() && !self.write_once() && !self.is_in_parts()
    }

    /// Whether the spec now asks for another lifetime than the published key has. The generation that the Secret
    /// was written for says nothing of it: its labels may have followed a spec whose key had to wait for the store.
    pub(super) fn asks_for_another(&self, secret: &SecretView, key: Lifetime) -> bool {
        secret
            .expiration_seconds
            .is_some_and(|s| s != self.g.terms.expiration_seconds)
            || self.own_end(key) < key.expires_at
    }

    /// The labels and annotations that the Secret shall have: the tenant's, and ours over them.
    pub(super) fn metadata(&self, record: &Record) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let key = record.key;
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
        ]);
        if let Some(seconds) = record.expiration_seconds {
            annotations.insert(annotation::EXPIRATION_SECONDS.into(), seconds.to_string());
        }
        if let Some(fingerprint) = &record.signed_with {
            annotations.insert(annotation::SIGNED_WITH.into(), fingerprint.clone());
        }
        if record.renewals > 0 {
            annotations.insert(annotation::RENEWALS.into(), record.renewals.to_string());
        }
        if let Some(upload) = self.upload() {
            annotations.insert(annotation::UPLOAD_ID.into(), upload.to_owned());
        }
        if let Some(end) = record.earlier {
            annotations.insert(annotation::EARLIER_EXPIRES_AT.into(), end.to_string());
        }
        (labels, annotations)
    }
}
