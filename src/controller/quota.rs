//! Quotas limit the number of live grants of a store. This module passes the grants from the watch to
//! `core::QuotaLedger`, and enqueues the grants that receive quota.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::local_state::LocalState;
use crate::{
    api::{ClusterAccessRule, ConditionType, Grant, GrantStatus, Operation, Reason},
    core::{self, GrantFacts, QuotaCandidate, QuotaFact, QuotaLimits, StoreId, store_id},
};

/// The number of kinds of grant. UploadGrants and DownloadGrants count towards the same quotas. Valet must therefore
/// list all grants of both kinds before any grant receives quota.
const KINDS: usize = 2;

/// A function that enqueues the grant with this operation, namespace and name.
type Call = Box<dyn Fn(Operation, &str, &str) -> bool + Send + Sync>;

/// Records for each store which grants have a credential and which grants wait for quota.
pub struct Quotas {
    table: Mutex<Table>,
    /// The kinds of grant that have been listed so far.
    listed: watch::Sender<HashSet<Operation>>,
    call: Call,
}

#[derive(Default)]
struct Table {
    stores: HashMap<Arc<StoreId>, core::QuotaLedger>,
    /// The grants that use quota or wait for quota, by UID. The operator keeps one entry for each live grant, so the
    /// entries share their strings.
    known: HashMap<Arc<str>, Box<Known>>,
}

struct Known {
    store: Arc<StoreId>,
    who: QuotaCandidate,
    name: Box<str>,
    operation: Operation,
}

