//! The documents that `valet sign` reads. What the apiserver would refuse is refused.

use std::{fmt::Display, fs, io::Read, path::PathBuf};

use k8s_openapi::api::core::v1::{Namespace, Secret};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_yaml::Value;

use crate::api::{ClusterObjectStore, DownloadGrant, GROUP, ObjectStore, UploadGrant, VERSION};

/// The largest input that is read.
const MAX_BYTES: u64 = 4 << 20;

/// What was found in the files.
#[derive(Default)]
pub struct Documents {
    /// Of each kind, in the order of the files.
    pub uploads: Vec<UploadGrant>,
    /// As above.
    pub downloads: Vec<DownloadGrant>,
    /// As above.
    pub stores: Vec<ObjectStore>,
    /// As above.
    pub cluster_stores: Vec<ClusterObjectStore>,
    /// With their labels.
    pub namespaces: Vec<Namespace>,
    /// With the credentials of ObjectStores.
    pub secrets: Vec<Secret>,
}

impl Documents {
    /// Reads all files; `-` is standard input.
    ///
    /// # Errors
    /// A sentence that names the file.
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
                _ => eprintln!("valet: {file}: a {kind} is not needed for signing and was skipped"),
            }
        }
        Ok(())
    }
}

/// All of the input, or none of it: what was cut off might have been a constraint.
fn whole(input: impl Read) -> Result<String, String> {
    let mut text = String::new();
    let read = input.take(MAX_BYTES + 1).read_to_string(&mut text);
    match read {
        Ok(bytes) if bytes as u64 > MAX_BYTES => Err(format!(
            "the input is longer than {} MiB, the most that is read; give only the grant and its store",
            MAX_BYTES >> 20
        )),
        Ok(_) => Ok(text),
        Err(e) => Err(e.to_string()),
    }
}

/// The only one that fits; several would be a choice that nobody made.
///
/// # Errors
/// A sentence, if there are several.
pub fn only<'a, T>(all: &'a [T], what: &str, fits: impl Fn(&T) -> bool) -> Result<Option<&'a T>, String> {
    let mut fitting = all.iter().filter(|one| fits(one));
    match (fitting.next(), fitting.next()) {
        (first, None) => Ok(first),
        _ => Err(format!("{what} is in the files more than once; give it once")),
    }
}

fn typed<T: DeserializeOwned>(file: &impl Display, kind: &str, value: Value) -> Result<T, String> {
    serde_yaml::from_value(value).map_err(|e| match kind {
        // The error's own text would quote a value that cannot be read.
        "Secret" => format!("{file}: Secret: not a Secret of Kubernetes; check data (base64) and stringData"),
        _ => format!("{file}: {kind}: {e}"),
    })
}

/// The same for Valet's own kinds, where an unknown field is a mistake, as it is for the apiserver: with a constraint
/// that is misspelt, the credential would permit more than was meant.
fn strict<T: DeserializeOwned + Serialize>(file: &impl Display, kind: &str, value: Value) -> Result<T, String> {
    let wanted = format!("{GROUP}/{VERSION}");
    match value.get("apiVersion").and_then(Value::as_str) {
        Some(version) if version == wanted => {}
        other => {
            let found = other.unwrap_or("missing");
            return Err(format!("{file}: {kind}: apiVersion is {found}; write {wanted}"));
        }
    }
    let object: T = typed(file, kind, value.clone())?;
    let known = serde_yaml::to_value(&object).map_err(|e| format!("{file}: {kind}: {e}"))?;
    match unknown_field(&value, &known, "") {
        Some(path) => Err(format!(
            "{file}: {kind}: unknown field {path}; correct its spelling or remove it"
        )),
        None => Ok(object),
    }
}

/// The first field that was written and not read. An empty value states nothing and may be left out.
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
    fn input_at_the_limit_is_read_and_beyond_it_refused() {
        let most = usize::try_from(MAX_BYTES).unwrap();
        assert_eq!(whole(&vec![b'#'; most][..]).unwrap().len(), most);
        let refused = whole(&vec![b'#'; most + 1][..]).unwrap_err();
        assert!(refused.contains("longer than 4 MiB"), "{refused}");
    }

    /// A value of a Secret is never in a message.
    #[test]
    fn unreadable_secret_is_named_without_its_values() {
        let text = "kind: Secret\ndata: {AWS_SECRET_ACCESS_KEY: 'mark:er'}\n";
        let refused = Documents::default().take(&"f", text).unwrap_err();
        assert!(
            refused.contains("not a Secret") && !refused.contains("mark"),
            "{refused}"
        );
    }
}
