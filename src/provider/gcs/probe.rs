//! Probes a Google Cloud Storage bucket. The probe checks the account that signs, the bucket and the clock skew. It
//! also checks unsigned headers and write-once uploads. Each of these checks sends its own requests.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;

use super::{
    google,
    responses::{code, date},
    store::Gcs,
};
use crate::{
    api::Reason,
    core::SignError,
    net::client::Answer,
    provider::{
        probe::{
            Base, OTHER_MD5, ProbeAnswer, Sender, UnsignedHeaders, Variant, WriteOnce, by_download, by_upload,
            write_once,
        },
        probe_steps::{ProbeRead, ProbeSteps},
        probed::Finding,
    },
};

impl ProbeSteps for Gcs {
    fn read(&self) -> BoxFuture<'_, ProbeRead> {
        async {
            match self.send("GET", self.probe_key(), &[], &[]).await {
                Ok(answer) => ProbeRead {
                    finding: finding(&answer, &self.store.bucket),
                    // If the answer has no `Date` header, the clock skew stays unknown.
                    skew: date(&answer.headers).map(|store_time| store_time.duration_since(Timestamp::now())),
                    is_absent: answer.status == 404,
                },
                Err(e) => ProbeRead::of(Finding::from(e)),
            }
        }
        .boxed()
    }

    fn unsigned_headers(&self, is_absent: bool) -> BoxFuture<'_, Result<UnsignedHeaders, Finding>> {
        async move {
            probe_headers(self, self.probe_key(), is_absent)
                .await
                .map_err(Finding::from)
        }
        .boxed()
    }

    fn write_once(&self) -> BoxFuture<'_, Result<(), Finding>> {
        async { probe_write_once(self, self.probe_key()).await.map_err(Finding::from) }.boxed()
    }
}

/// Converts the store's answer to a read request into the result of the probe. The requested object usually does not
/// exist.
fn finding(answer: &Answer, bucket: &str) -> Finding {
    let refused = |code: &str| {
        let probe_answer = if code.is_empty() {
            String::new()
        } else {
            format!(" ({code})")
        };
        Finding::Broken(
            Reason::CredentialsRefused,
            format!(
                "the store does not accept signatures of the service account{probe_answer}; check that the service account and its key exist and are enabled, or put a new service account key into the Secret"
            ),
        )
    };
    match (answer.status, code(answer)) {
        (_, "NoSuchBucket") => Finding::Broken(
            Reason::BucketNotFound,
            format!("the store has no bucket {bucket}; create the bucket, or correct spec.gcs.bucket"),
        ),
        (_, "RequestTimeTooSkewed" | "ExpiredToken") => Finding::Broken(
            Reason::ClockSkewed,
            "the store's clock and the operator's clock differ by more than the store tolerates; synchronize the clocks (NTP)"
                .into(),
        ),
        (
            _,
            code @ ("SignatureDoesNotMatch"
            | "InvalidSecurity"
            | "InvalidAccessKeyId"
            | "AuthenticationRequired"
            | "InvalidAuthentication"),
        ) => refused(code),
        (401, code) => refused(code),
        (
            _,
            code @ ("UserProjectMissing"
            | "UserProjectInvalid"
            | "UserProjectAccessDenied"
            | "AccountProblem"
            | "UserProjectAccountProblem"),
        ) => Finding::Broken(
            Reason::CredentialsRefused,
            format!(
                "the bucket requires a billing project ({code}), but Valet cannot send a billing project; use a bucket without Requester Pays"
            ),
        ),
        // The object exists, the object does not exist, or the account is not allowed to read the object. In all these
        // cases, the bucket and the credentials are correct.
        (200 | 206 | 403 | 404 | 416, _) => Finding::Usable,
        (status @ (301 | 302 | 307 | 308), _) => {
            Finding::Unreachable(format!("the store answered {status}; check spec.gcs.endpoint"))
        }
        (status, _) => Finding::Unreachable(format!("the store answered {status}")),
    }
}

/// The MD5 of an empty body, in base64. The uploads of the probe have an empty body.
const MD5: &str = "1B2M2Y8AsgTpgAmY7PhCfg==";
/// The maximum number of write-once uploads that the probe sends.
const MOST: usize = 3;

/// Sends the requests of a probe. Each request uses a signed URL that expires after one minute.
struct Probe<'a> {
    gcs: &'a Gcs,
    key: String,
    /// The source object in the probe's copy requests. This object does not exist.
    absent: String,
    has_written: AtomicBool,
}

