//! Table tests of prefixes that look alike, the variable in prefixes, label selectors, and stores without rules.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::Resource;
use valet::{
    api::{ByteSize, ClusterAccessRule, ClusterObjectStore, Namespaces, ObjectStore, Reason, Store},
    core::admit,
};

use crate::common::{constrain, download, labels, rule, store, upload};

fn with_prefix(prefix: Option<&str>) -> ClusterAccessRule {
    let mut rule = rule();
    rule.rule.key_prefix = prefix.map(Into::into);
    rule.namespaces.selector = Some(LabelSelector::default());
    rule
}

#[test]
fn prefix_matches_only_whole_segments_and_the_own_namespace() {
    for (namespace, prefix, key, allowed) in [
        ("team-a", Some("tenants/{namespace}"), "tenants/team-a/x", true),
        ("team-a", Some("tenants/{namespace}/"), "tenants/team-a/x", true),
        ("team-a", Some("tenants/{namespace}"), "tenants/team-ab/x", false),
        ("team-ab", Some("tenants/{namespace}"), "tenants/team-a/x", false),
        ("team-a", Some("tenants/{namespace}"), "tenants/team-a", false),
        ("team-a", Some("tenants/{namespace}"), "tenants/Team-a/x", false),
        ("team-a", Some("tenants/{namespace}"), "tenants/{namespace}/x", false),
        ("team-a", Some("tenants/{namespace}"), "tenants/team-b/x", false),
        ("team-a", Some("tenants/{namespace}"), "xtenants/team-a/x", false),
        ("team-a", Some("tenants/{namespace}"), "x/tenants/team-a/x", false),
        ("team-a", Some("tenants/{namespace}"), "tenants/team-a /x", false),
        ("team-a", Some("tenants/{namespace}"), "tenants/team-\u{430}/x", false),
        ("team-a", Some("tenants/{namespace}"), "tenants/team%2Da/x", false),
        ("team-a", Some("tenants/{namespace}"), "tenants%2Fteam-a/x", false),
        ("team-a", Some("tenants/{namespace}"), "tenants\\team-a\\x", false),
        (
            "team-a",
            Some("tenants/{namespace}"),
            "tenants/team-a/../team-b/x",
            false,
        ),
        (
            "team-a",
            Some("tenants/{namespace}"),
            "tenants/team-a/%2e%2e/team-b/x",
            false,
        ),
        (
            "team-a",
            Some("tenants/{namespace}"),
            "tenants/team-a/..%2Fteam-b/x",
            false,
        ),
        ("team-a", Some("{namespace}/{namespace}"), "team-a/team-a/x", true),
        ("team-a", Some("{namespace}/{namespace}"), "team-a/team-b/x", false),
        ("team-a", Some("x-{namespace}-y"), "x-team-a-y/z", true),
        ("team-a", Some("x-{namespace}-y"), "x-team-a-yy/z", false),
        ("team-a", None, "anything", true),
        ("team-a", Some("a"), "a/b", true),
        ("team-a", Some("a"), "a", false),
        ("team-a", Some("caf\u{e9}"), "caf\u{e9}/x", true),
        ("team-a", Some("caf\u{e9}"), "cafe\u{301}/x", false),
    ] {
        let mut grant = upload();
        grant.namespace = namespace.into();
        grant.terms.key = key.into();
        let judged = admit(&grant, &store([with_prefix(prefix)]));
        assert_eq!(judged.is_ok(), allowed, "{namespace} below {prefix:?}: {key}");
    }
}

fn requirement(key: &str, operator: &str, values: Option<&[&str]>) -> LabelSelectorRequirement {
    LabelSelectorRequirement {
        key: key.into(),
        operator: operator.into(),
        values: values.map(|v| v.iter().map(|v| (*v).into()).collect()),
    }
}

fn selecting(equal: &[(&str, &str)], expressions: Vec<LabelSelectorRequirement>) -> LabelSelector {
    LabelSelector {
        match_labels: (!equal.is_empty()).then(|| labels(equal)),
        match_expressions: (!expressions.is_empty()).then_some(expressions),
    }
}

