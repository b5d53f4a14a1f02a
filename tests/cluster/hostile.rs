//! Tests of unusual object keys and changed requests. An object key goes through the CRD, the access rules, the
//! signer, an independent verifier and a real store; the signature must be for exactly the bytes of `spec.key` (I15).

use serde::Deserialize;
use serde_json::{Value, json};
use valet_harness::{UrlCheck, verify_urls};

use crate::world::{Tenant, condition};

#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    key: String,
    fill: Option<String>,
    #[serde(default)]
    bytes: usize,
    accepted: bool,
    #[serde(default = "yes")]
    store: bool,
    why: String,
}

fn yes() -> bool {
    true
}

impl Row {
    fn key(&self, prefix: &str) -> String {
        let Some(fill) = &self.fill else {
            return self.key.replace("{}", prefix);
        };
        let mut key = prefix.to_owned();
        while key.len() < self.bytes {
            let next = fill
                .chars()
                .cycle()
                .nth(key.chars().count() - prefix.chars().count())
                .expect("fill is text");
            key.push(next);
        }
        key
    }
}

#[test]
fn unusual_object_key_is_signed_exactly_or_refused() {
    let t = Tenant::new("hostile");
    let _operator = t.operator();
    let rows: Vec<Row> =
        serde_yaml::from_str(include_str!("../fixtures/keys.yaml")).expect("keys.yaml is a list of rows");
    assert!(rows.len() >= 60);
    let prefix = t.key("");
    let mut accepted = Vec::new();
    for (n, row) in rows.iter().enumerate() {
        let name = format!("k{n}");
        let key = row.key(&prefix);
        let grant = t.grant(
            "UploadGrant",
            &name,
            json!({"key": key, "constraints": {"overwrite": "Allow"}}),
        );
        // The request does not use kubectl, because YAML and the shell would change some of these object keys.
        match t.create(&grant) {
            Err(error) => assert!(!row.accepted, "{}: {key:?} was rejected: {error}", row.why),
            Ok(_) => accepted.push((name, key, row)),
        }
    }
    let mut checks = Vec::new();
    let mut expected = Vec::new();
    for (name, key, row) in &accepted {
        if !row.accepted {
            let grant = t.reason(&format!("ug/{name}"), "KeyNotAllowed");
            let message = condition(&grant, "Ready").unwrap()["message"].as_str().unwrap();
            assert!(
                message.contains("spec.key") && !message.contains('\n'),
                "{}: {message}",
                row.why
            );
            assert!(
                t.get(&format!("secret/{name}")).is_none(),
                "{}: {key:?} received a credential",
                row.why
            );
            continue;
        }
        let mounted = t.mount(name);
        let header = |line: &str| line.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned()));
        checks.push(UrlCheck {
            url: mounted.files["url"].clone(),
            method: mounted.files["method"].clone(),
            headers: mounted.files["headers"].lines().filter_map(header).collect(),
            access_key: t.world.s3.access_key().to_owned(),
            secret_key: t.world.s3.secret_key().to_owned(),
            session_token: None,
            region: t.world.s3.region().to_owned(),
        });
        expected.push((key, row));

        let body = format!("object {name}");
        let (code, answer) = mounted.upload(&t.file("body", body.as_bytes()));
        if row.store {
            assert_eq!(code, 200, "{}: {key:?}: {answer}", row.why);
            assert_eq!(
                t.stored(key).as_deref(),
                Some(body.as_bytes()),
                "{}: {key:?} is not stored under its object key",
                row.why
            );
        }
    }
    let verdicts = verify_urls(&t.world.tools, &checks).expect("the verifier answers");
    for ((key, row), verdict) in expected.iter().zip(&verdicts) {
        assert!(verdict.valid, "{}: {key:?}: {}", row.why, verdict.why);
        assert!(
            verdict.canonical,
            "{}: {key:?} is not encoded as the server encodes it",
            row.why
        );
        assert_eq!(verdict.key_in(t.name()), Some(key.as_bytes()), "{}", row.why);
        assert_eq!(verdict.signed_headers, ["host"], "{}", row.why);
        assert_eq!(verdict.expires_at - verdict.issued_at, 3600, "{}", row.why);
    }
    // No object is outside the prefix of this test.
    let stored: Vec<_> = t.world.s3.versions(t.name(), "").unwrap_or_default();
    for object in &stored {
        assert!(
            object.key.starts_with(&prefix),
            "{:?} is outside the prefix",
            object.key
        );
    }
    let counts = (rows.iter().filter(|r| r.accepted).count(), verdicts.len());
    assert_eq!(counts.0, counts.1, "every accepted key was verified");
}

