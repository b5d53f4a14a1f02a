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

/// Returns the next step for one grant.
///
/// The checks follow the life of a grant: finished, expired, refused, waiting, published. Each check returns its
/// missing step or continues with the next check.
pub fn decide(facts: &Facts, now: Timestamp) -> Step {
    let judge = Evaluator {
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

/// The record of an issued credential.
pub(super) struct Record {
    pub(super) key: Lifetime,
    /// The lifetime that the grant asked for, if known.
    pub(super) expiration_seconds: Option<i64>,
    /// How many credentials the grant had before this one.
    pub(super) renewals: i64,
    /// The fingerprint of the signing credentials, if known.
    pub(super) signed_with: Option<String>,
    /// When the last earlier credential expires, if it expires later than this one.
    pub(super) earlier: Option<Timestamp>,
}

/// Evaluates the facts about one grant at one time.
pub(super) struct Evaluator<'a> {
    pub(super) f: &'a Facts,
    pub(super) g: &'a GrantFacts,
    pub(super) now: Timestamp,
    /// What the access rules allow beyond one credential. Computed at first use.
    pub(super) allowance: OnceCell<Allowance>,
}

impl Evaluator<'_> {
    fn next(&self) -> Step {
        if let Some((reason, finished)) = self.finished() {
            return self.finish(reason, finished);
        }
        if self.g.terms.is_revoked() {
            return self.revoked();
        }
        // The first attempt to create the Secret does not need a read: the API server reports an existing Secret. All
        // other states depend on the actual Secret.
        let issued_before = self.g.status.issued_time.is_some();
        if issued_before && matches!(self.f.secret, SecretFact::Unread) {
            return Step::Read(Read::Secret);
        }
        // This also applies if the Secret belongs to another owner and Valet does not change it.
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

    // --- records ---------------------------------------------------------------------------------------------

    /// The Secret, if it belongs to this grant and is as Valet last wrote it.
    pub(super) fn own_secret(&self) -> Option<&SecretView> {
        match &self.f.secret {
            SecretFact::Present(s) if s.owner == Owner::ThisGrant && !s.deleting => {
                Some(s).filter(|s| s.is_authentic && !self.is_older_than_status(s))
            }
            _ => None,
        }
    }

    /// Whether the status records a later credential. Then another client has restored an old Secret.
    fn is_older_than_status(&self, secret: &SecretView) -> bool {
        let status = &self.g.status;
        let knows_one = status.issued_time.is_some() && status.expiration_time.is_some();
        knows_one && secret.renewals.unwrap_or_default().max(0) < status.renewals.unwrap_or_default()
    }

    /// The lifetime of the issued credential, from the Secret, or from the status if the Secret is gone. A Secret
    /// that is being deleted does not count, because any user who may create Secrets can imitate one.
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

    /// The lifetime that the grant asked for, from the Secret, or from the status if the Secret is gone.
    pub(super) fn asked(&self) -> Option<i64> {
        self.own_secret()
            .and_then(|s| s.expiration_seconds)
            .or(self.g.status.expiration_seconds)
    }

    /// How many credentials the grant had before the recorded one, from the Secret or from the status.
    pub(super) fn renewals(&self) -> i64 {
        self.own_secret()
            .map_or(self.g.status.renewals, |s| s.renewals)
            .unwrap_or_default()
            .max(0)
    }

    /// When the last earlier credential expires, if it expires later than the recorded one.
    pub(super) fn earlier(&self) -> Option<Timestamp> {
        let status = self.g.status.earlier_expiration_time.as_ref().map(|t| second(t.0));
        let recorded = self.own_secret().map_or(status, |s| s.earlier_expires_at.map(second));
        recorded.filter(|end| self.key().is_some_and(|key| *end > key.expires_at))
    }

    /// The latest time at which a copy of any credential of this grant may work.
    pub(super) fn copies_until(&self, key: Option<Lifetime>) -> Option<Timestamp> {
        key.map(|key| key.expires_at).max(self.earlier())
    }

    /// The record of the issued credential.
    pub(super) fn record(&self, key: Lifetime) -> Record {
        Record {
            key,
            expiration_seconds: self.asked(),
            renewals: self.renewals(),
            signed_with: self.own_secret().and_then(|s| s.signed_with.clone()),
            earlier: self.earlier(),
        }
    }

    /// The latest time at which a credential may be valid: the grant's deadline, or the end of the total time that
    /// the access rules allow, whichever is earlier.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.own_deadline().into_iter().chain(self.total_end()).min()
    }

    /// The grant's `deadlineTime`.
    pub(super) fn own_deadline(&self) -> Option<Timestamp> {
        self.g.terms.deadline_time.as_ref().map(|t| second(t.0))
    }

    /// When the credential ends: at its expiry, or at an earlier deadline that was set later.
    pub(super) fn end(&self, key: Lifetime) -> Timestamp {
        self.deadline().map_or(key.expires_at, |d| d.min(key.expires_at))
    }

    /// When the credential ends by the grant alone, without the access rules.
    pub(super) fn own_end(&self, key: Lifetime) -> Timestamp {
        self.own_deadline().map_or(key.expires_at, |d| d.min(key.expires_at))
    }

    /// The reason and the time with which the grant finished, if it has finished.
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

    /// Whether the grant waits for one object. An upload to a prefix has no single object.
    pub(super) fn awaits_object(&self) -> bool {
        self.is_upload() && !self.g.terms.is_prefix()
    }

    /// Whether the credential stays valid after an upload, because it is renewed and may be used again.
    pub(super) fn is_standing(&self) -> bool {
        // A multipart upload ends with its object.
        self.g.terms.renews() && self.is_upload() && !self.write_once() && !self.is_in_parts()
    }

    /// Whether the spec asks for another lifetime than the published credential has. The generation in the Secret's
    /// annotation is no evidence: Valet can update the metadata while the credential waits for the store.
    pub(super) fn asks_for_another(&self, secret: &SecretView, key: Lifetime) -> bool {
        secret
            .expiration_seconds
            .is_some_and(|s| s != self.g.terms.expiration_seconds)
            || self.own_end(key) < key.expires_at
    }

    /// The labels and annotations that the Secret must have. Valet's own override those of the tenant.
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
