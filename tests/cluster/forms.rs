//! Tests of POST forms: the entries of the Secret, what the store accepts, and whether an independent program accepts
//! the signature.

use std::time::Duration;

use serde_json::{Value, json};
use valet_harness::{FormCheck, verify_form};

use crate::world::{Mounted, Tenant, VALET, condition, says};

/// The form fields of `fields.json`, in the order that a browser or a Python program reads them.
fn fields(key: &Mounted) -> Vec<(String, String)> {
    // Some stores need the order of the fields, and the maps of serde_json do not keep it.
    let text = &key.files["fields.json"];
    let all: Value = serde_json::from_str(text).expect("fields.json is JSON");
    let mut fields: Vec<_> = all
        .as_object()
        .expect("fields.json has one object")
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().expect("the values are strings").to_owned()))
        .collect();
    fields.sort_by_key(|(name, _)| text.find(&format!("{name:?}: ")));
    fields
}

fn check(t: &Tenant, fields: Vec<(String, String)>) -> FormCheck {
    FormCheck {
        fields,
        bucket: t.name().into(),
        access_key: t.world.s3.access_key().into(),
        secret_key: t.world.s3.secret_key().into(),
        region: t.world.s3.region().into(),
        ..FormCheck::default()
    }
}

/// A POST form is issued and used, the store rejects wrong uploads, and the grant completes.
#[test]
fn post_form_upload_completes_grant() {
    let t = Tenant::new("form");
    let _operator = t.operator();
    let name = "a b+\u{fc}/$&=;@<\"\\.csv";
    let constraints = json!({
        "contentType": "text/csv; charset=\"utf-8\"", "contentLengthRange": {"min": 3, "max": 5}, "overwrite": "Allow",
    });
    t.apply(&[t.grant(
        "UploadGrant",
        "form",
        json!({"mode": "PostForm", "key": t.key(name), "constraints": constraints, "expirationSeconds": 60}),
    )]);
    let grant = t.reason("ug/form", "Issued");
    assert_eq!(says(&grant, "Completed"), "False Pending");
    let key = t.mount("form");
    let names: Vec<_> = key.files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "curl.cfg",
            "expiry",
            "fields.json",
            "headers",
            "method",
            "provider",
            "type",
            "url"
        ]
    );
    assert_eq!(
        (key.files["method"].as_str(), key.files["headers"].as_str()),
        ("POST", "")
    );
    assert_eq!(key.files["url"], format!("{}/{}", t.world.s3.endpoint(), t.name()));

    let fields = fields(&key);
    let (first, last) = (&fields[0], &fields[fields.len() - 1]);
    assert_eq!((first.0.as_str(), last.0.as_str()), ("key", "x-amz-signature"));
    assert_eq!(first.1, t.key(name), "the object key has exactly these bytes");
    let verdict = verify_form(&t.world.tools, &check(&t, fields)).unwrap();
    assert!(verdict.valid, "{}", verdict.why);
    assert_eq!(verdict.range, Some((3, 5)));
    assert_eq!(verdict.expires_at - verdict.issued_at, 60);
    let expiry: jiff::Timestamp = key.files["expiry"].parse().unwrap();
    assert_eq!(expiry.as_second(), verdict.expires_at);

    let post = |bytes: &[u8], more: &[&str]| {
        let file = format!("file=@{}", t.file("upload", bytes).display());
        // Stores ignore form fields after the file, so the extra fields come first.
        key.curl(&[more, &["--form", &file]].concat()).0
    };
    assert_eq!(post(b"12", &[]), 400, "one byte less than the minimum");
    assert_eq!(post(b"123456", &[]), 400, "one byte more than the maximum");
    assert_eq!(
        post(b"123", &["--form-string", "x-amz-meta-owner=me"]),
        403,
        "one additional field"
    );
    assert_eq!(t.stored(&t.key(name)), None);
    assert_eq!(post(b"123", &[]), 204);
    assert_eq!(post(b"12345", &[]), 204, "a form replaces");
    assert_eq!(t.stored(&t.key(name)).as_deref(), Some(&b"12345"[..]));
    let head = t.world.s3.head(t.name(), &t.key(name)).unwrap().unwrap();
    assert_eq!(head.header("content-type"), Some("text/csv; charset=\"utf-8\""));

    let done = t.reason_within("ug/form", "Completed", Duration::from_secs(70));
    // On a slow machine, a poll between the two uploads finds the first object.
    let size = done["status"]["object"]["size"].as_i64();
    assert!(matches!(size, Some(3 | 5)), "{size:?}");
    assert_eq!(t.kstatus(&done), "Current");
}

