use thiserror::Error;

/// An object key that every store, client and proxy interprets in one way.
///
/// Stores interpret the segments `.` and `..` and empty segments differently. HTTP clients resolve these segments,
/// and some proxies decode a URL twice. The store could then use an object key that Valet did not sign.
///
/// Valet refuses object keys that have a segment `.` or `..` or an empty segment. It never changes an object key that
/// it accepts.
///
/// In modes that support prefixes, a key that ends with '/' is a prefix. A prefix stands for every object key that
/// starts with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey(String);

/// The reason why Valet refuses an object key. Each message says what the user can do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error("spec.key is empty; enter an object key")]
    Empty,
    /// The object key is longer than the store allows.
    #[error(
        "spec.key is {length} bytes long in UTF-8; the store accepts at most {limit} bytes; shorten the object key"
    )]
    TooLong {
        /// The length of the refused key in bytes.
        length: usize,
        /// The maximum length in bytes that the store accepts.
        limit: usize,
    },
    /// The object key contains `//`, or has a slash at its start or end.
    #[error(
        "spec.key has an empty segment, because it starts or ends with '/' or contains '//'; write the object key as 'folder/file'"
    )]
    EmptySegment,
    /// The object key has a segment `.` or `..`. A percent-encoded form of these segments also counts.
    #[error(
        "spec.key has a '.' or '..' segment, plain or percent-encoded; clients and stores resolve such a segment differently; write the object key without '.' and '..' segments"
    )]
    DotSegment,
    /// The object key has a control character, a line separator, a text direction character, or a character that XML
    /// does not allow.
    #[error(
        "spec.key contains the character U+{0:04X}, which is a control, line separator or text direction character; remove this character"
    )]
    Control(u32),
}

impl ObjectKey {
    /// Accepts an object key without changes. `limit` is the maximum length of the key in bytes.
    ///
    /// # Errors
    ///
    /// Returns a [`KeyError`] that says what is wrong with the key.
    pub fn parse(key: &str, limit: usize) -> Result<Self, KeyError> {
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        if key.len() > limit {
            return Err(KeyError::TooLong {
                length: key.len(),
                limit,
            });
        }
        if let Some(c) = key.chars().find(|c| is_forbidden(*c)) {
            return Err(KeyError::Control(c as u32));
        }
        if key.split('/').any(str::is_empty) {
            return Err(KeyError::EmptySegment);
        }
        // Some clients decode an object key several times. No result of these decodings may contain a segment `.` or
        // `..`. The loop therefore checks the object key and decodes it, until decoding no longer changes it.
        let mut spelling = key.to_owned();
        loop {
            if spelling
                .split(['/', '\\'])
                .any(|segment| segment == "." || segment == "..")
            {
                return Err(KeyError::DotSegment);
            }
            let decoded = decode_separators(&spelling);
            if decoded == spelling {
                return Ok(Self(key.to_owned()));
            }
            spelling = decoded;
        }
    }

    /// Accepts an object key, or a prefix that ends with '/'. The slash stays in the key.
    ///
    /// # Errors
    ///
    /// Returns a [`KeyError`] that says what is wrong with the key.
    pub fn parse_scope(key: &str, limit: usize) -> Result<Self, KeyError> {
        let Some(folder) = key.strip_suffix('/') else {
            return Self::parse(key, limit);
        };
        Self::parse(folder, limit.saturating_sub(1)).map(|folder| Self(folder.0 + "/"))
    }

    /// Returns true if the key is a prefix. A prefix stands for every object key that starts with it.
    pub fn is_prefix(&self) -> bool {
        self.0.ends_with('/')
    }

    /// Returns the object key, with exactly the bytes of `spec.key` in the grant.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true if the object key is under `prefix`. The function compares whole segments. For example, `a/b/c`
    /// is under `a/b`, but `a/bc` and `a/b` are not. Every object key is under an empty prefix.
    ///
    /// If the key is itself a prefix, the function returns true if every object key with this prefix is under `prefix`.
    /// For example, the key `a/b/` is under `a/b`.
    pub fn is_below(&self, prefix: &str) -> bool {
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        prefix.is_empty() || self.0.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
    }
}

