//! Tests of an operator with a wrong clock. The real program runs under libfaketime, with a real control plane, a
//! store that refuses unsigned headers (versitygw) and a store that obeys them (MinIO). The tests print a table with
//! one row per store and clock.
//!
//! `make clocks` runs them. They take minutes and need Debian's package `faketime`.

mod expected;
mod world;

use std::{thread, time::Duration};

use expected::{Mode, headers, wrong, wrong_now};
use serde_json::Value;
use world::{Place, STORES, Snapshot, says};

/// How many seconds the operator's clock is ahead of all other clocks.
const OFFSETS: [i64; 8] = [0, -45, -62, -90, -1200, 300, 960, 1200];
/// How many operators run at the same time.
const SIDE_BY_SIDE: usize = 4;
/// The longest wait for the expected state. A store's status is updated within a minute.
const SETTLED: Duration = Duration::from_secs(120);
/// How long the expected state must stay unchanged.
const HOLDS: Duration = Duration::from_secs(15);

/// The three kinds of grants (upload, write-once upload, download). The name of a grant begins with one of these
/// words.
const FORMS: [&str; 3] = ["put", "once", "get"];

/// The result for one clock: rows of the table, and errors.
#[derive(Default)]
struct Findings {
    rows: Vec<String>,
    wrong: Vec<String>,
}

impl Findings {
    fn add(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.wrong.extend(other.wrong);
    }

    /// Prints the table, and fails if there are errors.
    fn conclude(self, title: &str) {
        let head = format!(
            "{:>6} | {:7} | {:9} | {:18} | {:17} | {:22} | {:6} | put, write-once, download",
            "offset", "mode", "store", "Ready", "ClockInSync", "UnsignedHeadersRefused", "grants"
        );
        println!("\n{title}\n{head}\n{}\n", self.rows.join("\n"));
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

/// One row of the table: the conditions of a store and the reasons of its grants.
fn row(seen: &Snapshot, place: &Place, offset: i64, mode: Mode, store: &str, group: &str) -> String {
    let object = seen.store(&place.store(store));
    let of = |type_: &str| object.map_or(String::new(), |o| says(o, type_));
    let reasons = FORMS.map(|form| seen.reason(&format!("{form}-{group}-{store}")));
    format!(
        "{offset:>6} | {:7} | {store:9} | {:18} | {:17} | {:22} | {group:6} | {}",
        mode.name(),
        of("Ready"),
        of("ClockInSync"),
        of(headers()),
        reasons.join(", ")
    )
}

/// Waits for the expected state until a timeout, then checks that the state stays. Records every observation that is
/// wrong at any time.
fn settle(place: &Place, offset: i64, mode: Mode, groups: &[&str], holds: Duration) -> Findings {
    let mut findings = Findings::default();
    let note = |wrong: &mut Vec<String>, seen: Vec<String>| {
        for what in seen {
            let what = format!("offset {offset}, {}: {what}", mode.name());
            if !wrong.contains(&what) {
                wrong.push(what);
            }
        }
    };
    let mut look = || {
        let seen = place.snapshot();
        note(&mut findings.wrong, wrong_now(&seen, place));
        let differs = wrong(&seen, place, offset, mode, groups);
        (seen, differs)
    };
    let end = std::time::Instant::now() + SETTLED;
    let (mut seen, mut differs) = look();
    while !differs.is_empty() && std::time::Instant::now() < end {
        thread::sleep(Duration::from_secs(1));
        (seen, differs) = look();
    }
    if differs.is_empty() && !holds.is_zero() {
        thread::sleep(holds);
        (seen, differs) = look();
    }
    note(&mut findings.wrong, differs);
    for store in STORES {
        for group in groups {
            findings.rows.push(row(&seen, place, offset, mode, store, group));
        }
    }
    findings
}

#[test]
#[ignore = "takes minutes, and needs libfaketime: make clocks"]
fn operator_that_starts_with_wrong_clock_finishes_no_grant() {
    let mut findings = Findings::default();
    for offsets in OFFSETS.chunks(SIDE_BY_SIDE) {
        let found = thread::scope(|scope| {
            let runs: Vec<_> = offsets
                .iter()
                .map(|offset| {
                    scope.spawn(|| {
                        let place = Place::new("static", *offset);
                        place.apply(&place.grants("new", 3600));
                        let _operator = place.operator();
                        settle(&place, *offset, Mode::Static, &["new"], HOLDS)
                    })
                })
                .collect();
            runs.into_iter()
                .map(|run| run.join().expect("a run ends"))
                .collect::<Vec<_>>()
        });
        for one in found {
            findings.add(one);
        }
    }
    findings.conclude("The operator's clock is wrong from its start:");
}

#[test]
#[ignore = "takes minutes, and needs libfaketime: make clocks"]
fn operator_with_temporarily_wrong_clock_finishes_no_grant() {
    let place = Place::new("steps", 0);
    let _operator = place.operator();
    let mut findings = Findings::default();
    for offset in OFFSETS {
        // These grants expire while the clock has the largest offset.
        place.apply(&place.grants("early", 600));
        let before = settle(&place, 0, Mode::Right, &["early"], Duration::ZERO);
        if offset == 0 {
            findings.add(before);
            continue;
        }
        findings.wrong.extend(before.wrong);
        place.set_clock(offset);
        findings
            .wrong
            .extend(settle(&place, offset, Mode::Stepped, &["early"], Duration::ZERO).wrong);
        place.apply(&place.grants("late", 3600));
        findings.add(settle(&place, offset, Mode::Stepped, &["early", "late"], HOLDS));
        place.set_clock(0);
        let after = settle(&place, 0, Mode::Right, &["early", "late"], Duration::ZERO);
        findings
            .wrong
            .extend(after.wrong.into_iter().map(|w| format!("after {offset}: {w}")));
        place.delete_grants();
    }
    findings.conclude("The operator's clock is set while it runs (early: grants for 600 s from before; late: for 3600 s from after):");
}

fn conditions(object: &Value) -> &[Value] {
    object["status"]["conditions"].as_array().map_or(&[], Vec::as_slice)
}
