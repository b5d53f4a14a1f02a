//! Finds out if an access rule applies to a namespace.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};

use crate::api::Namespaces;

/// Returns true if an access rule applies to a namespace with this name and these labels.
pub(super) fn namespace_matches(namespaces: &Namespaces, name: &str, labels: &BTreeMap<String, String>) -> bool {
    namespaces.names.iter().any(|n| n == name) || namespaces.selector.as_ref().is_some_and(|s| selects(s, labels))
}

/// Returns true if an access rule may apply to a namespace whose labels Valet does not know.
pub(super) fn can_match_name(namespaces: &Namespaces, name: &str) -> bool {
    namespaces.selector.is_some() || namespaces.names.iter().any(|n| n == name)
}

/// Returns true if a label selector matches a namespace with these labels.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    // An invalid selector matches no namespace. A selector is invalid in two cases: its operator (for example `In`) is
    // unknown, or this operator does not allow the given number of values. The schema accepts invalid selectors, so
    // Valet must check selectors itself. Without this check, `NotIn` without values would match every namespace.
    let is_selector = selector.match_expressions.iter().flatten().all(|r| {
        let has_values = r.values.as_ref().is_some_and(|v| !v.is_empty());
        has_values == matches!(r.operator.as_str(), "In" | "NotIn")
    });
    is_selector && Selector::try_from(selector.clone()).is_ok_and(|s| s.matches(labels))
}
