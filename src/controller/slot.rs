use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use super::error::Error;

/// The maximum age of cached data with which a credential is signed. This applies to a store, its credentials, and
/// the labels of a namespace. One read within this time serves all grants of the store.
pub const FRESHNESS: Duration = Duration::from_secs(2);

/// A cached value that only one task reads at a time. The value is valid for [`FRESHNESS`], or until a change is
/// noticed.
pub struct Slot<T> {
    /// The number of noticed changes. A value that was read before the last change is stale.
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

    /// Returns the cached value if it is fresh. Otherwise calls `read` with the old value and returns the result.
    pub async fn get<F>(&self, read: impl FnOnce(Option<T>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut content = self.content.lock().await;
        // The start time and the change counter are stored before the read. A change that happens during the read
        // therefore makes the result stale.
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
