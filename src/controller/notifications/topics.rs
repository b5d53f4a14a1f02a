use http::{Request, Uri};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::{
    sign::http::{Http, Unanswered},
    store::Subscription,
};

/// The SNS topics that may send. A topic asks first, and what it asks is to fetch an address.
pub struct Topics {
    arns: Vec<String>,
    /// One at a time: nobody needs more, and somebody with a token could ask for many.
    busy: Semaphore,
}

impl Topics {
    /// Topics by ARN; none: nothing is ever fetched.
    pub fn new(arns: Vec<String>) -> Self {
        Self {
            arns,
            busy: Semaphore::new(1),
        }
    }

    /// Confirms the subscription, if it is of one of the topics and leads to SNS itself. Says whether it did.
    pub async fn confirm(&self, subscription: &Subscription) -> bool {
        let Some(address) = subscription.to_fetch(&self.arns) else {
            warn!(
                "an SNS topic asked to be confirmed that --notifications-sns-topics does not name, or not by SNS' own address"
            );
            return false;
        };
        let Ok(_turn) = self.busy.try_acquire() else {
            return false;
        };
        match fetch(address).await {
            Ok(200..300) => {
                info!(topic = subscription.topic, "subscription confirmed");
                true
            }
            // No word of the address: it has a token in it.
            Ok(status) => {
                warn!(topic = subscription.topic, "SNS answered {status} to the confirmation");
                false
            }
            Err(why) => {
                warn!(topic = subscription.topic, "SNS could not be asked to confirm: {why}");
                false
            }
        }
    }
}

/// Redirects are not followed.
async fn fetch(address: Uri) -> Result<u16, Unanswered> {
    let request = Request::get(address)
        .body(Default::default())
        .map_err(|_| Unanswered::Malformed)?;
    Ok(Http::new(None).send(request).await?.status)
}
