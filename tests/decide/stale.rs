//! Tests of changes by other clients while Valet signs a credential. Valet must not publish a credential that the
//! changed grant or store no longer allows.

use std::sync::Arc;

use valet::api::Reason;

use crate::{
    checks::ready,
    common::{download, rule, store},
    world::World,
};

/// Runs a reconcile of a new DownloadGrant. The change happens after the effect with the number `after`: 0 reads the
/// store, and 1 signs.
fn changed(after: usize, change: fn(&mut World)) -> World {
    changed_in(World::new(download(), store([rule()])), after, change)
}

/// As [`changed`], in this world.
fn changed_in(mut world: World, after: usize, change: fn(&mut World)) -> World {
    world.meddler = Some(Box::new(move |w: &mut World| {
        if w.steps == after + 1 {
            change(w);
        }
    }));
    world.reconcile();
    world
}

#[test]
fn credential_of_a_grant_changed_while_signing_is_not_published() {
    for after in [0, 1] {
        let suspended = changed(after, |w| w.edit(|g| g.terms.suspend = Some(true)));
        assert_eq!(
            (suspended.counts.creates, ready(suspended.grant())),
            (0, "Suspended"),
            "{after}"
        );
        let deleted = changed(after, World::delete_with_finalizer);
        assert_eq!(deleted.counts.creates, 0, "{after}");
    }
}

#[test]
fn credential_of_a_store_changed_while_signing_is_not_published() {
    for after in [0, 1] {
        let world = changed(after, |w| w.usable(|s| s.rules = Arc::new(vec![])));
        assert_eq!(
            (world.counts.creates, ready(world.grant())),
            (0, "NamespaceNotAllowed"),
            "{after}"
        );
    }
}

/// A write fails if another client has changed the object since Valet read it. Valet then decides again.
#[test]
fn status_of_a_changed_grant_is_not_written() {
    // Effect 3 writes the Secret. The status with the reason `Issued` would follow.
    let world = changed(3, |w| w.edit(|g| g.terms.revoke = Some(true)));
    assert_eq!((world.counts.creates, ready(world.grant())), (1, "Revoked"));
    assert!(world.secret.is_none());
    assert_eq!(
        world.counts.reports, 1,
        "the status with the reason `Issued` must not be written"
    );
}

/// An Event belongs to a written status. If the status cannot be written, Valet publishes no Event.
#[test]
fn event_of_a_status_that_is_not_written_is_not_published() {
    let refused = || World::new(download(), store([]));
    let mut world = refused();
    world.reconcile();
    assert_eq!(world.notices, [Reason::NamespaceNotAllowed]);
    let world = changed_in(refused(), 0, |w| w.edit(|g| g.terms.suspend = Some(true)));
    assert_eq!((ready(world.grant()), world.notices.as_slice()), ("Suspended", &[][..]));
}
