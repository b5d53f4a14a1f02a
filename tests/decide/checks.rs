//! Invariants that are checked at every step of every test. The names (I3, I12, ...) are those of the project's
//! invariants.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use valet::{
    api::{GrantStatus, MANAGED_BY_LABEL, MANAGED_BY_VALUE, Reason, annotation},
    core::{
        Assembly, Facts, GrantFacts, Owner, Publish, PublishMode, QuotaFact, Read, RenewRequest, RulesView,
        SecretFact, SecretView, Step, StoreFact, admit, allowance, decide, still_allowed,
    },
};

use crate::world::{Bucket, Secret, THEIRS, Upload, World};

/// The verdict that Helm, Argo CD and Flux derive from a grant by the rules of kstatus. The rules check the deletion
/// timestamp, then `observedGeneration`, then `Reconciling` and `Stalled`, then `Ready`.
pub fn kstatus(grant: &GrantFacts) -> &'static str {
    let is = |type_: &str, value: &str| {
        grant
            .status
            .conditions
            .iter()
            .any(|c| c.type_ == type_ && c.status == value)
    };
    if grant.deleting {
        "Terminating"
    } else if grant.status.observed_generation != Some(grant.generation) || is("Reconciling", "True") {
        "InProgress"
    } else if is("Stalled", "True") {
        "Failed"
    } else if is("Ready", "True") {
        "Current"
    } else {
        "InProgress"
    }
}

/// A second copy of the table of states: the status of `Ready`, the verdict of kstatus, and whether a credential is
/// issued.
fn row(reason: &str) -> (&'static str, &'static str, bool) {
    match reason {
        "Issued" => ("True", "Current", true),
        "Completed" | "ObjectExists" | "Expired" | "Suspended" | "Revoked" => ("True", "Current", false),
        "StoreNotFound"
        | "StoreUnreachable"
        | "CredentialsNotFound"
        | "CredentialsInvalid"
        | "CredentialsExpired"
        | "CredentialsRefused"
        | "BucketNotFound"
        | "RegionMismatch"
        | "ClockSkewed"
        | "PredecessorSecret"
        | "SecretNotWritable"
        | "SecretContested"
        | "TooManyGrants"
        | "Deleting" => ("False", "InProgress", false),
        "ExpiredUnused"
        | "ObjectMismatch"
        | "UploadAborted"
        | "InvalidSpec"
        | "NamespaceNotAllowed"
        | "OperationNotAllowed"
        | "KeyNotAllowed"
        | "ExpirationTooLong"
        | "RenewalNotAllowed"
        | "TotalTimeReached"
        | "ContentTypeNotAllowed"
        | "ContentLengthNotAllowed"
        | "CapabilityMissing"
        | "SecretConflict"
        | "ConstraintsNotEnforced"
        | "InvalidStore"
        | "EndpointNotAllowed" => ("False", "Failed", false),
        other => panic!("{other} is not a reason for the state of a grant"),
    }
}

pub fn condition<'a>(status: &'a GrantStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|c| c.type_ == type_)
}

pub fn ready(grant: &GrantFacts) -> &str {
    condition(&grant.status, "Ready").map_or("", |c| &c.reason)
}

