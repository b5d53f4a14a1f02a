//! Tests of conformance checks on Google Cloud Storage: against fake-gcs-server, which verifies nothing, and against
//! a server in front of it that verifies requests as Google documents.

use std::sync::{Arc, LazyLock};

use serde_json::json;
use valet::{
    api::Capability,
    conformance::{ConformanceReport, Missing},
    provider::gcs::Source,
    provider::{Prober, Provider},
};
use valet_harness::{GcsServer, google};

use crate::{
    ACCOUNT, KEY,
    fake::{Fake, RecordedRequest, Reply},
    key, store,
};

static SERVER: LazyLock<GcsServer> = LazyLock::new(|| GcsServer::start().expect("fake-gcs-server starts"));

fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next().unwrap()).to_digit(16).unwrap();
                u8::try_from(digit() * 16 + digit()).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// The fields of a form, the name of its file, and the file's bytes.
type Posted = (Vec<(String, String)>, String, Vec<u8>);

fn form(call: &RecordedRequest) -> Option<Posted> {
    let boundary = call
        .header("content-type")?
        .strip_prefix("multipart/form-data; boundary=")?;
    let text = String::from_utf8(call.body.clone()).unwrap();
    let mut fields = Vec::new();
    for part in text.split(&format!("--{boundary}\r\n")).skip(1) {
        let (head, body) = part.split_once("\r\n\r\n").unwrap();
        let body = body
            .strip_suffix(&format!("\r\n--{boundary}--\r\n"))
            .or(body.strip_suffix("\r\n"))
            .unwrap();
        let name = head.split("name=\"").nth(1).unwrap().split('"').next().unwrap();
        if name == "file" {
            let file = head.split("filename=\"").nth(1).unwrap().split('"').next().unwrap();
            return Some((fields, file.to_owned(), body.into()));
        }
        fields.push((name.to_owned(), body.to_owned()));
    }
    None
}

