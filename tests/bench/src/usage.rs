//! CPU time and memory of processes, and the requests of a measurement.

use std::{fs, time::Duration};

use valet_harness::{Context, Result, Scene};

use crate::{
    Bench,
    api::{Counts, counts, difference},
};

/// Returns the CPU seconds of all processes whose command line contains these texts.
fn cpu(texts: &[&str]) -> f64 {
    let mut seconds = 0.0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(line) = fs::read_to_string(entry.path().join("cmdline")) else {
            continue;
        };
        let program = line.split('\0').next().unwrap_or_default();
        if program.ends_with(texts[0]) && texts.iter().all(|text| line.contains(text)) {
            seconds += cpu_in(&entry.path().display().to_string()).unwrap_or_default();
        }
    }
    seconds
}

/// Returns the CPU seconds of a process.
pub fn cpu_of(pid: u32) -> Result<f64> {
    cpu_in(&format!("/proc/{pid}"))
}

/// Returns the resident memory of a process in MiB.
pub fn memory_of(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("cannot read /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("no VmRSS in /proc")? / 1024.0)
}

/// Returns the CPU seconds of a process. `folder` is the folder of the process in `/proc`.
fn cpu_in(folder: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("{folder}/stat")).context("cannot read /proc")?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|n| n.parse::<f64>().ok()).unwrap_or_default();
    // Linux always counts 100 ticks per second in this file (`man 5 proc_pid_stat`, USER_HZ).
    Ok((ticks(11) + ticks(12)) / 100.0)
}

/// Returns the CPU seconds of the API server and etcd.
pub fn control_plane(scene: &Scene) -> f64 {
    cpu(&["kube-apiserver", &scene.plane.port().to_string()])
        + cpu(&["etcd", scene.plane.etcd_url().trim_start_matches("http")])
}

/// The CPU seconds and the requests before a measurement.
pub struct Mark {
    /// The process of the operator.
    pid: u32,
    operator: f64,
    plane: f64,
    counts: Counts,
}

impl Mark {
    /// Reads all counters now. `pid` is the process of the operator.
    pub fn now(scene: &Scene, pid: u32) -> Result<Self> {
        Ok(Self {
            pid,
            counts: counts(scene)?,
            operator: cpu_of(pid)?,
            plane: control_plane(scene),
        })
    }

    /// Adds the CPU seconds and the requests since this mark to the report, for each of `count` grants. The benchmark
    /// itself sends the request `ignored`.
    pub fn add_to_report(&self, bench: &mut Bench, name: &str, count: usize, ignored: &str) -> Result<()> {
        let operator = cpu_of(self.pid)? - self.operator;
        let plane = control_plane(&bench.scene) - self.plane;
        let requests = difference(&self.counts, &counts(&bench.scene)?);
        let thousands = count as f64 / 1000.0;
        let report = &mut bench.report;
        report.add(
            &format!("{name}: operator CPU seconds per 1,000 grants"),
            operator / thousands,
        );
        report.add(
            &format!("{name}: control plane CPU seconds per 1,000 grants"),
            plane / thousands,
        );
        report.add(&format!("{name}: operator CPU / control plane CPU"), operator / plane);
        for (call, n) in requests.iter().filter(|(call, _)| *call != ignored) {
            report.add(&format!("{name}: {call} per grant"), *n as f64 / count as f64);
        }
        Ok(())
    }
}

impl Bench {
    /// Reads all counters now.
    pub fn mark(&self) -> Result<Mark> {
        Mark::now(&self.scene, self.operator.process().pid())
    }

    /// Returns the CPU seconds of the operator.
    pub fn operator_cpu(&self) -> Result<f64> {
        cpu_of(self.operator.process().pid())
    }

    /// Returns the resident memory of the operator in MiB.
    pub fn operator_memory(&self) -> Result<f64> {
        memory_of(self.operator.process().pid())
    }

    /// Returns how often the operator has asked a store for an object.
    pub fn polls(&self) -> Result<f64> {
        let metrics = self.operator.metrics()?;
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("valet_store_polls_total"));
        Ok(lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// Waits until the operator and the control plane have finished the work of a measurement.
    pub async fn settle(&self) -> Result<()> {
        let total = || {
            let manager = cpu(&[
                "kube-controller-manager",
                &self.scene.plane.scratch().path().display().to_string(),
            ]);
            Ok(self.operator_cpu()? + control_plane(&self.scene) + manager)
        };
        let mut before = total()?;
        for _ in 0..120 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = total()?;
            if now - before < 0.3 {
                break;
            }
            before = now;
        }
        Ok(())
    }
}
