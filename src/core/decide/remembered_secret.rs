//! Decides without reading the grant Secret. The status of the grant describes the credential in the Secret, and the
//! record signature of the status proves that Valet wrote the status.
//!
//! Another client can change or delete the Secret after Valet has written it. Therefore Valet reads the Secret again
//! after the resync interval, and before every step that depends on the content of the Secret.

use jiff::Timestamp;

use super::{credential_record::CredentialRecord, evaluator::Evaluator};
use crate::core::{
    facts::{Facts, Owner, SecretFact, SecretView, StoreFact},
    lifetime::second,
    secret_state::{RememberedSecret, SecretVersion},
    step::{Read, Step},
};

/// Returns the next step if Valet does not have to read the Secret for this step. This is the case if Valet only waits,
/// reads from the store, or deletes exactly the version of the Secret that it remembers.
pub(super) fn decide(facts: &Facts, now: Timestamp) -> Option<Step> {
    let remembered = facts.remembered_secret.as_ref()?;
    let secret = SecretFact::Present(assumed(facts, remembered, now)?);
    match Evaluator::new(facts, &secret, now).step() {
        Step::Rest { until } => Some(Step::Rest {
            until: Some(until.map_or(remembered.read_at, |until| until.min(remembered.read_at))),
        }),
        step @ Step::Read(Read::Store | Read::Object(_) | Read::Upload(..)) => Some(step),
        step @ Step::DeleteSecret { .. } if remembered.version.is_some() => Some(step),
        _ => None,
    }
}

/// Returns the Secret that Valet expects. Returns `None` if Valet must read the Secret.
fn assumed(facts: &Facts, remembered: &RememberedSecret, now: Timestamp) -> Option<SecretView> {
    let (grant, status) = (&facts.grant, &facts.grant.status);
    let is_issued = status.binding.is_some() && status.finished_time.is_none();
    let is_described = grant.status_is_own && is_issued && !grant.deleting;
    // If the operator's clock was set back, `seen_at` is in the future.
    let is_recent = (remembered.seen_at..remembered.read_at).contains(&now);
    let is_unread = matches!(facts.secret, SecretFact::Unread);
    if !is_unread || !is_described || !is_recent {
        return None;
    }
    let evaluator = Evaluator::new(facts, &SecretFact::Unread, now);
    let credential = evaluator.credential()?;
    let version = remembered.version.as_ref();
    // If Valet wrote a new credential to the Secret and then failed to write the status, the status still describes the
    // old credential.
    let is_current = |version: &SecretVersion| {
        version.issued_at.map(second) == Some(credential.issued_at)
            && version.expires_at.map(second) == Some(credential.expires_at)
    };
    if !version.is_none_or(is_current) {
        return None;
    }
    let signer = match &facts.store {
        StoreFact::Usable(store) => store.signer.as_ref(),
        _ => None,
    };
    // The Secret records which credentials of the store signed its content, and the status does not. A process that has
    // not seen the Secret yet assumes the store's current credentials. If the store has had new credentials since, the
    // process must read the Secret.
    let signed_with = match (version, signer) {
        (Some(version), _) => version.signed_with.clone(),
        (None, Some(signer)) if signer.since > remembered.seen_at => return None,
        (None, signer) => signer.map(|signer| signer.fingerprint.clone()),
    };
    let record = CredentialRecord {
        expiration_seconds: Some(evaluator.requested_seconds()),
        signed_with,
        ..evaluator.record(credential)
    };
    let (labels, annotations) = evaluator.metadata(&record);
    let (uid, resource_version) = version
        .map(|v| (v.uid.clone(), v.resource_version.clone()))
        .unwrap_or_default();
    let mut view = SecretView::new(uid, resource_version, Owner::ThisGrant, labels, annotations);
    view.read_evidence(true);
    Some(view)
}
