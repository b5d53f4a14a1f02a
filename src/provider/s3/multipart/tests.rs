use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
};

use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};

use super::*;
use crate::api::store::s3::S3Store;

/// Returns a provider for a simulated store. The store gives this answer to every request.
fn answering(status: &'static str, body: &'static str) -> S3 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            // The bodies of these requests are short. A body arrives together with the headers of its request or
            // directly after them.
            while !String::from_utf8_lossy(&request).contains("\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => request.extend_from_slice(&buffer[..n]),
                }
            }
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    let store: S3Store = serde_json::from_value(serde_json::json!({
        "bucket": "media", "region": "us-east-1", "endpoint": format!("http://127.0.0.1:{port}"), "addressingStyle": "Path",
    }))
    .unwrap();
    let credentials = Credentials::new("AKID", "secret", None, None, "test");
    S3::new(store, SharedCredentialsProvider::new(credentials), None)
}

fn key() -> ObjectKey {
    ObjectKey::parse("a/b", 1024).unwrap()
}

fn error(code: &str) -> &'static str {
    let marker = "<Message>marker</Message>";
    Box::leak(
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>{marker}</Error>")
            .into_boxed_str(),
    )
}

/// An answer with status 200 can also be an error (Amazon S3 API Reference, "CompleteMultipartUpload").
#[tokio::test]
async fn answers_to_complete_multipart_upload_map_to_results() {
    let assembly = Assembly {
        upload: "u".into(),
        parts: vec![ArrivedPart {
            number: 1,
            size: 3,
            e_tag: "\"e\"".into(),
        }],
        write_once: true,
    };
    let done = "<CompleteMultipartUploadResult><ETag>\"e-1\"</ETag></CompleteMultipartUploadResult>";
    let went = async |status, body| answering(status, body).complete_upload(&key(), &assembly).await;
    let Completion::Done(object) = went("200 OK", done).await else {
        panic!("the store must complete the multipart upload");
    };
    assert_eq!((object.size, object.e_tag.as_deref()), (Some(3), Some("\"e-1\"")));
    for (status, code, expected) in [
        ("404 Not Found", "NoSuchUpload", Completion::Gone),
        ("412 Precondition Failed", "PreconditionFailed", Completion::Exists),
    ] {
        assert_eq!(went(status, error(code)).await, expected);
    }
    for (status, code) in [
        ("200 OK", "InternalError"),
        ("500 Internal Server Error", "InternalError"),
        ("503 Service Unavailable", "SlowDown"),
        ("409 Conflict", "ConditionalRequestConflict"),
    ] {
        let said = went(status, error(code)).await;
        assert!(matches!(said, Completion::Unreachable(_)), "{status} {code}: {said:?}");
    }
    for (status, code) in [
        ("200 OK", "EntityTooSmall"),
        ("400 Bad Request", "InvalidPart"),
        ("403 Forbidden", "AccessDenied"),
    ] {
        let said = went(status, error(code)).await;
        let Completion::Refused(why) = &said else {
            panic!("{status} {code}: {said:?}");
        };
        assert!(why.contains(code) && !why.contains("marker"), "{why}");
    }
}

#[tokio::test]
async fn answers_to_list_parts_map_to_upload_states() {
    let of = async |status, body| answering(status, body).list_parts(&key(), "u").await;
    let listed = "<ListPartsResult><IsTruncated>false</IsTruncated><Part><PartNumber>2</PartNumber><ETag>\"e\"</ETag><Size>7</Size></Part></ListPartsResult>";
    let part = ArrivedPart {
        number: 2,
        size: 7,
        e_tag: "\"e\"".into(),
    };
    assert_eq!(of("200 OK", listed).await, UploadFact::Open(vec![part]));
    assert_eq!(of("404 Not Found", error("NoSuchUpload")).await, UploadFact::Gone);
    assert_eq!(of("403 Forbidden", error("AccessDenied")).await, UploadFact::Hidden);
    // If the store returns an error about the bucket, Valet must not take it for an error about the upload.
    for (status, code) in [
        ("404 Not Found", "NoSuchBucket"),
        ("500 Internal Server Error", "InternalError"),
    ] {
        let said = of(status, error(code)).await;
        assert!(matches!(said, UploadFact::Unreachable(_)), "{code}: {said:?}");
    }
}

/// An upload that no longer exists counts as aborted. A part that a client uploads during the abort can arrive after
/// the abort.
#[tokio::test]
async fn multipart_upload_that_remains_after_its_abort_is_an_error() {
    let of = async |status, body| answering(status, body).abort_wholly(&key(), "u").await;
    assert_eq!(of("404 Not Found", error("NoSuchUpload")).await, Ok(()));
    let still = "<ListPartsResult><IsTruncated>false</IsTruncated></ListPartsResult>";
    assert!(
        of("200 OK", still)
            .await
            .is_err_and(|why| why.contains("still has the multipart upload"))
    );
    let denied = of("403 Forbidden", error("AccessDenied")).await.unwrap_err();
    assert!(
        denied.contains("s3:AbortMultipartUpload") && !denied.contains("marker"),
        "{denied}"
    );
}

/// Valet returns only the uploads of exactly this object key, with their parts.
#[tokio::test]
async fn only_multipart_uploads_of_exactly_the_object_key_are_listed() {
    let listed = "<ListMultipartUploadsResult><Upload><Key>a/bc</Key><UploadId>1</UploadId></Upload>\
                  <Upload><Key>a/b</Key><UploadId>2</UploadId><Initiated>2026-01-02T03:04:05Z</Initiated></Upload></ListMultipartUploadsResult>";
    // The body of this answer is not valid for ListParts. If Valet cannot list the parts of an upload, it does not
    // abort the upload.
    let UploadsFact::Listed { uploads, .. } = answering("200 OK", listed).list_uploads(&key()).await else {
        panic!("the store must list the multipart uploads");
    };
    assert_eq!(uploads.len(), 1);
    assert_eq!((uploads[0].id.as_str(), uploads[0].has_parts), ("2", true));
    assert_eq!(
        uploads[0].initiated.map(|t| t.to_string()).as_deref(),
        Some("2026-01-02T03:04:05Z")
    );
    assert_eq!(
        answering("403 Forbidden", error("AccessDenied"))
            .list_uploads(&key())
            .await,
        UploadsFact::Hidden
    );
}
