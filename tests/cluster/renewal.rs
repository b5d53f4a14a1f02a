//! Tests of renewal on a real apiserver and a real store. A credential of ten minutes is renewed after more than six
//! minutes; tests/decide covers such times without waiting. Here the store's credentials expire soon, so that a
//! renewal is due within half a minute.

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use valet::core::second;
use valet_harness::{AuditMark, eventually};

use crate::world::{Mounted, SOON, Tenant, condition, merge, says};

const ALWAYS: &str = "Always";

fn time(value: &Value) -> Timestamp {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is not a time"))
        .parse()
        .unwrap()
}

/// Requests a renewal with the annotation.
fn request(t: &Tenant, grant: &str, value: &str) {
    let annotation = format!("valetkey.dev/renew-requested-at={value}");
    t.kubectl(&["annotate", "--overwrite", grant, &annotation]);
}

/// Waits until the Secret has a different URL.
fn another(t: &Tenant, secret: &str, than: &Mounted) -> Mounted {
    eventually(
        Duration::from_secs(90),
        &format!("another credential in {secret}"),
        || {
            let key = t.mounted(&t.get(&format!("secret/{secret}"))?);
            (key.files["url"] != than.files["url"]).then_some(key)
        },
    )
}

fn writes(t: &Tenant, since: AuditMark) -> Vec<String> {
    t.written(since)
        .iter()
        .filter(|e| e.resource() != "events")
        .map(|e| format!("{} {}", e.verb(), e.resource()))
        .collect()
}

