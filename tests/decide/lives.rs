//! The table of lives. Each is played with either memory, on time and late, and with a crash before and after every
//! step: always to the same end, with the same keys and the same number of creates and deletes.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use valet::{
    api::{Overwrite, Reason},
    grant::{Owner, StoreFact, StoreView},
};

use crate::{
    common::{TICK, at, constrain, download, rule, store, upload},
    play::{Expect, Life, end, play, with_each},
    world::{Bucket, Memory, World},
};

fn uploading() -> World {
    World::new(upload(), store([rule()]))
}

fn downloading() -> World {
    World::new(download(), store([rule()]))
}

fn overwriting() -> World {
    let mut world = uploading();
    constrain(world.grant.as_mut().unwrap(), |c| c.overwrite = Overwrite::Allow);
    world
}

fn with(mut world: World, change: impl FnOnce(&mut World)) -> World {
    change(&mut world);
    world
}

fn unusable(reason: Reason) -> StoreFact {
    StoreFact::Unusable {
        reason,
        message: "it is not well".into(),
    }
}

fn good_store() -> StoreView {
    store([rule()])
}

const fn ends(
    state: &'static str,
    keys: &'static [(i64, i64)],
    writes: [usize; 3],
    notices: &'static [Reason],
) -> Expect {
    Expect {
        state,
        keys,
        writes,
        notices,
    }
}

