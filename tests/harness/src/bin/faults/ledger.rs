//! The guarantees of the fault tests, and the checks of these guarantees.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use valet_harness::{Context, Result, Scratch, control_plane::OPERATOR, poll, process};

use crate::{
    stage::{Asked, NAMESPACE, PRECIOUS, Stage},
    trouble::Trouble,
};

/// Time limit for the recovery from a fault. The operator retries after at most a minute, and an expected upload is
/// detected within another minute.
const PATIENCE: Duration = Duration::from_secs(150);

/// The expected result and the state of one grant.
struct Entry {
    /// The expected final reason of the Ready condition.
    end: &'static str,
    /// The URL that was read first.
    url: String,
    /// Whether a client has deleted the Secret once.
    taken: bool,
}

/// All grants of the test, by their kubectl names.
#[derive(Default)]
pub struct Ledger {
    entries: BTreeMap<String, Entry>,
    wrong: Vec<String>,
    checked: usize,
}

/// The result of the fault tests.
pub struct Verdict {
    /// Number of grants that were created.
    pub grants: usize,
    /// Number of checked guarantees.
    pub checked: usize,
    /// The guarantees that were violated.
    pub wrong: Vec<String>,
}

impl Ledger {
    fn check(&mut self, kept: bool, promise: impl FnOnce() -> String) {
        self.checked += 1;
        if !kept {
            self.wrong.push(promise());
        }
    }

    /// Waits for every credential, uses the upload credentials, and returns the time until the last credential was
    /// issued.
    pub fn use_keys(&mut self, stage: &Stage, asked: &Asked, trouble: Trouble) -> Result<Duration> {
        let began = Instant::now();
        let folder = Scratch::disposable("faults")?;
        for (names, end) in [(&asked.uploads, "Completed"), (&asked.live, "Issued")] {
            for name in names {
                let secret = poll(PATIENCE, || read(stage, name));
                let secret = secret.context(format_args!("{name} got no credential"))?;
                let kind = if end == "Completed" { "ug" } else { "dg" };
                let taken = trouble.takes_secrets();
                let url = secret["url"].clone();
                self.entries.insert(format!("{kind}/{name}"), Entry { end, url, taken });
                if end == "Completed" {
                    let (first, second) = upload(&folder, name, &secret["curl.cfg"])?;
                    self.check(first == "200", || {
                        format!("{name}: the store answered {first} to its upload")
                    });
                    // A second upload with the same credential must be rejected.
                    self.check(second == "412", || {
                        format!("{name}: the store answered {second} to a second upload")
                    });
                }
            }
        }
        let took = began.elapsed();
        for name in &asked.short {
            let url = String::new();
            let entry = Entry {
                end: "Expired",
                url,
                taken: false,
            };
            self.entries.insert(format!("dg/{name}"), entry);
        }
        Ok(took)
    }

    /// Waits until every grant has its final state, and checks all guarantees.
    pub fn close(mut self, stage: &Stage) -> Result<Verdict> {
        let mut last = BTreeMap::new();
        let ends: BTreeMap<_, _> = self
            .entries
            .iter()
            .map(|(grant, entry)| (grant.clone(), entry.end))
            .collect();
        poll(PATIENCE, || {
            last = reasons(stage).ok()?;
            ends.iter()
                .all(|(grant, end)| last.get(grant).is_some_and(|is| is == end))
                .then_some(())
        });
        for (grant, end) in &ends {
            let is = last.get(grant).cloned().unwrap_or_default();
            self.check(is == *end, || format!("{grant} is {is:?} and not {end}"));
        }

        // Exactly the live grants have a Secret, and it contains the first credential.
        let secrets: BTreeMap<String, Value> = stage
            .list("secrets")?
            .into_iter()
            .map(|s| (s["metadata"]["name"].as_str().unwrap_or_default().to_owned(), s))
            .collect();
        let entries = std::mem::take(&mut self.entries);
        for (grant, entry) in &entries {
            let name = grant.split_once('/').map_or("", |(_, name)| name);
            let there = secrets.get(name);
            let live = entry.end == "Issued";
            self.check(there.is_some() == live, || match live {
                true => format!("{grant} has lost its Secret"),
                false => format!("{grant} has expired, and its Secret still exists"),
            });
            if let (true, Some(secret)) = (live, there) {
                let same = data(secret, "url").is_some_and(|url| url == entry.url);
                self.check(same, || format!("{grant} has a different credential than at first"));
            }
        }
        let foreign = secrets.get(PRECIOUS).and_then(|s| data(s, "password"));
        self.check(foreign.as_deref() == Some("tell-nobody"), || {
            "somebody else's Secret was touched".into()
        });
        let known: BTreeSet<_> = entries
            .keys()
            .filter_map(|grant| grant.split_once('/'))
            .map(|(_, n)| n)
            .chain([PRECIOUS])
            .collect();
        let strange: Vec<_> = secrets.keys().filter(|name| !known.contains(name.as_str())).collect();
        self.check(strange.is_empty(), || {
            format!("Secrets that nobody asked for: {strange:?}")
        });

        self.count_keys(stage, &entries)?;
        self.look_for_leaks(stage, &entries)?;
        Ok(Verdict {
            grants: entries.len(),
            checked: self.checked,
            wrong: self.wrong,
        })
    }

