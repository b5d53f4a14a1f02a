//! Simulated lives of grants under access rules that allow no renewal or limit the total time (`maxTotalSeconds`).

use valet::{
    api::{AccessRule, Reason, RenewalPermission},
    core::StoreFact,
};

use super::{downloading, ends, good_store, renewals::always, with};
use crate::{
    common::{at, rule, store},
    play::Life,
    world::World,
};

fn ruled(world: &mut World, change: impl FnOnce(&mut AccessRule)) {
    let mut rule = rule();
    change(&mut rule.rule);
    world.store = StoreFact::Usable(store([rule]));
}

fn at_most(world: World, seconds: i64) -> World {
    with(world, |w| ruled(w, |r| r.max_total_seconds = Some(seconds)))
}

fn without_renewal(world: World) -> World {
    with(world, |w| ruled(w, |r| r.renewal = RenewalPermission::Forbid))
}

pub static TOTAL: &[Life] = &[
    Life {
        name: "renewed until the total time is used up",
        world: || at_most(always(downloading()), 1100),
        events: &[],
        until: 1500,
        end: ends("Current Expired", &[(0, 600), (367, 967), (734, 1100)], [1, 2, 1], &[]),
    },
    Life {
        name: "a total time that is too short for another credential",
        world: || at_most(always(downloading()), 1027),
        events: &[],
        until: 1500,
        end: ends("Current Expired", &[(0, 600), (367, 967)], [1, 1, 1], &[]),
    },
    Life {
        name: "the total time is shortened below the used time, and lengthened again",
        world: || always(downloading()),
        events: &[
            (700.0, |w| ruled(w, |r| r.max_total_seconds = Some(600))),
            (800.0, |w| w.store = StoreFact::Usable(good_store())),
        ],
        until: 1000,
        end: ends(
            "Current Issued",
            &[(0, 600), (367, 967), (800, 1400)],
            [2, 1, 1],
            &[Reason::TotalTimeReached],
        ),
    },
    Life {
        name: "the total time is shortened below the used time",
        world: || always(downloading()),
        events: &[(700.0, |w| ruled(w, |r| r.max_total_seconds = Some(600)))],
        until: 1500,
        end: ends(
            "Current Expired",
            &[(0, 600), (367, 967)],
            [1, 1, 1],
            &[Reason::TotalTimeReached],
        ),
    },
    Life {
        name: "a credential expires at the total time",
        world: downloading,
        events: &[(50.0, |w| {
            ruled(w, |r| r.max_total_seconds = Some(400));
            w.edit(|g| g.terms.expiration_seconds = 390);
        })],
        until: 1000,
        end: ends("Current Expired", &[(0, 300), (50, 400)], [1, 1, 1], &[]),
    },
    Life {
        name: "the total time is used up before the first credential",
        world: || {
            with(downloading(), |w| {
                w.store = StoreFact::Missing;
            })
        },
        events: &[(500.0, |w| ruled(w, |r| r.max_total_seconds = Some(400)))],
        until: 1000,
        end: ends("Failed TotalTimeReached", &[], [0, 0, 0], &[Reason::TotalTimeReached]),
    },
    Life {
        name: "a renewal by request that the rules forbid",
        world: || without_renewal(downloading()),
        events: &[(100.0, |w| w.request(&at(100).to_string()))],
        until: 1000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[Reason::RenewalNotAllowed]),
    },
    Life {
        name: "a renewal by spec that the rules forbid",
        world: || without_renewal(always(downloading())),
        events: &[],
        until: 1000,
        end: ends("Failed RenewalNotAllowed", &[], [0, 0, 0], &[Reason::RenewalNotAllowed]),
    },
    Life {
        name: "a longer lifetime counts from the first issue if no renewal is allowed",
        world: || without_renewal(downloading()),
        events: &[
            (50.0, |w| w.edit(|g| g.terms.expiration_seconds = 600)),
            (100.0, |w| w.edit(|g| g.terms.expiration_seconds = 700)),
        ],
        until: 1000,
        end: ends("Current Expired", &[(0, 300), (0, 600), (0, 700)], [1, 2, 1], &[]),
    },
    Life {
        name: "a lifetime shorter than the used time if no renewal is allowed",
        world: || without_renewal(downloading()),
        events: &[(100.0, |w| w.edit(|g| g.terms.expiration_seconds = 60))],
        until: 200,
        end: ends(
            "Failed RenewalNotAllowed",
            &[(0, 300)],
            [1, 0, 1],
            &[Reason::RenewalNotAllowed],
        ),
    },
];
