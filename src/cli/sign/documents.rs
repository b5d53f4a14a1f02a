//! Reads the documents for `valet sign`. Returns an error for a document that the apiserver would reject.

use std::{fmt::Display, fs, io::Read, path::PathBuf};

use k8s_openapi::api::core::v1::{Namespace, Secret};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_yaml::Value;

use crate::api::{ClusterObjectStore, DownloadGrant, GROUP, ObjectStore, UploadGrant, VERSION};

/// The maximum size of one input file, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// The documents from all files, in the order of the files.
#[derive(Default)]
pub struct Documents {
    pub uploads: Vec<UploadGrant>,
    pub downloads: Vec<DownloadGrant>,
    pub stores: Vec<ObjectStore>,
    pub cluster_stores: Vec<ClusterObjectStore>,
    /// The Namespaces in the documents. Access rules can select namespaces by label.
    pub namespaces: Vec<Namespace>,
    /// The Secrets in the documents. They contain the credentials of ObjectStores.
    pub secrets: Vec<Secret>,
}

impl Documents {
    /// Reads all files. The name `-` means standard input.
    ///
    /// # Errors
    /// Returns a sentence that begins with the file name.
    pub fn read(files: &[PathBuf]) -> Result<Self, String> {
        let mut found = Self::default();
        for path in files {
            let name = path.display();
            let text = if path.as_os_str() == "-" {
                whole(std::io::stdin())
            } else {
                fs::File::open(path).map_err(|e| e.to_string()).and_then(whole)
            };
            found.take(&name, &text.map_err(|e| format!("{name}: {e}"))?)?;
        }
        Ok(found)
    }

    fn take(&mut self, file: &impl Display, text: &str) -> Result<(), String> {
        for document in serde_yaml::Deserializer::from_str(text) {
            let value = Value::deserialize(document).map_err(|e| format!("{file}: not YAML: {e}"))?;
            if value.is_null() {
                continue;
            }
            let kind = value.get("kind").and_then(Value::as_str).unwrap_or("(none)").to_owned();
            match kind.as_str() {
                "UploadGrant" => self.uploads.push(strict(file, &kind, value)?),
                "DownloadGrant" => self.downloads.push(strict(file, &kind, value)?),
                "ObjectStore" => self.stores.push(strict(file, &kind, value)?),
                "ClusterObjectStore" => self.cluster_stores.push(strict(file, &kind, value)?),
                "Namespace" => self.namespaces.push(typed(file, &kind, value)?),
                "Secret" => self.secrets.push(typed(file, &kind, value)?),
                _ => eprintln!("valet: {file}: the kind {kind} is not needed for signing and is ignored"),
            }
        }
        Ok(())
    }
}

/// Reads the whole input. Returns an error if the input is larger than the limit. A truncated document could lack a
/// constraint of the grant.
fn whole(input: impl Read) -> Result<String, String> {
    let mut text = String::new();
    let read = input.take(MAX_BYTES + 1).read_to_string(&mut text);
    match read {
        Ok(bytes) if bytes as u64 > MAX_BYTES => Err(format!(
            "the input is longer than {limit} MiB, the maximum size; pass only the grant and its store",
            limit = MAX_BYTES >> 20
        )),
        Ok(_) => Ok(text),
        Err(e) => Err(e.to_string()),
    }
}

/// Returns the only element that matches, or `None` if no element matches.
///
/// # Errors
/// Returns a sentence if more than one element matches.
pub fn only<'a, T>(all: &'a [T], document: &str, fits: impl Fn(&T) -> bool) -> Result<Option<&'a T>, String> {
    let mut fitting = all.iter().filter(|one| fits(one));
    match (fitting.next(), fitting.next()) {
        (first, None) => Ok(first),
        _ => Err(format!(
            "the files contain {document} more than once; remove the duplicates"
        )),
    }
}

fn typed<T: DeserializeOwned>(file: &impl Display, kind: &str, value: Value) -> Result<T, String> {
    serde_yaml::from_value(value).map_err(|e| match kind {
        // The message does not contain the parser's error, because that error could quote a value of the Secret.
        "Secret" => {
            format!("{file}: Kubernetes would not accept this Secret; check that data contains base64 and that stringData contains strings")
        }
        _ => format!("{file}: {kind}: {e}"),
    })
}

/// Parses a grant or a store. The function rejects unknown fields, as the apiserver does. If it ignored a misspelled
/// constraint, the credential would allow more than the author intended.
fn strict<T: DeserializeOwned + Serialize>(file: &impl Display, kind: &str, value: Value) -> Result<T, String> {
    let wanted = format!("{GROUP}/{VERSION}");
    match value.get("apiVersion").and_then(Value::as_str) {
        Some(version) if version == wanted => {}
        other => {
            let found = other.unwrap_or("missing");
            return Err(format!(
                "{file}: {kind}: apiVersion is {found}; set apiVersion to {wanted}"
            ));
        }
    }
    let object: T = typed(file, kind, value.clone())?;
    let known = serde_yaml::to_value(&object).map_err(|e| format!("{file}: {kind}: {e}"))?;
    match unknown_field(&value, &known, "") {
        Some(path) => Err(format!(
            "{file}: {kind}: unknown field {path}; correct the spelling or remove the field"
        )),
        None => Ok(object),
    }
}

/// Returns the path of the first field that is in the document but not in the parsed object. The function ignores
/// fields with empty values.
fn unknown_field(written: &Value, read: &Value, path: &str) -> Option<String> {
    match (written, read) {
        (Value::Mapping(written), read) => written.iter().find_map(|(key, value)| {
            let path = format!("{path}.{}", key.as_str().unwrap_or("?"));
            let empty = value.is_null()
                || value.as_mapping().is_some_and(|m| m.is_empty())
                || value.as_sequence().is_some_and(|s| s.is_empty());
            match read.get(key) {
                Some(read) => unknown_field(value, read, &path),
                None if empty => None,
                None => Some(path.trim_start_matches('.').to_owned()),
            }
        }),
        (Value::Sequence(written), Value::Sequence(read)) => {
            let pairs = written.iter().zip(read).enumerate();
            pairs
                .into_iter()
                .find_map(|(n, (w, r))| unknown_field(w, r, &format!("{path}[{n}]")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_at_the_size_limit_is_read_and_longer_input_is_rejected() {
        let most = usize::try_from(MAX_BYTES).unwrap();
        assert_eq!(whole(&vec![b'#'; most][..]).unwrap().len(), most);
        let refused = whole(&vec![b'#'; most + 1][..]).unwrap_err();
        assert!(refused.contains("longer than 4 MiB"), "{refused}");
    }

    /// An error message must never contain a value of a Secret.
    #[test]
    fn error_about_invalid_secret_contains_no_values() {
        let text = "kind: Secret\ndata: {AWS_SECRET_ACCESS_KEY: 'mark:er'}\n";
        let refused = Documents::default().take(&"f", text).unwrap_err();
        assert!(
            refused.contains("not accept this Secret") && !refused.contains("mark"),
            "{refused}"
        );
    }
}
