//! Whether a store is any business of an operator that serves one namespace.

use std::collections::BTreeMap;

use super::policy::chooses;
use crate::api::ClusterAccessRule;

/// What a store is to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// No rule opens to the operator's namespace.
    None,
    /// Every rule opens to that namespace and to no other, or the operator serves all of them: what it says of the store
    /// is all that there is to say.
    Alone,
    /// Some rules open to other namespaces, too, which may have operators of their own, with other credentials.
    Shared,
}

/// What a store with these rules is to an operator that serves `namespace` only, which has these labels.
pub fn concern(rules: &[ClusterAccessRule], namespace: &str, labels: &BTreeMap<String, String>) -> Concern {
    if !rules.iter().any(|r| chooses(&r.namespaces, namespace, labels)) {
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
    fn by_name_and_by_label() {
        let labels = BTreeMap::from([("team".to_owned(), "web".to_owned())]);
        for (namespaces, expected) in [
            (json!([]), Concern::None),
            (json!([{"names": ["a"]}]), Concern::Alone),
            (json!([{"names": ["a"]}, {"names": ["a", "a"]}]), Concern::Alone),
            (json!([{"names": ["b"]}]), Concern::None),
            (json!([{"names": ["a", "b"]}]), Concern::Shared),
            (json!([{"names": ["a"]}, {"names": ["b"]}]), Concern::Shared),
            // A label can be another namespace's tomorrow.
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
