mod azure;

use std::{collections::BTreeMap, time::SystemTime};

use aws_credential_types::Credentials;
use jiff::Timestamp;
use thiserror::Error;

pub(in crate::provider) use azure::azure;

use crate::provider::gcs::ServiceAccountKey;

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
    /// name. It returns `None` if the provider does not use the entry.
    pub(super) fn read(
        data: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        meaning: fn(&str) -> Option<&'static str>,
    ) -> Result<Self, CredentialsError> {
        let mut entries: BTreeMap<&'static str, (&str, &[u8])> = BTreeMap::new();
        for (name, value) in data {
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

    /// Returns the name and the content of an entry. The content of such an entry is a file.
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

/// Converts the name of an entry to lower case and removes the separators.
pub(super) fn plain(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase()
}

/// Reads a service account key from a Secret. The usual name of the entry is `credentials.json`. Upper and lower case
/// and separators do not matter. Valet also accepts names that other tools use, for example `key.json` and
/// `service-account.json`.
///
/// Valet accepts no other kind of Google credentials in a Secret. For example, the configuration of a workload
/// identity federation names a file. The author of such a Secret could make the operator read any file in its own
/// pod.
///
/// # Errors
/// Returns [`CredentialsError`] if the Secret contains no valid key.
pub fn gcs<'a>(data: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<ServiceAccountKey, CredentialsError> {
    let meaning = |name: &str| match plain(name).as_str() {
        "credentialsjson"
        | "keyjson"
        | "serviceaccountjson"
        | "serviceaccountkeyjson"
        | "gcpcredentialsjson"
        | "googleapplicationcredentials"
        | "googlecredentials" => Some(CREDENTIALS_JSON),
        _ => None,
    };
    let found = Entries::read(data, meaning)?.file(CREDENTIALS_JSON)?;
    let (name, json) = found.ok_or(CredentialsError::Missing {
        entry: CREDENTIALS_JSON,
        usual: "credentials.json and key.json",
    })?;
    ServiceAccountKey::parse(json).map_err(|why| CredentialsError::Unfit(name.to_owned(), why))
}

const CREDENTIALS_JSON: &str = "credentials.json";

/// Reads an access key from a Secret. The entries of the Secret have the names of the AWS environment variables.
///
/// Valet ignores upper and lower case in these names, and accepts names without separators or without the prefix
/// `AWS_`. Other tools write such names, for example `accessKeyId` and `secret-access-key`.
///
/// # Errors
/// Returns [`CredentialsError`] if the Secret contains no valid access key.
pub fn s3<'a>(data: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Credentials, CredentialsError> {
    let entries = Entries::read(data, meaning)?;
    let id = entries.required(ACCESS_KEY_ID, USUAL)?;
    let secret = entries.required(SECRET_ACCESS_KEY, USUAL)?;
    let token = entries.text(SESSION_TOKEN)?.map(str::to_owned);
    let expiry = entries
        .text(CREDENTIAL_EXPIRATION)?
        .map(|t| t.parse::<Timestamp>())
        .transpose()
        .map_err(|_| CredentialsError::Unusable(CREDENTIAL_EXPIRATION.into(), "not an RFC 3339 time"))?;
    Ok(Credentials::new(
        id,
        secret,
        token,
        expiry.map(SystemTime::from),
        "Secret",
    ))
}

const ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const SECRET_ACCESS_KEY: &str = "AWS_SECRET_ACCESS_KEY";
const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";
const CREDENTIAL_EXPIRATION: &str = "AWS_CREDENTIAL_EXPIRATION";
const USUAL: &str = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

fn meaning(name: &str) -> Option<&'static str> {
    let plain = plain(name);
    match plain.strip_prefix("aws").unwrap_or(&plain) {
        "accesskeyid" | "accesskey" => Some(ACCESS_KEY_ID),
        "secretaccesskey" | "secretkey" | "accesssecretkey" => Some(SECRET_ACCESS_KEY),
        "sessiontoken" => Some(SESSION_TOKEN),
        "credentialexpiration" | "expiration" => Some(CREDENTIAL_EXPIRATION),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: &[(&str, &str)]) -> Result<Credentials, CredentialsError> {
        s3(entries.iter().map(|(n, v)| (*n, v.as_bytes())))
    }

    #[test]
    fn aws_secret_entries_are_read_in_every_known_spelling() {
        for (id, secret) in [
            ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            ("accessKeyID", "secretAccessKey"),
            ("access-key-id", "secret-access-key"),
            ("accesskey", "secretkey"),
            ("accessKeyID", "accessSecretKey"),
        ] {
            let c = of(&[(id, "AKIA\n"), (secret, "wJalr"), ("bucket", "x")]).unwrap();
            assert_eq!(
                (c.access_key_id(), c.secret_access_key(), c.session_token()),
                ("AKIA", "wJalr", None)
            );
            assert_eq!(c.expiry(), None);
        }
    }

    #[test]
    fn expiry_of_temporary_credentials_is_read() {
        let pair = [
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_SESSION_TOKEN", "t"),
        ];
        let c = of(&[&pair[..], &[("AWS_CREDENTIAL_EXPIRATION", "2026-01-02T03:04:05+00:00")]].concat()).unwrap();
        assert_eq!(c.session_token(), Some("t"));
        assert_eq!(
            Timestamp::try_from(c.expiry().unwrap()).unwrap().to_string(),
            "2026-01-02T03:04:05Z"
        );
        let bad = of(&[&pair[..], &[("AWS_CREDENTIAL_EXPIRATION", "tomorrow")]].concat());
        assert_eq!(
            bad.unwrap_err().to_string(),
            "the Secret entry AWS_CREDENTIAL_EXPIRATION is not an RFC 3339 time"
        );
    }

    #[test]
    fn error_about_aws_secret_names_the_entry_without_its_value() {
        let id = ("AWS_ACCESS_KEY_ID", "AKIA");
        let usual = USUAL;
        for (entries, entry) in [(&[id][..], SECRET_ACCESS_KEY), (&[], ACCESS_KEY_ID)] {
            assert_eq!(of(entries).unwrap_err(), CredentialsError::Missing { entry, usual });
        }
        let twice = of(&[id, ("accessKeyId", "marker")]).unwrap_err();
        assert_eq!(
            twice,
            CredentialsError::Ambiguous("AWS_ACCESS_KEY_ID".into(), "accessKeyId".into())
        );
        for value in ["", " \n", "mar\u{0}ker", "márker"] {
            let error = of(&[id, ("AWS_SECRET_ACCESS_KEY", value)]).unwrap_err();
            assert!(matches!(error, CredentialsError::Unusable(..)), "{value:?}");
            assert!(!error.to_string().contains("rker"));
        }
        let long = "x".repeat(MAX_SECRET_BYTES + 1);
        assert!(of(&[id, ("AWS_SECRET_ACCESS_KEY", &long)]).is_err());
    }
}
