//! DNS lookups for hosts that tenants choose. The lookups have a timeout, a limited number of threads and a short
//! cache. Valet needs these limits because a tenant can run the DNS server that answers the lookups for the tenant's
//! own host.

use std::{
    collections::HashMap,
    io::{Error, ErrorKind, Result},
    net::{IpAddr, ToSocketAddrs},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::{sync::Semaphore, time::Instant};

/// The timeout of a DNS lookup. Without this timeout, the system's resolver can take more than half a minute.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// Valet caches the result of a DNS lookup for 5 seconds. Valet also caches errors. Before each use of a cached result,
/// Valet checks again whether the address is permitted.
const FRESH: Duration = Duration::from_secs(5);
/// Valet runs at most 128 DNS lookups at the same time. Each lookup occupies a thread until the system's resolver
/// returns, even after the timeout of the lookup.
const THREADS: usize = 128;

type Lookup = Shared<BoxFuture<'static, std::result::Result<Vec<IpAddr>, ErrorKind>>>;

struct Kept {
    began: Instant,
    lookup: Lookup,
    /// This is true if a caller has already waited for this DNS lookup until the timeout. Later callers then receive
    /// the timeout error at once.
    is_slow: bool,
}

static KEPT: LazyLock<Mutex<HashMap<String, Kept>>> = LazyLock::new(Mutex::default);
static PERMITS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(THREADS)));

/// Resolves a name with the system's resolver, within [`TIMEOUT`].
///
/// # Errors
/// Returns [`ErrorKind::TimedOut`] after the timeout, or the resolver's error.
pub async fn lookup(host: &str) -> Result<Vec<IpAddr>> {
    lookup_with(host, resolve).await
}

fn resolve(host: &str) -> Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|a| a.ip()).collect())
}

async fn lookup_with(host: &str, resolve: fn(&str) -> Result<Vec<IpAddr>>) -> Result<Vec<IpAddr>> {
    let (lookup, is_slow) = {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, k| k.began.elapsed() < FRESH || k.lookup.peek().is_none());
        let kept = kept.entry(host.to_owned()).or_insert_with(|| Kept {
            began: Instant::now(),
            lookup: start_lookup(host.to_owned(), resolve),
            is_slow: false,
        });
        (kept.lookup.clone(), kept.is_slow)
    };
    let limit = if is_slow { Duration::ZERO } else { TIMEOUT };
    match tokio::time::timeout(limit, lookup).await {
        Ok(found) => found.map_err(Error::from),
        Err(_) => {
            if let Some(kept) = KEPT.lock().unwrap_or_else(PoisonError::into_inner).get_mut(host) {
                kept.is_slow = true;
            }
            Err(ErrorKind::TimedOut.into())
        }
    }
}

/// Starts a DNS lookup in a separate task. The task continues even if no caller waits for it. When the lookup ends,
/// the task frees its thread.
fn start_lookup(host: String, resolve: fn(&str) -> Result<Vec<IpAddr>>) -> Lookup {
    let task = tokio::spawn(async move {
        let permit = PERMITS.clone().acquire_owned().await.map_err(|_| ErrorKind::Other)?;
        tokio::task::spawn_blocking(move || {
            let found = resolve(&host).map_err(|e| e.kind());
            drop(permit);
            found
        })
        .await
        .map_err(|_| ErrorKind::Other)?
    });
    async { task.await.map_err(|_| ErrorKind::Interrupted)? }
        .boxed()
        .shared()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    #[tokio::test]
    async fn unanswered_dns_lookup_runs_once_and_delays_no_later_caller() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        fn silent(_: &str) -> Result<Vec<IpAddr>> {
            ASKED.fetch_add(1, Ordering::Relaxed);
            thread::sleep(TIMEOUT + Duration::from_secs(1));
            Err(ErrorKind::NotFound.into())
        }
        let began = Instant::now();
        let many = (0..50).map(|_| lookup_with("silent.test", silent));
        for found in futures::future::join_all(many).await {
            assert_eq!(found.unwrap_err().kind(), ErrorKind::TimedOut);
        }
        assert!(
            began.elapsed() < TIMEOUT + Duration::from_millis(900),
            "{:?}",
            began.elapsed()
        );
        let again = Instant::now();
        assert!(lookup_with("silent.test", silent).await.is_err());
        assert!(again.elapsed() < Duration::from_millis(500), "{:?}", again.elapsed());
        assert_eq!(ASKED.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn dns_answer_is_cached_for_a_short_time() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        fn quick(_: &str) -> Result<Vec<IpAddr>> {
            ASKED.fetch_add(1, Ordering::Relaxed);
            Ok(vec![IpAddr::from([192, 0, 2, 1])])
        }
        for _ in 0..10 {
            assert_eq!(
                lookup_with("quick.test", quick).await.unwrap(),
                [IpAddr::from([192, 0, 2, 1])]
            );
        }
        assert_eq!(ASKED.load(Ordering::Relaxed), 1);
    }
}
