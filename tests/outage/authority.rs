//! The API server gets a certificate from another certificate authority, as after a rotation of the cluster's
//! certificates.

use std::{fs, thread, time::Duration};

use serde_json::Value;
use valet_harness::{OperatorOptions, eventually};

use crate::world::{SOON, World, grant, lines, ready};

#[test]
fn replaced_certificate_authority_is_trusted_without_a_restart() {
    let world = World::new();
    let plane = &world.plane;
    // The kubeconfig of one operator contains the certificate authority. The kubeconfig of the other names a file, as
    // with a mounted certificate.
    let (ca, file) = (
        plane.scratch().join("mounted-ca.pem"),
        plane.scratch().join("by-name.json"),
    );
    fs::copy(plane.ca_file(), &ca).unwrap();
    let mut by_name: Value = serde_json::from_slice(&fs::read(plane.operator_kubeconfig()).unwrap()).unwrap();
    let cluster = by_name["clusters"][0]["cluster"].as_object_mut().unwrap();
    cluster.remove("certificate-authority-data");
    cluster.insert("certificate-authority".into(), ca.display().to_string().into());
    fs::write(&file, by_name.to_string()).unwrap();
    let named = world.operator_with(&OperatorOptions {
        kubeconfig: Some(file),
        ..World::options(&[])
    });
    let inline = world.operator(&[]);
    plane.apply(&grant("before", 3600).to_string()).unwrap();
    ready(plane, "before", "Issued");

    plane.replace_authority().unwrap();
    eventually(
        SOON,
        "the operator to report that it does not trust the apiserver",
        || named.log_text().contains("invalid peer certificate").then_some(()),
    );
    // The operator can read the file while it is half written. It must then go on.
    let new = fs::read(plane.ca_file()).unwrap();
    fs::write(&ca, &new[..new.len() / 2]).unwrap();
    thread::sleep(Duration::from_secs(12));
    assert!(named.process().is_running(), "{}", named.log_text());
    fs::write(&ca, &new).unwrap();
    for operator in [&named, &inline] {
        eventually(SOON, "the new certificate authority to be used", || {
            let infos = lines(operator, "INFO");
            let used = "the certificates or credentials for the apiserver have changed";
            infos.iter().any(|line| line.contains(used)).then_some(())
        });
    }
    plane.apply(&grant("after", 600).to_string()).unwrap();
    ready(plane, "after", "Issued");
    // Each operator also works without the other.
    named.kill();
    plane.apply(&grant("inline", 600).to_string()).unwrap();
    ready(plane, "inline", "Issued");
    assert!(inline.process().is_running());
}