/// The annotation leads to one new credential in the same Secret, with one write. The old credential stays valid.
#[test]
fn renewal_annotation_leads_to_one_new_credential() {
    let t = Tenant::new("request");
    for (name, body) in [("report", "a report"), ("other", "another")] {
        t.put(&t.key(name), body.as_bytes());
    }
    let operator = t.operator();
    t.apply(&[
        t.grant("DownloadGrant", "report", json!({"expirationSeconds": 300})),
        t.grant("UploadGrant", "up", json!({"expirationSeconds": 300})),
    ]);
    for (grant, secret) in [("dg/report", "report"), ("ug/up", "up")] {
        let issued = t.reason(grant, "Issued");
        let old = t.mount(secret);
        let uid = t.get(&format!("secret/{secret}")).unwrap()["metadata"]["uid"].clone();
        // A request with the same second as the issue time counts as fulfilled, so the test waits for the next
        // second.
        std::thread::sleep(Duration::from_millis(1100));
        let mark = t.mark();
        request(&t, grant, &second(Timestamp::now()).to_string());
        let new = another(&t, secret, &old);
        assert_eq!(
            new.files.keys().collect::<Vec<_>>(),
            old.files.keys().collect::<Vec<_>>(),
            "the same files"
        );
        assert!(new.files["expiry"] > old.files["expiry"]);
        let renewed = eventually(SOON, "the status to report it", || {
            t.get(grant).filter(|g| g["status"]["renewals"] == 1)
        });
        assert_eq!(
            renewed["status"]["expirationTime"].as_str().unwrap(),
            new.files["expiry"]
        );
        assert_eq!(renewed["metadata"]["generation"], issued["metadata"]["generation"]);
        assert_eq!(
            renewed["status"]["renewalTime"],
            json!(null),
            "no further renewal is scheduled"
        );
        let secret_now = t.get(&format!("secret/{secret}")).unwrap();
        assert_eq!(secret_now["metadata"]["uid"], uid, "the same Secret");
        assert_eq!(secret_now["metadata"]["annotations"]["valetkey.dev/renewals"], "1");

        // A second request with an older time, and another annotation, have no effect.
        request(&t, grant, "2020-01-01T00:00:00Z");
        t.kubectl(&["annotate", grant, "example.com/note=x"]);
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(t.mount(secret).files, new.files);
        let kind = if grant.starts_with("dg") {
            "downloadgrants"
        } else {
            "uploadgrants"
        };
        assert_eq!(
            writes(&t, mark),
            ["update secrets".to_owned(), format!("patch {kind}")],
            "one write to the Secret and one to the status"
        );
        // The old credential and the new one both work until their own expiry.
        if secret == "report" {
            for key in [&old, &new] {
                assert_eq!(key.curl(&[]), (200, "a report".to_owned()));
            }
        } else {
            let file = t.file("up", b"up");
            assert_eq!(old.upload(&file).0, 200);
            assert_eq!(
                new.upload(&file).0,
                412,
                "write-once applies to all credentials of the grant"
            );
            let done = t.reason_within("ug/up", "Completed", Duration::from_secs(70));
            assert_eq!(says(&done, "Completed"), "True Completed");
        }
    }
    assert!(
        operator
            .metrics()
            .unwrap()
            .contains(r#"valet_credentials_issued_total{kind="DownloadGrant"} 2"#)
    );
}

/// If the annotation is not a valid time, the condition `RenewalFailing` quotes its value, and nothing else changes.
#[test]
fn renewal_annotation_without_valid_time_is_reported() {
    let t = Tenant::new("nonsense");
    let _operator = t.operator();
    t.apply(&[t.grant("DownloadGrant", "g", json!({}))]);
    t.reason("dg/g", "Issued");
    let key = t.mount("g");
    request(&t, "dg/g", "now");
    let grant = eventually(SOON, "the condition", || {
        t.get("dg/g")
            .filter(|g| says(g, "RenewalFailing") == "True RenewalRequestInvalid")
    });
    let message = condition(&grant, "RenewalFailing").unwrap()["message"]
        .as_str()
        .unwrap();
    assert!(
        message.contains("valetkey.dev/renew-requested-at has the value \"now\"")
            && message.contains("2027-01-31T18:00:00Z"),
        "{message}"
    );
    assert_eq!(says(&grant, "Ready"), "True Issued");
    assert_eq!(t.kstatus(&grant), "Current");
    eventually(SOON, "an event", || {
        t.kubectl(&["get", "events"])
            .contains("RenewalRequestInvalid")
            .then_some(())
    });
    assert_eq!(t.mount("g").files, key.files);
    t.kubectl(&["annotate", "dg/g", "valetkey.dev/renew-requested-at-"]);
    eventually(SOON, "the condition to be removed", || {
        t.get("dg/g").filter(|g| condition(g, "RenewalFailing").is_none())
    });
}

/// With `renewal: Always` the status has the time of the next renewal, and a restart renews nothing. With `overwrite:
/// Allow` the credential stays after an upload.
#[test]
fn renewal_policy_always_schedules_the_next_renewal() {
    let t = Tenant::new("always");
    let operator = t.operator();
    let spec = json!({"expirationSeconds": 600, "renewal": {"policy": ALWAYS}});
    let mut again = spec.clone();
    merge(&mut again, json!({"constraints": {"overwrite": "Allow"}}));
    let mut last = spec.clone();
    merge(
        &mut last,
        json!({"deadlineTime": (Timestamp::now() + SignedDuration::from_secs(640)).to_string()}),
    );
    t.apply(&[
        t.grant("DownloadGrant", "down", spec.clone()),
        t.grant("DownloadGrant", "last", last),
        t.grant("UploadGrant", "again", again),
    ]);
    for (grant, secret) in [("dg/down", "down"), ("ug/again", "again")] {
        let issued = t.reason(grant, "Issued");
        let (begin, end) = (
            time(&issued["status"]["issuedTime"]),
            time(&issued["status"]["expirationTime"]),
        );
        let renewal = time(&issued["status"]["renewalTime"]).duration_since(begin).as_secs();
        assert!((350..=400).contains(&renewal), "{renewal}");
        assert_eq!(end.duration_since(begin).as_secs(), 600);
        assert_eq!(t.kstatus(&issued), "Current");
        assert!(t.get(&format!("secret/{secret}")).is_some());
    }
    let due = time(&t.get("dg/down").unwrap()["status"]["renewalTime"]).as_second();
    let series = format!(
        r#"valet_credential_renewal_timestamp_seconds{{kind="DownloadGrant",namespace="{}",name="down"}} {due}"#,
        t.name()
    );
    eventually(SOON, &series, || {
        operator.metrics().unwrap().contains(&series).then_some(())
    });
    let issued = t.reason("dg/last", "Issued");
    assert_eq!(
        issued["status"]["renewalTime"],
        json!(null),
        "another credential would extend the expiry by less than a minute"
    );

    let file = t.file("one", b"one");
    let key = t.mount("again");
    assert_eq!(key.upload(&file).0, 200);
    let seen = eventually(Duration::from_secs(70), "the upload to be found by a poll", || {
        t.get("ug/again").filter(|g| says(g, "Completed") == "True Completed")
    });
    assert_eq!(says(&seen, "Ready"), "True Issued");
    assert_eq!(says(&seen, "Active"), "True Issued");
    assert_eq!(seen["status"]["object"]["size"], 3);
    t.kubectl(&["wait", "--for=condition=Completed", "ug/again", "--timeout=1s"]);
    assert_eq!(key.upload(&t.file("two", b"two again")).0, 200);
    eventually(
        Duration::from_secs(70),
        "the second upload to be found by a poll",
        || t.get("ug/again").filter(|g| g["status"]["object"]["size"] == 9),
    );

    let keys = |names: [&str; 3]| names.map(|name| t.mount(name).files);
    let before = keys(["down", "last", "again"]);
    operator.kill();
    let mark = t.mark();
    let _operator = t.operator();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(keys(["down", "last", "again"]), before, "a restart renews nothing");
    assert_eq!(writes(&t, mark), Vec::<String>::new());
}

/// If the store's credentials expire soon and are replaced, Valet renews the grant before the old credential expires.
/// If they are not replaced, the grant gets `RenewalOverdue`, keeps its credential until the expiry, and continues
/// when new credentials exist.
#[test]
fn credential_is_renewed_before_it_expires() {
    let t = Tenant::new("live");
    t.put(&t.key("g"), b"a report");
    let until = |seconds: i64| {
        let mut secret = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
        let end = Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
        secret["stringData"]["AWS_CREDENTIAL_EXPIRATION"] = json!(end.to_string());
        t.apply(&[secret]);
        end
    };
    until(45);
    let operator = t.operator();
    let mark = t.mark();
    t.apply(&[t.grant(
        "DownloadGrant",
        "g",
        json!({"expirationSeconds": 600, "renewal": {"policy": ALWAYS}}),
    )]);
    let issued = t.reason("dg/g", "Issued");
    assert_eq!(says(&issued, "Active"), "True ExpiryTruncated");
    let first = t.mount("g");
    let end: Timestamp = first.files["expiry"].parse().unwrap();
    // The second credentials expire early enough for the rest of the test, and late enough for a renewal.
    let second_end = until(125);
    let second = another(&t, "g", &first);
    assert!(
        Timestamp::now() < end,
        "the renewal was before the old credential expired"
    );
    assert_eq!(
        second.files["expiry"].parse::<Timestamp>().unwrap(),
        second_end - SignedDuration::from_secs(5)
    );
    for key in [&first, &second] {
        assert_eq!(key.curl(&[]), (200, "a report".to_owned()));
    }

    // The credentials are deleted and not replaced.
    t.world
        .plane
        .kubectl(&["delete", "secret", t.name(), "--namespace", "valet-system"])
        .unwrap();
    let failing = eventually(Duration::from_secs(120), "an event", || {
        t.get("dg/g")
            .filter(|g| says(g, "RenewalFailing") == "True RenewalOverdue")
    });
    assert_eq!(says(&failing, "Ready"), "True Issued");
    assert_eq!(t.kstatus(&failing), "Current");
    assert_eq!(t.mount("g").files, second.files, "the old credential stays");
    eventually(SOON, "an event", || {
        t.kubectl(&["get", "events"]).contains("RenewalOverdue").then_some(())
    });
    let waiting = t.reason_within("dg/g", "CredentialsNotFound", Duration::from_secs(150));
    assert!(
        Timestamp::now() >= second_end - SignedDuration::from_secs(5),
        "the reason does not change before the expiry"
    );
    t.gone("g");
    assert_eq!(t.kstatus(&waiting), "InProgress");
    until(3600);
    let back = t.reason_within("dg/g", "Issued", Duration::from_secs(90));
    assert_eq!(back["status"]["renewals"], 2);
    assert_eq!(t.mount("g").curl(&[]), (200, "a report".to_owned()));
    drop(operator);

    // Each write of the Secret was a renewal, and each renewal has one URL (I3).
    assert_eq!(t.secrets_written(mark), (2, 1, 1));
    let urls: BTreeSet<_> = [&first, &second, &t.mount("g")].map(|k| k.files["url"].clone()).into();
    assert_eq!(urls.len(), 3);
}
