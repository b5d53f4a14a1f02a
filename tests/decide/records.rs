//! Which of two records Valet believes, the Secret or the status, if another client changed one or both. The tests
//! cover the times around the expiry of the credential.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use valet::{
    api::{GrantStatus, Reason, annotation},
    core::GrantFacts,
};

use crate::{
    checks::{condition, ready},
    common::{TICK, around, at, download, rule, store, upload},
    world::World,
};

/// The lifetime of every credential in these tests, in seconds.
const LIFE: i64 = 300;

/// What another client did to the Secret.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Secret {
    Untouched,
    OtherSeconds,
    LaterEnd,
    OtherSigner,
    NoSignature,
    OtherData,
    Deleted,
}

/// What another client did to the status.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Status {
    Untouched,
    LaterEnd,
    OtherSeconds,
    Earlier,
    Finished,
    Gone,
}

const SECRETS: [Secret; 7] = [
    Secret::Untouched,
    Secret::OtherSeconds,
    Secret::LaterEnd,
    Secret::OtherSigner,
    Secret::NoSignature,
    Secret::OtherData,
    Secret::Deleted,
];

const STATUSES: [Status; 6] = [
    Status::Untouched,
    Status::LaterEnd,
    Status::OtherSeconds,
    Status::Earlier,
    Status::Finished,
    Status::Gone,
];

fn world(grant: GrantFacts) -> World {
    let mut world = World::new(grant, store([rule()]));
    world.forged = true;
    world
}

fn issued(grant: GrantFacts) -> World {
    let mut world = world(grant);
    world.reconcile();
    assert_eq!(ready(world.grant()), "Issued");
    world
}

fn touch_secret(world: &mut World, what: Secret) {
    let set = |world: &mut World, key: &str, value: &str| {
        world.edit_secret(|s| drop(s.annotations.insert(key.into(), value.into())));
    };
    match what {
        Secret::Untouched => {}
        Secret::OtherSeconds => set(world, annotation::EXPIRATION_SECONDS, "1"),
        Secret::LaterEnd => set(world, annotation::EXPIRES_AT, "2036-01-01T00:00:00Z"),
        Secret::OtherSigner => set(world, annotation::SIGNED_WITH, "another"),
        Secret::NoSignature => {
            world.edit_secret(|s| drop(s.annotations.remove(annotation::RECORD_SIGNATURE)));
        }
        Secret::OtherData => world.edit_data(),
        Secret::Deleted => world.delete_secret(),
    }
}

fn touch_status(world: &mut World, what: Status) {
    let Some(grant) = &mut world.grant else { return };
    let status = &mut grant.status;
    match what {
        Status::Untouched => {}
        Status::LaterEnd => {
            let end = Some(Time("2036-01-01T00:00:00Z".parse().unwrap()));
            status.expiration_time = end.clone();
            if let Some(binding) = &mut status.binding {
                binding.expiration_time = end;
            }
        }
        Status::OtherSeconds => status.expiration_seconds = Some(1),
        Status::Earlier => {
            status.issued_time = Some(Time(at(-1000)));
            status.expiration_time = Some(Time(at(-700)));
        }
        Status::Finished => status.finished_time = Some(Time(at(1))),
        Status::Gone => *status = GrantStatus::default(),
    }
}

/// A client that changes one record never gains a longer credential, and neither does one that changes both while the
/// process remembers the grant. Valet issues the same lifetime again or nothing. If both records are gone and the
/// process restarted, Valet treats the grant as new.
#[test]
fn changed_record_never_extends_a_credential_and_is_corrected() {
    for secret in SECRETS {
        for status in STATUSES {
            for restarted in [false, true] {
                for now in [
                    at(1),
                    at(LIFE - 1),
                    at(LIFE) - TICK,
                    at(LIFE),
                    at(LIFE) + TICK,
                    at(LIFE + 100),
                ] {
                    let mut world = issued(download());
                    touch_secret(&mut world, secret);
                    touch_status(&mut world, status);
                    if restarted {
                        world.forget();
                    }
                    world.now = now;
                    world.reconcile();
                    let said = format!("{secret:?}, {status:?}, restarted: {restarted}, at {now}");
                    let knows = secret == Secret::Untouched || status == Status::Untouched || !restarted;
                    if !knows {
                        let last = world.keys.last().unwrap();
                        assert_eq!(
                            (world.keys.len(), last.seconds()),
                            (2, LIFE),
                            "the grant is treated as new: {said}"
                        );
                        continue;
                    }
                    assert!(
                        world
                            .keys
                            .iter()
                            .all(|k| (k.issued_at, k.expires_at) == (at(0), at(LIFE))),
                        "{said}: {:?}",
                        world.keys
                    );
                    let is_over = now >= at(LIFE);
                    assert_eq!(
                        ready(world.grant()),
                        if is_over { "Expired" } else { "Issued" },
                        "{said}"
                    );
                    assert_eq!(world.secret.is_some(), !is_over, "{said}");
                    if let Some(secret) = &world.secret {
                        assert!(secret.view.is_authentic, "{said}");
                        assert!(
                            !secret.data.values().any(|v| v.0.starts_with(b"https://evil")),
                            "{said}"
                        );
                    }
                    assert!(world.known().status_is_own, "{said}");
                    let counts = world.counts;
                    world.reconcile();
                    assert_eq!(world.counts, counts, "a second reconcile changes nothing: {said}");
                }
            }
        }
    }
}

