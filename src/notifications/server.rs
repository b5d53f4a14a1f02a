use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use tokio::net::TcpListener;
use tracing::{debug, info};

use super::{
    google::GoogleTokens,
    relay::{Leader, RELAYED, pass_on},
    scope::SenderScope,
    tokens::Tokens,
    topics::Topics,
    upload_index::UploadIndex,
};
use crate::{
    notifications::{MAX_NOTIFICATION_BYTES, Notification, parse_notification},
    telemetry::{Bounds, Health, Metrics, answer},
};

/// The path of the notification receiver.
pub const PATH: &str = "/notifications";

/// The headers of a CloudEvents validation request and its answer.
const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");
/// The origin that Event Grid sends ("Endpoint validation with CloudEvents schema").
const EVENT_GRID: &str = "eventgrid.azure.net";
/// The maximum length of a DNS name.
const MAX_ORIGIN: usize = 253;

/// The connection limits of the receiver. Stores send one short message per connection. Each connection may hold a
/// message of 512 KiB, so all of them use at most 32 MiB.
const BOUNDS: Bounds = Bounds {
    connections: 64,
    headers: Duration::from_secs(5),
    whole: Duration::from_secs(10),
};
/// The `Retry-After` header in seconds. A replica starts or becomes leader within seconds.
const RETRY_AFTER: &str = "2";

/// The notification receiver.
pub struct Receiver {
    /// The accepted tokens.
    pub tokens: Tokens,
    /// The accepted Google identity tokens, if they are configured.
    pub google: Option<GoogleTokens>,
    /// The index of expected uploads.
    pub awaited: Arc<UploadIndex>,
    /// The accepted SNS topics.
    pub topics: Topics,
    /// Whether this replica is the leader and ready.
    pub health: Health,
    /// The address of the leader, for replicas that are not the leader.
    pub leader: Arc<Leader>,
    pub metrics: Arc<Metrics>,
}

impl Receiver {
    /// Serves notifications until the operator stops.
    ///
    /// # Errors
    /// A message, if the receiver cannot listen on the address.
    pub async fn serve(self, address: SocketAddr) -> Result<(), String> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| format!("cannot listen on --notifications-address {address}: {e}"))?;
        info!(%address, "the notification receiver is ready");
        let app = Router::new()
            .route(PATH, post(take).options(permit))
            .with_state(Arc::new(self));
        // The limits close idle connections. Otherwise clients that never close their connections, such as versitygw,
        // would use all of them.
        answer(listener, app, BOUNDS, "a notification").await;
        Ok(())
    }

    /// The stores for which the sender of this request may send notifications; `None` for an unknown sender.
    async fn admit(&self, headers: &HeaderMap) -> Option<SenderScope> {
        match (self.tokens.admit(headers).await, &self.google) {
            (Some(scope), _) => Some(scope),
            (None, Some(google)) => google.admit(headers).await,
            (None, None) => None,
        }
    }

    async fn take(&self, request: Request) -> Response {
        let (head, body) = request.into_parts();
        // The sender is checked before the body is read.
        let Some(sender) = self.admit(&head.headers).await else {
            return self.unknown();
        };
        let body = match to_bytes(body, MAX_NOTIFICATION_BYTES).await {
            Ok(body) => body,
            Err(_) => return self.malformed(StatusCode::PAYLOAD_TOO_LARGE),
        };
        let said = parse_notification(&head.headers, &body);
        // Every replica can answer a validation, because it needs no grants. The request is not forwarded, because a
        // forwarded request returns only a status.
        if let Ok(Notification::Validation(code)) = &said {
            info!("an Event Grid subscription was validated");
            let answer = serde_json::json!({"validationResponse": code}).to_string();
            return ([(header::CONTENT_TYPE, "application/json")], answer).into_response();
        }
        if !self.health.works() {
            return self.elsewhere(head.uri.path(), &head.headers, body).await;
        }
        match said {
            Ok(Notification::Validation(_)) => StatusCode::NO_CONTENT.into_response(),
            Ok(Notification::Arrived(arrived)) => {
                let known = arrived.iter().filter(|a| self.awaited.hear(a, &sender)).count();
                self.metrics.notified("accepted", known);
                self.metrics.notified("unknown", arrived.len() - known);
                StatusCode::NO_CONTENT.into_response()
            }
            // SNS repeats the request later if it is not confirmed.
            Ok(Notification::Subscription(subscription)) => match self.topics.confirm(&subscription, &sender).await {
                true => StatusCode::NO_CONTENT.into_response(),
                false => {
                    self.metrics.notified("refused", 1);
                    (StatusCode::FORBIDDEN, "the topic subscription was not confirmed\n").into_response()
                }
            },
            Err(_) => self.malformed(StatusCode::BAD_REQUEST),
        }
    }

    /// Answers whether a sender of CloudEvents may send ("HTTP 1.1 Web Hooks for Event Delivery", "Abuse
    /// Protection"). The answer protects endpoints that somebody registers without permission. It does not replace
    /// authentication: each event still needs a token.
    async fn permit(&self, headers: &HeaderMap) -> Response {
        let origin = headers.get(REQUEST_ORIGIN).and_then(|v| v.to_str().ok());
        let origin = origin.filter(|name| {
            (1..=MAX_ORIGIN).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b))
        });
        let Some(origin) = origin else {
            return self.malformed(StatusCode::BAD_REQUEST);
        };
        // It is not documented that Event Grid sends the headers of the subscription with its validation request.
        // Event Grid is therefore accepted without a token; anybody can trigger its validation request anyway.
        if !origin.eq_ignore_ascii_case(EVENT_GRID) && self.admit(headers).await.is_none() {
            return self.unknown();
        }
        // Logged only at DEBUG, because anybody can send this request at any rate.
        debug!("a sender of CloudEvents was permitted to send");
        let permission = [
            (header::ALLOW, "POST, OPTIONS"),
            (ALLOWED_ORIGIN, origin),
            // Messages without a valid token are cheap to reject, and the others come from the owner's own senders.
            (ALLOWED_RATE, "*"),
        ];
        (StatusCode::OK, permission).into_response()
    }

    fn unknown(&self) -> Response {
        self.metrics.notified("refused", 1);
        // SNS sends its password only after a challenge.
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"valet\"")];
        (StatusCode::UNAUTHORIZED, challenge, "the request has no valid token\n").into_response()
    }

    fn malformed(&self, status: StatusCode) -> Response {
        self.metrics.notified("malformed", 1);
        (status, "the message is not a notification of an object store\n").into_response()
    }

    /// Forwards the message to the leader, because this replica does not watch grants. The Service does not know the
    /// leader, and some stores send each notification only once.
    async fn elsewhere(&self, path: &str, headers: &HeaderMap, body: Bytes) -> Response {
        if !headers.contains_key(RELAYED)
            && let Some(leader) = self.leader.address().filter(|_| self.health.stands_by())
            && let Some(status) = pass_on(leader, path, headers, body).await
            && status != StatusCode::UNAUTHORIZED
        {
            self.metrics.notified("relayed", 1);
            return status.into_response();
        }
        self.metrics.notified("unavailable", 1);
        let retry = [(header::RETRY_AFTER, RETRY_AFTER)];
        (
            StatusCode::SERVICE_UNAVAILABLE,
            retry,
            "this replica is not ready; try again\n",
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
