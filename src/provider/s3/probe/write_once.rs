//! Probes whether an S3 store supports write-once uploads (`If-None-Match: *`): such an upload must not change an
//! existing object. The probe also finds out whether the store accepts uploads without a checksum.

use aws_sdk_s3::{
    Client,
    config::{Config, retry::RetryConfig},
    error::ProvideErrorMetadata,
    primitives::ByteStream,
};

use crate::{
    conformance::{BODY, BODY_MD5},
    provider::{
        probe::{ProbeAnswer, WriteOnce, write_once},
        s3::{
            amazon,
            responses::{printable_code, unreachable},
            store::S3,
        },
    },
};

/// The probe sends at most 3 uploads. A second operator can delete the object between two uploads. The next upload
/// then succeeds, even if the store supports write-once uploads. Therefore the probe repeats the upload.
const MOST: usize = 3;

/// Sends a write-once upload twice, unless Valet already knows the result.
///
/// Amazon documents that it supports write-once uploads ("How to prevent object overwrites with conditional
/// writes"). On Amazon, the probe only reads whether the bucket has a default retention.
pub async fn probe(s3: &S3, client: &Client) -> Result<(), String> {
    let is_probed_with_uploads = !amazon::is_store(&s3.store) && s3.allows_writes();
    if s3.findings.knows_write_once() && is_probed_with_uploads {
        return Ok(());
    }
    let is_retained = has_default_retention(s3, client).await;
    if let Some(is_retained) = is_retained
        && !is_probed_with_uploads
    {
        // Amazon documents that a bucket with a default retention requires checksums. For a store outside Amazon, the
        // probe sends an upload to find out whether the bucket requires checksums.
        s3.findings.set_requires_checksums(is_retained);
    }
    if amazon::is_store(&s3.store) {
        return Ok(());
    }
    let found = match is_probed_with_uploads {
        true => send_twice(s3, client, is_retained == Some(true)).await?,
        false => WriteOnce::Unknown("the operator sends only read requests to this store".into()),
    };
    s3.findings.set_write_once(found);
    Ok(())
}

/// Returns true if the bucket has a default retention (Object Lock). On Amazon, such a bucket accepts an upload
/// only with its MD5 or another checksum (Amazon S3 API Reference, "PutObject", Content-MD5). Returns `None` if
/// the credentials are not allowed to read this setting.
async fn has_default_retention(s3: &S3, client: &Client) -> Option<bool> {
    let answer = client
        .get_object_lock_configuration()
        .bucket(&s3.store.bucket)
        .send()
        .await;
    match answer {
        Ok(answer) => {
            let rule = answer.object_lock_configuration().and_then(|lock| lock.rule());
            Some(rule.is_some_and(|rule| rule.default_retention().is_some()))
        }
        Err(e) => (e.code() == Some("ObjectLockConfigurationNotFoundError")).then_some(false),
    }
}

async fn send_twice(s3: &S3, client: &Client, is_retained: bool) -> Result<WriteOnce, String> {
    let key = format!("{}/write-once", s3.probe_key());
    let mut answers = Vec::new();
    let mut has_checksum = false;
    let mut has_written = false;
    while answers.len() < MOST {
        let answer = send_once(s3, client, &key, has_checksum).await?;
        if answer.status == 400 && !has_checksum {
            // The store refused the upload because of the missing checksum or because of the write-once condition.
            // Valet sends a second upload with a checksum. The answer to this upload shows the reason for the refusal.
            let with = send_once(s3, client, &key, true).await?;
            if with.is_done() || with.status == 412 {
                has_checksum = true;
                has_written |= with.is_done();
                answers.push(with);
                continue;
            }
        }
        let is_done = answer.is_done();
        has_written |= is_done;
        answers.push(answer);
        if !is_done {
            break;
        }
    }
    s3.findings.set_requires_checksums(has_checksum);
    // In a bucket with a retention, Valet cannot delete the object. Therefore Valet does not try to delete the object,
    // and the next probe finds it.
    if has_written && !is_retained && !has_checksum {
        let _ = client.delete_object().bucket(&s3.store.bucket).key(&key).send().await;
    }
    Ok(write_once(&answers))
}

async fn send_once(s3: &S3, client: &Client, key: &str, has_checksum: bool) -> Result<ProbeAnswer, String> {
    let answer = client
        .put_object()
        .bucket(&s3.store.bucket)
        .key(key)
        .if_none_match("*")
        .set_content_md5(has_checksum.then(|| BODY_MD5.to_owned()))
        .body(ByteStream::from_static(BODY))
        .customize()
        // The client must not retry a write-once upload. If the first attempt wrote the object, the store would
        // refuse the retry.
        .config_override(Config::builder().retry_config(RetryConfig::disabled()))
        .send()
        .await;
    let Err(error) = answer else {
        return Ok(ProbeAnswer {
            status: 200,
            code: String::new(),
        });
    };
    match error.raw_response().map(|r| r.status().as_u16()) {
        Some(status) if status != 429 && (status < 500 || status == 501) => Ok(ProbeAnswer {
            status,
            code: error.code().and_then(printable_code).unwrap_or_default().to_owned(),
        }),
        _ => Err(unreachable(&error)),
    }
}
