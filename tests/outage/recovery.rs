//! Credentials expire while the API server does not answer, so nobody can delete their Secrets.

use std::time::Duration;

use serde_json::{Value, json};
use valet_harness::eventually;

use crate::world::{SOON, World, grant, has_secret, ready};

#[test]
fn credentials_that_expire_during_an_outage_are_deleted_after_it() {
    let world = World::new();
    let (plane, operator) = (&world.plane, world.operator(&[]));
    let apply = |objects: &[Value]| {
        plane.apply_all(objects).expect("the objects can be applied");
    };
    apply(&[grant("short", 8), grant("long", 3600)]);
    ready(plane, "short", "Issued");
    ready(plane, "long", "Issued");
    let before = plane.kubectl_json(&["get", "secret", "long", "--output=json"]).unwrap();

    plane.stop_apiserver();
    std::thread::sleep(Duration::from_secs(10));
    assert!(
        operator.process().is_running(),
        "the operator runs on while the apiserver is unreachable: {}",
        operator.log_text()
    );
    plane.start_apiserver().unwrap();
    eventually(SOON, "the Secret of the expired credential to be deleted", || {
        (!has_secret(plane, "short")).then_some(())
    });
    ready(plane, "short", "Expired");
    let after = plane.kubectl_json(&["get", "secret", "long", "--output=json"]).unwrap();
    assert_eq!(before, after, "Secrets of valid credentials were not changed");
    apply(&[grant("next", 600)]);
    ready(plane, "next", "Issued");

    // The API server stops answering and its connections stay open. No request of the operator may wait forever.
    apply(&[grant("frozen", 5)]);
    ready(plane, "frozen", "Issued");
    plane.pause_apiserver();
    std::thread::sleep(Duration::from_secs(13));
    plane.resume_apiserver();
    ready(plane, "frozen", "Expired");
    assert!(!has_secret(plane, "frozen"));
    assert!(operator.process().is_running());

    // For some time the API server answers 404 for the status of existing grants, as after a start.
    let status_is_served = |so: bool| {
        let patch = if so {
            json!([{"op": "add", "path": "/spec/versions/0/subresources", "value": {"status": {}}}])
        } else {
            json!([{"op": "remove", "path": "/spec/versions/0/subresources"}])
        };
        let patch = format!("--patch={patch}");
        let crd = "crd/downloadgrants.valetkey.dev";
        plane.kubectl(&["patch", crd, "--type=json", &patch]).unwrap();
        let path = "/apis/valetkey.dev/v1alpha1/namespaces/default/downloadgrants/long/status";
        eventually(SOON, "the apiserver to store the object", || {
            (plane.kubectl(&["get", "--raw", path]).is_ok() == so).then_some(())
        });
    };
    status_is_served(false);
    apply(&[grant("unknown", 8)]);
    eventually(SOON, "a credential without a status", || {
        has_secret(plane, "unknown").then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    status_is_served(true);
    ready(plane, "unknown", "Expired");
    assert!(!has_secret(plane, "unknown"));
    let log = operator.log_text();
    assert!(!log.contains("panicked"), "{log}");
}
