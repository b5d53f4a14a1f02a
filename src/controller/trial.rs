//! Trying stores out: what came of it, how long that holds, and who has yet to hear of it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use super::{slot::FRESHNESS, stores::Why};
use crate::{
    api::Reason,
    sign::{Canary, Finding, Probed, Provider},
};

/// What came of trying a store out. One trial serves every grant of the store.
#[derive(Default)]
pub struct Trial {
    last: AsyncMutex<Option<Outcome>>,
    /// Whether something else came of it than before, and the store's grants have not been called since.
    is_news: AtomicBool,
}

/// What a store turned out to be like.
#[derive(Clone)]
pub struct Outcome {
    when: Instant,
    /// What the last trial showed.
    pub probed: Probed,
    /// And a round trip with real keys, if somebody asked for it.
    pub canary: Option<Tried>,
    /// Whether the store has answered in any trial.
    has_answered: bool,
}

/// A round trip with real keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// What asked for it.
    pub request: String,
    /// When it was made.
    pub when: Timestamp,
    /// What it found.
    pub found: Canary,
}

impl Trial {
    /// The last result, tried again if it is older than its kind may be. `request` is what asks for a round trip with real
    /// keys.
    pub async fn result(
        &self,
        provider: &dyn Provider,
        request: Option<&String>,
        age: fn(&Outcome) -> Duration,
    ) -> Outcome {
        let mut last = self.last.lock().await;
        if let Some(outcome) = last.as_ref()
            && outcome.when.elapsed() < age(outcome)
        {
            return outcome.clone();
        }
        let probed = provider.probe().await;
        // One round trip for each request, unless it was cut short.
        let before = last.as_ref().and_then(|outcome| outcome.canary.clone());
        let canary = match (request, before) {
            (Some(_), Some(done)) if !done.found.interrupted => Some(done),
            (Some(request), _) if probed.finding == Finding::Usable => Some(Tried {
                request: request.clone(),
                found: provider.canary().await,
                when: Timestamp::now(),
            }),
            (_, before) => before,
        };
        let outcome = Outcome {
            when: Instant::now(),
            has_answered: probed.finding == Finding::Usable || last.as_ref().is_some_and(|o| o.has_answered),
            probed,
            canary,
        };
        let before = last.replace(outcome.clone());
        let is_news = before.is_some_and(|before| {
            before.probed != outcome.probed
                || before.canary.map(|c| c.found) != outcome.canary.clone().map(|c| c.found)
        });
        if is_news {
            self.is_news.store(true, Ordering::Release);
        }
        outcome
    }

    /// Whether something else came of it than before, since this was last asked: whoever tried, for a grant or for the
    /// status.
    pub fn take_news(&self) -> bool {
        self.is_news.swap(false, Ordering::AcqRel)
    }
}

impl Outcome {
    /// Why no key is to be signed, whatever it says. `is_to_be_tried`: whether somebody has asked for a round trip with real
    /// keys.
    pub fn forbids(&self, is_to_be_tried: bool) -> Option<Why> {
        let worthless = self.canary.as_ref().and_then(|tried| tried.found.worthless.as_ref());
        match &self.probed.finding {
            Finding::Broken(reason, message) => Some((*reason, message.clone())),
            // Whoever wants a store tried out wants no keys before: some would be weaker than their grants, and some that are
            // out would be withdrawn since nobody has tried yet.
            Finding::Unreachable(why) if is_to_be_tried && self.canary.is_none() => Some((
                Reason::StoreUnreachable,
                format!("it is to be tried out with real keys first, and does not answer: {why}"),
            )),
            Finding::Usable | Finding::Unreachable(_) => {
                worthless.map(|message| (Reason::KeysNotEnforced, message.clone()))
            }
        }
    }

    /// Why it is not known yet what the store holds keys to, where that has to be seen: it has not answered, neither now
    /// nor before.
    pub fn untried(&self, provider: &dyn Provider) -> Option<&str> {
        match &self.probed.finding {
            Finding::Unreachable(why) if !self.has_answered && provider.rests_on_trial() => Some(why),
            _ => None,
        }
    }
}

/// How old a result may be by which a key is signed: what a store enforces does not change by itself, and what is broken
/// is looked at again by the store's own sweep. One that did not answer is asked again, though not by every grant.
pub fn age_for_grants(outcome: &Outcome) -> Duration {
    match outcome.probed.finding {
        Finding::Usable | Finding::Broken(..) => Duration::MAX,
        Finding::Unreachable(_) => FRESHNESS,
    }
}