impl Sender for Probe<'_> {
    type Error = SignError;

    fn send(&self, base: Base, variant: Variant) -> BoxFuture<'_, Result<ProbeAnswer, SignError>> {
        async move {
            let (method, signed) = match base {
                Base::BrokenUpload => ("PUT", &[("content-md5", OTHER_MD5)][..]),
                Base::Upload => ("PUT", &[("content-md5", MD5)][..]),
                Base::Download => ("GET", &[][..]),
            };
            let unsigned = match variant {
                Variant::Plain => &[][..],
                Variant::Copying => &[("x-goog-copy-source", self.absent.as_str())][..],
                Variant::Marked => &[("x-goog-meta-valet-probe", "1")][..],
            };
            let answer = self.gcs.send(method, &self.key, signed, unsigned).await?;
            if method == "PUT" && answer.status < 300 {
                self.has_written.store(true, Ordering::Relaxed);
            }
            probe_answer(&answer)
        }
        .boxed()
    }
}

/// Converts an HTTP answer of the store into the status and the error code that the probe evaluates. Returns an error
/// if the answer reports a temporary failure of the store.
fn probe_answer(answer: &Answer) -> Result<ProbeAnswer, SignError> {
    match answer.status {
        status if status == 429 || status >= 500 && status != 501 => Err(SignError::Credentials {
            reason: Reason::StoreUnreachable,
            message: format!("the store answered {status}"),
        }),
        status => Ok(ProbeAnswer {
            status,
            // Some stores that implement Google's XML API send no error codes. For these stores, Valet derives the
            // error code from the status.
            code: match (status, code(answer)) {
                (404, "") => "NoSuchKey".to_owned(),
                (_, code) => code.to_owned(),
            },
        }),
    }
}

/// Finds out whether the store refuses or obeys unsigned headers.
async fn probe_headers(gcs: &Gcs, key: &str, is_absent: bool) -> Result<UnsignedHeaders, SignError> {
    let now = Timestamp::now().as_nanosecond();
    let probe = Probe {
        gcs,
        // If an object with this key exists, the probe uses a different key. Otherwise a store that ignores checksums
        // could overwrite the existing object.
        key: match is_absent {
            true => key.to_owned(),
            false => format!("{key}/{now}"),
        },
        absent: format!("{}/{key}-absent-{now}", gcs.store.bucket),
        has_written: AtomicBool::new(false),
    };
    if !gcs.allows_writes() {
        return by_download(&probe).await;
    }
    let found = by_upload(&probe).await;
    if probe.has_written.load(Ordering::Relaxed) {
        gcs.send("DELETE", &probe.key, &[], &[]).await?;
    }
    found
}

/// Finds out whether the store supports write-once uploads. The function sends no request if an earlier probe has
/// already shown this. It also sends no request to Google's own hosts, because Google documents their behavior
/// ("Request preconditions").
async fn probe_write_once(gcs: &Gcs, key: &str) -> Result<(), SignError> {
    if gcs.findings.knows_write_once() || google::is_own_endpoint(&gcs.store) {
        return Ok(());
    }
    let found = if gcs.allows_writes() {
        let key = format!("{key}/write-once");
        let mut answers = Vec::new();
        let mut has_written = false;
        while answers.len() < MOST {
            let answer = gcs
                .send("PUT", &key, &[("x-goog-if-generation-match", "0")], &[])
                .await?;
            let probe_answer = probe_answer(&answer)?;
            let is_done = probe_answer.is_done();
            has_written |= is_done;
            answers.push(probe_answer);
            if !is_done {
                break;
            }
        }
        if has_written {
            gcs.send("DELETE", &key, &[], &[]).await?;
        }
        write_once(&answers)
    } else {
        WriteOnce::Unknown("the operator sends only read requests to this store".into())
    };
    gcs.findings.set_write_once(found);
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use hyper::body::Bytes;

    use super::*;

    fn of(status: u16, body: &str) -> Finding {
        let answer = Answer {
            status,
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_owned()),
        };
        finding(&answer, "media")
    }

    #[test]
    fn gcs_probe_answers_map_to_findings() {
        let xml = |code: &str| {
            format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>m</Message></Error>")
        };
        let reason = |status, code: &str| match of(status, &xml(code)) {
            Finding::Broken(reason, message) => {
                assert!(!message.contains("<"), "{message}");
                reason.as_str()
            }
            Finding::Usable => "usable",
            Finding::Unreachable(_) => "unreachable",
        };
        for (status, code, wanted) in [
            (404, "NoSuchKey", "usable"),
            (403, "AccessDenied", "usable"),
            (404, "NoSuchBucket", "BucketNotFound"),
            (403, "SignatureDoesNotMatch", "CredentialsRefused"),
            (403, "InvalidSecurity", "CredentialsRefused"),
            (401, "", "CredentialsRefused"),
            (403, "RequestTimeTooSkewed", "ClockSkewed"),
            (400, "ExpiredToken", "ClockSkewed"),
            (400, "UserProjectMissing", "CredentialsRefused"),
            (503, "ServiceUnavailable", "unreachable"),
            (301, "", "unreachable"),
        ] {
            assert_eq!(reason(status, code), wanted, "{status} {code}");
        }
        assert_eq!(of(200, "<Code>"), Finding::Usable);
        assert_eq!(of(404, "not found"), Finding::Usable);
    }
}
