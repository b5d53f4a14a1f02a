use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::{Router, http::StatusCode, http::header, response::IntoResponse, routing::get};

use super::Metrics;

/// What the probes say.
#[derive(Clone, Debug)]
pub struct Health {
    waiting_for: Arc<AtomicUsize>,
    standing_by: Arc<AtomicBool>,
}

impl Health {
    /// Not ready until [`Health::done`] was called this many times.
    pub fn waiting_for(parts: usize) -> Self {
        Self {
            waiting_for: Arc::new(AtomicUsize::new(parts)),
            standing_by: Arc::default(),
        }
    }

    /// One part is ready to work.
    pub fn done(&self) {
        self.waiting_for.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether another replica works and this one waits for its turn: that is all that a replica can be asked for, so
    /// it counts as ready.
    pub fn standing_by(&self, so: bool) {
        self.standing_by.store(so, Ordering::Relaxed);
    }

    /// Whether another replica works.
    pub fn stands_by(&self) -> bool {
        self.standing_by.load(Ordering::Relaxed)
    }

    /// Whether this replica works, and knows everything that there is.
    pub fn works(&self) -> bool {
        !self.stands_by() && self.waiting_for.load(Ordering::Relaxed) == 0
    }

    fn readiness(&self) -> (StatusCode, String) {
        match self.waiting_for.load(Ordering::Relaxed) {
            _ if self.standing_by.load(Ordering::Relaxed) => {
                (StatusCode::OK, "ok, another replica leads\n".to_owned())
            }
            0 => (StatusCode::OK, "ok\n".to_owned()),
            n => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{n} watches have not been listed yet\n"),
            ),
        }
    }
}

/// Serves `/livez`, `/readyz` and `/metrics` until `shutdown` resolves.
///
/// # Errors
/// A sentence if the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    health: Health,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), String> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|e| format!("--http-address {address} cannot be listened on: {e}"))?;
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { health.readiness() }))
        .route(
            "/metrics",
            get(move || async move {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], metrics.encode()).into_response()
            }),
        );
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown)
        .await
        .map_err(|e| format!("the HTTP server ended: {e}"))
}
