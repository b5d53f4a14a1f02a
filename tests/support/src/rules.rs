//! The CEL rules of a schema.

use std::collections::BTreeSet;

use serde_json::Value;

/// Adds the message of each CEL rule in the schema.
pub fn messages(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            let rules = fields.get("x-kubernetes-validations").and_then(Value::as_array);
            for rule in rules.into_iter().flatten() {
                let message = rule["message"]
                    .as_str()
                    .unwrap_or_else(|| panic!("a rule without a message: {rule}"));
                found.insert(message.to_owned());
            }
            fields.values().for_each(|v| messages(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| messages(v, found)),
        _ => {}
    }
}
