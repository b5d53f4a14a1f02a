//! Checks of multipart uploads.

use valet::{
    api::{Capability, MIB, Multipart as Division, OperationSpec, Overwrite, UploadConstraints, UploadMode},
    conformance::PreparedRequest,
    core::{Assembly, Completion, Credential, ObjectFact, Signed, UploadFact, UploadsFact},
    provider::Multipart,
};
use valet_test_support::access::access;

use crate::{
    checks::content,
    client::send,
    requests::{SECONDS, allowed},
    subjects::Subject,
};

/// The size of the first part. It is the smallest size that S3 accepts for a part that is not the last one.
const PART_BYTES: i64 = 5 * MIB;
/// The object has two parts. The second part has 9 bytes.
const BYTES: i64 = PART_BYTES + 9;

fn operation_spec() -> OperationSpec {
    OperationSpec::Upload {
        mode: UploadMode::Multipart,
        multipart: Division {
            part_size_bytes: Some(PART_BYTES),
        },
        constraints: UploadConstraints {
            content_length: Some(BYTES),
            overwrite: Overwrite::Forbid,
            ..UploadConstraints::default()
        },
    }
}

/// Returns the operations of a provider for multipart uploads, or what the check skips.
fn supported(subject: &Subject) -> Result<&dyn Multipart, Vec<String>> {
    let capabilities = subject.provider.capabilities();
    let claims = capabilities
        .multipart
        .as_ref()
        .is_some_and(|can| can.contains(&Capability::WriteOnce));
    match subject.provider.multipart() {
        Some(multipart) if claims => Ok(multipart),
        _ => Err(vec![
            "all: the store does not support write-once multipart uploads".into(),
        ]),
    }
}

/// Signs the parts of an upload and returns a valid request for each part.
async fn parts(subject: &Subject, key: &str, upload: &str) -> Vec<PreparedRequest> {
    let request = allowed(key, &operation_spec(), SECONDS, Some(upload.to_owned()));
    let signed = subject.provider.sign(&request).await.expect("the parts are signed");
    let Credential::Parts(parts) = signed.credential else {
        panic!("a multipart upload has parts");
    };
    let prepared = parts.into_iter().map(|part| {
        let size = usize::try_from(part.part.size.max).expect("a size");
        let signed = Signed {
            credential: Credential::Parts(vec![part]),
            provider: signed.provider,
        };
        let mut sent = PreparedRequest::accepts(&signed).expect("a request for one part");
        sent.body = vec![b'x'; size];
        sent
    });
    prepared.collect()
}

async fn initiate(multipart: &dyn Multipart, key: &str) -> String {
    let request = allowed(key, &operation_spec(), SECONDS, None);
    let upload = multipart.initiate(&request).await.expect("the upload is initiated");
    assert!(!upload.is_empty());
    upload
}

pub async fn complete(subject: &Subject) -> Vec<String> {
    let multipart = match supported(subject) {
        Ok(multipart) => multipart,
        Err(skipped) => return skipped,
    };
    let key = subject.key("parts/complete");
    let access = access(&key);
    let upload = initiate(multipart, &key).await;
    let open = multipart.open(&access).await;
    assert!(
        matches!(&open, UploadsFact::Listed { uploads, .. } if uploads.len() == 1 && uploads[0].id == upload && !uploads[0].has_parts),
        "{open:?}"
    );
    let sent = parts(subject, &key, &upload).await;
    assert_eq!(sent.len(), 2);
    // The refused parts are small, because a store can close the connection before it has read a large body.
    let mut outside = parts(subject, &key, &upload).await.remove(1);
    outside.outside();
    let status = send(&outside).await.status;
    assert!(
        (400..500).contains(&status),
        "a part of another object: status {status}"
    );
    let mut longer = parts(subject, &key, &upload).await.remove(1);
    longer.body.push(b'x');
    let status = send(&longer).await.status;
    assert!((400..500).contains(&status), "a part that is too long: status {status}");
    assert_eq!(multipart.arrived(&access, &upload).await, UploadFact::Open(Vec::new()));
    for part in &sent {
        let answer = send(part).await;
        assert!(answer.is_done(), "status {}", answer.status);
    }
    let UploadFact::Open(arrived) = multipart.arrived(&access, &upload).await else {
        panic!("the upload is open");
    };
    let sizes: Vec<_> = arrived.iter().map(|part| (part.number, part.size)).collect();
    assert_eq!(sizes, [(1, PART_BYTES), (2, 9)]);
    let whole = Assembly {
        upload: upload.clone(),
        parts: arrived,
        write_once: true,
    };
    let done = multipart.complete(&access, &whole).await;
    assert!(
        matches!(&done, Completion::Done(object) if object.size == Some(BYTES) && object.e_tag.is_some()),
        "{done:?}"
    );
    // S3 answers a repeated completion like the first one.
    let again = multipart.complete(&access, &whole).await;
    assert!(
        matches!(again, Completion::Done(_) | Completion::Gone | Completion::Exists),
        "{again:?}"
    );
    let fact = subject.provider.head(&access).await;
    assert!(
        matches!(&fact, ObjectFact::Present { object, .. } if object.size == Some(BYTES)),
        "{fact:?}"
    );
    assert_eq!(multipart.arrived(&access, &upload).await, UploadFact::Gone);
    let open = multipart.open(&access).await;
    assert!(
        matches!(&open, UploadsFact::Listed { uploads, .. } if uploads.is_empty()),
        "{open:?}"
    );
    Vec::new()
}

pub async fn abort(subject: &Subject) -> Vec<String> {
    let multipart = match supported(subject) {
        Ok(multipart) => multipart,
        Err(skipped) => return skipped,
    };
    let key = subject.key("parts/abort");
    let access = access(&key);
    let upload = initiate(multipart, &key).await;
    let sent = parts(subject, &key, &upload).await;
    assert!(send(&sent[1]).await.is_done());
    let open = multipart.open(&access).await;
    assert!(
        matches!(&open, UploadsFact::Listed { uploads, .. } if uploads.len() == 1 && uploads[0].has_parts),
        "{open:?}"
    );
    let abort = access.to_abort(&upload);
    assert_eq!(multipart.abort(&abort).await, Ok(()));
    assert_eq!(multipart.abort(&abort).await, Ok(()), "a second abort also succeeds");
    assert_eq!(multipart.arrived(&access, &upload).await, UploadFact::Gone);
    assert!(
        !send(&sent[1]).await.is_done(),
        "a part of an aborted upload was accepted"
    );
    assert_eq!(content(subject, &key).await, None);
    Vec::new()
}