#[test]
fn label_selectors_match_as_kubernetes_documents() {
    let has = labels(&[("team", "web"), ("tier", "front")]);
    for (selector, chosen) in [
        (selecting(&[], vec![]), true),
        (selecting(&[("team", "web")], vec![]), true),
        (selecting(&[("team", "shop")], vec![]), false),
        (selecting(&[("team", "web"), ("tier", "front")], vec![]), true),
        (selecting(&[("team", "web"), ("tier", "back")], vec![]), false),
        (selecting(&[("absent", "")], vec![]), false),
        (
            selecting(&[], vec![requirement("team", "In", Some(&["shop", "web"]))]),
            true,
        ),
        (selecting(&[], vec![requirement("team", "In", Some(&["shop"]))]), false),
        (selecting(&[], vec![requirement("absent", "In", Some(&["web"]))]), false),
        (
            selecting(&[], vec![requirement("team", "NotIn", Some(&["web"]))]),
            false,
        ),
        (
            selecting(&[], vec![requirement("team", "NotIn", Some(&["shop"]))]),
            true,
        ),
        (
            selecting(&[], vec![requirement("absent", "NotIn", Some(&["web"]))]),
            true,
        ),
        (selecting(&[], vec![requirement("team", "Exists", None)]), true),
        (selecting(&[], vec![requirement("team", "Exists", Some(&[]))]), true),
        (selecting(&[], vec![requirement("absent", "Exists", None)]), false),
        (selecting(&[], vec![requirement("team", "DoesNotExist", None)]), false),
        (selecting(&[], vec![requirement("absent", "DoesNotExist", None)]), true),
        // Both requirements must match.
        (
            selecting(&[("team", "web")], vec![requirement("tier", "NotIn", Some(&["front"]))]),
            false,
        ),
        (
            selecting(
                &[],
                vec![
                    requirement("team", "Exists", None),
                    requirement("tier", "DoesNotExist", None),
                ],
            ),
            false,
        ),
        // By the rules of Kubernetes these selectors are invalid. They must match no namespace.
        (selecting(&[], vec![requirement("team", "In", None)]), false),
        (selecting(&[], vec![requirement("team", "In", Some(&[]))]), false),
        (selecting(&[], vec![requirement("team", "NotIn", None)]), false),
        (selecting(&[], vec![requirement("team", "NotIn", Some(&[]))]), false),
        (
            selecting(&[], vec![requirement("team", "Exists", Some(&["shop"]))]),
            false,
        ),
        (
            selecting(&[], vec![requirement("absent", "DoesNotExist", Some(&["web"]))]),
            false,
        ),
        (selecting(&[], vec![requirement("team", "in", Some(&["web"]))]), false),
        (selecting(&[], vec![requirement("team", "", None)]), false),
    ] {
        let mut rule = rule();
        rule.namespaces = Namespaces {
            names: vec![],
            selector: Some(selector.clone()),
        };
        let mut store = store([rule]);
        store.namespace_labels = Arc::new(has.clone());
        let judged = admit(&upload(), &store);
        assert_eq!(judged.is_ok(), chosen, "{selector:?}");
        if let Err(refusal) = judged {
            assert_eq!(refusal.reason, Reason::NamespaceNotAllowed);
        }
    }
}

#[test]
fn namespace_matches_by_name_or_by_label() {
    for (names, selector, chosen) in [
        (vec!["web"], None, true),
        (vec!["shop"], None, false),
        (vec!["shop", "web"], None, true),
        (vec![], None, false),
        (vec!["shop"], Some(selecting(&[("team", "web")], vec![])), true),
        (vec!["web"], Some(selecting(&[("team", "shop")], vec![])), true),
        (vec!["shop"], Some(selecting(&[("team", "shop")], vec![])), false),
        (vec!["WEB"], None, false),
        (vec!["web "], None, false),
        (vec!["*"], None, false),
    ] {
        let mut rule = rule();
        rule.namespaces = Namespaces {
            names: names.iter().map(|n| (*n).into()).collect(),
            selector,
        };
        let judged = admit(&upload(), &store([rule.clone()]));
        assert_eq!(judged.is_ok(), chosen, "{:?}", rule.namespaces);
    }
}

