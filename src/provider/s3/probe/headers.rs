//! Probes whether an S3 store refuses unsigned headers.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use aws_sdk_s3::{
    Client,
    config::{Config, retry::RetryConfig},
    error::ProvideErrorMetadata,
    presigning::{PresignedRequest, PresigningConfig},
    primitives::ByteStream,
};
use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;

use crate::{
    conformance::{BODY, BODY_MD5},
    provider::{
        probe::{Base, OTHER_MD5, ProbeAnswer, Sender, UnsignedHeaders, Variant, by_download, by_upload},
        s3::{
            presigned::headers,
            raw_request::Raw,
            responses::{printable_code, unreachable},
            store::S3,
        },
    },
};

/// The lifetime of the URLs that the probe signs.
const WINDOW: Duration = Duration::from_secs(60);
/// The unsigned header that the probe adds to a request. The header only sets user metadata of the object.
const MARK: &str = "x-amz-meta-valet-probe";

/// Sends presigned requests with and without an unsigned header, as the holder of a URL could do. If the operator is
/// allowed to send write requests, the probe sends uploads. If the store accepts an upload, the probe deletes the
/// uploaded object. If the operator is not allowed to send write requests, the probe sends downloads.
pub async fn probe(s3: &S3, client: &Client, is_absent: bool) -> Result<UnsignedHeaders, String> {
    let key = s3.probe_key();
    let check_prefix = || format!("{key}/{}", Timestamp::now().as_nanosecond());
    // A probe upload has a wrong checksum, but a store that ignores checksums writes its object. If an object with this
    // object key exists, the probe therefore uses a different object key, so that it cannot overwrite the existing
    // object.
    let own = if is_absent { key.to_owned() } else { check_prefix() };
    let (found, has_conflict) = probe_at(s3, client, own).await?;
    match found {
        // Some stores keep objects as files. If such a store has an object under `KEY/`, then `KEY` is a
        // directory, and an upload to `KEY` fails. The probe then uses an object key under `KEY/`.
        UnsignedHeaders::Unknown(_) if has_conflict && is_absent => Ok(probe_at(s3, client, check_prefix()).await?.0),
        found => Ok(found),
    }
}

/// Runs the probe with one object key. The second returned value is true if the store answered with a conflict
/// (status 409).
async fn probe_at(s3: &S3, client: &Client, own: String) -> Result<(UnsignedHeaders, bool), String> {
    let key = s3.probe_key();
    let Some(urls) = Urls::new(client, &s3.store.bucket, &own).await else {
        let why = "Valet could not sign the requests of the probe".into();
        return Ok((UnsignedHeaders::Unknown(why), false));
    };
    let probe = Probe {
        client,
        bucket: &s3.store.bucket,
        absent: format!("{}/{key}-absent-{}", s3.store.bucket, Timestamp::now().as_nanosecond()),
        urls,
        has_written: false.into(),
        has_conflict: false.into(),
    };
    if !s3.allows_writes() {
        return Ok((by_download(&probe).await?, false));
    }
    let found = by_upload(&probe).await;
    if probe.has_written.into_inner() {
        let _ = client.delete_object().bucket(&s3.store.bucket).key(own).send().await;
    }
    Ok((found?, probe.has_conflict.into_inner()))
}

/// The signed URLs of the probe, one for each kind of request. Requests with the same URL differ only in their unsigned
/// headers.
struct Urls {
    broken: PresignedRequest,
    upload: PresignedRequest,
    download: PresignedRequest,
}

impl Urls {
    async fn new(client: &Client, bucket: &str, key: &str) -> Option<Self> {
        let window = || PresigningConfig::expires_in(WINDOW).ok();
        let put = |md5: &str| client.put_object().bucket(bucket).key(key).content_md5(md5);
        let get = client.get_object().bucket(bucket).key(key);
        Some(Self {
            broken: put(OTHER_MD5).presigned(window()?).await.ok()?,
            upload: put(BODY_MD5).presigned(window()?).await.ok()?,
            download: get.presigned(window()?).await.ok()?,
        })
    }
}

struct Probe<'a> {
    client: &'a Client,
    bucket: &'a str,
    /// The source object that the probe's copy requests name. This object does not exist.
    absent: String,
    urls: Urls,
    /// This is true after the store has accepted an upload.
    has_written: AtomicBool,
    /// This is true after the store has answered an upload with status 409.
    has_conflict: AtomicBool,
}

impl Sender for Probe<'_> {
    type Error = String;

    fn send(&self, base: Base, variant: Variant) -> BoxFuture<'_, Result<ProbeAnswer, String>> {
        async move {
            let (url, body) = match base {
                Base::BrokenUpload => (&self.urls.broken, BODY),
                Base::Upload => (&self.urls.upload, BODY),
                Base::Download => (&self.urls.download, &b""[..]),
            };
            let mut sent = headers(url);
            if base == Base::Download {
                sent.push(("range".into(), "bytes=0-0".into()));
            }
            match variant {
                Variant::Plain => {}
                Variant::Copying => sent.push(("x-amz-copy-source".into(), self.absent.clone())),
                Variant::Marked => sent.push((MARK.into(), "1".into())),
            }
            let raw = Raw {
                method: url.method().to_owned(),
                uri: url.uri().to_owned(),
                headers: sent,
            };
            let request = self.client.put_object().bucket(self.bucket).key("probe");
            let answer = request
                .body(ByteStream::from_static(body))
                .customize()
                .config_override(Config::builder().retry_config(RetryConfig::disabled()))
                .interceptor(raw)
                .send()
                .await;
            let Err(error) = answer else {
                if base != Base::Download {
                    self.has_written.store(true, Ordering::Relaxed);
                }
                return Ok(ProbeAnswer {
                    status: 200,
                    code: String::new(),
                });
            };
            let status = error.raw_response().map(|r| r.status().as_u16());
            if status == Some(409) && base != Base::Download {
                self.has_conflict.store(true, Ordering::Relaxed);
            }
            match status {
                Some(status) if status != 429 && (status < 500 || status == 501) => Ok(ProbeAnswer {
                    status,
                    code: error.code().and_then(printable_code).unwrap_or_default().to_owned(),
                }),
                _ => Err(unreachable(&error)),
            }
        }
        .boxed()
    }
}
