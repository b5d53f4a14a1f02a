use std::time::Duration;

use axum::body::Bytes;
use http::{Request, Uri};
use http_body_util::Empty;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::store::Subscription;

/// How long SNS may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

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
        match tokio::time::timeout(TIMEOUT, fetch(address)).await {
            Ok(Ok(status)) if status.is_success() => {
                info!(topic = subscription.topic, "subscription confirmed");
                true
            }
            // No word of the address: it has a token in it.
            Ok(Ok(status)) => {
                warn!(topic = subscription.topic, "SNS answered {status} to the confirmation");
                false
            }
            Ok(Err(why)) => {
                warn!(topic = subscription.topic, "SNS could not be asked to confirm: {why}");
                false
            }
            Err(_) => {
                warn!(topic = subscription.topic, "SNS did not answer within {TIMEOUT:?}");
                false
            }
        }
    }
}

/// Redirects are not followed.
async fn fetch(address: Uri) -> Result<http::StatusCode, &'static str> {
    let connector = HttpsConnectorBuilder::new()
        .with_native_roots()
        .map_err(|_| "there are no CA certificates")?
        .https_only()
        .enable_http1()
        .build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(address)
        .body(Empty::new())
        .map_err(|_| "the address cannot be asked")?;
    let answer = client.request(request).await.map_err(|_| "no connection")?;
    Ok(answer.status())
}
