//! Simulated lives of grants in which the store hides the object, does not answer, or returns incomplete data.

use valet::{
    api::{Overwrite, Reason},
    core::StoreFact,
};

use super::{ends, good_store, unusable};
use crate::{
    common::{at, constrain, rule, store, upload},
    play::Life,
    world::{Bucket, World},
};

fn with_bucket(bucket: Bucket) -> World {
    let mut world = World::new(upload(), store([rule()]));
    world.bucket = bucket;
    world
}

const UNREACHABLE: &[Reason] = &[Reason::StoreUnreachable];

/// Another client writes an object whose size differs from the grant's.
fn put_another(w: &mut World) {
    constrain(w.grant.as_mut().unwrap(), |c| c.content_length = Some(1));
    w.put_object();
}

const UNUSED: &[Reason] = &[Reason::ExpiredUnused];

pub static POLLING: &[Life] = &[
    // Valet polls 60, 300 and 900 seconds after the credential has expired.
    Life {
        name: "an upload that is complete only after the expiry",
        world: || with_bucket(Bucket::Empty),
        events: &[(310.0, World::put_object)],
        until: 361,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], UNUSED),
    },
    Life {
        name: "an upload that is complete just before the last late poll",
        world: || with_bucket(Bucket::Empty),
        events: &[(1199.0, World::put_object)],
        until: 1202,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], UNUSED),
    },
    Life {
        name: "an upload that is complete after the last late poll",
        world: || with_bucket(Bucket::Empty),
        events: &[(1202.0, World::put_object)],
        until: 3000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], UNUSED),
    },
    Life {
        name: "a store that is unreachable when an upload arrives late",
        world: || with_bucket(Bucket::Empty),
        events: &[(350.0, |w| w.bucket = Bucket::Down), (500.0, World::put_object)],
        until: 700,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], UNUSED),
    },
    Life {
        name: "a store whose credentials are missing when an upload arrives late",
        world: || with_bucket(Bucket::Empty),
        events: &[
            (310.0, |w| w.store = unusable(Reason::CredentialsNotFound)),
            (400.0, World::put_object),
            (500.0, |w| w.store = StoreFact::Usable(good_store())),
        ],
        until: 700,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], UNUSED),
    },
    Life {
        name: "an object that arrives late and does not match the grant",
        world: || with_bucket(Bucket::Empty),
        events: &[(310.0, put_another)],
        until: 3000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], UNUSED),
    },
    Life {
        name: "a store that hides the object",
        world: || with_bucket(Bucket::Hidden),
        events: &[],
        until: 1000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a store that hides the object for a while",
        world: || with_bucket(Bucket::Hidden),
        events: &[(100.0, World::put_object)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a store that does not answer at first",
        world: || with_bucket(Bucket::Down),
        events: &[(30.0, |w| w.bucket = Bucket::Empty)],
        until: 200,
        // Valet retries 1, 2, 4, 8, 16 and 32 seconds after the first attempt.
        end: ends("Current Issued", &[(32, 332)], [1, 0, 0], UNREACHABLE),
    },
    Life {
        name: "a store that does not answer at first, and then has the object",
        world: || with_bucket(Bucket::Down),
        events: &[(30.0, World::put_object)],
        until: 200,
        end: ends("Current ObjectExists", &[], [0, 0, 0], UNREACHABLE),
    },
    Life {
        name: "a store that does not answer, and whose answer is not needed to overwrite",
        world: || {
            let mut world = with_bucket(Bucket::Down);
            constrain(world.grant.as_mut().unwrap(), |c| c.overwrite = Overwrite::Allow);
            world
        },
        events: &[],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "a store that does not answer for a while after the issue",
        world: || with_bucket(Bucket::Empty),
        events: &[(10.0, |w| w.bucket = Bucket::Down), (100.0, World::put_object)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a store that does not answer at the expiry, and then has the object",
        world: || with_bucket(Bucket::Empty),
        events: &[
            (290.0, |w| w.bucket = Bucket::Down),
            (2000.0, |w| {
                w.bucket = Bucket::Holds {
                    since: at(295),
                    says_when: true,
                };
            }),
        ],
        until: 3000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], UNREACHABLE),
    },
    Life {
        name: "a store that does not answer at the expiry, and then has no object",
        world: || with_bucket(Bucket::Empty),
        events: &[
            (290.0, |w| w.bucket = Bucket::Down),
            (2000.0, |w| w.bucket = Bucket::Empty),
        ],
        until: 3000,
        end: ends(
            "Failed ExpiredUnused",
            &[(0, 300)],
            [1, 0, 1],
            &[Reason::StoreUnreachable, Reason::ExpiredUnused],
        ),
    },
    Life {
        name: "a store that does not answer at the expiry or an hour later",
        world: || with_bucket(Bucket::Empty),
        events: &[(290.0, |w| w.bucket = Bucket::Down), (3962.0, World::put_object)],
        until: 4100,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], UNREACHABLE),
    },
    Life {
        name: "a store without modification times, write-once",
        world: || with_bucket(Bucket::Empty),
        events: &[(100.0, put_without_a_time)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a store without modification times, overwriting",
        world: || {
            let mut world = with_bucket(Bucket::Empty);
            constrain(world.grant.as_mut().unwrap(), |c| c.overwrite = Overwrite::Allow);
            world
        },
        events: &[(100.0, put_without_a_time)],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "an object from another client with a time before the issue",
        world: || with_bucket(Bucket::Empty),
        events: &[(100.0, |w| {
            w.bucket = Bucket::Holds {
                since: at(-100),
                says_when: true,
            };
        })],
        until: 1000,
        end: ends("Current ObjectExists", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "an upload with a notification",
        world: || with_bucket(Bucket::Empty),
        events: &[(20.25, |w| {
            w.put_object();
            w.notify();
        })],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "notifications for an object that does not exist",
        world: || with_bucket(Bucket::Empty),
        events: &[
            (1.0, World::notify),
            (1.5, World::notify),
            (7.0, World::notify),
            (299.0, World::notify),
            (400.0, World::notify),
        ],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
    Life {
        name: "a notification while the store does not answer",
        world: || with_bucket(Bucket::Empty),
        events: &[
            (7.0, |w| w.bucket = Bucket::Down),
            (8.0, World::notify),
            (9.0, World::put_object),
        ],
        until: 200,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "an object that does not match the grant, write-once",
        world: || with_another_size(Overwrite::Forbid),
        events: &[(100.0, World::put_object)],
        until: 1000,
        end: ends("Failed ObjectMismatch", &[(0, 300)], [1, 0, 1], MISMATCH),
    },
    Life {
        name: "an object that does not match the grant, older than a write-once credential",
        world: || {
            let mut world = with_another_size(Overwrite::Forbid);
            world.put_object();
            world
        },
        events: &[],
        until: 1000,
        end: ends("Failed ObjectMismatch", &[], [0, 0, 0], MISMATCH),
    },
    Life {
        name: "an object that does not match the grant, which the credential may overwrite",
        world: || with_another_size(Overwrite::Allow),
        events: &[(100.0, World::put_object)],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "an object that does not match the grant and is not overwritten",
        world: || with_another_size(Overwrite::Allow),
        events: &[(100.0, World::put_object)],
        until: 1000,
        end: ends("Failed ObjectMismatch", &[(0, 300)], [1, 0, 1], MISMATCH),
    },
    Life {
        name: "an object that does not match the grant and is deleted before the expiry",
        world: || with_another_size(Overwrite::Allow),
        events: &[(100.0, World::put_object), (250.0, |w| w.bucket = Bucket::Empty)],
        until: 1000,
        end: ends("Failed ExpiredUnused", &[(0, 300)], [1, 0, 1], &[Reason::ExpiredUnused]),
    },
];

const MISMATCH: &[Reason] = &[Reason::ObjectMismatch];

/// An upload grant whose `contentLength` is one byte less than the size of the test object.
fn with_another_size(overwrite: Overwrite) -> World {
    let mut world = with_bucket(Bucket::Empty);
    constrain(world.grant.as_mut().unwrap(), |c| {
        c.content_length = Some(48_212);
        c.overwrite = overwrite;
    });
    world
}

fn put_without_a_time(world: &mut World) {
    world.bucket = Bucket::Holds {
        since: world.now,
        says_when: false,
    };
}