/// If the operator crashes after it wrote the Secret and before it wrote the status, the Secret is the only record,
/// and Valet believes it.
#[test]
fn secret_is_believed_after_a_crash_before_the_status_was_written() {
    for secret in SECRETS {
        let mut world = world(download());
        world.meddler = Some(Box::new(move |w: &mut World| {
            if w.keys.len() == 1 && w.grant().status.issued_time.is_none() && w.crash.is_none() {
                w.crash = Some(w.steps - 1);
                w.now = at(10);
                touch_secret(w, secret);
            }
        }));
        world.reconcile();
        world.meddler = None;
        assert_eq!(ready(world.grant()), "Issued");
        let last = world.keys.last().unwrap();
        let expected = if secret == Secret::Untouched { at(0) } else { at(10) };
        assert_eq!(last.issued_at, expected, "{secret:?}: {:?}", world.keys);
        assert_eq!(last.seconds(), LIFE);
    }
}

/// A client restores an authentic status or Secret from before a renewal. Valet uses the later record, from the other
/// object or from its memory.
#[test]
fn restored_record_from_before_a_renewal_is_ignored() {
    for (status_back, secret_back) in [(true, false), (false, true), (true, true)] {
        for restarted in [false, true] {
            if restarted && status_back && secret_back {
                // If both records are old and the process restarted, Valet cannot know about the renewal.
                continue;
            }
            let mut world = issued(download());
            let (old_status, old_secret) = (world.grant().status.clone(), world.secret.clone());
            world.now = at(100);
            world.edit(|g| g.terms.expiration_seconds = 200);
            world.reconcile();
            let (_, renewed) = (world.keys[0], world.keys[1]);
            assert_eq!((renewed.issued_at, renewed.expires_at), (at(100), at(300)));
            if status_back {
                world.grant.as_mut().unwrap().status = old_status;
            }
            if secret_back {
                world.secret = old_secret;
            }
            if restarted {
                world.forget();
            }
            world.now = at(150);
            world.reconcile();
            let said = format!("status {status_back}, Secret {secret_back}, restarted {restarted}");
            assert!(
                world.keys[1..].iter().all(|k| *k == renewed),
                "{said}: {:?}",
                world.keys
            );
            assert_eq!(world.grant().status.renewals, Some(1), "{said}");
            assert_eq!(world.secret.as_ref().unwrap().view.renewals, Some(1), "{said}");
        }
    }
}

/// A finished grant has only its status as a record. If a client deletes or forges the status, a running process
/// restores it. A restarted process issues one credential, within the access rules and the deadline.
#[test]
fn finished_grant_with_forged_status_is_reissued_once_per_restart() {
    for status in [Status::Gone, Status::LaterEnd, Status::Earlier, Status::OtherSeconds] {
        let mut grant = download();
        grant.terms.deadline_time = Some(Time(at(LIFE + 150)));
        let mut world = issued(grant);
        world.now = at(LIFE);
        world.reconcile();
        for second in [0, 1, 50] {
            world.now = at(LIFE + second);
            touch_status(&mut world, status);
            world.reconcile();
            assert_eq!(ready(world.grant()), "Expired", "{status:?}");
            assert_eq!(world.keys.len(), 1, "{status:?}");
        }
        touch_status(&mut world, status);
        world.forget();
        world.now = at(LIFE + 100);
        world.reconcile();
        assert_eq!(
            (world.keys.len(), world.keys[1].expires_at),
            (2, at(LIFE + 150)),
            "{status:?}"
        );
        touch_status(&mut world, status);
        world.forget();
        world.now = at(LIFE + 150);
        world.secret = None;
        world.reconcile();
        assert_eq!(world.keys.len(), 2, "{status:?}: the deadline has passed");
    }
}

/// A client moves the expiry in the status of a DownloadGrant to a later time again and again. Valet never issues
/// another credential.
#[test]
fn forged_expiry_of_a_download_never_leads_to_a_new_credential() {
    let mut world = issued(download());
    for second in 0..40 {
        world.now = at(second * 10);
        touch_status(&mut world, Status::LaterEnd);
        world.reconcile();
    }
    assert_eq!(world.keys.len(), 1);
    assert_eq!(ready(world.grant()), "Expired");
}

/// A forged `Completed` condition of an upload is corrected at once and never finishes the grant.
#[test]
fn forged_completion_of_an_upload_is_never_final() {
    for restarted in [false, true] {
        let mut world = issued(upload());
        let forge = |world: &mut World| {
            let status = &mut world.grant.as_mut().unwrap().status;
            for c in status.conditions.iter_mut().filter(|c| c.type_ == "Completed") {
                (c.status, c.reason, c.message) = ("True".into(), "Completed".into(), "so somebody says".into());
            }
            status.object = Some(Default::default());
        };
        for second in [10, 100, 299] {
            world.now = at(second);
            forge(&mut world);
            if restarted {
                world.forget();
            }
            world.reconcile();
            let completed = condition(&world.grant().status, "Completed").unwrap();
            assert_eq!(completed.status, "False", "after {second} s");
            assert!(world.grant().status.object.is_none());
        }
        forge(&mut world);
        world.now = at(LIFE);
        world.reconcile();
        assert_eq!(ready(world.grant()), "ExpiredUnused");
        forge(&mut world);
        world.reconcile();
        assert_eq!(ready(world.grant()), "ExpiredUnused");
        assert_eq!(condition(&world.grant().status, "Completed").unwrap().status, "False");
        assert_eq!(world.notices, [Reason::ExpiredUnused]);
    }
}

/// A credential whose Secret is changed again and again still expires at its recorded expiry.
#[test]
fn changed_secret_is_deleted_at_its_recorded_expiry() {
    for secret in SECRETS {
        for now in around(at(LIFE)) {
            let mut world = issued(download());
            world.now = now - SignedDuration::from_secs(20);
            world.reconcile();
            touch_secret(&mut world, secret);
            world.now = now;
            world.reconcile();
            assert_eq!(world.secret.is_none(), now >= at(LIFE), "{secret:?} at {now}");
        }
    }
}
