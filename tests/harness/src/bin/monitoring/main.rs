//! Tests the dashboard and the alerts: a real Prometheus scrapes the real operator under load and evaluates every
//! query.
//!
//! ```text
//! monitoring [IMAGE.svg]
//! ```
//! The program starts a control plane, an S3 server, two replicas of Valet with a Lease, and Prometheus with the
//! chart's alert rules. Tenants use Valet for MONITORING_SECONDS (120); halfway, the program kills the leader. Then
//! it evaluates every query of `charts/valet/files/dashboard.json` and every rule. A query that fails, or has no
//! result although it must have one, makes the exit status 1. With IMAGE.svg, the program draws the results.
//! VALET_BIN names the operator program; the default is the `valet` next to this program.

mod load;
mod prometheus;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use load::Load;
use prometheus::{INTERVAL_SECONDS, Prometheus};
use serde_json::{Value, json};
use valet_harness::{
    Context, ControlPlane, ControlPlaneOptions, Error, Operator, OperatorOptions, Result, S3Server, Scratch, Tools,
    dashboard,
    operator::{crds, find_valet},
    poll,
    process::run_ok,
    program::{self, number},
};

/// Time between two rounds of the tenants.
const ROUND: Duration = Duration::from_millis(1500);
/// The value of `$__rate_interval`. It must contain at least four scrapes, so that a rate can be computed.
const RATE_INTERVAL: &str = "20s";
const ROOT: &str = env!("VALET_ROOT");

fn main() -> ExitCode {
    program::run("monitoring", monitoring)
}

fn monitoring() -> Result<()> {
    let image = env::args().nth(1).map(PathBuf::from);
    let seconds = number("MONITORING_SECONDS", 120)?;
    let valet = find_valet()?;
    let tools = Tools::locate()?;
    let rules = fs::canonicalize(format!("{ROOT}/charts/valet/files/alerts.yaml")).context("no alert rules")?;
    let text = fs::read_to_string(format!("{ROOT}/charts/valet/files/dashboard.json")).context("no dashboard")?;
    let board: Value = serde_json::from_str(&text).context("the dashboard is not JSON")?;

    println!("starting a control plane, an S3 server, two replicas of Valet and Prometheus ...");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "valet-system"}});
    let manifests = vec![crds(&valet)?, namespace.to_string()];
    let options = ControlPlaneOptions {
        manifests,
        ..ControlPlaneOptions::default()
    };
    let plane = ControlPlane::start_with(&tools, options)?;
    let s3 = S3Server::start(&tools)?;
    let prometheus = Prometheus::start(&tools, &rules)?;
    let began = now();
    let mut load = Load::prepare(&plane, &s3)?;
    let mut replicas = Replicas::start(&valet, &plane)?;
    prometheus.scrape(&replicas.targets())?;
    load.waiting()?;

    println!(
        "tenants work for {seconds} s; Prometheus is at {}",
        prometheus.address()
    );
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let mut killed = false;
    for n in 0.. {
        let next = start + ROUND * n;
        if next >= end {
            break;
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
        load.round(n as usize)?;
        if !killed && start.elapsed().as_secs() > seconds * 55 / 100 {
            println!("the replica at work is killed; another one takes over, and a new one waits");
            replicas.replace_leader(&plane)?;
            prometheus.scrape(&replicas.targets())?;
            killed = true;
        }
    }

    let counted = poll(Duration::from_secs(60), || {
        let seen = prometheus
            .value("count(max by (namespace, kind, name) (valet_credential_expiration_timestamp_seconds))")
            .ok()?;
        (load.keys().ok()? as f64 == seen).then_some(seen)
    });
    let counted = counted.context("Prometheus and Kubernetes never show equal numbers of live grants")?;
    println!("Prometheus and Kubernetes both count {counted} live grants");

    let mut wrong = check_rules(&prometheus)?;
    let (results, failures) = check_dashboard(&prometheus, &board, began)?;
    wrong.extend(failures);
    if let Some(image) = image {
        draw(&tools, &results, &image)?;
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::new(wrong.join("\n")))
}

