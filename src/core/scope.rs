//! Decides if a store is relevant for an operator that serves only one namespace.

use std::collections::BTreeMap;

use super::namespaces::namespace_matches;
use crate::api::ClusterAccessRule;

/// The relevance of a store for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// The store is not relevant: no access rule applies to the operator's namespace.
    None,
    /// Only this operator writes the store's status. Either all access rules apply only to the operator's namespace,
    /// or the operator serves all namespaces.
    Alone,
    /// Several operators can write the store's status, because some access rules also apply to namespaces that this
    /// operator does not serve. Operators with different credentials may run in those namespaces.
    Shared,
}

/// Returns the relevance of a store for an operator that serves only `namespace`. `rules` are the store's access
/// rules, and `labels` are the labels of `namespace`.
pub fn concern(rules: &[ClusterAccessRule], namespace: &str, labels: &BTreeMap<String, String>) -> Concern {
    if !rules
        .iter()
        .any(|r| namespace_matches(&r.namespaces, namespace, labels))
    {
        return Concern::None;
    }
    let is_alone = rules
        .iter()
        .all(|r| r.namespaces.selector.is_none() && r.namespaces.names.iter().all(|n| n == namespace));
    if is_alone { Concern::Alone } else { Concern::Shared }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn store_concerns_an_operator_if_a_rule_can_match_its_namespace() {
        let labels = BTreeMap::from([("team".to_owned(), "web".to_owned())]);
        for (namespaces, expected) in [
            (json!([]), Concern::None),
            (json!([{"names": ["a"]}]), Concern::Alone),
            (json!([{"names": ["a"]}, {"names": ["a", "a"]}]), Concern::Alone),
            (json!([{"names": ["b"]}]), Concern::None),
            (json!([{"names": ["a", "b"]}]), Concern::Shared),
            (json!([{"names": ["a"]}, {"names": ["b"]}]), Concern::Shared),
            // The store is shared, because a second namespace can get the label `team=web` later.
            (json!([{"selector": {"matchLabels": {"team": "web"}}}]), Concern::Shared),
            (json!([{"selector": {}}]), Concern::Shared),
            (json!([{"selector": {"matchLabels": {"team": "films"}}}]), Concern::None),
            (
                json!([{"names": ["a"]}, {"selector": {"matchLabels": {"team": "films"}}}]),
                Concern::Shared,
            ),
            (
                json!([{"names": ["b"]}, {"names": ["b"], "selector": {"matchLabels": {"team": "web"}}}]),
                Concern::Shared,
            ),
        ] {
            let rules: Vec<ClusterAccessRule> = namespaces
                .as_array()
                .unwrap()
                .iter()
                .map(|n| serde_json::from_value(json!({"namespaces": n, "operations": ["Upload"]})).unwrap())
                .collect();
            assert_eq!(concern(&rules, "a", &labels), expected, "{namespaces}");
        }
    }
}