/// If one part of a valid request changes, the verifier and the store both reject the request. A verifier that
/// accepts everything would prove nothing.
#[test]
fn changed_request_is_rejected_by_verifier_and_store() {
    let t = Tenant::new("tamper");
    let _operator = t.operator();
    t.put(&t.key("there"), b"there");
    t.put(&t.key("theirs"), b"theirs");
    t.apply(&[t.grant(
        "DownloadGrant",
        "there",
        json!({"response": {"contentType": "text/csv"}}),
    )]);
    t.reason("dg/there", "Issued");
    let mounted = t.mount("there");
    let url = &mounted.files["url"];
    let rows: Vec<(&str, String)> = vec![
        ("as it is", url.clone()),
        ("another object key", url.replace("/there?", "/theirs?")),
        ("another bucket", url.replacen(t.name(), "other-bucket", 1)),
        ("a longer life", url.replace("X-Amz-Expires=3600", "X-Amz-Expires=7200")),
        ("another day", url.replacen("X-Amz-Date=2", "X-Amz-Date=3", 1)),
        ("another region", url.replace("us-east-1", "us-east-2")),
        ("another service", url.replace("%2Fs3%2F", "%2Fsts%2F")),
        ("another response", url.replace("text%2Fcsv", "text%2Fhtml")),
        ("one parameter more", format!("{url}&response-cache-control=no-store")),
        (
            "one parameter less",
            url.replace("response-content-type=text%2Fcsv&", ""),
        ),
        (
            "one header less",
            url.replace("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders="),
        ),
        ("no signature", url.split("&X-Amz-Signature").next().unwrap().to_owned()),
        ("another signature", {
            let (head, signature) = url.rsplit_once('=').unwrap();
            let other = if signature.starts_with('0') { "1" } else { "0" };
            format!("{head}={other}{}", &signature[1..])
        }),
        ("another method", url.clone()),
    ];
    let check = |what: &str, url: &str| UrlCheck {
        url: url.to_owned(),
        method: if what == "another method" {
            "PUT".into()
        } else {
            "GET".into()
        },
        headers: Vec::new(),
        access_key: t.world.s3.access_key().to_owned(),
        secret_key: t.world.s3.secret_key().to_owned(),
        session_token: None,
        region: t.world.s3.region().to_owned(),
    };
    let checks: Vec<_> = rows.iter().map(|(what, url)| check(what, url)).collect();
    let verdicts = verify_urls(&t.world.tools, &checks).expect("the verifier answers");
    for ((what, tampered), verdict) in rows.iter().zip(&verdicts) {
        let good = *what == "as it is";
        assert!(
            good || *what == "another method" || tampered != url,
            "{what}: the request did not change"
        );
        assert_eq!(verdict.valid, good, "{what}: {}", verdict.why);
        let method = if *what == "another method" { "PUT" } else { "GET" };
        let output = std::process::Command::new("curl")
            .args([
                "--silent",
                "--globoff",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
                "--request",
                method,
                tampered,
            ])
            .output()
            .expect("curl runs");
        let code = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(code == "200", good, "{what}: the store said {code}");
    }
    let _: Value = t.get("dg/there").expect("the grant is there");
}

/// The operator does not keep fields of grants that it does not use. A grant can have 256 KiB of annotations, and a
/// cluster can have thousands of grants.
#[test]
fn large_grant_annotations_use_no_operator_memory() {
    const EACH: usize = 250_000;
    const GRANTS: usize = 60;
    let t = Tenant::new("heavy");
    let operator = t.operator();
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", operator.process().pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    };
    let of = |name: &str, much: usize| {
        let mut grant = t.grant("DownloadGrant", name, json!({}));
        grant["metadata"]["annotations"] = json!({"mine": "x".repeat(much)});
        t.create(&grant).unwrap();
    };
    of("first", 1);
    t.reason("dg/first", "Issued");
    let before = memory();
    for n in 0..GRANTS {
        of(&format!("g{n}"), EACH);
    }
    for n in 0..GRANTS {
        t.reason(&format!("dg/g{n}"), "Issued");
    }
    let more = memory().saturating_sub(before);
    assert!(
        more < EACH * GRANTS / 2,
        "the operator uses {more} more bytes of memory"
    );
}
