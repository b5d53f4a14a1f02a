//! Random tests: random worlds and random facts. No step panics, every reconcile ends, and `checks` holds at every
//! step.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use valet::{
    api::{GrantStatus, ObservedObject, OperationSpec, Overwrite, Reason, ShortSessions, UploadMode},
    core::{
        ArrivedPart, Facts, GrantFacts, ObjectFact, OpenUpload, Owner, QuotaFact, QuotaLimit, RenewRequest,
        SecretFact, SecretView, Settings, Signer, Step, StoreFact, StoreView, UploadFact, UploadsFact, decide,
    },
};

use crate::{
    checks,
    common::{
        Dice, START, at, by_credentials, constrain, download, form, form_below, in_parts, renew_always, resumable,
        rule, store, upload,
    },
    world::{Bucket, Memory, THEIRS, Upload, World},
};

/// The number of random worlds and facts. The seeds are the same on every machine; a debug build takes some seconds.
const WALKS: u64 = 4000;
const FACTS: u64 = 40_000;

fn grant(dice: &mut Dice) -> GrantFacts {
    let mut grant = match dice.below(10) {
        0..3 => upload(),
        3 => form(),
        4 => form_below(),
        5..7 => in_parts(),
        7 => resumable(),
        _ => download(),
    };
    if matches!(grant.operation_spec, OperationSpec::Upload { .. }) && dice.one_in(2) {
        constrain(&mut grant, |c| c.overwrite = Overwrite::Allow);
    }
    // A resumable upload has no `contentLength`.
    let is_resumable =
        matches!(&grant.operation_spec, OperationSpec::Upload { mode, .. } if *mode == UploadMode::Resumable);
    let is_whole = matches!(grant.operation_spec, OperationSpec::Upload { .. })
        && grant.operation_spec.parts().is_none()
        && !is_resumable;
    if is_whole && dice.one_in(4) {
        // The test object has 48213 bytes, so the second value does not match it.
        constrain(&mut grant, |c| c.content_length = Some(*dice.pick(&[48_213, 48_212])));
    }
    if dice.one_in(5) {
        let prefix = dice.one_in(2);
        grant = by_credentials(grant, prefix);
    }
    grant.terms.expiration_seconds = *dice.pick(&[1, 2, 60, 300, 3600, 3601]);
    grant.terms.deadline_time = dice.one_in(3).then(|| Time(at(dice.below(2000) as i64)));
    grant.terms.ttl_seconds_after_finished = *dice.pick(&[None, None, Some(None), Some(Some(0)), Some(Some(500))]);
    grant.gitops_tool = dice.one_in(5).then_some("Argo CD");
    if dice.one_in(3) {
        renew_always(&mut grant);
        grant.terms.expiration_seconds = *dice.pick(&[600, 601, 3600]);
    }
    grant.terms.suspend = dice.one_in(10).then_some(true);
    grant.terms.revoke = dice.one_in(50).then_some(true);
    grant
}

fn usable(dice: &mut Dice) -> StoreView {
    let mut rule = rule();
    rule.rule.max_live_grants = dice.one_in(3).then_some(2);
    rule.rule.max_expiration_seconds = *dice.pick(&[None, Some(60), Some(3600)]);
    let mut view = store(if dice.one_in(6) { vec![] } else { vec![rule] });
    view.max_live_grants = dice.one_in(4).then_some(7);
    view.credentials_expire = dice.one_in(4).then(|| at(dice.below(3000) as i64));
    if dice.one_in(6) {
        view.short_sessions = ShortSessions::Refuse;
    }
    view.signer = maybe(dice, |d| Signer {
        fingerprint: (*d.pick(&["first", "second"])).into(),
        since: at(d.below(2000) as i64),
    });
    view
}

fn store_fact(dice: &mut Dice) -> StoreFact {
    match dice.below(6) {
        0 => StoreFact::Missing,
        1 => StoreFact::Unusable {
            reason: *dice.pick(&[
                Reason::StoreUnreachable,
                Reason::CredentialsNotFound,
                Reason::CredentialsInvalid,
                Reason::InvalidStore,
            ]),
            message: "it is not well".into(),
        },
        _ => StoreFact::Usable(usable(dice)),
    }
}

