//! End-to-end tests with the operator, the apiserver, fake-gcs-server and curl.

use std::{path::Path, process::Command, sync::LazyLock, time::Duration};

use base64::Engine;
use serde_json::{Value, json};
use valet_harness::{GcsServer, Operator, OperatorOptions, google, process};

use crate::{
    ACCOUNT, KEY,
    fake::{Fake, Reply},
    identity::good,
    world::{self, SOON, Tenant, VALET, condition, says},
};

pub static SERVER: LazyLock<GcsServer> = LazyLock::new(|| GcsServer::start().expect("fake-gcs-server starts"));

/// A tenant whose store is a bucket of fake-gcs-server, with Google's service account key for tests.
pub fn tenant(test: &str) -> Tenant {
    let t = Tenant::new(test);
    SERVER.create_bucket(t.name()).expect("a bucket can be made");
    let mut secret = t.credentials("", "");
    secret["stringData"] = json!({"credentials.json": KEY});
    t.kubectl(&["delete", "costore", t.name()]);
    t.apply(&[secret, store(&t, json!({}))]);
    t
}

fn store(t: &Tenant, more: Value) -> Value {
    let mut store = t.store();
    store["spec"]["s3"] = Value::Null;
    let mut gcs = json!({
        "bucket": t.name(), "endpoint": SERVER.endpoint(), "credentials": {"secretRef": {"name": t.name()}},
    });
    world::merge(&mut gcs, more);
    store["spec"]["gcs"] = gcs;
    store["spec"].as_object_mut().unwrap().remove("s3");
    store
}

