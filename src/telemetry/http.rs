use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, http::StatusCode, http::header, response::IntoResponse, routing::get};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Contact, Metrics,
    progress::{Progress, STALLED_AFTER},
};

/// The health state of this replica, which `/livez` and `/readyz` report.
#[derive(Clone, Debug)]
pub struct Health {
    waiting_for: Arc<AtomicUsize>,
    standby: Arc<AtomicBool>,
    contact: Contact,
}

impl Health {
    /// Creates the health state of a replica that is not ready yet. The replica becomes ready after the method
    /// [`Health::done`] was called `parts` times. While the apiserver does not answer, the replica is not ready.
    pub fn waiting_for(parts: usize, contact: Contact) -> Self {
        Self {
            waiting_for: Arc::new(AtomicUsize::new(parts)),
            standby: Arc::default(),
            contact,
        }
    }

    /// Records that one watch has completed its first list.
    pub fn done(&self) {
        if self.waiting_for.fetch_sub(1, Ordering::Relaxed) == 1 {
            info!("all watches have completed their initial list; the operator is ready");
        }
    }

    /// Records whether this replica waits for the Lease because another replica is the leader. A replica that waits for
    /// the Lease counts as ready.
    pub fn standby(&self, so: bool) {
        self.standby.store(so, Ordering::Relaxed);
    }

    /// Returns true if this replica waits for the Lease because another replica is the leader.
    pub fn is_standby(&self) -> bool {
        self.standby.load(Ordering::Relaxed)
    }

    /// Returns true if this replica is the leader and all its watches have completed their first list.
    pub fn is_working(&self) -> bool {
        !self.is_standby() && self.waiting_for.load(Ordering::Relaxed) == 0
    }

    /// Returns the answer of `/livez`. A replica runs no reconciles while it waits for the Lease or while its watches
    /// read their first lists. In both cases the replica counts as alive.
    fn liveness(&self, progress: &Progress, now: Instant) -> (StatusCode, String) {
        if self.is_working() && progress.is_stalled(now) {
            let seconds = STALLED_AFTER.as_secs();
            let said = format!("no reconcile has ended for {seconds} s, although reconciles are due or running\n");
            return (StatusCode::SERVICE_UNAVAILABLE, said);
        }
        (StatusCode::OK, "ok\n".to_owned())
    }

    fn readiness(&self) -> (StatusCode, String) {
        if let Some(time_without_answer) = self.contact.time_without_answer(Instant::now()) {
            let seconds = time_without_answer.as_secs();
            return (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the apiserver has not answered for {seconds} s\n"),
            );
        }
        match self.waiting_for.load(Ordering::Relaxed) {
            _ if self.standby.load(Ordering::Relaxed) => {
                (StatusCode::OK, "ok, another replica is the leader\n".to_owned())
            }
            0 => (StatusCode::OK, "ok\n".to_owned()),
            n => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{n} watches have not completed their initial list\n"),
            ),
        }
    }
}

/// Serves `/livez`, `/readyz` and `/metrics` until `shutdown` resolves.
///
/// # Errors
/// Returns a message if the server cannot listen on the address.
pub async fn serve(
    address: SocketAddr,
    health: Health,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), String> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| format!("cannot listen on --http-address {address}: {e}"))?;
    let app = Router::new()
        .route(
            "/livez",
            get({
                let health = health.clone();
                move || async move { health.liveness(&progress, Instant::now()) }
            }),
        )
        .route("/readyz", get(move || async move { health.readiness() }))
        .route(
            "/metrics",
            get(move || async move {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], metrics.encode()).into_response()
            }),
        );
    tokio::select! {
        () = answer(listener, app, PROBES, "a probe or a scrape") => {}
        () = shutdown => {}
    }
    Ok(())
}

/// The limits of an HTTP server for the connections and requests of its clients.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The maximum number of open connections. When this number is reached, the server accepts the next connection
    /// only after a connection was closed.
    pub connections: usize,
    /// The maximum time in which a client must send the headers of its request.
    pub headers: Duration,
    /// The maximum time for a whole request, including the response.
    pub whole: Duration,
}

/// The limits for requests of the kubelet and Prometheus. With a thousand grants, the response of `/metrics` has a
/// few hundred kilobytes.
const PROBES: Bounds = Bounds {
    connections: 64,
    headers: Duration::from_secs(5),
    whole: Duration::from_secs(30),
};

/// Accepts connections and answers one request per connection. The function never returns. Without the limits in
/// `bounds`, a client with slow or idle connections could block other clients or use too much memory.
pub async fn answer(listener: TcpListener, app: Router, bounds: Bounds, what: &'static str) {
    let service = TowerToHyperService::new(app);
    let places = Arc::new(Semaphore::new(bounds.connections));
    loop {
        // The call can fail only if the semaphore is closed. No code closes this semaphore.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // A common cause is that the process has no free file descriptors for a short time. The server waits
                // before it accepts the next connection, because it would otherwise log many errors.
                warn!("the HTTP server could not accept a connection for {what}: {error}");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let service = service.clone();
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(bounds.headers)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Valet ignores errors of a client's connection.
            let _ = timeout(bounds.whole, connection).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    #[test]
    fn liveness_fails_for_a_stalled_operator_and_not_for_an_idle_one() {
        let waiting_for = |parts| Health::waiting_for(parts, Contact::new(Instant::now()));
        let (health, progress) = (waiting_for(0), Arc::new(Progress::default()));
        let in_an_hour = Instant::now() + Duration::from_secs(3600);
        let status = |health: &Health| health.liveness(&progress, in_an_hour).0;
        assert_eq!(status(&health), StatusCode::OK);
        let under_way = progress.begin();
        assert_eq!(status(&health), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            status(&waiting_for(1)),
            StatusCode::OK,
            "the first lists are not complete"
        );
        health.standby(true);
        assert_eq!(status(&health), StatusCode::OK, "another replica is the leader");
        health.standby(false);
        drop(under_way);
        assert_eq!(status(&health), StatusCode::OK);
    }

    /// The server closes the idle connections of one client, and then serves a second client.
    #[tokio::test]
    async fn idle_connections_do_not_block_other_clients() {
        let bounds = Bounds {
            connections: 4,
            headers: Duration::from_secs(1),
            whole: Duration::from_secs(2),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/livez", get(|| async { "ok\n" }));
        let server = tokio::spawn(answer(listener, app, bounds, "a test"));
        let mut silent = Vec::new();
        for _ in 0..8 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let began = Instant::now();
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking
            .write_all(b"GET /livez HTTP/1.1\r\nhost: valet\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"),
            "{answer}"
        );
        assert!(
            began.elapsed() >= Duration::from_millis(1900),
            "the server must close two groups of four idle connections, each after a timeout of one second, before it answers"
        );
        for mut connection in silent {
            let mut buffer = [0; 64];
            let closed = timeout(Duration::from_secs(5), connection.read(&mut buffer)).await;
            closed.expect("it is closed").ok();
        }
        server.abort();
    }
}
