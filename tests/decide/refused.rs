//! Tests of grants that the access rules refuse, with every record that a tenant can forge. Valet must send no
//! request to the store.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use valet::{
    api::{Binding, GrantStatus, Overwrite, Reason, annotation},
    core::{GrantFacts, NotProbedYet, Owner, Step, StoreFact},
};

use crate::{
    checks,
    common::{Dice, at, constrain, download, form_below, in_parts, resumable, rule, store, upload},
    world::{Bucket, World},
};

/// The age of the grants in these tests, in seconds.
const NOON: i64 = 10_000;

/// Makes the access rules refuse the grant: another prefix, another namespace, or no rule.
fn refuse(world: &mut World, dice: &mut Dice) {
    match dice.below(4) {
        0 => world.usable(|s| s.rules = Arc::new(vec![])),
        1 => world.grant.as_mut().unwrap().terms.key = "tenants/victim/salaries.csv".into(),
        2 => {
            let mut other = rule();
            other.namespaces.names = vec!["shop".into()];
            world.usable(|s| s.rules = Arc::new(vec![other]));
        }
        _ => world.grant.as_mut().unwrap().broken_rules = vec!["spec.key: no".into()],
    }
}

fn instant(dice: &mut Dice) -> Timestamp {
    match dice.below(5) {
        0 => at(-1_000_000_000),
        1 => at(100_000_000),
        _ => at(dice.below(2 * NOON as usize) as i64),
    }
}

fn maybe(dice: &mut Dice) -> Option<Timestamp> {
    (!dice.one_in(3)).then(|| instant(dice))
}

/// A random status, as a client with write access to the status could forge it.
fn status(dice: &mut Dice) -> GrantStatus {
    let condition = |type_: &str, status: &str, reason: &str| Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message: "so somebody says".into(),
        observed_generation: Some(1),
        last_transition_time: Time(at(0)),
    };
    let reason = *dice.pick(&[
        "Issued",
        "Completed",
        "ExpiredUnused",
        "Expired",
        "Revoked",
        "KeyNotAllowed",
    ]);
    let completed = *dice.pick(&["True", "False", "Unknown"]);
    GrantStatus {
        observed_generation: Some(1),
        issued_time: maybe(dice).map(Time),
        expiration_time: maybe(dice).map(Time),
        finished_time: maybe(dice).filter(|_| dice.one_in(2)).map(Time),
        upload_id: dice.one_in(2).then(|| "theirs".into()),
        binding: dice.one_in(2).then(|| Binding {
            name: "avatar-42".into(),
            expiration_time: Some(Time(at(NOON + 100))),
        }),
        conditions: vec![
            condition("Ready", "False", reason),
            condition("Completed", completed, reason),
        ],
        ..GrantStatus::default()
    }
}

/// A random Secret, as a client with write access to Secrets could create it.
fn plant(world: &mut World, dice: &mut Dice) {
    let owner = match dice.below(4) {
        0 => Owner::Foreign("its type is Opaque"),
        1 => Owner::Predecessor,
        _ => Owner::ThisGrant,
    };
    world.plant(owner);
    let times = [maybe(dice), maybe(dice), maybe(dice)];
    let (deleting, held, names_upload, seconds) = (dice.one_in(2), dice.one_in(2), dice.one_in(2), dice.below(1000));
    world.edit_secret(|s| {
        let names = [
            annotation::ISSUED_AT,
            annotation::EXPIRES_AT,
            annotation::EARLIER_EXPIRES_AT,
        ];
        for (name, time) in names.into_iter().zip(times) {
            if let Some(time) = time {
                s.annotations.insert(name.into(), time.to_string());
            }
        }
        s.annotations
            .insert(annotation::EXPIRATION_SECONDS.into(), seconds.to_string());
        if names_upload {
            s.annotations.insert(annotation::UPLOAD_ID.into(), "theirs".into());
        }
        s.deleting = deleting;
        if held || deleting {
            s.finalizers = vec!["example.com/stay".into()];
        }
    });
}

