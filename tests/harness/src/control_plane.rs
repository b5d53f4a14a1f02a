//! A Kubernetes control plane for tests: etcd, kube-apiserver and kube-controller-manager as plain processes.
//!
//! There are no nodes unless a [`crate::Node`] joins, so pods stay pending. These features work as in any cluster:
//! the API with CRDs and their validation rules, RBAC, service account tokens, admission policies, owner references
//! (garbage collection), deletion of namespaces (which takes at least 5 s), and quotas.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{AuditEvent, AuditMark, Error, Process, Result, Scratch, Tools, audit, certificates, net, process};

mod access;
mod restore;

/// Name of the only context in every kubeconfig that the harness writes.
pub const CONTEXT: &str = "valet-test";

/// The user of [`ControlPlane::kubeconfig`], in the group system:masters.
pub const ADMIN: &str = "valet-test-admin";

/// The user of [`ControlPlane::operator_kubeconfig`], in the group system:masters. It is a separate user, so that the
/// audit log distinguishes requests of the operator from requests of the test.
pub const OPERATOR: &str = "valet-operator";

/// The controllers that matter for Valet. All others manage nodes, load balancers and volumes.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
    clusterrole-aggregation-controller,resourcequota-controller,validatingadmissionpolicy-status-controller";

/// Timeout for a busy machine with two cores. An idle machine needs 4 s.
const START: Duration = Duration::from_secs(90);

/// Options of a control plane.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    /// YAML or JSON, usually CRDs, that is applied before the controller manager starts. The garbage collector looks
    /// for new kinds only every 30 s. If a CRD is created later, dependents of its objects can stay for 40 s
    /// (measured) after their owner is deleted. See also [`ControlPlane::restart_controller_manager`].
    pub manifests: Vec<String>,
    /// Additional arguments for kube-apiserver.
    pub apiserver_args: Vec<String>,
    /// Prepares the control plane for a node: it listens on the node's address and runs all controllers. See
    /// [`crate::Node`].
    pub node: Option<NodeAddress>,
}

/// The name and the address of a node that joins.
#[derive(Clone, Debug)]
pub struct NodeAddress {
    pub name: String,
    /// The address of the node, on this machine but not on loopback.
    pub address: Ipv4Addr,
}

impl ControlPlaneOptions {
    /// The address that the apiserver listens on.
    fn address(&self) -> Ipv4Addr {
        self.node.as_ref().map_or(Ipv4Addr::LOCALHOST, |node| node.address)
    }

    fn controllers(&self) -> &str {
        if self.node.is_some() { "*" } else { CONTROLLERS }
    }
}

/// A running control plane. It stops when the value is dropped or the process ends.
pub struct ControlPlane {
    // The fields are dropped in this order: processes first, then the folders that they write to.
    controller_manager: Mutex<Option<Process>>,
    apiserver: Mutex<Option<Process>>,
    etcd: Mutex<Arc<Process>>,
    scratch: Scratch,
    data: Scratch,
    tools: Tools,
    options: ControlPlaneOptions,
    port: u16,
    etcd_port: u16,
    peer_port: u16,
    admin_token: String,
    ca: PathBuf,
    kubeconfig: PathBuf,
    operator_kubeconfig: PathBuf,
    kubeconfigs: AtomicU32,
    namespaces: AtomicU32,
    started_in: Duration,
}

impl ControlPlane {
    /// Starts a control plane and waits until it is ready (about 4 s on an idle machine with two cores).
    ///
    /// # Errors
    /// Returns an error with the last log lines if a process exits or is not ready in time.
    pub fn start(tools: &Tools) -> Result<Self> {
        Self::start_with(tools, ControlPlaneOptions::default())
    }

    /// As [`ControlPlane::start`], with options.
    ///
    /// # Errors
    /// As [`ControlPlane::start`], and if the manifests cannot be applied or a CRD is not established.
    pub fn start_with(tools: &Tools, options: ControlPlaneOptions) -> Result<Self> {
        retry_on_lost_port(|| Self::start_once(tools, options.clone()))
    }

    fn start_once(tools: &Tools, options: ControlPlaneOptions) -> Result<Self> {
        let began = Instant::now();
        let scratch = Scratch::new("cluster")?;
        // etcd preallocates its write-ahead log with twice 64 MB, so the folder is not kept after a failed test.
        let data = Scratch::disposable("etcd")?;
        let (etcd_port, peer_port, port) = (net::free_port()?, net::free_port()?, net::free_port()?);

        let etcd = restore::start_etcd(tools, &scratch, &data, etcd_port, peer_port)?;

        certificates::make(&scratch, options.address())?;
        let admin_token = net::random_hex(16)?;
        scratch.write("audit-policy.json", audit::POLICY)?;
        // An empty home folder for kubectl and, in tests of the operator, for all programs.
        scratch.folder("home")?;

        let ca = scratch.join("ca.crt");
        let mut plane = Self {
            controller_manager: Mutex::new(None),
            apiserver: Mutex::new(None),
            etcd: Mutex::new(Arc::new(etcd)),
            kubeconfig: scratch.join("kubeconfig"),
            operator_kubeconfig: scratch.join("operator.kubeconfig"),
            scratch,
            data,
            tools: tools.clone(),
            options,
            port,
            etcd_port,
            peer_port,
            ca,
            kubeconfigs: AtomicU32::new(0),
            namespaces: AtomicU32::new(0),
            started_in: Duration::ZERO,
            admin_token,
        };
        plane.write_users()?;

        plane.start_apiserver().map_err(|error| plane.blame_etcd(error))?;
        for manifest in &plane.options.manifests {
            plane.apply(manifest)?;
        }
        if !plane.options.manifests.is_empty() {
            plane.wait_for_crds()?;
        }
        plane.start_controller_manager()?;
        plane.started_in = began.elapsed();
        Ok(plane)
    }