fn resolved(key: &str) -> String {
    let mut segments = Vec::new();
    for segment in key.split('/') {
        match segment {
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    segments.join("/")
}

/// A server that verifies requests for this bucket, except for the check that `lax` names.
fn front(bucket: &'static str, lax: &'static str) -> Fake {
    SERVER.create_bucket(bucket).unwrap();
    Fake::start(move |call, _| {
        let mut question = json!({
            "op": "verify", "key_file": KEY, "account": ACCOUNT, "method": call.method, "bucket": bucket,
            "url": format!("http://{}{}", call.header("host").unwrap(), call.path),
            "headers": call.headers.iter().filter(|(n, _)| !n.eq_ignore_ascii_case("host")).collect::<Vec<_>>(),
            "now": jiff::Timestamp::now().as_second(),
        });
        let path = call.path.split('?').next().unwrap();
        let mut key = decoded(path.strip_prefix(&format!("/{bucket}/")).unwrap());
        let mut body = call.body.clone();
        if let Some((fields, name, file)) = form(call) {
            key = fields.iter().find(|(name, _)| name == "key").unwrap().1.clone();
            // "The file's name, without the path that some browsers put before it."
            key = key.replace("${filename}", name.rsplit('/').next().unwrap());
            if lax == "folders" {
                // A store that keeps objects as files would resolve the path like this.
                key = resolved(&key);
            }
            question["op"] = "verify_form".into();
            question["fields"] = json!(fields);
            body = file;
        }
        if lax != "md5"
            && let Ok(text) = String::from_utf8(body.clone())
        {
            question["content"] = text.into();
        }
        if lax != "size" || question["op"] == "verify_form" {
            question["size"] = body.len().into();
        }
        if lax != "write-once" {
            question["exists"] = SERVER.get(bucket, &key).unwrap().is_some().into();
        }
        if call.method != "PUT" && question["op"] == "verify" {
            question.as_object_mut().unwrap().remove("size");
        }
        let why = google::ask(question, &[]).unwrap().0["why"]
            .as_str()
            .unwrap()
            .to_owned();
        let late = why == "it has expired" && lax == "expiry";
        match why.as_str() {
            "" => {}
            _ if late => {}
            "the object is there already" => return Reply::text(412, &why),
            "the size is out of range" | "the bytes are not those of the MD5" => return Reply::text(400, &why),
            _ => return Reply::text(403, &why),
        }
        match call.method.as_str() {
            "PUT" | "POST" => {
                SERVER.put(bucket, &key, &body).unwrap();
                Reply::text(if call.method == "PUT" { 200 } else { 204 }, "")
            }
            "DELETE" => {
                SERVER.delete(bucket, &key).unwrap();
                Reply::text(204, "")
            }
            _ => match SERVER.get(bucket, &key).unwrap() {
                Some(body) => Reply::text(200, &String::from_utf8(body).unwrap()),
                None => Reply::text(404, "<Error><Code>NoSuchKey</Code></Error>"),
            },
        }
    })
}

async fn made_at(endpoint: String, bucket: &str) -> (ConformanceReport, Arc<valet::api::Capabilities>) {
    // The check must not use the public endpoint, which is for workloads.
    let settings = json!({"bucket": bucket, "endpoint": endpoint, "publicEndpoint": "http://127.0.0.1:9"});
    let gcs = store(settings, Source::Key(Arc::new(key())), None);
    let made = gcs.check_conformance().await;
    (made, gcs.capabilities())
}

#[tokio::test]
async fn conformance_check_of_conforming_store_finds_all_constraints() {
    let (made, can) = made_at(front("check-good", "").url(), "check-good").await;
    assert_eq!(
        (&made.missing[..], &made.not_tested[..], &made.unenforced, &made.left),
        (&[][..], &[][..], &None, &None)
    );
    assert!(!made.interrupted);
    for enforced in [
        "WriteOnce",
        "ContentType",
        "ContentLengthRange",
        "ContentLength",
        "ChecksumMD5",
        "ResponseHeaders",
        "PostForm/ContentType",
        "PostForm/KeyPrefix",
    ] {
        assert!(
            made.enforced.iter().any(|h| h == enforced),
            "{enforced}: {:?}",
            made.enforced
        );
    }
    assert!(can.enforced.contains(&Capability::WriteOnce));
    assert_eq!(SERVER.list("check-good").unwrap(), Vec::<String>::new());
}

/// A capability that the store does not enforce is missing after the check.
#[tokio::test]
async fn capability_that_the_store_does_not_enforce_is_missing() {
    let (made, can) = made_at(front("check-size", "size").url(), "check-size").await;
    assert_eq!(
        made.missing,
        [
            Missing::Url(Capability::ContentLengthRange),
            Missing::Url(Capability::ContentLength)
        ]
    );
    assert!(
        !can.enforced.contains(&Capability::ContentLengthRange) && !can.enforced.contains(&Capability::ContentLength)
    );
    assert!(
        can.post_form
            .as_ref()
            .unwrap()
            .contains(&Capability::ContentLengthRange)
    );
    let (made, can) = made_at(front("check-once", "write-once").url(), "check-once").await;
    assert_eq!(made.missing, [Missing::Url(Capability::WriteOnce)]);
    assert!(!can.enforced.contains(&Capability::WriteOnce));
    let (made, can) = made_at(front("check-folders", "folders").url(), "check-folders").await;
    // Valet does not assume this capability for a store that is not Google's, so the report does not list it as
    // missing.
    assert_eq!(made.missing, []);
    assert!(
        made.without[0].contains("writes an object outside this prefix if the form has object key 'in/../x'"),
        "{made:?}"
    );
    assert!(!can.post_form.as_ref().unwrap().contains(&Capability::KeyPrefix));
    assert_eq!(SERVER.list("check-folders").unwrap(), Vec::<String>::new());
    let (made, can) = made_at(front("check-md5", "md5").url(), "check-md5").await;
    assert_eq!(made.missing, [Missing::Url(Capability::ChecksumMD5)]);
    assert!(!can.enforced.contains(&Capability::ChecksumMD5));
    let (made, _) = made_at(front("check-late", "expiry").url(), "check-late").await;
    assert!(
        made.unenforced
            .is_some_and(|why| why.contains("after the credential has expired"))
    );
}

#[tokio::test]
async fn conformance_check_finds_that_fake_gcs_server_enforces_nothing() {
    SERVER.create_bucket("check-fake").unwrap();
    let (made, can) = made_at(SERVER.endpoint(), "check-fake").await;
    assert!(
        made.unenforced.is_some() && made.missing.contains(&Missing::Url(Capability::WriteOnce)),
        "{made:?}"
    );
    // fake-gcs-server does not accept the bucket's URL with a slash at the end.
    assert!(made.missing.contains(&Missing::Forms) && can.post_form.is_none());
    assert_eq!(SERVER.list("check-fake").unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn conformance_check_is_interrupted_if_store_stops_answering() {
    let fake = Fake::start(|_, before| {
        if before == 0 {
            Reply::text(200, "")
        } else {
            Reply::text(503, "marker")
        }
    });
    let (made, can) = made_at(fake.url(), "media").await;
    assert!(
        made.interrupted && made.missing.is_empty() && made.left.is_some(),
        "{made:?}"
    );
    assert!(!format!("{made:?}").contains("marker"));
    assert!(can.enforced.contains(&Capability::WriteOnce));

    let refused = Fake::start(|_, _| Reply::text(403, "<Error><Code>AccessDenied</Code></Error>"));
    let (made, _) = made_at(refused.url(), "media").await;
    assert!(
        made.not_tested[0].contains("answered status 403") && made.missing.is_empty(),
        "{made:?}"
    );
}