fn grant(dice: &mut Dice) -> GrantFacts {
    let mut grant = match dice.below(6) {
        0 => upload(),
        1 => download(),
        2 => in_parts(),
        3 => form_below(),
        4 => resumable(),
        _ => {
            let mut grant = upload();
            constrain(&mut grant, |c| c.overwrite = Overwrite::Allow);
            grant
        }
    };
    // Any user can set the finalizer and the rest of the spec.
    grant.held = grant.operation_spec.parts().is_some() || dice.one_in(2);
    grant.terms.deadline_time = maybe(dice).filter(|_| dice.one_in(2)).map(Time);
    grant.terms.suspend = dice.one_in(6).then_some(true);
    grant.terms.revoke = dice.one_in(6).then_some(true);
    grant.terms.ttl_seconds_after_finished = dice.one_in(3).then_some(Some(5));
    grant
}

/// A refused grant never leads to a request to a store: no HEAD, no list, no complete, no abort and no signing.
#[test]
fn refused_grant_sends_no_request_to_a_store() {
    let mut dice = Dice::new(47);
    let (mut withdrawn, mut finished) = (0, 0);
    for n in 0..6000 {
        let mut world = World::new(grant(&mut dice), store([rule()]));
        world.forged = true;
        world.now = at(NOON);
        world.bucket = dice
            .pick(&[
                Bucket::Empty,
                Bucket::Down,
                Bucket::Hidden,
                Bucket::Holds {
                    since: at(NOON - 50),
                    says_when: true,
                },
            ])
            .clone();
        world.their_upload();
        refuse(&mut world, &mut dice);
        if dice.one_in(2) {
            world.grant.as_mut().unwrap().status = status(&mut dice);
        }
        if !dice.one_in(4) {
            plant(&mut world, &mut dice);
        }
        if dice.one_in(5) {
            world.delete();
        }
        world.heard = dice.one_in(2);
        for _ in 0..4 {
            if world.grant.is_none() {
                break;
            }
            world.watch_steps(move |step| assert!(!checks::reaches_store(step), "{n}: {step:?}"));
            let wake = world.reconcile();
            world.now = wake.unwrap_or(world.now + SignedDuration::from_secs(60));
            let is_forged = dice.one_in(3) && world.grant.is_some() && world.known().status.finished_time.is_none();
            if let Some(grant) = world.grant.as_mut().filter(|_| is_forged) {
                grant.status = status(&mut dice);
            }
        }
        withdrawn += world.counts.withdraws;
        finished += usize::from(world.grant.as_ref().is_some_and(|g| g.status.finished_time.is_some()));
        assert!(world.uploads.iter().any(|u| u.id == crate::world::THEIRS), "{n}");
        assert!(world.keys.is_empty(), "{n}");
    }
    assert!(
        withdrawn > 500 && finished > 500,
        "{withdrawn} Secrets deleted, {finished} grants finished: the test may check nothing"
    );
}

/// A tenant without an access rule forges the record of an expired credential, in the status or in a Secret. The
/// tenant must not learn whether an object of another tenant exists.
#[test]
fn forged_record_of_an_expired_credential_leads_to_no_head() {
    for by_status in [false, true] {
        let mut grant = upload();
        grant.terms.key = "tenants/victim/salaries.csv".into();
        let mut world = World::new(grant, store([]));
        world.forged = true;
        world.bucket = Bucket::Holds {
            since: at(-100),
            says_when: true,
        };
        world.reconcile();
        assert_eq!(checks::ready(world.grant()), "NamespaceNotAllowed");
        let (issued, expires) = (at(-1_000_000_000), at(-999_999_999));
        if by_status {
            let status = &mut world.grant.as_mut().unwrap().status;
            (status.issued_time, status.expiration_time) = (Some(Time(issued)), Some(Time(expires)));
        } else {
            world.plant(Owner::ThisGrant);
            world.edit_secret(|s| {
                s.annotations.insert(annotation::ISSUED_AT.into(), issued.to_string());
                s.annotations.insert(annotation::EXPIRES_AT.into(), expires.to_string());
                s.finalizers = vec!["example.com/stay".into()];
                s.deleting = true;
            });
        }
        world.watch_steps(|step| assert!(!checks::reaches_store(step), "{step:?}"));
        world.reconcile();
        let status = &world.grant().status;
        assert!(status.object.is_none(), "{status:?}");
        assert_ne!(checks::ready(world.grant()), "Completed");
        let said: Vec<_> = status.conditions.iter().map(|c| &c.message).collect();
        assert!(said.iter().all(|m| !m.contains("nothing was uploaded;")), "{said:?}");
    }
}