static ORDINARY: &[Life] = &[
    Life {
        name: "an upload that nobody makes",
        world: uploading,
        events: &[],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "and is collected an hour later",
        world: uploading,
        events: &[],
        until: 3902,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "an upload that arrives",
        world: uploading,
        events: &[(100.5, World::put_object)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "an upload that arrives in the key's first second",
        world: uploading,
        events: &[(0.25, World::put_object)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "an upload that arrives before the operator can report the key",
        world: || {
            with(uploading(), |w| {
                w.meddler = Some(Box::new(|w: &mut World| {
                    if w.counts.creates == 1 && matches!(w.bucket, Bucket::Empty) {
                        w.put_object();
                    }
                }));
            })
        },
        events: &[],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "an upload that arrives between the last look and the end",
        world: uploading,
        events: &[(299.5, World::put_object)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "an upload over an old object that arrives",
        world: || with(overwriting(), |w| w.bucket = old_object()),
        events: &[(100.0, World::put_object)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "an upload over an old object that never comes",
        world: || with(overwriting(), |w| w.bucket = old_object()),
        events: &[],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "a write-once upload of what is there already",
        world: || with(uploading(), |w| w.bucket = old_object()),
        events: &[],
        until: 1000,
        end: ends("Current ObjectExists", &[], [0, 0, 0], &[]),
    },
    Life {
        name: "a download",
        world: downloading,
        events: &[],
        until: 1000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a download, collected",
        world: downloading,
        events: &[],
        until: 3902,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "kept for good by its own word",
        world: || with(downloading(), |w| spec(w).ttl_seconds_after_finished = Some(None)),
        events: &[],
        until: 100_000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "collected at once by its own word, although it is tracked",
        world: || {
            with(downloading(), |w| {
                spec(w).ttl_seconds_after_finished = Some(Some(0));
                w.grant.as_mut().unwrap().tracked_by = Some("Flux");
            })
        },
        events: &[],
        until: 301,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "kept because it is tracked",
        world: || {
            with(downloading(), |w| {
                w.grant.as_mut().unwrap().tracked_by = Some("Argo CD")
            })
        },
        events: &[],
        until: 100_000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "kept because the operator keeps all",
        world: || with(downloading(), |w| w.settings.ttl_seconds_after_finished = None),
        events: &[],
        until: 100_000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "kept, then told to go",
        world: || with(downloading(), |w| spec(w).ttl_seconds_after_finished = Some(None)),
        events: &[(900.0, |w| {
            w.edit(|g| g.terms.ttl_seconds_after_finished = Some(Some(60)))
        })],
        until: 901,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "deleted in the middle",
        world: uploading,
        events: &[(50.0, |w| w.grant.as_mut().unwrap().deleting = true)],
        until: 1000,
        end: ends("Terminating Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
];

static SPEC_AND_SECRET: &[Life] = &[
    Life {
        name: "the Secret is deleted and comes back with the same key",
        world: downloading,
        events: &[(50.0, World::delete_secret), (60.5, World::delete_secret)],
        until: 1000,
        end: ends("Current Expired", &[(0, 300), (0, 300), (0, 300)], [3, 0, 1], &[]),
    },
    Life {
        name: "the Secret is deleted after its key's end",
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
        name: "the Secret is deleted and the grant changed before anybody looks",
        world: downloading,
        events: &[(50.0, |w| {
            w.delete_secret();
            w.edit(|g| g.terms.expiration_seconds = 100);
        })],
        until: 1000,
        end: ends("Current Expired", &[(0, 300), (50, 150)], [2, 0, 1], &[]),
    },
    Life {
        name: "somebody holds the Secret while it is deleted",
        world: downloading,
        events: &[
            (50.0, |w| w.edit_secret(|s| s.deleting = true)),
            (80.0, World::delete_secret),
        ],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (0, 300)], [2, 0, 0], &[]),
    },
    Life {
        name: "a longer life is asked for",
        world: downloading,
        events: &[(50.5, |w| w.edit(|g| g.terms.expiration_seconds = 600))],
        until: 600,
        end: ends("Current Issued", &[(0, 300), (50, 650)], [1, 1, 0], &[]),
    },
    Life {
        name: "a shorter life is asked for",
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
        name: "another life is asked for when it is over",
        world: downloading,
        events: &[(301.0, |w| w.edit(|g| g.terms.expiration_seconds = 600))],
        until: 1000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "the life is changed and changed back before anybody looks",
        world: downloading,
        events: &[(50.0, |w| {
            w.edit(|g| g.terms.expiration_seconds = 600);
            w.edit(|g| g.terms.expiration_seconds = 300);
        })],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "labels for the Secret are asked for",
        world: downloading,
        events: &[(50.0, |w| {
            w.edit(|g| {
                let template = g.terms.secret_template.get_or_insert_default();
                template.labels.insert("app".into(), "shop".into());
                template.annotations.insert("example.com/note".into(), "x".into());
            });
        })],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "somebody strips the Secret's label and the times",
        world: downloading,
        events: &[(50.0, |w| {
            w.edit_secret(|s| {
                s.labels.clear();
                s.annotations.remove("valetkey.dev/issued-at");
            });
        })],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "a deadline before the end",
        world: || with(downloading(), |w| spec(w).deadline_time = Some(Time(at(200)))),
        events: &[],
        until: 1000,
        end: ends("Current Expired", &[(0, 200)], [1, 0, 1], &[]),
    },
    Life {
        name: "a deadline before the grant",
        world: || with(downloading(), |w| spec(w).deadline_time = Some(Time(at(-10)))),
        events: &[],
        until: 1000,
        end: ends("Current Expired", &[], [0, 0, 0], &[]),
    },
    Life {
        name: "a deadline before an upload grant",
        world: || with(uploading(), |w| spec(w).deadline_time = Some(Time(at(0)))),
        events: &[],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[], [0, 0, 0], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "a deadline that is pulled in",
        world: || with(downloading(), |w| spec(w).deadline_time = Some(Time(at(200)))),
        events: &[(50.0, |w| w.edit(|g| g.terms.deadline_time = Some(Time(at(100)))))],
        until: 1000,
        end: ends("Current Expired", &[(0, 200), (50, 100)], [1, 1, 1], &[]),
    },
    Life {
        name: "a deadline that is pulled into the past, after an upload",
        world: overwriting,
        events: &[
            (31.0, World::put_object),
            (50.0, |w| w.edit(|g| g.terms.deadline_time = Some(Time(at(40))))),
        ],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a deadline that is put off: the key that it cut stays as it is",
        world: || with(downloading(), |w| spec(w).deadline_time = Some(Time(at(200)))),
        events: &[(50.0, |w| w.edit(|g| g.terms.deadline_time = Some(Time(at(1000)))))],
        until: 100,
        end: ends("Current Issued", &[(0, 200)], [1, 0, 0], &[]),
    },
    Life {
        name: "a deadline that is taken away",
        world: || with(downloading(), |w| spec(w).deadline_time = Some(Time(at(200)))),
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
        name: "the apiserver takes no Secret, then does",
        world: || with(uploading(), |w| w.refuses = Some("quota".into())),
        events: &[(40.0, |w| w.refuses = None)],
        until: 200,
        end: ends("Current Issued", &[(64, 364)], [1, 0, 0], &[]),
    },
];

static STRANGERS: &[Life] = &[
    Life {
        name: "a foreign Secret",
        world: || with(uploading(), |w| w.plant(Owner::Foreign("it has no owner"))),
        events: &[],
        until: 5000,
        end: ends("Failed SecretConflict", &[], [0, 0, 0], &[Reason::SecretConflict]),
    },
    Life {
        name: "a foreign Secret that goes",
        world: || with(uploading(), |w| w.plant(Owner::Foreign("its type is Opaque"))),
        events: &[(100.0, World::delete_secret)],
        until: 200,
        end: ends("Current Issued", &[(100, 400)], [1, 0, 0], &[Reason::SecretConflict]),
    },
    Life {
        name: "a foreign Secret in the place of ours",
        world: downloading,
        events: &[
            (50.0, |w| w.plant(Owner::Foreign("its owner is another grant"))),
            (100.0, World::delete_secret),
        ],
        until: 200,
        end: ends(
            "Current Issued",
            &[(0, 300), (0, 300)],
            [2, 0, 0],
            &[Reason::SecretConflict],
        ),
    },
    Life {
        name: "a foreign Secret in the place of ours, beyond the key's end",
        world: downloading,
        events: &[
            (50.0, |w| w.plant(Owner::Foreign("its owner is another grant"))),
            (400.0, World::delete_secret),
        ],
        until: 1000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 0], &[Reason::SecretConflict]),
    },
    Life {
        name: "a predecessor's Secret that is collected",
        world: || with(uploading(), |w| w.plant(Owner::Predecessor)),
        events: &[(20.0, World::delete_secret)],
        until: 200,
        end: ends("Current Issued", &[(20, 320)], [1, 0, 0], &[]),
    },
    Life {
        name: "a predecessor's Secret that stays",
        world: || with(uploading(), |w| w.plant(Owner::Predecessor)),
        events: &[],
        until: 1000,
        end: ends("Failed SecretConflict", &[], [0, 0, 0], &[Reason::SecretConflict]),
    },
    Life {
        name: "a finished grant and a foreign Secret",
        world: downloading,
        events: &[(400.0, |w| w.plant(Owner::Foreign("it has no owner")))],
        until: 3902,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[]),
    },
];

static STORES: &[Life] = &[
    Life {
        name: "a store that comes late",
        world: || with(uploading(), |w| w.store = StoreFact::Missing),
        events: &[(40.0, |w| w.store = StoreFact::Usable(good_store()))],
        until: 200,
        end: ends("Current Issued", &[(40, 340)], [1, 0, 0], &[]),
    },
    Life {
        name: "a store without credentials at first",
        world: || with(uploading(), |w| w.store = unusable(Reason::CredentialsNotFound)),
        events: &[(40.0, |w| w.store = StoreFact::Usable(good_store()))],
        until: 200,
        end: ends(
            "Current Issued",
            &[(40, 340)],
            [1, 0, 0],
            &[Reason::CredentialsNotFound],
        ),
    },
    Life {
        name: "a store that is set up wrong",
        world: || with(uploading(), |w| w.store = unusable(Reason::InvalidStore)),
        events: &[],
        until: 1000,
        end: ends("Failed InvalidStore", &[], [0, 0, 0], &[Reason::InvalidStore]),
    },
    Life {
        name: "a store that is deleted under a key, and made again",
        world: downloading,
        events: &[
            (50.0, |w| w.store = StoreFact::Missing),
            (100.0, |w| w.store = StoreFact::Usable(good_store())),
        ],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (0, 300)], [2, 0, 1], &[]),
    },
    Life {
        name: "a store that is deleted under a key, for good",
        world: uploading,
        events: &[(50.0, |w| w.store = StoreFact::Missing)],
        until: 1000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a store that is unusable for a while under a key",
        world: uploading,
        events: &[
            (50.0, |w| w.store = unusable(Reason::CredentialsExpired)),
            (100.0, |w| w.store = StoreFact::Usable(good_store())),
        ],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "a store that is unusable at the key's end, and looks after it",
        world: uploading,
        events: &[
            (50.0, |w| w.store = unusable(Reason::StoreUnreachable)),
            (60.0, World::put_object),
            (400.0, |w| w.store = StoreFact::Usable(good_store())),
        ],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[Reason::StoreUnreachable]),
    },
    Life {
        name: "a store that is unusable for good",
        world: uploading,
        events: &[(50.0, |w| w.store = unusable(Reason::StoreUnreachable))],
        until: 3900 + 62,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[Reason::StoreUnreachable]),
    },
    Life {
        name: "a longer life is asked for while the store is unusable",
        world: downloading,
        events: &[
            (50.0, |w| w.store = unusable(Reason::CredentialsNotFound)),
            (60.0, |w| w.edit(|g| g.terms.expiration_seconds = 600)),
            (100.0, |w| w.store = StoreFact::Usable(good_store())),
        ],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (100, 700)], [1, 1, 0], &[]),
    },
    Life {
        name: "credentials that end before the key",
        world: || with(uploading(), |w| w.usable(|s| s.credentials_expire = Some(at(105)))),
        events: &[],
        until: 90,
        end: ends("Current Issued", &[(0, 100)], [1, 0, 0], &[Reason::ExpiryTruncated]),
    },
    Life {
        name: "credentials that are over, then renewed",
        world: || with(uploading(), |w| w.usable(|s| s.credentials_expire = Some(at(3)))),
        events: &[(40.0, |w| w.usable(|s| s.credentials_expire = Some(at(10_000))))],
        until: 200,
        end: ends("Current Issued", &[(40, 340)], [1, 0, 0], &[Reason::CredentialsExpired]),
    },
    Life {
        name: "credentials that got worse before the Secret was deleted",
        world: downloading,
        events: &[(50.0, |w| {
            w.usable(|s| s.credentials_expire = Some(at(205)));
            w.delete_secret();
        })],
        until: 100,
        end: ends(
            "Current Issued",
            &[(0, 300), (0, 200)],
            [2, 0, 0],
            &[Reason::ExpiryTruncated],
        ),
    },
    Life {
        name: "a rule that is narrowed under a key and widened again",
        world: downloading,
        events: &[
            (50.0, |w| w.store = StoreFact::Usable(store([]))),
            (100.0, |w| w.store = StoreFact::Usable(good_store())),
        ],
        until: 1000,
        end: ends(
            "Current Expired",
            &[(0, 300), (0, 300)],
            [2, 0, 2],
            &[Reason::NamespaceNotAllowed],
        ),
    },
    Life {
        name: "a rule that is narrowed for good",
        world: uploading,
        events: &[(50.0, |w| w.store = StoreFact::Usable(store([])))],
        until: 1000,
        end: ends(
            "Failed ExpiredUnused",
            &[(0, 300)],
            [1, 0, 1],
            &[Reason::NamespaceNotAllowed, Reason::ExpiredUnused],
        ),
    },
    Life {
        name: "a grant that no rule allows",
        world: || with(uploading(), |w| w.store = StoreFact::Usable(store([]))),
        events: &[],
        until: 100_000,
        end: ends(
            "Failed NamespaceNotAllowed",
            &[],
            [0, 0, 0],
            &[Reason::NamespaceNotAllowed],
        ),
    },
];

