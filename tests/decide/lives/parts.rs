//! Simulated lives of multipart uploads. They show which uploads Valet completes, and that it aborts all others.

use jiff::SignedDuration;
use valet::{
    api::{DownloadGrant, MULTIPART_FINALIZER, Reason},
    core::{GrantFacts, StoreFact},
};

use super::{ends, good_store, old_object, terms, unusable, with};
use crate::{
    checks::{condition, ready},
    common::{at, download, in_parts, renew_always, rule, store, upload},
    play::{Life, end, play},
    world::{Bucket, Memory, THEIRS, Upload, World},
};

fn uploading() -> World {
    with(World::new(in_parts(), store([rule()])), |w| {
        // A multipart upload of another client for the same object key. It must never be aborted.
        w.uploads.push(Upload {
            id: THEIRS.into(),
            initiated: at(-3600),
            parts: vec![],
        });
    })
}

fn send(world: &mut World, parts: &[i64]) {
    for n in parts {
        world.put_part(*n, 0);
    }
}

pub static PARTS: &[Life] = &[
    Life {
        name: "a multipart upload with all parts",
        world: uploading,
        events: &[(10.0, |w| send(w, &[2, 3])), (20.0, |w| send(w, &[1]))],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "and the finished grant with a multipart upload is deleted",
        world: uploading,
        events: &[(10.0, |w| send(w, &[1, 2, 3]))],
        until: 5000,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a multipart upload without any part",
        world: uploading,
        events: &[],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "a multipart upload with a missing part",
        world: uploading,
        events: &[(10.0, |w| send(w, &[1, 3]))],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "the last part arrives between the last poll and the expiry",
        world: uploading,
        events: &[(10.0, |w| send(w, &[1, 2])), (299.5, |w| send(w, &[3]))],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a part that is too short and is uploaded again",
        world: uploading,
        events: &[
            (10.0, |w| {
                send(w, &[1, 2]);
                w.put_part(3, -1);
            }),
            (100.0, |w| send(w, &[3])),
        ],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a part that is too long and is not uploaded again",
        world: uploading,
        events: &[(10.0, |w| {
            send(w, &[1, 2]);
            w.put_part(3, 1);
        })],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "a write-once multipart upload for an existing object",
        world: || with(uploading(), |w| w.bucket = old_object()),
        events: &[],
        until: 1000,
        end: ends("Current ObjectExists", &[], [0, 0, 0], &[]),
    },
    Life {
        name: "a write-once multipart upload for an object that another client creates first",
        world: uploading,
        events: &[
            (10.0, World::put_object),
            (11.0, |w| w.bucket = old_object()),
            (12.0, |w| send(w, &[1, 2, 3])),
        ],
        until: 1000,
        end: ends("Current ObjectExists", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "an upload that a lifecycle rule aborts",
        world: uploading,
        events: &[
            (10.0, |w| send(w, &[1, 2])),
            (100.0, |w| w.uploads.retain(|u| u.id == THEIRS)),
        ],
        until: 1000,
        end: ends("Failed UploadAborted", &[(0, 300)], [1, 0, 1], &[Reason::UploadAborted]),
    },
    Life {
        name: "the grant is deleted after some of the parts",
        world: uploading,
        events: &[(10.0, |w| send(w, &[1, 2])), (20.0, World::delete)],
        until: 1000,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "the grant is deleted after all parts arrived and before a poll",
        world: uploading,
        events: &[(31.0, |w| send(w, &[1, 2, 3])), (32.0, World::delete)],
        until: 1000,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "the grant is deleted while the store is unreachable for a minute",
        world: uploading,
        events: &[
            (10.0, |w| send(w, &[1, 2])),
            (15.0, |w| w.bucket = Bucket::Down),
            (20.0, World::delete),
            (80.0, |w| w.bucket = Bucket::Empty),
        ],
        until: 1000,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "the grant is deleted while the store stays unreachable",
        world: uploading,
        events: &[
            (10.0, |w| send(w, &[1, 2])),
            (15.0, |w| w.bucket = Bucket::Down),
            (20.0, World::delete),
        ],
        until: 1000,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[Reason::PartsLeft]),
    },
    Life {
        name: "the grant is deleted after its store",
        world: uploading,
        events: &[
            (10.0, |w| send(w, &[1, 2])),
            (15.0, |w| w.store = StoreFact::Missing),
            (20.0, World::delete),
        ],
        until: 100,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[Reason::PartsLeft]),
    },
    Life {
        name: "the store is unreachable at the expiry and returns",
        world: uploading,
        events: &[
            (10.0, |w| send(w, &[1, 2, 3])),
            (10.5, |w| w.bucket = Bucket::Down),
            (600.0, |w| w.bucket = Bucket::Empty),
        ],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[Reason::StoreUnreachable]),
    },
    Life {
        name: "the store is unreachable at the expiry and does not return",
        world: uploading,
        events: &[(10.0, |w| send(w, &[1, 2])), (10.5, |w| w.bucket = Bucket::Down)],
        until: 20_000,
        end: ends(
            "gone",
            &[(0, 300)],
            [1, 0, 1],
            &[Reason::StoreUnreachable, Reason::PartsLeft],
        ),
    },
    Life {
        name: "suspended after some of the parts, and resumed",
        world: uploading,
        events: &[
            (10.0, |w| send(w, &[1, 2])),
            (20.0, |w| w.edit(|g| g.terms.suspend = Some(true))),
            (100.0, |w| w.edit(|g| g.terms.suspend = None)),
            (110.0, |w| send(w, &[3])),
        ],
        until: 1000,
        end: ends("Current Completed", &[(0, 300), (0, 300)], [2, 0, 2], &[]),
    },
    Life {
        name: "suspended after all parts, until the expiry",
        world: uploading,
        events: &[
            (31.0, |w| send(w, &[1, 2, 3])),
            (32.0, |w| w.edit(|g| g.terms.suspend = Some(true))),
        ],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "revoked after some of the parts",
        world: uploading,
        events: &[
            (10.0, |w| send(w, &[1, 2])),
            (20.0, |w| w.edit(|g| g.terms.revoke = Some(true))),
        ],
        until: 1000,
        end: ends("Current Revoked", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "the access rule is removed after all parts",
        world: uploading,
        events: &[
            (31.0, |w| w.store = StoreFact::Usable(store([]))),
            (32.0, |w| send(w, &[1, 2, 3])),
        ],
        until: 1000,
        end: ends(
            "Current Expired",
            &[(0, 300)],
            [1, 0, 1],
            &[Reason::NamespaceNotAllowed],
        ),
    },
    Life {
        name: "the Secret of a multipart upload is deleted by another client",
        world: uploading,
        events: &[
            (10.0, |w| send(w, &[1, 2])),
            (20.0, World::delete_secret),
            (30.0, |w| send(w, &[3])),
        ],
        until: 1000,
        end: ends("Current Completed", &[(0, 300), (0, 300)], [2, 0, 1], &[]),
    },
    Life {
        name: "a multipart upload with a renewed credential",
        world: || {
            with(uploading(), |w| {
                renew_always(w.grant.as_mut().unwrap());
                terms(w).expiration_seconds = 600;
            })
        },
        events: &[(10.0, |w| send(w, &[1, 2])), (500.0, |w| send(w, &[3]))],
        until: 1000,
        end: ends("Current Completed", &[(0, 600), (367, 967)], [1, 1, 1], &[]),
    },
    Life {
        name: "a multipart upload while the store is not usable yet",
        world: || with(uploading(), |w| w.store = unusable(Reason::CredentialsNotFound)),
        events: &[
            (10.0, |w| w.store = StoreFact::Usable(good_store())),
            (20.0, |w| send(w, &[1, 2, 3])),
        ],
        until: 1000,
        end: ends(
            "Current Completed",
            &[(10, 310)],
            [1, 0, 1],
            &[Reason::CredentialsNotFound],
        ),
    },
];

