//! Simulated lives of grants with renewal, by `spec.renewal` and by annotation. With the UID of these tests, a
//! credential of 600 seconds is renewed after 367 seconds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use valet::{
    api::Reason,
    core::{StoreFact, StoreView},
};

use super::{downloading, ends, good_store, old_object, overwriting, terms, unusable, uploading, with};
use crate::{
    common::{at, renew_always},
    play::Life,
    world::{Bucket, World},
};

pub fn always(world: World) -> World {
    with(world, |w| {
        renew_always(w.grant.as_mut().unwrap());
        terms(w).expiration_seconds = 600;
    })
}

pub fn until(world: World, deadline: i64) -> World {
    with(world, |w| terms(w).deadline_time = Some(Time(at(deadline))))
}

fn suspend(world: &mut World) {
    world.edit(|g| g.terms.suspend = Some(true));
}

fn resume(world: &mut World) {
    world.edit(|g| g.terms.suspend = None);
}

fn outage(world: &mut World) {
    world.store = unusable(Reason::CredentialsNotFound);
}

fn back(world: &mut World) {
    world.store = StoreFact::Usable(good_store());
}

fn credentials_until(world: &mut World, second: i64) {
    world.usable(|s: &mut StoreView| s.credentials_expire = Some(at(second)));
}

