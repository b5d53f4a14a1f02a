//! Reads an account key from a credentials Secret.

use super::sas::SharedKey;
use crate::provider::secret_data::{CredentialsError, Entries, plain};

const ACCOUNT: &str = "AZURE_STORAGE_ACCOUNT";
const KEY: &str = "AZURE_STORAGE_KEY";
const USUAL: &str = "AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY";

/// Reads the key of an Azure storage account from a Secret. The entries of the Secret have the names of the Azure
/// CLI's environment variables.
///
/// Valet ignores upper and lower case in these names, and accepts names without separators or prefixes. Other tools
/// write such names, for example `accountKey` and `azurestorageaccountkey`.
///
/// # Errors
/// Returns [`CredentialsError`] if the Secret contains no valid account key.
pub fn account_key(data: &[(&str, &[u8])], account: &str) -> Result<SharedKey, CredentialsError> {
    let entries = Entries::read(data, meaning)?;
    if entries.text(ACCOUNT)?.is_some_and(|other| other != account) {
        return Err(CredentialsError::Unfit(
            ACCOUNT.into(),
            "the Secret is for a storage account other than spec.azureBlob.account",
        ));
    }
    let key = entries.required(KEY, USUAL)?;
    SharedKey::parse(key).ok_or_else(|| CredentialsError::Unusable(KEY.into(), "not an account key (base64)"))
}

fn meaning(name: &str) -> Option<&'static str> {
    let plain = plain(name);
    let plain = plain.strip_prefix("azure").unwrap_or(&plain);
    match plain.strip_prefix("storage").unwrap_or(plain) {
        "account" | "accountname" => Some(ACCOUNT),
        "key" | "accountkey" | "accesskey" => Some(KEY),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: &[(&str, &str)]) -> Result<SharedKey, CredentialsError> {
        let entries: Vec<_> = entries.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
        account_key(&entries, "mediastore")
    }

    const GOOD: &str = "bWFya2VyLW1hcmtlci1tYXJrZXItbWFya2Vy\n";

    #[test]
    fn azure_secret_entries_are_read_in_every_known_spelling() {
        for (account, key) in [
            ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY"),
            ("accountName", "accountKey"),
            ("azurestorageaccountname", "azurestorageaccountkey"),
            ("storage-account", "storage-key"),
            ("unrelated", "AZURE_STORAGE_ACCESS_KEY"),
        ] {
            let key = of(&[(account, "mediastore"), (key, GOOD), ("container", "x")]);
            assert_eq!(format!("{:?}", key.expect(account)), "<redacted>");
        }
    }

    #[test]
    fn error_about_azure_secret_contains_no_values() {
        let said = |entries: &[(&str, &str)]| of(entries).unwrap_err().to_string();
        assert_eq!(
            said(&[]),
            "the Secret has no entry AZURE_STORAGE_KEY; the usual names of entries are AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY"
        );
        let other = said(&[("AZURE_STORAGE_ACCOUNT", "marker"), ("AZURE_STORAGE_KEY", GOOD)]);
        assert_eq!(
            other,
            "the Secret entry AZURE_STORAGE_ACCOUNT cannot be used: the Secret is for a storage account other than spec.azureBlob.account"
        );
        for key in ["marker", "bWFya2Vy", "bWFya2VyLW1hcmtlci1tYXJrZXItbWFya2V", "mar ker"] {
            let said = said(&[("accountKey", key)]);
            assert!(said.contains("is not an account key"), "{said}");
        }
        assert!(said(&[("accountKey", GOOD), ("AZURE_STORAGE_KEY", GOOD)]).contains("remove one of these entries"));
    }
}
