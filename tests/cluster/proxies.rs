//! Tests of an operator that reaches the internet only through a proxy. docs/install.md describes how to configure
//! the proxy.

use std::time::Duration;

use serde_json::json;
use valet_harness::{Operator, OperatorOptions, net, proxy::Proxy};

use crate::{
    authority::with_tls,
    world::{Tenant, VALET},
};

/// The operator uses the proxy for shared stores but never for tenants' stores. The proxy resolves host names itself,
/// so it could connect to addresses that the operator forbids.
#[test]
fn proxy_is_used_for_shared_stores_but_not_for_tenant_stores() {
    let t = Tenant::new("proxied");
    let (_server, endpoint) = with_tls(&t);
    let there = endpoint.trim_start_matches("https://").to_owned();
    // Nothing listens at these two addresses. The proxy forwards both to the store.
    let [shared, own] = [(); 2].map(|()| format!("127.0.0.1:{}", net::free_port().expect("there is a port")));
    let proxy =
        Proxy::start([&shared, &own].map(|from| (from.clone(), there.clone())).into()).expect("the proxy starts");

    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(format!("https://{shared}"));
    let mut tenants = t.store();
    tenants["kind"] = json!("ObjectStore");
    tenants["metadata"] = json!({"name": "own", "namespace": t.name()});
    tenants["spec"]["s3"]["endpoint"] = json!(format!("https://{own}"));
    tenants["spec"]["access"] = json!([]);
    let mut credentials = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
    credentials["metadata"]["namespace"] = json!(t.name());
    t.apply(&[
        store,
        tenants,
        credentials,
        t.grant("UploadGrant", "g", json!({})),
        t.grant(
            "UploadGrant",
            "h",
            json!({"storeRef": {"kind": "ObjectStore", "name": "own"}}),
        ),
    ]);
    let authority = t.world.plane.ca_file().display().to_string();
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        args: vec![
            "--allow-private-endpoints=127.0.0.0/8".into(),
            "--tenant-store-requests=All".into(),
            "--log-level=trace".into(),
        ],
        env: vec![
            ("SSL_CERT_FILE".to_owned(), authority.clone()),
            (
                "HTTPS_PROXY".to_owned(),
                format!("http://valet:passes@{}", proxy.address()),
            ),
        ],
        ..OperatorOptions::default()
    };
    let operator = Operator::start(&VALET, &t.world.plane, &options).expect("the operator starts");

    t.reason_within("ug/g", "Issued", Duration::from_secs(60));
    let key = t.mount("g");
    let file = t.file("up", b"by proxy");
    let by = format!("http://{}", proxy.address());
    let upload = [
        "--cacert",
        &authority,
        "--proxy",
        &by,
        "--upload-file",
        file.to_str().expect("a plain path"),
    ];
    assert_eq!(key.curl(&upload).0, 200);
    t.reason_within("ug/g", "Completed", Duration::from_secs(70));

    t.reason("ug/h", "StoreUnreachable");
    let asked = proxy.asked();
    // The Base64 text is `valet:passes`.
    let ours = |to: &str| {
        asked
            .iter()
            .any(|c| c.to == to && c.authorization.as_deref() == Some("Basic dmFsZXQ6cGFzc2Vz"))
    };
    assert!(ours(&shared), "{asked:?}");
    assert!(asked.iter().all(|c| c.to != own), "{asked:?}");
    let log = operator.log_text();
    assert!(
        !log.contains("passes") && !log.contains("dmFsZXQ6cGFzc2Vz"),
        "the log shows the proxy's password"
    );
}
