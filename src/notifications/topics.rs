use http::{Request, Uri};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::scope::{NamedSender, SenderScope};
use crate::{
    net::client::{Http, Unanswered},
    notifications::Subscription,
};

/// The SNS topics whose subscriptions Valet confirms. The first message of an SNS topic asks for this confirmation and
/// contains a URL. To confirm the subscription, Valet sends a request to this URL.
pub struct Topics {
    topics: Vec<NamedSender>,
    /// Valet confirms only one subscription at a time, because a sender with a valid token could request many
    /// confirmations.
    busy: Semaphore,
}

impl Topics {
    /// Creates the list of SNS topics. For each topic, the list names the stores for which this topic is allowed to
    /// send notifications. If the list is empty, Valet confirms no subscription.
    pub fn new(topics: Vec<NamedSender>) -> Self {
        Self {
            topics,
            busy: Semaphore::new(1),
        }
    }

    /// Confirms a subscription if its topic is in the list and the confirmation URL belongs to SNS. Returns true if
    /// Valet confirmed the subscription.
    ///
    /// The token of the request must be valid only for stores that are configured for the topic. Otherwise the owner of
    /// one store could use the token of this store to subscribe Valet to a topic of other stores.
    pub async fn confirm(&self, subscription: &Subscription, sender: &SenderScope) -> bool {
        let scope = NamedSender::scope_of(&self.topics, &subscription.topic);
        let named: &[_] = match scope.is_empty() {
            true => &[],
            false => std::slice::from_ref(&subscription.topic),
        };
        let Some(address) = subscription.to_fetch(named) else {
            warn!(
                "an SNS subscription was not confirmed: --notifications-sns-topics does not name the topic, or the confirmation URL does not belong to SNS"
            );
            return false;
        };
        if !sender.is_within(&scope) {
            warn!(
                topic = subscription.topic,
                "an SNS subscription was not confirmed: the token of the request is valid for stores that are not configured for this topic; add these stores with --notifications-sns-topics TOPIC=STORE"
            );
            return false;
        }
        let Ok(_turn) = self.busy.try_acquire() else {
            return false;
        };
        match fetch(address).await {
            Ok(200..300) => {
                info!(topic = subscription.topic, "SNS subscription confirmed");
                true
            }
            // Valet does not log the URL, because the URL contains a secret token.
            Ok(status) => {
                warn!(
                    topic = subscription.topic,
                    "SNS answered the confirmation request with status {status}"
                );
                false
            }
            Err(why) => {
                warn!(
                    topic = subscription.topic,
                    "the confirmation request to SNS failed: {why}"
                );
                false
            }
        }
    }
}

/// Sends a GET request. It does not follow redirects.
async fn fetch(address: Uri) -> Result<u16, Unanswered> {
    let request = Request::get(address)
        .body(Default::default())
        .map_err(|_| Unanswered::Malformed)?;
    Ok(Http::new(None).send(request).await?.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Valet must refuse each of these subscriptions without a request to SNS.
    #[tokio::test]
    async fn topic_is_confirmed_only_with_a_token_of_its_own_stores() {
        let topic = "arn:aws:sns:eu-west-1:111122223333:uploads";
        let topics = Topics::new(vec![format!("{topic}=media").parse().unwrap()]);
        let subscription = |topic: &str| Subscription {
            topic: topic.into(),
            url: "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=2336412f37f".into(),
        };
        let scope = |words: &[&str]| SenderScope::read(words.iter().copied()).unwrap();
        for (topic, sender) in [
            ("arn:aws:sns:eu-west-1:111122223333:other", &["media"][..]),
            (topic, &["team-a/media"]),
            (topic, &["media", "team-a/media"]),
            (topic, &["*"]),
        ] {
            assert!(
                !topics.confirm(&subscription(topic), &scope(sender)).await,
                "{sender:?}"
            );
        }
    }
}