fn is_forbidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}')
}

/// Decodes one level of percent-encoding. Only `.`, `/`, `\` and `%` are decoded, because only these characters can
/// form a segment `.` or `..`.
fn decode_separators(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let decoded = rest
            .get(at + 1..at + 3)
            .and_then(|hex| match hex.to_ascii_lowercase().as_str() {
                "2e" => Some('.'),
                "2f" => Some('/'),
                "5c" => Some('\\'),
                "25" => Some('%'),
                _ => None,
            });
        match decoded {
            Some(c) => {
                out.push(c);
                rest = &rest[at + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_matches_only_whole_path_segments() {
        let key = ObjectKey::parse("team-a/x/y", 1024).unwrap();
        for (prefix, below) in [
            ("", true),
            ("team-a", true),
            ("team-a/", true),
            ("team-a/x", true),
            ("team-a/x/", true),
            ("team-a/x/y", false),
            ("team", false),
            ("team-", false),
            ("team-a/x/y/z", false),
            ("Team-a", false),
            ("team-ab", false),
        ] {
            assert_eq!(key.is_below(prefix), below, "{prefix}");
        }
        assert!(!ObjectKey::parse("team-ab/x", 1024).unwrap().is_below("team-a"));
    }

    #[test]
    fn key_with_a_slash_at_the_end_is_a_prefix() {
        let scope = ObjectKey::parse_scope("team-a/x/", 1024).unwrap();
        assert_eq!((scope.as_str(), scope.is_prefix()), ("team-a/x/", true));
        for (prefix, below) in [
            ("", true),
            ("team-a", true),
            ("team-a/x", true),
            ("team-a/x/", true),
            ("team-a/x/y", false),
            ("team-a/xy", false),
            ("team", false),
        ] {
            assert_eq!(scope.is_below(prefix), below, "{prefix}");
        }
        assert!(!ObjectKey::parse_scope("a", 1024).unwrap().is_prefix());
        for (key, why) in [
            ("/", KeyError::Empty),
            ("a//", KeyError::EmptySegment),
            ("a/../", KeyError::DotSegment),
            ("a/%2e/", KeyError::DotSegment),
        ] {
            assert_eq!(ObjectKey::parse_scope(key, 1024), Err(why), "{key}");
        }
        assert!(ObjectKey::parse_scope(&("a".repeat(1023) + "/"), 1024).is_ok());
        assert!(ObjectKey::parse_scope(&("a".repeat(1024) + "/"), 1024).is_err());
        // A grant for one object never becomes a grant for a prefix.
        assert_eq!(ObjectKey::parse("a/", 1024), Err(KeyError::EmptySegment));
    }

    #[test]
    fn dot_segments_are_rejected_at_every_depth_of_encoding() {
        for depth in 0..5 {
            let dots = format!("a/%{}2e%{}2E/b", "25".repeat(depth), "25".repeat(depth));
            assert_eq!(ObjectKey::parse(&dots, 1024), Err(KeyError::DotSegment), "{dots}");
            let slash = format!("a/..%{}2fb", "25".repeat(depth));
            assert_eq!(ObjectKey::parse(&slash, 1024), Err(KeyError::DotSegment), "{slash}");
        }
        // A percent sign is an ordinary character if it is at the end of the key or before a multi-byte character.
        for fine in ["100%", "100%2", "%é", "a%2Fb", "dt=2024%2F01", "..a/b..", "...", "a/.b"] {
            assert_eq!(ObjectKey::parse(fine, 1024).unwrap().as_str(), fine);
        }
    }

    #[test]
    fn key_length_is_counted_in_bytes() {
        assert!(ObjectKey::parse(&"é".repeat(512), 1024).is_ok());
        assert_eq!(
            ObjectKey::parse(&"é".repeat(513), 1024),
            Err(KeyError::TooLong {
                length: 1026,
                limit: 1024
            })
        );
    }
}
