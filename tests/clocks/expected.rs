//! What a test with a wrong clock must observe at the end, and what it must never observe.

use crate::{
    FORMS,
    world::{Place, STORES, Snapshot, says},
};

/// The smallest skew, in seconds, that the conditions report.
const NAMED: i64 = 30;
/// The smallest skew, in seconds, with which Valet signs nothing.
const NOTHING_SIGNED: i64 = 300;
/// The lifetime, in seconds, of the grants that are issued before the clock is set.
const EARLY: i64 = 600;

/// When the clock became wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The clock is wrong from the operator's start.
    Static,
    /// The clock is right at the start and set wrong later.
    Stepped,
    /// The clock is right, from the start or after a correction.
    Right,
}

impl Mode {
    /// The name in the printed table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Stepped => "stepped",
            Self::Right => "right",
        }
    }
}

/// The type of the condition about unsigned headers.
pub fn headers() -> &'static str {
    "UnsignedHeadersRefused"
}

/// The observations that are wrong at any time and with any clock.
pub fn wrong_now(seen: &Snapshot, place: &Place) -> Vec<String> {
    let mut wrong = Vec::new();
    for (store, never) in [("versitygw", "False"), ("minio", "True")] {
        let verdict = seen
            .store(&place.store(store))
            .map_or(String::new(), |o| says(o, headers()));
        if verdict.starts_with(never) {
            wrong.push(format!("{store}: {} is {verdict}", headers()));
        }
    }
    for (name, grant) in seen.grants() {
        let ready = says(grant, "Ready");
        let reason = seen.reason(name);
        if name.ends_with("minio") && !name.starts_with("get") && reason == "Issued" {
            wrong.push(format!("{name}: {ready}, and MinIO obeys unsigned headers"));
        }
        let completed = says(grant, "Completed");
        let is_over = ["Expired", "ExpiredUnused", "NotObservable", "Completed"].contains(&reason.as_str());
        if is_over || completed == "Unknown NotObservable" || !grant["status"]["finishedTime"].is_null() {
            wrong.push(format!(
                "{name} ended within its lifetime: Ready {ready}, Completed {completed}"
            ));
        }
    }
    wrong
}

/// The differences from the expected end state.
pub fn wrong(seen: &Snapshot, place: &Place, offset: i64, mode: Mode, groups: &[&str]) -> Vec<String> {
    let is_named = offset.abs() >= NAMED;
    let signs_nothing = offset.abs() >= NOTHING_SIGNED;
    let is_known = !is_named || mode != Mode::Static;
    let mut wrong = Vec::new();
    for store in STORES {
        let Some(object) = seen.store(&place.store(store)) else {
            wrong.push(format!("{store} is not there"));
            continue;
        };
        let of_headers: &[&str] = match store {
            "versitygw" if is_known => &["True HeadersRefused"],
            _ if is_known => &["False HeadersObeyed"],
            // For a store that is not usable, the condition is unknown or absent.
            _ => &["Unknown NotObservable", ""],
        };
        let of_store: [(&str, &[&str]); 3] = [
            (
                "Ready",
                if signs_nothing {
                    &["False ClockSkewed"]
                } else {
                    &["True Ready"]
                },
            ),
            (
                "ClockInSync",
                if is_named {
                    &["False ClockSkewed"]
                } else {
                    &["True Ready"]
                },
            ),
            (headers(), of_headers),
        ];
        for (type_, expected) in of_store {
            let said = says(object, type_);
            if !expected.contains(&said.as_str()) {
                wrong.push(format!("{store}: {type_} is {said:?}, not {}", expected.join(" or ")));
            }
        }
        for form in FORMS {
            for group in groups {
                let name = format!("{form}-{group}-{store}");
                let is_upload = form != "get";
                let expected: &[&str] = match (*group, store) {
                    // A grant that was refused before the clock was set can stay refused (`CapabilityMissing`).
                    (_, "minio") if is_upload && signs_nothing => &["ClockSkewed", "CapabilityMissing"],
                    (_, "minio") if is_upload && !is_known => &["ClockSkewed", "CapabilityMissing"],
                    (_, "minio") if is_upload => &["CapabilityMissing"],
                    // An issued credential stays until it has expired by the operator's clock.
                    ("early", _) if offset < EARLY => &["Issued"],
                    _ if signs_nothing => &["ClockSkewed"],
                    _ if is_upload && !is_known => &["ClockSkewed"],
                    _ => &["Issued"],
                };
                let reason = seen.reason(&name);
                if !expected.contains(&reason.as_str()) {
                    wrong.push(format!("{name}: Ready is {reason:?}, not {}", expected.join(" or ")));
                }
            }
        }
    }
    wrong
}
