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
    awaited::Awaited,
    google::GoogleTokens,
    relay::{Leader, RELAYED, pass_on},
    scope::SenderScope,
    tokens::Tokens,
    topics::Topics,
};
use crate::{
    notifications::{MAX_NOTIFICATION_BYTES, Notification, parse_notification},
    telemetry::{Bounds, Health, Metrics, answer},
};

/// Where messages are taken.
pub const PATH: &str = "/notifications";

/// The headers by which a sender of CloudEvents asks, and is answered.
const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");
/// How Event Grid calls itself ("Endpoint validation with CloudEvents schema").
const EVENT_GRID: &str = "eventgrid.azure.net";
/// The longest name in the DNS.
const MAX_ORIGIN: usize = 253;

/// Stores are machines with one short message. Each connection may hold one of half a megabyte: 32 MiB in all.
const BOUNDS: Bounds = Bounds {
    connections: 64,
    headers: Duration::from_secs(5),
    whole: Duration::from_secs(10),
};
/// When to try again, for stores that do: a replica starts, or takes the work over, within seconds.
const RETRY_AFTER: &str = "2";

/// Takes what stores post.
pub struct Receiver {
    /// Who may post.
    pub tokens: Tokens,
    /// Whose identity tokens are taken besides.
    pub google: Option<GoogleTokens>,
    /// Who awaits what.
    pub awaited: Arc<Awaited>,
    /// SNS topics that may send.
    pub topics: Topics,
    /// Whether this replica works.
    pub health: Health,
    /// The one that does, if not.
    pub leader: Arc<Leader>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Receiver {
    /// Serves until the operator ends.
    ///
    /// # Errors
    /// A sentence if the address cannot be listened on.
    pub async fn serve(self, address: SocketAddr) -> Result<(), String> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| format!("--notifications-address {address} cannot be listened on: {e}"))?;
        info!(%address, "notifications are taken");
        let app = Router::new()
            .route(PATH, post(take).options(permit))
            .with_state(Arc::new(self));
        // Clients that never close their connections would have all places before long, and versitygw is one.
        answer(listener, app, BOUNDS, "a notification").await;
        Ok(())
    }

    /// The stores that whoever sends this may report objects of; `None` if nobody known sends it.
    async fn admit(&self, headers: &HeaderMap) -> Option<SenderScope> {
        match (self.tokens.admit(headers).await, &self.google) {
            (Some(scope), _) => Some(scope),
            (None, Some(google)) => google.admit(headers).await,
            (None, None) => None,
        }
    }

    async fn take(&self, request: Request) -> Response {
        let (head, body) = request.into_parts();
        // First of all, before any of the body is read.
        let Some(sender) = self.admit(&head.headers).await else {
            return self.unknown();
        };
        let body = match to_bytes(body, MAX_NOTIFICATION_BYTES).await {
            Ok(body) => body,
            Err(_) => return self.malformed(StatusCode::PAYLOAD_TOO_LARGE),
        };
        let said = parse_notification(&head.headers, &body);
        // This needs no grants, so every replica can answer, and only the one that was asked can: nothing but a status comes
        // back from another one.
        if let Ok(Notification::Validation(code)) = &said {
            info!("a subscription of Event Grid was validated");
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
            // SNS tries again later if it is not confirmed.
            Ok(Notification::Subscription(subscription)) => match self.topics.confirm(&subscription, &sender).await {
                true => StatusCode::NO_CONTENT.into_response(),
                false => {
                    self.metrics.notified("refused", 1);
                    (StatusCode::FORBIDDEN, "the topic was not confirmed\n").into_response()
                }
            },
            Err(_) => self.malformed(StatusCode::BAD_REQUEST),
        }
    }

    /// Whether a sender of CloudEvents may send ("HTTP 1.1 Web Hooks for Event Delivery", "Abuse Protection"). It is a courtesy
    /// towards those whom somebody registers without their knowing, and no proof: each event needs its token all the same.
    async fn permit(&self, headers: &HeaderMap) -> Response {
        let origin = headers.get(REQUEST_ORIGIN).and_then(|v| v.to_str().ok());
        let origin = origin.filter(|name| {
            (1..=MAX_ORIGIN).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b))
        });
        let Some(origin) = origin else {
            return self.malformed(StatusCode::BAD_REQUEST);
        };
        // It is nowhere said that Event Grid sends its subscription's headers with this question, and somebody who knows the
        // address can have it asked anyway.
        if !origin.eq_ignore_ascii_case(EVENT_GRID) && self.admit(headers).await.is_none() {
            return self.unknown();
        }
        // Not louder: anybody can ask as often as he likes.
        debug!("a sender of CloudEvents was permitted to send");
        let permission = [
            (header::ALLOW, "POST, OPTIONS"),
            (ALLOWED_ORIGIN, origin),
            // What one who knows no token sends costs nothing, and the others are the owner's own.
            (ALLOWED_RATE, "*"),
        ];
        (StatusCode::OK, permission).into_response()
    }

    fn unknown(&self) -> Response {
        self.metrics.notified("refused", 1);
        // SNS sends its password only to who asks for it.
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"valet\"")];
        (
            StatusCode::UNAUTHORIZED,
            challenge,
            "no token, or not one that is known\n",
        )
            .into_response()
    }

    fn malformed(&self, status: StatusCode) -> Response {
        self.metrics.notified("malformed", 1);
        (status, "this is no notification of an object store\n").into_response()
    }

    /// This replica does not know the grants. A Service does not know which one does, and some stores say things once
    /// only, so the message is handed on.
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
            "this replica does not work yet; try again\n",
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
