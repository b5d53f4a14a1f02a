use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use super::error::Error;

/// When Valet signs a credential, it uses data about the store, the store's credentials and the labels of the
/// namespace. This data must be at most 2 seconds old. Within these 2 seconds, all grants of the store use the data
/// from one read.
pub const FRESHNESS: Duration = Duration::from_secs(2);

/// Locks a mutex. The value stays usable if another thread has panicked while it had the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cached value. If several tasks need a new value at the same time, only one task reads the value. The value is
/// valid for the time [`FRESHNESS`]. It becomes invalid earlier if Valet notices a change.
pub struct Slot<T> {
    /// The number of changes that Valet has noticed. If Valet read the value before the last change, the value is
    /// stale.
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
        // The method notes the start time and the number of changes before it calls `read`. If a change happens while
        // `read` runs, the result of `read` therefore counts as stale.
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
