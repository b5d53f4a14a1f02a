use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::future::{join, join_all};
use tokio::net::TcpListener;
use tracing::{debug, info};

use super::{
    google::GoogleTokens,
    relay::{Leader, RELAYED, forward_to_leader},
    scope::SenderScope,
    tokens::Tokens,
    topics::Topics,
    upload_index::UploadIndex,
};
use crate::{
    core::Shard,
    notifications::{MAX_NOTIFICATION_BYTES, Notification, parse_notification, payload::Malformed},
    telemetry::{Bounds, Health, Metrics, answer},
};

/// The notification receiver accepts requests only at this URL path.
pub const PATH: &str = "/notifications";

/// A CloudEvents validation request and the answer to it contain these headers.
const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");
/// Event Grid sends this origin in a validation request ("Endpoint validation with CloudEvents schema").
const EVENT_GRID: &str = "eventgrid.azure.net";
/// The maximum length of an origin. An origin is a DNS name.
const MAX_ORIGIN: usize = 253;

/// The connection limits of the notification receiver. Stores send one short message per connection. One connection
/// can need memory for a message of 512 KiB. With these limits, all connections together use at most 32 MiB.
const BOUNDS: Bounds = Bounds {
    connections: 64,
    headers: Duration::from_secs(5),
    whole: Duration::from_secs(10),
};
/// The value of the `Retry-After` header, in seconds. A replica needs only some seconds to start or to become the
/// leader.
const RETRY_AFTER: &str = "2";

/// The HTTP server that receives notifications from stores.
pub struct Receiver {
    /// The sender tokens that the receiver accepts.
    pub tokens: Tokens,
    /// The verifier of Google identity tokens. It is `None` if no Google account is configured.
    pub google: Option<GoogleTokens>,
    /// The index of the uploads that grants wait for.
    pub upload_index: Arc<UploadIndex>,
    /// The SNS topics whose subscriptions Valet confirms.
    pub topics: Topics,
    /// The health state of this replica. The state tells whether the replica is ready and whether it is the leader.
    pub health: Health,
    /// The address of the leader. If this replica is not the leader, it forwards notifications to this address.
    pub leader: Arc<Leader>,
    /// The shard of this replica.
    pub shard: Shard,
    /// The other shards and their leaders. A notification can arrive at a replica of any shard.
    pub others: Vec<(Shard, Arc<Leader>)>,
    pub metrics: Arc<Metrics>,
}

