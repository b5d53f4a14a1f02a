use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A number of bytes. Users write it as a plain number or as a Kubernetes quantity.
///
/// The type `IntOrString` is not suitable, because its largest number is below 2 GiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ByteSize {
    /// A plain number of bytes.
    Number(i64),
    /// A whole number with one of the suffixes k, M, G, T, P, Ki, Mi, Gi, Ti and Pi.
    Quantity(String),
}

impl JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteSize".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"x-kubernetes-int-or-string": true, "maxLength": 20})
    }
}

impl ByteSize {
    /// Returns the number of bytes. Returns `None` if the text is not a size or the size is not positive. If the
    /// number is above the maximum of `i64`, the method returns this maximum, because no object is that large.
    pub fn bytes(&self) -> Option<i64> {
        let text = match self {
            Self::Number(n) => return (*n > 0).then_some(*n),
            Self::Quantity(text) => text,
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit: i64 = match &text[digits..] {
            "" => 1,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "P" => 1_000_000_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            "Pi" => 1 << 50,
            _ => return None,
        };
        let bytes = text[..digits].parse::<i64>().ok()?.saturating_mul(unit);
        (bytes > 0).then_some(bytes)
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Quantity(text) => f.write_str(text),
        }
    }
}
