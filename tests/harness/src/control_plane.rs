//! A Kubernetes control plane of one's own: etcd, kube-apiserver and kube-controller-manager as plain processes.
//!
//! There are no nodes, unless a [`crate::Node`] joins: pods can be created and stay pending. What works as in any cluster: the API with CRDs and
//! their rules, RBAC, service account tokens, admission policies, owner references (garbage collection), deletion of
//! namespaces (which takes Kubernetes 5 s at the least), quotas.

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

/// Name of the one context in every kubeconfig that the harness writes.
pub const CONTEXT: &str = "valet-test";

/// The user behind [`ControlPlane::kubeconfig`], in the group system:masters.
pub const ADMIN: &str = "valet-test-admin";

/// The user behind [`ControlPlane::operator_kubeconfig`], in the group system:masters. Apart from the admin, so
/// that the audit log tells the operator's requests from the test's.
pub const OPERATOR: &str = "valet-operator";

/// The controllers that Valet's users notice. The others wait for nodes, load balancers and volumes.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
    clusterrole-aggregation-controller,resourcequota-controller,validatingadmissionpolicy-status-controller";

/// Long enough for a busy machine of two cores; an idle one needs 4 s.
const START: Duration = Duration::from_secs(90);

/// What to start a control plane with.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    /// YAML or JSON to apply before the controller manager starts, CRDs above all. Its garbage collector looks for
    /// new kinds only every 30 s: what is owned by an object of a kind that comes later can stay for 40 s (measured)
    /// after its owner is gone. See also [`ControlPlane::restart_controller_manager`].
    pub manifests: Vec<String>,
    /// More arguments for kube-apiserver.
    pub apiserver_args: Vec<String>,
    /// Be ready for a node: listen on its address, with all of Kubernetes' controllers. See [`crate::Node`].
    pub node: Option<NodeAddress>,
}

/// Under which name and address a node is to join.
#[derive(Clone, Debug)]
pub struct NodeAddress {
    /// The node's name.
    pub name: String,
    /// Its address, on this machine and none of loopback's.
    pub address: Ipv4Addr,
}

impl ControlPlaneOptions {
    /// Where the apiserver listens.
    fn address(&self) -> Ipv4Addr {
        self.node.as_ref().map_or(Ipv4Addr::LOCALHOST, |node| node.address)
    }

    fn controllers(&self) -> &str {
        if self.node.is_some() { "*" } else { CONTROLLERS }
    }
}

/// A running control plane. Dropping it, or the end of the process, ends it.
pub struct ControlPlane {
    // Dropped in this order: processes first, then what they write into.
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
    /// If one of its processes ends or is not ready in time, with that process' last words.
    pub fn start(tools: &Tools) -> Result<Self> {
        Self::start_with(tools, ControlPlaneOptions::default())
    }

    /// As [`ControlPlane::start`], with options.
    ///
    /// # Errors
    /// As [`ControlPlane::start`], and if the manifests cannot be applied or a CRD in them is not established.
    pub fn start_with(tools: &Tools, options: ControlPlaneOptions) -> Result<Self> {
        retry_on_lost_port(|| Self::start_once(tools, options.clone()))
    }

    fn start_once(tools: &Tools, options: ControlPlaneOptions) -> Result<Self> {
        let began = Instant::now();
        let scratch = Scratch::new("cluster")?;
        // The log that etcd writes ahead is 64 MB long from the start, twice.
        let data = Scratch::disposable("etcd")?;
        let (etcd_port, peer_port, port) = (net::free_port()?, net::free_port()?, net::free_port()?);

        let etcd = restore::start_etcd(tools, &scratch, &data, etcd_port, peer_port)?;

        certificates::make(&scratch, options.address())?;
        let admin_token = net::random_hex(16)?;
        scratch.write("audit-policy.json", audit::POLICY)?;
        // kubectl's and, in tests of the operator, everybody's home: empty.
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

    /// An apiserver that cannot start often says only that it cannot reach etcd.
    fn blame_etcd(&self, error: Error) -> Error {
        let etcd = self.etcd();
        match etcd.exit_status() {
            Some(status) => Error::new(format!("etcd ended ({status}); {}", etcd.log_tail())),
            None => error,
        }
    }

    /// How long the start took.
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// The folder with logs and kubeconfigs. Kept when a test has failed.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The programs that the control plane was started from.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The apiserver's loopback port, the same for all its life, also across restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The apiserver's address: `https://127.0.0.1:PORT`, or that of the node.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.options.address(), self.port)
    }