/// A random event in the world.
fn happen(world: &mut World, dice: &mut Dice) {
    if world.grant.is_none() {
        return;
    }
    let now = world.now;
    match dice.below(33) {
        0 => world.delete_secret(),
        1 => world.edit(|g| {
            let least = if g.terms.renews() { 600 } else { 0 };
            g.terms.expiration_seconds = least.max(*dice.pick(&[30, 60, 300, 600]));
        }),
        2 => world.edit(|g| g.terms.deadline_time = None),
        3 => world.edit(|g| {
            let seconds = dice.below(600) as i64 - 50;
            g.terms.deadline_time = Some(Time(now + SignedDuration::from_secs(seconds)));
        }),
        4 => world.edit(|g| {
            let template = g.terms.secret_template.get_or_insert_default();
            template.labels.insert("n".into(), dice.below(100).to_string());
        }),
        5 => world.store = store_fact(dice),
        6 => world.store = StoreFact::Usable(store([rule()])),
        7 => world.put_object(),
        8 => world.bucket = Bucket::Empty,
        9 => world.bucket = Bucket::Hidden,
        10 => world.bucket = Bucket::Down,
        11 if world.secret.is_none() => {
            world.plant(if dice.one_in(2) {
                Owner::Predecessor
            } else {
                Owner::Foreign("it has no owner")
            });
        }
        12 => world.refuses = dice.one_in(2).then(|| "quota".into()),
        13 => world.edit_secret(|s| {
            s.labels.insert("theirs".into(), "x".into());
        }),
        14 => world.edit(|g| g.terms.suspend = Some(true)),
        15 => world.edit(|g| g.terms.suspend = None),
        16 if dice.one_in(5) => world.edit(|g| g.terms.revoke = Some(true)),
        17 => {
            let seconds = dice.below(300) as i64 - 100;
            world.request(&(now + SignedDuration::from_secs(seconds)).to_string());
        }
        18 => world.request("soon"),
        19 => world.edit(|g| match g.terms.renewal {
            Some(_) => g.terms.renewal = None,
            None => {
                renew_always(g);
                g.terms.expiration_seconds = g.terms.expiration_seconds.max(600);
            }
        }),
        20 => world.notify(),
        28 => {
            if let StoreFact::Usable(view) = &mut world.store {
                view.signer = Some(Signer {
                    fingerprint: (*dice.pick(&["first", "second", "third"])).into(),
                    since: now,
                });
            }
        }
        22..26 if world.grant().operation_spec.parts().is_some() => {
            let (number, more) = (1 + dice.below(3) as i64, *dice.pick(&[0, 0, 0, 0, 0, -1, 1]));
            world.put_part(number, more);
        }
        26 if world.grant().operation_spec.parts().is_some() => {
            // Another client or a lifecycle rule aborts the upload.
            if dice.one_in(3) {
                world.uploads.retain(|u| u.id == THEIRS);
            } else {
                (1..=3).for_each(|n| world.put_part(n, 0));
            }
        }
        27 if dice.one_in(8) => world.delete(),
        // The limit of concurrent requests to the store is reached.
        31 => world.is_busy = true,
        32 => world.is_busy = false,
        21 => world.room = !world.room,
        _ => {}
    }
}

