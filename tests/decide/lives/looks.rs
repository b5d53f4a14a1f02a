//! Lives with stores that hide the object, do not answer, or say little.

use valet::api::{Overwrite, Reason};

use super::ends;
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

pub static LOOKS: &[Life] = &[
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
        // Tries come 1, 2, 4, 8, 16 and 32 seconds after the first.
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
        name: "a store that does not answer for a while under the key",
        world: || with_bucket(Bucket::Empty),
        events: &[(10.0, |w| w.bucket = Bucket::Down), (100.0, World::put_object)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a store that does not answer at the end, and then has the object",
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
        name: "a store that does not answer at the end, and then has nothing",
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
        name: "a store that does not answer at the end, nor an hour later",
        world: || with_bucket(Bucket::Empty),
        events: &[(290.0, |w| w.bucket = Bucket::Down), (3962.0, World::put_object)],
        until: 4100,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], UNREACHABLE),
    },
    Life {
        name: "a store that does not say since when, write-once",
        world: || with_bucket(Bucket::Empty),
        events: &[(100.0, put_without_a_time)],
        until: 1000,
        end: ends("Current Completed", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a store that does not say since when, overwriting: it cannot be told",
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
        name: "the object comes from elsewhere, dated before the key",
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
];

fn put_without_a_time(world: &mut World) {
    world.bucket = Bucket::Holds {
        since: world.now,
        says_when: false,
    };
}