    /// The certificate authority behind the apiserver's certificate, as a PEM file.
    pub fn ca_file(&self) -> &Path {
        &self.ca
    }

    /// etcd's address for clients: `http://127.0.0.1:PORT`. Its history is never compacted.
    pub fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd_port)
    }

    /// The etcd process, to be paused for instance.
    pub fn etcd(&self) -> Arc<Process> {
        self.etcd.lock().unwrap_or_else(|poison| poison.into_inner()).clone()
    }

    // --- access -----------------------------------------------------------------------------------------------

    /// A kubeconfig file for [`ADMIN`], with the one context [`CONTEXT`].
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubeconfig file for [`OPERATOR`].
    pub fn operator_kubeconfig(&self) -> &Path {
        &self.operator_kubeconfig
    }

    /// `GET` on the apiserver as [`ADMIN`], as in `/api/v1/namespaces`: the body.
    ///
    /// # Errors
    /// If it does not answer within 10 s, or with a status of 400 or more.
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

    /// Everything that was asked of the apiserver since it started. A request's event is written a moment after
    /// its answer: a test that counts waits a little, or until the count is reached.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn audit(&self) -> Result<Vec<AuditEvent>> {
        self.audit_since(AuditMark::default())
    }

    /// Where the audit log ends now.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn audit_mark(&self) -> Result<AuditMark> {
        Ok(audit::read(&self.audit_log(), AuditMark::default())?.1)
    }

    /// What was asked of the apiserver after `mark`.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn audit_since(&self, mark: AuditMark) -> Result<Vec<AuditEvent>> {
        Ok(audit::read(&self.audit_log(), mark)?.0)
    }

    /// The audit log: one JSON event a line.
    pub fn audit_log(&self) -> PathBuf {
        self.scratch.join("audit.log")
    }

    // --- outages ----------------------------------------------------------------------------------------------

    /// Ends the apiserver at once, as a power cut would. etcd and the controller manager stay.
    pub fn stop_apiserver(&self) {
        lock(&self.apiserver).take();
    }

    /// Freezes the apiserver: connections to it stay open, and nobody answers.
    pub fn pause_apiserver(&self) {
        if let Some(apiserver) = &*lock(&self.apiserver) {
            apiserver.pause();
        }
    }

    /// Ends what [`ControlPlane::pause_apiserver`] began.
    pub fn resume_apiserver(&self) {
        if let Some(apiserver) = &*lock(&self.apiserver) {
            apiserver.resume();
        }
    }

    /// Starts the apiserver on the port that it always had and waits until it is ready.
    ///
    /// # Errors
    /// If it ends or is not ready in time, with its last words.
    pub fn start_apiserver(&self) -> Result<()> {
        let mut apiserver = lock(&self.apiserver);
        if apiserver.is_some() {
            return Ok(());
        }
        let file = |name: &str| self.scratch.join(name).display().to_string();
        let mut command = self.tools.command("kube-apiserver");
        command
            .arg(format!("--etcd-servers={}", self.etcd_url()))
            // Tests may look at the whole history of an object.
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
            // In MB. The default is to start a new file after 100, and nobody reads the old one.
            .arg("--audit-log-maxsize=1000000")
            // How it asks kubelets, for logs and the like, and by which of their addresses.
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

    /// Ends the controller manager: owner references and the deletion of namespaces do nothing until it is back.
    pub fn stop_controller_manager(&self) {
        lock(&self.controller_manager).take();
    }

    /// Starts the controller manager and waits until its garbage collector works (about 1 s).
    ///
    /// # Errors
    /// If it ends or is not ready in time, with its last words.
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
            // The default of 20 a second makes the deletion of a namespace slow.
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

    /// Stops and starts the controller manager, so that its garbage collector knows the kinds that have come since.
    ///
    /// # Errors
    /// As [`ControlPlane::start_controller_manager`].
    pub fn restart_controller_manager(&self) -> Result<()> {
        self.stop_controller_manager();
        self.start_controller_manager()
    }

    /// A number that no other namespace of this control plane has got.
    pub(crate) fn next_namespace(&self) -> u32 {
        self.namespaces.fetch_add(1, Ordering::Relaxed)
    }
}

fn lock(slot: &Mutex<Option<Process>>) -> MutexGuard<'_, Option<Process>> {
    slot.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Starts something that needs free ports again if somebody else was quicker to take one.
pub(crate) fn retry_on_lost_port<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 0..3 {
        match start() {
            Err(error) if error.to_string().contains("address already in use") => {}
            result => return result,
        }
    }
    start()
}