/// One rule must allow the whole grant. Two rules that each allow a part of it are not enough.
#[test]
fn one_rule_must_allow_the_whole_grant() {
    let mut short = rule();
    short.rule.max_expiration_seconds = Some(60);
    let mut elsewhere = rule();
    elsewhere.rule.key_prefix = Some("public".into());
    let refusal = admit(&upload(), &store([short.clone(), elsewhere])).unwrap_err();
    assert_eq!(
        refusal.reason,
        Reason::ExpirationTooLong,
        "the message is about the closest rule"
    );
    assert!(admit(&upload(), &store([short, rule()])).is_ok());
}

#[test]
fn object_store_without_rules_serves_only_its_own_namespace() {
    let named = |namespace: &str| {
        let mut own: ObjectStore = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "media", "namespace": namespace},
            "spec": {"s3": {"bucket": "media", "region": "eu-west-1"}},
        }))
        .unwrap();
        own.meta_mut().namespace = Some(namespace.into());
        store(own.rules())
    };
    let shared: ClusterObjectStore = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "media"},
        "spec": {"s3": {"bucket": "media", "region": "eu-west-1"}},
    }))
    .unwrap();
    for grant in [upload(), download()] {
        assert!(
            admit(&grant, &named("web")).is_ok(),
            "the store's own namespace is allowed"
        );
        assert!(
            admit(&grant, &named("shop")).is_err(),
            "another namespace is not allowed"
        );
        let refusal = admit(&grant, &store(shared.rules())).unwrap_err();
        assert_eq!(
            refusal.reason,
            Reason::NamespaceNotAllowed,
            "a shared store allows nothing"
        );
    }
}

#[test]
fn object_store_with_rules_serves_no_other_namespace() {
    let own: ObjectStore = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "media", "namespace": "shop"},
        "spec": {"s3": {"bucket": "media", "region": "eu-west-1"}, "access": [{"operations": ["Upload"]}]},
    }))
    .unwrap();
    assert!(admit(&upload(), &store(own.rules())).is_err());
}

#[test]
fn byte_sizes_are_parsed_and_compared_exactly() {
    for (limit, bytes) in [
        (ByteSize::Number(500), Some(500)),
        (ByteSize::Number(0), None),
        (ByteSize::Number(-5), None),
        (ByteSize::Number(i64::MAX), Some(i64::MAX)),
        (ByteSize::Quantity("500".into()), Some(500)),
        (ByteSize::Quantity("1k".into()), Some(1000)),
        (ByteSize::Quantity("1Ki".into()), Some(1024)),
        (ByteSize::Quantity("5Gi".into()), Some(5_368_709_120)),
        (ByteSize::Quantity("2T".into()), Some(2_000_000_000_000)),
        (ByteSize::Quantity("9999999999999999Pi".into()), Some(i64::MAX)),
        (ByteSize::Quantity("1K".into()), None),
        (ByteSize::Quantity("1.5Gi".into()), None),
        (ByteSize::Quantity("-1".into()), None),
        (ByteSize::Quantity("+1".into()), None),
        (ByteSize::Quantity("1 Gi".into()), None),
        (ByteSize::Quantity("0x10".into()), None),
        (ByteSize::Quantity(String::new()), None),
        (ByteSize::Quantity("Gi".into()), None),
        (ByteSize::Quantity("99999999999999999999".into()), None),
        (ByteSize::Quantity("\u{664}".into()), None),
    ] {
        assert_eq!(limit.bytes(), bytes, "{limit:?}");
        let mut rule = rule();
        rule.rule.max_bytes = Some(limit.clone());
        for (length, allowed) in [
            (bytes.unwrap_or(0), true),
            (bytes.unwrap_or(0).saturating_add(1), false),
        ] {
            let mut grant = upload();
            constrain(&mut grant, |c| c.content_length = Some(length.min(5_368_709_120)));
            let judged = admit(&grant, &store([rule.clone()]));
            let fits = allowed || bytes.is_some_and(|b| b >= 5_368_709_120);
            assert_eq!(judged.is_ok(), fits, "{length} of {limit:?}");
        }
    }
}

#[test]
fn namespace_without_labels_matches_no_selector() {
    let mut rule = rule();
    rule.namespaces = Namespaces {
        names: vec![],
        selector: Some(selecting(&[("team", "web")], vec![])),
    };
    let mut store = store([rule]);
    store.namespace_labels = Arc::new(BTreeMap::new());
    assert!(admit(&upload(), &store).is_err());
}
