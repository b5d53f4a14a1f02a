//! Simulated lives of grants that are suspended or revoked.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use valet::{
    api::{GrantStatus, Reason},
    core::{Owner, StoreFact},
};

use super::{downloading, ends, good_store, overwriting, terms, uploading, with};
use crate::{
    common::at,
    play::{Life, play},
    world::{Bucket, Memory, World},
};

fn suspend(world: &mut World) {
    world.edit(|g| g.terms.suspend = Some(true));
}

fn resume(world: &mut World) {
    world.edit(|g| g.terms.suspend = Some(false));
}

fn revoke(world: &mut World) {
    world.edit(|g| g.terms.revoke = Some(true));
}

pub static SUSPENDED: &[Life] = &[
    Life {
        name: "suspended and resumed with the same credential",
        world: downloading,
        events: &[(50.0, suspend), (100.0, resume)],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (0, 300)], [2, 0, 1], &[]),
    },
    Life {
        name: "suspended",
        world: uploading,
        events: &[(50.5, suspend)],
        until: 299,
        end: ends("Current Suspended", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "suspended beyond the expiry: a download",
        world: downloading,
        events: &[(50.0, suspend), (400.0, resume)],
        until: 1000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "suspended beyond the expiry: an upload that did not arrive",
        world: uploading,
        events: &[(50.0, suspend)],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "suspended, and a copy of the credential was used",
        world: uploading,
        events: &[(50.0, suspend), (100.0, World::put_object)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "suspended from the beginning, and resumed with a whole lifetime",
        world: || with(uploading(), |w| terms(w).suspend = Some(true)),
        events: &[(5000.0, resume)],
        until: 5100,
        end: ends("Current Issued", &[(5000, 5300)], [1, 0, 0], &[]),
    },
    Life {
        name: "suspended until the deadline without a credential",
        world: || {
            with(downloading(), |w| {
                terms(w).suspend = Some(true);
                terms(w).deadline_time = Some(Time(at(200)));
            })
        },
        events: &[],
        until: 1000,
        end: ends("Current Expired", &[], [0, 0, 0], &[]),
    },
    Life {
        name: "suspended while its store is missing and a foreign Secret exists",
        world: || {
            with(uploading(), |w| {
                terms(w).suspend = Some(true);
                w.store = StoreFact::Missing;
                w.plant(Owner::Foreign("it has no owner"));
            })
        },
        events: &[],
        until: 1000,
        end: ends("Current Suspended", &[], [0, 0, 0], &[]),
    },
    Life {
        name: "suspended, and a longer lifetime requested before it is resumed",
        world: downloading,
        events: &[
            (50.0, suspend),
            (60.0, |w| w.edit(|g| g.terms.expiration_seconds = 600)),
            (100.0, resume),
        ],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (100, 700)], [2, 0, 1], &[]),
    },
    Life {
        name: "suspended, and refused when it is resumed",
        world: downloading,
        events: &[
            (50.0, suspend),
            (60.0, |w| w.usable(|s| s.rules = std::sync::Arc::new(vec![]))),
            (100.0, resume),
        ],
        until: 200,
        end: ends(
            "Failed NamespaceNotAllowed",
            &[(0, 300)],
            [1, 0, 1],
            &[Reason::NamespaceNotAllowed],
        ),
    },
    Life {
        name: "revoked",
        world: uploading,
        events: &[(50.0, revoke)],
        until: 1000,
        end: ends("Current Revoked", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "revoked, and deleted after the TTL",
        world: downloading,
        events: &[(50.0, revoke)],
        until: 3650,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "revoked before a credential was issued",
        world: || with(downloading(), |w| w.store = StoreFact::Missing),
        events: &[(50.0, revoke), (60.0, |w| w.store = StoreFact::Usable(good_store()))],
        until: 1000,
        end: ends("Current Revoked", &[], [0, 0, 0], &[]),
    },
    Life {
        name: "revoked from the beginning",
        world: || with(uploading(), |w| terms(w).revoke = Some(true)),
        events: &[],
        until: 1000,
        end: ends("Current Revoked", &[], [0, 0, 0], &[]),
    },
    Life {
        name: "revoked while it is suspended",
        world: downloading,
        events: &[(50.0, suspend), (60.0, revoke), (70.0, resume)],
        until: 1000,
        end: ends("Current Revoked", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "revoked while the store is unreachable",
        world: overwriting,
        events: &[
            (40.0, |w| {
                w.store = StoreFact::Unusable {
                    reason: Reason::CredentialsNotFound,
                    message: "they are gone".into(),
                }
            }),
            (50.0, revoke),
        ],
        until: 1000,
        end: ends("Current Revoked", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "revoked after it finished",
        world: downloading,
        events: &[(400.0, revoke)],
        until: 1000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
];

/// The message of a condition of the grant.
fn says(world: &World, type_: &str) -> String {
    let grant = world.grant();
    crate::checks::condition(&grant.status, type_).map_or(String::new(), |c| c.message.clone())
}

fn played(name: &str) -> World {
    play(super::life(name), Memory::Grant, None, SignedDuration::ZERO)
}

#[test]
fn suspended_and_revoked_conditions_say_until_when_copies_work() {
    let world = played("suspended");
    assert_eq!(
        says(&world, "Suspended"),
        "spec.suspend is true: the Secret was deleted, but copies of the credential work until 2027-01-15T08:05:00Z"
    );
    assert_eq!(says(&world, "Ready"), says(&world, "Suspended"));
    assert_eq!(says(&world, "Active"), "there is no credential to use");
    assert_eq!(says(&world, "Completed"), "nothing has been uploaded yet");

    let world = played("revoked");
    assert_eq!(
        says(&world, "Revoked"),
        "spec.revoke is true: Secret avatar-42 was deleted, but copies of the URL work until 2027-01-15T08:05:00Z; \
         only the owner of ClusterObjectStore media can invalidate the copies earlier: break the lock"
    );
    assert_eq!(
        says(&world, "Completed"),
        "the grant was revoked before Valet saw an upload, and Valet no longer polls the store"
    );
    assert!(
        says(&played("revoked while the store is unreachable"), "Revoked")
            .ends_with("revoke the store's credentials that signed the credential")
    );
    assert_eq!(
        says(&played("revoked from the beginning"), "Revoked"),
        "spec.revoke is true: no credential was issued, and Valet will not issue a credential"
    );
}

/// If a shorter credential replaced a longer one, copies of the longer one still work. The condition `Revoked` names
/// the later expiry.
#[test]
fn revoked_condition_names_expiry_of_longer_earlier_credential() {
    for crash in [None, Some(5), Some(6), Some(7), Some(8), Some(9)] {
        let life = Life {
            name: "shortened, then revoked",
            world: downloading,
            events: &[
                (50.0, |w| w.edit(|g| g.terms.expiration_seconds = 60)),
                (70.0, World::delete_secret),
                (80.0, revoke),
            ],
            until: 90,
            end: ends("Current Revoked", &[(0, 300), (50, 110), (50, 110)], [2, 1, 1], &[]),
        };
        let world = play(&life, Memory::Grant, crash, SignedDuration::ZERO);
        life.expect(&world, true);
        assert!(
            says(&world, "Revoked").contains("work until 2027-01-15T08:05:00Z"),
            "{}",
            says(&world, "Revoked")
        );
    }
}

/// If the operator crashed before it wrote the status, only the Secret records the credential. The conditions
/// `Suspended` and `Revoked` still name its expiry.
#[test]
fn condition_names_expiry_of_credential_missing_in_status() {
    for (withhold, reason) in [(suspend as fn(&mut World), "Suspended"), (revoke, "Revoked")] {
        let mut world = downloading();
        world.reconcile();
        world.grant.as_mut().unwrap().status = GrantStatus::default();
        world.forget();
        withhold(&mut world);
        world.now = at(50);
        world.reconcile();
        assert!(world.secret.is_none(), "{reason}");
        assert!(
            says(&world, reason).contains("work until 2027-01-15T08:05:00Z"),
            "{}",
            says(&world, reason)
        );
    }
}

/// While a grant is suspended, Valet does not poll for its object until the credential expires.
#[test]
fn suspended_grant_is_not_polled_before_the_expiry() {
    let mut world = (super::life("suspended").world)();
    world.reconcile();
    suspend(&mut world);
    world.bucket = Bucket::Down;
    for second in [1, 3, 60, 200, 299] {
        world.now = at(second);
        let wake = world.reconcile();
        assert_eq!(wake, Some(at(300)));
        assert_eq!(
            world.last_poll,
            Some(at(0)),
            "the last poll was the one before the issue"
        );
    }
}
