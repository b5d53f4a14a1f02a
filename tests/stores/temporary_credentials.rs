//! Tests of temporary credentials, used by an unmodified S3 client: they allow what the grant says, and nothing else.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use valet_harness::{eventually, process};

use crate::{
    OnMinio, can, probed_store,
    world::{Mounted, SOON, Tenant, condition, says},
};

/// How the client receives the credentials.
#[derive(Clone, Copy)]
pub enum Input {
    /// Only through the mounted files `config` and `credentials`.
    Files,
    /// Through environment variables, as `envFrom` with the whole Secret sets them.
    Variables,
}

/// Runs operations with the Secret's entries and returns the result of each.
pub fn run(t: &Tenant, key: &Mounted, input: Input, operations: &Value) -> Vec<Value> {
    let mut command = t.world.tools.command("python3");
    let home = t.file("no-home", b"");
    command
        .args(["-I", "-B"])
        .arg(Path::new(env!("VALET_ROOT")).join("tests/stores/client.py"))
        .env("HOME", &home)
        .env("AWS_EC2_METADATA_DISABLED", "true");
    match input {
        Input::Files => {
            command
                .env("AWS_CONFIG_FILE", key.folder.join("config"))
                .env("AWS_SHARED_CREDENTIALS_FILE", key.folder.join("credentials"));
        }
        Input::Variables => {
            command.envs(&key.files);
        }
    }
    let output = process::run_ok(command, operations.to_string().as_bytes(), SOON).expect("the client runs");
    serde_json::from_str(&output.text()).expect("it prints JSON")
}

/// Runs operations that the store must all refuse.
fn refused(t: &Tenant, key: &Mounted, operations: &Value) {
    let results = run(t, key, Input::Files, operations);
    for (operation, result) in operations.as_array().unwrap().iter().zip(&results) {
        assert!(
            // The answer to HEAD has no body, so the error is only the status.
            ["AccessDenied", "403"].contains(&result["error"].as_str().unwrap_or_default()),
            "{operation} gave {result}"
        );
    }
}

fn with_temporary_credentials(test: &str) -> OnMinio {
    let on = OnMinio::new(test);
    let store = on.store(json!({"credentials": {"assumeRole": {"durationSeconds": 3600}}}));
    allow(&on.tenant, |_| {});
    assert!(can(&store, "Credentials") && can(&store, "Credentials/SignedHeadersOnly"));
    on
}

/// Changes the tenant's store, and lets its access rule allow temporary credentials.
fn allow(t: &Tenant, change: impl FnOnce(&mut Value)) {
    let mut store = t.get(&format!("costore/{}", t.name())).expect("the store is there");
    store["spec"]["access"][0]["credentials"] = json!("Allow");
    change(&mut store);
    t.patch(&format!("costore/{}", t.name()), &json!({"spec": store["spec"]}));
}

