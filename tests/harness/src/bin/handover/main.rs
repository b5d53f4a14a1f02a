//! Measures how long there is no leader after the leader is killed, frozen or stopped, ten times each.
//!
//! ```text
//! handover
//! ```
//! The program starts a control plane, an S3 server and two replicas with a Lease. In each round the leader is lost,
//! a grant is created at the same time, and the program waits for its Secret. A new replica replaces the lost one.
//! Live grants stay live during all rounds. The last line of the output contains the results. A lost credential, or a
//! Secret that is created twice, makes the exit status 1; times are only reported. HANDOVER_ROUNDS (10) is the number
//! of rounds of each kind.

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use valet_harness::{
    Context, Error, Operator, OperatorOptions, Result, Scene, control_plane, poll,
    program::{self, number},
};

const NAMESPACE: &str = "handover";
/// Number of live grants before the first round.
const LIVE: usize = 20;
/// Much longer than the Lease duration of 10 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the leader is lost.
#[derive(Clone, Copy)]
enum Going {
    Killed,
    Frozen,
    Asked,
}

fn main() -> ExitCode {
    program::run("handover", rounds)
}

fn rounds() -> Result<()> {
    let rounds = number("HANDOVER_ROUNDS", 10)?;
    let mut stage = Stage::start()?;
    let names: Vec<_> = (0..LIVE).map(|n| format!("live-{n:02}")).collect();
    let grants: Vec<_> = names.iter().map(|name| stage.grant(name)).collect();
    stage.scene.plane.apply_all(&grants)?;
    for name in &names {
        stage.secret(name)?;
    }
    let before = stage.keys(&names)?;

    println!("From the moment at which the leader goes to the Secret of a grant created then, in s:");
    let mut figures = Vec::new();
    for (going, said) in [
        (Going::Killed, "killed"),
        (Going::Frozen, "frozen"),
        (Going::Asked, "asked to stop"),
    ] {
        let mut times = (0..rounds)
            .map(|round| stage.round(going, &format!("{}-{round}", said.replace(' ', "-"))))
            .collect::<Result<Vec<_>>>()?;
        times.sort();
        let seconds: Vec<_> = times.iter().map(|t| format!("{:.1}", t.as_secs_f64())).collect();
        println!("  {said:<14} {}", seconds.join(" "));
        let at = |n: usize| seconds.get(n).cloned().unwrap_or_default();
        figures.push(format!("{said} median {}, max {}", at(rounds / 2), at(rounds - 1)));
    }

    if stage.keys(&names)? != before {
        return Err(Error::new(
            "a credential that was issued before the first round has changed after the last round",
        ));
    }
    let doubled = stage.made_twice()?;
    if !doubled.is_empty() {
        return Err(Error::new(format!("made twice: {}", doubled.join(", "))));
    }
    println!(
        "hand-over in s, {rounds} rounds each: {}; {LIVE} live credentials unchanged, {} grants created meanwhile, one Secret each",
        figures.join("; "),
        3 * rounds
    );
    Ok(())
}

struct Stage {
    leader: Operator,
    waiting: Operator,
    scene: Scene,
}

impl Stage {
    fn start() -> Result<Self> {
        let scene = Scene::set(NAMESPACE, json!({"operations": ["Download"]}))?;
        let leader = replica(&scene)?;
        wait_to_lead(&leader)?;
        let waiting = replica(&scene)?;
        Ok(Self { leader, waiting, scene })
    }

    fn grant(&self, name: &str) -> Value {
        self.scene.grant("DownloadGrant", name, 7200)
    }

    /// Loses the leader, and measures the time until a grant that is created at the same time has its Secret.
    fn round(&mut self, going: Going, name: &str) -> Result<Duration> {
        let began = Instant::now();
        match going {
            Going::Killed => self.leader.kill(),
            Going::Frozen => self.leader.process().pause(),
            // After SIGTERM, the leader finishes its running work and releases the Lease.
            Going::Asked => drop(self.leader.terminate()?),
        }
        self.scene.plane.apply_all(&[self.grant(name)])?;
        self.secret(name)?;
        let took = began.elapsed();
        wait_to_lead(&self.waiting)?;
        if matches!(going, Going::Frozen) {
            // The frozen process continues, detects that it has lost the Lease, and exits.
            self.leader.process().resume();
            if self.leader.process().wait(PATIENCE).is_none() {
                return Err(Error::new("a replica that lost the Lease while it was frozen goes on"));
            }
        }
        let next = replica(&self.scene)?;
        self.leader = std::mem::replace(&mut self.waiting, next);
        // The new standby must have observed the Lease for some time before the next round.
        thread::sleep(Duration::from_secs(3));
        Ok(took)
    }

    fn secret(&self, name: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{name}");
        poll(PATIENCE, || self.scene.plane.get(&path).ok()).context(format_args!("Secret {name} did not come"))?;
        Ok(())
    }

    /// The UID and the URL of each Secret.
    fn keys(&self, names: &[String]) -> Result<Vec<(Value, Value)>> {
        let secrets = self
            .scene
            .plane
            .kubectl_json(&["get", "secrets", "--namespace", NAMESPACE])?;
        let find = |name: &String| {
            let secret = secrets["items"]
                .as_array()?
                .iter()
                .find(|s| s["metadata"]["name"] == name.as_str())?;
            Some((secret["metadata"]["uid"].clone(), secret["data"]["url"].clone()))
        };
        names
            .iter()
            .map(|n| find(n).context(format_args!("the credential of {n} is missing")))
            .collect()
    }

    /// Grants for which the audit log contains more than one created Secret, or a replaced or deleted one.
    fn made_twice(&self) -> Result<Vec<String>> {
        let mut writes: Vec<_> = self
            .scene
            .plane
            .audit()?
            .iter()
            .filter(|e| e.is_write() && e.resource() == "secrets" && e.namespace() == NAMESPACE && e.code() < 300)
            .filter(|e| e.user() == control_plane::OPERATOR)
            .map(|e| e.name().to_owned())
            .collect();
        writes.sort();
        let (all, mut doubled) = (writes.clone(), Vec::new());
        writes.dedup();
        for name in writes {
            if all.iter().filter(|n| **n == name).count() > 1 {
                doubled.push(name);
            }
        }
        Ok(doubled)
    }
}

fn replica(scene: &Scene) -> Result<Operator> {
    scene.operator(&OperatorOptions {
        args: vec!["--leader-elect".into()],
        ..OperatorOptions::default()
    })
}

fn wait_to_lead(operator: &Operator) -> Result<()> {
    poll(PATIENCE, || operator.leads().then_some(())).context("no replica leads")
}