#[test]
fn random_event_sequences_pass_all_checks() {
    let (mut keys, mut gone, mut renewals) = (0, 0, 0);
    for walk in 1..=WALKS {
        let mut dice = Dice::new(walk);
        eprintln!("walk {walk}");
        let mut world = World::new(grant(&mut dice), usable(&mut dice));
        world.store = store_fact(&mut dice);
        world.memory = *dice.pick(&[Memory::Grant, Memory::Caches, Memory::Secret]);
        // An upload of another client for the same object key. It is older than the grant or has parts.
        world.uploads.push(Upload {
            id: THEIRS.into(),
            initiated: at(*dice.pick(&[-100, 1])),
            parts: vec![ArrivedPart {
                number: 1,
                size: 20_000,
                e_tag: "\"1\"".into(),
            }],
        });
        // Between two steps of a reconcile an event can happen, at most twice.
        let mut between = Dice::new(walk + 1_000_000);
        world.meddler = Some(Box::new(move |w: &mut World| {
            if between.one_in(12) {
                // A reconcile that has a permit for requests keeps it until it writes to the apiserver. The limit of
                // requests therefore changes only between two reconciles.
                let is_busy = w.is_busy;
                happen(w, &mut between);
                w.is_busy = is_busy;
            }
        }));
        let mut wake = world.reconcile();
        for _ in 0..40 {
            let soon = SignedDuration::from_millis(dice.below(100_000) as i64);
            match wake {
                Some(timer) if dice.one_in(2) => world.now = world.now.max(timer),
                _ => world.now += soon,
            }
            if dice.one_in(2) {
                happen(&mut world, &mut dice);
            }
            if dice.one_in(10) {
                world.last_poll = None;
            }
            wake = world.reconcile();
        }
        settle(&mut world, wake);
        keys += world.keys.len();
        gone += usize::from(world.grant.is_none());
        renewals += world.published.keys().filter(|(_, renewals)| *renewals > 0).count();
    }
    assert!(keys > 20 && gone > 0, "{keys} credentials, {gone} deleted");
    assert!(renewals > 1000, "{renewals} renewals");
}

/// I8: when no more faults happen, the grant reaches a stable end state.
fn settle(world: &mut World, mut wake: Option<Timestamp>) {
    world.meddler = None;
    world.refuses = None;
    world.is_busy = false;
    world.store = StoreFact::Usable(store([rule()]));
    if world.grant.is_none() {
        assert!(world.secret.as_ref().is_none_or(|s| s.view.owner != Owner::ThisGrant));
        return;
    }
    if world.own_secret().is_none() {
        world.delete_secret();
    }
    if !matches!(world.bucket, Bucket::Holds { .. }) {
        world.bucket = Bucket::Empty;
    }
    // A grant with endless renewal or with `suspend` never ends, so both fields are removed.
    world.edit(|g| {
        g.terms.renewal = None;
        g.terms.suspend = None;
    });
    for _ in 0..400 {
        wake = world.reconcile();
        let Some(next) = wake else { break };
        world.now = world.now.max(next);
    }
    assert_eq!(wake, None, "the reconcile did not end");
    if let Some(grant) = &world.grant {
        let kept = [
            "Completed",
            "ObjectExists",
            "Expired",
            "ExpiredUnused",
            "Revoked",
            "ObjectMismatch",
            "UploadAborted",
            "ExpirationTooLong",
        ];
        assert!(kept.contains(&checks::ready(grant)), "{}", checks::ready(grant));
    }
    assert!(world.own_secret().is_none());
    let left: Vec<_> = world.uploads.iter().filter(|u| u.id != THEIRS).collect();
    assert!(
        left.is_empty()
            || world.blind
            || world.notices.contains(&Reason::PartsLeft)
            // An upload without parts may stay if the grant never got a credential and no rule allows the grant.
            || (world.keys.is_empty() && left.iter().all(|u| u.parts.is_empty())),
        "left in the store: {left:?}"
    );
    assert!(world.uploads.iter().any(|u| u.id == THEIRS));
    let before = world.counts;
    world.reconcile();
    assert_eq!(world.counts, before);
}

fn instant(dice: &mut Dice) -> Timestamp {
    match dice.below(8) {
        0 => Timestamp::MIN,
        1 => Timestamp::MAX,
        2 => Timestamp::UNIX_EPOCH,
        _ => Timestamp::new(START + dice.below(2000) as i64 - 1000, dice.below(1_000_000_000) as i32).unwrap(),
    }
}

fn maybe<T>(dice: &mut Dice, of: impl FnOnce(&mut Dice) -> T) -> Option<T> {
    (!dice.one_in(3)).then(|| of(dice))
}