/// A namespace that no rule names learns only that. Conditions do not show the store's capabilities, availability or
/// clock skew.
#[test]
fn namespace_without_a_rule_learns_nothing_about_the_store() {
    type Change = fn(&mut World);
    let stores: [(&str, Change); 5] = [
        ("usable", |_| {}),
        ("enforces nothing", |w| {
            w.usable(|s| Arc::make_mut(&mut s.capabilities).enforced.clear());
        }),
        ("not tried", |w| {
            w.usable(|s| {
                s.not_probed = Some(NotProbedYet {
                    reason: Reason::StoreUnreachable,
                    why: "it does not answer".into(),
                    only_write_once: false,
                });
            });
        }),
        ("another clock", |w| {
            w.usable(|s| s.skew = Some(SignedDuration::from_mins(20)))
        }),
        ("credentials that end", |w| {
            w.usable(|s| s.credentials_expire = Some(at(1)))
        }),
    ];
    let mut said = BTreeSet::new();
    for (case, change) in stores {
        for grant in [upload(), in_parts(), form_below(), resumable()] {
            let mut other = rule();
            other.namespaces.names = vec!["shop".into()];
            let mut world = World::new(grant, store([other]));
            change(&mut world);
            world.reconcile();
            let ready = checks::condition(&world.grant().status, "Ready").unwrap().clone();
            assert_eq!(ready.reason, "NamespaceNotAllowed", "{case}: {}", ready.message);
            said.insert(ready.message);
            assert!(checks::condition(&world.grant().status, "ClockInSync").is_none());
        }
    }
    assert_eq!(said.len(), 1, "{said:?}");
}

/// If a rule is narrowed while a credential is valid, Valet no longer polls for the upload.
#[test]
fn narrowed_rule_stops_polling_for_the_upload() {
    let mut world = World::new(upload(), store([rule()]));
    world.reconcile();
    world.usable(|s| s.rules = Arc::new(vec![]));
    world.watch_steps(|step| assert!(!checks::reaches_store(step), "{step:?}"));
    world.reconcile();
    assert_eq!(checks::ready(world.grant()), "NamespaceNotAllowed");
    world.put_object();
    world.now = at(300);
    world.reconcile();
    assert_eq!(checks::ready(world.grant()), "Expired");
    let completed = checks::condition(&world.grant().status, "Completed").unwrap();
    assert_eq!(completed.status, "Unknown");
    assert!(
        completed.message.contains("Valet sent no request to the store"),
        "{}",
        completed.message
    );
}

/// If a rule is narrowed, Valet aborts the grant's own multipart upload and sends no other request for it.
#[test]
fn own_upload_is_only_aborted_after_a_rule_is_narrowed() {
    let mut world = World::new(in_parts(), store([rule()]));
    world.reconcile();
    world.their_upload();
    world.uploads[1].initiated = at(-1000);
    world.usable(|s| s.rules = Arc::new(vec![]));
    world.watch_steps(|step| {
        assert!(
            matches!(step, Step::Abort(_)) || !checks::reaches_store(step),
            "{step:?}"
        );
    });
    world.reconcile();
    world.now = at(300);
    world.reconcile();
    assert!(!world.grant().held);
    let left: Vec<_> = world.uploads.iter().map(|u| u.id.as_str()).collect();
    assert_eq!(left, [crate::world::THEIRS]);
}

