//! Finds out what the server enforces.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{FutureExt, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use valet::{
    api::Reason,
    conformance::ConformanceReport,
    core::SignError,
    net::client::Answer,
    provider::{
        Finding, Probed, Prober,
        probe::{
            Base, ONLY_READ, ProbeAnswer, Sender, UnsignedHeaders, Variant, WriteOnce, by_download, by_upload,
            write_once,
        },
        probe_steps::{ProbeRead, ProbeSteps, probe},
    },
};

use super::{
    conformance,
    scheme::{Request, SHA256},
    store::{Memory, PROBE_KEY, code},
};

/// The SHA-256 of an empty body, in base64. The uploads of the probe have an empty body.
const EMPTY_SHA256: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
/// A SHA-256 in base64 that does not match an empty body.
const OTHER_SHA256: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// The maximum number of write-once uploads that the probe sends.
const MOST_UPLOADS: usize = 3;

impl Prober for Memory {
    fn probe(&self) -> BoxFuture<'_, Probed> {
        probe(self, &self.findings).boxed()
    }

    fn requires_probe(&self) -> bool {
        true
    }

    fn write_once_requires_probe(&self) -> bool {
        true
    }

    fn check_conformance(&self) -> BoxFuture<'_, ConformanceReport> {
        async {
            if let Some(not_testable) = self.findings.not_testable(self.allows_writes) {
                return not_testable;
            }
            let report = conformance::check(self, PROBE_KEY).await;
            self.findings.set_report(report.clone());
            report
        }
        .boxed()
    }

    fn seed_capabilities(&self, capabilities: &[String]) {
        self.findings.seed(capabilities);
    }

    fn skew(&self) -> Option<SignedDuration> {
        self.findings.clock.skew()
    }
}

impl ProbeSteps for Memory {
    fn read(&self) -> BoxFuture<'_, ProbeRead> {
        async {
            let request = self.request("GET", PROBE_KEY, &[]);
            match self.send(&request, &[], Vec::new()).await {
                Ok(answer) => ProbeRead {
                    finding: self.finding(&answer),
                    skew: self.findings.clock.skew(),
                    is_absent: code(&answer) == "NoSuchKey",
                },
                Err(e) => ProbeRead::of(Finding::from(e)),
            }
        }
        .boxed()
    }

    fn unsigned_headers(&self, _: bool) -> BoxFuture<'_, Result<UnsignedHeaders, Finding>> {
        async move {
            let probe = UnsignedHeaderProbe {
                memory: self,
                key: format!("{PROBE_KEY}/{}", Timestamp::now().as_nanosecond()),
                has_written: AtomicBool::new(false),
            };
            if !self.allows_writes {
                return by_download(&probe).await.map_err(Finding::from);
            }
            let found = by_upload(&probe).await;
            if probe.has_written.load(Ordering::Relaxed) {
                self.delete(&probe.key).await?;
            }
            found.map_err(Finding::from)
        }
        .boxed()
    }

    fn write_once(&self) -> BoxFuture<'_, Result<(), Finding>> {
        async {
            if self.findings.knows_write_once() {
                return Ok(());
            }
            if !self.allows_writes {
                self.findings.set_write_once(WriteOnce::Unknown(ONLY_READ.into()));
                return Ok(());
            }
            let key = format!("{PROBE_KEY}/write-once");
            let request = self.request("PUT", &key, &[("if-none-match", "*")]);
            let mut answers = Vec::new();
            while answers.len() < MOST_UPLOADS && answers.iter().all(ProbeAnswer::is_done) {
                answers.push(said(&self.send(&request, &[], Vec::new()).await?));
            }
            self.delete(&key).await?;
            self.findings.set_write_once(write_once(&answers));
            Ok(())
        }
        .boxed()
    }
}

impl Memory {
    /// Builds a request for an object with these signed headers.
    fn request(&self, method: &'static str, key: &str, headers: &[(&str, &str)]) -> Request {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Request {
            method,
            path: self.path(key),
            headers: headers.iter().map(owned).collect(),
            ..Request::default()
        }
    }

    /// Deletes an object. The request succeeds also if the object does not exist.
    pub async fn delete(&self, key: &str) -> Result<Answer, SignError> {
        self.send(&self.request("DELETE", key, &[]), &[], Vec::new()).await
    }

    fn finding(&self, answer: &Answer) -> Finding {
        match (answer.status, code(answer)) {
            (_, "NoSuchBucket") => Finding::Broken(
                Reason::BucketNotFound,
                format!(
                    "the store has no bucket {}; create the bucket, or correct the spec",
                    self.store.bucket
                ),
            ),
            (_, code @ ("InvalidAccessKey" | "SignatureDoesNotMatch" | "Expired")) => Finding::Broken(
                Reason::CredentialsRefused,
                format!("the store does not accept the access key ({code}); correct the Secret"),
            ),
            (200 | 403 | 404, _) => Finding::Usable,
            (status, _) => Finding::Unreachable(format!("the store answered {status}")),
        }
    }
}

/// Sends the requests that find out what the server does with unsigned headers.
struct UnsignedHeaderProbe<'a> {
    memory: &'a Memory,
    key: String,
    has_written: AtomicBool,
}

impl Sender for UnsignedHeaderProbe<'_> {
    type Error = SignError;

    fn send(&self, base: Base, variant: Variant) -> BoxFuture<'_, Result<ProbeAnswer, SignError>> {
        async move {
            let (method, signed) = match base {
                Base::BrokenUpload => ("PUT", &[(SHA256, OTHER_SHA256)][..]),
                Base::Upload => ("PUT", &[(SHA256, EMPTY_SHA256)][..]),
                Base::Download => ("GET", &[][..]),
            };
            let unsigned = match variant {
                Variant::Plain => &[][..],
                Variant::Copying => &[("x-memory-copy-source", "absent")][..],
                Variant::Marked => &[("x-memory-mark", "1")][..],
            };
            let request = self.memory.request(method, &self.key, signed);
            let said = said(&self.memory.send(&request, unsigned, Vec::new()).await?);
            if method == "PUT" && said.is_done() {
                self.has_written.store(true, Ordering::Relaxed);
            }
            Ok(said)
        }
        .boxed()
    }
}

fn said(answer: &Answer) -> ProbeAnswer {
    ProbeAnswer {
        status: answer.status,
        code: code(answer).to_owned(),
    }
}
