use serde_json::Value;

/// Checks a value against the limits of its schema: numbers, lengths in characters and counts. Absent and null values
/// are valid. This function does not check types and enumerations, because the parser checks them. The module
/// [`super::rules`] checks the CEL rules.
///
/// The apiserver checks these limits in requests. This function is for objects from files, and for objects that the
/// apiserver accepted with an older CRD.
pub fn exceeded(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(schema, value, path, &mut found);
    found
}

fn walk(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let limit = |name: &str| schema[name].as_f64();
    let mut hold = |measure: f64, least: &str, most: &str, quantity: &str| {
        if let Some(least) = limit(least).filter(|least| measure < *least) {
            found.push(format!(
                "{field}: the {quantity} is {measure}, but the minimum allowed is {least}",
                field = path
            ));
        }
        if let Some(most) = limit(most).filter(|most| measure > *most) {
            found.push(format!(
                "{field}: the {quantity} is {measure}, but the maximum allowed is {most}",
                field = path
            ));
        }
    };
    // Lengths and counts are far below 2^53, so `f64` represents them exactly.
    #[allow(clippy::cast_precision_loss)]
    match value {
        Value::Number(number) => hold(number.as_f64().unwrap_or_default(), "minimum", "maximum", "value"),
        Value::String(text) => hold(
            text.chars().count() as f64,
            "minLength",
            "maxLength",
            "length in characters",
        ),
        Value::Array(items) => {
            hold(items.len() as f64, "minItems", "maxItems", "number of items");
            for (n, item) in items.iter().enumerate() {
                walk(&schema["items"], item, &format!("{path}[{n}]"), found);
            }
        }
        Value::Object(fields) => {
            hold(
                fields.len() as f64,
                "minProperties",
                "maxProperties",
                "number of entries",
            );
            for (name, field) in fields {
                let known = &schema["properties"][name];
                let schema = if known.is_null() {
                    &schema["additionalProperties"]
                } else {
                    known
                };
                walk(schema, field, &format!("{path}.{name}"), found);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schema_bounds_accept_their_minimum_and_maximum() {
        let schema = json!({
            "properties": {
                "count": {"minimum": 1.0, "maximum": 9.0},
                "name": {"minLength": 1, "maxLength": 2},
                "parts": {"minItems": 1, "maxItems": 2, "items": {"maximum": 3.0}},
                "labels": {"maxProperties": 1, "additionalProperties": {"maxLength": 1}},
            },
        });
        let says = |value: Value| exceeded(&schema, &value, "spec").join("; ");
        for within in [
            json!({"count": 1, "name": "é", "parts": [3], "labels": {"a": "b"}}),
            json!({"count": 9, "name": "éé", "parts": [3, 3], "labels": {}}),
            json!({"count": null, "other": 77}),
        ] {
            assert_eq!(says(within), "");
        }
        for (beyond, words) in [
            (
                json!({"count": 0}),
                "spec.count: the value is 0, but the minimum allowed is 1",
            ),
            (
                json!({"count": 10}),
                "spec.count: the value is 10, but the maximum allowed is 9",
            ),
            (
                json!({"name": ""}),
                "spec.name: the length in characters is 0, but the minimum allowed is 1",
            ),
            (
                json!({"name": "ééé"}),
                "spec.name: the length in characters is 3, but the maximum allowed is 2",
            ),
            (
                json!({"parts": []}),
                "spec.parts: the number of items is 0, but the minimum allowed is 1",
            ),
            (
                json!({"parts": [1, 4]}),
                "spec.parts[1]: the value is 4, but the maximum allowed is 3",
            ),
            (
                json!({"labels": {"a": "b", "c": ""}}),
                "spec.labels: the number of entries is 2, but the maximum allowed is 1",
            ),
            (
                json!({"labels": {"a": "bc"}}),
                "spec.labels.a: the length in characters is 2, but the maximum allowed is 1",
            ),
        ] {
            assert_eq!(says(beyond), words);
        }
    }
}