/// A deadline finishes every grant, whatever the reason of `Ready` was. The TTL counts from the deadline.
#[test]
fn refused_grant_finishes_at_its_deadline() {
    type Change = fn(&mut World);
    let cases: [(&str, Change, &str); 6] = [
        (
            "no rule",
            |w| w.usable(|s| s.rules = Arc::new(vec![])),
            "NamespaceNotAllowed",
        ),
        (
            "another prefix",
            |w| w.grant.as_mut().unwrap().terms.key = "a".into(),
            "KeyNotAllowed",
        ),
        (
            "what the store cannot do",
            |w| w.usable(|s| Arc::make_mut(&mut s.capabilities).enforced.clear()),
            "CapabilityMissing",
        ),
        ("no store", |w| w.store = StoreFact::Missing, "StoreNotFound"),
        (
            "an invalid spec",
            |w| w.grant.as_mut().unwrap().broken_rules = vec!["spec.key: no".into()],
            "InvalidSpec",
        ),
        (
            "another's Secret",
            |w| w.plant(Owner::Foreign("no grant owns the Secret")),
            "SecretConflict",
        ),
    ];
    for is_upload in [true, false] {
        for (case, change, before) in cases {
            let mut world = World::new(if is_upload { upload() } else { download() }, store([rule()]));
            let terms = &mut world.grant.as_mut().unwrap().terms;
            terms.deadline_time = Some(Time(at(100)));
            terms.ttl_seconds_after_finished = Some(Some(5));
            change(&mut world);
            let wake = world.reconcile();
            if !is_upload && before == "CapabilityMissing" {
                continue;
            }
            assert_eq!(checks::ready(world.grant()), before, "{case}");
            assert!(wake.is_some_and(|t| t <= at(100)), "{case}: {wake:?}");
            world.now = at(100);
            world.reconcile();
            let expected = match before {
                "SecretConflict" if !is_upload => "Expired",
                _ => "ExpiredUnused",
            };
            assert_eq!(checks::ready(world.grant()), expected, "{case}");
            let planted = world.secret.clone().map(|s| s.view);
            world.now = at(105);
            world.reconcile();
            assert!(world.grant.is_none(), "{case}: it is deleted");
            assert_eq!(world.secret.map(|s| s.view), planted, "{case}");
        }
    }
}

/// A grant is applied again after its deadline, for example by GitOps in a new cluster. Valet finds the object and
/// completes the grant.
#[test]
fn upload_applied_again_after_its_deadline_finds_its_object() {
    for overwrite in [Overwrite::Forbid, Overwrite::Allow] {
        for (bucket, ready, completed) in [
            (
                Bucket::Holds {
                    since: at(-1000),
                    says_when: true,
                },
                "ObjectExists",
                "True",
            ),
            (Bucket::Empty, "ExpiredUnused", "False"),
            (Bucket::Hidden, "Expired", "Unknown"),
        ] {
            let mut grant = upload();
            constrain(&mut grant, |c| c.overwrite = overwrite);
            grant.terms.deadline_time = Some(Time(at(-10)));
            let mut world = World::new(grant, store([rule()]));
            world.bucket = bucket;
            world.reconcile();
            assert_eq!(checks::ready(world.grant()), ready, "{overwrite:?}");
            let said = checks::condition(&world.grant().status, "Completed").unwrap();
            assert_eq!(said.status, completed, "{overwrite:?}");
        }
    }
}

/// A DownloadGrant whose Secret was replaced by another client finishes when its credential expires.
#[test]
fn grant_with_foreign_secret_finishes_at_its_credential_expiry() {
    let mut world = World::new(download(), store([rule()]));
    world.reconcile();
    world.delete_secret();
    world.plant(Owner::Foreign("no grant owns the Secret"));
    let planted = world.secret.clone().unwrap().view;
    world.now = at(10);
    world.reconcile();
    assert_eq!(checks::ready(world.grant()), "SecretConflict");
    world.now = at(300);
    world.reconcile();
    assert_eq!(checks::ready(world.grant()), "Expired");
    world.now = at(300 + 3600);
    world.reconcile();
    assert!(world.grant.is_none());
    assert_eq!(world.secret.unwrap().view, planted);
}

