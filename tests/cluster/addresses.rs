//! Tests of what a signed URL contains besides the object key: the host, the bucket, the object version and the
//! credentials.

use serde_json::json;
use valet_harness::{Operator, OperatorOptions, S3Server, UrlCheck, eventually, s3::S3Options, verify_url};

use crate::world::{Mounted, SOON, Tenant, VALET, says};

fn check(key: &Mounted, store: &S3Server) -> valet_harness::Verdict {
    let check = UrlCheck {
        url: key.files["url"].clone(),
        method: key.files["method"].clone(),
        headers: key.files["headers"]
            .lines()
            .filter_map(|l| l.split_once(": "))
            .map(|(n, v)| (n.into(), v.into()))
            .collect(),
        access_key: store.access_key().to_owned(),
        secret_key: store.secret_key().to_owned(),
        session_token: None,
        region: store.region().to_owned(),
    };
    verify_url(&crate::world::WORLD.tools, &check).expect("the verifier answers")
}

/// With virtual-hosted addressing, the host of a signed URL starts with the bucket name, as Amazon S3 expects. The
/// URL uses `publicEndpoint`, not the endpoint of the operator.
#[test]
fn url_uses_virtual_host_and_public_endpoint() {
    let t = Tenant::new("addresses");
    let domain = "s3.valet.test";
    let options = S3Options {
        args: vec!["--virtual-domain".into(), domain.into()],
        ..S3Options::default()
    };
    let store = S3Server::start_with(&t.world.tools, options).unwrap();
    store.create_bucket("pictures").unwrap();
    let port = store.port();
    let mut object = t.store();
    object["spec"]["s3"] = json!({
        "bucket": "pictures", "region": store.region(), "credentials": {"secretRef": {"name": t.name()}},
        // The operator uses the IP address, and workloads use the DNS name, so the two signatures differ. With an IP
        // address the bucket name is in the path, because a host such as `bucket.127.0.0.1` does not exist.
        "endpoint": format!("http://127.0.0.1:{port}"),
        "publicEndpoint": format!("http://{domain}:{port}"),
        "addressingStyle": "VirtualHost",
    });
    t.apply(&[t.credentials(store.access_key(), store.secret_key()), object.clone()]);
    let _operator = t.operator();
    let allow = json!({"constraints": {"overwrite": "Allow"}});
    t.apply(&[t.grant("UploadGrant", "virtual", allow.clone())]);
    t.reason("ug/virtual", "Issued");
    let key = t.mount("virtual");
    let verdict = check(&key, &store);
    assert!(verdict.valid, "{}", verdict.why);
    assert_eq!(verdict.host, format!("pictures.{domain}:{port}"));
    assert_eq!(verdict.key().unwrap(), t.key("virtual").as_bytes());
    let resolve = format!("pictures.{domain}:{port}:127.0.0.1");
    let file = t.file("f", b"by name");
    let (code, answer) = key.curl(&["--upload-file", file.to_str().unwrap(), "--resolve", &resolve]);
    assert_eq!(code, 200, "{answer}");
    // The same object at the same host, requested without a signature.
    let url = format!("http://pictures.{domain}:{port}/{}", t.key("virtual"));
    let unsigned = std::process::Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--resolve",
            &resolve,
            &url,
        ])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&unsigned.stdout),
        "403",
        "the object cannot be read without a credential"
    );

    object["spec"]["s3"]["addressingStyle"] = json!("Path");
    t.apply(&[object, t.grant("UploadGrant", "path", allow)]);
    t.reason("ug/path", "Issued");
    let key = t.mount("path");
    let verdict = check(&key, &store);
    assert!(verdict.valid, "{}", verdict.why);
    assert_eq!(verdict.host, format!("{domain}:{port}"));
    assert_eq!(verdict.key_in("pictures").unwrap(), t.key("path").as_bytes());
}

