//! Tests of a container that can be reached only through a proxy.

use std::time::Duration;

use serde_json::json;
use valet_harness::{Operator, OperatorOptions, net, proxy::Proxy};

use crate::{
    container::{BY_IDENTITY, OnAzure},
    world::{VALET, condition},
};

#[test]
fn proxy_is_used_for_shared_containers_but_not_for_tenant_ones() {
    let on = OnAzure::new("azproxy", &BY_IDENTITY);
    let t = &on.t;
    let there = on.azurite.endpoint().trim_start_matches("https://").to_owned();
    let [nowhere, refused, own] = [(); 3].map(|()| format!("127.0.0.1:{}", net::free_port().unwrap()));
    let proxy = Proxy::start(vec![(nowhere.clone(), there.clone()), (own.clone(), there)]).unwrap();
    let ca = on.azurite.ca().to_string_lossy().into_owned();
    t.apply(&[
        on.store(json!({"endpoint": format!("https://{refused}")})),
        t.grant("UploadGrant", "up", json!({})),
    ]);
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        args: vec![
            "--allow-private-endpoints=127.0.0.0/8".into(),
            "--tenant-store-requests=All".into(),
        ],
        env: vec![
            ("SSL_CERT_FILE".to_owned(), ca.clone()),
            ("HTTPS_PROXY".to_owned(), format!("http://{}", proxy.address())),
        ],
        ..OperatorOptions::default()
    };
    let _operator = Operator::start(&VALET, &t.world.plane, &options).unwrap();
    // The proxy cannot reach this address. The message names the proxy variables.
    let waits = t.reason("ug/up", "StoreUnreachable");
    let message = condition(&waits, "Ready").unwrap()["message"].to_string();
    assert!(
        message.contains("HTTPS_PROXY") && message.contains("NO_PROXY"),
        "{message}"
    );

    t.apply(&[on.store(json!({"endpoint": format!("https://{nowhere}")}))]);
    t.reason_within("ug/up", "Issued", Duration::from_secs(60));
    let up = t.mount("up");
    let file = t.file("f", b"bytes");
    let by = format!("http://{}", proxy.address());
    assert_eq!(
        up.curl(&["--cacert", &ca, "--proxy", &by, "--upload-file", file.to_str().unwrap()])
            .0,
        201
    );
    t.reason_within("ug/up", "Completed", Duration::from_secs(70));

    // Valet never uses the proxy for a tenant's own container, because the proxy would resolve the address in another
    // network.
    let mut tenants = on.store(json!({"endpoint": format!("https://{own}")}));
    tenants["kind"] = json!("ObjectStore");
    tenants["metadata"] = json!({"name": "own", "namespace": t.name()});
    tenants["spec"]["access"] = json!([]);
    let mut credentials = on.credentials(on.azurite.key());
    credentials["metadata"]["namespace"] = json!(t.name());
    let store = json!({"kind": "ObjectStore", "name": "own"});
    t.apply(&[
        credentials,
        tenants,
        t.grant("UploadGrant", "own", json!({"storeRef": store})),
    ]);
    t.reason("ug/own", "StoreUnreachable");
    assert!(proxy.asked().iter().all(|c| c.to != own), "{:?}", proxy.asked());
}
