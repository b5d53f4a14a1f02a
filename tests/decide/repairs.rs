//! Tests of a client that changes or deletes the Secret again and again.

use valet::api::{Reason, annotation};

use crate::{
    checks::{condition, ready},
    common::{at, download, renew_always, rule, store},
    world::World,
};

fn issued() -> World {
    let mut grant = download();
    grant.terms.expiration_seconds = 86_400;
    let mut rule = rule();
    rule.rule.max_expiration_seconds = None;
    let mut world = World::new(grant, store([rule]));
    world.forged = true;
    world.reconcile();
    assert_eq!(ready(world.grant()), "Issued");
    world
}

/// For `seconds` seconds, runs `attack` each time Valet has restored the Secret.
fn fight(world: &mut World, seconds: i64, attack: fn(&mut World)) {
    let end = at(seconds);
    attack(world);
    let mut wake = world.reconcile();
    loop {
        if world
            .own_secret()
            .is_some_and(|s| s.view.is_authentic && s.view.has_sole_owner)
        {
            attack(world);
            wake = world.reconcile();
        }
        let next = wake.expect("a timer is set");
        if next > end {
            world.now = end;
            return;
        }
        world.now = world.now.max(next);
        wake = world.reconcile();
    }
}

/// A name, and what the client does to the Secret.
type Attack = (&'static str, fn(&mut World));

const ATTACKS: [Attack; 4] = [
    ("deletes", World::delete_secret),
    ("changes the data", World::edit_data),
    ("changes annotations", |w| {
        w.edit_secret(|s| drop(s.annotations.insert(annotation::EXPIRATION_SECONDS.into(), "1".into())));
    }),
    ("adds an owner", |w| w.edit_secret(|s| s.has_sole_owner = false)),
];

#[test]
fn repeated_secret_changes_are_restored_with_growing_pauses() {
    for (name, attack) in ATTACKS {
        let mut world = issued();
        fight(&mut world, 20, attack);
        let writes = world.counts.creates + world.counts.replaces + world.counts.retouches - 1;
        // Valet writes at 0, 1, 3, 7 and 15 s.
        assert_eq!(writes, 5, "{name}");
        assert_eq!(world.notices, [Reason::SecretContested], "{name}");
        let contested = condition(&world.grant().status, "SecretContested").expect(name);
        assert_eq!(contested.status, "True");
        assert!(
            contested.message.contains("restored the Secret 5 times since"),
            "{}",
            contested.message
        );
        assert!(
            world.keys.iter().all(|k| *k == world.keys[0]),
            "{name}: the same credential each time"
        );
        // The longest pause between two writes is five minutes; this is checked over an hour.
        fight(&mut world, 3600, attack);
        let writes = world.counts.creates + world.counts.replaces + world.counts.retouches - 1;
        assert!((18..24).contains(&writes), "{name}: {writes}");
        assert_eq!(world.notices, [Reason::SecretContested], "{name}");
    }
}

#[test]
fn contested_condition_ends_after_ten_quiet_minutes() {
    for (name, attack) in ATTACKS {
        let mut world = issued();
        fight(&mut world, 20, attack);
        let mut wake = world.reconcile();
        while let Some(next) = wake.filter(|next| *next <= at(3600)) {
            world.now = world.now.max(next);
            wake = world.reconcile();
        }
        assert_eq!(ready(world.grant()), "Issued", "{name}");
        assert!(condition(&world.grant().status, "SecretContested").is_none(), "{name}");
        let reports = world.counts.reports;
        world.reconcile();
        assert_eq!(
            world.counts.reports, reports,
            "{name}: a second reconcile changes nothing"
        );
    }
}

#[test]
fn single_secret_change_is_restored_at_once_without_an_event() {
    for (name, attack) in ATTACKS {
        let mut world = issued();
        world.now = at(50);
        attack(&mut world);
        world.reconcile();
        let secret = world.own_secret().expect(name);
        assert!(secret.view.is_authentic && secret.view.has_sole_owner, "{name}");
        assert!(condition(&world.grant().status, "SecretContested").is_none(), "{name}");
        assert!(world.notices.is_empty(), "{name}");
    }
}

#[test]
fn changed_secret_that_waits_for_restore_is_not_active() {
    let mut world = issued();
    for _ in 0..2 {
        world.edit_data();
        world.reconcile();
    }
    assert_eq!(ready(world.grant()), "SecretContested");
    assert_eq!(condition(&world.grant().status, "Active").unwrap().status, "False");
    assert!(world.grant().status.binding.is_none());
}

/// A change of the spec is applied at once, also while Valet pauses its restoration of the Secret.
#[test]
fn changed_spec_is_applied_during_a_restore_pause() {
    let mut world = issued();
    fight(&mut world, 20, World::delete_secret);
    world.edit(|g| g.terms.expiration_seconds = 600);
    world.reconcile();
    assert_eq!(world.keys.last().unwrap().seconds(), 600);
    let mut world = issued();
    renew_always(world.grant.as_mut().unwrap());
    fight(&mut world, 20, World::edit_data);
    world.request(&at(20).to_string());
    world.reconcile();
    assert_eq!(world.keys.last().unwrap().issued_at, at(20));
}
