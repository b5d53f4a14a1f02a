//! Tests of the reference pages: they are complete and contain nothing that does not exist.

mod links;
mod refusals;

use valet_test_support::rules;

use std::{collections::BTreeSet, process::Command, sync::Arc, time::Instant};

use valet::{
    api::{Operation, Reason, StoreKind},
    telemetry::{GrantState, Metrics, Progress, States, StoreState},
};

fn page(name: &str) -> String {
    let path = format!("{}/docs/reference/{name}.md", env!("VALET_ROOT"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The first cell of each table row, if the cell is code.
fn rows(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.lines().filter_map(|line| {
        let name = line.strip_prefix("| `")?.split('`').next()?;
        Some((name, line))
    })
}

#[test]
fn every_reason_is_documented() {
    let page = page("reasons");
    let explained: BTreeSet<_> = rows(&page).map(|(name, _)| name).collect();
    let known: BTreeSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
    assert_eq!(
        known.difference(&explained).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "reasons without a row in docs/reference/reasons.md"
    );
    assert_eq!(
        explained.difference(&known).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "rows in docs/reference/reasons.md about no reason"
    );
}

/// The options, environment variables and defaults match `valet controller --help`.
#[test]
fn every_option_is_documented() {
    let page = page("cli");
    let output = Command::new(env!("CARGO_BIN_EXE_valet"))
        .args(["controller", "--help"])
        .env("COLUMNS", "500")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let section = page
        .split("## valet controller")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let mut flags = vec![];
    for part in help.split("\n      --").skip(1).filter(|p| !p.starts_with("help")) {
        let flag = format!("--{}", part.split_whitespace().next().unwrap());
        let tail = |name: &str| {
            part.split(&format!("[{name}: "))
                .nth(1)
                .map(|t| t.split(']').next().unwrap())
        };
        let row = section
            .lines()
            .find(|l| l.starts_with(&format!("| `{flag} ")) || l.starts_with(&format!("| `{flag}`")))
            .unwrap_or_else(|| panic!("{flag} has no row in docs/reference/cli.md"));
        let variable = tail("env").unwrap().trim_end_matches('=');
        assert!(row.contains(&format!("`{variable}`")), "{flag}: {row}");
        if let Some(default) = tail("default") {
            assert!(
                row.contains(&format!("| `{default}` |")),
                "the default of {flag}, {default}: {row}"
            );
        }
        flags.push(flag);
    }
    assert!(flags.len() >= 12, "{help}");
    let documented = rows(section).filter(|(name, _)| name.starts_with("--")).count();
    assert_eq!(
        documented,
        flags.len(),
        "docs/reference/cli.md has a row about no option"
    );
}

/// The metrics, their types and their labels match a scrape of the operator.
#[test]
fn every_metric_is_documented() {
    let progress = Arc::new(Progress::default());
    progress.ended(Instant::now());
    let metrics = Metrics::new(progress, (0, 1), || States {
        leads: true,
        grants: vec![GrantState {
            kind: "UploadGrant",
            namespace: "web".into(),
            name: "g".into(),
            reason: "Issued".into(),
            expires: Some(1),
            renewal: Some(1),
        }],
        stores: vec![StoreState {
            kind: "ObjectStore",
            namespace: "web".into(),
            name: "s".into(),
            scope: "web".into(),
            ready: true,
            reason: "Ready".into(),
            credentials_expire: Some(1),
            conditions: vec![("ClockInSync".into(), "True".into())],
        }],
    });
    metrics.credential_issued(Operation::Upload, Some(0.1));
    metrics.refused(Operation::Upload, "web", Reason::KeyNotAllowed);
    metrics.finished(Operation::Upload, Reason::Completed);
    metrics.reconciled(Operation::Upload, 0.1);
    metrics.reconcile_failed(Operation::Upload);
    metrics.polled((StoreKind::ObjectStore, "web", "s"), "absent");
    metrics.multipart_upload("initiated");
    metrics.notified("accepted", 1);
    metrics.completed_after_notification(0.1);
    let text = metrics.encode();
    let page = page("metrics");
    let mut known = BTreeSet::new();
    for line in text.lines().filter(|l| l.starts_with("# TYPE ")) {
        let [name, kind] = line["# TYPE ".len()..].split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let series = if kind == "counter" {
            format!("{name}_total")
        } else {
            name.to_owned()
        };
        let sample = text.lines().find(|l| {
            !l.starts_with('#')
                && l.split(['{', ' '])
                    .next()
                    .is_some_and(|n| n.trim_end_matches("_sum") == series)
        });
        let sample = sample.unwrap_or_else(|| panic!("no sample of {series} in {text}"));
        let labels: Vec<_> = sample
            .split_once('{')
            .map_or("", |(_, rest)| rest.split('}').next().unwrap())
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(label, _)| format!("`{label}`"))
            .collect();
        let row = rows(&page)
            .find(|(row, _)| *row == series)
            .unwrap_or_else(|| panic!("{series} has no row in docs/reference/metrics.md"))
            .1;
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        assert_eq!(cells[2], kind, "the type of {series}");
        assert_eq!(cells[3], labels.join(", "), "the labels of {series}");
        known.insert(series);
    }
    for (name, row) in rows(&page).filter(|(name, _)| name.starts_with("valet_")) {
        assert!(known.contains(name), "a row about no metric: {row}");
    }
}

/// Every metric appears in a test of the real program.
#[test]
fn every_metric_is_tested() {
    let folder = format!("{}/tests/cluster", env!("VALET_ROOT"));
    let tests: String = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let page = page("metrics");
    let untested: Vec<_> = rows(&page)
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("valet_") && !tests.contains(name))
        .collect();
    assert_eq!(
        untested,
        Vec::<&str>::new(),
        "no test in tests/cluster checks these metrics"
    );
}
