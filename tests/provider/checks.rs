//! Checks of signed URLs and POST forms: what a credential allows, and what it does not allow.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use valet::{
    api::{Capability, LengthRange, OperationSpec, Overwrite, ResponseHeaders, UploadConstraints, UploadMode},
    conformance::{BODY, BODY_MD5, LONGER, OTHER, OTHER_TYPE, PreparedRequest, TYPE},
    core::ObjectFact,
};
use valet_test_support::access::access;

use crate::{
    client::send,
    requests::{download, free, upload},
    subjects::Subject,
};

/// Reads an object with a signed GET request. Returns `None` if the store does not return the object.
pub async fn content(subject: &Subject, key: &str) -> Option<Vec<u8>> {
    let answer = send(&subject.prepared(key, &download(ResponseHeaders::default())).await).await;
    answer.is_done().then_some(answer.body)
}

/// Uploads an object with a signed PUT request that can replace an existing object.
pub async fn write(subject: &Subject, key: &str, body: &[u8]) {
    let mut sent = subject.prepared(key, &free(UploadMode::Put)).await;
    sent.body = body.into();
    let answer = send(&sent).await;
    assert!(answer.is_done(), "status {}", answer.status);
}

pub async fn put(subject: &Subject) -> Vec<String> {
    let key = subject.key("put");
    let answer = send(&subject.prepared(&key, &write_once_upload(subject)).await).await;
    assert!(answer.is_done(), "status {}", answer.status);
    assert_eq!(content(subject, &key).await.as_deref(), Some(BODY));
    assert!(subject.objects().contains(&key), "{:?}", subject.objects());
    Vec::new()
}

/// Returns a write-once upload, or an upload that can replace an object if the store does not support write-once.
fn write_once_upload(subject: &Subject) -> OperationSpec {
    let overwrite = match subject
        .provider
        .capabilities()
        .enforced
        .contains(&Capability::WriteOnce)
    {
        true => Overwrite::Forbid,
        false => Overwrite::Allow,
    };
    upload(
        UploadMode::Put,
        UploadConstraints {
            overwrite,
            ..UploadConstraints::default()
        },
    )
}

pub async fn put_limits_access(subject: &Subject) -> Vec<String> {
    let key = subject.key("limited");
    limits_access(subject, &key, &free(UploadMode::Put), "DELETE").await;
    assert_eq!(content(subject, &key).await, None, "a refused request wrote the object");
    let beside = subject.key("stray");
    assert_eq!(
        content(subject, &beside).await,
        None,
        "a refused request wrote another object"
    );
    Vec::new()
}

pub async fn get_limits_access(subject: &Subject) -> Vec<String> {
    let key = subject.key("limited-get");
    write(subject, &key, BODY).await;
    limits_access(subject, &key, &download(ResponseHeaders::default()), "PUT").await;
    assert_eq!(content(subject, &key).await.as_deref(), Some(BODY));
    Vec::new()
}

/// Checks that the store refuses an expired credential, and requests that differ from the signed one.
async fn limits_access(subject: &Subject, key: &str, operation_spec: &OperationSpec, other_method: &str) {
    let expired = subject.expired(key, operation_spec).await;
    is_refused(&expired, "after the expiry").await;
    let mut outside = subject.prepared(key, operation_spec).await;
    outside.outside();
    is_refused(&outside, "with another object key").await;
    let mut other = subject.prepared(key, operation_spec).await;
    other.method = other_method.into();
    is_refused(&other, "with another method").await;
}

async fn is_refused(sent: &PreparedRequest, what: &str) {
    let status = send(sent).await.status;
    assert!((400..500).contains(&status) && status != 404, "{what}: status {status}");
}

pub async fn get(subject: &Subject) -> Vec<String> {
    let key = subject.key("get");
    write(subject, &key, BODY).await;
    assert_eq!(content(subject, &key).await.as_deref(), Some(BODY));
    if !subject
        .provider
        .capabilities()
        .enforced
        .contains(&Capability::ResponseHeaders)
    {
        return vec!["response headers: the provider does not support them".into()];
    }
    let response = ResponseHeaders {
        content_type: Some("text/csv".into()),
        content_disposition: Some("attachment; filename=\"a b.csv\"".into()),
        ..ResponseHeaders::default()
    };
    let mut sent = subject.prepared(&key, &download(response)).await;
    let answer = send(&sent).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/csv"));
    assert_eq!(
        answer.header("content-disposition"),
        Some("attachment; filename=\"a b.csv\"")
    );
    let html = sent
        .url
        .replace("text%2Fcsv", "text%2Fhtml")
        .replace("text/csv", "text/html");
    assert_ne!(html, sent.url);
    sent.url = html;
    is_refused(&sent, "with another response header").await;
    Vec::new()
}

