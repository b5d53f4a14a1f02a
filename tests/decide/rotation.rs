//! Tests of rotated store credentials: when Valet signs a credential again, which expiry it gets, and what Valet does
//! with store credentials that expire before the requested lifetime. The last part tests temporary credentials.

use jiff::{SignedDuration, Timestamp};
use valet::{
    api::{Reason, ShortSessions, annotation},
    core::{GrantFacts, Lifetime, Publish, PublishMode, RESIGN_SPREAD, Signer, Step, StoreFact},
};

use crate::{
    checks::{condition, ready},
    clocks::{steps, until},
    common::{around, at, by_credentials, download, form_below, renew_always, rule, store, upload},
    world::World,
};

/// Creates a simulated world in which the credential was issued at the start and the status was written.
fn issued(grant: GrantFacts) -> World {
    let mut world = World::new(grant, store([rule()]));
    world.reconcile();
    assert_eq!(ready(world.grant()), "Issued");
    world
}

/// From `since` on the store signs with other credentials.
fn rotate(world: &mut World, since: Timestamp) {
    world.usable(|store| {
        store.signer = Some(Signer {
            fingerprint: "second".into(),
            since,
        });
    });
}

fn published(world: &World) -> Box<Publish> {
    match world.next() {
        Step::Publish(publish) => publish,
        other => panic!("expected Publish, not {other:?}"),
    }
}

fn message(world: &World, type_: &str) -> String {
    condition(&world.grant().status, type_).map_or(String::new(), |c| format!("{} {}", c.reason, c.message))
}

/// The time of re-signing depends only on the time of the rotation and on the grant's UID. The new credential keeps
/// the lifetime of the old one.
#[test]
fn credential_is_re_signed_exactly_at_its_scheduled_time() {
    let mut world = issued(download());
    let first = world.keys[0];
    world.now = at(10);
    rotate(&mut world, at(10));
    let due = until(&world).unwrap();
    assert!(due >= at(10) && due < at(10) + RESIGN_SPREAD, "{due}");
    assert_eq!(steps(&mut world, around(due)), ["rest", "publish", "publish"]);

    world.now = due;
    let publish = published(&world);
    assert_eq!(publish.request.lifetime, first, "the expiry is the same");
    assert!(matches!(publish.mode, PublishMode::Replace { .. }));
    assert_eq!(publish.annotations[annotation::SIGNED_WITH], "second");
    assert!(
        !publish.annotations.contains_key(annotation::RENEWALS),
        "it is the same credential"
    );
    let before = world.counts;
    world.reconcile();
    assert_eq!(world.counts.replaces, before.replaces + 1);
    assert_eq!(world.counts.reports, before.reports, "the status does not change");
    assert_eq!(until(&world), Some(at(300)), "once");
}

