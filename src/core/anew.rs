//! Credentials that move: keys are signed anew when what signed them is replaced, and what happens where sessions are
//! shorter than what a grant asks for.

use jiff::{SignedDuration, Timestamp};

use super::{
    decide::Judge,
    facts::{SecretView, Signer, StoreFact, StoreView},
    lifetime::{Lifetime, NoTime, add},
    policy::Refusal,
    renewal::hash,
};
use crate::api::{Reason, ShortSessions};

/// Keys whose store signs with something else now are signed anew over this time, by their grants' UIDs: a thousand of
/// them eight a second.
pub const ANEW_SPREAD: SignedDuration = SignedDuration::from_secs(120);

impl Judge<'_> {
    /// What the store signs with now, if that is known.
    pub(super) fn signer(&self) -> Option<&Signer> {
        match &self.f.store {
            StoreFact::Usable(store) => store.signer.as_ref(),
            _ => None,
        }
    }

    /// When a key that is out is to be signed anew since its store signs with something else now, if it is. A Secret that
    /// does not say with what it was signed, from before Valet wrote that down, stays as it is.
    pub(super) fn anew_at(&self, secret: &SecretView, key: Lifetime) -> Option<Timestamp> {
        let signer = self.signer()?;
        let recorded = secret.signed_with.as_ref()?;
        if *recorded == signer.fingerprint {
            return None;
        }
        let spread = hash(&self.g.uid) % ANEW_SPREAD.as_secs().unsigned_abs();
        let due = add(signer.since, SignedDuration::from_secs(spread.cast_signed()));
        Some(due).filter(|due| *due < self.end(key))
    }

    /// Whether that is why there is none now: then nobody need change anything, since sessions are renewed without a word.
    pub(super) fn is_cut_short(&self) -> bool {
        let StoreFact::Usable(store) = &self.f.store else {
            return false;
        };
        let asked = self.g.terms.expiration_seconds;
        let fresh = Lifetime::new(self.now, asked, self.deadline(), store.credentials_expire);
        self.cut_short(fresh, store).is_some()
    }

    /// Why there is no new key, where the store's owner wants none that its credentials cut short.
    pub(super) fn cut_short(&self, fresh: Result<Lifetime, NoTime>, store: &StoreView) -> Option<Refusal> {
        let (asked, fresh) = (self.g.terms.expiration_seconds, fresh.ok()?);
        if store.short_sessions == ShortSessions::Truncate || !fresh.is_truncated(asked, self.deadline()) {
            return None;
        }
        let end = store.credentials_expire.map_or(String::new(), |t| format!(" at {t}"));
        let message = format!(
            "spec.expirationSeconds is {asked}; the credentials of {} end{end}, and its owner wants no key that they cut short (shortSessions: Refuse): ask for at most {}, or ask the owner for longer sessions",
            self.g.terms.store_ref,
            fresh.seconds()
        );
        Some(Refusal {
            reason: Reason::ExpirationTooLong,
            message,
        })
    }
}