fn spec(world: &mut World) -> &mut valet::api::Terms {
    &mut world.grant.as_mut().unwrap().terms
}

fn old_object() -> Bucket {
    Bucket::Holds {
        since: at(-1000),
        says_when: true,
    }
}

pub fn all() -> impl Iterator<Item = &'static Life> {
    [ORDINARY, SPEC_AND_SECRET, STRANGERS, STORES, crate::looks::LOOKS]
        .into_iter()
        .flatten()
}

#[test]
fn every_life_comes_to_its_end() {
    with_each(all(), |life| {
        for memory in [Memory::Grant, Memory::Caches] {
            for late in [SignedDuration::ZERO, TICK, SignedDuration::from_millis(999)] {
                eprintln!("{}: {memory:?}, woken {late:?} late", life.name);
                life.expect(&play(life, memory, None, late), late.is_zero());
            }
        }
    });
}

#[test]
fn a_crash_at_any_step_changes_nothing() {
    let crashes = std::cell::Cell::new(0);
    with_each(all(), |life| {
        for memory in [Memory::Grant, Memory::Caches] {
            let whole = play(life, memory, None, SignedDuration::ZERO);
            // What is decided and not done is nothing: to die before a step is to die after the one before.
            for n in 0..whole.steps {
                eprintln!("{}: {memory:?}, dies after step {n}", life.name);
                let world = play(life, memory, Some(n), SignedDuration::ZERO);
                assert_eq!(end(&world), end(&whole));
                crashes.set(crashes.get() + 1);
            }
        }
    });
    assert!(
        crashes.get() > 1000,
        "only {crashes:?}: does the table still hold the lives?"
    );
}
