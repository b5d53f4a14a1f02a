//! Tests of multipart uploads: the entries of the Secret, the script in the Secret, and what stays in the store.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};
use valet_harness::{eventually, process};

use crate::world::{Mounted, SOON, Tenant, condition, says};

const MIB: usize = 1 << 20;
pub const PART: usize = 5 * MIB;
/// Longer than the longest pause between two polls.
pub const A_POLL: Duration = Duration::from_secs(75);
const FINALIZER: &str = "valetkey.dev/multipart";

/// Test content in which no two parts are equal.
pub fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / MIB * 7 + n % 251) as u8).collect()
}

pub fn in_parts(t: &Tenant, name: &str, spec: Value) -> Value {
    let mut all = json!({"mode": "Multipart", "multipart": {"partSizeBytes": PART}});
    crate::world::merge(&mut all, spec);
    t.grant("UploadGrant", name, all)
}

pub fn parts(key: &Mounted) -> Vec<Value> {
    let text: Value = serde_json::from_str(&key.files["parts.json"]).expect("parts.json is JSON");
    text["parts"].as_array().expect("it has parts").clone()
}

/// The upload IDs of unfinished multipart uploads in the tenant's bucket, for object keys that start with `key`.
pub fn open(t: &Tenant, key: &str) -> Vec<String> {
    let query = [("uploads", ""), ("prefix", key)];
    let answer = t
        .world
        .s3
        .request("GET", t.name(), "", &query, &[], &[])
        .unwrap()
        .ok()
        .unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    text.split("<UploadId>")
        .skip(1)
        .map(|rest| rest.split('<').next().unwrap().to_owned())
        .collect()
}

/// Uploads one part as a client does that reads parts.json. Returns the HTTP status.
pub fn send(t: &Tenant, part: &Value, body: &[u8]) -> u16 {
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
        .arg(t.file("part", body))
        .arg(part["url"].as_str().unwrap());
    let output = process::run(command, b"", SOON).expect("curl runs");
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .expect("curl prints a status")
}

/// Runs the Secret's script with this shell. A replacement of `curl` lets the first attempt of each part fail.
fn run(t: &Tenant, key: &Mounted, shell: &[&str], args: &[&str]) -> (bool, String) {
    let folder = t.file("bin", b"").with_extension("d");
    fs::create_dir_all(&folder).unwrap();
    let curl = folder.join("curl");
    let real = String::from_utf8(
        Command::new("sh")
            .args(["-c", "command -v curl"])
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    let tried = folder.join(format!("tried-{}", key.folder.file_name().unwrap().display()));
    fs::create_dir_all(&tried).unwrap();
    let script = format!(
        "#!/bin/sh\nread -r url\nmark='{}'/\"$(printf %s \"$url\" | sed 's/.*partNumber=\\([0-9]*\\).*/\\1/')\"\n\
         [ -e \"$mark\" ] || {{ : > \"$mark\"; echo 'curl: (56) reset, says the test' >&2; exit 56; }}\n\
         printf '%s\\n' \"$url\" | exec {} \"$@\"\n",
        tried.display(),
        real.trim()
    );
    fs::write(&curl, script).unwrap();
    fs::set_permissions(&curl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = process::clean(Command::new(shell[0]));
    command
        .args(&shell[1..])
        .arg(key.folder.join("upload.sh"))
        .args(args)
        .env("PATH", path)
        .env("TMPDIR", &folder);
    let output = process::run(command, b"", Duration::from_secs(120)).expect("the shell runs");
    let left: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("part."))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "a temporary file is left");
    (output.status.success(), output.stderr)
}