/// Checks that the step that `decide` returned keeps all invariants in the current world.
pub fn step(world: &World, facts: &Facts, step: &Step) {
    assert_eq!(
        &decide(facts, world.now),
        step,
        "two different decisions for the same facts"
    );
    asks(facts, step);
    match step {
        Step::Read(_) => {}
        Step::Publish(publish) => {
            assert!(
                facts.grant.held || facts.grant.operation_spec.parts().is_none(),
                "initiates a multipart upload without a finalizer"
            );
            // The credential is checked against the facts that were read. A later change of the spec is checked at
            // the next step.
            signs(&facts.grant, &facts.store, world.now, publish);
            // If the number of live grants is limited, a new credential needs a reservation.
            if let StoreFact::Usable(store) = &facts.store
                && store.max_live_grants.is_some()
                && publish.mode == PublishMode::Create
            {
                assert_eq!(
                    facts.quota,
                    QuotaFact::Given,
                    "a credential without a reservation of quota"
                );
            }
            if let PublishMode::Replace { uid, .. } = &publish.mode {
                ours(facts, uid);
            }
        }
        Step::UpdateMetadata {
            uid,
            labels,
            annotations,
            ..
        } => {
            let before = ours(facts, uid);
            // Labels and annotations of other clients stay, and Valet's own are present.
            assert!(before.labels.keys().all(|k| labels.contains_key(k)));
            assert!(before.annotations.keys().all(|k| annotations.contains_key(k)));
            assert!(
                (&before.labels, &before.annotations) != (labels, annotations) || !before.has_sole_owner,
                "a write that changes nothing"
            );
            marks(&facts.grant, labels, annotations);
        }
        Step::DeleteSecret { uid, resource_version } => match (&facts.secret, &facts.remembered_secret) {
            // Valet deletes exactly the version that it remembers, and the API server checks the version.
            (SecretFact::Unread, Some(remembered)) => {
                let version = remembered
                    .version
                    .as_ref()
                    .expect("I2: deletes a Secret that was never seen");
                assert_eq!((&version.uid, &version.resource_version), (uid, resource_version));
            }
            _ => {
                ours(facts, uid);
            }
        },
        Step::Empty { uid, .. } => match &facts.secret {
            SecretFact::Present(s) => {
                assert_eq!(
                    (&s.owner, &s.uid),
                    (&Owner::ThisGrant, uid),
                    "I2: empties the Secret of another owner"
                );
                assert!(s.has_data && !s.finalizers.is_empty(), "a write without a cause");
            }
            other => panic!("I2: empties a Secret that was not seen: {other:?}"),
        },
        Step::Report { status, .. } => report(world, facts, status),
        Step::AddFinalizer => assert!(
            facts.grant.operation_spec.parts().is_some() && !facts.grant.held,
            "a finalizer without a cause"
        ),
        Step::Complete(_, assembly) => complete(world, facts, assembly),
        Step::Abort(upload) => {
            assert!(facts.grant.held, "an upload without a finalizer");
            assert_ne!(upload.upload(), THEIRS, "aborts the upload of another client");
        }
        Step::AbortOrphans(uploads) => {
            assert!(facts.grant.held, "an upload without a finalizer");
            for upload in uploads {
                assert_ne!(upload.upload(), THEIRS, "aborts the upload of another client");
            }
        }
        Step::RemoveFinalizer { notice } => release(world, notice.is_some()),
        Step::DeleteGrant => collect(world),
        Step::Rest { until } => rest(world, facts, *until),
    }
}

/// True if the step sends a request to the store.
pub fn reaches_store(step: &Step) -> bool {
    match step {
        Step::Read(Read::Object(_) | Read::Upload(..) | Read::Uploads(_))
        | Step::Publish(_)
        | Step::Complete(..)
        | Step::Abort(_)
        | Step::AbortOrphans(_) => true,
        Step::Read(Read::Store | Read::Secret | Read::Quota(_))
        | Step::UpdateMetadata { .. }
        | Step::Empty { .. }
        | Step::DeleteSecret { .. }
        | Step::Report { .. }
        | Step::AddFinalizer
        | Step::RemoveFinalizer { .. }
        | Step::DeleteGrant
        | Step::Rest { .. } => false,
    }
}

/// I16: Valet sends no request to the store for a grant that the access rules refuse. The only exception is to abort
/// a multipart upload that Valet initiated for this grant.
pub fn asks(facts: &Facts, step: &Step) {
    let rules = match &facts.store {
        StoreFact::Usable(store) => Some(RulesView {
            rules: store.rules.clone(),
            namespace_labels: store.namespace_labels.clone(),
        }),
        StoreFact::Unusable { .. } => facts.rules.clone(),
        StoreFact::Missing | StoreFact::Unread => None,
    };
    let is_allowed = rules.is_some_and(|rules| still_allowed(&facts.grant, &rules).is_ok());
    let in_secret = match &facts.secret {
        SecretFact::Present(s) if s.owner == Owner::ThisGrant && s.is_authentic => s.upload_id.as_ref(),
        _ => None,
    };
    // An upload ID counts only if this process remembers it or if it comes from an authentic record.
    let own = [
        facts.own_upload.as_ref(),
        facts.grant.status.upload_id.as_ref(),
        in_secret,
    ];
    let is_own = matches!(step, Step::Abort(upload) if own.iter().flatten().any(|own| *own == upload.upload()));
    assert!(
        is_allowed || is_own || !reaches_store(step),
        "I16: sends a request to the store for a grant that is not allowed: {step:?}"
    );
}

