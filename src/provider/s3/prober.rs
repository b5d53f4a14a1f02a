//! Finds out what an S3 store enforces.

use futures::{FutureExt, future::BoxFuture};
use jiff::SignedDuration;

use super::{amazon, conformance, probe, store::S3};
use crate::{
    api::store::s3::S3Store,
    conformance::ConformanceReport,
    provider::{abilities::Prober, probed::Probed},
};

impl Prober for S3 {
    fn probe(&self) -> BoxFuture<'_, Probed> {
        probe::probe(self).boxed()
    }

    fn requires_probe(&self) -> bool {
        !self.is_safe() && !amazon::is_store(&self.store)
    }

    fn write_once_requires_probe(&self) -> bool {
        !amazon::is_store(&self.store)
    }

    fn check_conformance(&self) -> BoxFuture<'_, ConformanceReport> {
        async {
            if let Some(not_testable) = self.findings.not_testable(self.allows_writes()) {
                return not_testable;
            }
            // The conformance check signs URLs for the operator's endpoint, because the operator possibly cannot
            // reach the public endpoint.
            let store = S3Store {
                public_endpoint: None,
                ..self.store.clone()
            };
            let inside = Self::new(store, self.sessions.source(), self.egress.clone());
            let (report, tags_are_md5) = conformance::check(&inside, self.probe_key()).await;
            self.findings.set_report(report.clone());
            self.set_tags_are_md5(tags_are_md5);
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