fn status(dice: &mut Dice) -> GrantStatus {
    let mut conditions = vec![];
    for type_ in ["Ready", "Active", "Completed", "Reconciling", "Stalled", "Else"] {
        if dice.one_in(2) {
            conditions.push(Condition {
                type_: type_.into(),
                status: (*dice.pick(&["True", "False", "Unknown", ""])).into(),
                reason: dice.pick(Reason::ALL).as_str().into(),
                message: String::new(),
                observed_generation: maybe(dice, |d| d.below(4) as i64 - 1),
                last_transition_time: Time(instant(dice)),
            });
        }
    }
    GrantStatus {
        observed_generation: maybe(dice, |d| *d.pick(&[i64::MIN, 0, 1, 2, i64::MAX])),
        conditions,
        issued_time: maybe(dice, |d| Time(instant(d))),
        expiration_time: maybe(dice, |d| Time(instant(d))),
        finished_time: maybe(dice, |d| Time(instant(d))),
        expiration_seconds: maybe(dice, |d| *d.pick(&[i64::MIN, 0, 60, 300, i64::MAX])),
        renewals: maybe(dice, |d| *d.pick(&[i64::MIN, 0, 1, i64::MAX])),
        upload_id: maybe(dice, |_| "x".into()),
        renewal_time: maybe(dice, |d| Time(instant(d))),
        earlier_expiration_time: maybe(dice, |d| Time(instant(d))),
        ..GrantStatus::default()
    }
}

fn secret(dice: &mut Dice) -> SecretFact {
    match dice.below(4) {
        0 => SecretFact::Unread,
        1 => SecretFact::Absent,
        _ => SecretFact::Present(SecretView {
            uid: "u".into(),
            resource_version: "r".into(),
            owner: dice
                .pick(&[
                    Owner::ThisGrant,
                    Owner::ThisGrant,
                    Owner::Predecessor,
                    Owner::Foreign("no"),
                ])
                .clone(),
            deleting: dice.one_in(5),
            is_authentic: !dice.one_in(4),
            has_sole_owner: !dice.one_in(4),
            finalizers: if dice.one_in(4) {
                vec!["example.com/stay".into()]
            } else {
                vec![]
            },
            has_data: !dice.one_in(8),
            issued_at: maybe(dice, instant),
            expires_at: maybe(dice, instant),
            generation: maybe(dice, |d| *d.pick(&[i64::MIN, 1, 2, i64::MAX])),
            expiration_seconds: maybe(dice, |d| *d.pick(&[i64::MIN, 0, 60, 300, i64::MAX])),
            signed_with: maybe(dice, |d| (*d.pick(&["first", "second", ""])).into()),
            renewals: maybe(dice, |d| *d.pick(&[i64::MIN, 0, 1, i64::MAX])),
            earlier_expires_at: maybe(dice, instant),
            upload_id: maybe(dice, |_| "x".into()),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }),
    }
}

fn part(number: i64, dice: &mut Dice) -> ArrivedPart {
    ArrivedPart {
        number,
        size: *dice.pick(&[i64::MIN, 0, 8_213, 20_000, i64::MAX]),
        e_tag: "\"1\"".into(),
    }
}

