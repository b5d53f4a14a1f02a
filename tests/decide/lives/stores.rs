//! Simulated lives of grants with Secrets of other owners, and with stores that appear, disappear or change their
//! access rules.

use valet::{
    api::Reason,
    core::{Owner, RulesView, StoreFact, StoreView, Untried},
};

use super::{downloading, ends, good_store, overwriting, unusable, uploading, with};
use crate::{
    common::{at, store},
    play::Life,
    world::World,
};

fn away() -> Untried {
    Untried {
        reason: Reason::StoreUnreachable,
        why: "it is away".into(),
        only_write_once: false,
    }
}

pub static FOREIGN_SECRETS: &[Life] = &[
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

pub static STORES: &[Life] = &[
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
        name: "a store that is found to hold no key to anything, and is mended",
        world: downloading,
        events: &[
            (50.0, |w| w.store = unusable(Reason::KeysNotEnforced)),
            (100.0, |w| w.store = StoreFact::Usable(good_store())),
        ],
        until: 200,
        end: ends(
            "Current Issued",
            &[(0, 300), (0, 300)],
            [2, 0, 1],
            &[Reason::KeysNotEnforced],
        ),
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
            "Current Expired",
            &[(0, 300)],
            [1, 0, 1],
            &[Reason::NamespaceNotAllowed],
        ),
    },
    Life {
        name: "a rule that is narrowed while the store is unusable",
        world: downloading,
        events: &[
            (50.0, |w| w.store = unusable(Reason::CredentialsNotFound)),
            (60.0, |w| {
                w.rules = Some(RulesView {
                    rules: Default::default(),
                    namespace_labels: Default::default(),
                });
            }),
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
        name: "a rule that stands while the store is unusable",
        world: downloading,
        events: &[(50.0, |w| {
            w.store = unusable(Reason::CredentialsNotFound);
            let StoreView {
                rules,
                namespace_labels,
                ..
            } = good_store();
            w.rules = Some(RulesView {
                rules,
                namespace_labels,
            });
        })],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "a store that nobody has tried yet",
        world: || with(overwriting(), |w| w.usable(|s| s.untried = Some(away()))),
        events: &[(40.0, |w| w.usable(|s| s.untried = None))],
        until: 200,
        end: ends("Current Issued", &[(40, 340)], [1, 0, 0], &[Reason::StoreUnreachable]),
    },
    Life {
        name: "a store of which it is not known yet whether it is write-once, and an upload that may replace",
        world: || {
            with(overwriting(), |w| {
                w.usable(|s| {
                    s.untried = Some(Untried {
                        only_write_once: true,
                        ..away()
                    })
                })
            })
        },
        events: &[],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "a store that nobody has tried yet, and a download",
        world: || with(downloading(), |w| w.usable(|s| s.untried = Some(away()))),
        events: &[],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "a store that nobody has tried since the key was signed",
        world: overwriting,
        events: &[(50.0, |w| w.usable(|s| s.untried = Some(away())))],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
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