/// Credentials for an upload of one object can write that object in every way and do nothing else. Valet sees the
/// upload as it sees any other.
#[test]
fn temporary_credentials_for_one_object_allow_only_its_upload() {
    let on = with_temporary_credentials("lendput");
    let t = &on.tenant;
    let (bucket, key) = (t.name(), t.key("report.csv"));
    on.minio.put(bucket, &t.key("theirs"), b"theirs").unwrap();
    on.minio.create_bucket("another-bucket").unwrap();
    t.apply(&[t.grant(
        "UploadGrant",
        "report",
        json!({"key": key, "mode": "Credentials", "constraints": {"overwrite": "Allow"}, "expirationSeconds": 600}),
    )]);
    let grant = t.reason("ug/report", "Issued");
    assert_eq!(says(&grant, "Completed"), "False Pending");
    let lent = t.mount("report");
    let names: Vec<_> = lent.files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "AWS_ACCESS_KEY_ID",
            "AWS_CREDENTIAL_EXPIRATION",
            "AWS_DEFAULT_REGION",
            "AWS_ENDPOINT_URL_S3",
            "AWS_REGION",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "bucket",
            "config",
            "credentials",
            "expiry",
            "key",
            "provider",
            "type"
        ]
    );
    assert_eq!(
        (lent.files["bucket"].as_str(), lent.files["key"].as_str()),
        (bucket, key.as_str())
    );
    assert_eq!(lent.files["AWS_ENDPOINT_URL_S3"], on.minio.endpoint());
    assert_eq!(
        lent.files["expiry"],
        grant["status"]["expirationTime"].as_str().unwrap()
    );
    assert_ne!(lent.files["AWS_ACCESS_KEY_ID"], on.minio.access_key());

    let at = |key: &str| json!({"Bucket": bucket, "Key": key});
    let with = |key: &str, more: Value| {
        let mut all = at(key);
        crate::world::merge(&mut all, more);
        all
    };
    let (beside, below) = (t.key("report.csv.bak"), t.key("report.csv/below"));
    refused(
        t,
        &lent,
        &json!([
            // Other object keys, also similar ones.
            ["put_object", with(&t.key("theirs"), json!({"Body": "mine"}))],
            ["put_object", with(&beside, json!({"Body": "mine"}))],
            ["put_object", with(&below, json!({"Body": "mine"}))],
            ["create_multipart_upload", at(&beside)],
            // Other operations on the same object.
            ["get_object", at(&key)],
            ["head_object", at(&key)],
            ["delete_object", at(&key)],
            ["get_object", at(&t.key("theirs"))],
            ["copy_object", with(&key, json!({"CopySource": {"Bucket": bucket, "Key": t.key("theirs")}}))],
            ["put_object_tagging", with(&key, json!({"Tagging": {"TagSet": []}}))],
            ["list_objects_v2", {"Bucket": bucket}],
            ["list_multipart_uploads", {"Bucket": bucket}],
            ["get_bucket_location", {"Bucket": bucket}],
            // Other buckets.
            ["put_object", {"Bucket": "another-bucket", "Key": key, "Body": "mine"}],
            ["create_bucket", {"Bucket": "new-bucket"}],
        ]),
    );
    // The store answers these requests, but with an empty result.
    let theirs = json!({"Objects": [{"Key": t.key("theirs")}]});
    let empty = json!([["list_buckets", {}], ["delete_objects", {"Bucket": bucket, "Delete": theirs}]]);
    let answers = run(t, &lent, Input::Files, &empty);
    assert!(
        answers[0].get("error").is_some() || answers[0]["ok"]["Buckets"] == json!([]),
        "{answers:?}"
    );
    assert_eq!(answers[1]["ok"]["Errors"][0]["Code"], "AccessDenied", "{answers:?}");
    assert_eq!(
        on.minio.get(bucket, &t.key("theirs")).unwrap().as_deref(),
        Some(&b"theirs"[..])
    );

    // The client starts two multipart uploads, aborts one and completes the other.
    let started = run(
        t,
        &lent,
        Input::Variables,
        &json!([
            ["create_multipart_upload", at(&key)],
            ["create_multipart_upload", at(&key)]
        ]),
    );
    let upload = |n: usize| started[n]["ok"]["UploadId"].clone();
    let part = |n: usize, number: i64, size: usize| {
        with(
            &key,
            json!({"UploadId": upload(n), "PartNumber": number, "Body": "x".repeat(size)}),
        )
    };
    let parts = run(
        t,
        &lent,
        Input::Files,
        &json!([
            ["upload_part", part(0, 1, 5 << 20)],
            ["upload_part", part(0, 2, 7)],
            ["upload_part", part(1, 1, 7)],
            ["list_parts", with(&key, json!({"UploadId": upload(0)}))],
            ["abort_multipart_upload", with(&key, json!({"UploadId": upload(1)}))],
        ]),
    );
    assert!(parts.iter().all(|r| r.get("ok").is_some()), "{parts:?}");
    let e_tag = |n: usize| json!({"PartNumber": n + 1, "ETag": parts[n]["ok"]["ETag"]});
    let completed = json!({"UploadId": upload(0), "MultipartUpload": {"Parts": [e_tag(0), e_tag(1)]}});
    let completed = run(
        t,
        &lent,
        Input::Files,
        &json!([["complete_multipart_upload", with(&key, completed)]]),
    );
    assert!(completed[0].get("ok").is_some(), "{completed:?}");
    let done = t.reason("ug/report", "Completed");
    assert_eq!(done["status"]["object"]["size"], (5 << 20) + 7);
    t.gone("report");
    // A copy of the credentials works until they expire, also after the grant Secret is deleted.
    let again = run(
        t,
        &lent,
        Input::Variables,
        &json!([["put_object", with(&key, json!({"Body": "small"}))]]),
    );
    assert!(again[0].get("ok").is_some(), "{again:?}");
    assert_eq!(on.minio.get(bucket, &key).unwrap().as_deref(), Some(&b"small"[..]));
}

