//! The order of the steps of a probe, for all providers.

use futures::{FutureExt, future::BoxFuture};
use jiff::SignedDuration;

use super::{
    findings::Findings,
    probe::{UnsignedHeaders, notice},
    probed::{Finding, Probed},
};
use crate::{
    api::Reason,
    core::{MOST_SKEW, is_skewed, skewed},
};

/// The result of the read request with which a probe begins.
pub struct ProbeRead {
    /// The finding says whether the settings and the credentials of the store are correct.
    pub finding: Finding,
    /// The value says how far the store's clock is ahead of the operator's clock. It is `None` if the answer contained
    /// no time.
    pub skew: Option<SignedDuration>,
    /// This is true if the store reports that the requested object does not exist.
    pub is_absent: bool,
}

impl ProbeRead {
    /// Creates a result that contains only this finding.
    pub fn of(finding: Finding) -> Self {
        Self {
            finding,
            skew: None,
            is_absent: false,
        }
    }
}

/// The steps of a probe. Each provider implements them, and [`probe`] calls them in order.
///
/// If a step returns a finding as its error, the probe ends with this finding.
pub trait ProbeSteps: Sync {
    /// Sends a read request for an object that usually does not exist. The answer shows whether the bucket, the
    /// endpoint and the credentials are correct.
    fn read(&self) -> BoxFuture<'_, ProbeRead>;

    /// Checks settings that only this provider has.
    fn settings(&self) -> BoxFuture<'_, Result<(), Finding>> {
        std::future::ready(Ok(())).boxed()
    }

    /// Finds out what the store does with unsigned headers. The probe has already sent a GET request for an
    /// object. `is_absent` is true if this object does not exist.
    fn unsigned_headers(&self, is_absent: bool) -> BoxFuture<'_, Result<UnsignedHeaders, Finding>>;

    /// Finds out whether the store supports write-once uploads, unless Valet already knows it. The step records the
    /// result in the findings of the store.
    fn write_once(&self) -> BoxFuture<'_, Result<(), Finding>> {
        std::future::ready(Ok(())).boxed()
    }

    /// Returns further facts that users need to know before they create grants for this store. The list contains
    /// nothing about write-once uploads, because [`probe`] adds such a fact itself.
    fn notices(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Probes a store and records the result in its findings.
pub async fn probe(steps: &dyn ProbeSteps, findings: &Findings) -> Probed {
    let read = steps.read().await;
    let mut probed = Probed {
        skew: read.skew.filter(|skew| is_skewed(Some(*skew))),
        ..Probed::of(read.finding)
    };
    if probed.finding != Finding::Usable {
        return probed;
    }
    if let Some(skew) = probed.skew {
        // If the clock skew is large, the store can refuse a request because of the time in its signature. Such a
        // refusal does not show how the store handles unsigned headers.
        probed.not_reported = Some(skewed(skew));
        if skew.abs() >= MOST_SKEW {
            probed.finding = Finding::Broken(Reason::ClockSkewed, skewed(skew));
        }
        return probed;
    }
    if let Err(finding) = enforcement(steps, read.is_absent, &mut probed).await {
        probed.finding = finding;
    }
    probed.notices.extend(notice(&findings.write_once()));
    probed.notices.extend(steps.notices());
    findings.record(&probed);
    probed
}

async fn enforcement(steps: &dyn ProbeSteps, is_absent: bool, probed: &mut Probed) -> Result<(), Finding> {
    steps.settings().await?;
    match steps.unsigned_headers(is_absent).await? {
        UnsignedHeaders::Refused => probed.refuses_unsigned = Some(true),
        UnsignedHeaders::Obeyed => probed.refuses_unsigned = Some(false),
        UnsignedHeaders::Unknown(why) => probed.not_reported = Some(why),
    }
    steps.write_once().await
}