/// If the process crashes after it initiated a multipart upload and before it wrote the Secret, the upload is
/// orphaned. Valet aborts the orphan at the end of the grant and keeps uploads of other clients.
#[test]
fn multipart_upload_orphaned_by_a_crash_is_aborted() {
    for (last, parts) in [("Completed", &[1, 2, 3][..]), ("ExpiredUnused", &[1])] {
        let mut world = uploading();
        world.now = at(1);
        world.begin();
        let mut wake = world.reconcile();
        assert_eq!((ready(world.grant()), world.uploads.len()), ("Issued", 3));
        send(&mut world, parts);
        // The first of these uploads is older than the grant. The second already has a part.
        for (initiated, has_part) in [(-3600, false), (1, true)] {
            let id = world.begin();
            let upload = world.uploads.last_mut().unwrap();
            upload.initiated = at(initiated);
            if has_part {
                upload.parts = vec![valet::core::ArrivedPart {
                    number: 1,
                    size: 1,
                    e_tag: id,
                }];
            }
        }
        while world.grant().status.finished_time.is_none() {
            world.now = wake.unwrap();
            wake = world.reconcile();
        }
        assert_eq!(ready(world.grant()), last);
        let left: Vec<_> = world
            .uploads
            .iter()
            .map(|u| u.initiated.as_second() - at(0).as_second())
            .collect();
        assert_eq!(left, [-3600, -3600, 1]);
        assert!(!world.grant().held);
    }
}