/// Credentials for a prefix can write or read all objects below it. They expire with the grant, although the session
/// lives longer.
#[test]
fn temporary_credentials_for_prefix_allow_all_keys_below_it() {
    let on = with_temporary_credentials("lendall");
    let t = &on.tenant;
    let bucket = t.name();
    let below = t.key("run-42/");
    for (key, content) in [
        ("run-42/in/a", "a"),
        ("run-42/in/b", "b"),
        ("run-420/in/a", "theirs"),
        ("run-4", "theirs"),
    ] {
        on.minio.put(bucket, &t.key(key), content.as_bytes()).unwrap();
    }
    const SECONDS: u64 = 40;
    t.apply(&[
        t.grant(
            "UploadGrant",
            "out",
            json!({"key": below, "mode": "Credentials", "constraints": {"overwrite": "Allow"}, "expirationSeconds": SECONDS}),
        ),
        t.grant("DownloadGrant", "in", json!({"key": below, "mode": "Credentials", "expirationSeconds": 600})),
    ]);
    let upload = t.reason("ug/out", "Issued");
    let began = Instant::now();
    assert_eq!(says(&upload, "Completed"), "Unknown NotObservable");
    let (write, read) = (t.mount("out"), t.mount("in"));
    assert_eq!(write.files["key"], below);
    let at = |key: &str| json!({"Bucket": bucket, "Key": t.key(key)});
    let put = |key: &str| {
        let mut all = at(key);
        all["Body"] = json!("mine");
        json!(["put_object", all])
    };
    let results = run(
        t,
        &write,
        Input::Files,
        &json!([put("run-42/out/a"), put("run-42/out/b/c"), put("run-42/x")]),
    );
    assert!(results.iter().all(|r| r.get("ok").is_some()), "{results:?}");
    refused(
        t,
        &write,
        &json!([
            put("run-420/in/a"),
            put("run-42"),
            put("run-4"),
            put("other"),
            ["get_object", at("run-42/in/a")],
            ["get_object", at("run-42/x")],
            ["delete_object", at("run-42/in/a")],
            ["list_objects_v2", {"Bucket": bucket, "Prefix": below}],
        ]),
    );

    let results = run(
        t,
        &read,
        Input::Variables,
        &json!([
            ["get_object", at("run-42/in/a")],
            ["list_objects_v2", {"Bucket": bucket, "Prefix": below}],
            ["list_objects_v2", {"Bucket": bucket, "Prefix": t.key("run-42/in/"), "Delimiter": "/"}],
        ]),
    );
    assert_eq!(results[0]["ok"]["Body"], "a");
    let keys = |result: &Value| -> Vec<String> {
        let all = result["ok"]["Contents"].as_array().into_iter().flatten();
        all.map(|o| o["Key"].as_str().unwrap().trim_start_matches(&below).to_owned())
            .collect()
    };
    assert_eq!(keys(&results[1]), ["in/a", "in/b", "out/a", "out/b/c", "x"]);
    assert_eq!(keys(&results[2]), ["in/a", "in/b"]);
    refused(
        t,
        &read,
        &json!([
            put("run-42/in/a"),
            ["delete_object", at("run-42/in/a")],
            ["get_object", at("run-420/in/a")],
            ["get_object", at("run-4")],
            ["list_objects_v2", {"Bucket": bucket}],
            ["list_objects_v2", {"Bucket": bucket, "Prefix": t.key("run-42")}],
            ["list_objects_v2", {"Bucket": bucket, "Prefix": t.key("")}],
            // For MinIO, the right to list objects includes the right to list versions, for the same keys.
            ["list_object_versions", {"Bucket": bucket, "Prefix": t.key("run-4")}],
            ["get_object", {"Bucket": "another", "Key": t.key("run-42/in/a")}],
        ]),
    );

    // STS creates no session shorter than 15 minutes. The session policy ends it when the grant expires.
    let over = t.reason_within("ug/out", "Expired", Duration::from_secs(SECONDS + 20));
    assert!(began.elapsed() >= Duration::from_secs(SECONDS - 5));
    assert_eq!(says(&over, "Completed"), "Unknown NotObservable");
    assert_eq!(t.kstatus(&over), "Current");
    t.gone("out");
    refused(t, &write, &json!([put("run-42/late"), put("run-42/x")]));
    // An SDK that knows the expiry time reports it itself.
    let late = &run(t, &write, Input::Variables, &json!([put("run-42/late")]))[0];
    assert!(late["error"].as_str().is_some_and(|e| e.contains("expired")), "{late}");
    assert_eq!(on.minio.get(bucket, &t.key("run-42/late")).unwrap(), None);
}

