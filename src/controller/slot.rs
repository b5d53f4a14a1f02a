use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use super::error::Error;

/// How old a read of a store, its credentials or a namespace's labels may be when a key is signed by it. One read
/// serves every grant of the store within that time.
pub const FRESHNESS: Duration = Duration::from_secs(2);

/// One thing that is read by one reader at a time and kept for [`FRESHNESS`], or until it changes.
pub struct Slot<T> {
    /// Counts the changes that were noticed: what was read before the last one is no longer good.
    changes: AtomicU64,
    content: AsyncMutex<Option<Content<T>>>,
}

struct Content<T> {
    read: Instant,
    changes: u64,
    value: T,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self {
            changes: AtomicU64::new(0),
            content: AsyncMutex::new(None),
        }
    }
}

impl<T: Clone> Slot<T> {
    /// It has changed: what was read before is no longer good.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// What is kept, if it is fresh; otherwise what `read` brings, which is handed what was kept.
    pub async fn get<F>(&self, read: impl FnOnce(Option<T>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut content = self.content.lock().await;
        // Both are taken before the read: a change that happens during it makes its result stale.
        let (began, changes) = (Instant::now(), self.changes.load(Ordering::Acquire));
        if let Some(c) = content
            .as_ref()
            .filter(|c| c.changes == changes && c.read.elapsed() < FRESHNESS)
        {
            return Ok(c.value.clone());
        }
        let value = read(content.as_ref().map(|c| c.value.clone())).await?;
        *content = Some(Content {
            read: began,
            changes,
            value: value.clone(),
        });
        Ok(value)
    }
}
