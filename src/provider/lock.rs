//! Locks for the data that providers share between tasks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex. The value stays usable if another thread has panicked while it had the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