/// I2: Valet writes only to a Secret that belongs to this grant and is not being deleted.
fn ours<'a>(facts: &'a Facts, uid: &str) -> &'a SecretView {
    match &facts.secret {
        SecretFact::Present(s) => {
            assert_eq!(s.owner, Owner::ThisGrant, "I2: a write to the Secret of another owner");
            assert!(!s.deleting, "I2: a write to a Secret that is being deleted");
            assert_eq!(s.uid, uid);
            s
        }
        other => panic!("I2: a write to a Secret that was not seen: {other:?}"),
    }
}

fn marks(grant: &GrantFacts, labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) {
    assert_eq!(labels[MANAGED_BY_LABEL], MANAGED_BY_VALUE);
    assert_eq!(annotations[annotation::GRANT_UID], grant.uid);
    assert_eq!(annotations[annotation::GRANT_GENERATION], grant.generation.to_string());
    assert_eq!(annotations[annotation::STORE], "ClusterObjectStore/media");
}

/// I6 and I12: the new credential respects the access rules, the deadline, and the expiry of the store credentials.
/// The check uses the current time, grant and store, not the values in a status or an annotation.
pub fn signs(grant: &GrantFacts, store: &StoreFact, now: Timestamp, publish: &Publish) {
    let key = publish.request.lifetime;
    let StoreFact::Usable(store) = store else {
        panic!("I6: signs with a store that is {store:?}");
    };
    assert!(
        admit(grant, store).is_ok(),
        "I6: signs for a grant that the access rules refuse"
    );
    let asked = SignedDuration::from_secs(grant.terms.expiration_seconds);
    for t in [key.issued_at, key.expires_at] {
        assert_eq!(t.subsec_nanosecond(), 0, "signatures count whole seconds: {key:?}");
    }
    assert!(key.issued_at <= now, "I12: signed for the future: {key:?} at {now}");
    assert!(
        key.expires_at > now,
        "signs a credential that has already expired: {key:?} at {now}"
    );
    assert!(
        key.expires_at.duration_since(key.issued_at) <= asked,
        "I12: longer than requested: {key:?}"
    );
    assert!(
        key.expires_at.duration_since(now) <= asked,
        "I12: longer than requested, counted from now: {key:?} at {now}"
    );
    if let Some(deadline) = &grant.terms.deadline_time {
        assert!(key.expires_at <= deadline.0, "I12: past the deadline: {key:?}");
    }
    let whole = allowance(grant, &store.rules, &store.namespace_labels);
    if let (Some(total), Some(created)) = (whole.total_seconds, grant.created) {
        let end = created.saturating_add(SignedDuration::from_secs(total)).unwrap();
        assert!(
            key.expires_at <= end,
            "after the total time that the rules allow: {key:?} at {now}"
        );
    }
    if let Some(end) = store.credentials_expire {
        assert!(key.expires_at < end, "expires after the store's credentials: {key:?}");
    }
    let with = publish.annotations.get(annotation::SIGNED_WITH);
    assert_eq!(
        with,
        store.signer.as_ref().map(|s| &s.fingerprint),
        "records the fingerprint of another access key"
    );
    assert_eq!(publish.request.key.as_str(), grant.terms.key);
    assert_eq!(publish.request.operation_spec, grant.operation_spec);
    assert!(!grant.deleting, "signs for a grant that is being deleted");
    assert!(grant.broken_rules.is_empty());

    let (labels, annotations) = (&publish.labels, &publish.annotations);
    marks(grant, labels, annotations);
    assert_eq!(annotations[annotation::ISSUED_AT], key.issued_at.to_string());
    assert_eq!(annotations[annotation::EXPIRES_AT], key.expires_at.to_string());
    assert_eq!(
        annotations[annotation::EXPIRATION_SECONDS],
        grant.terms.expiration_seconds.to_string()
    );
}

