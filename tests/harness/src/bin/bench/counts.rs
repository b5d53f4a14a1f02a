//! Counts API requests with the apiserver's metrics and with its audit log, and measures the CPU time and memory of
//! the operator.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use valet_harness::{AuditEvent, AuditMark, Context, ControlPlane, Operator, Result, control_plane::OPERATOR};

/// The number of requests by kind of request, as [`call`] names it.
pub type Counts = BTreeMap<String, u64>;

/// Names a kind of request in the same way for metrics and audit events, for example `PATCH
/// uploadgrants.valetkey.dev/status`.
pub fn call(verb: &str, group: &str, resource: &str, subresource: &str) -> String {
    let mut text = format!("{verb} {resource}");
    for (mark, part) in [('.', group), ('/', subresource)] {
        if !part.is_empty() {
            text.push(mark);
            text.push_str(part);
        }
    }
    text
}

/// The sum of all counts.
pub fn total(counts: &Counts) -> u64 {
    counts.values().sum()
}

/// Formats counts, for example `300 POST secrets, 300 PATCH downloadgrants.valetkey.dev/status`. Returns `none` if
/// there are no counts.
pub fn list(counts: &Counts) -> String {
    let parts: Vec<_> = counts.iter().map(|(call, n)| format!("{n} {call}")).collect();
    if parts.is_empty() {
        "none".into()
    } else {
        parts.join(", ")
    }
}

/// A point in time from which requests are counted.
pub struct Mark {
    writes: Counts,
    log: AuditMark,
}

/// The requests since a [`Mark`].
pub struct Account {
    /// The operator's writes according to the apiserver's metrics: all writes to Valet's objects, Secrets and events,
    /// minus the writes of the measuring client and of other components.
    pub by_metrics: Counts,
    /// The operator's writes according to the audit log, to any resource.
    pub by_audit: Counts,
    /// The operator's reads according to the audit log.
    pub reads: Counts,
    /// The writes of Kubernetes' own components, according to the audit log.
    pub others: Counts,
    /// The audit events of the operator's writes, each with its kind of request.
    writes: Vec<(String, AuditEvent)>,
}

impl Account {
    /// Whether the metrics and the audit log both show the `expected` writes.
    pub fn agrees(&self, expected: &Counts) -> bool {
        self.by_metrics == *expected && self.by_audit == *expected
    }

    /// The operator's writes that are not expected, that were rejected, or that repeat an earlier write.
    pub fn surprises(&self, expected: &Counts) -> Vec<String> {
        let mut made = BTreeSet::new();
        let surprising = self.writes.iter().filter(|(call, event)| {
            let again = !made.insert((call, event.name()));
            again || event.code() >= 300 || !expected.contains_key(call)
        });
        surprising.map(|(_, event)| event.to_string()).collect()
    }
}

impl Mark {
    /// Creates a mark at the current time.
    pub fn now(plane: &ControlPlane) -> Result<Self> {
        Ok(Self {
            log: plane.audit_mark()?,
            writes: writes(plane)?,
        })
    }

    /// Returns the requests since the mark. `own` are the writes of the measuring client.
    pub fn account(&self, plane: &ControlPlane, own: &Counts) -> Result<Account> {
        let after = writes(plane)?;
        let mut account = Account {
            by_metrics: Counts::new(),
            by_audit: Counts::new(),
            reads: Counts::new(),
            others: Counts::new(),
            writes: Vec::new(),
        };
        for event in plane.audit_since(self.log)? {
            let text = |pointer| event.json.pointer(pointer).and_then(serde_json::Value::as_str);
            let group = text("/objectRef/apiGroup").unwrap_or_default();
            let call = call(verb(&event), group, event.resource(), event.subresource());
            // The audit log contains a watch when it starts and when it ends. A watch that has not ended also counts.
            if (event.verb() == "watch") != (event.stage() == "ResponseStarted") {
                continue;
            }
            let counts = match (event.user(), event.is_write()) {
                (OPERATOR, true) => &mut account.by_audit,
                (OPERATOR, false) => &mut account.reads,
                (user, true) if user.starts_with("system:") => &mut account.others,
                _ => continue,
            };
            *counts.entry(call.clone()).or_default() += 1;
            if event.user() == OPERATOR && event.is_write() {
                account.writes.push((call, event));
            }
        }
        for (call, n) in after.into_iter().filter(|(call, _)| concerns_valet(call)) {
            let known = [&self.writes, own, &account.others];
            let known: u64 = known.iter().filter_map(|counts| counts.get(&call)).sum();
            if n != known {
                // Too few writes are as wrong as too many, so the difference is counted as a positive number.
                account.by_metrics.insert(call, n.abs_diff(known));
            }
        }
        Ok(account)
    }
}

/// The verb that the metrics use for an audit event.
fn verb(event: &AuditEvent) -> &'static str {
    match event.verb() {
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        _ => "OTHER",
    }
}

/// Whether a request is for a kind of object that Valet writes.
fn concerns_valet(call: &str) -> bool {
    let resource = call.split_once(' ').map_or(call, |(_, resource)| resource);
    resource.contains(".valetkey.dev") || resource == "secrets" || resource.starts_with("events")
}

/// The number of all writes that the apiserver has answered since it started.
fn writes(plane: &ControlPlane) -> Result<Counts> {
    let mut counts = Counts::new();
    for (labels, value) in samples(&plane.metrics()?, "apiserver_request_total") {
        let label = |name: &str| labels.get(name).copied().unwrap_or_default();
        if !matches!(label("verb"), "GET" | "LIST" | "WATCH" | "CONNECT") {
            let call = call(label("verb"), label("group"), label("resource"), label("subresource"));
            *counts.entry(call).or_default() += value as u64;
        }
    }
    Ok(counts)
}

/// The samples of one metric in Prometheus' text format. The labels that are read here contain no commas.
fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (BTreeMap<&'a str, &'a str>, f64)> {
    text.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        let labels = labels.split(',').filter_map(|label| label.split_once('='));
        let labels = labels.map(|(name, value)| (name, value.trim_matches('"'))).collect();
        Some((labels, value.parse().ok()?))
    })
}

/// How often the operator polled the store for an object, with any result.
pub fn looks(operator: &Operator) -> Result<u64> {
    let text = operator.metrics()?;
    Ok(samples(&text, "valet_store_polls_total").map(|(_, n)| n as u64).sum())
}

/// The CPU time and memory of a process.
#[derive(Clone, Copy)]
pub struct Usage {
    /// CPU time in seconds since the process started, in user and kernel mode.
    pub cpu: f64,
    /// Current resident memory, in MiB.
    pub resident: f64,
}

impl Usage {
    /// Reads the usage of a running process.
    pub fn of(pid: u32) -> Result<Self> {
        let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).context("cannot read /proc");
        // The process name in parentheses can contain any characters. The 12th and 13th fields after it are utime and
        // stime.
        let stat = read("stat")?;
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|n| n.parse::<f64>().ok());
        let (user, kernel) = ticks(11).zip(ticks(12)).context("no times in /proc/PID/stat")?;
        // SAFETY: sysconf takes and returns an integer, and does not access memory of this process.
        #[allow(unsafe_code, reason = "sysconf has no safe interface")]
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        let status = read("status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        Ok(Self {
            cpu: (user + kernel) / per_second,
            resident: resident.context("no VmRSS in /proc/PID/status")? / 1024.0,
        })
    }
}
