//! Finds out what an Azure container, or a store with the API of Azure, enforces.

use futures::{FutureExt, future::BoxFuture};
use jiff::SignedDuration;

use super::{conformance, limits::PROBE_BLOB, microsoft, store::AzureBlob};
use crate::{
    api::UnsignedHeaders,
    conformance::ConformanceReport,
    provider::{abilities::Prober, probe_steps, probed::Probed},
};

impl Prober for AzureBlob {
    fn probe(&self) -> BoxFuture<'_, Probed> {
        probe_steps::probe(self, &self.findings).boxed()
    }

    fn requires_probe(&self) -> bool {
        // Workloads and the operator can use different endpoints, and these endpoints can belong to different stores.
        // Therefore Valet checks both endpoints.
        let is_azures = self.is_microsofts() && microsoft::is_endpoint(&self.public_base());
        self.store.unsigned_headers == UnsignedHeaders::Refuse && !is_azures
    }

    fn check_conformance(&self) -> BoxFuture<'_, ConformanceReport> {
        async {
            if let Some(not_testable) = self.findings.not_testable(self.allows_writes()) {
                return not_testable;
            }
            let report = conformance::check(self, PROBE_BLOB).await;
            self.findings.set_report(report.clone());
            report
        }
        .boxed()
    }

    fn skew(&self) -> Option<SignedDuration> {
        self.findings.clock.skew()
    }
}