/// If a grant is refused after its multipart upload was initiated, Valet aborts the upload.
#[test]
fn upload_is_aborted_if_its_grant_is_refused_after_initiation() {
    let mut world = World::new(in_parts(), store([rule()]));
    world.too_large = true;
    world.reconcile();
    assert_eq!(checks::ready(world.grant()), "CapabilityMissing");
    assert!(world.uploads.is_empty(), "{:?}", world.uploads);
    assert!(world.keys.is_empty());
}

/// If a finalizer of another client keeps a Secret that Valet deletes, Valet empties the Secret. The status names the
/// finalizer until the Secret is gone.
#[test]
fn secret_with_foreign_finalizer_is_emptied_and_reported() {
    type Change = fn(&mut World);
    let cases: [(&str, Change); 6] = [
        ("Revoked", |w| w.edit(|g| g.terms.revoke = Some(true))),
        ("Suspended", |w| w.edit(|g| g.terms.suspend = Some(true))),
        ("Expired", |w| w.now = at(300)),
        ("NamespaceNotAllowed", |w| w.usable(|s| s.rules = Arc::new(vec![]))),
        ("StoreNotFound", |w| w.store = StoreFact::Missing),
        ("Deleting", |w| w.delete_with_finalizer()),
    ];
    for immutable in [false, true] {
        for (reason, change) in cases {
            let mut world = World::new(download(), store([rule()]));
            world.refuses_replacement = immutable;
            world.reconcile();
            world.edit_secret(|s| s.finalizers = vec!["example.com/stay".into()]);
            change(&mut world);
            world.now = world.now.max(at(20));
            let wake = world.reconcile();
            let secret = world.secret.as_ref().unwrap_or_else(|| panic!("{reason}: it is held"));
            assert!(secret.view.deleting, "{reason}");
            assert_eq!(secret.view.has_data, immutable, "{reason}");
            let ready = checks::condition(&world.grant().status, "Ready").unwrap();
            assert_eq!(ready.reason, reason);
            let says = |what: &str| assert!(ready.message.contains(what), "{reason}: {}", ready.message);
            says("is being deleted, but the deletion waits for finalizers: example.com/stay");
            says(if immutable {
                "can still be read"
            } else {
                "has removed the data of the Secret"
            });
            assert!(
                wake.is_some_and(|t| t <= world.now + SignedDuration::from_secs(60)),
                "{reason}: {wake:?}"
            );
            // While the Secret is kept, Valet writes nothing more. When the Secret is gone, the status no longer
            // names the finalizer.
            let reports = world.counts.reports;
            world.reconcile();
            assert_eq!(world.counts.reports, reports, "{reason}");
            world.secret = None;
            world.may_create_again = true;
            world.reconcile();
            let ready = checks::condition(&world.grant().status, "Ready").unwrap();
            assert!(!ready.message.contains("holds it;"), "{reason}: {}", ready.message);
            assert!(ready.message.len() > 10, "{reason}: {}", ready.message);
        }
    }
}

/// A deleted grant that a finalizer keeps has no Secret, and Valet creates none.
#[test]
fn deleted_grant_with_foreign_finalizer_has_no_secret() {
    let mut world = World::new(download(), store([rule()]));
    world.reconcile();
    world.now = at(10);
    world.delete_with_finalizer();
    world.reconcile();
    assert!(world.secret.is_none());
    assert_eq!(checks::ready(world.grant()), Reason::Deleting.as_str());
    assert!(world.grant().status.binding.is_none());
    for second in [20, 200, 300, 4000] {
        world.now = at(second);
        world.reconcile();
        assert!(world.secret.is_none());
    }
    assert_eq!(world.keys.len(), 1);
}
