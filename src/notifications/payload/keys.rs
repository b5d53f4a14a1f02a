//! Decodes object keys in notifications.

/// Returns all object keys that the text of a notification can stand for. The list contains the unchanged text and the
/// result of each decoding that Valet supports.
pub fn possible_keys(key: String) -> Vec<String> {
    let mut keys: Vec<String> = [decoded(&key, true), decoded(&key, false)]
        .into_iter()
        .flatten()
        .collect();
    keys.push(key);
    keys.dedup();
    keys
}

/// Decodes percent-encoding once. Returns `None` if the result is not UTF-8.
pub fn decoded(key: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{arrived, object, record};

    #[test]
    fn ambiguously_encoded_object_key_is_decoded_in_all_ways() {
        for (sent, keys) in [
            ("a b", &["a b"][..]),
            ("a+b", &["a b", "a+b"]),
            ("a%2Bb", &["a+b", "a%2Bb"]),
            ("a+%2B", &["a +", "a++", "a+%2B"]),
            ("%C3%A4", &["ä", "%C3%A4"]),
            ("ä", &["ä"]),
            ("%", &["%"]),
            ("%4", &["%4"]),
            ("%zz", &["%zz"]),
            ("%ff", &["%ff"]),
            ("%2541", &["%41", "%2541"]),
            ("", &[""]),
        ] {
            let found = arrived(&json!({"Records": [record("ObjectCreated:Put", sent)]}));
            assert_eq!(found, [object("media", keys)], "{sent}");
        }
    }
}
