use std::{collections::BTreeMap, ops::Deref};

use super::{
    access_rule::check_rule,
    enforce::enforceable,
    facts::{RulesView, StoreView},
    grant_facts::GrantFacts,
    key::ObjectKey,
    lifetime::Lifetime,
    namespaces::namespace_matches,
    quota_limits::QuotaLimits,
    refusal::Refusal,
    signing_request::SigningRequest,
};
use crate::api::{AccessRule, ClusterAccessRule, Operation, OperationSpec, Reason, RenewalPermission, StoreRef};

/// An `Access` proves that the access rules of a store allow a grant's operation on its object.
///
/// Every provider method that sends a request about a grant, or signs for a grant, needs an `Access`. Only [`admit`]
/// and [`still_allowed`] create a value of this type. The compiler therefore rejects code that skips the check:
///
/// ```compile_fail,E0451
/// # fn forge(allowed: valet::core::Access, key: valet::core::ObjectKey) -> valet::core::Access {
/// valet::core::Access { key, ..allowed }
/// # }
/// ```
///
/// The proof is valid only for the access rules that Valet read for this decision. Each decision therefore creates a
/// new `Access`, and Valet never stores an `Access`.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    operation_spec: OperationSpec,
    key: ObjectKey,
    store: StoreRef,
    namespace: String,
    name: String,
}

impl Access {
    fn new(grant: &GrantFacts, key: ObjectKey) -> Self {
        Self {
            operation_spec: grant.operation_spec.clone(),
            key,
            store: grant.terms.store_ref.clone(),
            namespace: grant.namespace.clone(),
            name: grant.name.clone(),
        }
    }

    /// Returns the operation that the access rules allow.
    pub fn operation(&self) -> Operation {
        self.operation_spec.operation()
    }

    /// Returns the object key that the access rules allow.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Returns the store whose access rules allow the operation. If the store is an ObjectStore, its namespace is
    /// [`Access::namespace`].
    pub fn store(&self) -> &StoreRef {
        &self.store
    }

    /// Returns the namespace of the grant.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Creates a request to sign a credential with this lifetime. `upload` is the store's ID of the multipart upload,
    /// if there is one.
    pub fn to_sign(&self, lifetime: Lifetime, upload: Option<String>) -> AllowedRequest {
        AllowedRequest {
            access: self.clone(),
            request: SigningRequest {
                key: self.key.clone(),
                operation_spec: self.operation_spec.clone(),
                lifetime,
                holder: format!("{}.{}", self.namespace, self.name),
                upload,
            },
        }
    }

    /// Returns the permission to abort a multipart upload of the object.
    pub fn to_abort(&self, upload: &str) -> AbortAccess {
        AbortAccess {
            key: self.key.clone(),
            upload: upload.to_owned(),
            may_list: true,
        }
    }
}

/// A request to sign a credential. The access rules allow this request. Nobody can change the object key, the
/// operation and the constraints after Valet has checked them.
#[derive(Clone, Debug, PartialEq)]
pub struct AllowedRequest {
    access: Access,
    request: SigningRequest,
}

impl AllowedRequest {
    /// Returns the [`Access`], which proves that the access rules allow the request.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Sets the upload ID of the multipart upload. The provider signs part URLs for this multipart upload.
    pub fn set_upload(&mut self, upload: String) {
        self.request.upload = Some(upload);
    }
}

impl Deref for AllowedRequest {
    type Target = SigningRequest;

    fn deref(&self) -> &SigningRequest {
        &self.request
    }
}

/// The permission to abort one multipart upload. It allows no other request. [`Access::to_abort`] and [`abort_own`]
/// create this permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbortAccess {
    key: ObjectKey,
    upload: String,
    may_list: bool,
}

impl AbortAccess {
    /// Returns the object key of the multipart upload.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Returns the store's ID of the multipart upload.
    pub fn upload(&self) -> &str {
        &self.upload
    }

    /// Returns true if the access rules allow Valet to list the parts after the abort. Valet then checks that no
    /// parts are left.
    pub fn may_list(&self) -> bool {
        self.may_list
    }
}

/// Returns the permission to abort a multipart upload that Valet itself initiated for this grant. The function does
/// not check the access rules, because Valet must also abort an upload after an access rule became stricter.
///
/// The caller must prove that Valet initiated the upload. The proof must come from a source that only Valet can
/// write, see [`Facts::own_upload`].
///
/// [`Facts::own_upload`]: super::Facts::own_upload
pub(super) fn abort_own(grant: &GrantFacts, own_upload: &str) -> Option<AbortAccess> {
    Some(AbortAccess {
        key: object_key(grant, usize::MAX).ok()?,
        upload: own_upload.to_owned(),
        may_list: false,
    })
}

/// Decides if the grant is allowed to have a credential. All of these conditions must be true:
///
/// - At least one access rule is for the grant's namespace.
/// - All stores and clients interpret the object key in one way.
/// - The store can enforce every constraint of the grant.
/// - One single access rule allows the whole grant.
///
/// # Errors
///
/// Returns a [`Refusal`] with the first problem. The message mentions only access rules for the grant's namespace. If
/// there is no access rule for this namespace, the message also does not mention capabilities of the store.
pub fn admit(grant: &GrantFacts, store: &StoreView) -> Result<Access, Refusal> {
    named(grant, &store.rules, &store.namespace_labels)?;
    let key = object_key(grant, store.capabilities.max_key_bytes)?;
    enforceable(grant, &store.capabilities)?;
    allowed(grant, &key, &store.rules, &store.namespace_labels)?;
    Ok(Access::new(grant, key))
}

