//! Handles changes of a store's signing credentials. When the signing credentials change, Valet signs the credentials
//! of the store's grants again. The module also handles signing credentials that expire before the requested expiry
//! of a grant's credential.

use jiff::{SignedDuration, Timestamp};

use super::evaluator::Evaluator;
use crate::{
    api::{Reason, ShortSessions},
    core::{
        facts::{SecretView, Signer, StoreFact, StoreView},
        lifetime::{Lifetime, NoTime, add, hash},
        refusal::Refusal,
    },
};

/// When a store gets new signing credentials, Valet signs the credentials of the store's grants again within 120
/// seconds. A hash of each grant's UID decides when Valet signs the grant's credential. For 1000 grants, Valet signs
/// about 8 credentials per second.
pub const RESIGN_SPREAD: SignedDuration = SignedDuration::from_secs(120);

impl Evaluator<'_> {
    /// Returns the store's current signing credentials, if they are known.
    pub(super) fn signer(&self) -> Option<&Signer> {
        match &self.f.store {
            StoreFact::Usable(store) => store.signer.as_ref(),
            _ => None,
        }
    }

    /// Returns the time at which Valet must sign an issued credential again, because the store has new signing
    /// credentials. Returns `None` if the Secret has no annotation `signed-with`, because Valet then does not know
    /// which credentials signed the issued credential.
    pub(super) fn resign_at(&self, secret: &SecretView, credential: Lifetime) -> Option<Timestamp> {
        let signer = self.signer()?;
        let recorded = secret.signed_with.as_ref()?;
        if *recorded == signer.fingerprint {
            return None;
        }
        let spread = hash(&self.g.uid) % RESIGN_SPREAD.as_secs().unsigned_abs();
        let due = add(signer.since, SignedDuration::from_secs(spread.cast_signed()));
        Some(due).filter(|due| *due < self.end(credential))
    }

    /// Returns true if Valet refuses the grant now, because the store's signing credentials expire before the requested
    /// expiry. Valet then retries later, because the signing credentials are renewed automatically.
    pub(super) fn is_cut_short(&self) -> bool {
        let StoreFact::Usable(store) = &self.f.store else {
            return false;
        };
        let recorded_seconds = self.g.terms.expiration_seconds;
        let fresh = Lifetime::new(self.now, recorded_seconds, self.deadline(), store.credentials_expire);
        self.shortened_by_store(fresh, store).is_some()
    }

    /// Returns a refusal if Valet cannot issue a credential with the requested lifetime, because the access key that
    /// signs the credential expires earlier. Returns `None` if the store's owner allows a shorter lifetime.
    pub(super) fn shortened_by_store(&self, fresh: Result<Lifetime, NoTime>, store: &StoreView) -> Option<Refusal> {
        let (recorded_seconds, fresh) = (self.g.terms.expiration_seconds, fresh.ok()?);
        if store.short_sessions == ShortSessions::Truncate || !fresh.is_truncated(recorded_seconds, self.deadline()) {
            return None;
        }
        let end = store
            .credentials_expire
            .map_or_else(|| "earlier".to_owned(), |t| format!("at {t}"));
        let message = format!(
            "spec.expirationSeconds is {recorded_seconds}; the credentials of {store} expire {end}, and the store does not allow a shorter lifetime (shortSessions: Refuse); reduce spec.expirationSeconds to {max} or less, or ask the store's owner for longer sessions",
            store = self.g.terms.store_ref,
            max = fresh.seconds()
        );
        Some(Refusal {
            reason: Reason::ExpirationTooLong,
            message,
        })
    }
}