#[test]
fn re_signing_of_1000_grants_is_spread_over_two_minutes() {
    let mut dues = std::collections::BTreeMap::<Timestamp, usize>::new();
    for n in 0..1000 {
        let mut grant = download();
        grant.uid = format!("{n:08x}-1c1e-4f0a-9d3b-0242ac120002");
        let mut world = issued(grant);
        rotate(&mut world, at(0));
        // Re-signing is due at once if the delay for this UID is zero.
        let due = match world.next() {
            Step::Publish(_) => at(0),
            Step::Rest { until } => until.unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(due < at(0) + RESIGN_SPREAD);
        *dues.entry(due).or_default() += 1;
    }
    assert!(dues.len() > 110, "{} different seconds", dues.len());
    assert!(dues.values().all(|n| *n < 25), "{dues:?}");
}

/// Valet does not re-sign if the Secret has no fingerprint, or if the store's fingerprint is not known.
#[test]
fn credential_with_unknown_fingerprint_is_not_re_signed() {
    let mut world = issued(download());
    world.edit_secret(|s| drop(s.annotations.remove(annotation::SIGNED_WITH)));
    world.sign_secret();
    rotate(&mut world, at(0));
    world.now = at(200);
    world.reconcile();
    assert_eq!((world.keys.len(), until(&world)), (1, Some(at(300))));
    assert!(
        !world
            .own_secret()
            .unwrap()
            .view
            .annotations
            .contains_key(annotation::SIGNED_WITH)
    );

    let mut world = issued(download());
    world.usable(|store| store.signer = None);
    world.now = at(200);
    world.reconcile();
    assert_eq!((world.keys.len(), until(&world)), (1, Some(at(300))));
    // The Secret keeps its recorded fingerprint.
    assert_eq!(world.own_secret().unwrap().view.signed_with.as_deref(), Some("first"));
}

/// Valet does not re-sign a credential that expires before its re-signing is due.
#[test]
fn credential_that_expires_first_is_not_re_signed() {
    let mut world = issued(download());
    world.now = at(299);
    rotate(&mut world, at(299));
    assert_eq!(until(&world), Some(at(300)));
}

/// If the new store credentials expire sooner, the re-signed credential also expires sooner and the reason is
/// `ExpiryTruncated`. The status keeps the expiry of the earlier credential.
#[test]
fn re_signed_credential_expires_with_shorter_store_credentials() {
    let mut world = issued(download());
    rotate(&mut world, at(0) - RESIGN_SPREAD);
    world.usable(|store| store.credentials_expire = Some(at(105)));
    world.now = at(50);
    assert_eq!(
        published(&world).request.lifetime,
        Lifetime {
            issued_at: at(0),
            expires_at: at(100)
        }
    );
    world.reconcile();
    assert!(message(&world, "Active").starts_with("ExpiryTruncated"));
    let status = &world.grant().status;
    assert_eq!(status.earlier_expiration_time.as_ref().map(|t| t.0), Some(at(300)));
}

/// If signing with the new credentials fails, the old credential stays until it expires and Valet retries.
#[test]
fn failed_re_signing_keeps_the_old_credential() {
    for problem in [true, false] {
        let mut world = issued(download());
        rotate(&mut world, at(0) - RESIGN_SPREAD);
        if problem {
            world.unsigned = Some((Reason::StoreUnreachable, "STS does not answer".into()));
        } else {
            // The new store credentials expire before a credential of one second could.
            world.usable(|store| store.credentials_expire = Some(at(4)));
        }
        world.now = at(10);
        let again = world.reconcile().unwrap();
        assert_eq!(ready(world.grant()), "Issued");
        assert_eq!(
            (world.keys.len(), again),
            (1, at(39)),
            "the retry is after a tenth of the remaining time"
        );
        world.unsigned = None;
        world.usable(|store| store.credentials_expire = None);
        world.now = again;
        world.reconcile();
        assert_eq!(world.keys.len(), 2);
    }
}

/// After a restart the operator does not know when the store's credentials were rotated, and counts the delay from
/// its start.
#[test]
fn restart_without_rotation_re_signs_nothing() {
    let mut world = issued(download());
    world.usable(|store| store.signer.as_mut().unwrap().since = at(100));
    world.now = at(100);
    assert_eq!(until(&world), Some(at(300)));
    // The credentials were rotated while no operator was running.
    rotate(&mut world, at(100));
    assert!(until(&world).is_some_and(|due| due >= at(100) && due < at(100) + RESIGN_SPREAD));
}

// --- store credentials that expire before the requested lifetime ---------------------------------------------------

fn refusing(grant: GrantFacts, credentials_expire: Timestamp) -> World {
    let mut view = store([rule()]);
    view.short_sessions = ShortSessions::Refuse;
    view.credentials_expire = Some(credentials_expire);
    World::new(grant, view)
}

#[test]
fn short_session_is_refused_if_store_refuses_short_sessions() {
    // A credential expires at least five seconds before the store credentials that signed it.
    for (end, is_refused) in [(304, true), (305, false), (306, false)] {
        let mut world = refusing(download(), at(end));
        let again = world.reconcile();
        if !is_refused {
            assert_eq!(ready(world.grant()), "Issued", "{end}");
            continue;
        }
        assert_eq!(
            message(&world, "Ready"),
            "ExpirationTooLong spec.expirationSeconds is 300; the credentials of ClusterObjectStore media expire at \
             2027-01-15T08:05:04Z, and the store does not allow a shorter lifetime (shortSessions: Refuse); reduce \
             spec.expirationSeconds to 299 or less, or ask the store's owner for longer sessions"
        );
        assert_eq!(world.notices, [Reason::ExpirationTooLong]);
        // A session of the store is renewed without an event, so Valet retries every minute.
        assert_eq!(again, Some(at(60)));
        world.usable(|store| store.credentials_expire = Some(at(4000)));
        world.now = at(60);
        world.reconcile();
        assert_eq!(ready(world.grant()), "Issued");
    }
    // A deadline of the grant may shorten the credential; `shortSessions: Refuse` does not apply to it.
    let mut grant = download();
    grant.terms.deadline_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(100)));
    let mut world = refusing(grant, at(200));
    world.reconcile();
    assert_eq!(ready(world.grant()), "Issued");
}