/// Checks that Prometheus evaluated every rule without an error, and that the alert about the wrong rollout fires.
fn check_rules(prometheus: &Prometheus) -> Result<Vec<String>> {
    let rules = prometheus.rules()?;
    let mut wrong = Vec::new();
    for rule in &rules {
        let name = rule["name"].as_str().unwrap_or_default();
        if rule["health"] != "ok" {
            wrong.push(format!("rule {name}: {} {}", rule["health"], rule["lastError"]));
        }
        let expr = rule["query"].as_str().unwrap_or_default();
        if let Err(error) = prometheus.ask(expr, None) {
            wrong.push(format!("rule {name}: {error}"));
        }
    }
    let states = |state: &str| -> Vec<&str> {
        let of = rules.iter().filter(|r| r["state"] == state);
        of.filter_map(|r| r["name"].as_str()).collect()
    };
    println!(
        "{} rules are well; firing: {:?}, pending: {:?}",
        rules.len(),
        states("firing"),
        states("pending")
    );
    if !states("firing").contains(&"ValetRefusalsSurge") {
        wrong.push("thirty grants were refused in a row, and ValetRefusalsSurge does not fire".to_owned());
    }
    for name in ["ValetStoreNotReady", "ValetGrantsWaiting"] {
        if !states("pending").contains(&name) {
            wrong.push(format!("{name} is not on its way, with stores in trouble"));
        }
    }
    Ok(wrong)
}

/// Evaluates the queries of the dashboard. Returns the results by panel, and the errors.
fn check_dashboard(prometheus: &Prometheus, board: &Value, began: u64) -> Result<(Value, Vec<String>)> {
    let until = now();
    let (mut answers, mut wrong) = (Vec::new(), Vec::new());
    let queries = dashboard::queries(board, RATE_INTERVAL);
    for query in &queries {
        // A panel with a single value also shows a graph of the value.
        let range = (!query.instant).then_some((began, until));
        match prometheus.ask(&query.expr, range) {
            Ok(series) if series.is_empty() => {
                wrong.push(format!("panel '{}': no data: {}", query.title, query.expr))
            }
            Ok(series) => answers.push(json!({"panel": query.panel, "legend": query.legend, "series": series})),
            Err(error) => wrong.push(format!("panel '{}': {error}: {}", query.title, query.expr)),
        }
    }
    println!(
        "{} queries of {} panels were put to Prometheus",
        queries.len(),
        count_panels(board)
    );
    let results = json!({"start": began, "end": until, "step": INTERVAL_SECONDS, "answers": answers});
    Ok((results, wrong))
}

fn count_panels(board: &Value) -> usize {
    let panels = board["panels"].as_array().into_iter().flatten();
    panels.filter(|p| p["type"] != "row").count()
}

fn draw(tools: &Tools, results: &Value, image: &Path) -> Result<()> {
    let scratch = Scratch::new("drawing")?;
    let file = scratch.write("results.json", results.to_string())?;
    let mut python = tools.command("python3");
    python
        .arg(format!("{ROOT}/hack/draw-dashboard.py"))
        .arg(format!("{ROOT}/charts/valet/files/dashboard.json"))
        .arg(file)
        .arg(image);
    run_ok(python, &[], Duration::from_secs(60))?;
    println!("drawn: {}", image.display());
    Ok(())
}

/// Two replicas, of which one is the leader.
struct Replicas {
    valet: PathBuf,
    running: Vec<(String, Operator)>,
    started: usize,
}

impl Replicas {
    fn start(valet: &Path, plane: &ControlPlane) -> Result<Self> {
        let mut replicas = Self {
            valet: valet.to_owned(),
            running: Vec::new(),
            started: 0,
        };
        replicas.add(plane)?;
        replicas.add(plane)?;
        Ok(replicas)
    }

    fn add(&mut self, plane: &ControlPlane) -> Result<()> {
        let pod = format!("valet-{}", self.started);
        self.started += 1;
        let options = OperatorOptions {
            args: vec![
                "--leader-elect".to_owned(),
                // The S3 server of the tenants' own store is on this machine.
                "--allow-private-endpoints=127.0.0.1/32".to_owned(),
                "--tenant-store-requests=All".to_owned(),
            ],
            env: vec![("POD_NAME".to_owned(), pod.clone())],
            ..OperatorOptions::default()
        };
        self.running.push((pod, Operator::start(&self.valet, plane, &options)?));
        Ok(())
    }

    /// Kills the leader, as a lost node would, and starts another replica, as a Deployment would.
    fn replace_leader(&mut self, plane: &ControlPlane) -> Result<()> {
        let at = self.running.iter().position(|(_, operator)| operator.leads());
        let (_, leader) = self.running.remove(at.context("no replica works")?);
        leader.kill();
        self.add(plane)
    }

    fn targets(&self) -> Vec<(String, u16)> {
        self.running
            .iter()
            .map(|(pod, operator)| (pod.clone(), operator.port()))
            .collect()
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
