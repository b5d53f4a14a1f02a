use std::{collections::BTreeMap, ops::Deref};

use super::{
    enforce::{enforceable, largest},
    facts::{GrantFacts, RulesView, StoreView},
    key::ObjectKey,
    lending::lends,
    lifetime::Lifetime,
    media_type::matches_type,
    selector::selects,
    step::SigningRequest,
};
use crate::api::{
    AccessRule, Ask, ClusterAccessRule, Namespaces, Operation, Reason, RenewalPermission, StoreRef, UploadMode,
};

/// Proof that the access rules of a store allow a grant's operation on its object.
///
/// Every provider method that sends a request about a grant, or signs for it, takes an `Access`. Only [`admit`] and
/// [`still_allowed`] create one, so the compiler rejects a request that was not checked:
///
/// ```compile_fail,E0451
/// # fn forge(allowed: valet::core::Access, key: valet::core::ObjectKey) -> valet::core::Access {
/// valet::core::Access { key, ..allowed }
/// # }
/// ```
///
/// The proof is valid for the time when the rules were read. Each decision creates a new one and never stores it.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    ask: Ask,
    key: ObjectKey,
    store: StoreRef,
    namespace: String,
    name: String,
}

impl Access {
    fn new(grant: &GrantFacts, key: ObjectKey) -> Self {
        Self {
            ask: grant.ask.clone(),
            key,
            store: grant.terms.store_ref.clone(),
            namespace: grant.namespace.clone(),
            name: grant.name.clone(),
        }
    }

    /// The operation that the rules allow.
    pub fn operation(&self) -> Operation {
        self.ask.operation()
    }

    /// The object key that the rules allow.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// The store whose rules allow the operation, as referenced from [`Access::namespace`].
    pub fn store(&self) -> &StoreRef {
        &self.store
    }

    /// The namespace of the grant.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Creates the signing request for this lifetime. `upload` is the store's ID of a multipart upload.
    pub fn to_sign(&self, lifetime: Lifetime, upload: Option<String>) -> AllowedRequest {
        AllowedRequest {
            access: self.clone(),
            request: SigningRequest {
                key: self.key.clone(),
                ask: self.ask.clone(),
                lifetime,
                holder: format!("{}.{}", self.namespace, self.name),
                upload,
            },
        }
    }

    /// The permission to abort a multipart upload of the object.
    pub fn to_abort(&self, upload: &str) -> AbortAccess {
        AbortAccess {
            key: self.key.clone(),
            upload: upload.to_owned(),
            may_list: true,
        }
    }
}

/// A signing request that the access rules allow. Its object key, operation and constraints are those that were
/// checked.
#[derive(Clone, Debug, PartialEq)]
pub struct AllowedRequest {
    access: Access,
    request: SigningRequest,
}

impl AllowedRequest {
    /// The proof that the access rules allow the request.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Sets the multipart upload that the URLs are for.
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

/// The permission to abort one multipart upload, and nothing else. [`Access::to_abort`] and [`abort_own`] create it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbortAccess {
    key: ObjectKey,
    upload: String,
    may_list: bool,
}

impl AbortAccess {
    /// The object key of the upload.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// The store's ID of the upload.
    pub fn upload(&self) -> &str {
        &self.upload
    }

    /// Whether the access rules allow Valet to list the rest of the upload afterwards.
    pub fn may_list(&self) -> bool {
        self.may_list
    }
}

/// The permission to abort a multipart upload that Valet itself initiated for this grant. The access rules do not
/// matter, because the abort enforces a rule that became stricter. It requires evidence that no other client can
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

/// Why a grant gets no credential, for conditions and events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason of the condition.
    pub reason: Reason,
    /// The field, what is wrong with its value, and what to do.
    pub message: String,
}

impl Refusal {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Decides whether the grant may have a credential. A rule must be for its namespace, its object key must be
/// unambiguous, the store must be able to enforce every constraint, and one access rule must allow the whole grant.
///
/// # Errors
///
/// The [`Refusal`]. Its message mentions only rules for the grant's own namespace. It mentions capabilities of the
/// store only if such a rule exists.
pub fn admit(grant: &GrantFacts, store: &StoreView) -> Result<Access, Refusal> {
    named(grant, &store.rules, &store.namespace_labels)?;
    let key = object_key(grant, store.capabilities.max_key_bytes)?;
    enforceable(grant, &store.capabilities)?;
    allowed(grant, &key, &store.rules, &store.namespace_labels)?;
    Ok(Access::new(grant, key))
}

/// Checks only the access rules, not the capabilities of the store. The result allows requests about the grant to the
/// store, but no signing.
///
/// # Errors
///
/// The [`Refusal`], as for [`admit`].
pub fn still_allowed(grant: &GrantFacts, view: &RulesView) -> Result<Access, Refusal> {
    named(grant, &view.rules, &view.namespace_labels)?;
    let key = object_key(grant, usize::MAX)?;
    allowed(grant, &key, &view.rules, &view.namespace_labels)?;
    Ok(Access::new(grant, key))
}

/// What the access rules allow beyond one credential. If several rules allow the grant, the most generous values
/// count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Whether a new credential may follow an earlier one.
    pub renewal: bool,
    /// Within how many seconds after the grant's creation all credentials must expire. `None`: no limit.
    pub total_seconds: Option<i64>,
}

