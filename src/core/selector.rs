//! Matches namespaces by their labels.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};

/// Whether a label selector matches a namespace with these labels.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    // An invalid selector matches nothing: an unknown operator, or values that the operator does not allow or that
    // are missing. The schema accepts such selectors, and `NotIn` without values would match every namespace.
    let is_selector = selector.match_expressions.iter().flatten().all(|r| {
        let has_values = r.values.as_ref().is_some_and(|v| !v.is_empty());
        has_values == matches!(r.operator.as_str(), "In" | "NotIn")
    });
    is_selector && Selector::try_from(selector.clone()).is_ok_and(|s| s.matches(labels))
}
