//! A real Prometheus with Valet's alert rules, and a client of its HTTP API.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use valet_harness::{Context, Error, Process, Result, Scratch, Tools, net};

/// Time in seconds between two scrapes, and between two evaluations of the rules.
pub const INTERVAL_SECONDS: u64 = 2;

pub struct Prometheus {
    _process: Process,
    scratch: Scratch,
    port: u16,
}

impl Prometheus {
    pub fn start(tools: &Tools, rules: &Path) -> Result<Self> {
        let scratch = Scratch::disposable("prometheus")?;
        let port = net::free_port()?;
        // YAML parsers also accept JSON.
        let config = json!({
            "global": {
                "scrape_interval": format!("{INTERVAL_SECONDS}s"), "scrape_timeout": "2s",
                "evaluation_interval": format!("{INTERVAL_SECONDS}s"),
            },
            "rule_files": [rules],
            "scrape_configs": [{
                "job_name": "valet",
                // As in the chart's ServiceMonitor, so that `namespace` in Valet's metrics is the namespace of the
                // grant.
                "honor_labels": true,
                "file_sd_configs": [{"files": [scratch.join("targets.json")], "refresh_interval": "1s"}],
            }],
        });
        let config = scratch.write("prometheus.yml", config.to_string())?;
        scratch.write("targets.json", "[]")?;
        let mut command = tools.command("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", scratch.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=warn");
        let process = Process::start("prometheus", command, scratch.join("prometheus.log"))?;
        process.wait_until(Duration::from_secs(60), "it was ready", || {
            matches!(net::http_get(port, "/-/ready"), Ok((200, _)))
        })?;
        Ok(Self {
            _process: process,
            scratch,
            port,
        })
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets the pods (name and port) that Prometheus scrapes.
    pub fn scrape(&self, pods: &[(String, u16)]) -> Result<()> {
        let targets: Vec<Value> = pods
            .iter()
            .map(|(pod, port)| {
                json!({
                    "targets": [format!("127.0.0.1:{port}")],
                    "labels": {"job": "valet", "namespace": "valet-system", "pod": pod},
                })
            })
            .collect();
        // The file is replaced by a rename, so that Prometheus never reads an incomplete file.
        let new = self.scratch.write("targets.new", Value::from(targets).to_string())?;
        fs::rename(&new, self.scratch.join("targets.json")).context("cannot name the targets")
    }

    /// Evaluates an expression at the current time, or every `INTERVAL_SECONDS` from `start` to `end` (seconds since
    /// 1970).
    pub fn ask(&self, expr: &str, range: Option<(u64, u64)>) -> Result<Vec<Value>> {
        let query = encoded(expr);
        let data = match range {
            None => self.api(&format!("query?query={query}"))?,
            Some((start, end)) => self.api(&format!(
                "query_range?query={query}&start={start}&end={end}&step={INTERVAL_SECONDS}"
            ))?,
        };
        data["result"]
            .as_array()
            .cloned()
            .context(format_args!("{expr}: no series"))
    }

    /// The value of an expression that returns one series.
    pub fn value(&self, expr: &str) -> Result<f64> {
        let series = self.ask(expr, None)?;
        let value = series.first().and_then(|s| s["value"][1].as_str()?.parse().ok());
        value.context(format_args!("{expr}: no value"))
    }

    /// Returns all rules that Prometheus has loaded.
    pub fn rules(&self) -> Result<Vec<Value>> {
        let data = self.api("rules")?;
        let groups = data["groups"].as_array().into_iter().flatten();
        Ok(groups
            .flat_map(|g| g["rules"].as_array().cloned().unwrap_or_default())
            .collect())
    }

    fn api(&self, path: &str) -> Result<Value> {
        let (status, body) = net::http_get(self.port, &format!("/api/v1/{path}"))?;
        let answer: Value = serde_json::from_str(&body).context(format_args!("Prometheus answered {status}"))?;
        if answer["status"] != "success" {
            return Err(Error::new(format!(
                "Prometheus: {}: {}",
                answer["errorType"], answer["error"]
            )));
        }
        Ok(answer["data"].clone())
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}