pub static RENEWALS: &[Life] = &[
    Life {
        name: "renewed until the deadline",
        world: || until(always(downloading()), 2000),
        events: &[],
        until: 2100,
        end: ends(
            "Current Expired",
            &[(0, 600), (367, 967), (734, 1334), (1101, 1701), (1468, 2000)],
            [1, 4, 1],
            &[],
        ),
    },
    Life {
        name: "renewed without a deadline",
        world: || always(downloading()),
        events: &[],
        until: 1200,
        end: ends(
            "Current Issued",
            &[(0, 600), (367, 967), (734, 1334), (1101, 1701)],
            [1, 3, 0],
            &[],
        ),
    },
    Life {
        name: "a deadline that is too close for another credential",
        world: || until(always(downloading()), 660),
        events: &[],
        until: 1000,
        end: ends("Current Expired", &[(0, 600)], [1, 0, 1], &[]),
    },
    Life {
        name: "a deadline that is just late enough for another credential",
        world: || until(always(downloading()), 661),
        events: &[],
        until: 1000,
        end: ends("Current Expired", &[(0, 600), (367, 661)], [1, 1, 1], &[]),
    },
    Life {
        name: "a deadline before the expiry of the first credential",
        world: || until(always(uploading()), 500),
        events: &[],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 500)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "a deadline that is extended after the last credential is issued",
        world: || until(always(downloading()), 500),
        events: &[(450.0, |w| w.edit(|g| g.terms.deadline_time = Some(Time(at(5000)))))],
        until: 600,
        end: ends("Current Issued", &[(0, 500), (450, 1050)], [1, 1, 0], &[]),
    },
    Life {
        name: "an upload with the second credential",
        world: || always(uploading()),
        events: &[(500.0, World::put_object)],
        until: 1000,
        end: ends("Current Completed", &[(0, 600), (367, 967)], [1, 1, 1], &[]),
    },
    Life {
        name: "an upload just before the renewal is found by an additional poll",
        world: || always(uploading()),
        events: &[(364.0, World::put_object)],
        until: 370,
        end: ends("Current Completed", &[(0, 600)], [1, 0, 1], &[]),
    },
    Life {
        name: "an upload with the first credential that is found after the renewal",
        world: || always(uploading()),
        events: &[
            (364.0, |w| w.bucket = Bucket::Down),
            (368.0, |w| {
                w.bucket = Bucket::Holds {
                    since: at(363),
                    says_when: true,
                }
            }),
        ],
        until: 1000,
        end: ends("Current Completed", &[(0, 600), (367, 967)], [1, 1, 1], &[]),
    },
    Life {
        name: "an object of another client with a renewed credential",
        world: || always(uploading()),
        events: &[(500.0, |w| w.bucket = old_object())],
        until: 1000,
        end: ends("Current ObjectExists", &[(0, 600), (367, 967)], [1, 1, 1], &[]),
    },
    Life {
        name: "repeated uploads until the deadline",
        world: || until(always(overwriting()), 1100),
        events: &[
            (10.0, World::put_object),
            (500.0, World::put_object),
            (1099.0, World::put_object),
        ],
        until: 1200,
        end: ends(
            "Current Completed",
            &[(0, 600), (367, 967), (734, 1100)],
            [1, 2, 1],
            &[],
        ),
    },
    Life {
        name: "an upload that was found and is deleted before the expiry",
        world: || until(always(overwriting()), 500),
        events: &[(10.0, World::put_object), (100.0, |w| w.bucket = Bucket::Empty)],
        until: 1000,
        end: ends("Current Completed", &[(0, 500)], [1, 0, 1], &[]),
    },
    Life {
        name: "an upload that was found, and a store that is unreachable at the expiry",
        world: || until(always(overwriting()), 500),
        events: &[(10.0, World::put_object), (100.0, |w| w.store = StoreFact::Missing)],
        until: 1000,
        end: ends("Current Completed", &[(0, 500)], [1, 0, 1], &[]),
    },
    Life {
        name: "renewal is switched off after an upload was found",
        world: || always(overwriting()),
        events: &[
            (10.0, World::put_object),
            (100.0, |w| w.edit(|g| g.terms.renewal = None)),
        ],
        until: 500,
        end: ends("Current Completed", &[(0, 600)], [1, 0, 1], &[]),
    },
    Life {
        name: "renewal is switched off",
        world: || always(downloading()),
        events: &[(400.0, |w| w.edit(|g| g.terms.renewal = None))],
        until: 2000,
        end: ends("Current Expired", &[(0, 600), (367, 967)], [1, 1, 1], &[]),
    },
    Life {
        name: "renewal is switched on late in the lifetime",
        world: || with(downloading(), |w| terms(w).expiration_seconds = 600),
        events: &[(500.5, |w| w.edit(renew_always))],
        until: 600,
        end: ends("Current Issued", &[(0, 600), (500, 1100)], [1, 1, 0], &[]),
    },
    Life {
        name: "renewal is switched on after the expiry",
        world: || with(downloading(), |w| terms(w).expiration_seconds = 600),
        events: &[(700.0, |w| w.edit(renew_always))],
        until: 1000,
        end: ends("Current Expired", &[(0, 600)], [1, 0, 1], &[]),
    },
    Life {
        name: "a store that is unreachable at the renewal time and returns soon",
        world: || always(downloading()),
        events: &[(300.0, outage), (419.0, back)],
        until: 600,
        end: ends("Current Issued", &[(0, 600), (419, 1019)], [1, 1, 0], &[]),
    },
    Life {
        name: "a store that is unreachable until the renewal is overdue",
        world: || always(downloading()),
        events: &[(300.0, outage), (500.0, back)],
        until: 600,
        end: ends(
            "Current Issued",
            &[(0, 600), (500, 1100)],
            [1, 1, 0],
            &[Reason::RenewalOverdue],
        ),
    },
    Life {
        name: "a store that is unreachable beyond the expiry",
        world: || always(downloading()),
        events: &[(300.0, outage), (700.0, back)],
        until: 800,
        end: ends(
            "Current Issued",
            &[(0, 600), (700, 1300)],
            [2, 0, 1],
            &[Reason::RenewalOverdue, Reason::CredentialsNotFound],
        ),
    },
    Life {
        name: "a store that is unreachable beyond the expiry and the deadline",
        world: || until(always(downloading()), 800),
        events: &[(300.0, outage), (790.0, back)],
        until: 1000,
        end: ends(
            "Current Expired",
            &[(0, 600)],
            [1, 0, 1],
            &[Reason::RenewalOverdue, Reason::CredentialsNotFound],
        ),
    },
    Life {
        name: "store credentials that expire and are replaced in time",
        world: || with(always(downloading()), |w| credentials_until(w, 505)),
        events: &[(300.0, |w| credentials_until(w, 5000))],
        until: 400,
        end: ends(
            "Current Issued",
            &[(0, 500), (300, 900)],
            [1, 1, 0],
            &[Reason::ExpiryTruncated],
        ),
    },
    Life {
        name: "store credentials that expire and are not replaced",
        world: || with(always(downloading()), |w| credentials_until(w, 505)),
        events: &[],
        until: 600,
        end: ends(
            "InProgress CredentialsExpired",
            &[(0, 500)],
            [1, 0, 1],
            &[
                Reason::ExpiryTruncated,
                Reason::RenewalOverdue,
                Reason::CredentialsExpired,
            ],
        ),
    },
    Life {
        name: "a rule that is narrowed, and widened after the expiry",
        world: || always(downloading()),
        events: &[
            (100.0, |w| w.usable(|s| s.rules = std::sync::Arc::new(vec![]))),
            (700.0, back),
        ],
        until: 800,
        end: ends(
            "Current Issued",
            &[(0, 600), (700, 1300)],
            [2, 0, 1],
            &[Reason::NamespaceNotAllowed],
        ),
    },
    Life {
        name: "suspended with renewal beyond the expiry",
        world: || always(uploading()),
        events: &[(100.0, suspend), (700.0, resume)],
        until: 800,
        end: ends("Current Issued", &[(0, 600), (700, 1300)], [2, 0, 1], &[]),
    },
    Life {
        name: "suspended at the renewal time",
        world: || always(downloading()),
        events: &[(100.0, suspend), (400.0, resume)],
        until: 500,
        end: ends("Current Issued", &[(0, 600), (400, 1000)], [2, 0, 1], &[]),
    },
    Life {
        name: "suspended with renewal until the deadline",
        world: || until(always(downloading()), 5000),
        events: &[(100.0, suspend)],
        until: 6000,
        end: ends("Current Expired", &[(0, 600)], [1, 0, 1], &[]),
    },
    Life {
        name: "revoked after a renewal",
        world: || always(overwriting()),
        events: &[
            (300.0, World::put_object),
            (400.0, |w| w.edit(|g| g.terms.revoke = Some(true))),
        ],
        until: 1000,
        end: ends("Current Revoked", &[(0, 600), (367, 967)], [1, 1, 1], &[]),
    },
    Life {
        name: "the Secret is deleted after a renewal and restored with the second credential",
        world: || always(downloading()),
        events: &[(400.0, World::delete_secret)],
        until: 500,
        end: ends("Current Issued", &[(0, 600), (367, 967), (367, 967)], [2, 1, 0], &[]),
    },
    Life {
        name: "a renewal by request",
        world: downloading,
        events: &[(100.5, |w| w.request("2027-01-15T08:01:40Z"))],
        until: 399,
        end: ends("Current Issued", &[(0, 300), (100, 400)], [1, 1, 0], &[]),
    },
    Life {
        name: "a renewal by request, and then the expiry",
        world: uploading,
        events: &[(100.5, |w| w.request("2027-01-15T08:01:40Z"))],
        until: 1000,
        end: ends(
            "Failed ExpiredUnused",
            &[(0, 300), (100, 400)],
            [1, 1, 1],
            &[Reason::ExpiredUnused],
        ),
    },
    Life {
        name: "two renewal requests",
        world: downloading,
        events: &[
            (100.0, |w| w.request("2027-01-15T08:01:40Z")),
            (101.0, |w| w.request("2027-01-15T08:01:41Z")),
        ],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (100, 400), (101, 401)], [1, 2, 0], &[]),
    },
    Life {
        name: "a renewal request for a time before the issue",
        world: downloading,
        events: &[(100.0, |w| w.request("2027-01-15T08:00:00Z"))],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "a renewal request for a later time",
        world: downloading,
        events: &[(100.0, |w| w.request("2027-01-15T10:03:20+02:00"))],
        until: 400,
        end: ends("Current Issued", &[(0, 300), (200, 500)], [1, 1, 0], &[]),
    },
    Life {
        name: "a renewal request for a time after the expiry",
        world: downloading,
        events: &[(100.0, |w| w.request("2027-01-15T08:05:00Z"))],
        until: 400,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a renewal request that is made after the expiry",
        world: downloading,
        events: &[(301.0, |w| w.request("2027-01-15T08:05:01Z"))],
        until: 400,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a renewal request without a valid time",
        world: downloading,
        events: &[(100.0, |w| w.request("now")), (150.0, |w| w.request("please"))],
        until: 200,
        end: ends(
            "Current Issued",
            &[(0, 300)],
            [1, 0, 0],
            &[Reason::RenewalRequestInvalid],
        ),
    },
    Life {
        name: "a renewal request before the first credential",
        world: || with(downloading(), |w| w.request("2027-01-15T08:00:00Z")),
        events: &[],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "a renewal request while the Secret is missing",
        world: downloading,
        events: &[(100.0, |w| {
            w.delete_secret();
            w.request("2027-01-15T08:01:40Z");
        })],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (100, 400)], [2, 0, 0], &[]),
    },
    Life {
        name: "a renewal request while the grant is suspended is fulfilled when it is resumed",
        world: downloading,
        events: &[
            (50.0, suspend),
            (100.0, |w| w.request("2027-01-15T08:01:40Z")),
            (150.0, resume),
        ],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (150, 450)], [2, 0, 1], &[]),
    },
    Life {
        name: "a renewal request that the rules no longer allow",
        world: downloading,
        events: &[(100.0, |w| {
            w.usable(|s| s.rules = std::sync::Arc::new(vec![]));
            w.request("2027-01-15T08:01:40Z");
        })],
        until: 200,
        end: ends(
            "Failed NamespaceNotAllowed",
            &[(0, 300)],
            [1, 0, 1],
            &[Reason::NamespaceNotAllowed],
        ),
    },
    Life {
        name: "a renewal request that would shorten the credential",
        world: downloading,
        events: &[(100.0, |w| {
            credentials_until(w, 120);
            w.request("2027-01-15T08:01:40Z");
        })],
        until: 110,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
];