/// A form with a constraint that the store cannot enforce is refused, with a message that says what to change. The
/// mode of a grant cannot change.
#[test]
fn post_form_with_unenforceable_constraint_is_refused() {
    let t = Tenant::new("formno");
    let _operator = t.operator();
    t.apply(&[
        t.grant("UploadGrant", "once", json!({"mode": "PostForm"})),
        t.grant(
            "UploadGrant",
            "range",
            json!({"constraints": {"contentLengthRange": {"max": 5}}}),
        ),
        t.grant("UploadGrant", "put", json!({})),
    ]);
    for (name, remedy) in [
        ("once", "set spec.constraints.overwrite to Allow"),
        (
            "range",
            "set spec.mode to PostForm and spec.constraints.overwrite to Allow",
        ),
    ] {
        let grant = t.reason(&format!("ug/{name}"), "CapabilityMissing");
        let message = condition(&grant, "Ready").unwrap()["message"].as_str().unwrap();
        assert!(message.contains(remedy), "{message}");
        assert!(t.get(&format!("secret/{name}")).is_none());
    }
    t.reason("ug/put", "Issued");
    assert_eq!(
        t.get("ug/put").unwrap()["spec"]["mode"],
        "Put",
        "the default is written down"
    );
    let patch = [
        "patch",
        "ug/put",
        "--type=merge",
        "--patch",
        r#"{"spec":{"mode":"PostForm"}}"#,
    ];
    let all = [&patch[..], &["--namespace", t.name()]].concat();
    let said = t.world.plane.kubectl(&all).unwrap_err().to_string();
    assert!(said.contains("mode is immutable"), "{said}");
}

/// On Amazon S3, a form for a prefix accepts every object key that starts with exactly the prefix. The form is signed
/// offline, because no test has access to Amazon S3.
#[test]
fn amazon_post_form_for_prefix_accepts_keys_below_it() {
    let t = Tenant::new("formbelow");
    let constraints =
        json!({"contentType": "text/csv", "contentLengthRange": {"min": 1, "max": 9}, "overwrite": "Allow"});
    let prefix = t.key("inbox/");
    let spec = json!({"mode": "PostForm", "key": prefix, "constraints": constraints});
    let mut store = t.store();
    let s3 = store["spec"]["s3"].as_object_mut().unwrap();
    s3.remove("endpoint");
    s3.remove("publicEndpoint");
    let key = offline(&t, &store, &t.grant("UploadGrant", "g", spec));
    let fields = fields(&key);
    assert_eq!(fields[0], ("key".to_owned(), format!("{prefix}${{filename}}")));
    assert!(key.files["curl.cfg"].contains(&format!("form-string = \"key={prefix}${{filename}}\"\n")));
    let verdict = |name: &str, value: &str| {
        let mut fields = fields.clone();
        fields
            .iter_mut()
            .filter(|(n, _)| n == name)
            .for_each(|(_, v)| *v = value.into());
        let check = FormCheck {
            access_key: "AKIAEXAMPLE".into(),
            secret_key: "wJalr/+=".into(),
            ..check(&t, fields)
        };
        verify_form(&t.world.tools, &check).unwrap()
    };
    for name in ["a.csv", "a/b/c.csv", "..", "${filename}.csv", ""] {
        let verdict = verdict("key", &format!("{prefix}{name}"));
        assert!(verdict.valid, "{name}: {}", verdict.why);
        assert_eq!(verdict.range, Some((1, 9)));
    }
    let encoded = prefix.replace('/', "%2F");
    for key in [
        t.key("inbox"),
        t.key("inboxes/x"),
        t.key("Inbox/x"),
        t.key("inbox%2Fx"),
        format!("/{prefix}x"),
        format!("{encoded}x"),
        "${filename}".to_owned(),
        String::new(),
    ] {
        assert!(!verdict("key", &key).valid, "{key}");
    }
    assert!(!verdict("Content-Type", "text/html").valid);
}

