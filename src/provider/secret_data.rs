//! Reads the entries of a credentials Secret, for all providers.

use std::collections::BTreeMap;

use thiserror::Error;

/// The maximum size of an entry in a credentials Secret, in bytes. Session tokens are the largest entries, and they
/// have only a few kilobytes.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// The reason why Valet cannot use a credentials Secret. The message names entries of the Secret but does not contain
/// their values.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CredentialsError {
    #[error("the Secret has no entry {entry}; the usual names of entries are {usual}")]
    Missing {
        entry: &'static str,
        /// The usual names of all entries that the provider needs.
        usual: &'static str,
    },
    /// Two entries of the Secret have names that differ only in their spelling.
    #[error("the Secret entries {0} and {1} have the same meaning; remove one of these entries")]
    Ambiguous(String, String),
    #[error("the Secret entry {0} is {1}")]
    Unusable(String, &'static str),
    /// Valet cannot use the content of the entry. The first value is the name of the entry, and the second value is a
    /// sentence that describes the problem.
    #[error("the Secret entry {0} cannot be used: {1}")]
    Unfit(String, &'static str),
}

/// The entries of a credentials Secret. Each entry has its usual name here, even if the Secret uses a different
/// spelling that Valet accepts.
pub(super) struct Entries<'a>(BTreeMap<&'static str, (&'a str, &'a [u8])>);

impl<'a> Entries<'a> {
    /// Reads the entries of a credentials Secret. The function `meaning` converts the name of an entry to its usual
    /// name. The function `meaning` returns `None` if the provider does not use the entry.
    pub(super) fn read(
        data: &[(&'a str, &'a [u8])],
        meaning: fn(&str) -> Option<&'static str>,
    ) -> Result<Self, CredentialsError> {
        let mut entries: BTreeMap<&'static str, (&str, &[u8])> = BTreeMap::new();
        for (name, value) in data.iter().copied() {
            let Some(meaning) = meaning(name) else { continue };
            if let Some((other, _)) = entries.insert(meaning, (name, value)) {
                return Err(CredentialsError::Ambiguous(other.to_owned(), name.to_owned()));
            }
        }
        Ok(Self(entries))
    }

    /// Returns the text of an entry. The function removes line breaks at both ends, because editors add them.
    pub(super) fn text(&self, meaning: &'static str) -> Result<Option<&'a str>, CredentialsError> {
        let Some((name, value)) = self.0.get(meaning) else {
            return Ok(None);
        };
        let unusable = |why| Err(CredentialsError::Unusable((*name).to_owned(), why));
        if value.len() > MAX_SECRET_BYTES {
            return unusable("longer than 64 KiB");
        }
        match std::str::from_utf8(value).map(|v| v.trim_matches(['\r', '\n', ' '])) {
            Ok("") => unusable("empty"),
            Ok(v) if v.chars().any(|c| c.is_control() || !c.is_ascii()) => unusable("not plain text"),
            Ok(v) => Ok(Some(v)),
            Err(_) => unusable("not plain text"),
        }
    }

    /// Returns the name and the content of an entry that contains a file.
    pub(super) fn file(&self, meaning: &'static str) -> Result<Option<(&'a str, &'a [u8])>, CredentialsError> {
        match self.0.get(meaning) {
            Some((name, value)) if value.len() > MAX_SECRET_BYTES => {
                Err(CredentialsError::Unusable((*name).to_owned(), "longer than 64 KiB"))
            }
            found => Ok(found.copied()),
        }
    }

    /// Returns the text of a required entry. If the entry is missing, the error message contains `usual`, a list of
    /// the entry names that the provider needs.
    pub(super) fn required(&self, meaning: &'static str, usual: &'static str) -> Result<&'a str, CredentialsError> {
        let missing = CredentialsError::Missing { entry: meaning, usual };
        self.text(meaning)?.ok_or(missing)
    }
}

/// Converts the name of an entry to lower case and removes separators such as `-`, `_` and `.`.
pub(super) fn plain(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase()
}