/// A DownloadGrant with a version ID gets a URL for that version of the object, not for the newest one.
#[test]
fn download_with_version_returns_that_version() {
    let t = Tenant::new("versions");
    let bucket = format!("{}-v", t.name());
    t.world.s3.create_versioned_bucket(&bucket).unwrap();
    let mut store = t.store();
    store["spec"]["s3"]["bucket"] = json!(bucket);
    let version = |body: &[u8]| {
        let put = t.world.s3.put(&bucket, &t.key("doc"), body).unwrap().ok().unwrap();
        put.header("x-amz-version-id")
            .expect("a versioned bucket says the version")
            .to_owned()
    };
    let (first, second) = (version(b"first"), version(b"second"));
    assert_ne!(first, second);
    let _operator = t.operator();
    t.apply(&[
        store,
        t.grant("DownloadGrant", "old", json!({"key": t.key("doc"), "version": first})),
        t.grant("DownloadGrant", "new", json!({"key": t.key("doc")})),
        t.grant("UploadGrant", "doc", json!({"constraints": {"overwrite": "Allow"}})),
    ]);
    for name in ["dg/old", "dg/new"] {
        t.reason(name, "Issued");
    }
    assert_eq!(t.mount("old").curl(&[]), (200, "first".into()));
    assert_eq!(t.mount("new").curl(&[]), (200, "second".into()));
    let swapped = t.mount("old").files["url"].replace(&first, &second);
    let output = std::process::Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &swapped])
        .output();
    assert_eq!(
        String::from_utf8_lossy(&output.unwrap().stdout),
        "403",
        "the version is part of the signature"
    );
}

/// A store without credentials uses the AWS SDK's default provider chain in the operator's environment.
#[test]
fn store_without_credentials_uses_default_provider_chain() {
    let t = Tenant::new("chain");
    let mut store = t.store();
    store["spec"]["s3"].as_object_mut().unwrap().remove("credentials");
    // The store is deleted first, because `kubectl apply` would merge the new store with the existing one.
    t.world.plane.kubectl(&["delete", "costore", t.name()]).unwrap();
    t.apply(&[store, t.grant("UploadGrant", "g", json!({}))]);
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        ..OperatorOptions::default()
    };
    let without = Operator::start(&VALET, &t.world.plane, &options).unwrap();
    let grant = t.reason("ug/g", "CredentialsInvalid");
    assert_eq!(t.kstatus(&grant), "InProgress");
    let message = crate::world::condition(&grant, "Ready").unwrap()["message"]
        .as_str()
        .unwrap();
    assert!(message.contains("default AWS credentials chain"), "{message}");
    drop(without);

    let options = OperatorOptions {
        env: vec![
            ("AWS_ACCESS_KEY_ID".into(), t.world.s3.access_key().into()),
            ("AWS_SECRET_ACCESS_KEY".into(), t.world.s3.secret_key().into()),
        ],
        ..options
    };
    let operator = Operator::start(&VALET, &t.world.plane, &options).unwrap();
    t.reason("ug/g", "Issued");
    assert_eq!(t.mount("g").upload(&t.file("f", b"x")).0, 200);
    // The metrics contain the expiry of each live credential and the number of grants in each state.
    t.reason(&format!("costore/{}", t.name()), "Ready");
    let shown = || {
        let metrics = operator.metrics().ok()?;
        metrics.contains("reason=\"Ready\"} 1").then_some(metrics)
    };
    let metrics = eventually(SOON, "the store to be reported as ready", shown);
    let grant = t.get("ug/g").unwrap();
    let expires: jiff::Timestamp = grant["status"]["expirationTime"].as_str().unwrap().parse().unwrap();
    let live = format!(
        "valet_credential_expiration_timestamp_seconds{{kind=\"UploadGrant\",namespace=\"{}\",name=\"g\"}} {}",
        t.name(),
        expires.as_second()
    );
    if says(&grant, "Active") == "True Issued" {
        assert!(metrics.lines().any(|l| l == live), "{metrics}");
        let issued = format!(
            "valet_grants{{kind=\"UploadGrant\",namespace=\"{}\",reason=\"Issued\"}} 1",
            t.name()
        );
        assert!(metrics.contains(&issued), "{metrics}");
    }
    let name = t.name();
    for line in [
        format!("valet_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        "valet_leader 1".to_owned(),
        format!(
            "valet_store_ready{{kind=\"ClusterObjectStore\",namespace=\"\",name=\"{name}\",scope=\"\",reason=\"Ready\"}} 1"
        ),
        "valet_credentials_issued_total{kind=\"UploadGrant\"} 1".to_owned(),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in {metrics}");
    }
    let head_request = format!(
        "valet_store_polls_total{{store_kind=\"ClusterObjectStore\",store_namespace=\"\",store=\"{name}\",outcome="
    );
    assert!(
        metrics.contains(&head_request),
        "the HEAD request {head_request} is not in {metrics}"
    );
    assert!(
        metrics.trim_end().ends_with("# EOF"),
        "OpenMetrics output ends with this line"
    );
    assert_eq!(operator.http_get("/livez").unwrap().0, 200);
    for line in operator.log_text().lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok(),
            "not JSON: {line}"
        );
    }
}