/// The number of renewals that the Secret's annotation records.
pub fn renewals(annotations: &BTreeMap<String, String>) -> i64 {
    annotations
        .get(annotation::RENEWALS)
        .map_or(0, |n| n.parse().expect("a number"))
}

/// I3: Valet issues one credential per generation and renewal. Valet may issue it again only after the Secret
/// was deleted or changed, and only with the same lifetime. A renewal within a generation is allowed only when it is
/// due or requested.
pub fn published(world: &World, grant: &GrantFacts, publish: &Publish) {
    let key = publish.request.lifetime;
    assert!(
        !grant.terms.is_suspended() && !grant.terms.is_revoked(),
        "signs for a suspended or revoked grant"
    );
    if world.forged {
        return;
    }
    let (generation, renewals) = (grant.generation, renewals(&publish.annotations));
    let last = world.published.iter().next_back();
    if let (StoreFact::Usable(store), Some((_, last))) = (&world.store, last)
        && !allowance(grant, &store.rules, &store.namespace_labels).renewal
        && !last.has_expired(world.now)
    {
        assert!(
            key.issued_at <= last.issued_at,
            "renewed although the rules forbid it: {key:?} after {last:?}"
        );
    }
    let Some(first) = world.published.get(&(generation, renewals)) else {
        assert!(
            last.is_none_or(|((_, before), _)| renewals == before + 1 || renewals == *before),
            "I3: a renewal was left out"
        );
        if let Some(((before, _), last)) = last
            && *before == generation
        {
            let half = last.seconds() / 2;
            let wanted = matches!(grant.renew_requested, RenewRequest::At(t) if t > last.issued_at && t <= world.now);
            let due = grant.terms.renews() && world.now >= last.issued_at + SignedDuration::from_secs(half * 5 / 6);
            assert!(wanted || due, "I3: {key:?} replaces {last:?} without a cause");
            assert!(
                wanted
                    || key.expires_at >= last.expires_at + SignedDuration::from_secs(60)
                    || last.has_expired(world.now),
                "a renewal that does not extend the expiry: {key:?} after {last:?}"
            );
        }
        return;
    };
    // Re-signing is allowed: the store's fingerprint differs from the fingerprint in the Secret.
    let with = |annotations: &BTreeMap<String, String>| annotations.get(annotation::SIGNED_WITH).cloned();
    let before = world.secret.as_ref().and_then(|s| with(&s.view.annotations));
    let is_re_signed = before.is_some() && with(&publish.annotations) != before;
    let is_changed = world.secret.as_ref().is_some_and(|s| !s.view.is_authentic);
    if !((is_re_signed || is_changed) && matches!(publish.mode, PublishMode::Replace { .. })) {
        assert_eq!(publish.mode, PublishMode::Create, "I3: replaced within a generation");
        assert!(world.may_create_again, "I3: created twice for one generation");
    }
    assert_eq!(
        key.issued_at, first.issued_at,
        "I3: another credential for the same generation"
    );
    assert!(
        key.expires_at <= first.expires_at,
        "I3: a longer credential for the same generation"
    );
}

