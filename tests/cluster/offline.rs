//! Tests of `valet sign`, which checks and signs a grant as the operator does, but without a cluster.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use valet_harness::{UrlCheck, verify_urls};

use crate::world::{Tenant, VALET};

fn sign(t: &Tenant, documents: &[Value], args: &[&str], credentials: bool) -> Output {
    use std::io::Write;
    let mut command = valet_harness::process::clean(Command::new(VALET.as_path()));
    command
        .args(["sign", "-f", "-"])
        .args(args)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", "/nonexistent");
    if credentials {
        command
            .env("AWS_ACCESS_KEY_ID", t.world.s3.access_key())
            .env("AWS_SECRET_ACCESS_KEY", t.world.s3.secret_key());
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text: String = documents.iter().map(|d| format!("---\n{d}\n")).collect();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The Secret that `valet sign` prints works in the same way as a Secret that the operator writes.
#[test]
fn offline_signing_equals_signing_by_the_operator() {
    let t = Tenant::new("offline");
    let grant = t.grant(
        "UploadGrant",
        "g",
        json!({"constraints": {"contentType": "text/plain"}, "expirationSeconds": 300}),
    );
    let documents = [t.store(), grant.clone()];
    let output = sign(&t, &documents, &["-o", "json"], true);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let offline: Value = serde_json::from_slice(&output.stdout).unwrap();
    let key = t.mounted(&offline);
    assert_eq!(key.upload(&t.file("f", b"from a pipeline")).0, 200);
    assert_eq!(t.stored(&t.key("g")).as_deref(), Some(&b"from a pipeline"[..]));
    t.world.s3.delete(t.name(), &t.key("g")).unwrap();

    let _operator = t.operator();
    t.apply(&[grant]);
    t.reason("ug/g", "Issued");
    let online = t.get("secret/g").unwrap();
    for part in ["type", "/metadata/name", "/metadata/namespace", "/metadata/labels"] {
        let of = |v: &Value| {
            if part.starts_with('/') {
                v.pointer(part).cloned()
            } else {
                v.get(part).cloned()
            }
        };
        assert_eq!(of(&offline), of(&online), "{part}");
    }
    let (offline, online) = (t.mounted(&offline), t.mounted(&online));
    for same in ["method", "headers", "type", "provider"] {
        assert_eq!(offline.files[same], online.files[same], "{same}");
    }
    let shape = |url: &str| {
        let (path, query) = url.split_once('?').unwrap();
        let names: Vec<_> = query
            .split('&')
            .map(|p| p.split('=').next().unwrap().to_owned())
            .collect();
        (path.to_owned(), names)
    };
    assert_eq!(shape(&offline.files["url"]), shape(&online.files["url"]));

    let url = sign(&t, &documents, &["-o", "url"], true).stdout;
    assert!(String::from_utf8(url).unwrap().starts_with(&t.world.s3.endpoint()));
    let curl = String::from_utf8(sign(&t, &documents, &["-o", "curl"], true).stdout).unwrap();
    assert!(
        curl.starts_with("# Works until ") && !curl.contains("request = "),
        "{curl}"
    );
    let yaml = String::from_utf8(sign(&t, &documents, &[], true).stdout).unwrap();
    assert!(
        yaml.contains("kind: Secret\n") && yaml.contains("type: valetkey.dev/grant\n"),
        "{yaml}"
    );
}

/// A URL that temporary credentials sign contains the session token, and the signature covers the token.
#[test]
fn offline_signature_with_session_covers_the_session_token() {
    let t = Tenant::new("session");
    let documents = [t.store(), t.grant("DownloadGrant", "g", json!({}))];
    let file = t.file(
        "documents.yaml",
        documents.map(|d| format!("---\n{d}\n")).concat().as_bytes(),
    );
    let output = valet_harness::process::clean(Command::new(VALET.as_path()))
        .args(["sign", "-o", "url", "-f"])
        .arg(file)
        .envs([
            ("AWS_ACCESS_KEY_ID", "ASIAEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "wJalr/+="),
            ("AWS_SESSION_TOKEN", "to/ken+="),
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let url = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert!(url.contains("X-Amz-Security-Token=to%2Fken%2B%3D"), "{url}");
    let check = |token: &str| UrlCheck {
        url: url.clone(),
        method: "GET".into(),
        headers: Vec::new(),
        access_key: "ASIAEXAMPLE".into(),
        secret_key: "wJalr/+=".into(),
        session_token: Some(token.into()),
        region: t.world.s3.region().into(),
    };
    let verdicts = verify_urls(&t.world.tools, &[check("to/ken+="), check("another")]).unwrap();
    assert!(verdicts[0].valid, "{}", verdicts[0].why);
    assert!(!verdicts[1].valid, "another session's token");
}

/// `valet sign` refuses the same grants as the operator, with the same messages. If an input is missing, the message
/// names it.
#[test]
fn offline_signing_refuses_what_the_operator_refuses() {
    let t = Tenant::new("offlineno");
    let outside = t.grant("DownloadGrant", "g", json!({"key": "tenants/other/x"}));
    let dots = t.grant(
        "DownloadGrant",
        "g",
        json!({"key": format!("tenants/{}/../other/x", t.name())}),
    );
    let good = t.grant("DownloadGrant", "g", json!({}));
    let elsewhere = t.grant("DownloadGrant", "g", json!({"storeRef": {"name": "nowhere"}}));
    let mut other = t.store();
    other["spec"]["access"][0]["namespaces"] = json!({"selector": {"matchLabels": {"team": "web"}}});
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": t.name(), "labels": {"team": "web"}}});
    let mut misspelt = t.grant("UploadGrant", "g", json!({}));
    misspelt["spec"]["constraints"] = json!({"contenttype": "image/png"});
    let mut elder = good.clone();
    elder["apiVersion"] = json!("valetkey.dev/v1");
    let too_long = t.grant("DownloadGrant", "g", json!({"expirationSeconds": 604_801}));
    let rows: [(&str, Vec<Value>, bool, &str); 12] = [
        (
            "out of bounds",
            vec![t.store(), too_long],
            true,
            "InvalidSpec: spec.expirationSeconds: the value is 604801, but the maximum allowed is 604800",
        ),
        (
            "policy",
            vec![t.store(), outside],
            true,
            "KeyNotAllowed: spec.key 'tenants/other/x' is outside",
        ),
        (
            "schema",
            vec![t.store(), dots],
            true,
            "InvalidSpec: spec.key: the object key has a '.' or '..' segment",
        ),
        (
            "no store",
            vec![elsewhere],
            true,
            "the grant names ClusterObjectStore nowhere, but the files do not contain this store",
        ),
        (
            "no credentials",
            vec![t.store(), good.clone()],
            false,
            "the environment contains no credentials",
        ),
        (
            "no grant",
            vec![t.store()],
            true,
            "the files contain no UploadGrant and no DownloadGrant",
        ),
        (
            "two grants",
            vec![t.store(), good.clone(), good.clone()],
            true,
            "more than one grant",
        ),
        (
            "no label",
            vec![other.clone(), good.clone()],
            true,
            "NamespaceNotAllowed",
        ),
        (
            "a typo",
            vec![json!({"apiVersion": "valetkey.dev/v1alpha1", "kind": "UploadGrant", "spec": {"key": 7}})],
            true,
            "UploadGrant",
        ),
        (
            "misspelt",
            vec![t.store(), misspelt],
            true,
            "unknown field spec.constraints.contenttype",
        ),
        (
            "another version",
            vec![t.store(), elder],
            true,
            "apiVersion is valetkey.dev/v1; set apiVersion to valetkey.dev/v1alpha1",
        ),
        (
            "nothing",
            vec![],
            true,
            "the files contain no UploadGrant and no DownloadGrant",
        ),
    ];
    for (what, documents, credentials, expected) in rows {
        let output = sign(&t, &documents, &[], credentials);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(output.stdout.is_empty(), "{what}");
        assert!(said.contains(expected), "{what}: {said}");
    }
    let output = sign(&t, &[namespace, other, good], &[], true);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