impl Receiver {
    /// Serves notifications until the operator stops.
    ///
    /// # Errors
    /// Returns a message if the receiver cannot listen on the address.
    pub async fn serve(self, address: SocketAddr) -> Result<(), String> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| format!("cannot listen on --notifications-address {address}: {e}"))?;
        info!(%address, "the notification receiver is ready");
        let app = Router::new()
            .route(PATH, post(take).options(permit))
            .with_state(Arc::new(self));
        // Some clients, such as versitygw, never close their connections. The limits close each connection after 10
        // seconds. Otherwise these clients would use up all connections.
        answer(listener, app, BOUNDS, "a notification").await;
        Ok(())
    }

    /// Returns the stores for which the sender of this request is allowed to send notifications. Returns `None` if
    /// Valet does not know the sender.
    async fn authenticate(&self, headers: &HeaderMap) -> Option<SenderScope> {
        match (self.tokens.authenticate(headers).await, &self.google) {
            (Some(scope), _) => Some(scope),
            (None, Some(google)) => google.authenticate(headers).await,
            (None, None) => None,
        }
    }

    async fn take(&self, request: Request) -> Response {
        let (head, body) = request.into_parts();
        // Valet checks the sender before it reads the body.
        let Some(sender) = self.authenticate(&head.headers).await else {
            return self.unauthorized();
        };
        let body = match to_bytes(body, MAX_NOTIFICATION_BYTES).await {
            Ok(body) => body,
            Err(_) => return self.malformed(StatusCode::PAYLOAD_TOO_LARGE),
        };
        let said = parse_notification(&head.headers, &body);
        // Every replica answers a validation request itself, because the answer does not depend on grants. The replica
        // cannot forward this request: a forwarded request brings back only the status of the leader's answer, but
        // Event Grid needs a code in the body.
        if let Ok(Notification::Validation(code)) = &said {
            info!("an Event Grid subscription was validated");
            let answer = serde_json::json!({"validationResponse": code}).to_string();
            return ([(header::CONTENT_TYPE, "application/json")], answer).into_response();
        }
        // A replica never forwards a message that another replica has forwarded.
        let is_relayed = head.headers.contains_key(RELAYED);
        if matches!(said, Ok(Notification::Arrived(_))) && !self.others.is_empty() && !is_relayed {
            return self
                .distribute(said, &sender, head.uri.path(), &head.headers, body)
                .await;
        }
        self.take_own(said, &sender, head.uri.path(), &head.headers, body).await
    }

    /// Passes a notification to each shard that can serve one of the sender's stores. The answer is positive if all
    /// these shards have accepted the notification. Otherwise the sender must repeat the notification, which does no
    /// harm in the shards that have already accepted the notification.
    async fn distribute(
        &self,
        said: Result<Notification, Malformed>,
        sender: &SenderScope,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Response {
        let others = self.others.iter().filter(|(shard, _)| sender.concerns(*shard));
        let forwarded = join_all(others.map(|(_, leader)| leader.accepts(path, headers, body.clone())));
        let own = async {
            match sender.concerns(self.shard) {
                true => Some(self.take_own(said, sender, path, headers, body.clone()).await),
                false => None,
            }
        };
        let (forwarded, own) = join(forwarded, own).await;
        self.metrics
            .notified("relayed", forwarded.iter().filter(|accepted| **accepted).count());
        match own {
            Some(answer) if !answer.status().is_success() => answer,
            _ if forwarded.contains(&false) => self.unavailable(),
            _ => StatusCode::NO_CONTENT.into_response(),
        }
    }

    /// Handles a message for the stores of this shard.
    async fn take_own(
        &self,
        said: Result<Notification, Malformed>,
        sender: &SenderScope,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Response {
        if !self.health.is_working() {
            return self.relay_to_leader(path, headers, body).await;
        }
        match said {
            Ok(Notification::Validation(_)) => StatusCode::NO_CONTENT.into_response(),
            Ok(Notification::Arrived(arrived)) => {
                let known = arrived.iter().filter(|a| self.upload_index.notify(a, sender)).count();
                self.metrics.notified("accepted", known);
                self.metrics.notified("unknown", arrived.len() - known);
                StatusCode::NO_CONTENT.into_response()
            }
            // If Valet does not confirm the subscription, SNS sends the request again later.
            Ok(Notification::Subscription(subscription)) => match self.topics.confirm(&subscription, sender).await {
                true => StatusCode::NO_CONTENT.into_response(),
                false => {
                    self.metrics.notified("refused", 1);
                    (StatusCode::FORBIDDEN, "the topic subscription was not confirmed\n").into_response()
                }
            },
            Err(_) => self.malformed(StatusCode::BAD_REQUEST),
        }
    }

    /// Answers a validation request, in which a CloudEvents sender asks for permission to send events ("HTTP 1.1 Web
    /// Hooks for Event Delivery", "Abuse Protection"). Without this request, anybody could register an endpoint of
    /// somebody else and flood it with events. The permission does not replace authentication, because each event still
    /// needs a token.
    async fn permit(&self, headers: &HeaderMap) -> Response {
        let origin = headers.get(REQUEST_ORIGIN).and_then(|v| v.to_str().ok());
        let origin = origin.filter(|name| {
            (1..=MAX_ORIGIN).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b))
        });
        let Some(origin) = origin else {
            return self.malformed(StatusCode::BAD_REQUEST);
        };
        // A validation request from the origin of Event Grid needs no token. Microsoft does not document whether this
        // request contains the token header of the subscription. The missing check is safe, because anybody can make
        // Event Grid send a validation request.
        if !origin.eq_ignore_ascii_case(EVENT_GRID) && self.authenticate(headers).await.is_none() {
            return self.unauthorized();
        }
        // The log level is DEBUG, because anybody can send many validation requests.
        debug!("Valet allowed a sender of CloudEvents to send notifications");
        let permission = [
            (header::ALLOW, "POST, OPTIONS"),
            (ALLOWED_ORIGIN, origin),
            // Valet sets no limit on the rate of events. Messages with a valid token come from trusted senders, and
            // Valet rejects all other messages quickly.
            (ALLOWED_RATE, "*"),
        ];
        (StatusCode::OK, permission).into_response()
    }

    fn unauthorized(&self) -> Response {
        self.metrics.notified("refused", 1);
        // SNS first sends a request without a password. It adds the password only after an answer with the header
        // `WWW-Authenticate`.
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"valet\"")];
        (StatusCode::UNAUTHORIZED, challenge, "the request has no valid token\n").into_response()
    }

    fn malformed(&self, status: StatusCode) -> Response {
        self.metrics.notified("malformed", 1);
        (status, "the message is not a notification of an object store\n").into_response()
    }

    /// Forwards the message to the leader, because only the leader watches grants. A sender cannot send its message
    /// directly to the leader, because the Service selects any replica. Some stores send each notification only once,
    /// so an error answer could lose the notification.
    async fn relay_to_leader(&self, path: &str, headers: &HeaderMap, body: Bytes) -> Response {
        if !headers.contains_key(RELAYED)
            && let Some(leader) = self.leader.address().filter(|_| self.health.is_standby())
            && let Some(status) = forward_to_leader(leader, path, headers, body).await
            && status != StatusCode::UNAUTHORIZED
        {
            self.metrics.notified("relayed", 1);
            return status.into_response();
        }
        self.unavailable()
    }

    fn unavailable(&self) -> Response {
        self.metrics.notified("unavailable", 1);
        let retry = [(header::RETRY_AFTER, RETRY_AFTER)];
        (
            StatusCode::SERVICE_UNAVAILABLE,
            retry,
            "a replica of Valet is not ready; send the notification again later\n",
        )
            .into_response()
    }
}

async fn take(State(receiver): State<Arc<Receiver>>, request: Request<Body>) -> Response {
    receiver.take(request).await
}

async fn permit(State(receiver): State<Arc<Receiver>>, request: Request<Body>) -> Response {
    receiver.permit(request.headers()).await
}
