//! Tests with stores that differ in one respect: one has no conditional writes, one obeys unsigned headers, and one
//! requires a checksum for each upload.

use std::fs;

use serde_json::{Value, json};
use valet_harness::eventually;

use crate::cluster::{Case, SOON};

/// A condition's status and message.
fn condition(object: &Value, kind: &str) -> Option<(String, String)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|c| c["type"] == kind)?;
    let text = |name: &str| found[name].as_str().map(str::to_owned);
    Some((text("status")?, text("message")?))
}

/// Waits until the store is probed. Returns the store, the message of `Ready` and the status of
/// `UnsignedHeadersRefused`.
fn probed_store(case: &Case, store: &str) -> (Value, String, String) {
    eventually(SOON, &format!("{store} to be probed"), || {
        let store = case.get(&format!("clusterobjectstore/{store}"))?;
        let (ready, message) = condition(&store, "Ready")?;
        let (headers, _) = condition(&store, "UnsignedHeadersRefused")?;
        (ready == "True").then_some((store, message, headers))
    })
}

fn can(store: &Value, capability: &str) -> bool {
    let listed = store["status"]["capabilities"].as_array();
    listed.into_iter().flatten().any(|c| c == capability)
}

/// Checks that a grant is refused for a missing capability and has no credentials, and returns the message.
fn refused(case: &Case, grant: &str) -> String {
    let found = case.reason(&format!("ug/{grant}"), "CapabilityMissing");
    assert!(case.get(&format!("secret/{grant}")).is_none(), "{grant} has a Secret");
    assert_eq!(found["status"]["expirationTime"], Value::Null, "{found}");
    condition(&found, "Ready").expect("it is refused").1
}

#[test]
fn write_once_grant_is_refused_if_store_answers_501_to_conditions() {
    let case = Case::new("s12a");
    case.apply("S12-b2-write-once");
    let message = refused(&case, "b2-once");
    assert!(
        message.contains("(WriteOnce)") && message.contains("set spec.constraints.overwrite to Allow"),
        "{message}"
    );
    let (store, said, headers) = probed_store(&case, "b2");
    assert!(
        !can(&store, "WriteOnce") && !can(&store, "Multipart/WriteOnce"),
        "{store}"
    );
    assert!(
        said.contains("the store does not support write-once uploads") && said.contains("501"),
        "{said}"
    );
    // The test of unsigned headers uses no condition, so it has a result on this store.
    assert_eq!(headers, "True");
}

#[test]
fn overwrite_grant_completes_on_store_without_conditional_writes() {
    let case = Case::new("s12d");
    case.apply("S12-b2-overwrite-allow");
    case.reason("ug/b2-allow", "Issued");
    fs::write(case.scratch.path().join("body"), "a note").unwrap();
    case.run("b2-allow", "curl", &["--config", "curl.cfg", "--upload-file", "body"]);
    case.reason("ug/b2-allow", "Completed");
    let stored = case.world.s3.get("media-b2", "b2/note2.md").unwrap();
    assert_eq!(stored.as_deref(), Some(&b"a note"[..]));
}

#[test]
fn put_is_refused_if_store_obeys_copy_source_and_lacks_conditions() {
    let case = Case::new("s12b");
    let grant = case
        .manifest("S12-b2-copy-source")
        .replace("name: b2}", "name: b2-copies}");
    case.world.plane.apply(&grant).unwrap();
    let message = refused(&case, "b2-copy");
    assert!(
        message.contains("SignedHeadersOnly")
            && message.contains("copy any object that the store's credentials can read"),
        "{message}"
    );
    let (store, _, headers) = probed_store(&case, "b2-copies");
    assert_eq!(headers, "False");
    assert!(!can(&store, "SignedHeadersOnly"), "{store}");
    let (_, why) = condition(&store, "UnsignedHeadersRefused").unwrap();
    assert!(why.contains("obeys unsigned headers"), "{why}");
}

#[test]
fn upload_without_checksum_is_refused_on_store_with_object_lock() {
    let case = Case::new("s22a");
    case.apply("S22-object-lock");
    let message = refused(&case, "locked");
    assert!(
        message.contains("Object Lock")
            && message.contains("spec.constraints.checksumSHA256 or spec.constraints.checksumMD5"),
        "{message}"
    );
    let message = refused(&case, "locked-parts");
    assert!(
        message.contains("Object Lock") && message.contains("set spec.mode to Put"),
        "{message}"
    );
    let (store, said, headers) = probed_store(&case, "lock");
    assert!(
        said.contains("Object Lock") && said.contains("checksumSHA256"),
        "{said}"
    );
    assert_eq!(headers, "True");
    assert!(can(&store, "RequiresChecksum"), "{store}");
    // The credentials may write, and no message claims otherwise.
    let status = store["status"].to_string();
    assert!(
        !status.contains("not allowed to write") && !status.contains("allow the credentials to write"),
        "{status}"
    );
}

/// Object Lock retains the object of the first probe, so a store on a file system then has a directory at the probe
/// key. The second probe must still find the store safe.
#[test]
fn second_probe_also_finds_store_with_object_lock_safe() {
    let case = Case::new("s22a-again");
    let (store, ..) = probed_store(&case, "lock");
    let endpoint = &store["spec"]["s3"]["endpoint"];
    let patch = json!({"spec": {"s3": {"publicEndpoint": endpoint}}}).to_string();
    case.kubectl(&["patch", "clusterobjectstore", "lock", "--type=merge", "--patch", &patch]);
    let again = eventually(SOON, "the store to be probed again", || {
        let store = case.get("clusterobjectstore/lock")?;
        let conditions = store["status"]["conditions"].as_array()?;
        let found = conditions.iter().find(|c| c["type"] == "UnsignedHeadersRefused")?;
        (found["observedGeneration"] == store["metadata"]["generation"]).then(|| found["status"].clone())
    });
    assert_eq!(again, "True");
}

#[test]
fn upload_with_checksum_completes_on_store_with_object_lock() {
    let case = Case::new("s22a-md5");
    let grant = case.manifest("S22-object-lock-md5");
    let grant = grant
        .split("---\n")
        .nth(1)
        .unwrap()
        .replace("name: store}", "name: lock}");
    case.world.plane.apply(&grant).unwrap();
    case.reason("ug/g", "Issued");
    fs::write(case.scratch.path().join("body"), "hello").unwrap();
    case.run("g", "curl", &["--config", "curl.cfg", "--upload-file", "body"]);
    case.reason("ug/g", "Completed");
}
