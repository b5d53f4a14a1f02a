//! Namespaces by their labels.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};

/// Whether a selector of a rule chooses a namespace with these labels.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    // A selector that is none chooses nobody: an unknown operator, or values where there can be none and the
    // reverse. The schema of selectors lets those through, and `NotIn` without values would choose everybody.
    let is_selector = selector.match_expressions.iter().flatten().all(|r| {
        let has_values = r.values.as_ref().is_some_and(|v| !v.is_empty());
        has_values == matches!(r.operator.as_str(), "In" | "NotIn")
    });
    is_selector && Selector::try_from(selector.clone()).is_ok_and(|s| s.matches(labels))
}
