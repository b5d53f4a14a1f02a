//! Tests that `valet sign` refuses what the operator would refuse, and input that it cannot read completely.

use serde_json::json;

use super::{ACCESS_KEY, amazons, cluster_store, download, grant, sign, sign_text};

/// Too long an input is refused, because the part beyond the limit could contain a constraint.
#[test]
fn input_over_the_size_limit_is_rejected_and_not_truncated() {
    let store = cluster_store(amazons(json!({})));
    let head = format!(
        "---\n{store}\n---\napiVersion: valetkey.dev/v1alpha1\nkind: UploadGrant\nmetadata: {{name: g, namespace: web}}\nspec:\n  storeRef: {{kind: ClusterObjectStore, name: store}}\n  key: a/b.bin\n"
    );
    let tail = "  constraints: {contentLength: 1}\n";
    let pad = |bytes: usize| format!("#{}\n", "x".repeat(bytes));
    let whole = format!("{head}{}{tail}", pad(1 << 20));
    assert!(sign_text(&whole, &[], &ACCESS_KEY).is_signed);
    let long = format!("{head}{}{tail}", pad(4 << 20));
    let signed = sign_text(&long, &[], &ACCESS_KEY);
    assert!(
        !signed.is_signed && signed.said.contains("longer than 4 MiB"),
        "{}",
        signed.said
    );
}

#[test]
fn sign_refuses_what_the_operator_refuses() {
    let plain = cluster_store(amazons(json!({})));
    let with = |field: &str, value: serde_json::Value| {
        let mut store = plain.clone();
        store["spec"]["access"][0][field] = value;
        store
    };
    let mut tried = plain.clone();
    tried["status"] = json!({"observedGeneration": 1, "capabilities": ["ContentType", "SignedHeadersOnly"]});
    let mut obeys = plain.clone();
    obeys["status"] = json!({"observedGeneration": 1, "capabilities": ["WriteOnce", "ContentType"]});
    let mut unknown = plain.clone();
    unknown["spec"]["acess"] = json!([{"operations": ["Upload"]}]);
    let renews = json!({"renewal": {"policy": "Always"}});
    let labelled = json!({"secretTemplate": {"labels": {"argocd.argoproj.io/secret-type": "repo-creds"}}});
    for (what, store, kind, spec, part) in [
        (
            "total",
            with("maxTotalSeconds", json!(600)),
            "DownloadGrant",
            json!({}),
            "ExpirationTooLong",
        ),
        (
            "renewal",
            with("renewal", json!("Forbid")),
            "DownloadGrant",
            renews,
            "RenewalNotAllowed",
        ),
        ("no write-once", tried, "UploadGrant", json!({}), "CapabilityMissing"),
        ("unsigned headers", obeys, "UploadGrant", json!({}), "CapabilityMissing"),
        (
            "unknown field",
            unknown,
            "DownloadGrant",
            json!({}),
            "unknown field spec.acess",
        ),
        (
            "other systems' labels",
            plain.clone(),
            "DownloadGrant",
            labelled.clone(),
            "--allow-secret-metadata",
        ),
    ] {
        let signed = sign(&[store.clone(), grant(kind, &store, spec)], &[], &ACCESS_KEY);
        assert!(
            !signed.is_signed && signed.said.contains(part),
            "{what}: {}",
            signed.said
        );
    }
    let allowed = ["--allow-secret-metadata=argocd.argoproj.io"];
    let signed = sign(
        &[plain.clone(), grant("DownloadGrant", &plain, labelled)],
        &allowed,
        &ACCESS_KEY,
    );
    assert!(signed.is_signed, "{}", signed.said);
    assert!(sign(&[plain.clone(), download(&plain)], &[], &ACCESS_KEY).is_signed);
}

/// A multipart upload is refused with the same reasons as any other grant, also if `--upload-id` names an initiated
/// upload.
#[test]
fn multipart_upload_with_upload_id_is_refused_with_the_reason() {
    let mut store = cluster_store(amazons(json!({})));
    let parts = json!({"mode": "Multipart", "constraints": {"contentLength": 3}});
    let initiated = ["--upload-id=theirs"];
    let signed = sign(
        &[store.clone(), grant("UploadGrant", &store, parts.clone())],
        &initiated,
        &ACCESS_KEY,
    );
    assert!(signed.said.contains("set --output to yaml"), "{}", signed.said);
    for (field, value, reason) in [
        ("namespaces", json!({"names": ["others"]}), "NamespaceNotAllowed"),
        ("keyPrefix", json!("elsewhere/"), "KeyNotAllowed"),
        ("maxExpirationSeconds", json!(1), "ExpirationTooLong"),
    ] {
        let kept = std::mem::replace(&mut store["spec"]["access"][0][field], value);
        let signed = sign(
            &[store.clone(), grant("UploadGrant", &store, parts.clone())],
            &initiated,
            &ACCESS_KEY,
        );
        assert!(
            !signed.is_signed && signed.said.contains(reason) && !signed.said.contains("theirs"),
            "{reason}: {}",
            signed.said
        );
        store["spec"]["access"][0][field] = kept;
    }
}
