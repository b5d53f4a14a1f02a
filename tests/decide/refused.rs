//! Grants that the rules refuse, with everything beside them that a tenant can write: the store is asked nothing.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use valet::{
    api::{Binding, GrantStatus, Overwrite, Reason, annotation},
    core::{GrantFacts, Owner, Step, StoreFact, Untried},
};

use crate::{
    checks,
    common::{Dice, at, constrain, download, form_below, in_parts, resumable, rule, store, upload},
    world::{Bucket, World},
};

/// The grants of the stories are as old as this.
const NOON: i64 = 10_000;

/// A key that no rule covers, a namespace that no rule names, or no rule at all.
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

/// A status that somebody wrote who may write it.
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

/// A Secret that somebody planted who may write Secrets.
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
    // A finalizer is anybody's to write, and so is the rest of the spec.
    grant.held = grant.ask.parts().is_some() || dice.one_in(2);
    grant.terms.deadline_time = maybe(dice).filter(|_| dice.one_in(2)).map(Time);
    grant.terms.suspend = dice.one_in(6).then_some(true);
    grant.terms.revoke = dice.one_in(6).then_some(true);
    grant.terms.ttl_seconds_after_finished = dice.one_in(3).then_some(Some(5));
    grant
}

/// Whatever a tenant writes, a grant that the rules refuse makes no request to a store: no HEAD, no list, nothing completed,
/// aborted or signed.
#[test]
fn refused_grant_reaches_no_store() {
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
        "{withdrawn} {finished}: is this still a test?"
    );
}

/// The two ways by which a tenant without a rule learned what another tenant's object is like.
#[test]
fn planted_record_of_an_expired_key_leads_to_no_head() {
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

/// A namespace that no rule names is told that alone, whatever the store is like: what it enforces, whether it answers, and
/// how its clock goes is learned by nobody else.
#[test]
fn namespace_without_a_rule_learns_nothing_of_the_store() {
    type Change = fn(&mut World);
    let stores: [(&str, Change); 5] = [
        ("usable", |_| {}),
        ("enforces nothing", |w| {
            w.usable(|s| Arc::make_mut(&mut s.capabilities).enforced.clear());
        }),
        ("not tried", |w| {
            w.usable(|s| {
                s.untried = Some(Untried {
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

/// A rule that is narrowed while a key is out ends what is known of the upload.
#[test]
fn narrowed_rule_ends_the_last_look() {
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
        completed.message.contains("the store was not asked"),
        "{}",
        completed.message
    );
}

/// The upload that Valet began is aborted after the rule was narrowed, and nothing else of it is asked.
#[test]
fn own_upload_of_a_narrowed_rule_is_only_aborted() {
    let mut world = World::new(in_parts(), store([rule()]));
    world.reconcile();
    world.their_upload();
    world.uploads[1].begun = at(-1000);
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

/// A deadline ends every grant, whatever kept it from its key, and its retention counts from then.
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
            "a spec that is none",
            |w| w.grant.as_mut().unwrap().broken_rules = vec!["spec.key: no".into()],
            "InvalidSpec",
        ),
        (
            "another's Secret",
            |w| w.plant(Owner::Foreign("no grant owns it")),
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

/// A grant that is applied again after its deadline, as GitOps does in a cluster that was built anew.
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

/// A DownloadGrant whose Secret somebody replaced ends when its key does.
#[test]
fn grant_beside_a_foreign_secret_finishes_at_its_keys_end() {
    let mut world = World::new(download(), store([rule()]));
    world.reconcile();
    world.delete_secret();
    world.plant(Owner::Foreign("no grant owns it"));
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

/// An upload in parts that was begun for a grant which cannot have its key is not left at the store.
#[test]
fn upload_of_a_grant_refused_after_it_was_begun_is_aborted() {
    let mut world = World::new(in_parts(), store([rule()]));
    world.too_large = true;
    world.reconcile();
    assert_eq!(checks::ready(world.grant()), "CapabilityMissing");
    assert!(world.uploads.is_empty(), "{:?}", world.uploads);
    assert!(world.keys.is_empty());
}

/// In every situation that withdraws a key, a Secret that somebody's finalizer holds is emptied, and the status says what holds
/// it until it is gone.
#[test]
fn held_secret_is_emptied_and_named() {
    type Change = fn(&mut World);
    let cases: [(&str, Change); 6] = [
        ("Revoked", |w| w.edit(|g| g.terms.revoke = Some(true))),
        ("Suspended", |w| w.edit(|g| g.terms.suspend = Some(true))),
        ("Expired", |w| w.now = at(300)),
        ("NamespaceNotAllowed", |w| w.usable(|s| s.rules = Arc::new(vec![]))),
        ("StoreNotFound", |w| w.store = StoreFact::Missing),
        ("Deleting", |w| w.delete_held()),
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
            says("is being deleted, and finalizer example.com/stay holds it");
            says(if immutable {
                "can still be read"
            } else {
                "has removed its data"
            });
            assert!(
                wake.is_some_and(|t| t <= world.now + SignedDuration::from_secs(60)),
                "{reason}: {wake:?}"
            );
            // Nothing more is written while it is held, and it is not said any more when it is gone.
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

/// A grant that is deleted and that somebody's finalizer holds has no Secret, and none is made for it again.
#[test]
fn grant_that_is_deleted_and_held_has_no_secret() {
    let mut world = World::new(download(), store([rule()]));
    world.reconcile();
    world.now = at(10);
    world.delete_held();
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
