use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

/// The field of a schema with its CEL rules.
const RULES: &str = "x-kubernetes-validations";

/// The CEL rules of a schema that only compare one text with a regular expression: `self.matches('...')` and
/// `!self.matches('...')`.
///
/// The CEL library compiles the regular expression of a rule at each evaluation, which takes about a fifth of the CPU
/// time of a reconcile. Valet compiles these regular expressions only once. The CEL library uses the same regex crate,
/// so the results are equal.
#[derive(Debug, Default)]
pub struct Patterns {
    rules: Vec<Pattern>,
    properties: BTreeMap<String, Self>,
    items: Option<Box<Self>>,
}

#[derive(Debug)]
struct Pattern {
    regex: Regex,
    /// True for a rule of the form `!self.matches('...')`.
    is_negated: bool,
    message: String,
}

impl Patterns {
    /// Removes these rules from the schema and compiles their regular expressions.
    pub fn take(schema: &mut Value) -> Self {
        let mut patterns = Self::default();
        if let Some(rules) = schema.get_mut(RULES).and_then(Value::as_array_mut) {
            rules.retain(|rule| match Pattern::of(rule) {
                Some(pattern) => {
                    patterns.rules.push(pattern);
                    false
                }
                None => true,
            });
        }
        for (name, property) in schema
            .get_mut("properties")
            .and_then(Value::as_object_mut)
            .into_iter()
            .flatten()
        {
            let taken = Self::take(property);
            if !taken.is_empty() {
                patterns.properties.insert(name.clone(), taken);
            }
        }
        if let Some(items) = schema.get_mut("items") {
            patterns.items = Some(Self::take(items)).filter(|taken| !taken.is_empty()).map(Box::new);
        }
        patterns
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.properties.is_empty() && self.items.is_none()
    }

    /// Adds one sentence to `broken` for each rule that the value breaks. A sentence begins with the path of the field.
    pub fn check(&self, value: &Value, path: &str, broken: &mut Vec<String>) {
        match value {
            Value::String(text) => {
                let rules = self.rules.iter().filter(|rule| !rule.allows(text));
                broken.extend(rules.map(|rule| format!("{path}: {}", rule.message)));
            }
            Value::Array(values) => {
                for (n, item) in values.iter().enumerate() {
                    if let Some(items) = &self.items {
                        items.check(item, &format!("{path}[{n}]"), broken);
                    }
                }
            }
            Value::Object(fields) => {
                for (name, patterns) in &self.properties {
                    if let Some(field) = fields.get(name) {
                        let path = if path.is_empty() {
                            name.clone()
                        } else {
                            format!("{path}.{name}")
                        };
                        patterns.check(field, &path, broken);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

impl Pattern {
    /// Returns the pattern of a CEL rule. Returns `None` if the CEL library must evaluate the rule.
    fn of(rule: &Value) -> Option<Self> {
        let expression = rule["rule"].as_str()?;
        let positive = expression.strip_prefix('!');
        let literal = positive
            .unwrap_or(expression)
            .strip_prefix("self.matches('")?
            .strip_suffix("')")?;
        Some(Self {
            regex: Regex::new(&unescape(literal)?).ok()?,
            is_negated: positive.is_some(),
            message: rule["message"].as_str()?.to_owned(),
        })
    }

    fn allows(&self, text: &str) -> bool {
        self.regex.is_match(text) != self.is_negated
    }
}

/// Returns the text of a CEL string literal. Returns `None` if the literal has an escape sequence other than `\\`, or
/// if it ends before its last character.
fn unescape(literal: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = literal.chars();
    while let Some(character) = characters.next() {
        match character {
            '\'' => return None,
            '\\' if characters.next() != Some('\\') => return None,
            character => text.push(character),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use kube::core::cel::{Validator, compile_schema};
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_give_the_same_result_as_the_cel_library() {
        let rule = |rule: &str| json!([{"rule": rule, "message": format!("must be {rule}")}]);
        let schema = json!({"type": "object", "properties": {
            "name": {"type": "string", "x-kubernetes-validations": rule(r"self.matches('^[a-z]+$')")},
            "key": {"type": "string", "x-kubernetes-validations": rule(r"!self.matches('[\\p{Cc}\\x{FEFF}/\\\\]')")},
            "tags": {"type": "array", "items": {
                "type": "string", "x-kubernetes-validations": rule(r"self.matches('^[.]{2}$')"),
            }},
            "other": {"type": "string", "x-kubernetes-validations": rule(r"self.matches('a') && self.matches('b')")},
        }});
        let mut rest = schema.clone();
        let patterns = Patterns::take(&mut rest);
        let remaining = |field: &str| rest["properties"][field][RULES].as_array().unwrap().len();
        assert_eq!((remaining("name"), remaining("key"), remaining("other")), (0, 0, 1));
        let all = compile_schema(&schema);
        for value in [
            json!({"name": "abc", "key": "a b", "tags": [".."]}),
            json!({"name": "aBc"}),
            json!({"name": "é", "key": "a\u{7}"}),
            json!({"key": "a\\b", "tags": ["..", "..."]}),
            json!({"key": "\u{FEFF}", "name": ""}),
            json!({"tags": []}),
            json!({}),
        ] {
            let cel = Validator::new().validate_compiled(&all, &value, None);
            let mut cel: Vec<_> = cel
                .err()
                .iter()
                .flat_map(|errors| errors.iter())
                .map(|e| format!("{}: {}", e.field_path, e.message))
                .collect();
            let mut broken = Vec::new();
            patterns.check(&value, "", &mut broken);
            cel.sort();
            broken.sort();
            assert_eq!(broken, cel, "{value}");
        }
    }

    #[test]
    fn rules_that_are_not_plain_patterns_stay_with_the_cel_library() {
        for rule in [
            r"self.matches('a') || self.matches('b')",
            r"self.matches('\n')",
            r"self.matches('a\\')",
            "self.matches(\"a\")",
            "size(self) > 1",
        ] {
            assert!(
                Pattern::of(&json!({"rule": rule, "message": "m"})).is_none(),
                "{rule} must stay"
            );
        }
        assert!(Pattern::of(&json!({"rule": "self.matches('a')", "messageExpression": "m"})).is_none());
    }
}
