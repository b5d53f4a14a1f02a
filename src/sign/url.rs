use std::fmt;

/// A signed URL: whoever reads it holds the key. It cannot be printed, logged or serialised by accident; its one
/// way out is [`SignedUrl::expose`], for the Secret's data.
pub struct SignedUrl(String);

impl SignedUrl {
    /// Takes a URL out of sight.
    pub fn new(url: String) -> Self {
        Self(url)
    }

    /// The URL itself. Only what goes into a Secret's data may call this.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// The fields of a signed form, names and values, the signature among them: as much a key as a URL is, and kept out of
/// sight in the same way.
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Takes fields out of sight.
    pub fn new(fields: Vec<(String, String)>) -> Self {
        Self(fields)
    }

    /// The fields themselves. Only what goes into a Secret's data may call this.
    pub fn expose(&self) -> &[(String, String)] {
        &self.0
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Entries of a Secret's data, names and values, credentials among them: kept out of sight in the same way.
pub struct Entries(Vec<(&'static str, String)>);

impl Entries {
    /// Takes entries out of sight.
    pub fn new(entries: Vec<(&'static str, String)>) -> Self {
        Self(entries)
    }

    /// The entries themselves. Only what goes into a Secret's data may call this.
    pub fn expose(&self) -> &[(&'static str, String)] {
        &self.0
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let url = SignedUrl::new("https://store/x?X-Amz-Signature=abc".into());
        assert_eq!(format!("{url:?} {:#?}", Some(&url)).matches("abc").count(), 0);
        let form = Form::new(vec![("x-amz-signature".into(), "abc".into())]);
        assert_eq!(format!("{form:?} {:#?}", Some(&form)).matches("abc").count(), 0);
        let entries = Entries::new(vec![("AWS_SECRET_ACCESS_KEY", "abc".into())]);
        assert_eq!(format!("{entries:?} {:#?}", Some(&entries)).matches("abc").count(), 0);
    }
}
