//! Tests of multipart uploads on MinIO, where the sender of a part can add unsigned headers.

use std::process::Command;

use serde_json::{Value, json};
use valet_harness::{eventually, process};

use super::{
    OnMinio,
    world::{Mounted, SOON, condition},
};

const PART: usize = 5 << 20;

fn parts(key: &Mounted) -> Vec<Value> {
    let text: Value = serde_json::from_str(&key.files["parts.json"]).expect("parts.json is JSON");
    text["parts"].as_array().expect("it has parts").clone()
}

/// Uploads a part with additional arguments for curl.
fn send(on: &OnMinio, part: &Value, body: &[u8], more: &[&str]) -> u16 {
    let mut command = process::clean(Command::new("curl"));
    command
        .args([
            "--silent",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            "--upload-file",
        ])
        .arg(on.tenant.file("part", body))
        .args(more)
        .arg(part["url"].as_str().unwrap());
    let output = process::run(command, b"", SOON).expect("curl runs");
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .expect("curl prints a status")
}

fn grant(on: &OnMinio, name: &str) -> Value {
    let spec = json!({
        "mode": "Multipart", "multipart": {"partSizeBytes": PART}, "constraints": {"contentLength": PART + 3}, "expirationSeconds": 600,
    });
    on.tenant.grant("UploadGrant", name, spec)
}

/// Counts the open uploads of one object, because MinIO lists uploads of one object key only.
fn open(on: &OnMinio, name: &str) -> usize {
    let t = &on.tenant;
    let key = t.key(name);
    let query = [("uploads", ""), ("prefix", key.as_str())];
    let answer = on
        .minio
        .request("GET", t.name(), "", &query, &[], &[])
        .unwrap()
        .ok()
        .unwrap();
    String::from_utf8_lossy(&answer.body).matches("<UploadId>").count()
}

/// A multipart upload is refused like a PUT while the holder of a part's URL could copy any object that the
/// credentials can read.
#[test]
fn multipart_upload_is_refused_if_store_obeys_unsigned_headers() {
    let on = OnMinio::new("partobeys");
    let t = &on.tenant;
    on.store(json!({}));
    on.minio.put(t.name(), "secret/salaries", b"sum").unwrap();
    t.apply(&[grant(&on, "g")]);
    let refused = t.reason("ug/g", "CapabilityMissing");
    let message = condition(&refused, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("SignedHeadersOnly"), "{message}");
    assert_eq!(
        open(&on, "g"),
        0,
        "no multipart upload is initiated for a refused grant"
    );

    // The attack: if the owner tolerates unsigned headers, the holder of a part's URL can copy another object.
    on.store(json!({"unsignedHeaders": "Tolerate"}));
    t.reason("ug/g", "Issued");
    let all = parts(&t.mount("g"));
    let copy = format!("x-amz-copy-source: /{}/secret/salaries", t.name());
    // The client sends the signed Content-Length, although the copied object has another size.
    assert_eq!(send(&on, &all[1], b"xyz", &["--header", &copy]), 200);
    assert_eq!(send(&on, &all[0], &vec![b'a'; PART], &[]), 200);
    t.reason("ug/g", "Completed");
    let stored = on.minio.get(t.name(), &t.key("g")).unwrap().unwrap();
    assert_eq!(
        &stored[PART..],
        b"sum",
        "MinIO no longer obeys unsigned headers, so this test is out of date"
    );
}

/// With a session for each credential, part URLs reach only the grant's object. Valet initiates and completes the
/// upload with its own credentials.
#[test]
fn part_urls_with_a_session_reach_only_the_object_of_the_grant() {
    let on = OnMinio::new("partscoped");
    let t = &on.tenant;
    on.store(json!({"credentials": {"assumeRole": {"durationSeconds": 900}}}));
    on.minio.put(t.name(), "secret/salaries", b"sum").unwrap();
    t.apply(&[grant(&on, "g"), grant(&on, "left"), grant(&on, "late")]);
    let key = t.mount("g");
    let all = parts(&key);
    assert!(
        all.iter()
            .all(|p| p["url"].as_str().unwrap().contains("X-Amz-Security-Token="))
    );
    let copy = format!("x-amz-copy-source: /{}/secret/salaries", t.name());
    assert_eq!(send(&on, &all[1], b"xyz", &["--header", &copy]), 403);
    assert_eq!(
        send(&on, &all[1], b"wxyz", &[]),
        403,
        "one byte more than the size of the part"
    );
    assert_eq!(send(&on, &all[1], b"xyz", &[]), 200);
    assert_eq!(send(&on, &all[0], &vec![b'a'; PART], &[]), 200);
    t.reason_within("ug/g", "Completed", SOON * 3);
    let stored = on.minio.get(t.name(), &t.key("g")).unwrap().unwrap();
    assert_eq!((stored.len(), &stored[PART..]), (PART + 3, &b"xyz"[..]));
    assert_eq!(open(&on, "g"), 0);

    // MinIO also refuses to complete a multipart upload over an object that was created in the meantime.
    let late = parts(&t.mount("late"));
    on.minio.put(t.name(), &t.key("late"), b"faster").unwrap();
    assert_eq!(send(&on, &late[1], b"xyz", &[]), 200);
    assert_eq!(send(&on, &late[0], &vec![b'a'; PART], &[]), 200);
    t.reason_within("ug/late", "ObjectMismatch", SOON * 3);
    assert_eq!(
        on.minio.get(t.name(), &t.key("late")).unwrap().as_deref(),
        Some(&b"faster"[..])
    );

    let left = parts(&t.mount("left"));
    assert_eq!(send(&on, &left[0], &vec![b'a'; PART], &[]), 200);
    assert_eq!(open(&on, "left"), 1);
    t.kubectl(&["delete", "ug/left", "--timeout=30s"]);
    for name in ["left", "late"] {
        eventually(SOON, "the multipart upload to be removed", || {
            (open(&on, name) == 0).then_some(())
        });
    }
}
