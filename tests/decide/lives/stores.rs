//! Simulated lives of grants with Secrets of other owners, and with stores that appear, disappear or change their
//! access rules.

use valet::{
    api::Reason,
    core::{NotProbedYet, Owner, RulesView, StoreFact, StoreView},
};

use super::{downloading, ends, good_store, overwriting, unusable, uploading, with};
use crate::{
    common::{at, store},
    play::Life,
    world::World,
};

fn away() -> NotProbedYet {
    NotProbedYet {
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
        name: "a foreign Secret that is deleted",
        world: || with(uploading(), |w| w.plant(Owner::Foreign("its type is Opaque"))),
        events: &[(100.0, World::delete_secret)],
        until: 200,
        end: ends("Current Issued", &[(100, 400)], [1, 0, 0], &[Reason::SecretConflict]),
    },
    Life {
        name: "a foreign Secret that replaces the grant Secret",
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
        name: "a foreign Secret that replaces the grant Secret, beyond the expiry",
        world: downloading,
        events: &[
            (50.0, |w| w.plant(Owner::Foreign("its owner is another grant"))),
            (400.0, World::delete_secret),
        ],
        until: 1000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 0], &[Reason::SecretConflict]),
    },
    Life {
        name: "a predecessor's Secret that the garbage collector deletes",
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
        name: "a store that is created after the grant",
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
        name: "a store with wrong settings",
        world: || with(uploading(), |w| w.store = unusable(Reason::InvalidStore)),
        events: &[],
        until: 1000,
        end: ends("Failed InvalidStore", &[], [0, 0, 0], &[Reason::InvalidStore]),
    },
    Life {
        name: "a store that fails the conformance check and is repaired",
        world: downloading,
        events: &[
            (50.0, |w| w.store = unusable(Reason::ConstraintsNotEnforced)),
            (100.0, |w| w.store = StoreFact::Usable(good_store())),
        ],
        until: 200,
        end: ends(
            "Current Issued",
            &[(0, 300), (0, 300)],
            [2, 0, 1],
            &[Reason::ConstraintsNotEnforced],
        ),
    },
    Life {
        name: "a store that is deleted after the issue and created again",
        world: downloading,
        events: &[
            (50.0, |w| w.store = StoreFact::Missing),
            (100.0, |w| w.store = StoreFact::Usable(good_store())),
        ],
        until: 200,
        end: ends("Current Issued", &[(0, 300), (0, 300)], [2, 0, 1], &[]),
    },
    Life {
        name: "a store that is deleted after the issue",
        world: uploading,
        events: &[(50.0, |w| w.store = StoreFact::Missing)],
        until: 1000,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[]),
    },
    Life {
        name: "a store that is unusable for a while after the issue",
        world: uploading,
        events: &[
            (50.0, |w| w.store = unusable(Reason::CredentialsExpired)),
            (100.0, |w| w.store = StoreFact::Usable(good_store())),
        ],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "a store that is unusable at the expiry, and polls after it",
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
        name: "a store that stays unusable",
        world: uploading,
        events: &[(50.0, |w| w.store = unusable(Reason::StoreUnreachable))],
        until: 3900 + 62,
        end: ends("Current Expired", &[(0, 300)], [1, 0, 1], &[Reason::StoreUnreachable]),
    },
    Life {
        name: "a longer lifetime is requested while the store is unusable",
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
        name: "store credentials that expire before the credential",
        world: || with(uploading(), |w| w.usable(|s| s.credentials_expire = Some(at(105)))),
        events: &[],
        until: 90,
        end: ends("Current Issued", &[(0, 100)], [1, 0, 0], &[Reason::ExpiryTruncated]),
    },
    Life {
        name: "store credentials that have expired and are then replaced",
        world: || with(uploading(), |w| w.usable(|s| s.credentials_expire = Some(at(3)))),
        events: &[(40.0, |w| w.usable(|s| s.credentials_expire = Some(at(10_000))))],
        until: 200,
        end: ends("Current Issued", &[(40, 340)], [1, 0, 0], &[Reason::CredentialsExpired]),
    },
    Life {
        name: "store credentials with an earlier expiry before the Secret was deleted",
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
        name: "a rule that is narrowed after the issue and widened again",
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
        name: "a rule that is narrowed and not widened",
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
        name: "a rule that does not change while the store is unusable",
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
        name: "a store that was not probed yet",
        world: || with(overwriting(), |w| w.usable(|s| s.not_probed = Some(away()))),
        events: &[(40.0, |w| w.usable(|s| s.not_probed = None))],
        until: 200,
        end: ends("Current Issued", &[(40, 340)], [1, 0, 0], &[Reason::StoreUnreachable]),
    },
    Life {
        name: "a store with unknown write-once support, and an overwriting upload",
        world: || {
            with(overwriting(), |w| {
                w.usable(|s| {
                    s.not_probed = Some(NotProbedYet {
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
        name: "a store that was not probed yet, and a download",
        world: || with(downloading(), |w| w.usable(|s| s.not_probed = Some(away()))),
        events: &[],
        until: 200,
        end: ends("Current Issued", &[(0, 300)], [1, 0, 0], &[]),
    },
    Life {
        name: "a store that was not probed since the issue",
        world: overwriting,
        events: &[(50.0, |w| w.usable(|s| s.not_probed = Some(away())))],
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
