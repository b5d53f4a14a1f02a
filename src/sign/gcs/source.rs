//! Where the credentials are read from: a Secret, or the operator's own environment (Application Default Credentials).

use std::{collections::BTreeMap, path::Path, sync::Arc};

use http::Uri;
use serde::Deserialize;

use super::{
    http::is_private,
    key::ServiceAccountKey,
    tokens::{External, Source},
};

/// The most bytes that a file or an entry of a Secret may have.
const MAX_BYTES: usize = 64 * 1024;
/// The metadata server's own address, which needs no DNS.
const METADATA_HOST: &str = "169.254.169.254";

/// The names by which tools write a service account's key into a Secret, without case and separators.
const NAMES: [&str; 7] = [
    "credentialsjson",
    "keyjson",
    "serviceaccountjson",
    "serviceaccountkeyjson",
    "gcpcredentialsjson",
    "googleapplicationcredentials",
    "googlecredentials",
];

/// Reads a service account's key out of a Secret's data: the entry `credentials.json`, or what other tools call so
/// (`key.json`, `service-account.json`).
///
/// # Errors
/// What is wrong, as the end of a sentence that begins with the Secret. Names entries, never their values.
pub fn from_secret<'a>(data: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Source, String> {
    let plain = |name: &str| -> String {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        letters.collect::<String>().to_ascii_lowercase()
    };
    let found: BTreeMap<&str, &[u8]> = data
        .into_iter()
        .filter(|(name, _)| NAMES.contains(&plain(name).as_str()))
        .collect();
    let mut found = found.into_iter();
    let (name, value) = found
        .next()
        .ok_or("it has no entry credentials.json with a service account's key")?;
    if let Some((other, _)) = found.next() {
        return Err(format!("its entries {name} and {other} mean the same; keep one"));
    }
    if value.len() > MAX_BYTES {
        return Err(format!("its entry {name} is longer than 64 KiB"));
    }
    // Only keys. What a federation's configuration says would have the operator read its own files for a tenant.
    let key = ServiceAccountKey::parse(value).map_err(|why| format!("its entry {name} {why}"))?;
    Ok(Source::Key(Arc::new(key)))
}

/// What the operator's environment gives: the file that `GOOGLE_APPLICATION_CREDENTIALS` names, with a service account's
/// key or a workload identity federation's configuration; without it the metadata server, at `GCE_METADATA_HOST` if that is set.
///
/// # Errors
/// What is wrong, in a sentence.
pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Source, String> {
    match variable("GOOGLE_APPLICATION_CREDENTIALS").filter(|path| !path.is_empty()) {
        Some(path) => from_file(Path::new(&path)),
        None => {
            let host = variable("GCE_METADATA_HOST").filter(|host| !host.is_empty());
            let host = host.unwrap_or_else(|| METADATA_HOST.to_owned());
            match format!("http://{host}/").parse::<Uri>() {
                Ok(uri) if uri.authority().is_some_and(|a| a.as_str() == host) => Ok(Source::Metadata { host }),
                _ => Err("GCE_METADATA_HOST is no host; set it to a name or an address, with a port if it is not 80".into()),
            }
        }
    }
}

fn from_file(path: &Path) -> Result<Source, String> {
    const FILE: &str = "the file of GOOGLE_APPLICATION_CREDENTIALS";
    let json = std::fs::read(path).map_err(|e| format!("{FILE} cannot be read ({})", e.kind()))?;
    if json.len() > MAX_BYTES {
        return Err(format!("{FILE} is longer than 64 KiB"));
    }
    let kind = serde_json::from_slice::<Kind>(&json).ok().map(|k| k.kind);
    if kind.as_deref() == Some("external_account") {
        let external = external(&json).map_err(|why| format!("{FILE} {why}"))?;
        return Ok(Source::External(Arc::new(external)));
    }
    let key = ServiceAccountKey::parse(&json).map_err(|why| format!("{FILE} {why}"))?;
    Ok(Source::Key(Arc::new(key)))
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Configuration {
    audience: String,
    subject_token_type: String,
    token_url: String,
    credential_source: CredentialSource,
    service_account_impersonation_url: Option<String>,
}

#[derive(Deserialize)]
struct CredentialSource {
    file: Option<std::path::PathBuf>,
    format: Option<Format>,
}

#[derive(Deserialize)]
struct Format {
    #[serde(rename = "type")]
    kind: Option<String>,
    subject_token_field_name: Option<String>,
}

/// What `gcloud iam workload-identity-pools create-cred-config --credential-source-file` writes.
fn external(json: &[u8]) -> Result<External, String> {
    let read: Configuration = serde_json::from_slice(json)
        .map_err(|_| "is no configuration of a workload identity federation; make one with: gcloud iam workload-identity-pools create-cred-config")?;
    let address = |name: &str, text: &str| -> Result<Uri, String> {
        let uri = text.parse::<Uri>().ok().filter(is_private);
        uri.ok_or_else(|| format!("has a {name} that is no https address"))
    };
    let source = read.credential_source;
    let file = source
        .file
        .ok_or("takes its token from elsewhere than a file, which Valet does not; use --credential-source-file")?;
    let field = match source.format {
        Some(Format {
            kind: Some(kind),
            subject_token_field_name,
        }) if kind == "json" => Some(subject_token_field_name.ok_or("has no subject_token_field_name")?),
        _ => None,
    };
    Ok(External {
        token_url: address("token_url", &read.token_url)?,
        impersonation_url: read
            .service_account_impersonation_url
            .map(|url| address("service_account_impersonation_url", &url))
            .transpose()?,
        audience: read.audience,
        subject_token_type: read.subject_token_type,
        file,
        field,
    })
}
