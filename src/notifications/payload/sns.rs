//! Confirms the subscriptions of SNS topics.

/// An SNS topic sends this request to ask for the confirmation of a subscription.
#[derive(Clone, PartialEq, Eq)]
pub struct Subscription {
    /// This is the ARN of the SNS topic.
    pub topic: String,
    /// The URL that confirms the subscription. It contains a secret token.
    pub url: String,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl Subscription {
    /// Returns the confirmation URL if it belongs to SNS and the topic is in the list `topics`. Otherwise it returns
    /// `None`. Without this check, a sender with a valid token could make the operator send a request to any URL.
    pub fn to_fetch(&self, topics: &[String]) -> Option<http::Uri> {
        if !topics.contains(&self.topic) {
            return None;
        }
        let uri: http::Uri = self.url.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let region = authority.strip_prefix("sns.").and_then(|rest| {
            rest.strip_suffix(".amazonaws.com")
                .or_else(|| rest.strip_suffix(".amazonaws.com.cn"))
        })?;
        let is_region = !region.is_empty() && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let confirms = uri.query()?.split('&').any(|pair| pair == "Action=ConfirmSubscription");
        (uri.scheme_str() == Some("https") && is_region && uri.path() == "/" && confirms).then_some(uri)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Notification, tests::parse};

    #[test]
    fn subscription_is_confirmed_only_at_sns_and_for_named_topics() {
        let topic = "arn:aws:sns:eu-west-1:111122223333:uploads";
        let good = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn:aws:sns:eu-west-1:111122223333:uploads&Token=2336412f37f";
        let of = |url: &str| {
            let body = json!({"Type": "SubscriptionConfirmation", "TopicArn": topic, "SubscribeURL": url, "Token": "2336412f37f"});
            match parse(body.to_string().as_bytes()) {
                Ok(Notification::Subscription(s)) => s,
                other => panic!("{other:?}"),
            }
        };
        let topics = [topic.to_owned()];
        assert!(of(good).to_fetch(&topics).is_some());
        assert!(of(&good.replace(".com/", ".com.cn/")).to_fetch(&topics).is_some());
        assert!(of(good).to_fetch(&[]).is_none());
        assert!(
            of(good)
                .to_fetch(&["arn:aws:sns:eu-west-1:1:other".to_owned()])
                .is_none()
        );
        assert!(!format!("{:?}", of(good)).contains("2336412f37f"));
        for bad in [
            good.replace("https", "http"),
            good.replace(
                "sns.eu-west-1.amazonaws.com",
                "sns.eu-west-1.amazonaws.com.evil.example",
            ),
            good.replace("sns.eu-west-1.amazonaws.com", "sns.evil.example/.amazonaws.com"),
            good.replace("sns.eu-west-1.amazonaws.com", "sns.a.b.amazonaws.com"),
            good.replace("sns.eu-west-1.amazonaws.com", "sns..amazonaws.com"),
            good.replace("sns.eu-west-1.amazonaws.com", "sns.amazonaws.com"),
            good.replace("sns.eu-west-1.amazonaws.com", "evil@sns.eu-west-1.amazonaws.com"),
            good.replace("sns.eu-west-1.amazonaws.com", "sns.evil@10.0.0.1.amazonaws.com"),
            good.replace("amazonaws.com", "amazonaws.com:8443"),
            good.replace("sns.eu-west-1.amazonaws.com", "sqs.eu-west-1.amazonaws.com"),
            good.replace("ConfirmSubscription", "Unsubscribe"),
            good.replace("/?", "/x?"),
            String::new(),
            "https://".into(),
        ] {
            assert!(of(&bad).to_fetch(&topics).is_none(), "{bad}");
        }
    }
}