impl Allowance {
    /// The value if no rules are known, or if no rule allows the grant, so that it is refused anyway.
    pub const ALL: Self = Self {
        renewal: true,
        total_seconds: None,
    };
}

/// Returns the [`Allowance`] of a grant.
pub fn allowance(grant: &GrantFacts, rules: &[ClusterAccessRule], labels: &BTreeMap<String, String>) -> Allowance {
    let Ok(key) = object_key(grant, usize::MAX) else {
        return Allowance::ALL;
    };
    let mine: Vec<_> = rules
        .iter()
        .filter(|r| chooses(&r.namespaces, &grant.namespace, labels))
        .map(|r| &r.rule)
        .collect();
    let is_plain = |r: &AccessRule| r.max_total_seconds.is_none() && r.renewal == RenewalPermission::Allow;
    if mine.iter().all(|r| is_plain(r)) {
        return Allowance::ALL;
    }
    let allowing: Vec<_> = mine.iter().filter(|r| examine(grant, &key, r, &mine).is_ok()).collect();
    if allowing.is_empty() {
        return Allowance::ALL;
    }
    let totals: Option<Vec<i64>> = allowing.iter().map(|r| r.max_total_seconds).collect();
    Allowance {
        renewal: allowing.iter().any(|r| r.renewal == RenewalPermission::Allow),
        total_seconds: totals.and_then(|all| all.into_iter().max()),
    }
}

fn object_key(grant: &GrantFacts, limit: usize) -> Result<ObjectKey, Refusal> {
    let parse = if grant.ask.takes_prefix() {
        ObjectKey::parse_scope
    } else {
        ObjectKey::parse
    };
    let key = parse(&grant.terms.key, limit).map_err(|e| Refusal::new(Reason::InvalidSpec, e.to_string()))?;
    // A spec that the current schema rejects is refused here. Nothing is requested or signed for it.
    if grant.broken_rules.is_empty() {
        Ok(key)
    } else {
        Err(Refusal::new(Reason::InvalidSpec, grant.broken_rules.join("; ")))
    }
}

/// Checks whether any rule applies to the grant's namespace.
fn named(grant: &GrantFacts, rules: &[ClusterAccessRule], labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let (name, namespace) = (&grant.terms.store_ref, &grant.namespace);
    if rules.iter().any(|r| chooses(&r.namespaces, namespace, labels)) {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::NamespaceNotAllowed,
        format!(
            "{name} has no access rule for namespace {namespace}; ask the store's owner to add one under spec.access"
        ),
    ))
}

/// Checks the grant against every rule for its namespace. If all refuse it, the result is the refusal of the rule
/// that failed at the latest check, because that rule is the closest match.
fn allowed(
    grant: &GrantFacts,
    key: &ObjectKey,
    rules: &[ClusterAccessRule],
    labels: &BTreeMap<String, String>,
) -> Result<(), Refusal> {
    named(grant, rules, labels)?;
    let mine: Vec<_> = rules
        .iter()
        .filter(|r| chooses(&r.namespaces, &grant.namespace, labels))
        .map(|r| &r.rule)
        .collect();
    let mut closest: Option<(usize, Refusal)> = None;
    for rule in &mine {
        match examine(grant, key, rule, &mine) {
            Ok(()) => return Ok(()),
            Err((step, refusal)) => {
                if closest.as_ref().is_none_or(|(s, _)| step > *s) {
                    closest = Some((step, refusal));
                }
            }
        }
    }
    Err(closest.map_or_else(
        || unreachable!("at least one rule exists, and it refused the grant"),
        |(_, refusal)| refusal,
    ))
}

pub(super) fn chooses(namespaces: &Namespaces, name: &str, labels: &BTreeMap<String, String>) -> bool {
    namespaces.names.iter().any(|n| n == name) || namespaces.selector.as_ref().is_some_and(|s| selects(s, labels))
}

/// Whether a rule could apply to a namespace whose labels are unknown.
pub(super) fn may_choose(namespaces: &Namespaces, name: &str) -> bool {
    namespaces.selector.is_some() || namespaces.names.iter().any(|n| n == name)
}

/// The rule's `keyPrefix` with `{namespace}` filled in.
fn prefix(rule: &AccessRule, namespace: &str) -> String {
    rule.key_prefix
        .as_deref()
        .unwrap_or_default()
        .replace("{namespace}", namespace)
}

