//! Tests of the checkers of URLs and forms, in comparison with botocore and with the store.

use serde_json::json;
use valet_harness::{FormCheck, UrlCheck, verify, verify_form, verify_url, verify_urls};

use crate::{STORE, TOOLS, curl};

#[test]
fn url_verifier_agrees_with_botocore_and_with_the_store() {
    STORE.create_bucket("verify").unwrap();
    let mut check = UrlCheck {
        method: "PUT".into(),
        headers: vec![
            ("Content-Type".into(), "image/png".into()),
            ("If-None-Match".into(), "*".into()),
        ],
        access_key: STORE.access_key().into(),
        secret_key: STORE.secret_key().into(),
        region: STORE.region().into(),
        ..UrlCheck::default()
    };
    let key = "tenants/web/ü b+c%2F~!'()*=&/x.png";
    let params = json!({"Bucket": "verify", "Key": key, "ContentType": "image/png", "IfNoneMatch": "*"});
    check.url = verify::presign(&TOOLS, &STORE.endpoint(), &check, "put_object", &params, 300).unwrap();

    let verdict = verify_url(&TOOLS, &check).unwrap();
    assert_eq!(verdict.why, "");
    assert!(verdict.valid && verdict.canonical);
    assert_eq!(verdict.key_in("verify"), Some(key.as_bytes()));
    assert_eq!(verdict.expires_at - verdict.issued_at, 300);
    assert_eq!(verdict.signed_headers, ["content-type", "host", "if-none-match"]);
    assert_eq!(
        (verdict.scheme.as_str(), verdict.host.clone()),
        ("http", format!("127.0.0.1:{}", STORE.port()))
    );

    let send = [
        "--request",
        "PUT",
        "--header",
        "Content-Type: image/png",
        "--header",
        "If-None-Match: *",
        "--data-binary",
        "x",
    ];
    assert_eq!(curl(&[&send[..], &[&check.url]].concat()).0, 200);
    assert_eq!(
        curl(&[&send[..], &[&check.url]].concat()),
        (412, "PreconditionFailed".into())
    );
    assert_eq!(STORE.get("verify", key).unwrap().as_deref(), Some(&b"x"[..]));

    // Each change of one byte, header or word makes another request, so the signature must be invalid.
    let with = |change: &dyn Fn(&mut UrlCheck)| {
        let mut other = check.clone();
        change(&mut other);
        other
    };
    let changed = [
        with(&|c| c.url = c.url.replace("x.png", "y.png")),
        with(&|c| c.url = c.url.replace("X-Amz-Expires=300", "X-Amz-Expires=301")),
        with(&|c| c.url = flip_last(&c.url)),
        with(&|c| c.url.push_str("&versionId=1")),
        with(&|c| c.url = c.url.replace("%2B", "+").replace("127.0.0.1", "127.0.0.2")),
        with(&|c| c.method = "GET".into()),
        with(&|c| c.headers[0].1 = "image/gif".into()),
        with(&|c| c.headers.truncate(1)),
        with(&|c| c.headers.push(("x-amz-copy-source".into(), "/verify/secret".into()))),
        with(&|c| c.region = "eu-west-1".into()),
        with(&|c| c.secret_key.push('x')),
        with(&|c| c.session_token = Some("token".into())),
    ];
    for (verdict, check) in verify_urls(&TOOLS, &changed).unwrap().iter().zip(&changed) {
        assert!(!verdict.valid && !verdict.why.is_empty(), "{check:?}");
    }
}

fn flip_last(url: &str) -> String {
    let (rest, last) = url.split_at(url.len() - 1);
    format!("{rest}{}", if last == "0" { "1" } else { "0" })
}

#[test]
fn form_verifier_agrees_with_botocore_and_with_the_store() {
    STORE.create_bucket("forms").unwrap();
    let mut check = FormCheck {
        bucket: "forms".into(),
        access_key: STORE.access_key().into(),
        secret_key: STORE.secret_key().into(),
        region: STORE.region().into(),
        ..FormCheck::default()
    };
    let key = "tenants/web/ü b+c%2F~!'()*=&/x.png";
    let fields = json!({"Content-Type": "image/png"});
    let conditions = json!([{"Content-Type": "image/png"}, ["content-length-range", 1, 3]]);
    let (url, made) =
        verify::presign_post(&TOOLS, &STORE.endpoint(), &check, key, (&fields, &conditions), 300).unwrap();
    check.fields = made;

    let verdict = verify_form(&TOOLS, &check).unwrap();
    assert_eq!(verdict.why, "");
    assert!(verdict.valid);
    assert_eq!(verdict.range, Some((1, 3)));
    assert_eq!(verdict.expires_at - verdict.issued_at, 300);
    let post = |fields: &[(String, String)]| {
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let strings = fields.iter().flat_map(|field| ["--form-string", field]);
        let args: Vec<_> = strings.chain(["--form", "file=xy;filename=x", &url]).collect();
        curl(&args)
    };
    assert_eq!(post(&check.fields), (204, String::new()));
    assert_eq!(STORE.get("forms", key).unwrap().as_deref(), Some(&b"xy"[..]));

    // The checker also rejects what the store rejects.
    let says = |why: &str, change: &dyn Fn(&mut FormCheck)| {
        let mut other = check.clone();
        change(&mut other);
        let verdict = verify_form(&TOOLS, &other).unwrap();
        assert!(!verdict.valid && verdict.why.contains(why), "{why}: {verdict:?}");
        assert_ne!(post(&other.fields).0, 204, "{why}");
    };
    fn field<'a>(check: &'a mut FormCheck, name: &str) -> &'a mut String {
        &mut check.fields.iter_mut().find(|(n, _)| n == name).unwrap().1
    }
    says("the condition on key", &|c| field(c, "key").push('x'));
    says("the condition on Content-Type", &|c| {
        c.fields.retain(|(n, _)| n != "Content-Type")
    });
    says("no condition covers x-amz-meta-a", &|c| {
        c.fields.push(("x-amz-meta-a".into(), "b".into()));
    });
    says("the field key is there twice", &|c| {
        c.fields.push(("key".into(), "b".into()))
    });
    says("the signature", &|c| *field(c, "x-amz-signature") = "0".repeat(64));
}
