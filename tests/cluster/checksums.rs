//! Tests of uploads whose URL requires an MD5 checksum, or an MD5 and a SHA-256 checksum.

use serde_json::{Value, json};
use valet_harness::eventually;

use crate::world::{SOON, Tenant, condition, says};

const BODY: &[u8] = b"the bytes of the object";
const MD5: &str = "0Jflqn1K1HUysNPU39WdQA==";
const SHA256: &str = "bHH7XF//Jav4pK0gx4ATVbpFJOYIYJm9axg9zbuwP6w=";
/// Other content with the same length, and its checksums.
const OTHER: &[u8] = b"the bytes of another one";
const OTHERS_MD5: &str = "zRRi+sgpsFSTDE5AKKlw2w==";
const OTHERS_SHA256: &str = "NZfC+nwrqc5GFdNKDcVffqzILqtXXUb48XudY+LnLAw=";

fn message(object: &Value) -> String {
    let message = condition(object, "Ready").map(|c| c["message"].clone());
    message.unwrap_or_default().as_str().unwrap_or_default().to_owned()
}

/// The store accepts only the content with the checksum of the grant, whatever checksum header the client sends.
#[test]
fn upload_with_wrong_md5_is_rejected() {
    let t = Tenant::new("md5");
    let _operator = t.operator();
    t.apply(&[
        t.grant("UploadGrant", "md5", json!({"constraints": {"checksumMD5": MD5}})),
        t.grant(
            "UploadGrant",
            "both",
            json!({"constraints": {"checksumMD5": MD5, "checksumSHA256": SHA256}}),
        ),
        t.grant(
            "UploadGrant",
            "at-odds",
            json!({"constraints": {"checksumMD5": MD5, "checksumSHA256": OTHERS_SHA256}}),
        ),
        t.grant(
            "UploadGrant",
            "form",
            json!({"mode": "PostForm", "constraints": {"checksumMD5": MD5, "overwrite": "Allow"}}),
        ),
        t.grant(
            "UploadGrant",
            "parts",
            json!({"mode": "Multipart", "constraints": {"checksumMD5": MD5, "contentLength": 23}}),
        ),
    ]);
    for name in ["form", "parts"] {
        let refused = t.reason(&format!("ug/{name}"), "CapabilityMissing");
        assert!(message(&refused).contains("(ChecksumMD5)"), "{}", message(&refused));
        assert!(t.get(&format!("secret/{name}")).is_none());
    }
    let (good, other) = (t.file("good", BODY), t.file("other", OTHER));
    for name in ["md5", "both"] {
        t.reason(&format!("ug/{name}"), "Issued");
        let key = t.mount(name);
        assert!(
            key.files["headers"].contains(&format!("content-md5: {MD5}\n")),
            "{}",
            key.files["headers"]
        );
        // With the headers of `curl.cfg`, with the checksum of the other content, and without a checksum.
        assert_eq!(key.upload(&other).0, 400, "{name}: other bytes");
        let by = |config: &str| {
            std::fs::write(key.folder.join("curl.cfg"), config).unwrap();
            key.upload(&other).0
        };
        let config = &key.files["curl.cfg"];
        assert_eq!(by(&config.replace(MD5, OTHERS_MD5)), 403, "{name}: another checksum");
        let without: Vec<_> = config
            .lines()
            .filter(|l| !l.starts_with("header = \"content-md5"))
            .collect();
        assert_eq!(by(&without.join("\n")), 403, "{name}: no checksum");
        assert_eq!(by(config), 400, "{name}");
        assert_eq!(t.stored(&t.key(name)), None);
        assert_eq!(key.upload(&good).0, 200, "{name}");
        t.reason(&format!("ug/{name}"), "Completed");
    }
    // No content has both of these checksums.
    let key = t.mount("at-odds");
    assert_eq!((key.upload(&good).0, key.upload(&other).0), (400, 400));
    assert_eq!(t.stored(&t.key("at-odds")), None);
}

/// If the object's entity tag is an MD5 of other content, the grant gets `ObjectMismatch`. Without a conformance
/// check Valet does not know whether entity tags are MD5s, and accepts the object.
#[test]
fn object_with_other_md5_entity_tag_is_a_mismatch() {
    let t = Tenant::new("etag");
    let _operator = t.operator();
    let md5 = json!({"constraints": {"checksumMD5": MD5}});
    t.apply(&[t.grant("UploadGrant", "untried", md5.clone())]);
    t.reason("ug/untried", "Issued");
    t.put(&t.key("untried"), OTHER);
    let completed = t.reason("ug/untried", "Completed");
    assert_eq!(completed["status"]["object"]["checksumMD5"], Value::Null);

    let mut store = t.store();
    store["metadata"]["annotations"] = json!({"valetkey.dev/check-requested-at": "now"});
    t.apply(&[store]);
    eventually(SOON, "the conformance check to finish", || {
        t.get(&format!("costore/{}", t.name()))
            .filter(|s| s["status"]["conformanceCheck"]["request"] == "now")
    });
    t.apply(&[
        t.grant("UploadGrant", "good", md5.clone()),
        t.grant("UploadGrant", "taken", md5),
    ]);
    assert_eq!(t.mount("good").upload(&t.file("good", BODY)).0, 200);
    let completed = t.reason("ug/good", "Completed");
    assert_eq!(completed["status"]["object"]["checksumMD5"], MD5);
    t.reason("ug/taken", "Issued");
    t.put(&t.key("taken"), OTHER);
    let other = t.reason("ug/taken", "ObjectMismatch");
    assert_eq!(says(&other, "Completed"), "False ObjectMismatch");
    let said = message(&other);
    assert!(
        said.contains(&format!(
            "the object has the MD5 checksum {OTHERS_MD5} instead of {MD5}"
        )),
        "{said}"
    );
}