/// Checks the grant against one rule. A refusal contains the number of checks that passed before it.
pub(super) fn examine(
    grant: &GrantFacts,
    key: &ObjectKey,
    rule: &AccessRule,
    mine: &[&AccessRule],
) -> Result<(), (usize, Refusal)> {
    let (store, namespace, terms) = (&grant.terms.store_ref, &grant.namespace, &grant.terms);
    let operation = grant.ask.operation();
    let refuse = |step, reason, message| Err((step, Refusal::new(reason, message)));

    if !rule.operations.contains(&operation) {
        let message = format!(
            "{store} does not allow namespace {namespace} to {}; ask the store's owner for a rule with that operation",
            operation.as_str().to_lowercase()
        );
        return refuse(0, Reason::OperationNotAllowed, message);
    }
    if !key.is_below(&prefix(rule, namespace)) {
        let prefixes: Vec<_> = mine
            .iter()
            .filter(|r| r.operations.contains(&operation))
            .map(|r| format!("'{}/'", prefix(r, namespace).trim_end_matches('/')))
            .collect();
        let message = format!(
            "spec.key '{}' is outside the prefixes that {store} allows namespace {namespace}; choose a key below {}",
            key.as_str(),
            prefixes.join(" or ")
        );
        return refuse(1, Reason::KeyNotAllowed, message);
    }
    if let Some(max) = rule.max_expiration_seconds
        && terms.expiration_seconds > max
    {
        let message = format!(
            "spec.expirationSeconds is {}; {store} allows namespace {namespace} at most {max}; ask for less",
            terms.expiration_seconds
        );
        return refuse(2, Reason::ExpirationTooLong, message);
    }
    if let Some(total) = rule.max_total_seconds
        && terms.expiration_seconds > total
    {
        let message = format!(
            "spec.expirationSeconds is {}; {store} allows namespace {namespace} at most {total} in total, including renewals; ask for less",
            terms.expiration_seconds
        );
        return refuse(3, Reason::ExpirationTooLong, message);
    }
    if rule.renewal == RenewalPermission::Forbid && terms.renews() {
        let message = format!(
            "spec.renewal.policy is Always; {store} does not allow renewal for namespace {namespace}; leave spec.renewal out, or ask the store's owner for a rule with renewal: Allow"
        );
        return refuse(4, Reason::RenewalNotAllowed, message);
    }
    if grant.ask.is_for_credentials() {
        return lends(grant, rule).map_err(|message| (5, message));
    }
    let Ask::Upload { mode, constraints, .. } = &grant.ask else {
        return Ok(());
    };
    if let Some(limit) = &rule.max_bytes {
        // An invalid limit allows only empty objects. The current schema rejects such a limit, but an older schema
        // may have accepted it.
        let max = limit.bytes().unwrap_or(0);
        let say = match mode {
            UploadMode::Put | UploadMode::Multipart => "spec.constraints.contentLength",
            UploadMode::PostForm | UploadMode::Credentials => "spec.constraints.contentLengthRange or contentLength",
            UploadMode::Resumable => {
                "spec.mode to another mode than Resumable, which cannot enforce a size, and spec.constraints.contentLength"
            }
        };
        // With a size range the store does not enforce the size of every part, so more bytes than the limit could be
        // stored until the upload ends.
        let is_loose = *mode == UploadMode::Multipart && constraints.content_length.is_none();
        let message = match largest(constraints).map(|(_, size)| size) {
            Some(size) if size <= max && is_loose => Some(format!(
                "{store} allows namespace {namespace} uploads of at most {limit}, and with contentLengthRange the store cannot limit every part; set {say} instead"
            )),
            Some(size) if size <= max => None,
            Some(size) => Some(format!(
                "spec.constraints allows an upload of {size} bytes; {store} allows namespace {namespace} at most {limit}; set a smaller size"
            )),
            None => Some(format!(
                "{store} allows namespace {namespace} uploads of at most {limit}, so the grant must limit its size; set {say}"
            )),
        };
        if let Some(message) = message {
            return refuse(5, Reason::ContentLengthNotAllowed, message);
        }
    }
    if !rule.content_types.is_empty() {
        let types = rule.content_types.join(", ");
        let message = match &constraints.content_type {
            Some(t) if rule.content_types.iter().any(|pattern| matches_type(pattern, t)) => None,
            Some(t) => Some(format!(
                "spec.constraints.contentType is {t}; {store} allows namespace {namespace} only {types}; set one of these types"
            )),
            None => Some(format!(
                "{store} allows namespace {namespace} only uploads of {types}, so the grant must name its type; set spec.constraints.contentType"
            )),
        };
        if let Some(message) = message {
            return refuse(6, Reason::ContentTypeNotAllowed, message);
        }
    }
    Ok(())
}
