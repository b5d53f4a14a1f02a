//! Tests of the states of a grant on a real apiserver: the conditions in each state, and the status that kstatus
//! computes.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;
use valet_harness::eventually;

use crate::world::{SOON, Tenant, condition, says};

/// A grant that no operator has reconciled is in progress for kstatus. The same applies to a grant whose store does
/// not exist yet.
#[test]
fn grant_without_operator_or_store_is_in_progress() {
    let t = Tenant::new("waiting");
    let mut own = t.store();
    own["kind"] = json!("ObjectStore");
    own["metadata"] = json!({"name": "own", "namespace": t.name()});
    own["spec"].as_object_mut().unwrap().remove("access");
    t.apply(&[t.grant("UploadGrant", "early", json!({})), own]);
    // No operator runs, so the conditions still have their defaults from the CRD.
    for what in ["ug/early", "ostore/own"] {
        let unseen = t.get(what).unwrap();
        assert_eq!(t.kstatus(&unseen), "InProgress");
        assert_eq!(says(&unseen, "Ready"), "Unknown Pending");
    }
    let began = Timestamp::now();
    let _operator = t.operator();
    let early = t.reason("ug/early", "Issued");
    assert_eq!(t.kstatus(&early), "Current");
    assert!(condition(&early, "Reconciling").is_none());
    let since: Timestamp = condition(&early, "Ready").unwrap()["lastTransitionTime"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        since >= began - jiff::SignedDuration::from_secs(1),
        "{since} is not the time of the transition"
    );

    t.apply(&[t.grant("DownloadGrant", "lost", json!({"storeRef": {"name": "nowhere"}}))]);
    let lost = t.reason("dg/lost", "StoreNotFound");
    assert_eq!(t.kstatus(&lost), "InProgress");
    assert_eq!(says(&lost, "Reconciling"), "True StoreNotFound");
    let since: Timestamp = condition(&lost, "Reconciling").unwrap()["lastTransitionTime"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        since >= began - jiff::SignedDuration::from_secs(1),
        "{since} is before the first reconcile"
    );
    assert_eq!(says(&lost, "Active"), "False StoreNotFound");
    assert!(condition(&lost, "Stalled").is_none());
    let message = condition(&lost, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(
        message.contains("ClusterObjectStore nowhere does not exist"),
        "{message}"
    );
    assert!(t.get("secret/lost").is_none());

    // When the store is created later, as GitOps tools can do, the grant is issued without any change to the grant.
    let mut store = t.store();
    store["metadata"]["name"] = json!(format!("{}-late", t.name()));
    t.apply(&[t.grant(
        "DownloadGrant",
        "later",
        json!({"storeRef": {"name": format!("{}-late", t.name())}}),
    )]);
    t.reason("dg/later", "StoreNotFound");
    t.apply(&[store]);
    t.reason("dg/later", "Issued");
}

/// An upload from issue to completion: the store rejects wrong content and a second upload, and Valet deletes the
/// Secret.
#[test]
fn upload_grant_completes_and_its_secret_is_deleted() {
    let t = Tenant::new("upload");
    let _operator = t.operator();
    let body = b"the bytes of the object";
    let constraints = json!({
        "contentType": "text/plain; charset=utf-8", "contentLength": body.len(),
        "checksumSHA256": sha256(&t, b"something else"),
    });
    // A SHA-256 checksum of other content: the store must reject the upload.
    t.apply(&[t.grant("UploadGrant", "wrong", json!({"constraints": constraints}))]);
    let good = sha256(&t, body);
    let constraints = json!({
        "contentType": "text/plain; charset=utf-8", "contentLength": body.len(), "checksumSHA256": good,
    });
    t.apply(&[t.grant(
        "UploadGrant",
        "doc",
        json!({"constraints": constraints, "expirationSeconds": 60}),
    )]);

    let grant = t.reason("ug/doc", "Issued");
    assert_eq!(t.kstatus(&grant), "Current");
    assert_eq!(says(&grant, "Ready"), "True Issued");
    assert_eq!(says(&grant, "Active"), "True Issued");
    assert_eq!(says(&grant, "Completed"), "False Pending");
    assert_eq!(grant["status"]["binding"]["name"], "doc");
    assert_eq!(grant["status"]["observedGeneration"], 1);

    let key = t.mount("doc");
    let names: Vec<_> = key.files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["curl.cfg", "expiry", "headers", "method", "provider", "type", "url"]
    );
    let secret = t.get("secret/doc").unwrap();
    assert_eq!(secret["type"], "valetkey.dev/grant");
    let note = |name: &str| {
        secret["metadata"]["annotations"][format!("valetkey.dev/{name}")]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(note("grant-uid"), grant["metadata"]["uid"]);
    assert_eq!(note("grant-generation"), "1");
    assert_eq!(note("store"), format!("ClusterObjectStore/{}", t.name()));
    assert_eq!(note("expires-at"), grant["status"]["expirationTime"]);
    assert_eq!(note("expires-at"), key.files["expiry"]);
    let life = note("expires-at").parse::<Timestamp>().unwrap().as_second()
        - note("issued-at").parse::<Timestamp>().unwrap().as_second();
    assert_eq!(life, 60);

    // The store rejects uploads that differ from the grant.
    let (file, shorter) = (t.file("doc", body), t.file("shorter", b"the bytes"));
    let mut other = body.to_vec();
    other[0] ^= 1;
    let other = t.file("other", &other);
    assert_eq!(key.upload(&shorter).0, 403, "another length");
    assert_eq!(key.upload(&other).0, 400, "another checksum");
    assert_eq!(
        key.curl(&[
            "--upload-file",
            file.to_str().unwrap(),
            "--header",
            "content-type: text/html"
        ])
        .0,
        403,
        "another type"
    );
    assert_eq!(key.curl(&["--request", "DELETE"]).0, 403, "another method");
    assert_eq!(t.mount("wrong").upload(&file).0, 400, "the checksum of other content");
    assert_eq!(t.stored(&t.key("doc")), None);

    assert_eq!(key.upload(&file), (200, String::new()));
    assert_eq!(key.upload(&file).0, 412, "write-once");
    assert_eq!(t.stored(&t.key("doc")).as_deref(), Some(&body[..]));

    let done = t.reason_within("ug/doc", "Completed", Duration::from_secs(70));
    assert_eq!(t.kstatus(&done), "Current");
    assert_eq!(says(&done, "Active"), "False Completed");
    assert_eq!(says(&done, "Completed"), "True Completed");
    let object = &done["status"]["object"];
    assert_eq!(object["size"], body.len());
    assert_eq!(object["checksumSHA256"], good);
    assert!(object["eTag"].as_str().is_some_and(|e| !e.is_empty()), "{object}");
    assert!(
        object["lastModifiedTime"]
            .as_str()
            .unwrap()
            .parse::<Timestamp>()
            .is_ok()
    );
    assert_eq!(done["status"]["binding"], json!(null));
    t.gone("doc");
    t.kubectl(&["wait", "--for=condition=Completed", "ug/doc", "--timeout=1s"]);
}

/// A download: Valet deletes the Secret within two seconds after the credential expires, and deletes the finished
/// grant.
#[test]
fn download_grant_expires_and_is_deleted() {
    let t = Tenant::new("download");
    t.put(&t.key("report"), b"a report");
    let _operator = t.operator();
    let response = json!({"contentDisposition": "attachment; filename=\"report.csv\"", "contentType": "text/csv"});
    t.apply(&[t.grant(
        "DownloadGrant",
        "report",
        json!({
            "expirationSeconds": 8, "ttlSecondsAfterFinished": 6, "response": response,
        }),
    )]);
    let grant = t.reason("dg/report", "Issued");
    assert_eq!(t.kstatus(&grant), "Current");
    assert!(
        condition(&grant, "Completed").is_none(),
        "a download has no condition Completed"
    );
    let key = t.mount("report");
    let (code, answer) = key.curl(&["--include"]);
    assert_eq!(code, 200);
    assert!(answer.ends_with("a report"), "{answer}");
    let headers = answer.to_ascii_lowercase();
    assert!(
        headers.contains("content-disposition: attachment; filename=\"report.csv\""),
        "{answer}"
    );
    assert!(headers.contains("content-type: text/csv"), "{answer}");

    let expires: Timestamp = key.files["expiry"].parse().unwrap();
    let gone = eventually(SOON, "the Secret to be deleted", || {
        t.get("secret/report").is_none().then(Timestamp::now)
    });
    let late = gone.duration_since(expires).as_millis();
    // The documented limit is one second. The second that is added here is for the test's own polling.
    assert!(
        (0..2000).contains(&late),
        "the Secret was deleted {late} ms after the expiry"
    );
    let grant = t.reason("dg/report", "Expired");
    assert_eq!(t.kstatus(&grant), "Current");
    assert_eq!(says(&grant, "Ready"), "True Expired");
    assert_eq!(says(&grant, "Active"), "False Expired");
    let (code, answer) = key.curl(&[]);
    assert_eq!(code, 403, "{answer}");
    assert!(answer.contains("expired"), "{answer}");
    let finished: Timestamp = grant["status"]["finishedTime"].as_str().unwrap().parse().unwrap();
    eventually(SOON, "the finished grant to be deleted", || {
        t.get("dg/report").is_none().then_some(())
    });
    assert!(
        Timestamp::now().duration_since(finished).as_secs() >= 5,
        "the grant was deleted too early"
    );
}

/// If nothing is uploaded before the expiry, the grant gets `ExpiredUnused`.
#[test]
fn upload_grant_without_object_becomes_expired_unused() {
    let t = Tenant::new("unused");
    let operator = t.operator();
    t.apply(&[t.grant(
        "UploadGrant",
        "never",
        json!({"expirationSeconds": 3, "ttlSecondsAfterFinished": -1}),
    )]);
    let grant = t.reason("ug/never", "ExpiredUnused");
    assert_eq!(t.kstatus(&grant), "Failed");
    assert_eq!(says(&grant, "Ready"), "False ExpiredUnused");
    assert_eq!(says(&grant, "Stalled"), "True ExpiredUnused");
    assert_eq!(says(&grant, "Completed"), "False ExpiredUnused");
    t.gone("never");
    let event = eventually(SOON, "an event", || {
        t.kubectl(&["get", "events"])
            .lines()
            .find(|l| l.contains("ExpiredUnused"))
            .map(str::to_owned)
    });
    assert!(
        event.contains("Warning") && event.contains("uploadgrant/never"),
        "{event}"
    );
    let metrics = operator.metrics().unwrap();
    assert!(
        metrics.contains(r#"valet_grants_finished_total{kind="UploadGrant",reason="ExpiredUnused"} 1"#),
        "{metrics}"
    );
    // A finished grant stays finished when its `expirationSeconds` changes.
    t.patch("ug/never", &json!({"spec": {"expirationSeconds": 600}}));
    let grant = eventually(SOON, "the new generation to be reconciled", || {
        t.get("ug/never").filter(|g| g["status"]["observedGeneration"] == 2)
    });
    assert_eq!(says(&grant, "Ready"), "False ExpiredUnused");
    assert!(t.get("secret/never").is_none());
}

/// The last poll, at the expiry, finds an object that was uploaded just before.
#[test]
fn last_poll_finds_object_uploaded_just_before_expiry() {
    let t = Tenant::new("lastlook");
    let _operator = t.operator();
    // Valet polls 2, 6 and 14 seconds after issue. Between 6 seconds and the expiry at 13 seconds there is no poll.
    t.apply(&[t.grant("UploadGrant", "late", json!({"expirationSeconds": 13}))]);
    let key = t.mount("late");
    let issued = t.reason("ug/late", "Issued")["status"]["issuedTime"]
        .as_str()
        .unwrap()
        .parse::<Timestamp>()
        .unwrap();
    let rest = issued + jiff::SignedDuration::from_millis(7500);
    std::thread::sleep(Duration::try_from(rest.duration_since(Timestamp::now())).unwrap_or_default());
    assert_eq!(key.upload(&t.file("late", b"just in time")).0, 200);
    let grant = t.reason("ug/late", "Completed");
    assert_eq!(grant["status"]["object"]["size"], 12);
}

/// A grant that breaks an access rule, needs a missing capability or has an invalid spec is refused.
#[test]
fn grant_against_rule_capability_or_schema_is_refused() {
    let t = Tenant::new("refused");
    let _operator = t.operator();
    let rows = [
        (
            "outside",
            "KeyNotAllowed",
            json!({"key": "tenants/somebody/else"}),
            "spec.key",
        ),
        (
            "lookalike",
            "KeyNotAllowed",
            json!({"key": format!("tenants/{}x/y", t.name())}),
            "spec.key",
        ),
        (
            "long",
            "ExpirationTooLong",
            json!({"expirationSeconds": 3601}),
            "spec.expirationSeconds is 3601",
        ),
        (
            "range",
            "CapabilityMissing",
            json!({"constraints": {"contentLengthRange": {"max": 5}}}),
            "spec.constraints.contentLengthRange",
        ),
        (
            "huge",
            "ContentLengthNotAllowed",
            json!({"constraints": {"contentLength": 5_368_709_121_i64}}),
            "at most 5368709120",
        ),
    ];
    let grants: Vec<_> = rows
        .iter()
        .map(|(name, _, spec, _)| t.grant("UploadGrant", name, spec.clone()))
        .collect();
    t.apply(&grants);
    for (name, reason, _, says_so) in rows {
        let grant = t.reason(&format!("ug/{name}"), reason);
        assert_eq!(t.kstatus(&grant), "Failed", "{name}");
        assert_eq!(says(&grant, "Stalled"), format!("True {reason}"));
        assert_eq!(says(&grant, "Active"), format!("False {reason}"));
        let message = condition(&grant, "Ready").unwrap()["message"].as_str().unwrap();
        assert!(message.contains(says_so), "{name}: {message}");
        assert!(t.get(&format!("secret/{name}")).is_none());
    }
}

/// If the object exists before a write-once grant, the grant finishes with `ObjectExists` and gets no credential.
/// With `overwrite: Allow` the grant is issued.
#[test]
fn write_once_grant_for_existing_object_gets_no_credential() {
    let t = Tenant::new("exists");
    t.put(&t.key("old"), b"old");
    // S3 timestamps have whole seconds. Valet can only tell an old object from the upload if the object is at least a
    // second older than the credential.
    std::thread::sleep(Duration::from_secs(2));
    let _operator = t.operator();
    t.apply(&[
        t.grant("UploadGrant", "old", json!({})),
        t.grant(
            "UploadGrant",
            "over",
            json!({"key": t.key("old"), "constraints": {"overwrite": "Allow"}}),
        ),
    ]);
    let grant = t.reason("ug/old", "ObjectExists");
    assert_eq!(t.kstatus(&grant), "Current");
    assert_eq!(says(&grant, "Completed"), "True ObjectExists");
    assert_eq!(grant["status"]["object"]["size"], 3);
    assert!(t.get("secret/old").is_none());
    // With `overwrite: Allow` the old object does not complete the grant.
    t.reason("ug/over", "Issued");
    assert_eq!(t.mount("over").upload(&t.file("new", b"newer")).0, 200);
    let grant = t.reason("ug/over", "Completed");
    assert_eq!(grant["status"]["object"]["size"], 5);
}

/// A credential expires at `deadlineTime`. A grant that is created after its `deadlineTime` gets no credential.
#[test]
fn credential_expires_at_deadline_time() {
    let t = Tenant::new("deadline");
    let _operator = t.operator();
    let past = Timestamp::now() - jiff::SignedDuration::from_secs(1);
    let soon = Timestamp::now() + jiff::SignedDuration::from_secs(20);
    t.apply(&[
        t.grant("DownloadGrant", "past", json!({"deadlineTime": past.to_string()})),
        t.grant("UploadGrant", "past", json!({"deadlineTime": past.to_string()})),
        t.grant("DownloadGrant", "soon", json!({"deadlineTime": soon.to_string()})),
    ]);
    let grant = t.reason("dg/past", "Expired");
    assert_eq!(t.kstatus(&grant), "Current");
    assert_eq!(grant["status"]["issuedTime"], json!(null));
    assert_eq!(t.kstatus(&t.reason("ug/past", "ExpiredUnused")), "Failed");
    assert!(t.get("secret/past").is_none());
    let grant = t.reason("dg/soon", "Issued");
    let expires: Timestamp = grant["status"]["expirationTime"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires.as_second(), soon.as_second());
    assert_eq!(
        says(&grant, "Active"),
        "True Issued",
        "a deadline is the tenant's own wish, not a truncation"
    );
}

/// Valet does not delete finished grants that a GitOps tool manages, because the tool would create them again. A
/// value in the spec changes this.
#[test]
fn finished_gitops_grants_are_not_deleted() {
    let t = Tenant::new("tracked");
    let _operator = t.operator_with(&["--ttl-seconds-after-finished=0"]);
    let life = json!({"expirationSeconds": 1});
    let mut argo = t.grant("DownloadGrant", "argo", life.clone());
    argo["metadata"]["annotations"] =
        json!({"argocd.argoproj.io/tracking-id": "app:valetkey.dev/DownloadGrant:x/argo"});
    let mut flux = t.grant("DownloadGrant", "flux", life.clone());
    flux["metadata"]["labels"] = json!({"kustomize.toolkit.fluxcd.io/name": "app"});
    let mut own = t.grant(
        "DownloadGrant",
        "own",
        json!({"expirationSeconds": 1, "ttlSecondsAfterFinished": 1}),
    );
    own["metadata"]["labels"] = json!({"kustomize.toolkit.fluxcd.io/name": "app"});
    let plain = t.grant("DownloadGrant", "plain", life.clone());
    let keep = t.grant(
        "DownloadGrant",
        "keep",
        json!({"expirationSeconds": 1, "ttlSecondsAfterFinished": -1}),
    );
    t.apply(&[argo, flux, own, plain, keep]);
    eventually(SOON, "the grant without a GitOps tool to be deleted", || {
        (t.get("dg/plain").is_none() && t.get("dg/own").is_none()).then_some(())
    });
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        for name in ["dg/argo", "dg/flux", "dg/keep"] {
            assert!(t.get(name).is_some(), "{name} was deleted");
        }
    }
}

fn sha256(t: &Tenant, body: &[u8]) -> String {
    let file = t.file("digest", body);
    let script = format!("openssl dgst -sha256 -binary {} | base64", file.display());
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .expect("openssl runs");
    String::from_utf8(output.stdout)
        .expect("base64 is text")
        .trim()
        .to_owned()
}
