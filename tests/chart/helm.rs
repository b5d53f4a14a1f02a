//! Runs helm and parses what it renders.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use valet_harness::{
    Scratch, Tools,
    process::{self, Output},
};

/// The chart's folder.
pub const CHART: &str = concat!(env!("VALET_ROOT"), "/charts/valet");

/// The time limit for one helm command, far longer than helm needs.
const LONGEST: Duration = Duration::from_secs(120);

/// Folders for helm, so that it neither reads nor changes the developer's own helm files.
static HOME: LazyLock<Scratch> = LazyLock::new(|| Scratch::disposable("helm").expect("a folder can be made"));

/// Runs helm and returns its output, also on failure.
pub fn run(args: &[&str]) -> Output {
    let tools = Tools::locate().expect("the tools build");
    assert!(
        tools.program("helm").is_file(),
        "{} has no helm: run hack/tools.sh chart",
        tools.folder().display()
    );
    let mut command: Command = tools.command("helm");
    command.env("HOME", HOME.path()).args(args);
    process::run(command, b"", LONGEST).expect("helm runs")
}

/// Runs helm, which must succeed, and returns its standard output.
#[track_caller]
pub fn ok(args: &[&str]) -> String {
    let output = run(args);
    assert!(
        output.status.success(),
        "helm {}: {}{}",
        args.join(" "),
        output.text(),
        output.stderr
    );
    output.text()
}

/// Runs helm, which must fail, and returns its error message.
#[track_caller]
pub fn refused(args: &[&str]) -> String {
    let output = run(args);
    assert!(!output.status.success(), "helm {} succeeded", args.join(" "));
    output.stderr
}

/// Puts `--set` before each value.
pub fn set<'a>(values: &[&'a str]) -> Vec<&'a str> {
    values.iter().flat_map(|v| ["--set", v]).collect()
}

/// The output of `helm template` for release `valet` in namespace `valet-system` with these values.
#[track_caller]
pub fn text(values: &[&str]) -> String {
    text_of("valet", "valet-system", values)
}

/// The output of `helm template` for another release.
#[track_caller]
pub fn text_of(release: &str, namespace: &str, values: &[&str]) -> String {
    let args = [
        &["template", release, CHART, "--namespace", namespace][..],
        &set(values),
    ]
    .concat();
    ok(&args)
}

/// The rendered objects with these values.
#[track_caller]
pub fn objects(values: &[&str]) -> Objects {
    Objects::parse(&text(values))
}

#[derive(Clone)]
pub struct Objects(pub Vec<Value>);

impl Objects {
    /// Parses YAML documents.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let all = serde_yaml::Deserializer::from_str(text)
            .map(|document| Value::deserialize(document).expect("helm renders YAML"))
            .filter(|object| !object.is_null())
            .collect();
        Self(all)
    }

    /// All objects of one kind.
    pub fn kind(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|o| o["kind"] == kind).collect()
    }

    /// The object of this kind and name, which must exist.
    #[track_caller]
    pub fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| {
            let there: Vec<_> = self
                .kind(kind)
                .iter()
                .map(|o| o["metadata"]["name"].to_string())
                .collect();
            panic!("no {kind} {name}, but {}", there.join(", "))
        })
    }

    /// The object of this kind and name, if it exists.
    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.kind(kind).into_iter().find(|o| o["metadata"]["name"] == name)
    }

    /// The pod template's `spec`.
    #[track_caller]
    pub fn pod(&self) -> &Value {
        &self.kind("Deployment").first().expect("there is a Deployment")["spec"]["template"]["spec"]
    }

    /// The operator's container.
    #[track_caller]
    pub fn container(&self) -> &Value {
        &self.pod()["containers"][0]
    }

    /// The arguments of the operator's container.
    #[track_caller]
    pub fn args(&self) -> Vec<String> {
        let args = self.container()["args"].as_array().expect("there are arguments");
        args.iter()
            .map(|a| a.as_str().expect("an argument is text").to_owned())
            .collect()
    }

    /// The objects of these kinds as a list for kubectl.
    pub fn list(&self, kinds: &[&str]) -> String {
        let items: Vec<_> = self
            .0
            .iter()
            .filter(|o| kinds.iter().any(|k| o["kind"] == *k))
            .collect();
        serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
    }
}

/// A copy of the chart that a test can change.
pub fn copy() -> (Scratch, PathBuf) {
    let scratch = Scratch::new("chart").expect("a folder can be made");
    let to = scratch.join("valet");
    let mut command = Command::new("cp");
    command.arg("-r").arg(CHART).arg(&to);
    process::run_ok(command, b"", LONGEST).expect("the chart can be copied");
    (scratch, to)
}

/// Replaces text in a file of the copied chart.
#[track_caller]
pub fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).expect("the file can be read");
    assert!(text.contains(from), "{} has no {from:?}", file.display());
    std::fs::write(file, text.replace(from, to)).expect("the file can be written");
}
