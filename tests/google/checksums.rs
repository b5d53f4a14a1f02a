//! Tests of uploads with an MD5 constraint.

use serde_json::json;
use valet_harness::eventually;

use crate::{
    flow::{SERVER, tenant},
    world::{SOON, condition},
};

/// An upload with an MD5 constraint completes when the object has that MD5. Other bytes at the same object key do not
/// complete it.
#[test]
fn gcs_upload_completes_only_with_the_md5_of_the_grant() {
    let t = tenant("gcs-md5");
    let _operator = t.operator();
    // The MD5 of `a,b,c`.
    let sum = "pExWyBd+MtNhOYj026eWLg==";
    // The emulator ignores preconditions, so Valet refuses write-once uploads there.
    let md5 = json!({"constraints": {"checksumMD5": sum, "overwrite": "Allow"}});
    t.apply(&[
        t.grant("UploadGrant", "up", md5.clone()),
        t.grant("UploadGrant", "taken", md5),
    ]);
    for name in ["up", "taken"] {
        t.reason(&format!("ug/{name}"), "Issued");
        assert!(t.mount(name).files["headers"].starts_with(&format!("content-md5: {sum}\n")));
    }
    assert_eq!(t.mount("up").upload(&t.file("f", b"a,b,c")).0, 200);
    let grant = t.reason("ug/up", "Completed");
    assert_eq!(grant["status"]["object"]["checksumMD5"], sum);
    SERVER.put(t.name(), &t.key("taken"), b"c,b,a").unwrap();
    eventually(SOON, "the other object to be reported", || {
        let grant = t.get("ug/taken")?;
        let completed = condition(&grant, "Completed")?["message"].as_str()?.to_owned();
        completed.contains(&format!("instead of {sum}")).then_some(())
    });
}
