//! CPU time and memory of processes, and counters of the operator.

use std::{fs, time::Duration};

use valet_harness::{Context, Result};

use crate::Bench;

/// Returns the CPU seconds of all processes whose command line contains these texts.
pub fn cpu(texts: &[&str]) -> f64 {
    let mut seconds = 0.0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(line) = fs::read_to_string(entry.path().join("cmdline")) else {
            continue;
        };
        let program = line.split('\0').next().unwrap_or_default();
        if program.ends_with(texts[0]) && texts.iter().all(|text| line.contains(text)) {
            seconds += cpu_of(&entry.path().display().to_string()).unwrap_or_default();
        }
    }
    seconds
}

/// Returns the CPU seconds of a process. `folder` is the folder of the process in `/proc`.
fn cpu_of(folder: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("{folder}/stat")).context("cannot read /proc")?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|n| n.parse::<f64>().ok()).unwrap_or_default();
    // Linux always counts 100 ticks per second in this file (`man 5 proc_pid_stat`, USER_HZ).
    Ok((ticks(11) + ticks(12)) / 100.0)
}

impl Bench {
    /// Returns the CPU seconds of the operator.
    pub fn operator_cpu(&self) -> Result<f64> {
        cpu_of(&format!("/proc/{}", self.operator.process().pid()))
    }

    /// Returns the resident memory of the operator in MiB.
    pub fn operator_memory(&self) -> Result<f64> {
        let file = format!("/proc/{}/status", self.operator.process().pid());
        let status = fs::read_to_string(file).context("cannot read /proc")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        Ok(kib.context("no VmRSS in /proc")? / 1024.0)
    }

    /// Waits until the operator has processed the deletions of a measurement.
    pub async fn settle(&self) -> Result<()> {
        let mut before = self.operator_cpu()?;
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.operator_cpu()?;
            if now - before < 0.05 {
                break;
            }
            before = now;
        }
        Ok(())
    }
}
