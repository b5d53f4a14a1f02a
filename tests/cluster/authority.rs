//! Tests of a store whose TLS certificate is from a private certificate authority (CA). docs/image.md describes how
//! to make the operator trust the CA.

use std::process::Command;

use serde_json::json;
use valet_harness::{Operator, OperatorOptions, Process, net, process};

use crate::world::{SOON, Tenant, VALET, condition};

/// A second S3 server with TLS, with the users and objects of the shared S3 server. It uses the apiserver's
/// certificate, which is valid for loopback addresses and signed by the control plane's CA.
pub fn with_tls(t: &Tenant) -> (Process, String) {
    let (s3, plane) = (&t.world.s3, &t.world.plane);
    let port = net::free_port().expect("there is a port");
    let mut command = process::clean(t.world.tools.command("versitygw"));
    let folder = |name: &str| s3.scratch().join(name).display().to_string();
    command
        .env("ROOT_ACCESS_KEY", s3.access_key())
        .env("ROOT_SECRET_KEY", s3.secret_key())
        .args([format!("--port=127.0.0.1:{port}"), format!("--region={}", s3.region())])
        .arg(format!("--cert={}", plane.scratch().join("tls.crt").display()))
        .arg(format!("--key={}", plane.scratch().join("tls.key").display()))
        .arg(format!("--iam-dir={}", folder("users")))
        .arg("posix")
        .arg(format!("--versioning-dir={}", folder("versions")))
        .arg(folder("objects"));
    let log = plane.scratch().join(format!("versitygw-{port}.log"));
    let server = Process::start("versitygw", command, log).expect("versitygw starts");
    server
        .wait_until(SOON, "the server listens", || net::listens(port))
        .expect("it listens");
    (server, format!("https://127.0.0.1:{port}"))
}

/// The environment variables that the chart's `caBundle` sets. The bundle file does not contain the CA, like the
/// bundle in the image. The CA is in a folder as the kubelet mounts it, where each file is a symbolic link into a
/// folder that the kubelet replaces.
fn as_the_chart_does(t: &Tenant, authority: &str) -> Vec<(String, String)> {
    let public = t.world.plane.scratch().join("client.crt");
    let folder = t.file("..data", b"").with_file_name("authorities");
    let data = folder.join("..2026_11_24");
    std::fs::create_dir_all(&data).expect("a folder can be made");
    std::fs::copy(authority, data.join("ca.crt")).expect("a file can be copied");
    std::os::unix::fs::symlink("..2026_11_24", folder.join("..data")).expect("a link can be made");
    std::os::unix::fs::symlink("..data/ca.crt", folder.join("ca.crt")).expect("a link can be made");
    vec![
        ("SSL_CERT_FILE".to_owned(), public.display().to_string()),
        ("SSL_CERT_DIR".to_owned(), folder.display().to_string()),
    ]
}

#[test]
fn store_with_private_ca_is_used_only_if_ca_is_trusted() {
    let t = Tenant::new("authority");
    let (_server, endpoint) = with_tls(&t);
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(endpoint);
    t.apply(&[store, t.grant("UploadGrant", "g", json!({}))]);

    // This operator does not trust the CA, so it sends no request to the store.
    let stranger = t.operator();
    let grant = t.reason("ug/g", "StoreUnreachable");
    assert_eq!(t.kstatus(&grant), "InProgress");
    let ready = condition(&grant, "Ready").expect("it is there");
    let said = ready["message"].as_str().unwrap_or_default();
    assert!(
        said.contains("from an unknown authority") && said.contains("SSL_CERT_FILE"),
        "the message names what is wrong, and what to do: {said}"
    );
    assert!(t.get("secret/g").is_none());
    stranger.kill();

    let authority = t.world.plane.ca_file().display().to_string();
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        env: as_the_chart_does(&t, &authority),
        ..OperatorOptions::default()
    };
    let _operator = Operator::start(&VALET, &t.world.plane, &options).expect("the operator starts");
    t.reason_within("ug/g", "Issued", std::time::Duration::from_secs(90));
    let key = t.mount("g");
    assert!(key.files["url"].starts_with(&endpoint), "the URL has the same address");
    // The workload must also trust the CA.
    let file = t.file("up", b"by TLS");
    let upload = [
        "--cacert",
        &authority,
        "--upload-file",
        file.to_str().expect("a plain path"),
    ];
    assert_eq!(key.curl(&upload).0, 200);
    t.reason_within("ug/g", "Completed", std::time::Duration::from_secs(70));
    assert_eq!(t.stored(&t.key("g")).as_deref(), Some(&b"by TLS"[..]));
    // Without the CA, curl rejects the certificate.
    let mut bare = process::clean(Command::new("curl"));
    bare.arg("--silent").arg(&endpoint);
    assert_eq!(
        process::run(bare, b"", SOON).expect("curl runs").status.code(),
        Some(60)
    );
}
