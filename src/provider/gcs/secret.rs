//! Reads a service account key from a credentials Secret.

use super::key::ServiceAccountKey;
use crate::provider::secret_data::{CredentialsError, Entries, plain};

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
pub fn service_account_key(data: &[(&str, &[u8])]) -> Result<ServiceAccountKey, CredentialsError> {
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
