//! Simulated lives of grants without faults or unusual events.

use valet::api::Reason;

use super::{downloading, ends, old_object, overwriting, terms, uploading, with};
use crate::{
    play::Life,
    world::{Bucket, World},
};

pub static ORDINARY: &[Life] = &[
    Life {
        name: "an upload grant without an upload",
        world: uploading,
        events: &[],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "and the finished grant is deleted an hour later",
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
        name: "an upload that arrives in the first second of the credential",
        world: uploading,
        events: &[(0.25, World::put_object)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "an upload that arrives before the status is written",
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
        name: "an upload that arrives between the last poll and the expiry",
        world: uploading,
        events: &[(299.5, World::put_object)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "an upload that replaces an old object",
        world: || with(overwriting(), |w| w.bucket = old_object()),
        events: &[(100.0, World::put_object)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "an overwriting upload grant without an upload",
        world: || with(overwriting(), |w| w.bucket = old_object()),
        events: &[],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "a write-once upload for an existing object",
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
        name: "a download, and the finished grant is deleted",
        world: downloading,
        events: &[],
        until: 3902,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "kept forever because of its own TTL",
        world: || with(downloading(), |w| terms(w).ttl_seconds_after_finished = Some(None)),
        events: &[],
        until: 100_000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "deleted at once because of its own TTL, although a GitOps tool tracks it",
        world: || {
            with(downloading(), |w| {
                terms(w).ttl_seconds_after_finished = Some(Some(0));
                w.grant.as_mut().unwrap().gitops_tool = Some("Flux");
            })
        },
        events: &[],
        until: 301,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "kept because a GitOps tool tracks it",
        world: || {
            with(downloading(), |w| {
                w.grant.as_mut().unwrap().gitops_tool = Some("Argo CD")
            })
        },
        events: &[],
        until: 100_000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "kept because the operator keeps all grants",
        world: || with(downloading(), |w| w.settings.ttl_seconds_after_finished = None),
        events: &[],
        until: 100_000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "kept, and later deleted because the TTL was changed",
        world: || with(downloading(), |w| terms(w).ttl_seconds_after_finished = Some(None)),
        events: &[(900.0, |w| {
            w.edit(|g| g.terms.ttl_seconds_after_finished = Some(Some(60)))
        })],
        until: 901,
        end: ends("gone", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "deleted while the credential is valid",
        world: uploading,
        events: &[(50.0, |w| w.grant.as_mut().unwrap().deleting = true)],
        until: 1000,
        end: ends("Terminating Deleting", &[(0, 300)], [1, 0, 1], &[]),
    },
];
