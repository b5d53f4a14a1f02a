//! Finds out what Google Cloud Storage, or a store with its API, enforces.

use futures::{FutureExt, future::BoxFuture};
use jiff::SignedDuration;

use super::{conformance, google, store::Gcs};
use crate::{
    conformance::ConformanceReport,
    provider::{abilities::Prober, probe_steps, probed::Probed},
};

impl Prober for Gcs {
    fn probe(&self) -> BoxFuture<'_, Probed> {
        probe_steps::probe(self, &self.findings).boxed()
    }

    fn requires_probe(&self) -> bool {
        !google::is_store(&self.store)
    }

    fn write_once_requires_probe(&self) -> bool {
        !google::is_store(&self.store)
    }

    fn check_conformance(&self) -> BoxFuture<'_, ConformanceReport> {
        async {
            if let Some(not_testable) = self.findings.not_testable(self.allows_writes()) {
                return not_testable;
            }
            let report = conformance::check(self, self.probe_key()).await;
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