pub fn message(object: &Value) -> String {
    condition(object, "Ready").unwrap()["message"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn upload_and_download_work_on_gcs() {
    let t = tenant("gcs-flow");
    let operator = t.operator();
    let up = t.reason_within(&format!("costore/{}", t.name()), "Ready", SOON);
    assert!(
        up["status"]["capabilities"]
            .as_array()
            .unwrap()
            .contains(&json!("PostForm/ContentLengthRange"))
    );
    assert!(!up["status"]["capabilities"].to_string().contains("ChecksumSHA256"));
    let name = "ü +(1)&=?#%2F.csv";
    // The emulator ignores preconditions, so Valet refuses write-once uploads there.
    let constraints =
        json!({"contentType": "text/csv", "contentLengthRange": {"min": 1, "max": 9}, "overwrite": "Allow"});
    t.apply(&[t.grant(
        "UploadGrant",
        "up",
        json!({"key": t.key(name), "constraints": constraints}),
    )]);
    t.reason("ug/up", "Issued");
    let key = t.mount("up");
    assert_eq!(key.files["provider"], "gcs");
    assert_eq!(
        key.files["headers"],
        "content-type: text/csv\nx-goog-content-length-range: 1,9\n"
    );
    assert_eq!(key.upload(&t.file("f", b"a,b,c")).0, 200);
    let grant = t.reason("ug/up", "Completed");
    let object = &grant["status"]["object"];
    let described = SERVER.describe(t.name(), &t.key(name)).unwrap().expect("it is there");
    assert_eq!(object["size"], 5);
    assert_eq!(object["contentType"], "text/csv");
    assert_eq!(object["version"], described["generation"]);
    assert_eq!(object["checksumMD5"], described["md5Hash"]);
    assert_eq!(object["checksumCRC32C"], described["crc32c"]);
    assert!(
        object["eTag"].is_string() && object["lastModifiedTime"].is_string(),
        "{object}"
    );
    t.gone("up");

    let version = described["generation"].as_str().unwrap();
    let response = json!({"contentType": "text/plain", "contentDisposition": "attachment; filename=\"x.csv\""});
    t.apply(&[t.grant(
        "DownloadGrant",
        "down",
        json!({"key": t.key(name), "version": version, "response": response}),
    )]);
    let (status, text) = t.mount("down").curl(&["--include"]);
    assert_eq!(status, 200, "{text}");
    let text = text.to_lowercase();
    assert!(
        text.contains("content-type: text/plain") && text.contains("filename=\"x.csv\"") && text.ends_with("a,b,c"),
        "{text}"
    );

    // Neither the service account key nor a signature appears in the log, a status or an event.
    let log = operator.log_text();
    let secret_line = serde_json::from_str::<Value>(KEY).unwrap()["private_key"]
        .as_str()
        .unwrap()
        .lines()
        .nth(3)
        .unwrap()
        .to_owned();
    let seen = t.kubectl(&["get", "ug,dg,costore,events", "--output", "json"]);
    for text in [&log, &seen] {
        assert!(
            !text.contains(&secret_line) && !text.contains("X-Goog-Signature"),
            "a credential appears in the output"
        );
    }
}

#[test]
fn post_form_upload_works_on_gcs() {
    let t = tenant("gcs-form");
    let _operator = t.operator();
    let constraints =
        json!({"contentType": "text/csv", "contentLengthRange": {"min": 1, "max": 9}, "overwrite": "Allow"});
    let name = "a b+ü.csv";
    t.apply(&[t.grant(
        "UploadGrant",
        "form",
        json!({"mode": "PostForm", "key": t.key(name), "constraints": constraints}),
    )]);
    t.reason("ug/form", "Issued");
    let key = t.mount("form");
    // Google accepts this bucket path with a slash at the end, and fake-gcs-server only without it.
    let url = key.files["url"].trim_end_matches('/');
    assert_eq!(key.files["url"], format!("{}/{}/", SERVER.endpoint(), t.name()));
    let config = key.files["curl.cfg"].replace(&key.files["url"], url);
    std::fs::write(key.folder.join("curl.cfg"), config).unwrap();
    let file = format!("file=@{}", t.file("f", b"a,b,c").display());
    let (status, said) = key.curl(&["--form", &file]);
    assert_eq!(status, 204, "{said}");
    assert_eq!(
        SERVER.get(t.name(), &t.key(name)).unwrap().as_deref(),
        Some(&b"a,b,c"[..])
    );
    t.reason("ug/form", "Completed");

    let fields: Value = serde_json::from_str(&key.files["fields.json"]).unwrap();
    let fields: Vec<_> = fields.as_object().unwrap().iter().map(|(n, v)| json!([n, v])).collect();
    let now = jiff::Timestamp::now().as_second();
    let question = json!({
        "op": "verify_form", "key_file": KEY, "account": ACCOUNT, "fields": fields, "bucket": t.name(), "now": now, "size": 5,
    });
    assert_eq!(google::ask(question, &[]).unwrap().0["why"], "");
}

/// The signed URL starts a resumable upload. fake-gcs-server forgets the object's name then, so a server in front of
/// it verifies the request and starts the upload as Google does.
#[test]
fn resumable_upload_starts_with_the_signed_url() {
    let t = tenant("gcs-resumable");
    let name = t.key("film ü.mp4");
    let (bucket, object) = (t.name().to_owned(), name.clone());
    let front = Fake::start(move |call, _| {
        let question = json!({
            "op": "verify", "key_file": KEY, "account": ACCOUNT, "method": call.method,
            "url": format!("http://{}{}", call.header("host").unwrap(), call.path),
            "headers": call.headers.iter().filter(|(n, _)| !n.eq_ignore_ascii_case("host")).collect::<Vec<_>>(),
            "now": jiff::Timestamp::now().as_second(), "exists": SERVER.get(&bucket, &object).unwrap().is_some(),
        });
        let why = google::ask(question, &[]).unwrap().0["why"]
            .as_str()
            .unwrap()
            .to_owned();
        if !why.is_empty() {
            return Reply::text(if why.contains("there already") { 412 } else { 403 }, &why);
        }
        assert_eq!((call.header("x-goog-resumable"), call.body.len()), (Some("start"), 0));
        let name: String = object.bytes().map(|b| format!("%{b:02X}")).collect();
        let session = json!({
            "op": "send", "method": "POST",
            "url": format!("{}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name={name}", SERVER.endpoint()),
            "headers": [["Content-Type", "application/json"]],
        });
        let metadata = json!({"contentType": call.header("content-type")}).to_string();
        let (answer, _) = google::ask(session, metadata.as_bytes()).unwrap();
        let headers = answer["headers"].as_array().unwrap();
        let location = headers
            .iter()
            .find(|h| h[0].as_str().unwrap().eq_ignore_ascii_case("location"))
            .unwrap();
        Reply::Answer(
            201,
            vec![("Location", location[1].as_str().unwrap().to_owned())],
            String::new(),
        )
    });
    // The emulator ignores preconditions, so Valet refuses write-once uploads there.
    let constraints = json!({"contentType": "video/mp4", "overwrite": "Allow"});
    let grant = |name: &str, key: &str| {
        t.grant(
            "UploadGrant",
            name,
            json!({"mode": "Resumable", "key": key, "constraints": constraints}),
        )
    };

    // Valet refuses the grant until the store's owner accepts that a resumable upload outlives its signed URL.
    let _operator = t.operator();
    t.apply(&[grant("early", &t.key("early"))]);
    let refused = t.reason("ug/early", "CapabilityMissing");
    assert!(
        message(&refused).contains("resumableUploads: Tolerate"),
        "{}",
        message(&refused)
    );

    t.apply(&[store(
        &t,
        json!({"publicEndpoint": front.url(), "resumableUploads": "Tolerate"}),
    )]);
    let can = valet_harness::eventually(SOON, "the store to be probed", || {
        let store = t.get(&format!("costore/{}", t.name()))?;
        let can = store["status"]["capabilities"].as_array()?.clone();
        can.contains(&json!("Resumable")).then_some(can)
    });
    assert!(
        !can.contains(&json!("Resumable/WriteOnce")) && !can.contains(&json!("Resumable/ContentLength")),
        "{can:?}"
    );
    t.apply(&[
        grant("up", &name),
        t.grant(
            "UploadGrant",
            "sized",
            json!({"mode": "Resumable", "constraints": {"contentLength": 5, "overwrite": "Allow"}}),
        ),
    ]);
    let refused = t.reason("ug/sized", "CapabilityMissing");
    assert!(message(&refused).contains("contentLength"), "{}", message(&refused));
    t.reason("ug/up", "Issued");
    let key = t.mount("up");
    assert_eq!((key.files["method"].as_str(), key.files.len()), ("POST", 7));
    // The test runs the commands from the first line of `curl.cfg`: one gets the session URL, the next sends the
    // bytes.
    let used = key.files["curl.cfg"]
        .lines()
        .next()
        .unwrap()
        .split("Use: ")
        .nth(1)
        .unwrap()
        .to_owned();
    let file = t.file("film", &[b'x'; 300_000]);
    let used = used
        .replace("FILE", file.to_str().unwrap())
        .replace("curl.cfg", key.folder.join("curl.cfg").to_str().unwrap());
    let shell = |line: &str| {
        let mut command = process::clean(Command::new("sh"));
        command.args(["-euc", line]);
        process::run(command, b"", SOON).unwrap()
    };
    let session = shell(&format!("curl --config {}", key.folder.join("curl.cfg").display()));
    assert!(
        session.text().starts_with(&format!("{}/upload/", SERVER.endpoint())),
        "{} {}",
        session.text(),
        session.stderr
    );
    let sent = shell(&format!("{used} --silent --show-error"));
    assert!(sent.status.success(), "{}", sent.stderr);
    let completed = t.reason("ug/up", "Completed");
    assert_eq!(
        (
            &completed["status"]["object"]["size"],
            &completed["status"]["object"]["contentType"]
        ),
        (&json!(300_000), &json!("video/mp4"))
    );
    assert_eq!(SERVER.get(t.name(), &name).unwrap().map(|b| b.len()), Some(300_000));
}

/// A constraint that Google cannot enforce is refused, and the message names it.
#[test]
fn constraint_that_gcs_cannot_enforce_is_refused() {
    let t = tenant("gcs-refused");
    let _operator = t.operator();
    let sum = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
    t.apply(&[
        t.grant("UploadGrant", "sum", json!({"constraints": {"checksumSHA256": sum}})),
        t.grant(
            "UploadGrant",
            "form-sum",
            json!({"mode": "PostForm", "constraints": {"checksumSHA256": sum, "overwrite": "Allow"}}),
        ),
        t.grant(
            "UploadGrant",
            "form-md5",
            json!({"mode": "PostForm", "constraints": {"checksumMD5": "XUFAKrxLKna5cZ2REBfFkg==", "overwrite": "Allow"}}),
        ),
        t.grant("UploadGrant", "form-once", json!({"mode": "PostForm"})),
        t.grant(
            "DownloadGrant",
            "cache",
            json!({"response": {"cacheControl": "no-store"}}),
        ),
        t.grant("DownloadGrant", "version", json!({"version": "3/L4kqtJlcpXroDTDmJ"})),
    ]);
    for (grant, part) in [
        ("ug/sum", "set spec.constraints.checksumMD5 instead"),
        ("ug/form-md5", "checksumMD5"),
        ("ug/form-sum", "checksumSHA256"),
        ("ug/form-once", "overwrite"),
        ("dg/cache", "spec.response.cacheControl"),
        ("dg/version", "spec.version"),
    ] {
        let refused = t.reason(grant, "CapabilityMissing");
        assert!(message(&refused).contains(part), "{grant}: {}", message(&refused));
        assert!(t.get(&format!("secret/{}", &grant[3..])).is_none());
    }
}

/// With workload identity Valet uses the metadata server's token, and Google creates each signature.
#[test]
fn operator_with_workload_identity_signs_through_google() {
    let t = tenant("gcs-identity");
    let fake = Fake::start(|call, _| good(call));
    let mut own = store(&t, json!({}));
    own["spec"]["gcs"].as_object_mut().unwrap().remove("credentials");
    own["spec"]["access"][0]["maxExpirationSeconds"] = 604_800.into();
    t.apply(&[own]);
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        env: vec![
            ("GCE_METADATA_HOST".into(), fake.address.clone()),
            ("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS".into(), fake.url()),
            ("VALET_LOG".into(), "trace".into()),
        ],
        ..OperatorOptions::default()
    };
    let operator = Operator::start(&VALET, &t.world.plane, &options).unwrap();
    t.apply(&[
        t.grant(
            "UploadGrant",
            "up",
            json!({"expirationSeconds": 43_200, "constraints": {"overwrite": "Allow"}}),
        ),
        t.grant(
            "UploadGrant",
            "long",
            json!({"expirationSeconds": 43_201, "constraints": {"overwrite": "Allow"}}),
        ),
    ]);
    let issued = t.reason("ug/up", "Issued");
    assert_eq!(says(&issued, "Active"), "True Issued");
    let long = t.reason("ug/long", "ExpirationTooLong");
    assert!(message(&long).contains("43200"), "{}", message(&long));
    let key = t.mount("up");
    let headers: Vec<_> = key.files["headers"]
        .lines()
        .filter_map(|l| l.split_once(": "))
        .collect();
    let question = json!({
        "op": "verify", "key_file": KEY, "account": ACCOUNT, "url": key.files["url"], "method": "PUT", "headers": headers,
        "now": jiff::Timestamp::now().as_second(),
    });
    assert_eq!(google::ask(question, &[]).unwrap().0["why"], "");
    assert_eq!(key.upload(&t.file("f", b"bytes")).0, 200);
    t.reason("ug/up", "Completed");
    let log = operator.log_text();
    assert!(
        !log.contains("ya29.marker") && !log.contains("X-Goog-Signature"),
        "a credential appears in the output"
    );
    assert_eq!(fake.count("/token"), 1);
}

/// For an unusable credentials Secret the message says what is wrong, but does not show the content.
#[test]
fn invalid_credentials_secret_is_reported_without_its_content() {
    let t = tenant("gcs-secret");
    let _operator = t.operator();
    let said = |n: usize, data: Value| {
        let name = format!("{}-{n}", t.name());
        let (mut secret, mut own) = (
            t.credentials("", ""),
            store(&t, json!({"credentials": {"secretRef": {"name": name}}})),
        );
        secret["stringData"] = data;
        secret["metadata"]["name"] = name.clone().into();
        own["metadata"]["name"] = name.clone().into();
        let grant = t.grant(
            "UploadGrant",
            &name,
            json!({"storeRef": {"kind": "ClusterObjectStore", "name": name}}),
        );
        t.apply(&[secret, own, grant]);
        message(&t.reason(&format!("ug/{name}"), "CredentialsInvalid"))
    };
    let cases = [
        (json!({"AWS_ACCESS_KEY_ID": "marker"}), "credentials.json"),
        (json!({"credentials.json": "marker"}), "not the JSON"),
        (
            json!({"credentials.json": KEY, "key.json": KEY}),
            "have the same meaning",
        ),
        (
            json!({"credentials.json": KEY.replace("service_account", "external_account")}),
            "the type of the file is not service_account",
        ),
    ];
    for (n, (data, part)) in cases.into_iter().enumerate() {
        let message = said(n, data);
        assert!(message.contains(part) && !message.contains("marker"), "{message}");
    }
}

/// `valet sign` works without a cluster, with the credentials file that other Google tools also read.
#[test]
fn offline_signing_uses_googles_credentials_file() {
    let t = tenant("gcs-offline");
    let file = t.file("key.json", KEY.as_bytes());
    let mut own = store(&t, json!({}));
    own["spec"]["gcs"].as_object_mut().unwrap().remove("credentials");
    let grant = t.grant("UploadGrant", "up", json!({"constraints": {"contentLength": 5}}));
    let sign = |credentials: Option<&Path>| {
        let mut command = process::clean(Command::new(VALET.as_path()));
        command.args(["sign", "--output", "url", "--filename", "-"]);
        match credentials {
            Some(path) => command.env("GOOGLE_APPLICATION_CREDENTIALS", path),
            // No metadata server listens at this address.
            None => command.env("GCE_METADATA_HOST", "127.0.0.1:9"),
        };
        process::run(
            command,
            format!("{own}\n---\n{grant}\n").as_bytes(),
            Duration::from_secs(30),
        )
        .unwrap()
    };
    let signed = sign(Some(&file));
    assert!(signed.status.success(), "{}", signed.stderr);
    let question = json!({
        "op": "verify", "key_file": KEY, "account": ACCOUNT, "url": signed.text().trim(), "method": "PUT",
        "headers": [["x-goog-content-length-range", "5,5"], ["x-goog-if-generation-match", "0"]],
        "now": jiff::Timestamp::now().as_second(), "size": 5,
    });
    assert_eq!(google::ask(question, &[]).unwrap().0["why"], "");
    let none = sign(None);
    assert!(
        !none.status.success() && none.stderr.contains("GOOGLE_APPLICATION_CREDENTIALS"),
        "{}",
        none.stderr
    );
}

/// A Pub/Sub push message about a bucket's object completes the grant.
#[test]
fn pub_sub_notification_completes_the_upload() {
    let t = tenant("gcs-pubsub");
    let tokens = t.file(
        "tokens",
        format!("0123456789abcdef0123456789abcdef {}\n", t.name()).as_bytes(),
    );
    let port = valet_harness::net::free_port().unwrap();
    let address = format!("127.0.0.1:{port}");
    let operator = t.operator_with(&[
        "--notifications-address",
        &address,
        "--notifications-token-file",
        tokens.to_str().unwrap(),
    ]);
    // The emulator ignores preconditions, so Valet refuses write-once uploads there.
    let spec = json!({"constraints": {"overwrite": "Allow"}});
    t.apply(&[t.grant("UploadGrant", "up", spec)]);
    t.reason("ug/up", "Issued");
    // Valet polls after 2, 6, 14, 30 and 62 s. The test waits until the next poll is far away.
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(t.mount("up").upload(&t.file("f", b"bytes")).0, 200);
    let generation = SERVER.describe(t.name(), &t.key("up")).unwrap().unwrap()["generation"].clone();
    let data =
        base64::prelude::BASE64_STANDARD.encode(json!({"kind": "storage#object", "name": t.key("up")}).to_string());
    let push = json!({
        "message": {
            "attributes": {
                "eventType": "OBJECT_FINALIZE", "bucketId": t.name(), "objectId": t.key("up"), "objectGeneration": generation,
                "payloadFormat": "JSON_API_V1",
            },
            "data": data, "messageId": "1", "publishTime": "2027-01-15T08:00:00Z",
        },
        "subscription": "projects/p/subscriptions/valet",
    });
    let mut command = process::clean(Command::new("curl"));
    command.args([
        "--silent",
        "--fail",
        "--header",
        "Authorization: Bearer 0123456789abcdef0123456789abcdef",
        "--data-binary",
        "@-",
    ]);
    command.arg(format!("http://{address}/notifications"));
    let sent = process::run(command, push.to_string().as_bytes(), SOON).unwrap();
    assert!(sent.status.success(), "{}", sent.stderr);
    t.reason("ug/up", "Completed");
    let metrics = operator.metrics().unwrap();
    assert!(
        metrics.contains("\nvalet_notification_to_completed_seconds_count 1\n"),
        "the upload was found after its notification and not by a scheduled poll: {metrics}"
    );
}