/// versitygw stores objects as files and resolves `inbox/../x` outside the prefix. Valet refuses a form for a prefix
/// on such a store, before and after the conformance check.
#[test]
fn post_form_for_prefix_is_refused_by_file_based_store() {
    let t = Tenant::new("formdots");
    let _operator = t.operator();
    let spec = json!({"mode": "PostForm", "key": t.key("inbox/"), "constraints": {"overwrite": "Allow"}});
    let grant = t.grant("UploadGrant", "inbox", spec);
    t.apply(std::slice::from_ref(&grant));
    let refused = t.reason("ug/inbox", "CapabilityMissing");
    let message = condition(&refused, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(
        message.contains("(KeyPrefix)") && message.contains("check-requested-at"),
        "{message}"
    );
    assert!(t.get("secret/inbox").is_none());

    let mut store = t.store();
    store["metadata"]["annotations"] = json!({"valetkey.dev/check-requested-at": "now"});
    t.apply(std::slice::from_ref(&store));
    let tried = t.answered("now");
    assert_eq!(
        says(&tried, "ConstraintsEnforced"),
        "True ConstraintsEnforced",
        "{}",
        tried["status"]
    );
    let message = condition(&tried, "ConstraintsEnforced").unwrap()["message"]
        .as_str()
        .unwrap();
    assert!(message.contains("without PostForm/KeyPrefix ("), "{message}");
    assert!(!tried["status"]["capabilities"].to_string().contains("KeyPrefix"));
    t.reason("ug/inbox", "CapabilityMissing");

    // This form is signed although the store cannot enforce the prefix. The upload shows that the refusal is
    // necessary.
    let mut store = tried;
    let can = store["status"]["capabilities"].as_array_mut().unwrap();
    can.push(json!("PostForm/KeyPrefix"));
    let key = signed(&t, &store, &grant, t.world.s3.access_key(), t.world.s3.secret_key());
    let config = key.files["curl.cfg"].replace("inbox/${filename}", "inbox/../outbox/x");
    std::fs::write(key.folder.join("curl.cfg"), config).unwrap();
    let file = format!("file=@{}", t.file("f", b"got out").display());
    assert_eq!(key.curl(&["--form", &file]).0, 204);
    assert_eq!(
        t.stored(&t.key("outbox/x")).as_deref(),
        Some(&b"got out"[..]),
        "versitygw no longer resolves '..', so this test is out of date"
    );
}

/// The Secret that `valet sign` makes offline with this access key.
fn signed(t: &Tenant, store: &Value, grant: &Value, id: &str, secret: &str) -> Mounted {
    let text = format!("{store}\n---\n{grant}\n");
    let output = valet_harness::process::clean(std::process::Command::new(VALET.as_path()))
        .args(["sign", "-o", "json", "-f"])
        .arg(t.file("documents.yaml", text.as_bytes()))
        .envs([("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    t.mounted(&serde_json::from_slice(&output.stdout).unwrap())
}

fn offline(t: &Tenant, store: &Value, grant: &Value) -> Mounted {
    signed(t, store, grant, "AKIAEXAMPLE", "wJalr/+=")
}

/// A form that temporary credentials sign contains the session token as a field, and the policy requires the token.
#[test]
fn offline_post_form_with_session_requires_session_token() {
    let t = Tenant::new("formoff");
    let constraints = json!({"contentLength": 7, "checksumSHA256": "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=", "overwrite": "Allow"});
    let grant = t.grant(
        "UploadGrant",
        "g",
        json!({"mode": "PostForm", "constraints": constraints}),
    );
    let text = format!("{}\n---\n{grant}\n", t.store());
    let output = valet_harness::process::clean(std::process::Command::new(VALET.as_path()))
        .args(["sign", "-o", "json", "-f"])
        .arg(t.file("documents.yaml", text.as_bytes()))
        .envs([
            ("AWS_ACCESS_KEY_ID", "ASIAEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "wJalr/+="),
            ("AWS_SESSION_TOKEN", "to/ken+="),
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let key = t.mounted(&serde_json::from_slice(&output.stdout).unwrap());
    let check = |token: &str| FormCheck {
        access_key: "ASIAEXAMPLE".into(),
        secret_key: "wJalr/+=".into(),
        session_token: Some(token.into()),
        ..check(&t, fields(&key))
    };
    let verdict = verify_form(&t.world.tools, &check("to/ken+=")).unwrap();
    assert!(verdict.valid, "{}", verdict.why);
    assert_eq!(verdict.range, Some((7, 7)), "an exact size is a range of one");
    let pinned = verdict.policy["conditions"].as_array().unwrap();
    for condition in [
        json!({"x-amz-security-token": "to/ken+="}),
        json!({"x-amz-checksum-sha256": "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="}),
    ] {
        assert!(pinned.contains(&condition), "{condition}");
    }
    assert!(!verify_form(&t.world.tools, &check("another")).unwrap().valid);
}
