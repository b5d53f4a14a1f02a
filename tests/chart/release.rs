//! Tests that the crate, the chart and the image have one version, and that one command changes it everywhere.

use std::process::Command;

use serde_json::Value;
use valet_harness::{Scratch, process};

use crate::{
    helm::{self, CHART, objects},
    world::SOON,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
fn versions_of_crate_chart_and_image_are_equal() {
    let chart: Value = serde_yaml::from_str(&helm::ok(&["show", "chart", CHART])).expect("Chart.yaml is YAML");
    assert_eq!(chart["version"], VERSION);
    assert_eq!(chart["appVersion"], VERSION);
    let objects = objects(&[]);
    assert_eq!(
        objects.container()["image"],
        format!("ghcr.io/valetkey/valet:{VERSION}")
    );
    assert_eq!(
        objects.get("Deployment", "valet")["metadata"]["labels"]["app.kubernetes.io/version"],
        VERSION
    );
}

#[test]
fn packaged_chart_renders_like_the_chart_folder() {
    let scratch = Scratch::new("package").expect("a folder can be made");
    let folder = scratch.path().to_str().expect("a plain path");
    helm::ok(&["package", CHART, "--destination", folder]);
    let package = format!("{folder}/valet-{VERSION}.tgz");
    let args = ["--namespace", "valet-system", "--set", "prometheusRule.enabled=true"];
    let render = |chart: &str| helm::ok(&[&["template", "valet", chart][..], &args].concat());
    assert_eq!(render(&package), render(CHART), "nothing is left out of the package");
}

/// Runs the script in a copy of the files that it changes.
#[test]
fn version_script_changes_all_versions() {
    let root = env!("VALET_ROOT");
    let scratch = Scratch::new("version").expect("a folder can be made");
    for file in [
        "hack/version.sh",
        "Cargo.toml",
        "Cargo.lock",
        "charts/valet/Chart.yaml",
        "docs/install.md",
    ] {
        let to = scratch.join(file);
        std::fs::create_dir_all(to.parent().expect("it is in a folder")).expect("a folder can be made");
        std::fs::copy(format!("{root}/{file}"), to).expect("the file can be copied");
    }
    let script = |args: &[&str]| {
        let mut command = process::clean(Command::new(scratch.join("hack/version.sh")));
        command.args(args);
        process::run(command, b"", SOON).expect("the script runs")
    };
    assert_eq!(script(&[]).text().trim(), VERSION);
    assert!(script(&["--check"]).status.success());
    assert!(script(&["7.8.9"]).status.success());
    assert_eq!(script(&[]).text().trim(), "7.8.9");
    assert!(script(&["--check"]).status.success());
    let read = |file: &str| std::fs::read_to_string(scratch.join(file)).expect("the file can be read");
    assert!(read("charts/valet/Chart.yaml").contains("\nversion: 7.8.9\nappVersion: \"7.8.9\"\n"));
    assert!(read("Cargo.lock").contains("name = \"valet\"\nversion = \"7.8.9\"\n"));
    assert!(read("Cargo.toml").contains("name = \"valet\"\nversion = \"7.8.9\"\n"));
    // The versions of other crates do not change.
    assert_eq!(read("Cargo.lock").matches("7.8.9").count(), 1);

    assert_eq!(
        read("docs/install.md").matches(": v7.8.9").count(),
        2,
        "Argo CD's and Flux's"
    );
    for file in ["Cargo.lock", "charts/valet/Chart.yaml", "docs/install.md"] {
        let right = read(file);
        helm::edit(&scratch.join(file), "7.8.9", "7.8.8");
        let said = script(&["--check"]);
        assert!(
            !said.status.success() && said.stderr.contains(file),
            "{file}: {}",
            said.stderr
        );
        scratch.write(file, right).expect("the file can be written");
    }
    assert!(!script(&["1.0"]).status.success(), "not a version");
}