/// How old a result may be in a store's status: a minute for what should change soon.
pub fn age_for_status(outcome: &Outcome) -> Duration {
    let is_interrupted = outcome.canary.as_ref().is_some_and(|c| c.found.interrupted);
    match outcome.probed.finding {
        Finding::Usable if !is_interrupted => Duration::from_secs(300),
        Finding::Usable | Finding::Broken(..) | Finding::Unreachable(_) => Duration::from_secs(50),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::{FutureExt, future::BoxFuture};

    use super::*;
    use crate::{
        api::Capabilities,
        grant::{Access, AllowedRequest, ObjectFact},
        sign::{SignError, Signed},
    };

    /// A store that answers what it is told to.
    struct Store(Mutex<Finding>);

    impl Provider for Store {
        fn name(&self) -> &'static str {
            "test"
        }
        fn capabilities(&self) -> Arc<Capabilities> {
            Arc::default()
        }
        fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
            std::future::ready(Ok(None)).boxed()
        }
        fn sign<'a>(&'a self, _: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
            std::future::ready(Err(SignError::Refused("a test".into()))).boxed()
        }
        fn rests_on_trial(&self) -> bool {
            true
        }
        fn probe(&self) -> BoxFuture<'_, Probed> {
            let probed = Probed {
                finding: self.0.lock().unwrap().clone(),
                skew: None,
                refuses_unsigned: None,
            };
            std::future::ready(probed).boxed()
        }
        fn look<'a>(&'a self, _: &'a Access) -> BoxFuture<'a, ObjectFact> {
            std::future::ready(ObjectFact::Absent).boxed()
        }
    }

    const AT_ONCE: fn(&Outcome) -> Duration = |_| Duration::ZERO;

    /// What a grant's visit finds out is news for all others, until they were called.
    #[tokio::test]
    async fn what_a_grant_finds_out_is_news_for_all() {
        let (store, trial) = (Store(Mutex::new(Finding::Unreachable("away".into()))), Trial::default());
        trial.result(&store, None, AT_ONCE).await;
        assert!(!trial.take_news(), "of the first result there is no news");
        *store.0.lock().unwrap() = Finding::Usable;
        trial.result(&store, None, AT_ONCE).await;
        // The status comes later, and its own trial shows nothing new.
        trial.result(&store, None, AT_ONCE).await;
        assert!(trial.take_news());
        assert!(!trial.take_news());
    }

    /// On both sides of each line: what a store is like, whether it is to be tried with real keys and was, and what of it.
    #[test]
    fn when_no_key_is_signed() {
        let outcome = |finding, canary: Option<Canary>| Outcome {
            when: Instant::now(),
            probed: Probed {
                finding,
                skew: None,
                refuses_unsigned: None,
            },
            canary: canary.map(|found| Tried {
                request: "now".into(),
                when: Timestamp::UNIX_EPOCH,
                found,
            }),
            has_answered: false,
        };
        let away = || Finding::Unreachable("away".into());
        let broken = || Finding::Broken(Reason::BucketNotFound, "none".into());
        let good = || Some(Canary::default());
        let bad = || {
            Some(Canary {
                worthless: Some("bad".into()),
                ..Canary::default()
            })
        };
        for (finding, canary, is_to_be_tried, expected) in [
            (Finding::Usable, None, false, None),
            (Finding::Usable, None, true, None),
            (Finding::Usable, good(), true, None),
            (Finding::Usable, bad(), true, Some(Reason::KeysNotEnforced)),
            (away(), None, false, None),
            (away(), None, true, Some(Reason::StoreUnreachable)),
            (away(), good(), true, None),
            (away(), bad(), true, Some(Reason::KeysNotEnforced)),
            (broken(), None, false, Some(Reason::BucketNotFound)),
            (broken(), bad(), true, Some(Reason::BucketNotFound)),
        ] {
            let case = format!("{finding:?} {canary:?} {is_to_be_tried}");
            let forbids = outcome(finding, canary).forbids(is_to_be_tried);
            assert_eq!(forbids.map(|(reason, _)| reason), expected, "{case}");
        }
    }

    #[tokio::test]
    async fn a_store_is_untried_until_it_answers() {
        let away = || Finding::Unreachable("away".into());
        let (store, trial) = (Store(Mutex::new(away())), Trial::default());
        let untried = async || {
            let outcome = trial.result(&store, None, AT_ONCE).await;
            outcome.untried(&store).map(str::to_owned)
        };
        assert_eq!(untried().await.as_deref(), Some("away"));
        *store.0.lock().unwrap() = Finding::Usable;
        assert_eq!(untried().await, None);
        // What was seen once holds while it is away.
        *store.0.lock().unwrap() = away();
        assert_eq!(untried().await, None);
    }
}
