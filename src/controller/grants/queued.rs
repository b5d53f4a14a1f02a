//! Calculates the pause of a grant that must wait, because too many reconciles already use its store.

use std::time::Duration;

use jiff::Timestamp;

use crate::{controller::namespace_limiter::QUEUED_PAUSE, core::GrantFacts};

/// The maximum pause before Valet repeats a failed reconcile.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Returns the pause of a grant that waits in the queue of its store. Normally the limiter of the store enqueues the grant
/// earlier.
///
/// If the limiter does not enqueue the grant, the grant tries again after a pause. The pause is longer if more rounds
/// come before the grant. The pause ends at the latest when the grant's credential expires, so that Valet deletes the
/// Secret in time.
pub(super) fn pause_in_queue(grant: &GrantFacts, rounds: usize, now: Timestamp) -> Duration {
    let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
    let pause = QUEUED_PAUSE.saturating_mul(rounds).min(LONGEST_PAUSE);
    let ends = [&grant.status.expiration_time, &grant.terms.deadline_time];
    let next = ends.into_iter().flatten().map(|t| t.0).filter(|t| *t > now).min();
    let next = next.and_then(|t| Duration::try_from(t.duration_since(now)).ok());
    next.map_or(pause, |next| next.min(pause))
}
