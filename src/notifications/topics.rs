use http::{Request, Uri};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::scope::{NamedSender, SenderScope};
use crate::{
    net::client::{Http, Unanswered},
    notifications::Subscription,
};

/// The SNS topics that may send. A topic asks first, and what it asks is to fetch an address.
pub struct Topics {
    topics: Vec<NamedSender>,
    /// One at a time: nobody needs more, and somebody with a token could ask for many.
    busy: Semaphore,
}

impl Topics {
    /// Topics by ARN, and the stores that each may report objects of; none: nothing is ever fetched.
    pub fn new(topics: Vec<NamedSender>) -> Self {
        Self {
            topics,
            busy: Semaphore::new(1),
        }
    }

    /// Confirms the subscription, if it is of one of the topics and leads to SNS itself. Says whether it did. The messages
    /// will come with the token that came now: it must stand for no store that is not the topic's, or whoever has a token for a
    /// store of their own could subscribe it to news of everybody's.
    pub async fn confirm(&self, subscription: &Subscription, sender: &SenderScope) -> bool {
        let scope = NamedSender::scope_of(&self.topics, &subscription.topic);
        let named: &[_] = match scope.is_empty() {
            true => &[],
            false => std::slice::from_ref(&subscription.topic),
        };
        let Some(address) = subscription.to_fetch(named) else {
            warn!(
                "an SNS topic asked to be confirmed that --notifications-sns-topics does not name, or not by SNS' own address"
            );
            return false;
        };
        if !sender.is_within(&scope) {
            warn!(
                topic = subscription.topic,
                "an SNS topic asked to be confirmed with a token that stands for other stores than the topic; name them with --notifications-sns-topics TOPIC=STORE"
            );
            return false;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is fetched: both refusals come before that.
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
