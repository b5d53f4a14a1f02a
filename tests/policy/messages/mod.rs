//! Tests of refusal messages. A message names the field, what is wrong with its value, and what to do. It contains
//! nothing from rules of other namespaces. Each module has the table for one kind of refusal.

mod credentials;
mod modes;
mod rules;
mod weak;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use valet::{
    api::{AccessRule, ByteSize, ClusterAccessRule, Namespaces, Operation, Permission, Reason, RenewalPermission},
    core::{GrantFacts, StoreView, admit},
};

use crate::common::{by_credentials, download, form_below, rule, store, upload};

struct Case {
    grant: GrantFacts,
    store: StoreView,
    reason: Reason,
    message: &'static str,
}

fn case(change: impl FnOnce(&mut GrantFacts, &mut AccessRule), reason: Reason, message: &'static str) -> Case {
    let (mut grant, mut rule) = (upload(), rule());
    change(&mut grant, &mut rule.rule);
    Case {
        grant,
        store: store([rule]),
        reason,
        message,
    }
}

fn cases() -> Vec<Case> {
    [rules::cases(), modes::cases(), credentials::cases(), weak::cases()]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn every_refusal_has_its_expected_message() {
    for case in cases() {
        let refusal = admit(&case.grant, &case.store).expect_err(case.message);
        assert_eq!((refusal.reason, refusal.message.as_str()), (case.reason, case.message));
    }
}

/// The tables above cover every reason of `admit`.
#[test]
fn every_reason_of_a_refusal_has_a_test_case() {
    let reached: Vec<_> = cases().iter().map(|c| c.reason).collect();
    for reason in [
        Reason::InvalidSpec,
        Reason::NamespaceNotAllowed,
        Reason::OperationNotAllowed,
        Reason::KeyNotAllowed,
        Reason::ExpirationTooLong,
        Reason::ContentTypeNotAllowed,
        Reason::ContentLengthNotAllowed,
        Reason::CapabilityMissing,
    ] {
        assert!(reached.contains(&reason), "{reason}");
    }
}

/// Messages appear in statuses and logs, so each is one line and short enough for an event.
#[test]
fn refusal_messages_are_one_short_line() {
    for case in cases() {
        assert!(!case.message.chars().any(char::is_control), "{}", case.message);
        assert!(case.message.len() < 1024, "{}", case.message);
    }
    let mut grant = upload();
    grant.terms.key = format!("tenants/shop/{}", "k".repeat(1000));
    let refusal = admit(&grant, &store([rule()])).unwrap_err();
    assert!(
        refusal.message.len() < 32_768,
        "the message of a condition has at most this length"
    );
}

/// A tenant learns only the rules for its own namespace.
#[test]
fn refusal_message_shows_no_rules_of_other_namespaces() {
    let marker = "zxq";
    let theirs = ClusterAccessRule {
        namespaces: Namespaces {
            names: vec![format!("{marker}-team")],
            selector: Some(LabelSelector {
                match_labels: Some([("team".to_owned(), marker.to_owned())].into()),
                match_expressions: None,
            }),
        },
        rule: AccessRule {
            operations: vec![Operation::Upload, Operation::Download],
            key_prefix: Some(format!("{marker}/secret")),
            credentials: Permission::Allow,
            max_expiration_seconds: Some(77_777),
            max_total_seconds: Some(77_777),
            renewal: RenewalPermission::Forbid,
            max_bytes: Some(ByteSize::Number(77_777)),
            content_types: vec![format!("{marker}/x")],
            max_live_grants: Some(77_777),
        },
    };
    for mut case in cases() {
        let mut rules = vec![theirs.clone()];
        rules.extend(case.store.rules.iter().cloned());
        rules.push(theirs.clone());
        case.store.rules = Arc::new(rules);
        let refusal = admit(&case.grant, &case.store).expect_err(case.message);
        assert_eq!(
            refusal.message, case.message,
            "rules of other namespaces changed the message"
        );
        assert!(!refusal.message.contains(marker) && !refusal.message.contains("77777"));
    }
}

/// If several rules refuse a grant, the message is about the rule with the most fulfilled conditions. The message
/// names all allowed prefixes.
#[test]
fn refusal_message_is_about_the_closest_rule() {
    let (mut far, mut near) = (rule(), rule());
    far.rule.key_prefix = Some("public".into());
    near.rule.max_expiration_seconds = Some(60);
    for rules in [[far.clone(), near.clone()], [near, far.clone()]] {
        let refusal = admit(&upload(), &store(rules)).unwrap_err();
        assert_eq!(refusal.reason, Reason::ExpirationTooLong);
    }
    let mut grant = upload();
    grant.terms.key = "elsewhere/x".into();
    let mut downloads = rule();
    downloads.rule.operations = vec![Operation::Download];
    downloads.rule.key_prefix = Some("only-downloads".into());
    let refusal = admit(&grant, &store([rule(), far, downloads])).unwrap_err();
    assert!(
        refusal
            .message
            .ends_with("choose an object key that starts with 'tenants/web/' or 'public/'"),
        "{}",
        refusal.message
    );
}

/// A prefix is allowed only if a rule allows every object key below it.
#[test]
fn prefix_is_allowed_only_if_all_keys_below_it_are() {
    for (key, allowed) in [
        ("tenants/web/", true),
        ("tenants/web/a/", true),
        ("tenants/", false),
        ("tenants/webs/", false),
        ("tenants/we/", false),
    ] {
        let lent = [upload(), download()].map(|grant| by_credentials(grant, true));
        for mut grant in lent.into_iter().chain([form_below()]) {
            grant.terms.key = key.into();
            assert_eq!(admit(&grant, &store([rule()])).is_ok(), allowed, "{key}");
        }
    }
}
