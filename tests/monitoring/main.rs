//! Tests of the alerts, the runbooks, the dashboard and the queries in the documentation. They are consistent,
//! Prometheus can parse them, and each alert fires only when it should.
//!
//! `make monitoring` sends the same queries to a real Prometheus that scrapes an operator under load.

mod expressions;
mod pages;
mod rules;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use serde_json::Value;
use valet_harness::Tools;

const ALERTS: &str = "charts/valet/files/alerts.yaml";

static TOOLS: LazyLock<Tools> = LazyLock::new(|| Tools::locate().expect("the tools build"));

fn path(name: &str) -> PathBuf {
    Path::new(env!("VALET_ROOT")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn yaml(text: &str) -> Value {
    // `serde_yaml::Value` can apply the merge keys (`<<`).
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).expect("it is YAML");
    value.apply_merge().expect("its merges are of maps");
    serde_json::to_value(value).expect("its keys are strings")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn all_rules() -> Vec<Value> {
    let groups = yaml(&read(ALERTS));
    list(&groups["groups"])
        .iter()
        .flat_map(|group| list(&group["rules"]).to_vec())
        .collect()
}

fn alerts() -> BTreeSet<String> {
    let rules = all_rules();
    let names = rules.iter().filter_map(|rule| rule["alert"].as_str());
    names.map(str::to_owned).collect()
}