    /// If the apiserver cannot start, its error often only says that it cannot reach etcd. This adds the log of etcd.
    fn blame_etcd(&self, error: Error) -> Error {
        let etcd = self.etcd();
        match etcd.exit_status() {
            Some(status) => Error::new(format!("etcd ended ({status}); {}", etcd.log_tail())),
            None => error,
        }
    }

    /// The duration of the start.
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// The folder with logs and kubeconfigs. It is kept after a failed test.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The programs of the control plane.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The loopback port of the apiserver. It does not change, also across restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the apiserver: `https://127.0.0.1:PORT`, or with the address of the node.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.options.address(), self.port)
    }

    /// The CA certificate of the apiserver as a PEM file.
    pub fn ca_file(&self) -> &Path {
        &self.ca
    }

    /// The client URL of etcd: `http://127.0.0.1:PORT`. Its history is never compacted.
    pub fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd_port)
    }

    /// The etcd process, for example to freeze it.
    pub fn etcd(&self) -> Arc<Process> {
        self.etcd.lock().unwrap_or_else(|poison| poison.into_inner()).clone()
    }

    // --- access -----------------------------------------------------------------------------------------------

    /// A kubeconfig file for [`ADMIN`] with the context [`CONTEXT`].
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubeconfig file for [`OPERATOR`].
    pub fn operator_kubeconfig(&self) -> &Path {
        &self.operator_kubeconfig
    }

    /// Sends a GET request to the apiserver as [`ADMIN`], for example for `/api/v1/namespaces`, and returns the body.
    ///
    /// # Errors
    /// Returns an error if the apiserver does not answer within 10 s, or answers with a status of 400 or more.
    pub fn get(&self, path: &str) -> Result<String> {
        let output = process::run_ok(self.curl(path), &[], Duration::from_secs(15))?;
        Ok(output.text())
    }

    /// The apiserver's metrics, in Prometheus' text format.
    ///
    /// # Errors
    /// As [`ControlPlane::get`].
    pub fn metrics(&self) -> Result<String> {
        self.get("/metrics")
    }

    fn curl(&self, path: &str) -> Command {
        let mut command = process::clean(Command::new("curl"));
        command
            .args([
                "--silent",
                "--show-error",
                "--fail-with-body",
                "--max-time",
                "10",
                "--cacert",
            ])
            .arg(&self.ca)
            .arg("--header")
            .arg(format!("Authorization: Bearer {}", self.admin_token))
            .arg(format!("{}{path}", self.url()));
        command
    }

    // --- the audit log ----------------------------------------------------------------------------------------

    /// Returns all audit events since the apiserver started. An event is written shortly after the response, so a
    /// test that counts events must wait a little or until the count is reached.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn audit(&self) -> Result<Vec<AuditEvent>> {
        self.audit_since(AuditMark::default())
    }

    /// Returns the current end of the audit log.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn audit_mark(&self) -> Result<AuditMark> {
        Ok(audit::read(&self.audit_log(), AuditMark::default())?.1)
    }

    /// Returns the audit events after `mark`.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn audit_since(&self, mark: AuditMark) -> Result<Vec<AuditEvent>> {
        Ok(audit::read(&self.audit_log(), mark)?.0)
    }

    /// The file of the audit log, with one JSON event per line.
    pub fn audit_log(&self) -> PathBuf {
        self.scratch.join("audit.log")
    }

    // --- outages ----------------------------------------------------------------------------------------------

    /// Kills the apiserver without a graceful shutdown. etcd and the controller manager continue to run.
    pub fn stop_apiserver(&self) {
        lock(&self.apiserver).take();
    }

    /// Freezes the apiserver: its connections stay open, but it does not answer.
    pub fn pause_apiserver(&self) {
        if let Some(apiserver) = &*lock(&self.apiserver) {
            apiserver.pause();
        }
    }

    /// Continues the apiserver after [`ControlPlane::pause_apiserver`].
    pub fn resume_apiserver(&self) {
        if let Some(apiserver) = &*lock(&self.apiserver) {
            apiserver.resume();
        }
    }

    /// Starts the apiserver again on the same port and waits until it is ready.
    ///
    /// # Errors
    /// Returns an error with the last log lines if the apiserver exits or is not ready in time.
    pub fn start_apiserver(&self) -> Result<()> {
        let mut apiserver = lock(&self.apiserver);
        if apiserver.is_some() {
            return Ok(());
        }
        let file = |name: &str| self.scratch.join(name).display().to_string();
        let mut command = self.tools.command("kube-apiserver");
        command
            .arg(format!("--etcd-servers={}", self.etcd_url()))
            // Tests can read the whole history of an object.
            .arg("--etcd-compaction-interval=0")
            .arg(format!("--bind-address={}", self.options.address()))
            .arg(format!("--advertise-address={}", self.options.address()))
            .arg(format!("--secure-port={}", self.port))
            .arg(format!("--cert-dir={}", file("apiserver-certs")))
            .arg(format!("--tls-cert-file={}", file("tls.crt")))
            .arg(format!("--tls-private-key-file={}", file("tls.key")))
            .arg(format!("--service-account-key-file={}", file("service-account.key")))
            .arg(format!(
                "--service-account-signing-key-file={}",
                file("service-account.key")
            ))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--token-auth-file={}", file("tokens.csv")))
            .arg("--authorization-mode=Node,RBAC")
            .arg("--service-cluster-ip-range=10.96.0.0/16")
            .arg("--allow-privileged=true")
            .arg(format!("--audit-policy-file={}", file("audit-policy.json")))
            .arg(format!("--audit-log-path={}", self.audit_log().display()))
            // The size limit in MB. By default, the apiserver starts a new file after 100 MB, and the harness reads
            // only one file.
            .arg("--audit-log-maxsize=1000000")
            // The certificate and the address types that the apiserver uses for requests to kubelets, for example for
            // logs.
            .arg(format!("--kubelet-client-certificate={}", file("client.crt")))
            .arg(format!("--kubelet-client-key={}", file("client.key")))
            .arg("--kubelet-preferred-address-types=InternalIP")
            .args(&self.options.apiserver_args);
        let process = Process::start("kube-apiserver", command, file("kube-apiserver.log"))?;
        process.wait_until(START, "it was ready", || {
            net::listens_at(self.options.address(), self.port)
                && process::run(self.curl("/readyz"), &[], Duration::from_secs(15))
                    .is_ok_and(|output| output.status.success())
        })?;
        *apiserver = Some(process);
        Ok(())
    }

    /// Stops and starts the apiserver.
    ///
    /// # Errors
    /// As [`ControlPlane::start_apiserver`].
    pub fn restart_apiserver(&self) -> Result<()> {
        self.stop_apiserver();
        self.start_apiserver()
    }

    /// Stops the controller manager. Until it runs again, owner references and deletions of namespaces have no
    /// effect.
    pub fn stop_controller_manager(&self) {
        lock(&self.controller_manager).take();
    }

    /// Starts the controller manager and waits until its garbage collector is ready (about 1 s).
    ///
    /// # Errors
    /// Returns an error with the last log lines if the controller manager exits or is not ready in time.
    pub fn start_controller_manager(&self) -> Result<()> {
        let mut manager = lock(&self.controller_manager);
        if manager.is_some() {
            return Ok(());
        }
        let file = |name: &str| self.scratch.join(name).display().to_string();
        let mut command = self.tools.command("kube-controller-manager");
        command
            .arg(format!("--kubeconfig={}", file("controller-manager.kubeconfig")))
            .arg(format!("--controllers={}", self.options.controllers()))
            .arg(format!("--root-ca-file={}", file("ca.crt")))
            .arg(format!(
                "--service-account-private-key-file={}",
                file("service-account.key")
            ))
            .args(["--leader-elect=false", "--secure-port=0"])
            // The default of 20 requests per second makes the deletion of a namespace slow.
            .args(["--kube-api-qps=300", "--kube-api-burst=600"]);
        let log = self.scratch.join("kube-controller-manager.log");
        let before = fs::metadata(&log).map_or(0, |log| log.len());
        let process = Process::start("kube-controller-manager", command, &log)?;
        process.wait_until(START, "its garbage collector was ready", || {
            let text = process.log_text();
            let new = text.get(usize::try_from(before).unwrap_or(0)..).unwrap_or_default();
            new.contains("Proceeding to collect garbage")
        })?;
        *manager = Some(process);
        Ok(())
    }

    /// Stops and starts the controller manager, so that its garbage collector knows kinds that were added later.
    ///
    /// # Errors
    /// As [`ControlPlane::start_controller_manager`].
    pub fn restart_controller_manager(&self) -> Result<()> {
        self.stop_controller_manager();
        self.start_controller_manager()
    }

    /// A number that is unique for each namespace of this control plane.
    pub(crate) fn next_namespace(&self) -> u32 {
        self.namespaces.fetch_add(1, Ordering::Relaxed)
    }
}

fn lock(slot: &Mutex<Option<Process>>) -> MutexGuard<'_, Option<Process>> {
    slot.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Calls `start` again if another process took one of its free ports first.
pub(crate) fn retry_on_lost_port<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 0..3 {
        match start() {
            Err(error) if error.to_string().contains("address already in use") => {}
            result => return result,
        }
    }
    start()
}