fn report(world: &World, facts: &Facts, status: &GrantStatus) {
    let grant = &facts.grant;
    let before = &grant.status;
    assert!(status != before || !grant.status_is_own, "a write that changes nothing");
    let note = GrantStatus {
        upload_id: before.upload_id.clone(),
        issued_time: before.issued_time.clone(),
        expiration_time: before.expiration_time.clone(),
        expiration_seconds: before.expiration_seconds,
        renewals: before.renewals,
        earlier_expiration_time: before.earlier_expiration_time.clone(),
        ..status.clone()
    };
    if note == *before && world.own_secret().is_some() {
        // This write only copies the Secret's record into the status before the Secret is deleted.
        return;
    }
    assert_eq!(status.observed_generation, Some(grant.generation));
    if !world.forged {
        assert!(
            before.observed_generation <= status.observed_generation,
            "I4: the observed generation decreased"
        );
    }
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .filter(|c| {
            [
                "Ready",
                "Active",
                "Completed",
                "Reconciling",
                "Stalled",
                "Suspended",
                "Revoked",
                "RenewalFailing",
                "SecretContested",
            ]
            .contains(&&*c.type_)
        })
        .collect();
    for c in &conditions {
        assert!(!c.reason.is_empty() && c.reason.chars().all(|c| c.is_ascii_alphanumeric()));
        assert!(c.reason.parse::<Reason>().is_ok(), "{} is not in the list", c.reason);
        assert!(
            !c.message.is_empty() || world.forged,
            "the condition {} {} has no message",
            c.type_,
            c.reason
        );
        assert_eq!(c.observed_generation, Some(grant.generation), "{}", c.type_);
        let was = condition(before, &c.type_);
        if let Some(was) = was.filter(|was| was.status == c.status) {
            assert_eq!(was.last_transition_time, c.last_transition_time, "{}", c.type_);
        }
    }
    let mut types: Vec<_> = status.conditions.iter().map(|c| &c.type_).collect();
    types.sort();
    types.dedup();
    assert_eq!(types.len(), status.conditions.len(), "a condition type appears twice");

    for (type_, reason) in [("Suspended", "Suspended"), ("Revoked", "Revoked")] {
        let said = condition(status, type_).map(|c| c.status.as_str());
        let is_so = condition(status, "Ready").unwrap().reason == reason;
        assert_eq!(said, is_so.then_some("True"), "{type_}");
    }
    assert!(
        status.renewal_time.is_none() || status.binding.is_some(),
        "renewalTime without a credential"
    );

    let (value, verdict, active) = row(&condition(status, "Ready").unwrap().reason);
    assert_eq!(condition(status, "Ready").unwrap().status, value);
    let after = GrantFacts {
        status: status.clone(),
        ..grant.clone()
    };
    assert_eq!(kstatus(&after), if grant.deleting { "Terminating" } else { verdict });
    let is_active = condition(status, "Active").unwrap().status == "True";
    assert_eq!(is_active, active, "Active");
    assert_eq!(status.binding.is_some(), active, "binding");
    if let Some(binding) = &status.binding {
        assert_eq!(
            binding.expiration_time, status.expiration_time,
            "two different expiry times of one credential"
        );
    }
    if is_active {
        assert!(
            world.written.contains(&grant.generation),
            "I4: Active for a generation that no Secret was written for"
        );
    }
    let finished = [
        "Completed",
        "ObjectExists",
        "Expired",
        "ExpiredUnused",
        "ObjectMismatch",
        "UploadAborted",
        "Revoked",
    ]
    .contains(&ready(&after));
    if ready(&after) == "Completed" {
        assert!(
            !world.is_mismatched(),
            "Completed by an object that does not match the grant"
        );
    }
    assert_eq!(status.finished_time.is_some(), finished, "finishedTime");
    assert_eq!(status.issued_time.is_some(), status.expiration_time.is_some());
}

/// A multipart upload is completed only if its parts match the grant and the access rules still allow the grant.
fn complete(world: &World, facts: &Facts, assembly: &Assembly) {
    let grant = &facts.grant;
    let StoreFact::Usable(store) = &facts.store else {
        panic!("completes with a store that is {:?}", facts.store);
    };
    assert!(
        admit(grant, store).is_ok(),
        "completes a grant that the access rules refuse"
    );
    assert!(!grant.terms.is_suspended() && !grant.terms.is_revoked() && !grant.deleting);
    assert!(grant.status.finished_time.is_none());
    assert!(world.forged || assembly.upload != THEIRS);
    let parts: Vec<_> = grant.operation_spec.parts().unwrap().all().collect();
    assert_eq!(parts.len(), assembly.parts.len());
    for (wanted, part) in parts.iter().zip(&assembly.parts) {
        assert_eq!((wanted.number, wanted.exact_size()), (part.number, Some(part.size)));
    }
}