/// Any user can add the multipart upload finalizer, also to a grant of another mode or to a refused grant. Valet then
/// removes the finalizer and does not abort uploads of other clients.
#[test]
fn forged_finalizer_leads_to_no_abort_of_a_foreign_upload() {
    for (what, mut world) in [
        ("a download", World::new(download(), store([rule()]))),
        ("an upload in one request", World::new(upload(), store([rule()]))),
        ("parts that no rule allows", World::new(in_parts(), store([]))),
    ] {
        world.edit(|g| g.held = true);
        world.reconcile();
        world.now = at(5);
        world.begin();
        world.delete();
        while let Some(wake) = world.reconcile().filter(|_| world.grant.is_some()) {
            world.now = wake;
        }
        assert!(world.grant.is_none(), "{what}: the finalizer was not removed");
        assert_eq!(world.uploads.len(), 1, "{what}");
    }
    // Valet may not remove finalizers from a DownloadGrant, and does not try.
    let grant: DownloadGrant = serde_json::from_value(serde_json::json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": "DownloadGrant",
        "metadata": {"name": "d", "namespace": "web", "finalizers": [MULTIPART_FINALIZER]},
        "spec": {"storeRef": {"name": "media"}, "key": "a"},
    }))
    .unwrap();
    assert!(!GrantFacts::of(&grant).held);
}

/// If another operator completes the multipart upload between two steps of this operator, the grant still becomes
/// `Completed`.
#[test]
fn upload_completed_by_another_operator_completes_the_grant() {
    let mut ends = vec![];
    for memory in [Memory::Grant, Memory::Caches, Memory::Secret] {
        for step in 0..7 {
            let mut world = uploading();
            world.memory = memory;
            world.reconcile();
            send(&mut world, &[1, 2, 3]);
            world.now = at(2);
            let mut steps = 0;
            world.meddler = Some(Box::new(move |w: &mut World| {
                if let Some(n) = w
                    .uploads
                    .iter()
                    .position(|u| u.parts.len() == 3)
                    .filter(|_| steps == step)
                {
                    w.uploads.remove(n);
                    w.bucket = Bucket::Holds {
                        since: at(0),
                        says_when: true,
                    };
                }
                steps += 1;
            }));
            world.reconcile();
            assert_eq!(ready(world.grant()), "Completed", "{memory:?}, after step {step}");
            ends.push(world.uploads.len());
        }
    }
    assert!(ends.iter().all(|left| *left == 1), "{ends:?}");
}

/// For a moment a store can list both the multipart upload and its completed object. Valet does not treat this object
/// as a conflict.
#[test]
fn object_of_an_upload_in_completion_is_no_conflict() {
    for (age, reason) in [(0, "Issued"), (9, "Issued"), (11, "ObjectExists")] {
        let mut world = uploading();
        world.reconcile();
        send(&mut world, &[1, 2, 3]);
        world.now = at(20);
        world.bucket = Bucket::Holds {
            since: at(20 - age),
            says_when: true,
        };
        let wake = world.reconcile();
        assert_eq!(ready(world.grant()), reason, "{age} s");
        if reason == "Issued" {
            // The next poll is at 30 s. By then the store no longer lists the multipart upload.
            assert_eq!(wake, Some(at(30)));
            world.uploads.retain(|u| u.id == THEIRS);
            world.now = at(30);
            world.reconcile();
            assert_eq!(ready(world.grant()), "Completed");
        }
    }
}

/// A deleted grant waits at most five minutes for a store that does not answer.
#[test]
fn deletion_waits_at_most_five_minutes_for_the_store() {
    let mut world = uploading();
    world.reconcile();
    world.bucket = Bucket::Down;
    world.now = at(10);
    world.delete();
    let mut polls = vec![];
    let mut wake = world.reconcile();
    while world.grant.is_some() {
        world.now = wake.expect("it tries again");
        polls.push(world.now.as_second() - at(10).as_second());
        wake = world.reconcile();
    }
    assert_eq!(world.notices, [Reason::PartsLeft]);
    assert!((300..360).contains(polls.last().unwrap()), "{polls:?}");
    assert!(polls.len() < 15, "{polls:?}");
}

/// Checks the texts of the conditions of a multipart upload.
#[test]
fn multipart_upload_conditions_have_the_expected_texts() {
    let mut world = uploading();
    world.reconcile();
    let says = |world: &World, type_: &str| condition(&world.grant().status, type_).unwrap().message.clone();
    send(&mut world, &[1, 2]);
    world.put_part(3, 1);
    world.now = at(2);
    world.reconcile();
    assert_eq!(
        says(&world, "Completed"),
        "part 3 has 8214 bytes, but at most 8213 bytes are allowed; upload part 3 again"
    );
    world.now = at(300);
    world.reconcile();
    assert_eq!(
        says(&world, "Ready"),
        "the credential expired at 2027-01-15T08:05:00Z; the multipart upload was aborted, because its parts did \
         not form a complete object (uploaded parts: 3; part URLs of the grant: 3); create a new grant"
    );

    let revoked = Life {
        name: "revoked",
        world: uploading,
        events: &[(20.0, |w| w.edit(|g| g.terms.revoke = Some(true)))],
        until: 30,
        end: ends("Current Revoked", &[(0, 300)], [1, 0, 1], &[]),
    };
    let world = play(&revoked, Memory::Grant, None, SignedDuration::ZERO);
    assert!(
        says(&world, "Ready")
            .contains("Valet aborts the multipart upload; copies of the part URLs do not work after the abort")
    );
    assert_eq!(end(&world).left, 0);
}
