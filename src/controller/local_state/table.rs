//! The table of what this process knows about grants.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::ResourceExt;

use super::memory::GrantState;
use crate::{api::Grant, controller::timers::Timers, core::record::RecordKey};

/// Facts about the grants of one kind that this process keeps only in its memory. A restart of the process loses these
/// facts.
///
/// With these facts, Valet needs fewer reads and writes. They also help if a client destroys the records that Valet
/// keeps in the cluster. Valet never signs a credential because of these facts alone.
pub struct LocalState<G> {
    /// The facts, by the UID of the grant. Each entry has an allocation of its own, because up to half of the places in
    /// the map are empty.
    grants: Mutex<HashMap<String, Box<GrantState<G>>>>,
    /// The record key, with which Valet checks whether it wrote a record itself.
    records: RecordKey,
    /// The timers of the next reconciles.
    pub(super) timers: Arc<Timers>,
}

impl<G: Grant> LocalState<G> {
    /// Creates a state without any grants.
    pub fn new(records: RecordKey) -> Self {
        Self {
            grants: Mutex::default(),
            records,
            timers: Arc::default(),
        }
    }

    /// Returns the HMAC key with which Valet signs its own records.
    pub fn records(&self) -> &RecordKey {
        &self.records
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<String, Box<GrantState<G>>>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn of<T>(&self, uid: &str, change: impl FnOnce(&mut GrantState<G>) -> T) -> T {
        change(self.lock().entry(uid.to_owned()).or_default())
    }
}

/// Returns the resource version of a grant as a number. Resource versions of one kind can be compared (KEP-5504). If
/// the resource version is not a number, the function returns 0. Valet then uses the grant from the watch.
pub fn version(grant: &impl ResourceExt) -> u128 {
    grant.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0)
}