/// When the finalizer is removed, no multipart upload of the grant is left in the store, or an event reports it.
fn release(world: &World, is_told: bool) {
    let grant = world.grant();
    assert!(grant.held);
    // Uploads with parts, and uploads older than the grant, belong to other clients.
    let is_others = |u: &Upload| !u.parts.is_empty() || grant.created.is_some_and(|created| u.initiated < created);
    // If no rule allows the grant, Valet is not allowed to list uploads. It then knows only the upload that the status
    // names.
    let is_allowed = matches!(&world.store, StoreFact::Usable(store) if admit(grant, store).is_ok());
    let is_known = |u: &Upload| is_allowed || grant.status.upload_id.as_ref() == Some(&u.id);
    assert!(
        is_told
            || world.forged
            || grant.operation_spec.parts().is_none()
            || matches!(world.bucket, Bucket::Hidden)
            || world.uploads.iter().all(|u| is_others(u) || !is_known(u)),
        "leaves {:?}",
        world.uploads
    );
}

fn collect(world: &World) {
    let grant = world.grant();
    assert!(world.own_secret().is_none(), "the grant was deleted before its Secret");
    let finished = grant
        .status
        .finished_time
        .as_ref()
        .expect("deleted before the grant has finished")
        .0;
    let ttl = match grant.terms.ttl_seconds_after_finished {
        Some(own) => own.filter(|s| *s >= 0),
        None if grant.gitops_tool.is_some() => None,
        None => world.settings.ttl_seconds_after_finished,
    };
    let ttl = ttl.expect("deleted although the grant must be kept");
    assert!(finished.saturating_add(SignedDuration::from_secs(ttl)).unwrap() <= world.now);
}

/// When a reconcile ends, the status is current, no Secret holds an expired credential, and the grant is enqueued in
/// time.
fn rest(world: &World, facts: &Facts, until: Option<Timestamp>) {
    let (grant, now) = (world.grant(), world.now);
    assert!(
        until.is_none_or(|t| t > now),
        "waits until {until:?}, which is in the past"
    );
    // A change during the reconcile starts another reconcile.
    if grant.deleting || world.is_disturbed() {
        return;
    }
    assert_eq!(grant.status.observed_generation, Some(grant.generation));
    let (_, verdict, active) = row(ready(grant));
    assert_eq!(kstatus(grant), verdict);
    // A grant that waits for quota is enqueued when quota becomes free, so it needs no timer.
    if verdict == "InProgress" && ready(grant) != "TooManyGrants" {
        assert!(until.is_some(), "{} waits without a timer or an event", ready(grant));
    }
    // A credential whose Secret was deleted still expires, and the status must change then. An earlier deadline
    // counts as the expiry, rounded down to a whole second.
    let second = |t: &Time| Timestamp::from_second(t.0.as_second()).unwrap();
    let deadline = grant.terms.deadline_time.as_ref().map(second);
    let recorded = grant.status.expiration_time.as_ref().map(|t| t.0);
    let recorded = recorded.map(|end| deadline.map_or(end, |d| d.min(end)));
    if let Some(end) = recorded.filter(|_| grant.status.finished_time.is_none() && ready(grant) != "SecretConflict") {
        assert!(
            end <= now || until.is_some_and(|t| t <= end),
            "no reconcile at the expiry {end}, but at {until:?}: {grant:#?}"
        );
    }
    // A watch will report the state of the Secret that the operator does not know yet.
    let is_known = match (&facts.secret, &world.secret) {
        (SecretFact::Present(known), Some(there)) => *known == there.view,
        (SecretFact::Absent, None) => true,
        _ => false,
    };
    if !is_known {
        return;
    }
    match world.own_secret() {
        Some(Secret { signed: Some(key), .. }) if !world.forged => {
            assert!(active, "a Secret under {}", ready(grant));
            assert!(
                !key.has_expired(now),
                "I1: the Secret exists after the expiry of its credential"
            );
            assert!(
                until.is_some_and(|t| t <= key.expires_at),
                "I1: no reconcile at the expiry of the credential"
            );
            let says = |t: &Option<Time>| t.as_ref().map(|t| t.0);
            assert_eq!(says(&grant.status.issued_time), Some(key.issued_at));
            assert_eq!(says(&grant.status.expiration_time), Some(key.expires_at));
        }
        Some(_) => assert!(world.forged, "a grant Secret without a credential"),
        None => assert!(!active, "Active without a Secret"),
    }
}
