//! Runs fake-gcs-server, and Google's client library with a checker of signatures, in Python. fake-gcs-server stores
//! objects like Google Cloud Storage, but does not check signatures.

use std::{env, net::Ipv4Addr, path::PathBuf, process::Command, sync::OnceLock, time::Duration};

use serde_json::{Value, json};

use crate::{
    Context, Error, Process, Result, Scratch, control_plane, helper::Helper, net, process, tools::folder_of,
};

const START: Duration = Duration::from_secs(30);

/// Returns the folder with the programs: the value of `VALET_GOOGLE`, or otherwise the output of `hack/google.sh`,
/// which builds the programs at the first call.
///
/// # Errors
/// Returns an error if the script fails.
pub fn programs() -> Result<PathBuf> {
    static FOUND: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let look = || match env::var_os("VALET_GOOGLE") {
        Some(folder) => Ok(folder.into()),
        None => folder_of("google.sh"),
    };
    FOUND
        .get_or_init(|| look().map_err(|e| e.to_string()))
        .clone()
        .map_err(Error::new)
}

/// Sends a request to `python/google.py`. The operations in that file describe their arguments and results.
///
/// # Errors
/// Returns an error if the script cannot be run or answers with an error.
pub fn ask(question: Value, body: &[u8]) -> Result<(Value, Vec<u8>)> {
    static HELPER: OnceLock<std::result::Result<Helper, String>> = OnceLock::new();
    let start = || {
        let python = process::clean(Command::new(programs()?.join("python3")));
        Helper::start_script(python, "google.py")
    };
    HELPER
        .get_or_init(|| start().map_err(|error: Error| error.to_string()))
        .as_ref()
        .map_err(Error::new)?
        .ask(question, body)
}

/// A running fake-gcs-server. It uses plain HTTP on loopback or on another address of this machine, and keeps its
/// objects in memory. The server stops when the value is dropped or the process ends.
pub struct GcsServer {
    process: Process,
    _scratch: Scratch,
    address: Ipv4Addr,
    port: u16,
}

impl GcsServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// Returns an error with the last log lines if the server exits or does not answer in time.
    pub fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// As [`GcsServer::start`], at another address of this machine, for clients that cannot reach its loopback
    /// address.
    ///
    /// # Errors
    /// As [`GcsServer::start`].
    pub fn start_at(address: Ipv4Addr) -> Result<Self> {
        let program = programs()?.join("fake-gcs-server");
        control_plane::retry_on_lost_port(|| {
            let (scratch, port) = (Scratch::new("gcs")?, net::free_port()?);
            let mut command = process::clean(Command::new(&program));
            command
                .args(["-scheme", "http", "-backend", "memory", "-host"])
                .arg(address.to_string())
                .args(["-port", &port.to_string()])
                // The host name of the server's XML API.
                .args(["-public-host", &format!("{address}:{port}")])
                .args(["-external-url", &format!("http://{address}:{port}")]);
            let process = Process::start("fake-gcs-server", command, scratch.join("fake-gcs-server.log"))?;
            process.wait_until(START, "it answered", || {
                matches!(net::http_get_at(address, port, "/_internal/healthcheck"), Ok((200, _)))
            })?;
            Ok(Self {
                process,
                _scratch: scratch,
                address,
                port,
            })
        })
    }

    /// `http://ADDRESS:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}:{}", self.address, self.port)
    }

    /// The process, for example to freeze it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    fn json_api(&self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let question = json!({
            "op": "send", "method": method, "url": format!("{}{path}", self.endpoint()),
            "headers": [["Content-Type", "application/json"]],
        });
        let (answer, body) = ask(question, body)?;
        let status = answer["status"].as_u64().and_then(|s| u16::try_from(s).ok());
        Ok((status.context("the store gave no status")?, body))
    }

    /// Creates a bucket.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create_bucket(&self, bucket: &str) -> Result<()> {
        let body = json!({"name": bucket, "versioning": {"enabled": true}}).to_string();
        match self.json_api("POST", "/storage/v1/b?project=p", body.as_bytes())? {
            (200, _) => Ok(()),
            (status, said) => Err(Error::new(format!("{status}: {}", String::from_utf8_lossy(&said)))),
        }
    }

    /// Writes an object.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn put(&self, bucket: &str, key: &str, body: &[u8]) -> Result<()> {
        let path = format!("/upload/storage/v1/b/{bucket}/o?uploadType=media&name={}", quoted(key));
        match self.json_api("POST", &path, body)? {
            (200, _) => Ok(()),
            (status, said) => Err(Error::new(format!("{status}: {}", String::from_utf8_lossy(&said)))),
        }
    }

    /// Reads an object; `None` if it does not exist.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn get(&self, bucket: &str, key: &str) -> Result<Option<Vec<u8>>> {
        match self.json_api(
            "GET",
            &format!("/storage/v1/b/{bucket}/o/{}?alt=media", quoted(key)),
            b"",
        )? {
            (200, body) => Ok(Some(body)),
            (404, _) => Ok(None),
            (status, said) => Err(Error::new(format!("{status}: {}", String::from_utf8_lossy(&said)))),
        }
    }

    /// Deletes an object, if it exists.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<()> {
        match self.json_api("DELETE", &format!("/storage/v1/b/{bucket}/o/{}", quoted(key)), b"")? {
            (200 | 204 | 404, _) => Ok(()),
            (status, said) => Err(Error::new(format!("{status}: {}", String::from_utf8_lossy(&said)))),
        }
    }

    /// Returns the metadata of an object; `None` if it does not exist.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn describe(&self, bucket: &str, key: &str) -> Result<Option<Value>> {
        match self.json_api("GET", &format!("/storage/v1/b/{bucket}/o/{}", quoted(key)), b"")? {
            (200, body) => Ok(Some(serde_json::from_slice(&body).context("a description is JSON")?)),
            (404, _) => Ok(None),
            (status, said) => Err(Error::new(format!("{status}: {}", String::from_utf8_lossy(&said)))),
        }
    }

    /// The names of all objects of a bucket.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn list(&self, bucket: &str) -> Result<Vec<String>> {
        let (_, body) = self.json_api("GET", &format!("/storage/v1/b/{bucket}/o"), b"")?;
        let list: Value = serde_json::from_slice(&body).context("a listing is JSON")?;
        let names = list["items"].as_array().into_iter().flatten();
        Ok(names.filter_map(|i| i["name"].as_str()).map(str::to_owned).collect())
    }
}

fn quoted(key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    key.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
