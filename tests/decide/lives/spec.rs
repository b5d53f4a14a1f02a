//! Simulated lives of grants in which the grant's spec or its Secret is changed.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use valet::{api::Reason, core::StoreFact};

use super::{downloading, ends, good_store, overwriting, terms, uploading, with};
use crate::{
    common::at,
    play::{Life, play},
    world::{Memory, World},
};

pub static SPEC_AND_SECRET: &[Life] = &[
    Life {
        name: "the Secret is deleted and restored with the same credential",
        world: downloading,
        events: &[(50.0, World::delete_secret), (60.5, World::delete_secret)],
        until: 1000,
        end: ends("Current Expired", &[(0, 300), (0, 300), (0, 300)], [3, 0, 1], &[]),
    },
    Life {
        name: "the Secret is deleted after the expiry",
        world: downloading,
        events: &[(301.0, World::delete_secret)],
        until: 1000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "the Secret is deleted after the upload",
        world: uploading,
        events: &[(100.0, World::put_object), (101.0, World::delete_secret)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300), (0, 300)], [2, 0, 1], &[]),
    },
    Life {
        name: "the Secret is deleted and the grant changed before a reconcile",
        world: downloading,
        events: &[(50.0, |w| {
            w.delete_secret();
            w.edit(|g| g.terms.expiration_seconds = 100);
        })],
        until: 1000,
        end: ends("Current Expired", &[(0, 300), (50, 150)], [2, 0, 1], &[]),
    },
    Life {
        name: "the Secret is deleted and the labels changed before a reconcile",
        world: downloading,
        events: &[(50.0, |w| {
            w.delete_secret();
            w.edit(|g| {
                drop(
                    g.terms
                        .secret_template
                        .get_or_insert_default()
                        .labels
                        .insert("a".into(), "b".into()),
                )
            });
        })],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (0, 300)], [2, 0, 0], &[]),
    },
    Life {
        name: "a longer lifetime is requested after the Secret was deleted",
        world: downloading,
        events: &[
            (50.0, |w| w.store = StoreFact::Missing),
            (60.0, |w| w.edit(|g| g.terms.expiration_seconds = 600)),
            (100.0, |w| w.store = StoreFact::Usable(good_store())),
        ],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (100, 700)], [2, 0, 1], &[]),
    },
    Life {
        name: "a foreign finalizer keeps the Secret while it is deleted",
        world: downloading,
        events: &[
            (50.0, |w| w.edit_secret(|s| s.deleting = true)),
            (80.0, World::delete_secret),
        ],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (0, 300)], [2, 0, 0], &[]),
    },
    Life {
        name: "a longer lifetime is requested",
        world: downloading,
        events: &[(50.5, |w| w.edit(|g| g.terms.expiration_seconds = 600))],
        until: 600,
        end: ends("Current Issued", &[(0, 300), (50, 650)], [1, 1, 0], &[]),
    },
    Life {
        name: "a shorter lifetime is requested",
        world: uploading,
        events: &[(50.0, |w| w.edit(|g| g.terms.expiration_seconds = 60))],
        until: 1000,
        end: ends(
            "Failed ExpiredUnused",
            &[(0, 300), (50, 110)],
            [1, 1, 1],
            &[Reason::ExpiredUnused],
        ),
    },
    Life {
        name: "another lifetime is requested after the expiry",
        world: downloading,
        events: &[(301.0, |w| w.edit(|g| g.terms.expiration_seconds = 600))],
        until: 1000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "the lifetime is changed and changed back before a reconcile",
        world: downloading,
        events: &[(50.0, |w| {
            w.edit(|g| g.terms.expiration_seconds = 600);
            w.edit(|g| g.terms.expiration_seconds = 300);
        })],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "labels for the Secret are requested",
        world: downloading,
        events: &[(50.0, |w| {
            w.edit(|g| {
                let template = g.terms.secret_template.get_or_insert_default();
                template.labels.insert("app".into(), "shop".into());
                template.annotations.insert("note".into(), "x".into());
            });
        })],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "another client removes the labels and the times of the Secret",
        world: downloading,
        events: &[(50.0, |w| {
            w.edit_secret(|s| {
                s.labels.clear();
                s.annotations.remove("valetkey.dev/issued-at");
            });
        })],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (0, 300)], [1, 1, 0], &[]),
    },
    Life {
        name: "a deadline before the expiry",
        world: || with(downloading(), |w| terms(w).deadline_time = Some(Time(at(200)))),
        events: &[],
        until: 1000,
        end: ends("Current Expired", &[(0, 200)], [1, 0, 1], &[]),
    },
    Life {
        name: "a deadline before the creation of a download grant",
        world: || with(downloading(), |w| terms(w).deadline_time = Some(Time(at(-10)))),
        events: &[],
        until: 1000,
        end: ends("Current Expired", &[], [0, 0, 0], &[]),
    },
    Life {
        name: "a deadline before the creation of an upload grant",
        world: || with(uploading(), |w| terms(w).deadline_time = Some(Time(at(0)))),
        events: &[],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[], [0, 0, 0], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "a deadline that is moved to an earlier time",
        world: || with(downloading(), |w| terms(w).deadline_time = Some(Time(at(200)))),
        events: &[(50.0, |w| w.edit(|g| g.terms.deadline_time = Some(Time(at(100)))))],
        until: 1000,
        end: ends("Current Expired", &[(0, 200), (50, 100)], [1, 1, 1], &[]),
    },
    Life {
        name: "a deadline that is moved into the past after an upload",
        world: overwriting,
        events: &[
            (31.0, World::put_object),
            (50.0, |w| w.edit(|g| g.terms.deadline_time = Some(Time(at(40))))),
        ],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a deadline that is extended after it shortened the credential",
        world: || with(downloading(), |w| terms(w).deadline_time = Some(Time(at(200)))),
        events: &[(50.0, |w| w.edit(|g| g.terms.deadline_time = Some(Time(at(1000)))))],
        until: 100,
        end: ends("Current Issued", &[(0, 200)], [1, 0, 0], &[]),
    },
    Life {
        name: "a deadline that is removed",
        world: || with(downloading(), |w| terms(w).deadline_time = Some(Time(at(200)))),
        events: &[(50.0, |w| w.edit(|g| g.terms.deadline_time = None))],
        until: 100,
        end: ends("Current Issued", &[(0, 200)], [1, 0, 0], &[]),
    },
    Life {
        name: "a spec that its schema forbids",
        world: || {
            with(uploading(), |w| {
                w.grant.as_mut().unwrap().broken_rules = vec!["spec.key: no".into()]
            })
        },
        events: &[],
        until: 1000,
        end: ends("Failed InvalidSpec", &[], [0, 0, 0], &[Reason::InvalidSpec]),
    },
    Life {
        name: "the apiserver rejects the Secret and later accepts it",
        world: || with(uploading(), |w| w.refuses = Some("quota".into())),
        events: &[(40.0, |w| w.refuses = None)],
        until: 200,
        end: ends("Current Issued", &[(64, 364)], [1, 0, 0], &[]),
    },
];

/// If the Secret cannot be replaced after a change of the spec, Valet deletes it and creates it again. This life is
/// not in the table, because a crash moves the retry by a second.
#[test]
fn secret_that_cannot_be_replaced_is_recreated_after_spec_change() {
    let life = Life {
        name: "a Secret that cannot be replaced after a spec change",
        world: downloading,
        events: &[(50.0, |w| {
            w.refuses_replacement = true;
            w.edit(|g| g.terms.expiration_seconds = 600);
        })],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (51, 651)], [2, 0, 1], &[]),
    };
    for memory in [Memory::Grant, Memory::Caches, Memory::Secret] {
        life.expect(&play(&life, memory, None, SignedDuration::ZERO), true);
    }
}
