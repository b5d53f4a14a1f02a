//! Runs Azurite (Microsoft's emulator of Azure Blob Storage) and Microsoft's own client library.

use std::{net::Ipv4Addr, path::PathBuf, process::Command, sync::OnceLock, time::Duration};

use serde_json::{Value, json};

use crate::{
    Error, Process, Result, Scratch,
    certificates::{self, base64},
    control_plane,
    helper::Helper,
    net, process,
    tools::folder_of,
};

const START: Duration = Duration::from_secs(60);

/// The name of the storage account.
pub const ACCOUNT: &str = "mediastore";

/// A running Azurite with one account, on a port of loopback or of another address of this machine. When the value is
/// dropped or the process ends, the server is stopped and its data is deleted.
pub struct Azurite {
    _process: Process,
    scratch: Scratch,
    address: Ipv4Addr,
    port: u16,
    key: String,
    with_tls: bool,
    helper: Helper,
}

/// Returns the folder with the programs for the Azure tests. `hack/azure.sh` installs them once per machine.
///
/// # Errors
/// Returns an error if the script fails.
pub fn tools() -> Result<PathBuf> {
    static FOUND: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    FOUND
        .get_or_init(|| folder_of("azure.sh").map_err(|error| error.to_string()))
        .clone()
        .map_err(Error::new)
}

/// Starts a Python process with Microsoft's client library, without a server.
///
/// # Errors
/// Returns an error if the process cannot be started.
pub fn microsoft() -> Result<Microsoft> {
    let python = process::clean(Command::new(tools()?.join("python3")));
    Helper::start_script(python, "azure.py").map(Microsoft)
}

/// A Python process with Microsoft's client library.
pub struct Microsoft(Helper);

impl Microsoft {
    /// Signs a URL with Microsoft's library. Returns the query of the URL and the service version that it is signed
    /// for. `options` are the arguments of `generate_blob_sas`; `delegation` contains the properties of a user
    /// delegation key, or is null.
    ///
    /// # Errors
    /// Returns an error if the library rejects the arguments.
    pub fn sas(
        &self,
        place: [&str; 3],
        key: Option<&str>,
        delegation: &Value,
        options: &Value,
    ) -> Result<(String, String)> {
        let [account, container, blob] = place;
        let request = json!({
            "op": "sas", "account": account, "container": container, "blob": blob, "key": key,
            "delegation": delegation, "options": options,
        });
        let (answer, _) = self.0.ask(request, &[])?;
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Ok((text("token"), text("version")))
    }
}

impl Azurite {
    /// Starts an Azurite that uses plain HTTP and accepts signatures with the account key.
    ///
    /// # Errors
    /// Returns an error with the last log lines if the server exits or does not answer in time.
    pub fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// As [`Azurite::start`], at another address of this machine, for clients that cannot reach its loopback address.
    ///
    /// # Errors
    /// As [`Azurite::start`].
    pub fn start_at(address: Ipv4Addr) -> Result<Self> {
        Self::launch(address, false)
    }

    /// Starts an Azurite that uses HTTPS and also accepts tokens of Azure identities. Azurite does not check the
    /// signatures of these tokens.
    ///
    /// # Errors
    /// As [`Azurite::start`].
    pub fn start_with_identities() -> Result<Self> {
        Self::launch(Ipv4Addr::LOCALHOST, true)
    }

    fn launch(address: Ipv4Addr, with_tls: bool) -> Result<Self> {
        control_plane::retry_on_lost_port(|| {
            let scratch = Scratch::new("azurite")?;
            let port = net::free_port()?;
            let key = base64(net::random_hex(32)?.as_bytes());
            let mut command = process::clean(Command::new(tools()?.join("azurite-blob")));
            command
                .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{key}"))
                .args(["--skipApiVersionCheck", "--disableTelemetry", "--silent"])
                .arg("--blobHost")
                .arg(address.to_string())
                .arg("--blobPort")
                .arg(port.to_string())
                .arg("--location")
                .arg(scratch.folder("blobs")?);
            if with_tls {
                certificates::make(&scratch, address)?;
                command
                    .args(["--oauth", "basic", "--cert"])
                    .arg(scratch.join("tls.crt"))
                    .arg("--key")
                    .arg(scratch.join("tls.key"));
            }
            let process = Process::start("azurite", command, scratch.join("azurite.log"))?;
            process.wait_until(START, "it listened", || net::listens_at(address, port))?;
            Ok(Self {
                _process: process,
                scratch,
                address,
                port,
                key,
                with_tls,
                helper: microsoft()?.0,
            })
        })
    }

    /// The endpoint, `http://ADDRESS:PORT` or `https://ADDRESS:PORT`. The path of a URL contains the account.
    pub fn endpoint(&self) -> String {
        let scheme = if self.with_tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.address, self.port)
    }

    /// The account key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The CA certificate that signed the server's certificate.
    pub fn ca(&self) -> PathBuf {
        self.scratch.join("ca.crt")
    }

    /// Creates a container.
    ///
    /// # Errors
    /// If Azurite refuses.
    pub fn create_container(&self, container: &str) -> Result<()> {
        self.ask(json!({"op": "create", "container": container}), &[])?;
        Ok(())
    }

    /// Writes a blob.
    ///
    /// # Errors
    /// If Azurite refuses.
    pub fn put(&self, container: &str, blob: &str, body: &[u8]) -> Result<()> {
        self.ask(json!({"op": "put", "container": container, "blob": blob}), body)?;
        Ok(())
    }

    /// Reads a blob; `None` if it does not exist.
    ///
    /// # Errors
    /// If Azurite refuses.
    pub fn get(&self, container: &str, blob: &str) -> Result<Option<Vec<u8>>> {
        let (answer, body) = self.ask(json!({"op": "get", "container": container, "blob": blob}), &[])?;
        Ok((answer["found"] == true).then_some(body))
    }

    /// The names of all blobs that begin with `prefix`.
    ///
    /// # Errors
    /// If Azurite refuses.
    pub fn names(&self, container: &str, prefix: &str) -> Result<Vec<String>> {
        let (answer, _) = self.ask(json!({"op": "names", "container": container, "prefix": prefix}), &[])?;
        let names = answer["names"].as_array().into_iter().flatten();
        Ok(names.filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Sets the stored access policies of the container. Each policy has a name and permissions, or null instead of
    /// permissions.
    ///
    /// # Errors
    /// If Azurite refuses.
    pub fn set_policies(&self, container: &str, policies: &Value) -> Result<()> {
        self.ask(
            json!({"op": "policies", "container": container, "policies": policies}),
            &[],
        )?;
        Ok(())
    }

    fn ask(&self, mut request: Value, body: &[u8]) -> Result<(Value, Vec<u8>)> {
        request["endpoint"] = self.endpoint().into();
        request["account"] = ACCOUNT.into();
        request["key"] = self.key.as_str().into();
        if self.with_tls {
            request["ca"] = self.ca().to_string_lossy().into();
        }
        self.helper.ask(request, body)
    }
}