pub async fn write_once(subject: &Subject) -> Vec<String> {
    if !subject
        .provider
        .capabilities()
        .enforced
        .contains(&Capability::WriteOnce)
    {
        return vec!["all: the store does not support write-once uploads".into()];
    }
    let key = subject.key("once");
    let mut sent = subject.prepared(&key, &write_once_upload(subject)).await;
    assert!(send(&sent).await.is_done());
    sent.body = OTHER.into();
    is_refused(&sent, "the same credential, a second time").await;
    let mut second = subject.prepared(&key, &write_once_upload(subject)).await;
    second.body = OTHER.into();
    is_refused(&second, "a second credential").await;
    assert_eq!(content(subject, &key).await.as_deref(), Some(BODY));
    Vec::new()
}

/// A change that violates a constraint.
type Violation = fn(&mut PreparedRequest);

/// The constraints of uploads, each with an upload and a request that violates the constraint.
fn constraints() -> Vec<(Capability, UploadConstraints, Violation)> {
    let size = BODY.len() as i64;
    let none = || UploadConstraints {
        overwrite: Overwrite::Allow,
        ..UploadConstraints::default()
    };
    let other_body: Violation = |sent| sent.body = OTHER.into();
    let longer: Violation = |sent| sent.body = LONGER.into();
    let mut all: Vec<(Capability, UploadConstraints, Violation)> = vec![(
        Capability::ContentType,
        UploadConstraints {
            content_type: Some(TYPE.into()),
            ..none()
        },
        |sent| sent.set("content-type", OTHER_TYPE),
    )];
    let length = UploadConstraints {
        content_length: Some(size),
        ..none()
    };
    all.push((Capability::ContentLength, length, longer));
    let range = UploadConstraints {
        content_length_range: Some(LengthRange { min: 1, max: size }),
        ..none()
    };
    all.push((Capability::ContentLengthRange, range.clone(), longer));
    all.push((Capability::ContentLengthRange, range, |sent| sent.body.clear()));
    let sha256 = UploadConstraints {
        checksum_sha256: Some(BASE64_STANDARD.encode(digest(&SHA256, BODY))),
        ..none()
    };
    all.push((Capability::ChecksumSHA256, sha256, other_body));
    let md5 = UploadConstraints {
        checksum_md5: Some(BODY_MD5.into()),
        ..none()
    };
    all.push((Capability::ChecksumMD5, md5, other_body));
    all
}

pub async fn put_constraints(subject: &Subject) -> Vec<String> {
    enforced(subject, UploadMode::Put).await
}

pub async fn form_constraints(subject: &Subject) -> Vec<String> {
    if subject.provider.capabilities().post_form.is_none() {
        return vec!["all: the store does not support POST forms".into()];
    }
    enforced(subject, UploadMode::PostForm).await
}

/// Checks each constraint that the provider claims, with one valid upload and one that violates the constraint.
async fn enforced(subject: &Subject, mode: UploadMode) -> Vec<String> {
    let mut skipped = Vec::new();
    for (n, (capability, constraints, violate)) in constraints().into_iter().enumerate() {
        let operation_spec = upload(mode, constraints);
        let capabilities = subject.provider.capabilities();
        let name = format!("{}/{}", mode.as_str(), capability.as_str());
        if !capabilities
            .of(&operation_spec)
            .is_some_and(|can| can.contains(&capability))
        {
            skipped.push(format!("{name}: the store does not enforce it"));
            continue;
        }
        let key = subject.key(&format!("constraints/{}-{n}", mode.as_str()));
        let mut sent = subject.prepared(&key, &operation_spec).await;
        violate(&mut sent);
        is_refused(&sent, &name).await;
        assert_eq!(
            content(subject, &key).await,
            None,
            "{name}: a refused upload wrote the object"
        );
        let answer = send(&subject.prepared(&key, &operation_spec).await).await;
        assert!(answer.is_done(), "{name}: status {}", answer.status);
        assert_eq!(content(subject, &key).await.as_deref(), Some(BODY), "{name}");
    }
    skipped
}

pub async fn form(subject: &Subject) -> Vec<String> {
    let capabilities = subject.provider.capabilities();
    let Some(can) = &capabilities.post_form else {
        return vec!["all: the store does not support POST forms".into()];
    };
    let key = subject.key("form/a");
    let form = free(UploadMode::PostForm);
    is_refused(&subject.expired(&key, &form).await, "after the expiry").await;
    let mut outside = subject.prepared(&key, &form).await;
    outside.outside();
    is_refused(&outside, "with another object key").await;
    assert_eq!(content(subject, &key).await, None, "a refused form wrote the object");
    let answer = send(&subject.prepared(&key, &form).await).await;
    assert!(answer.is_done(), "status {}", answer.status);
    let fact = subject.provider.head(&access(&key)).await;
    assert!(matches!(fact, ObjectFact::Present { .. }), "{fact:?}");
    assert_eq!(content(subject, &key).await.as_deref(), Some(BODY));
    if !can.contains(&Capability::KeyPrefix) {
        return vec!["PostForm/KeyPrefix: the provider does not claim it before a conformance check".into()];
    }
    Vec::new()
}
