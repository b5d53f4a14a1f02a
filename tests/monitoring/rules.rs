//! Checks the alert rules with promtool, and that every alert has tests in which it fires and in which it does not.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use valet_harness::process;

use crate::{ALERTS, TOOLS, alerts, all_rules, list, path, read, text, yaml};

/// promtool evaluates hours of samples, which takes long on a busy machine.
const LONGEST: Duration = Duration::from_secs(120);

fn cases() -> Vec<PathBuf> {
    let files = fs::read_dir(path("tests/monitoring/rules")).expect("there are cases");
    files.map(|f| f.expect("a file").path()).collect()
}

#[test]
fn alert_rules_are_well_formed() {
    let mut promtool = TOOLS.command("promtool");
    promtool
        .args(["check", "rules", "--lint=all", "--lint-fatal"])
        .arg(path(ALERTS));
    process::run_ok(promtool, b"", LONGEST).unwrap();
    for rule in all_rules() {
        let Some(alert) = rule["alert"].as_str() else { continue };
        let severity = text(&rule["labels"]["severity"]);
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{alert}: {severity}"
        );
        assert_eq!(
            rule["labels"].as_object().map(serde_json::Map::len),
            Some(1),
            "{alert}: other labels"
        );
        for annotation in ["summary", "description"] {
            assert!(
                !text(&rule["annotations"][annotation]).is_empty(),
                "{alert}: no {annotation}"
            );
        }
        let page = format!("https://github.com/valetkey/valet/blob/main/docs/runbooks/{alert}.md");
        assert_eq!(rule["annotations"]["runbook_url"], page, "{alert}");
    }
}

#[test]
fn every_alert_fires_as_expected_in_the_promtool_tests() {
    for file in cases() {
        let mut promtool = TOOLS.command("promtool");
        promtool.args(["test", "rules"]).arg(&file);
        let output = process::run(promtool, b"", LONGEST).unwrap();
        assert!(
            output.status.success(),
            "{}\n{}{}",
            file.display(),
            output.text(),
            output.stderr
        );
    }
}

/// Each alert has one case per severity in which it fires, and one case in which it never fires.
#[test]
fn every_alert_has_a_test_that_fires_and_one_that_does_not() {
    let mut severities: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for rule in all_rules() {
        if let Some(alert) = rule["alert"].as_str() {
            let severity = text(&rule["labels"]["severity"]).to_owned();
            severities.entry(alert.to_owned()).or_default().push(severity);
        }
    }
    let mut near_misses = std::collections::BTreeSet::new();
    let mut missing = severities.clone();
    for file in cases() {
        let cases = yaml(&read(file.to_str().expect("a plain path")));
        for case in list(&cases["tests"]) {
            let asked = list(&case["alert_rule_test"]);
            let alert = text(&asked[0]["alertname"]);
            assert!(
                text(&case["name"]).starts_with(alert),
                "a case is named after its alert: {}",
                case["name"]
            );
            assert!(
                asked.iter().all(|a| a["alertname"] == alert),
                "each case has exactly one alert: {}",
                case["name"]
            );
            let fired: Vec<_> = asked.iter().flat_map(|a| list(&a["exp_alerts"])).collect();
            if fired.is_empty() {
                near_misses.insert(alert.to_owned());
            }
            for one in fired {
                let left = missing.get_mut(alert).unwrap_or_else(|| panic!("{alert} is no alert"));
                left.retain(|severity| one["exp_labels"]["severity"] != *severity);
            }
        }
    }
    missing.retain(|_, left| !left.is_empty());
    assert!(missing.is_empty(), "no test case fires {missing:?}");
    assert_eq!(near_misses, alerts());
}