impl Quotas {
    /// Creates a table without any grants. No grant receives quota before Valet has listed both kinds of grant. When a
    /// waiting grant can receive quota, the table enqueues the grant with the function `call`.
    pub fn new(call: impl Fn(Operation, &str, &str) -> bool + Send + Sync + 'static) -> Self {
        Self {
            table: Mutex::default(),
            listed: watch::Sender::new(HashSet::new()),
            call: Box::new(call),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a grant from the watch. If this process wrote a version of the grant that the watch has not delivered
    /// yet, the method uses the written version.
    pub fn applied<G: Grant>(&self, grant: &G, local_state: &LocalState<G>) {
        match local_state.written(grant) {
            Some(written) => self.note(written.as_ref(), local_state, None),
            None => self.note(grant, local_state, None),
        }
    }

    /// `uids` contains the UIDs of all existing grants of this kind, which the watch has just listed. The method
    /// releases the quota of all other grants of this kind.
    pub fn retain(&self, operation: Operation, uids: &HashSet<String>) {
        let stores = self.table().retain(operation, uids);
        for store in stores {
            self.call_next(&store);
        }
        self.listed.send_if_modified(|listed| listed.insert(operation));
    }

    /// Records after a reconcile whether the grant uses quota or waits for quota. The grant's status contains this
    /// information.
    ///
    /// If the grant was deleted during the reconcile, the grant uses no quota. The function `is_there` returns false as
    /// soon as the watch cache no longer contains the grant.
    pub fn reconciled<G: Grant>(&self, grant: &G, local_state: &LocalState<G>, is_there: impl Fn() -> bool) {
        self.note(grant, local_state, Some(&is_there));
    }

    /// Releases the quota of a grant that was deleted or that fails repeatedly.
    pub fn gone(&self, uid: &str) {
        let mut table = self.table();
        if let Some(known) = table.known.remove(uid) {
            table.store(&known.store, |quotas| quotas.remove(&known.who));
            drop(table);
            self.call_next(&known.store);
        }
    }

    /// Requests quota for the grant. `most` contains the limits. `rules` contains the store's access rules, or is
    /// `None` if the rules are not known.
    pub async fn request(
        &self,
        grant: &GrantFacts,
        operation: Operation,
        most: QuotaLimits,
        rules: Option<Arc<Vec<ClusterAccessRule>>>,
    ) -> QuotaFact {
        // Waiting fails only if the sender was dropped, and `self` owns the sender.
        let _ = self.listed.subscribe().wait_for(|listed| listed.len() >= KINDS).await;
        let store = store_id(&grant.terms.store_ref, &grant.namespace);
        let mut table = self.table();
        let who = table.candidate(&store, &grant.namespace, &grant.uid, grant.created.unwrap_or_default());
        let store = table.remember(store, &who, &grant.name, operation);
        let quotas = table.stores.entry(store).or_default();
        if let Some(rules) = rules {
            quotas.judged_by(rules);
        }
        match quotas.request(&who, most, Timestamp::now()) {
            Ok(()) => QuotaFact::Given,
            Err(limit) => QuotaFact::Full(limit),
        }
    }

    /// Returns the time at which a grant that waits for quota must request it again. Grants that were never reconciled
    /// receive quota first, but only for a limited time. No event reports the end of this priority, so the waiting
    /// grant must request quota again at that time.
    pub fn retry_at(&self, grant: &GrantFacts) -> Option<Timestamp> {
        let store = store_id(&grant.terms.store_ref, &grant.namespace);
        self.table().stores.get(&store)?.new_until(Timestamp::now())
    }

    fn note<G: Grant>(&self, grant: &G, local_state: &LocalState<G>, reconcile_ended: Option<&dyn Fn() -> bool>) {
        let meta = grant.meta();
        let (Some(uid), Some(namespace), Some(name)) = (&meta.uid, &meta.namespace, &meta.name) else {
            return;
        };
        let store = store_id(&grant.terms().store_ref, namespace);
        let since = meta.creation_timestamp.as_ref().map(|t| t.0).unwrap_or_default();
        let mut table = self.table();
        let who = table.candidate(&store, namespace, uid, since);
        let quotas = table.stores.get(&store);
        if reconcile_ended.is_none() && quotas.is_some_and(|p| p.is_reserved(&who)) {
            // A running reconcile of this grant has reserved quota. At its end, the reconcile itself records whether
            // the grant uses the quota.
            return;
        }
        // The table is locked during this check. If the grant is deleted after the check, the event of the deletion
        // waits for the lock and then removes the entry.
        let is_gone = reconcile_ended.is_some_and(|is_there| !is_there());
        let quota_use = if is_gone {
            QuotaUse::Without
        } else {
            quota_use(grant, &local_state.known_status(grant).status)
        };
        match quota_use {
            QuotaUse::Without => {
                let Some(known) = table.known.remove(uid.as_str()) else {
                    return;
                };
                table.store(&known.store, |quotas| quotas.remove(&who));
            }
            quota_use => {
                let store = table.remember(store.clone(), &who, name, G::OPERATION);
                table.store(&store, |quotas| match quota_use {
                    QuotaUse::Key(until) => quotas.set_used(&who, until),
                    QuotaUse::New => quotas.is_new(&who, Timestamp::now()),
                    QuotaUse::Waits | QuotaUse::Without => quotas.waits(&who),
                });
            }
        }
        drop(table);
        self.call_next(&store);
    }

    /// Enqueues the waiting grants that can receive quota now.
    fn call_next(&self, store: &StoreId) {
        let mut table = self.table();
        let Some(quotas) = table.stores.get_mut(store).filter(|p| p.has_waiting()) else {
            return;
        };
        let requeues = quotas.requeues(Timestamp::now());
        let requeues: Vec<_> = requeues
            .iter()
            .filter_map(|(namespace, uid)| table.known.get(uid).map(|k| (k.operation, namespace, k.name.clone())))
            .collect();
        drop(table);
        for (operation, namespace, name) in requeues {
            (self.call)(operation, namespace, &name);
        }
    }
}

impl Table {
    /// Returns the grant as a candidate for quota. The strings are shared with the entries of the table.
    fn candidate(&self, store: &StoreId, namespace: &str, uid: &str, since: Timestamp) -> QuotaCandidate {
        let ledger = self.stores.get(store);
        QuotaCandidate {
            namespace: ledger
                .and_then(|ledger| ledger.shared_namespace(namespace))
                .unwrap_or_else(|| namespace.into()),
            uid: self
                .known
                .get(uid)
                .map_or_else(|| uid.into(), |known| known.who.uid.clone()),
            since,
        }
    }

    /// Adds a grant that uses quota or waits for quota. Returns the store in the form in which the entries share it.
    fn remember(&mut self, store: StoreId, who: &QuotaCandidate, name: &str, operation: Operation) -> Arc<StoreId> {
        let shared = self.stores.get_key_value(&store).map(|(store, _)| store.clone());
        let store = shared.unwrap_or_else(|| Arc::new(store));
        let known = Known {
            store: store.clone(),
            who: who.clone(),
            name: name.into(),
            operation,
        };
        self.known.insert(who.uid.clone(), Box::new(known));
        store
    }

    /// Changes the quota entry of a store. If no grant uses quota or waits for quota, removes the entry.
    fn store(&mut self, id: &Arc<StoreId>, change: impl FnOnce(&mut core::QuotaLedger)) {
        let quotas = self.stores.entry(id.clone()).or_default();
        change(quotas);
        if quotas.is_empty() {
            self.stores.remove(id);
        }
    }

    /// Removes all grants of this kind whose UIDs are not in `uids`. Returns the stores of the removed grants.
    fn retain(&mut self, operation: Operation, uids: &HashSet<String>) -> Vec<Arc<StoreId>> {
        let is_gone = |uid: &Arc<str>, known: &mut Box<Known>| known.operation == operation && !uids.contains(&**uid);
        let gone: Vec<_> = self.known.extract_if(is_gone).map(|(_, known)| known).collect();
        gone.into_iter()
            .map(|known| {
                self.store(&known.store, |quotas| quotas.remove(&known.who));
                known.store
            })
            .collect()
    }
}

/// Whether a grant uses quota, waits for quota, or does not need quota. Valet finds this in the grant's status.
enum QuotaUse {
    Key(Timestamp),
    New,
    Waits,
    Without,
}

fn quota_use(grant: &impl Grant, status: &GrantStatus) -> QuotaUse {
    let is_going = grant.meta().deletion_timestamp.is_some();
    if status.observed_generation.is_none() {
        return if is_going { QuotaUse::Without } else { QuotaUse::New };
    }
    match &status.expiration_time {
        Some(end) if status.binding.is_some() && status.finished_time.is_none() => return QuotaUse::Key(end.0),
        _ => {}
    }
    let waits = status
        .conditions
        .iter()
        .any(|c| c.type_ == ConditionType::Ready.as_str() && c.reason == Reason::TooManyGrants.as_str());
    if waits && !is_going {
        QuotaUse::Waits
    } else {
        QuotaUse::Without
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{api::UploadGrant, core::record::RecordKey};

    const ONE: QuotaLimits = QuotaLimits {
        namespace: Some(1),
        store: None,
    };

    fn grant(name: &str) -> UploadGrant {
        let meta = json!({
            "name": name, "namespace": "web", "uid": format!("uid-{name}"), "creationTimestamp": "2026-01-01T00:00:00Z",
        });
        let spec = json!({"storeRef": {"name": "media"}, "key": name});
        let grant = json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "UploadGrant", "metadata": meta, "spec": spec,
        });
        serde_json::from_value(grant).unwrap()
    }

    /// Returns a quota table that has already received the lists of both kinds of grant.
    fn listed() -> (Quotas, LocalState<UploadGrant>) {
        let local_state = LocalState::new(RecordKey::new([0; 32]));
        let quotas = Quotas::new(|_, _, _| true);
        quotas.retain(Operation::Upload, &HashSet::new());
        quotas.retain(Operation::Download, &HashSet::new());
        (quotas, local_state)
    }

    async fn request(quotas: &Quotas, grant: &UploadGrant) -> QuotaFact {
        quotas
            .request(&GrantFacts::of(grant), Operation::Upload, ONE, None)
            .await
    }

    /// A grant that is deleted during its reconcile keeps no reservation. In one case the test deletes the grant before
    /// the grant requests quota, and in the other case afterwards.
    #[tokio::test]
    async fn deleted_grant_keeps_no_reservation() {
        for goes_before_it_asks in [true, false] {
            let (quotas, local_state) = listed();
            let (first, second) = (grant("a"), grant("b"));
            quotas.applied(&first, &local_state);
            let gone = || quotas.gone("uid-a");
            if goes_before_it_asks {
                gone();
            }
            assert_eq!(request(&quotas, &first).await, QuotaFact::Given);
            if !goes_before_it_asks {
                gone();
            }
            quotas.reconciled(&first, &local_state, || false);
            quotas.applied(&second, &local_state);
            assert_eq!(
                request(&quotas, &second).await,
                QuotaFact::Given,
                "{goes_before_it_asks}"
            );
            // A grant that already has quota keeps it.
            quotas.reconciled(&second, &local_state, || true);
            let third = grant("c");
            assert_eq!(
                request(&quotas, &third).await,
                QuotaFact::Full(core::QuotaLimit::Namespace(1))
            );
        }
    }
}
