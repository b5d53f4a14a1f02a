use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use super::error::Error;

/// Valet signs a credential only with data that is at most 2 seconds old. The data is the store, its credentials, and
/// the labels of the namespace. Within these 2 seconds, all grants of the store use the result of one read.
pub const FRESHNESS: Duration = Duration::from_secs(2);

/// Locks a mutex. The value stays usable if another thread has panicked while it had the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cached value. If several tasks need a new value, only one of them reads it. The value is valid for the time
/// [`FRESHNESS`], or until Valet notices a change.
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
        // The start time and the number of changes are read before `read` is called. If a change happens while `read`
        // runs, its result is therefore stale.
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
