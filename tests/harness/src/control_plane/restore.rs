//! Rare operations on a cluster: etcd is restored from a backup, and the CA is replaced.

use std::{fs, process::Command, sync::Arc, time::Duration};

use super::ControlPlane;
use crate::{Context, Process, Result, Scratch, Tools, certificates, process};

/// Starts etcd on these ports with the data folder `data`.
pub(super) fn start_etcd(
    tools: &Tools,
    scratch: &Scratch,
    data: &Scratch,
    port: u16,
    peer_port: u16,
) -> Result<Process> {
    let url = |port| format!("http://127.0.0.1:{port}");
    let mut command = tools.command("etcd");
    command
        .arg(format!("--data-dir={}", data.join("data").display()))
        .arg(format!("--listen-client-urls={}", url(port)))
        .arg(format!("--advertise-client-urls={}", url(port)))
        .arg(format!("--listen-peer-urls={}", url(peer_port)))
        .arg(format!("--initial-advertise-peer-urls={}", url(peer_port)))
        .arg(format!("--initial-cluster=default={}", url(peer_port)))
        // If the machine loses power, the test is lost anyway.
        .arg("--unsafe-no-fsync")
        // The benchmark stores 100,000 grants and their history. The default limit is 2 GiB.
        .arg(format!("--quota-backend-bytes={}", 8_u64 << 30))
        // There is only one member, so the leader election needs no long timeout.
        .args(["--heartbeat-interval=20", "--election-timeout=200"])
        .arg("--log-level=warn");
    Process::start("etcd", command, scratch.join("etcd.log"))
}

impl ControlPlane {
    /// Copies the current files of etcd.
    ///
    /// # Errors
    /// Returns an error if the files cannot be copied.
    pub fn back_up(&self) -> Result<Scratch> {
        let backup = Scratch::disposable("etcd-backup")?;
        let etcd = self.etcd();
        // etcd is frozen, so that it writes nothing during the copy.
        etcd.pause();
        let copied = copy(&self.data, &backup);
        etcd.resume();
        copied.map(|()| backup)
    }

    /// Restores a backup: stops everything, replaces the files of etcd, and starts everything again. The revision is
    /// not increased, as with a copy of the files, or with `etcdutl snapshot restore` without `--bump-revision`.
    ///
    /// # Errors
    /// Returns an error if a file cannot be copied or a process does not start.
    pub fn restore(&self, backup: &Scratch) -> Result<()> {
        self.stop_controller_manager();
        self.stop_apiserver();
        self.etcd().kill();
        let data = self.data.join("data");
        fs::remove_dir_all(&data).context(format_args!("cannot remove {}", data.display()))?;
        copy(backup, &self.data)?;
        let etcd = start_etcd(&self.tools, &self.scratch, &self.data, self.etcd_port, self.peer_port)?;
        *self.etcd.lock().unwrap_or_else(|poison| poison.into_inner()) = Arc::new(etcd);
        self.start_apiserver()?;
        self.start_controller_manager()
    }

    /// Replaces the CA and the apiserver's certificate, and starts the apiserver with them. The kubeconfig files of
    /// the harness trust the new CA.
    ///
    /// # Errors
    /// Returns an error if a file cannot be written or the apiserver does not start.
    pub fn replace_authority(&self) -> Result<()> {
        let what = "cannot replace the certificate authority";
        self.stop_apiserver();
        let read = || fs::read(&self.ca).map(|ca| certificates::base64(&ca)).context(what);
        let old = read()?;
        certificates::make_authority(&self.scratch, self.options.address())?;
        let new = read()?;
        for entry in fs::read_dir(self.scratch.path()).context(what)? {
            let file = entry.context(what)?.path();
            if file.to_string_lossy().contains("kubeconfig") {
                let text = fs::read_to_string(&file).context(what)?;
                fs::write(&file, text.replace(&old, &new)).context(what)?;
            }
        }
        self.start_apiserver()
    }
}

fn copy(from: &Scratch, to: &Scratch) -> Result<()> {
    let mut command = process::clean(Command::new("cp"));
    command.arg("--archive").arg(from.join("data")).arg(to.path());
    process::run_ok(command, &[], Duration::from_secs(60))?;
    Ok(())
}
