//! Tests that Google's own client creates the same signatures as Valet, and that a checker in another language
//! accepts them and rejects every changed request.

use std::sync::Arc;

use serde_json::{Value, json};
use valet::{
    api::{OperationSpec, Overwrite, UploadConstraints, UploadMode},
    core::SignedUrl,
    provider::Signer,
    provider::gcs::Source,
};
use valet_harness::google;

use crate::{ACCOUNT, Flat, ISSUED, KEY, download, key, request, store, upload};

const NAME: &str = "tenants/web/ü +(1)~/é%2F$&=?#.bin";

fn valets() -> valet::provider::gcs::Gcs {
    store(json!({}), Source::Key(Arc::new(key())), None)
}

fn now(later: i64) -> i64 {
    ISSUED.parse::<jiff::Timestamp>().unwrap().as_second() + later
}

fn why(check: &Value) -> Option<String> {
    let op = if check.get("fields").is_some() {
        "verify_form"
    } else {
        "verify"
    };
    let mut question = check.clone();
    question["op"] = op.into();
    let (answer, _) = google::ask(question, &[]).unwrap();
    (answer["valid"] != true).then(|| answer["why"].as_str().unwrap_or_default().to_owned())
}

/// The object name with the percent-encoding that Google's client expects: all but '/' and '~'.
fn encoded(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    let bytes = name.bytes();
    bytes
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

fn by_google(method: &str, name: &str, headers: &[(String, String)], query: Value) -> String {
    let question = json!({
        "op": "sign", "key_file": KEY, "endpoint": "https://storage.googleapis.com", "method": method,
        "resource": format!("/media/{}", encoded(name)), "headers": headers, "query": query, "expires": 3600,
        "timestamp": "20260102T030405Z",
    });
    google::ask(question, &[]).unwrap().0["url"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn url_equals_the_url_of_googles_client() {
    let gcs = valets();
    for name in [
        "a",
        "a/b.png",
        NAME,
        "a b",
        "日本語/ファイル.txt",
        "a'b\"c<d>{e}|f^g`h",
        "a/.b/..c/d.",
    ] {
        let put = gcs
            .sign(&request(name, upload(UploadMode::Put, Overwrite::Forbid)))
            .await
            .unwrap()
            .flat();
        assert_eq!(
            put.url.expose(),
            by_google("PUT", name, &put.headers, json!([])),
            "{name}"
        );
        let get = gcs
            .sign(&request(name, download(Some("1700000000000000"))))
            .await
            .unwrap()
            .flat();
        let query = json!([
            ["generation", "1700000000000000"],
            ["response-content-type", "text/csv"],
            ["response-content-disposition", "attachment; filename=\"a b.csv\""],
        ]);
        assert_eq!(get.url.expose(), by_google("GET", name, &[], query), "{name}");
    }
}

/// An upload with an MD5 constraint has the same signature as with Google's client.
#[tokio::test]
async fn url_with_md5_equals_the_url_of_googles_client() {
    let operation_spec = OperationSpec::Upload {
        mode: UploadMode::Put,
        multipart: Default::default(),
        constraints: UploadConstraints {
            checksum_md5: Some("XUFAKrxLKna5cZ2REBfFkg==".into()),
            ..UploadConstraints::default()
        },
    };
    let put = valets().sign(&request(NAME, operation_spec)).await.unwrap().flat();
    assert_eq!(put.url.expose(), by_google("PUT", NAME, &put.headers, json!([])));
    let mut good = check(&put.url, "PUT", &put.headers);
    good["content"] = "hello".into();
    assert_eq!(why(&good), None);
    type Tamper = fn(&mut Value);
    let tamperings: &[(&str, Tamper)] = &[
        ("other bytes", |c| c["content"] = "hellp".into()),
        ("no bytes", |c| c["content"] = "".into()),
        ("other bytes and their own checksum", |c| {
            c["content"] = "hellp".into();
            header(c, "content-md5", Some("yYMZBIPfFn0qOEFGPCqTQQ=="));
        }),
        ("other bytes and none", |c| {
            c["content"] = "hellp".into();
            header(c, "content-md5", None);
        }),
        ("other bytes, and a checksum in Google's own words besides", |c| {
            c["content"] = "hellp".into();
            header(c, "content-md5", None);
            header(c, "x-goog-hash", Some("md5=yYMZBIPfFn0qOEFGPCqTQQ=="));
        }),
    ];
    for (what, tamper) in tamperings {
        let mut tampered = good.clone();
        tamper(&mut tampered);
        assert!(why(&tampered).is_some(), "the request with {what} was accepted");
    }
}

/// The request that starts a resumable upload has the same signature. Google's client adds `x-goog-resumable` itself.
#[tokio::test]
async fn resumable_upload_url_equals_the_url_of_googles_client() {
    let constraints = UploadConstraints {
        content_type: Some("video/mp4".into()),
        ..UploadConstraints::default()
    };
    let operation_spec = OperationSpec::Upload {
        mode: UploadMode::Resumable,
        multipart: Default::default(),
        constraints,
    };
    let session = valets().sign(&request(NAME, operation_spec)).await.unwrap().flat();
    let (own, theirs): (Vec<_>, Vec<_>) = session
        .headers
        .iter()
        .cloned()
        .partition(|(n, _)| n != "x-goog-resumable");
    assert_eq!(theirs, [("x-goog-resumable".to_owned(), "start".to_owned())]);
    assert_eq!(session.url.expose(), by_google("RESUMABLE", NAME, &own, json!([])));
    let good = check(&session.url, "POST", &session.headers);
    assert_eq!(why(&good), None);
    type Tamper = fn(&mut Value);
    let tamperings: &[(&str, Tamper)] = &[
        ("a plain upload", |c| c["method"] = "PUT".into()),
        ("no session", |c| header(c, "x-goog-resumable", None)),
        ("another content type", |c| header(c, "content-type", Some("text/html"))),
        ("no precondition", |c| header(c, "x-goog-if-generation-match", None)),
        ("an object that is there", |c| c["exists"] = true.into()),
        ("after its end", |c| c["now"] = now(3600).into()),
    ];
    for (what, tamper) in tamperings {
        let mut tampered = good.clone();
        tamper(&mut tampered);
        assert!(why(&tampered).is_some(), "the request with {what} was accepted");
    }
}

#[tokio::test]
async fn post_form_equals_the_form_of_googles_client() {
    for name in ["a/b.png", NAME, "a/$b/"] {
        let form = valets()
            .sign(&request(name, upload(UploadMode::PostForm, Overwrite::Allow)))
            .await
            .unwrap()
            .flat();
        let mut question = json!({
            "op": "sign_form", "key_file": KEY, "bucket": "media", "key": name, "expires": 3600, "timestamp": "20260102T030405Z",
            "conditions": [["content-length-range", 3, 9]], "fields": [["Content-Type", "text/plain; charset=utf-8"]],
        });
        if name.ends_with('/') {
            // Google's client adds a condition for the exact object key. The comparison below replaces it with
            // Valet's condition.
            question["key"] = format!("{name}${{filename}}").into();
        }
        let (googles, _) = google::ask(question, &[]).unwrap();
        assert_eq!(form.url.expose(), googles["url"].as_str().unwrap());
        let mut fields: Vec<(String, String)> = form.form.unwrap().expose().to_vec();
        let mut theirs: Vec<(String, String)> = serde_json::from_value(googles["fields"].clone()).unwrap();
        fields.sort();
        theirs.sort();
        // Google's client orders the members of the policy differently, so the encoded policy and its signature
        // differ.
        let policy = |fields: &[(String, String)]| -> Value {
            let (_, text) = fields.iter().find(|(name, _)| name == "policy").unwrap();
            let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text).unwrap();
            let mut policy: Value = serde_json::from_slice(&bytes).unwrap();
            let conditions = policy["conditions"].as_array_mut().unwrap();
            for condition in conditions.iter_mut() {
                if *condition == json!({"key": format!("{name}${{filename}}")}) {
                    *condition = json!(["starts-with", "$key", name]);
                }
            }
            conditions.sort_by_key(ToString::to_string);
            policy
        };
        assert_eq!(policy(&fields), policy(&theirs), "{name}");
        let plain = |fields: &[(String, String)]| -> Vec<(String, String)> {
            let made = |name: &str| name == "policy" || name == "x-goog-signature";
            fields.iter().filter(|(name, _)| !made(name)).cloned().collect()
        };
        assert_eq!(plain(&fields), plain(&theirs), "{name}");
    }
}

fn check(url: &SignedUrl, method: &str, headers: &[(String, String)]) -> Value {
    json!({
        "key_file": KEY, "account": ACCOUNT, "url": url.expose(), "method": method, "headers": headers, "now": now(1800),
        "size": 5,
    })
}

fn swap(check: &mut Value, what: &str, by: &str) {
    let url = check["url"].as_str().unwrap();
    assert!(url.contains(what), "the URL has no {what}");
    check["url"] = url.replacen(what, by, 1).into();
}

fn header(check: &mut Value, name: &str, value: Option<&str>) {
    let headers = check["headers"].as_array_mut().unwrap();
    headers.retain(|pair| pair[0] != name);
    headers.extend(value.map(|value| json!([name, value])));
}

#[tokio::test]
async fn changed_url_is_rejected_by_the_verifier() {
    let gcs = valets();
    let put = gcs
        .sign(&request(NAME, upload(UploadMode::Put, Overwrite::Forbid)))
        .await
        .unwrap()
        .flat();
    let good = check(&put.url, "PUT", &put.headers);
    assert_eq!(why(&good), None);
    // The checker also accepts the signature of Google's client.
    let mut googles = good.clone();
    googles["url"] = by_google("PUT", NAME, &put.headers, json!([])).into();
    assert_eq!(why(&googles), None);
    for later in [0, 3599] {
        let mut other = good.clone();
        other["now"] = now(later).into();
        assert_eq!(why(&other), None, "{later}");
    }

    type Tamper = fn(&mut Value);
    let tamperings: &[(&str, Tamper)] = &[
        ("another method", |c| c["method"] = "DELETE".into()),
        ("another object key", |c| swap(c, "tenants/web/", "tenants/web2/")),
        ("another spelling of the key", |c| swap(c, "%252F", "%2F")),
        ("another bucket", |c| swap(c, ".com/media/", ".com/other/")),
        ("another host", |c| {
            swap(c, "storage.googleapis.com", "storage.example.com")
        }),
        ("a later end", |c| swap(c, "X-Goog-Expires=3600", "X-Goog-Expires=7200")),
        ("a later beginning", |c| {
            swap(c, "X-Goog-Date=20260102T030405Z", "X-Goog-Date=20260102T040405Z")
        }),
        ("after its end", |c| c["now"] = now(3600).into()),
        ("long before its beginning", |c| c["now"] = now(-3600).into()),
        ("another signature", |c| {
            let url = c["url"].as_str().unwrap().to_owned();
            let last = if url.ends_with('0') { '1' } else { '0' };
            c["url"] = format!("{}{last}", &url[..url.len() - 1]).into();
        }),
        ("no signature", |c| {
            let url = c["url"].as_str().unwrap();
            c["url"] = url.split("&X-Goog-Signature").next().unwrap().to_owned().into();
        }),
        ("another account", |c| swap(c, "test-iam-credentials", "someone-else")),
        ("another scope", |c| swap(c, "%2Fauto%2F", "%2Feu%2F")),
        ("another algorithm", |c| {
            swap(c, "GOOG4-RSA-SHA256", "GOOG4-HMAC-SHA256")
        }),
        ("another content type", |c| header(c, "content-type", Some("text/html"))),
        ("no content type", |c| header(c, "content-type", None)),
        ("another range of sizes", |c| {
            header(c, "x-goog-content-length-range", Some("0,999"))
        }),
        ("no range of sizes", |c| header(c, "x-goog-content-length-range", None)),
        ("another precondition", |c| {
            header(c, "x-goog-if-generation-match", Some("7"))
        }),
        ("no precondition", |c| header(c, "x-goog-if-generation-match", None)),
        ("a copy source that nobody signed", |c| {
            header(c, "x-goog-copy-source", Some("media/secret"))
        }),
        ("the same in Amazon's words", |c| {
            header(c, "x-amz-copy-source", Some("media/secret"))
        }),
        ("an ACL that nobody signed", |c| {
            header(c, "x-goog-acl", Some("public-read"))
        }),
        ("fewer signed headers", |c| {
            swap(c, "%3Bx-goog-if-generation-match", "");
            header(c, "x-goog-if-generation-match", None);
        }),
        ("one parameter more", |c| {
            swap(c, "&X-Goog-Signature", "&userProject=p&X-Goog-Signature")
        }),
        ("a parameter twice", |c| {
            swap(c, "&X-Goog-Signature", "&X-Goog-Expires=9&X-Goog-Signature")
        }),
        ("too small a file", |c| c["size"] = 2.into()),
        ("too large a file", |c| c["size"] = 10.into()),
        ("an object that is there", |c| c["exists"] = true.into()),
    ];
    for (what, tamper) in tamperings {
        let mut tampered = good.clone();
        tamper(&mut tampered);
        assert!(why(&tampered).is_some(), "the request with {what} was accepted");
    }

    let get = gcs
        .sign(&request(NAME, download(Some("1700000000000000"))))
        .await
        .unwrap()
        .flat();
    let good = check(&get.url, "GET", &get.headers);
    assert_eq!(why(&good), None);
    let tamperings: &[(&str, Tamper)] = &[
        ("another version", |c| {
            swap(c, "generation=1700000000000000", "generation=1700000000000001")
        }),
        ("no version", |c| swap(c, "&generation=1700000000000000", "")),
        ("another answer", |c| swap(c, "text%2Fcsv", "text%2Fhtml")),
        ("an upload", |c| c["method"] = "PUT".into()),
    ];
    for (what, tamper) in tamperings {
        let mut tampered = good.clone();
        tamper(&mut tampered);
        assert!(why(&tampered).is_some(), "the request with {what} was accepted");
    }
}

fn field(check: &mut Value, name: &str, value: Option<&str>) {
    let fields = check["fields"].as_array_mut().unwrap();
    fields.retain(|pair| pair[0] != name);
    fields.extend(value.map(|value| json!([name, value])));
}

/// A POST form for a prefix accepts object keys below the prefix, and no others.
#[tokio::test]
async fn post_form_for_prefix_accepts_only_keys_below_it() {
    let wanted = request("tenants/web/ü/", upload(UploadMode::PostForm, Overwrite::Allow));
    let fields = valets().sign(&wanted).await.unwrap().flat().form.unwrap();
    let good = json!({
        "key_file": KEY, "account": ACCOUNT, "fields": fields.expose(), "bucket": "media", "now": now(1800), "size": 5,
    });
    assert_eq!(why(&good), None);
    let named = |key: &str| {
        let mut check = good.clone();
        field(&mut check, "key", Some(key));
        why(&check)
    };
    for key in ["tenants/web/ü/a.png", "tenants/web/ü/a/b ${filename}"] {
        assert_eq!(named(key), None, "{key}");
    }
    for key in [
        "tenants/web/ü",
        "tenants/web/üx/a",
        "tenants/web/Ü/a",
        "tenants/web/u\u{308}/a",
        "tenants/web/%C3%BC/a",
    ] {
        assert!(named(key).is_some(), "{key} was accepted");
    }
    let mut tampered = good.clone();
    field(&mut tampered, "Content-Type", Some("text/html"));
    assert!(why(&tampered).is_some());
    tampered = good.clone();
    tampered["size"] = 10.into();
    assert!(why(&tampered).is_some());
}

#[tokio::test]
async fn changed_post_form_is_rejected_by_the_verifier() {
    let gcs = valets();
    let form = gcs
        .sign(&request(NAME, upload(UploadMode::PostForm, Overwrite::Allow)))
        .await
        .unwrap()
        .flat();
    let fields = form.form.unwrap();
    let good = json!({
        "key_file": KEY, "account": ACCOUNT, "fields": fields.expose(), "bucket": "media", "now": now(1800), "size": 5,
    });
    assert_eq!(why(&good), None);
    let another = gcs
        .sign(&request("another", upload(UploadMode::PostForm, Overwrite::Allow)))
        .await
        .unwrap()
        .flat();
    let others = another.form.unwrap();
    let others = |name: &str| others.expose().iter().find(|(n, _)| n == name).unwrap().1.clone();
    let (policy, signature) = (others("policy"), others("x-goog-signature"));

    type Tamper<'a> = Box<dyn Fn(&mut Value) + 'a>;
    let tamperings: Vec<(&str, Tamper<'_>)> = vec![
        ("another object key", Box::new(|c| field(c, "key", Some("another")))),
        ("another bucket", Box::new(|c| c["bucket"] = "other".into())),
        (
            "another content type",
            Box::new(|c| field(c, "Content-Type", Some("text/html"))),
        ),
        ("no content type", Box::new(|c| field(c, "Content-Type", None))),
        (
            "one additional field",
            Box::new(|c| field(c, "acl", Some("public-read"))),
        ),
        ("metadata", Box::new(|c| field(c, "x-goog-meta-owner", Some("me")))),
        (
            "a redirect",
            Box::new(|c| field(c, "success_action_redirect", Some("http://x/"))),
        ),
        (
            "a second field Key",
            Box::new(|c| c["fields"].as_array_mut().unwrap().push(json!(["Key", "another"]))),
        ),
        ("too small a file", Box::new(|c| c["size"] = 2.into())),
        ("too large a file", Box::new(|c| c["size"] = 10.into())),
        ("after its end", Box::new(|c| c["now"] = now(3600).into())),
        ("another policy", Box::new(|c| field(c, "policy", Some(&policy)))),
        (
            "another signature",
            Box::new(|c| field(c, "x-goog-signature", Some(&signature))),
        ),
        (
            "both of another form",
            Box::new(|c| {
                field(c, "policy", Some(&policy));
                field(c, "x-goog-signature", Some(&signature));
            }),
        ),
        ("no signature", Box::new(|c| field(c, "x-goog-signature", None))),
        (
            "another account",
            Box::new(|c| {
                field(
                    c,
                    "x-goog-credential",
                    Some("someone@else/20260102/auto/storage/goog4_request"),
                )
            }),
        ),
        (
            "another date",
            Box::new(|c| field(c, "x-goog-date", Some("20260103T030405Z"))),
        ),
        (
            "another algorithm",
            Box::new(|c| field(c, "x-goog-algorithm", Some("GOOG4-HMAC-SHA256"))),
        ),
    ];
    for (what, tamper) in tamperings {
        let mut tampered = good.clone();
        tamper(&mut tampered);
        assert!(why(&tampered).is_some(), "the request with {what} was accepted");
    }
}