/// A grant that may not receive temporary credentials gets a reason and a remedy. The credentials appear nowhere but
/// in the grant Secret.
#[test]
fn temporary_credentials_without_permission_are_refused() {
    let on = OnMinio::new("lendno");
    let t = &on.tenant;
    let lend = |name: &str, spec: Value| {
        let mut all = json!({"mode": "Credentials", "constraints": {"overwrite": "Allow"}});
        crate::world::merge(&mut all, spec);
        t.grant("UploadGrant", name, all)
    };
    let message = |name: &str, reason: &str| {
        let grant = t.reason(&format!("ug/{name}"), reason);
        assert!(t.get(&format!("secret/{name}")).is_none());
        condition(&grant, "Ready").unwrap()["message"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    on.store(json!({}));
    t.apply(&[lend("norole", json!({}))]);
    // A grant that no access rule allows learns nothing about the store.
    let said = message("norole", "OperationNotAllowed");
    assert!(!said.contains("assumeRole"), "{said}");
    on.store(json!({"credentials": {"assumeRole": {}}}));
    let said = message("norole", "OperationNotAllowed");
    assert!(said.contains("credentials: Allow"), "{said}");
    allow(t, |store| store["spec"]["access"][0]["maxBytes"] = json!("5Gi"));
    let said = message("norole", "CapabilityMissing");
    assert!(said.contains("maxBytes"), "{said}");
    allow(t, |store| store["spec"]["access"][0]["maxBytes"] = Value::Null);
    t.reason("ug/norole", "Issued");

    t.apply(&[
        lend("once", json!({"constraints": {"overwrite": "Forbid"}})),
        lend("wild", json!({"key": t.key("a*/")})),
        lend("whole", json!({"key": "tenants/"})),
        lend("fine", json!({"key": t.key("")})),
    ]);
    let said = message("once", "CapabilityMissing");
    assert!(said.contains("overwrite to Allow"), "{said}");
    let said = message("wild", "CapabilityMissing");
    assert!(said.contains("'*'"), "{said}");
    let said = message("whole", "KeyNotAllowed");
    assert!(
        said.contains(&format!(
            "choose an object key that starts with 'tenants/{}/'",
            t.name()
        )),
        "{said}"
    );
    t.reason("ug/fine", "Issued");

    // A narrowed access rule deletes the Secret, and the message gives the time until which copies work.
    let lent = t.mount("fine");
    allow(t, |store| store["spec"]["access"][0]["credentials"] = json!("Forbid"));
    let said = message("fine", "OperationNotAllowed");
    assert!(said.contains("copies of the credential work until"), "{said}");
    assert_secrets_stay_in_secrets(&on, &lent.files);
}

fn assert_secrets_stay_in_secrets(on: &OnMinio, files: &BTreeMap<String, String>) {
    let t = &on.tenant;
    let seen = [
        on.operator.log_text(),
        on.operator.metrics().unwrap(),
        t.kubectl(&["get", "ug,dg,events", "--output", "yaml"]),
        t.kubectl(&["get", "costore", t.name(), "--output", "yaml"]),
    ]
    .join("\n");
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        assert!(
            !files[name].is_empty() && !seen.contains(&files[name]),
            "{name} is seen"
        );
    }
}

/// versitygw has no AssumeRole. The grant gets a reason and no credentials.
#[test]
fn temporary_credentials_on_store_without_sts_are_refused() {
    let t = Tenant::new("lendnosts");
    let _operator = t.operator();
    probed_store(&t);
    let mut store = t.store();
    store["spec"]["s3"]["credentials"]["assumeRole"] = json!({});
    store["spec"]["access"][0]["credentials"] = json!("Allow");
    t.apply(&[store]);
    t.apply(&[t.grant("DownloadGrant", "d", json!({"mode": "Credentials", "key": t.key("a/")}))]);
    let grant = eventually(SOON, "a reason in the condition", || {
        t.get("dg/d").filter(|g| {
            condition(g, "Ready").is_some_and(|c| {
                ["CredentialsRefused", "StoreUnreachable"].contains(&c["reason"].as_str().unwrap_or_default())
            })
        })
    });
    let said = condition(&grant, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(said.contains("STS"), "{said}");
    assert!(t.get("secret/d").is_none());
}
