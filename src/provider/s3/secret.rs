//! Reads an access key from a credentials Secret.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use jiff::Timestamp;

use crate::provider::secret_data::{CredentialsError, Entries, plain};

/// Reads an access key from a Secret. The entries of the Secret have the names of the AWS environment variables.
///
/// Valet ignores upper and lower case in these names, and accepts names without separators or without the prefix
/// `AWS_`. Other tools write such names, for example `accessKeyId` and `secret-access-key`.
///
/// # Errors
/// Returns [`CredentialsError`] if the Secret contains no valid access key.
pub fn access_key(data: &[(&str, &[u8])]) -> Result<Credentials, CredentialsError> {
    let secret_entries = Entries::read(data, meaning)?;
    let id = secret_entries.required(ACCESS_KEY_ID, USUAL)?;
    let secret = secret_entries.required(SECRET_ACCESS_KEY, USUAL)?;
    let token = secret_entries.text(SESSION_TOKEN)?.map(str::to_owned);
    let expiry = secret_entries
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
    use crate::provider::secret_data::MAX_SECRET_BYTES;

    fn of(secret_entries: &[(&str, &str)]) -> Result<Credentials, CredentialsError> {
        let secret_entries: Vec<_> = secret_entries.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
        access_key(&secret_entries)
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
        for (secret_entries, entry) in [(&[id][..], SECRET_ACCESS_KEY), (&[], ACCESS_KEY_ID)] {
            assert_eq!(
                of(secret_entries).unwrap_err(),
                CredentialsError::Missing { entry, usual }
            );
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
