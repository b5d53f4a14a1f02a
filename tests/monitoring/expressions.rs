//! Tests of all PromQL expressions in the repository: Prometheus can parse them, and their metrics exist.

use std::{collections::BTreeSet, fs, time::Duration};

use serde_json::json;
use valet::api::{Progress, Reason};
use valet_harness::{Scratch, dashboard, process};

use crate::{TOOLS, all_rules, path, read, text};

/// All expressions, each with its location.
fn all() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for rule in all_rules() {
        let name = rule["alert"]
            .as_str()
            .or(rule["record"].as_str())
            .expect("a rule has a name");
        found.push((name.to_owned(), text(&rule["expr"]).to_owned()));
    }
    let board = serde_json::from_str(&read("charts/valet/files/dashboard.json")).expect("the dashboard is JSON");
    for query in dashboard::queries(&board, "1m") {
        assert!(!query.expr.contains('$'), "a variable was not replaced: {}", query.expr);
        found.push((format!("dashboard: {}", query.title), query.expr));
    }
    for page in pages() {
        for block in read(&page).split("```promql\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            found.extend(block.lines().map(|line| (page.clone(), line.to_owned())));
        }
    }
    found
}

/// The documentation pages that contain queries.
fn pages() -> Vec<String> {
    let mut pages = vec!["docs/reference/metrics.md".to_owned(), "docs/monitoring.md".to_owned()];
    for file in fs::read_dir(path("docs/runbooks")).expect("there are runbooks") {
        let name = file.expect("a file").file_name();
        pages.push(format!("docs/runbooks/{}", name.to_string_lossy()));
    }
    pages
}

/// All words that look like names of Valet's metrics.
fn metrics(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("valet_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn prometheus_parses_every_expression() {
    let all = all();
    let count = |of: &str| all.iter().filter(|(place, _)| place.starts_with(of)).count();
    for (place, least) in [("dashboard", 20), ("docs/runbooks", 6), ("docs/reference", 8)] {
        assert!(count(place) >= least, "{place}: {}", count(place));
    }
    let rules: Vec<_> = all
        .iter()
        .enumerate()
        .map(|(i, (_, expr))| json!({"record": format!("expression:number_{i}"), "expr": expr}))
        .collect();
    let scratch = Scratch::new("expressions").unwrap();
    let rules = json!({"groups": [{"name": "all", "rules": rules}]});
    let file = scratch.write("rules.yaml", rules.to_string()).unwrap();
    let mut promtool = TOOLS.command("promtool");
    promtool.args(["check", "rules", "--lint=none"]).arg(file);
    let output = process::run(promtool, b"", Duration::from_secs(60)).unwrap();
    let places: Vec<_> = all
        .iter()
        .enumerate()
        .map(|(i, (place, expr))| format!("{i}: {place}: {expr}"))
        .collect();
    assert!(
        output.status.success(),
        "{}{}\n{}",
        output.text(),
        output.stderr,
        places.join("\n")
    );
}

/// Another test (tests/reference) compares docs/reference/metrics.md with the operator's metrics. This test compares
/// all other files with that page.
#[test]
fn every_metric_in_an_expression_is_documented() {
    let documented: BTreeSet<String> = read("docs/reference/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| name.starts_with("valet_"))
        .map(str::to_owned)
        .collect();
    assert!(documented.len() >= 13, "{documented:?}");
    let mut named = BTreeSet::new();
    for place in pages()
        .iter()
        .map(String::as_str)
        .chain(["charts/valet/files/alerts.yaml", "charts/valet/files/dashboard.json"])
    {
        for metric in metrics(&read(place)) {
            let plain = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|end| metric.strip_suffix(end));
            let known = documented.contains(&metric) || plain.is_some_and(|m| documented.contains(m));
            // The names of recording rules contain colons, so only a part of such a name looks like a metric.
            let record = ["valet_grants_refused", "valet_grants_finished"].contains(&metric.as_str());
            assert!(
                known || record,
                "{place} names {metric}, which is not in docs/reference/metrics.md"
            );
            named.insert(plain.map_or(metric.clone(), str::to_owned));
        }
    }
    let idle: Vec<_> = documented.difference(&named).collect();
    assert!(idle.is_empty(), "no dashboard, alert or page shows {idle:?}");
}

/// The alerts and the dashboard list all reasons of grants that are still in progress.
#[test]
fn every_in_progress_reason_is_in_the_alert_and_the_panel() {
    // These reasons are never the reason of `Ready`, except `Deleting`, which kubectl shows as Terminating.
    let passing = [
        Reason::Pending,
        Reason::ExpiryTruncated,
        Reason::NotObservable,
        Reason::RenewalOverdue,
        Reason::RenewalRequestInvalid,
        Reason::PartsLeft,
        Reason::Deleting,
        Reason::ExpirationUnknown,
    ];
    let mut lists: Vec<(String, Vec<String>)> = vec![("ValetGrantsWaiting".to_owned(), Vec::new())];
    for (place, expr) in all() {
        let Some(reasons) = expr
            .split("valet_grants{")
            .nth(1)
            .and_then(|rest| rest.split("reason=").nth(1))
        else {
            continue;
        };
        let reasons = reasons.trim_start_matches('~').split('"').nth(1).unwrap_or_default();
        let reasons = reasons.split('|').map(str::to_owned);
        if place == "ValetGrantsWaiting" {
            lists[0].1.extend(reasons);
        } else if place.ends_with("Grants waiting") {
            lists.push((place, reasons.collect()));
        }
    }
    assert_eq!(lists.len(), 2, "an alert and a panel");
    for (place, list) in lists {
        for reason in Reason::ALL {
            let listed = list.iter().any(|one| match one.strip_suffix(".+") {
                Some(prefix) => reason.as_str().starts_with(prefix),
                None => reason.as_str() == one,
            });
            let waits = reason.progress() == Progress::InProgress && !passing.contains(reason);
            assert_eq!(listed, waits, "{place}: {reason}");
        }
    }
}
