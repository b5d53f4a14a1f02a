//! The apiserver goes away and comes back: under a running operator, keys end while nobody can delete their Secrets.
//! A control plane of its own, since the other tests would not like this.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use valet_harness::{ControlPlane, ControlPlaneOptions, Operator, OperatorOptions, S3Server, Tools, eventually};

const SOON: Duration = Duration::from_secs(60);

fn grant(name: &str, seconds: u32) -> Value {
    json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": "DownloadGrant", "metadata": {"name": name, "namespace": "default"},
        "spec": {"storeRef": {"name": "own"}, "key": "some/key", "expirationSeconds": seconds},
    })
}

fn ready(plane: &ControlPlane, name: &str, reason: &str) {
    eventually(SOON, &format!("{name} to be {reason}"), || {
        let grant = plane.kubectl_json(&["get", "dg", name, "--output=json"]).ok()?;
        let conditions = grant["status"]["conditions"].as_array()?.clone();
        conditions
            .iter()
            .any(|c| c["type"] == "Ready" && c["reason"] == reason)
            .then_some(())
    });
}

fn has_secret(plane: &ControlPlane, name: &str) -> bool {
    !plane
        .kubectl(&["get", "secret", name, "--ignore-not-found", "--output=name"])
        .unwrap()
        .trim()
        .is_empty()
}

#[test]
fn the_apiserver_comes_back() {
    let tools = Tools::locate().unwrap();
    let crds = fs::read_to_string(concat!(env!("VALET_ROOT"), "/crds/valet.yaml")).unwrap();
    let options = ControlPlaneOptions {
        manifests: vec![crds],
        ..ControlPlaneOptions::default()
    };
    let plane = ControlPlane::start_with(&tools, options).unwrap();
    let store = S3Server::start(&tools).unwrap();
    store.create_bucket("bucket").unwrap();
    // The namespace's own store is on this machine.
    let options = OperatorOptions {
        args: vec!["--allow-private-endpoints=127.0.0.0/8".into()],
        ..OperatorOptions::default()
    };
    let operator = Operator::start(Path::new(env!("CARGO_BIN_EXE_valet")), &plane, &options).unwrap();
    let apply = |objects: &[Value]| {
        plane.apply_all(objects).expect("the objects can be applied");
    };
    apply(&[
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": "default"},
            "stringData": {"accessKeyID": store.access_key(), "secretAccessKey": store.secret_key()},
        }),
        json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ObjectStore", "metadata": {"name": "own", "namespace": "default"},
            "spec": {"s3": {
                "bucket": "bucket", "region": store.region(), "endpoint": store.endpoint(), "addressingStyle": "Path",
                "credentials": {"secretRef": {"name": "keys"}},
            }},
        }),
        grant("short", 8),
        grant("long", 3600),
    ]);
    ready(&plane, "short", "Issued");
    ready(&plane, "long", "Issued");
    let before = plane.kubectl_json(&["get", "secret", "long", "--output=json"]).unwrap();

    plane.stop_apiserver();
    std::thread::sleep(Duration::from_secs(10));
    assert!(
        operator.process().is_running(),
        "an apiserver that is away is no reason to die: {}",
        operator.log_text()
    );
    plane.start_apiserver().unwrap();
    eventually(SOON, "the key that ended meanwhile to be withdrawn", || {
        (!has_secret(&plane, "short")).then_some(())
    });
    ready(&plane, "short", "Expired");
    let after = plane.kubectl_json(&["get", "secret", "long", "--output=json"]).unwrap();
    assert_eq!(before, after, "what had not ended was not touched");
    apply(&[grant("next", 600)]);
    ready(&plane, "next", "Issued");

    // It answers nothing for a while, with connections left open: no call may wait for ever.
    apply(&[grant("frozen", 5)]);
    ready(&plane, "frozen", "Issued");
    plane.pause_apiserver();
    std::thread::sleep(Duration::from_secs(13));
    plane.resume_apiserver();
    ready(&plane, "frozen", "Expired");
    assert!(!has_secret(&plane, "frozen"));
    assert!(operator.process().is_running());

    // For a while it says of what is there that it is not, as one may that has just started.
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
        eventually(SOON, "the apiserver to know it", || {
            (plane.kubectl(&["get", "--raw", path]).is_ok() == so).then_some(())
        });
    };
    status_is_served(false);
    apply(&[grant("unknown", 8)]);
    eventually(SOON, "a key that nobody can report", || {
        has_secret(&plane, "unknown").then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    status_is_served(true);
    ready(&plane, "unknown", "Expired");
    assert!(!has_secret(&plane, "unknown"));
    let log = operator.log_text();
    assert!(!log.contains("panicked"), "{log}");
}