    /// Checks with the audit log that each grant Secret was created once (twice if a client deleted the first one)
    /// and never replaced.
    fn count_keys(&mut self, stage: &Stage, entries: &BTreeMap<String, Entry>) -> Result<()> {
        let mut made: BTreeMap<String, usize> = BTreeMap::new();
        let mut replaced = Vec::new();
        for event in stage.scene.plane.audit()? {
            if event.user() != OPERATOR
                || event.resource() != "secrets"
                || event.namespace() != NAMESPACE
                || event.code() >= 300
            {
                continue;
            }
            match event.verb() {
                "create" => *made.entry(event.name().to_owned()).or_default() += 1,
                "update" | "patch" => replaced.push(event.name().to_owned()),
                _ => {}
            }
        }
        for (grant, entry) in entries {
            let name = grant.split_once('/').map_or("", |(_, name)| name);
            let times = made.get(name).copied().unwrap_or_default();
            let most = if entry.taken { 2 } else { 1 };
            self.check(times <= most, || {
                format!("the Secret of {grant} was made {times} times")
            });
        }
        self.check(replaced.is_empty(), || format!("Secrets were replaced: {replaced:?}"));
        Ok(())
    }

    /// Checks that logs, events and grants contain no signatures and no store credentials.
    fn look_for_leaks(&mut self, stage: &Stage, entries: &BTreeMap<String, Entry>) -> Result<()> {
        let mut places: Vec<(String, String)> = Vec::new();
        for log in &stage.logs {
            let text = fs::read_to_string(log).context("an operator's log cannot be read")?;
            places.push((log.display().to_string(), text));
        }
        for kind in ["events.events.k8s.io", "uploadgrants", "downloadgrants"] {
            places.push((kind.into(), stage.kubectl(&["get", kind, "--output", "json"])?));
        }
        for operator in &stage.operators {
            places.push(("the metrics".into(), operator.metrics()?));
        }
        let signatures = entries
            .values()
            .filter_map(|entry| entry.url.split("X-Amz-Signature=").nth(1))
            .collect::<Vec<_>>();
        for (place, text) in places {
            let leaks = text.contains(stage.scene.store.secret_key())
                || text.contains("X-Amz-Signature")
                || signatures.iter().any(|signature| text.contains(signature));
            self.check(!leaks, || format!("{place} has a signature or a credential"));
        }
        Ok(())
    }
}

/// A Secret's data as text.
fn read(stage: &Stage, name: &str) -> Option<BTreeMap<String, String>> {
    let secret = stage
        .scene
        .plane
        .kubectl_json(&["get", "secret", name, "--namespace", NAMESPACE])
        .ok()?;
    let names = ["url", "curl.cfg"];
    names
        .iter()
        .map(|name| Some(((*name).to_owned(), data(&secret, name)?)))
        .collect()
}

fn data(secret: &Value, name: &str) -> Option<String> {
    let mut base64 = process::clean(Command::new("base64"));
    base64.arg("--decode");
    let text = secret["data"][name].as_str()?;
    Some(
        process::run_ok(base64, text.as_bytes(), Duration::from_secs(30))
            .ok()?
            .text(),
    )
}

/// Uploads a file twice, and returns the statuses of the store.
fn upload(folder: &Scratch, name: &str, config: &str) -> Result<(String, String)> {
    let config = folder.write(&format!("{name}.cfg"), config)?;
    let file = folder.write(name, name)?;
    let send = || -> Result<String> {
        let mut curl = process::clean(Command::new("curl"));
        curl.arg("--config").arg(&config).arg("--upload-file").arg(&file);
        curl.args([
            "--no-fail",
            "--silent",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ]);
        Ok(process::run(curl, b"", Duration::from_secs(60))?.text())
    };
    Ok((send()?, send()?))
}

/// The reason of each grant's Ready condition.
fn reasons(stage: &Stage) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for (kind, short) in [("uploadgrants", "ug"), ("downloadgrants", "dg")] {
        for grant in stage.list(kind)? {
            let ready = grant["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|c| c["type"] == "Ready");
            let reason = ready.and_then(|c| c["reason"].as_str()).unwrap_or_default();
            let name = grant["metadata"]["name"].as_str().unwrap_or_default();
            all.insert(format!("{short}/{name}"), reason.to_owned());
        }
    }
    Ok(all)
}