/// Random facts that no real world would combine, with times from both ends of the range. `decide` must not panic.
#[test]
fn random_facts_cause_no_panic() {
    let mut counts = BTreeMap::<&str, usize>::new();
    for n in 1..=FACTS {
        let mut dice = Dice::new(n);
        let mut g = grant(&mut dice);
        g.created = maybe(&mut dice, instant);
        g.terms.deadline_time = maybe(&mut dice, |d| Time(instant(d))).filter(|_| n % 2 == 0);
        g.deleting = dice.one_in(20);
        g.deleted_at = maybe(&mut dice, instant);
        g.held = dice.one_in(3);
        g.renew_requested = match dice.below(4) {
            0 => RenewRequest::At(Timestamp::from_second(instant(&mut dice).as_second()).unwrap()),
            1 => RenewRequest::Invalid("soon".into()),
            _ => RenewRequest::None,
        };
        g.status = status(&mut dice);
        g.status_is_own = !dice.one_in(4);
        let mut facts = Facts::new(
            g,
            Settings {
                ttl_seconds_after_finished: *dice.pick(&[None, Some(0), Some(3600), Some(i64::MAX)]),
                ..Settings::default()
            },
        );
        facts.secret = secret(&mut dice);
        facts.store = if dice.one_in(6) {
            StoreFact::Unread
        } else {
            store_fact(&mut dice)
        };
        facts.object = match dice.below(6) {
            0 => ObjectFact::Absent,
            1 => ObjectFact::Hidden,
            2 => ObjectFact::Unreachable("no".into()),
            3 => ObjectFact::Present {
                object: ObservedObject::default(),
                modified_at: maybe(&mut dice, instant),
            },
            _ => ObjectFact::Unread,
        };
        facts.upload = match dice.below(6) {
            0 => UploadFact::Gone,
            1 => UploadFact::Hidden,
            2 => UploadFact::Unreachable("no".into()),
            3 => UploadFact::Open(vec![]),
            4 => UploadFact::Open((1..4).map(|number| part(number, &mut dice)).collect()),
            _ => UploadFact::Unread,
        };
        facts.uploads = match dice.below(4) {
            0 => UploadsFact::Hidden,
            1 => UploadsFact::Listed {
                uploads: vec![OpenUpload {
                    id: "x".into(),
                    initiated: maybe(&mut dice, instant),
                    has_parts: dice.one_in(2),
                }],
                contested: dice.one_in(2),
            },
            2 => UploadsFact::Unreachable("no".into()),
            _ => UploadsFact::Unread,
        };
        facts.completion_refused = dice.one_in(6).then(|| "no".into());
        facts.quota = *dice.pick(&[
            QuotaFact::Unasked,
            QuotaFact::Given,
            QuotaFact::Full(QuotaLimit::Namespace(2)),
        ]);
        facts.last_poll = maybe(&mut dice, instant);
        facts.poll_requested = dice.one_in(4);
        facts.secret_refused = dice.one_in(10).then(|| "quota".into());
        // The current time is always a normal time; only the facts have extreme times.
        let now = at(dice.below(2000) as i64) + SignedDuration::from_nanos(dice.below(1_000_000_000) as i64);
        facts.own_upload = dice.one_in(4).then(|| "own".into());
        let step = decide(&facts, now);
        assert_eq!(step, decide(&facts, now));
        checks::asks(&facts, &step);
        let name = match &step {
            Step::Read(_) => "read",
            Step::Publish(publish) => {
                checks::signs(&facts.grant, &facts.store, now, publish);
                "publish"
            }
            Step::UpdateMetadata { .. } | Step::DeleteSecret { .. } => {
                let SecretFact::Present(s) = &facts.secret else {
                    panic!("{n}: a write to a Secret that was not read");
                };
                assert_eq!((&s.owner, s.deleting), (&Owner::ThisGrant, false), "{n}");
                "write"
            }
            Step::Empty { .. } => "empty",
            Step::Report { status, .. } => {
                assert!(**status != facts.grant.status || !facts.grant.status_is_own, "{n}");
                // After a status was reported, the next step must be a different one.
                let mut after = facts.clone();
                after.grant.status = (**status).clone();
                after.grant.status_is_own = true;
                assert!(
                    !matches!(decide(&after, now), Step::Report { .. }),
                    "{n}: reports twice"
                );
                "report"
            }
            Step::DeleteGrant => "delete grant",
            Step::AddFinalizer => {
                assert!(!facts.grant.held, "{n}");
                "add finalizer"
            }
            Step::Complete(..) | Step::Abort(_) | Step::AbortOrphans(_) | Step::RemoveFinalizer { .. } => {
                assert!(facts.grant.held || facts.grant.operation_spec.parts().is_some(), "{n}");
                "parts"
            }
            Step::Rest { until } => {
                assert!(until.is_none_or(|t| t > now), "{n}: {until:?} at {now}");
                "rest"
            }
        };
        *counts.entry(name).or_default() += 1;
    }
    for name in [
        "read",
        "publish",
        "write",
        "report",
        "delete grant",
        "add finalizer",
        "parts",
    ] {
        assert!(
            counts.get(name).is_some_and(|c| *c > 5),
            "too few of {name}: {counts:?}"
        );
    }
}
