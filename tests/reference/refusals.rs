//! The refusals in docs/reference/access-rules.md are the messages that Valet and the API server return.

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use valet::api::crds;

use super::rules;

/// The rows of the table that begins with `head`: the request and the message.
fn rows(page: &str, head: &str) -> Vec<(String, String)> {
    let table = page.split(head).nth(1).expect("the page has the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| "));
    rows.map(|row| {
        let (asked, said) = row
            .trim_start_matches("| ")
            .split_once(" | ")
            .expect("a row has two cells");
        (asked.to_owned(), said.trim_end_matches(" |").to_owned())
    })
    .collect()
}

/// The message of `valet sign` for a grant under the page's access rule.
fn said(kind: &str, namespace: &str, store: &str, more_rule: &Value, spec: &Value) -> String {
    let mut rule = json!({
        "namespaces": {"selector": {"matchLabels": {"images": "yes"}}}, "operations": ["Upload"],
        "keyPrefix": "images/{namespace}/", "maxExpirationSeconds": 600, "contentTypes": ["image/png", "image/jpeg"],
    });
    let mut whole = json!({
        "storeRef": {"kind": "ClusterObjectStore", "name": store}, "key": format!("images/{namespace}/x.png"),
        "expirationSeconds": 60,
    });
    for (onto, from) in [(&mut rule, more_rule), (&mut whole, spec)] {
        for (name, value) in from.as_object().into_iter().flatten() {
            onto[name] = value.clone();
        }
    }
    let api = "valetkey.dev/v1alpha1";
    let labels = if namespace == "default" {
        json!({})
    } else {
        json!({"images": "yes"})
    };
    let documents = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}),
        json!({
            "apiVersion": api, "kind": "ClusterObjectStore", "metadata": {"name": store},
            "spec": {"s3": {"bucket": "media", "region": "r", "endpoint": "http://127.0.0.1:9000"}, "access": [rule]},
        }),
        json!({"apiVersion": api, "kind": kind, "metadata": {"name": "g", "namespace": namespace}, "spec": whole}),
    ];
    let mut sign = Command::new(env!("CARGO_BIN_EXE_valet"))
        .args(["sign", "-f", "-", "-o", "url"])
        .env("AWS_ACCESS_KEY_ID", "x")
        .env("AWS_SECRET_ACCESS_KEY", "x")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = documents.each_ref().map(|d| d.to_string()).join("\n---\n");
    sign.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = sign.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(1),
        "{asked}: it was signed",
        asked = documents[2]
    );
    let said = String::from_utf8(output.stderr).unwrap();
    said.trim().trim_start_matches("valet: ").to_owned()
}

#[test]
fn documented_refusals_equal_the_messages_of_valet() {
    let page = super::page("access-rules");
    let png = json!({"contentType": "image/png"});
    let constraints = |more: Value| {
        let mut all = png.clone();
        for (name, value) in more.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        json!({"constraints": all})
    };
    let form = json!({"mode": "PostForm", "constraints": {"contentType": "image/png"}});
    let folder = json!({
        "mode": "PostForm", "key": "images/team-a/", "constraints": {"contentType": "image/png", "overwrite": "Allow"},
    });
    let small = json!({"maxBytes": "5Mi", "keyPrefix": null, "contentTypes": []});
    let (total, once) = (json!({"maxTotalSeconds": 300}), json!({"renewal": "Forbid"}));
    let (up, team, none) = ("UploadGrant", "team-a", json!({}));
    // The cases are in the order of the page.
    let cases = [
        (up, "default", "rules", &none, constraints(json!({}))),
        ("DownloadGrant", team, "rules", &none, json!({})),
        (
            up,
            team,
            "rules",
            &none,
            json!({"key": "images/team-ab/x.png", "constraints": png}),
        ),
        (
            up,
            team,
            "rules",
            &none,
            json!({"expirationSeconds": 601, "constraints": png}),
        ),
        (
            up,
            team,
            "rules",
            &total,
            json!({"expirationSeconds": 301, "constraints": png}),
        ),
        (
            up,
            team,
            "rules",
            &once,
            json!({"expirationSeconds": 600, "renewal": {"policy": "Always"}, "constraints": png}),
        ),
        (up, team, "rules", &none, json!({})),
        (
            up,
            team,
            "rules",
            &none,
            json!({"constraints": {"contentType": "text/html"}}),
        ),
        (up, "shop", "shared", &small, json!({})),
        (
            up,
            team,
            "rules",
            &none,
            constraints(json!({"contentLengthRange": {"max": 9}})),
        ),
        (up, team, "rules", &none, form),
        (up, team, "rules", &none, folder),
        (
            up,
            team,
            "rules",
            &none,
            constraints(json!({"contentLength": 5_368_709_121_i64})),
        ),
    ];
    let rows = rows(&page, "| the grant | is refused with |");
    assert_eq!(rows.len(), cases.len(), "{rows:#?}");
    for ((asked, quoted), (kind, namespace, store, rule, spec)) in rows.iter().zip(cases) {
        let quoted = quoted.replacen('`', "", 2);
        assert_eq!(said(kind, namespace, store, rule, &spec), quoted, "{asked}");
    }
}

/// The page also quotes refusals by the API server correctly: the field and the message of the CEL rule.
#[test]
fn documented_rules_equal_the_messages_of_the_crds() {
    let mut words = BTreeSet::new();
    rules::messages(&serde_json::to_value(crds()).unwrap(), &mut words);
    let rows = rows(&super::page("access-rules"), "| the spec | is refused with |");
    assert!(rows.len() >= 5, "{rows:?}");
    for (asked, quoted) in rows {
        let (field, said) = quoted.split_once(": ").unwrap();
        assert!(field.starts_with("spec."), "{asked}: {quoted}");
        assert!(words.contains(said), "{asked}: no rule has the message: {said}");
    }
}
