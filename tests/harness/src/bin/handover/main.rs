//! How long nobody works when the replica that leads goes: killed, frozen, or asked to stop; ten times each.
//!
//! ```text
//! handover
//! ```
//! Starts a control plane, an S3 server and two replicas with a Lease. In each round the leader goes, a grant is
//! created at that moment, and its Secret is waited for; a new replica takes the place of the one that went. Grants
//! that have their keys live on through all rounds. Ends with the figures in one line. A key that is lost, or a Secret
//! that is made twice, makes the status 1; timings are only reported. HANDOVER_ROUNDS (10) says how many of each.

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
/// Grants that have their keys before the first round.
const LIVE: usize = 20;
/// Far longer than the Lease's 10 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a leader goes.
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
            "a key that was out before the first round is another one after the last",
        ));
    }
    let doubled = stage.made_twice()?;
    if !doubled.is_empty() {
        return Err(Error::new(format!("made twice: {}", doubled.join(", "))));
    }
    println!(
        "hand-over in s, {rounds} rounds each: {}; {LIVE} live keys unchanged, {} grants made on the way, one Secret each",
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

    /// The leader goes; how long until a grant made then has its Secret.
    fn round(&mut self, going: Going, name: &str) -> Result<Duration> {
        let began = Instant::now();
        match going {
            Going::Killed => self.leader.kill(),
            Going::Frozen => self.leader.process().pause(),
            // It gives the Lease up when its work in hand is done.
            Going::Asked => drop(self.leader.terminate()?),
        }
        self.scene.plane.apply_all(&[self.grant(name)])?;
        self.secret(name)?;
        let took = began.elapsed();
        wait_to_lead(&self.waiting)?;
        if matches!(going, Going::Frozen) {
            // It wakes up, finds that it is late, and ends by itself.
            self.leader.process().resume();
            if self.leader.process().wait(PATIENCE).is_none() {
                return Err(Error::new("a replica that lost the Lease while it was frozen goes on"));
            }
        }
        let next = replica(&self.scene)?;
        self.leader = std::mem::replace(&mut self.waiting, next);
        // The new one has looked at the Lease before the next round begins, and not only just now.
        thread::sleep(Duration::from_secs(3));
        Ok(took)
    }

    fn secret(&self, name: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{name}");
        poll(PATIENCE, || self.scene.plane.get(&path).ok()).context(format_args!("Secret {name} did not come"))?;
        Ok(())
    }

    /// UID and URL of each Secret.
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
            .map(|n| find(n).context(format_args!("the key of {n} is gone")))
            .collect()
    }

    /// Grants for which the audit log has more than one Secret that was made, or one that was replaced or deleted.
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
