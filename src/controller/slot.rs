use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use super::error::Error;

/// The maximum age of a read of a store, its credentials or a namespace's labels when a credential is signed with it.
/// One read serves all grants of the store within this time.
pub const FRESHNESS: Duration = Duration::from_secs(2);

/// A cached value with one reader at a time. The value is valid for [`FRESHNESS`], or until it changes.
pub struct Slot<T> {
    /// Counts noticed changes. A value that was read before the last change is stale.
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
    /// Marks the cached value as stale.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// The cached value if it is fresh; otherwise the result of `read`, which receives the old value.
    pub async fn get<F>(&self, read: impl FnOnce(Option<T>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut content = self.content.lock().await;
        // The start time and the change counter are read first, so that a change during the read makes its result
        // stale.
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
