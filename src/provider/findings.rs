//! Remembers what probes and conformance checks have found out about one store.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use super::{
    clock::StoreClock,
    lock::lock,
    probe::{ONLY_READ, WriteOnce},
    probed::{Finding, Probed},
};
use crate::{
    api::{Capabilities, Capability},
    conformance::{ConformanceReport, Missing},
};

/// The capability of a store to enforce the prefix of a POST form: the form cannot write an object outside its prefix.
const KEY_PREFIX: Missing = Missing::Form(Capability::KeyPrefix);

/// The results of the probes and conformance checks of one store.
#[derive(Debug, Default)]
pub struct Findings {
    /// The clock of the store. Valet reads the time from the `Date` headers of the store's answers.
    pub clock: StoreClock,
    /// This is true if at least one probe of the store has finished.
    is_probed: AtomicBool,
    /// This is true if the store refuses unsigned headers. It is `None` until a probe has shown what the store does
    /// with unsigned headers.
    refuses_unsigned: Mutex<Option<bool>>,
    /// The behavior of the store for write-once uploads. It is `None` until a probe has tested write-once uploads.
    write_once: Mutex<Option<WriteOnce>>,
    /// This is true if the bucket accepts only uploads with a checksum.
    requires_checksums: AtomicBool,
    /// The result of the last conformance check. It is `None` before the first check.
    report: Mutex<Option<ConformanceReport>>,
    /// This is true if another process of Valet found that a POST form for a key prefix cannot write outside the
    /// prefix.
    keeps_prefix: AtomicBool,
}

/// What Valet knows about a store without a probe. The values come from the vendor's documentation and from the
/// settings of the store.
#[derive(Clone, Copy, Debug)]
pub struct Documented {
    /// This is true if unsigned headers cannot do harm in this store, or if the owner of the store tolerates them.
    pub unsigned_headers_are_harmless: bool,
    /// This is true if the vendor documents that the store refuses unsigned headers.
    pub refuses_unsigned: bool,
    /// This is true if the vendor documents that the store supports write-once uploads.
    pub write_once: bool,
    /// This is true if the vendor documents that a POST form for a key prefix cannot write outside the prefix.
    pub keeps_prefix: bool,
    /// This is true if the operator is allowed to send write requests to the store.
    pub may_write: bool,
}

impl Findings {
    /// Records the result of a probe. If this probe did not show what the store does with unsigned headers, Valet keeps
    /// the result of an earlier probe.
    pub fn record(&self, probed: &Probed) {
        if probed.refuses_unsigned.is_some() {
            *lock(&self.refuses_unsigned) = probed.refuses_unsigned;
        }
        if probed.finding == Finding::Usable && probed.skew.is_none() {
            self.is_probed.store(true, Ordering::Release);
        }
    }

    /// Returns true if a probe has shown whether the store supports write-once uploads.
    pub fn knows_write_once(&self) -> bool {
        matches!(
            &*lock(&self.write_once),
            Some(WriteOnce::Enforced | WriteOnce::Missing(_))
        )
    }

    /// Returns the behavior of the store for write-once uploads, or `None` before a probe.
    pub fn write_once(&self) -> Option<WriteOnce> {
        lock(&self.write_once).clone()
    }

    /// Records the behavior of the store for write-once uploads.
    pub fn set_write_once(&self, found: WriteOnce) {
        *lock(&self.write_once) = Some(found);
    }

    /// Returns true if the bucket accepts only uploads with a checksum.
    pub fn requires_checksums(&self) -> bool {
        self.requires_checksums.load(Ordering::Relaxed)
    }

    /// Records whether the bucket accepts only uploads with a checksum.
    pub fn set_requires_checksums(&self, requires: bool) {
        self.requires_checksums.store(requires, Ordering::Relaxed);
    }

    /// Records the result of a conformance check.
    pub fn set_report(&self, report: ConformanceReport) {
        *lock(&self.report) = Some(report);
    }

    /// Takes over results of a conformance check that another process of Valet ran. `capabilities` is the list from
    /// `status.capabilities`.
    pub fn seed(&self, capabilities: &[String]) {
        let keeps = capabilities.iter().any(|name| *name == KEY_PREFIX.name());
        self.keeps_prefix.store(keeps, Ordering::Relaxed);
    }

    /// Checks whether a conformance check can run now. If the check cannot run, the method returns a report with the
    /// reason. Otherwise it returns `None`.
    pub fn not_testable(&self, may_write: bool) -> Option<ConformanceReport> {
        if !may_write {
            let why = format!("{ONLY_READ}; this check sends write requests");
            return Some(ConformanceReport::not_tested(why, false));
        }
        Some(ConformanceReport::not_tested(self.clock.problem()?, true))
    }

    /// Returns the capabilities of the store: the assumed capabilities, without those that a probe or a conformance
    /// check found missing.
    ///
    /// If a probe could not find out whether the store has a capability, the capability counts as missing. Before the
    /// first probe, the capability counts as present. This is safe, because Valet signs nothing that depends on the
    /// capability before the first probe.
    pub fn apply(&self, assumed: &Capabilities, documented: Documented) -> Arc<Capabilities> {
        let is_probed = self.is_probed.load(Ordering::Acquire);
        let enforces = |found: Option<bool>, documented: bool| found.unwrap_or(documented || !is_probed);
        let signed_headers_only = documented.unsigned_headers_are_harmless
            || enforces(*lock(&self.refuses_unsigned), documented.refuses_unsigned);
        let found = match &*lock(&self.write_once) {
            Some(WriteOnce::Enforced) => Some(true),
            Some(WriteOnce::Missing(_)) => Some(false),
            Some(WriteOnce::Unknown(_)) | None => None,
        };
        let write_once = enforces(found, documented.write_once);
        let report = lock(&self.report).clone().unwrap_or_default();
        let mut can = assumed.clone();
        let keeps_prefix =
            documented.keeps_prefix || report.enforces(KEY_PREFIX) || self.keeps_prefix.load(Ordering::Relaxed);
        if keeps_prefix && let Some(form) = &mut can.post_form {
            form.insert(Capability::KeyPrefix);
        }
        for (has, capability) in [
            (signed_headers_only, Capability::SignedHeadersOnly),
            (write_once, Capability::WriteOnce),
        ] {
            if !has {
                can.enforced.remove(&capability);
                can.multipart.as_mut().map(|parts| parts.remove(&capability));
                can.resumable.as_mut().map(|sessions| sessions.remove(&capability));
            }
        }
        if !documented.may_write {
            // The operator initiates and completes each multipart upload with write requests. If the operator is not
            // allowed to send write requests, Valet cannot offer multipart uploads for this store.
            can.multipart = None;
            can.only_read = true;
        }
        can.wants_checksums = self.requires_checksums();
        report.narrow(&mut can);
        Arc::new(can)
    }
}
