//! Tests of tenants' endpoints that lead to an internal address only in combination with the bucket name.

use std::{net::TcpListener, time::Duration};

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use serde_json::json;
use valet::{
    api::{ObjectStore, Reason},
    net::EgressPolicy,
    provider::s3::S3,
    provider::{Finding, Prober, registry},
};

/// The bucket `127.100` and the host `200.100` together form a loopback address, although the host alone is a public
/// address (200.0.0.100 in short form). An IP address needs no DNS lookup, so Valet must check it separately.
#[tokio::test]
async fn bucket_and_host_that_form_an_internal_address_are_refused() {
    let listener = TcpListener::bind("127.100.200.100:0").expect("a port is free");
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = json!({"bucket": "127.100", "region": "us-east-1", "endpoint": format!("http://200.100:{port}")});
    let credentials = SharedCredentialsProvider::new(Credentials::new("AKID", "secret", None, None, "test"));
    let s3 = S3::new(
        serde_json::from_value(settings.clone()).unwrap(),
        credentials,
        Some(EgressPolicy::default()),
    );
    let probed = tokio::time::timeout(Duration::from_secs(30), s3.probe()).await.unwrap();
    assert!(
        listener.accept().is_err(),
        "the address received a request: {:?}",
        probed.finding
    );
    let Finding::Unreachable(why) = probed.finding else {
        panic!("{:?}", probed.finding)
    };
    assert!(why.contains("127.100.200.100") && why.contains("loopback"), "{why}");

    // Valet also refuses a host that is part of an IP address, before it sends anything.
    for half in ["1.1", "254", "169.254", "0x7f.1", "2130706433", "1.1."] {
        let mut settings = settings.clone();
        settings["endpoint"] = json!(format!("http://{half}"));
        let own = json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ObjectStore",
            "metadata": {"name": "s", "namespace": "web"}, "spec": {"s3": settings},
        });
        let own: ObjectStore = serde_json::from_value(own).unwrap();
        let Ok(settings) = registry::settings(&own) else {
            assert!(half.ends_with('.'), "the schema accepts {half}");
            continue;
        };
        let (reason, why) = settings.check_endpoint(&EgressPolicy::default()).await.unwrap_err();
        assert_eq!(reason, Reason::EndpointNotAllowed);
        assert!(why.contains("can read such a host as an IP address"), "{why}");
    }
}