fn finalizers(grant: &Value) -> Vec<&str> {
    grant["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

pub fn is_released(t: &Tenant, name: &str) {
    eventually(SOON, "the finalizer to be removed", || {
        finalizers(&t.get(&format!("ug/{name}")).unwrap())
            .is_empty()
            .then_some(())
    });
}

/// A multipart upload from issue to completion, with a script that must upload each part twice.
#[test]
fn multipart_upload_completes_grant() {
    let t = Tenant::new("parts");
    let _operator = t.operator();
    let size = 2 * PART + 3;
    let constraints = json!({"contentLength": size, "contentType": "application/x-dump"});
    let key = t.key("a b+\u{fc}.dump");
    t.apply(&[in_parts(&t, "parts", json!({"key": key, "constraints": constraints}))]);
    let grant = t.reason("ug/parts", "Issued");
    assert_eq!(finalizers(&grant), [FINALIZER]);
    assert_eq!(says(&grant, "Completed"), "False Pending");
    let mounted = t.mount("parts");
    let names: Vec<_> = mounted.files.keys().map(String::as_str).collect();
    assert_eq!(names, ["expiry", "parts.json", "provider", "type", "upload.sh"]);
    let all = parts(&mounted);
    let sizes: Vec<_> = all
        .iter()
        .map(|p| {
            (
                p["number"].as_i64(),
                p["offset"].as_u64(),
                p["size"].as_u64(),
                p["exact"].as_bool(),
            )
        })
        .collect();
    let part = |n: usize, size: usize| {
        (
            Some(n as i64),
            Some((n - 1) as u64 * PART as u64),
            Some(size as u64),
            Some(true),
        )
    };
    assert_eq!(sizes, [part(1, PART), part(2, PART), part(3, 3)]);
    let upload = grant["status"]["uploadID"]
        .as_str()
        .expect("the status names the multipart upload")
        .to_owned();
    assert_eq!(open(&t, &key), std::slice::from_ref(&upload));
    let secret = t.get("secret/parts").unwrap();
    assert_eq!(secret["metadata"]["annotations"]["valetkey.dev/upload-id"], upload);

    // The store rejects a part that is too large, another part number, another object key and another upload ID.
    assert_eq!(send(&t, &all[2], b"1234"), 403);
    for (from, to) in [
        ("partNumber=3", "partNumber=4"),
        ("a%20b", "a%20c"),
        (&upload[..], "another"),
    ] {
        let mut other = all[2].clone();
        let url = other["url"].as_str().unwrap().to_owned();
        assert!(url.contains(from), "{from}");
        other["url"] = url.replace(from, to).into();
        assert_eq!(send(&t, &other, b"123"), 403, "{to}");
    }
    let (well, said) = run(&t, &mounted, &["sh"], &[t.file("short", b"123").to_str().unwrap()]);
    assert!(
        !well && said.contains(&format!("has 3 bytes; the grant allows {size} to {size} bytes")),
        "{said}"
    );

    let body = bytes(size);
    let file = t.file("dump", &body);
    let (well, said) = run(&t, &mounted, &["sh"], &[file.to_str().unwrap()]);
    assert!(well, "{said}");
    assert_eq!(said.matches("failed; next try in 1 s").count(), 3, "{said}");
    assert!(!said.contains("X-Amz"), "{said}");
    let done = t.reason_within("ug/parts", "Completed", A_POLL);
    assert_eq!(done["status"]["object"]["size"], size);
    assert_eq!(done["status"]["object"]["contentType"], "application/x-dump");
    assert_eq!(t.kstatus(&done), "Current");
    assert!(t.stored(&key).unwrap() == body, "other bytes");
    t.gone("parts");
    is_released(&t, "parts");
    assert_eq!(open(&t, ""), Vec::<String>::new());
}

/// If the size of the object is not known, a part that is shorter than the others is the last part. It can be empty.
#[test]
fn multipart_upload_of_unknown_size_ends_with_a_short_part() {
    let t = Tenant::new("partsrange");
    let _operator = t.operator();
    let shells: [&[&str]; 3] = [&["sh"], &["busybox", "sh"], &["bash", "--posix"]];
    let sizes = [PART + 1, 2 * PART, 0, 2 * PART];
    for n in 0..4 {
        let range = json!({"constraints": {"contentLengthRange": {"max": 2 * PART + MIB}}});
        t.apply(&[in_parts(&t, &format!("g{n}"), range)]);
    }
    for n in 0..3 {
        let mounted = t.mount(&format!("g{n}"));
        assert_eq!(parts(&mounted).len(), 3);
        let file = t.file(&format!("f{n}"), &bytes(sizes[n]));
        let (well, said) = run(&t, &mounted, shells[n], &[file.to_str().unwrap()]);
        assert!(well, "{said}");
    }
    // The Python program of docs/reference/secret.md.
    let page = fs::read_to_string(concat!(env!("VALET_ROOT"), "/docs/reference/secret.md")).unwrap();
    let program = page
        .split("```python\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .find(|block| block.contains("parts.json"))
        .expect("the page has a program");
    let (mounted, file) = (t.mount("g3"), t.file("f3", &bytes(sizes[3])));
    let program = program
        .replace("/grant/", &format!("{}/", mounted.folder.display()))
        .replace("FILE", file.to_str().unwrap());
    let mut python = process::clean(Command::new("python3"));
    python.args(["-c", &program]);
    process::run_ok(python, b"", Duration::from_secs(120)).unwrap();
    for (n, size) in sizes.into_iter().enumerate() {
        let done = t.reason_within(&format!("ug/g{n}"), "Completed", A_POLL);
        assert_eq!(done["status"]["object"]["size"], size);
        assert!(
            t.stored(&t.key(&format!("g{n}"))).unwrap() == bytes(size),
            "other bytes"
        );
    }
    assert_eq!(open(&t, ""), Vec::<String>::new());
}

/// If the store cannot limit the size of a part, Valet does not complete an upload with a part that is too large. It
/// completes the upload after the client has sent the part again.
#[test]
fn multipart_upload_with_too_large_part_is_not_completed() {
    let t = Tenant::new("partsbad");
    let _operator = t.operator();
    let range = json!({"constraints": {"contentLengthRange": {"min": PART, "max": PART + 10}}});
    t.apply(&[in_parts(&t, "g", range)]);
    let mounted = t.mount("g");
    let all = parts(&mounted);
    assert_eq!(
        (all[0]["exact"].as_bool(), all[1]["exact"].as_bool()),
        (Some(true), Some(false))
    );
    assert_eq!(send(&t, &all[0], &bytes(PART)), 200);
    assert_eq!(send(&t, &all[1], b"12345678901"), 200);
    eventually(A_POLL, "the wrong part to be reported", || {
        let grant = t.get("ug/g").unwrap();
        let message = condition(&grant, "Completed").unwrap()["message"]
            .as_str()
            .unwrap()
            .to_owned();
        (message == "part 2 has 11 bytes, but at most 10 bytes are allowed; upload part 2 again").then_some(())
    });
    assert_eq!(t.stored(&t.key("g")), None);
    assert_eq!(send(&t, &all[1], b"1234567890"), 200);
    t.reason_within("ug/g", "Completed", A_POLL);
}

/// If another client creates the object during a write-once multipart upload, the store refuses to complete the
/// upload.
#[test]
fn write_once_multipart_upload_fails_if_object_was_created() {
    let t = Tenant::new("partsonce");
    let _operator = t.operator();
    let size = json!({"contentLength": 3});
    t.apply(&[
        in_parts(&t, "once", json!({"constraints": size})),
        in_parts(
            &t,
            "over",
            json!({"constraints": {"contentLength": 3, "overwrite": "Allow"}}),
        ),
    ]);
    for (name, reason, stored) in [
        ("once", "ObjectMismatch", &b"faster"[..]),
        ("over", "Completed", b"abc"),
    ] {
        let mounted = t.mount(name);
        t.put(&t.key(name), b"faster");
        assert_eq!(send(&t, &parts(&mounted)[0], b"abc"), 200);
        t.reason_within(&format!("ug/{name}"), reason, A_POLL);
        assert_eq!(t.stored(&t.key(name)).as_deref(), Some(stored));
        is_released(&t, name);
    }
    assert_eq!(open(&t, ""), Vec::<String>::new());
}

/// A re-signed credential is for the same multipart upload. If the Secret is deleted, Valet restores the same URLs.
#[test]
fn re_signed_credential_keeps_the_multipart_upload() {
    let t = Tenant::new("partsrenew");
    let operator = t.operator_with(&["--watch-secrets"]);
    t.apply(&[in_parts(&t, "g", json!({"constraints": {"contentLength": PART + 1}}))]);
    let first = t.mount("g");
    assert_eq!(send(&t, &parts(&first)[0], &bytes(PART)), 200);
    t.kubectl(&["delete", "secret/g"]);
    eventually(SOON, "the Secret to be restored", || t.get("secret/g"));
    let again = t.mount("g");
    assert_eq!(parts(&again), parts(&first));
    t.patch("ug/g", &json!({"spec": {"expirationSeconds": 1800}}));
    eventually(SOON, "another credential", || {
        (t.get("secret/g")?["metadata"]["annotations"]["valetkey.dev/expiration-seconds"] == "1800").then_some(())
    });
    // A new operator process knows the upload ID only from the record in the Secret.
    drop(operator);
    let _operator = t.operator();
    let renewed = t.mount("g");
    assert_ne!(parts(&renewed), parts(&first));
    assert_eq!(open(&t, &t.key("g")).len(), 1);
    assert_eq!(send(&t, &parts(&renewed)[1], b"x"), 200);
    t.reason_within("ug/g", "Completed", A_POLL);
    assert_eq!(open(&t, ""), Vec::<String>::new());
}

/// A multipart upload with a constraint that the store cannot enforce is refused. The mode of a grant cannot change.
#[test]
fn multipart_upload_with_unenforceable_constraint_is_refused() {
    let t = Tenant::new("partsno");
    let _operator = t.operator();
    let sum = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
    let mut limited = t.store();
    limited["spec"]["access"][0]["maxBytes"] = "1Gi".into();
    t.apply(&[
        limited,
        in_parts(
            &t,
            "sum",
            json!({"constraints": {"contentLength": 3, "checksumSHA256": sum}}),
        ),
        in_parts(
            &t,
            "loose",
            json!({"constraints": {"contentLengthRange": {"max": PART}}}),
        ),
        in_parts(&t, "exact", json!({"constraints": {"contentLength": PART}})),
    ]);
    for (name, reason, says) in [
        (
            "sum",
            "CapabilityMissing",
            "cannot enforce spec.constraints.checksumSHA256 on a multipart upload",
        ),
        (
            "loose",
            "ContentLengthNotAllowed",
            "contentLengthRange cannot enforce this limit",
        ),
    ] {
        let grant = t.reason(&format!("ug/{name}"), reason);
        let message = condition(&grant, "Ready").unwrap()["message"].as_str().unwrap();
        assert!(message.contains(says), "{message}");
        assert_eq!(
            finalizers(&grant),
            Vec::<&str>::new(),
            "a finalizer without a multipart upload"
        );
    }
    t.reason("ug/exact", "Issued");
    assert_eq!(open(&t, "").len(), 1);
    let text = format!(
        "{}\n---\n{}\n",
        t.store(),
        in_parts(&t, "off", json!({"constraints": {"contentLength": 3}}))
    );
    let output = process::clean(Command::new(crate::world::VALET.as_path()))
        .args(["sign", "-f"])
        .arg(Path::new(&t.file("documents.yaml", text.as_bytes())))
        .envs([("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "wJalr")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("only the operator initiates"),
        "{said}"
    );
}