/// Checks if the access rules allow the grant. The function does not check if the store can enforce the grant's
/// constraints. Valet may use the returned [`Access`] for requests about the grant to the store, but not to sign a
/// credential.
///
/// # Errors
///
/// Returns a [`Refusal`] with the first problem, like [`admit`].
pub fn still_allowed(grant: &GrantFacts, view: &RulesView) -> Result<Access, Refusal> {
    named(grant, &view.rules, &view.namespace_labels)?;
    let key = object_key(grant, usize::MAX)?;
    allowed(grant, &key, &view.rules, &view.namespace_labels)?;
    Ok(Access::new(grant, key))
}

/// The settings of the access rules for renewal and total time. They apply to all credentials of a grant together. If
/// several access rules allow the grant, the most generous value of each setting applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// True if Valet is allowed to renew the credential.
    pub renewal: bool,
    /// All credentials of the grant must expire within this number of seconds after the grant's creation. `None`
    /// means no limit.
    pub total_seconds: Option<i64>,
}

impl Allowance {
    /// The value without limits. Valet uses it while the access rules are not known. It is also the result for a grant
    /// that no access rule allows. It then has no effect, because Valet refuses such a grant.
    pub const ALL: Self = Self {
        renewal: true,
        total_seconds: None,
    };
}

/// Returns the settings for renewal and total time, which apply to all credentials of a grant together. `rules` are the
/// store's access rules, and `labels` are the labels of the grant's namespace.
pub fn allowance(grant: &GrantFacts, rules: &[ClusterAccessRule], labels: &BTreeMap<String, String>) -> Allowance {
    let Ok(key) = object_key(grant, usize::MAX) else {
        return Allowance::ALL;
    };
    let own_rules = rules_for(grant, rules, labels);
    let is_plain = |r: &AccessRule| r.max_total_seconds.is_none() && r.renewal == RenewalPermission::Allow;
    if own_rules.iter().all(|r| is_plain(r)) {
        return Allowance::ALL;
    }
    let allowing: Vec<_> = own_rules
        .iter()
        .filter(|r| check_rule(grant, &key, r, &own_rules).is_ok())
        .collect();
    if allowing.is_empty() {
        return Allowance::ALL;
    }
    let totals: Option<Vec<i64>> = allowing.iter().map(|r| r.max_total_seconds).collect();
    Allowance {
        renewal: allowing.iter().any(|r| r.renewal == RenewalPermission::Allow),
        total_seconds: totals.and_then(|all| all.into_iter().max()),
    }
}

/// Returns the maximum numbers of live grants in the grant's namespace and in the store. The limit for the namespace
/// comes from the access rules that allow the grant. If several access rules allow the grant, the highest limit
/// applies.
pub(super) fn quota_limits(grant: &GrantFacts, key: &ObjectKey, store: &StoreView) -> QuotaLimits {
    let own_rules = rules_for(grant, &store.rules, &store.namespace_labels);
    let allowing = own_rules
        .iter()
        .filter(|rule| check_rule(grant, key, rule, &own_rules).is_ok());
    let limits: Option<Vec<i64>> = allowing.map(|rule| rule.max_live_grants).collect();
    QuotaLimits {
        namespace: limits.and_then(|all| all.into_iter().max()),
        store: store.max_live_grants,
    }
}

/// Returns the access rules for the grant's namespace.
fn rules_for<'r>(
    grant: &GrantFacts,
    rules: &'r [ClusterAccessRule],
    labels: &BTreeMap<String, String>,
) -> Vec<&'r AccessRule> {
    rules
        .iter()
        .filter(|r| namespace_matches(&r.namespaces, &grant.namespace, labels))
        .map(|r| &r.rule)
        .collect()
}

fn object_key(grant: &GrantFacts, limit: usize) -> Result<ObjectKey, Refusal> {
    let parse = if grant.operation_spec.takes_prefix() {
        ObjectKey::parse_scope
    } else {
        ObjectKey::parse
    };
    let key = parse(&grant.terms.key, limit).map_err(|e| Refusal::new(Reason::InvalidSpec, e.to_string()))?;
    // The installed CRD can be older than this version of Valet, and then accepts specs that the current schema
    // rejects. Valet refuses a grant with such a spec. Valet sends no requests and signs nothing for this grant.
    if grant.broken_rules.is_empty() {
        Ok(key)
    } else {
        Err(Refusal::new(Reason::InvalidSpec, grant.broken_rules.join("; ")))
    }
}

/// Checks that at least one access rule applies to the grant's namespace.
fn named(grant: &GrantFacts, rules: &[ClusterAccessRule], labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let (store, namespace) = (&grant.terms.store_ref, &grant.namespace);
    if rules
        .iter()
        .any(|r| namespace_matches(&r.namespaces, namespace, labels))
    {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::NamespaceNotAllowed,
        format!(
            "{store} has no access rule for namespace {namespace}; ask the store's owner to add an access rule under spec.access"
        ),
    ))
}

/// Checks the grant against every access rule for its namespace. If all access rules refuse the grant, the result is
/// the refusal of the closest rule. The closest rule is the access rule for which the grant passed the most checks.
fn allowed(
    grant: &GrantFacts,
    key: &ObjectKey,
    rules: &[ClusterAccessRule],
    labels: &BTreeMap<String, String>,
) -> Result<(), Refusal> {
    named(grant, rules, labels)?;
    let own_rules = rules_for(grant, rules, labels);
    let mut closest: Option<(usize, Refusal)> = None;
    for rule in &own_rules {
        match check_rule(grant, key, rule, &own_rules) {
            Ok(()) => return Ok(()),
            Err((step, refusal)) => {
                if closest.as_ref().is_none_or(|(s, _)| step > *s) {
                    closest = Some((step, refusal));
                }
            }
        }
    }
    Err(closest.map_or_else(
        || unreachable!("at least one access rule exists, and each access rule refused the grant"),
        |(_, refusal)| refusal,
    ))
}