/// A grant that the access rules refuse is not retried, even if the store's session is also too short.
#[test]
fn grant_refused_by_rules_is_not_retried_every_minute() {
    let mut grant = download();
    grant.terms.expiration_seconds = 3601;
    let mut world = refusing(grant, at(100_000));
    assert_eq!(world.reconcile(), None);
    assert_eq!(ready(world.grant()), "ExpirationTooLong");
}

/// `shortSessions: Refuse` applies only to new credentials: an issued credential stays valid. A renewal that would be
/// cut short is refused.
#[test]
fn issued_credential_stays_if_store_refuses_short_sessions() {
    let mut grant = download();
    renew_always(&mut grant);
    grant.terms.expiration_seconds = 600;
    let mut world = issued(grant);
    world.usable(|store| {
        store.short_sessions = ShortSessions::Refuse;
        store.credentials_expire = Some(at(900));
    });
    world.now = at(450);
    world.reconcile();
    assert_eq!((ready(world.grant()), world.keys.len()), ("Issued", 1));
    world.now = at(430) + SignedDuration::from_secs(60);
    world.reconcile();
    assert!(message(&world, "RenewalFailing").starts_with("RenewalOverdue"));
    assert!(message(&world, "RenewalFailing").contains("shortSessions: Refuse"));
    world.now = at(600);
    world.reconcile();
    assert_eq!(ready(world.grant()), "ExpirationTooLong");
    assert!(world.own_secret().is_none());
}

// --- temporary credentials -----------------------------------------------------------------------------------------

/// An upload of one object with temporary credentials completes when the object arrives, as with a signed URL.
#[test]
fn upload_with_temporary_credentials_completes() {
    let mut world = issued(by_credentials(upload(), false));
    world.now = at(2);
    world.put_object();
    world.reconcile();
    assert_eq!(ready(world.grant()), "Completed");
    assert!(world.own_secret().is_none());
}

/// For a grant whose `spec.key` is a prefix, Valet never polls, even after a notification. When the credential
/// expires, `Completed` is `Unknown`.
#[test]
fn upload_for_prefix_is_never_completed() {
    for grant in [by_credentials(upload(), true), form_below()] {
        never_completed(grant);
    }
}

fn never_completed(grant: GrantFacts) {
    let mut world = issued(grant.clone());
    assert!(message(&world, "Ready").ends_with(
        "; the credential allows any number of objects with the prefix in \
                                                spec.key"
    ));
    assert!(message(&world, "Completed").starts_with("NotObservable spec.key is a prefix"));
    world.put_object();
    world.notify();
    for second in [0, 2, 60, 299] {
        world.now = at(second);
        assert_eq!(until(&world), Some(at(300)));
        world.reconcile();
    }
    assert_eq!(world.last_poll, None);
    world.now = at(300);
    world.reconcile();
    assert_eq!(ready(world.grant()), "Expired");
    let completed = condition(&world.grant().status, "Completed").unwrap();
    assert_eq!(
        (completed.status.as_str(), completed.reason.as_str()),
        ("Unknown", "NotObservable")
    );
    assert_eq!(world.last_poll, None);
    assert!(world.notices.is_empty());

    // The grant also expires if the store was deleted before.
    let mut world = issued(grant);
    world.store = StoreFact::Missing;
    world.now = at(300);
    world.reconcile();
    assert_eq!(ready(world.grant()), "Expired");
}

/// Valet renews temporary credentials of a prefix without polling.
#[test]
fn upload_for_prefix_is_renewed_without_polling() {
    for mut grant in [by_credentials(upload(), true), form_below()] {
        renew_always(&mut grant);
        grant.terms.expiration_seconds = 600;
        let mut world = issued(grant);
        world.put_object();
        world.now = until(&world).unwrap();
        world.reconcile();
        assert_eq!((world.keys.len(), world.last_poll), (2, None));
        assert_eq!(ready(world.grant()), "Issued");
    }
}

#[test]
fn revoked_condition_speaks_of_credentials_and_not_of_a_url() {
    let mut world = issued(by_credentials(download(), true));
    world.edit(|g| g.terms.revoke = Some(true));
    world.reconcile();
    let said = message(&world, "Revoked");
    assert!(
        said.contains("copies of the credentials work until 2027-01-15T08:05:00Z"),
        "{said}"
    );
}
