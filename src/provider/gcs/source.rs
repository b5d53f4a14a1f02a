//! Reads the operator's own Google identity (Application Default Credentials).

use std::{path::Path, sync::Arc};

use http::Uri;
use serde::Deserialize;

use super::{
    key::ServiceAccountKey,
    tokens::{External, Source},
};
use crate::net::client::is_private;

/// A credentials file can have at most this size, in bytes.
const MAX_BYTES: usize = 64 * 1024;
/// The address of Google's metadata server. It is an IP address, so the operator needs no DNS lookup.
const METADATA_HOST: &str = "169.254.169.254";

/// Reads the source of Google credentials from the operator's environment.
///
/// The variable `GOOGLE_APPLICATION_CREDENTIALS` can name a file. This file contains a service account key or the
/// configuration of a workload identity federation. If the variable is not set, the source is the metadata server.
/// `GCE_METADATA_HOST` can change the address of the metadata server.
///
/// If Valet cannot use the file, the function returns [`Source::Unusable`]. Valet reports the problem when a store
/// needs the source.
pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Source {
    read(variable).unwrap_or_else(Source::Unusable)
}

fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Source, String> {
    match variable("GOOGLE_APPLICATION_CREDENTIALS").filter(|path| !path.is_empty()) {
        Some(path) => from_file(Path::new(&path)),
        None => {
            let host = variable("GCE_METADATA_HOST").filter(|host| !host.is_empty());
            let host = host.unwrap_or_else(|| METADATA_HOST.to_owned());
            match format!("http://{host}/").parse::<Uri>() {
                Ok(uri) if uri.authority().is_some_and(|a| a.as_str() == host) => Ok(Source::Metadata { host }),
                _ => Err(
                    "the environment variable GCE_METADATA_HOST is not a valid host; set GCE_METADATA_HOST to HOST or HOST:PORT"
                        .into(),
                ),
            }
        }
    }
}

fn from_file(path: &Path) -> Result<Source, String> {
    const FILE: &str = "the file in GOOGLE_APPLICATION_CREDENTIALS";
    let json = std::fs::read(path).map_err(|e| format!("{FILE} cannot be read ({})", e.kind()))?;
    if json.len() > MAX_BYTES {
        return Err(format!("{FILE} is longer than 64 KiB"));
    }
    let kind = serde_json::from_slice::<Kind>(&json).ok().map(|k| k.kind);
    if kind.as_deref() == Some("external_account") {
        let external = external(&json).map_err(|why| format!("{FILE} cannot be used: {why}"))?;
        return Ok(Source::External(Arc::new(external)));
    }
    let key = ServiceAccountKey::parse(&json).map_err(|why| format!("{FILE} cannot be used: {why}"))?;
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

/// Parses a file that `gcloud iam workload-identity-pools create-cred-config --credential-source-file` writes.
fn external(json: &[u8]) -> Result<External, String> {
    let read: Configuration = serde_json::from_slice(json)
        .map_err(|_| "the content is not the configuration of a workload identity federation; create the file with: gcloud iam workload-identity-pools create-cred-config")?;
    let address = |name: &str, text: &str| -> Result<Uri, String> {
        let uri = text.parse::<Uri>().ok().filter(is_private);
        uri.ok_or_else(|| format!("the field {name} of the workload identity federation is not an https URL"))
    };
    let source = read.credential_source;
    let file = source.file.ok_or(
        "the credential_source of the workload identity federation does not name a file; create the configuration with --credential-source-file",
    )?;
    let field = match source.format {
        Some(Format {
            kind: Some(kind),
            subject_token_field_name,
        }) if kind == "json" => {
            Some(subject_token_field_name.ok_or("the credential_source.format has no subject_token_field_name")?)
        }
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
