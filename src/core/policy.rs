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

/// The proof that the access rules of a store allow a grant what it asks for, on the object of its key.
///
/// Every method of a provider that sends a request about a grant, or signs for it, takes one. Only [`admit`] and
/// [`still_allowed`] make one, so the compiler refuses a request that nobody has judged:
///
/// ```compile_fail,E0451
/// # fn forge(allowed: valet::core::Access, key: valet::core::ObjectKey) -> valet::core::Access {
/// valet::core::Access { key, ..allowed }
/// # }
/// ```
///
/// It speaks of the moment at which the rules were read. It is made again for each decision and never stored.
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

    /// What the rules allow the grant to do.
    pub fn operation(&self) -> Operation {
        self.ask.operation()
    }

    /// The object that it is for.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// The store whose rules allow it, as a grant in [`Access::namespace`] names it.
    pub fn store(&self) -> &StoreRef {
        &self.store
    }

    /// The namespace that the rules allow it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The request to sign what is allowed, for this time. `upload` is the store's name for a multipart upload.
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

    /// The right to abort a multipart upload of the object.
    pub fn to_abort(&self, upload: &str) -> AbortAccess {
        AbortAccess {
            key: self.key.clone(),
            upload: upload.to_owned(),
            may_list: true,
        }
    }
}

/// A signing request that the access rules allow: key, operation and constraints are those that were judged.
#[derive(Clone, Debug, PartialEq)]
pub struct AllowedRequest {
    access: Access,
    request: SigningRequest,
}

impl AllowedRequest {
    /// What it rests on.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Says which multipart upload its URLs are for.
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

/// The right to abort one multipart upload, and to do nothing else: from [`Access::to_abort`], or from
/// [`abort_own`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbortAccess {
    key: ObjectKey,
    upload: String,
    may_list: bool,
}

impl AbortAccess {
    /// The object that the upload is for.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// The store's name for the upload.
    pub fn upload(&self) -> &str {
        &self.upload
    }

    /// Whether the rules allow it to ask afterwards what is left of the upload.
    pub fn may_list(&self) -> bool {
        self.may_list
    }
}

/// The right to abort the upload that Valet itself began for this very grant, whatever the rules say by now: to abort it
/// enforces a narrowed rule. It takes evidence that nobody else can write, see [`Facts::own_upload`].
///
/// [`Facts::own_upload`]: super::Facts::own_upload
pub(super) fn abort_own(grant: &GrantFacts, own_upload: &str) -> Option<AbortAccess> {
    Some(AbortAccess {
        key: object_key(grant, usize::MAX).ok()?,
        upload: own_upload.to_owned(),
        may_list: false,
    })
}

/// Why a grant gets no key, for conditions and events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// From the one list.
    pub reason: Reason,
    /// The field, what is wrong with its value and the remedy.
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

/// Decides whether the grant may have what it asks for: a rule must be for its namespace, the key must be one that
/// everybody reads alike, the store must be able to enforce every constraint, and one access rule must allow all of it.
///
/// # Errors
/// The [`Refusal`]. It speaks only of rules that are for the grant's own namespace, and of what the store can do only
/// if there is one.
pub fn admit(grant: &GrantFacts, store: &StoreView) -> Result<Access, Refusal> {
    named(grant, &store.rules, &store.namespace_labels)?;
    let key = object_key(grant, store.capabilities.max_key_bytes)?;
    enforceable(grant, &store.capabilities)?;
    allowed(grant, &key, &store.rules, &store.namespace_labels)?;
    Ok(Access::new(grant, key))
}

/// Whether the rules alone allow what the grant asks for, whatever the store can enforce. It is enough to ask the store
/// about the grant, and not to sign for it.
///
/// # Errors
/// The [`Refusal`], as [`admit`]'s.
pub fn still_allowed(grant: &GrantFacts, view: &RulesView) -> Result<Access, Refusal> {
    named(grant, &view.rules, &view.namespace_labels)?;
    let key = object_key(grant, usize::MAX)?;
    allowed(grant, &key, &view.rules, &view.namespace_labels)?;
    Ok(Access::new(grant, key))
}

/// What the rules allow a grant beyond one credential. Of several that allow it, the most generous counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Whether another credential may follow one that was issued.
    pub renewal: bool,
    /// In how many seconds from the grant's creation all of them end; `None`: no limit.
    pub total_seconds: Option<i64>,
}

impl Allowance {
    /// Where no rules are known, and where none allows the grant, so that it is refused anyway.
    pub const ALL: Self = Self {
        renewal: true,
        total_seconds: None,
    };
}

/// See [`Allowance`].
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
    // What the schema does not let through is not judged, and nothing is asked or signed for it.
    if grant.broken_rules.is_empty() {
        Ok(key)
    } else {
        Err(Refusal::new(Reason::InvalidSpec, grant.broken_rules.join("; ")))
    }
}

/// Whether any rule is for the grant's namespace.
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

/// Holds the grant against every rule for its namespace; of those that refuse it, the one that it came furthest
/// with has the most to say.
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
        || unreachable!("there is at least one rule, and it refused"),
        |(_, refusal)| refusal,
    ))
}

pub(super) fn chooses(namespaces: &Namespaces, name: &str, labels: &BTreeMap<String, String>) -> bool {
    namespaces.names.iter().any(|n| n == name) || namespaces.selector.as_ref().is_some_and(|s| selects(s, labels))
}

/// Whether a rule may be for a namespace whose labels are not known.
pub(super) fn may_choose(namespaces: &Namespaces, name: &str) -> bool {
    namespaces.selector.is_some() || namespaces.names.iter().any(|n| n == name)
}

/// The rule's prefix with its one variable filled in.
fn prefix(rule: &AccessRule, namespace: &str) -> String {
    rule.key_prefix
        .as_deref()
        .unwrap_or_default()
        .replace("{namespace}", namespace)
}

/// Holds the grant against one rule: how many of its clauses it satisfied, and what the next one says.
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
            "spec.key '{}' is outside what {store} allows namespace {namespace}: keys below {}",
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
            "spec.expirationSeconds is {}; {store} allows namespace {namespace} at most {total} in total, renewals included; ask for less",
            terms.expiration_seconds
        );
        return refuse(3, Reason::ExpirationTooLong, message);
    }
    if rule.renewal == RenewalPermission::Forbid && terms.renews() {
        let message = format!(
            "spec.renewal.policy is Always; {store} allows namespace {namespace} no renewal; leave spec.renewal out, or ask the store's owner for a rule with renewal: Allow"
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
        // A limit that is no size allows nothing but what is empty: the schema refuses it, an older one may
        // not have.
        let max = limit.bytes().unwrap_or(0);
        let say = match mode {
            UploadMode::Put | UploadMode::Multipart => "spec.constraints.contentLength",
            UploadMode::PostForm | UploadMode::Credentials => "spec.constraints.contentLengthRange or contentLength",
            UploadMode::Resumable => {
                "spec.mode to another than Resumable, which is held to no size, and spec.constraints.contentLength"
            }
        };
        // Of a range the store does not hold every part to its size: more than that could lie there until the end.
        let is_loose = *mode == UploadMode::Multipart && constraints.content_length.is_none();
        let message = match largest(constraints).map(|(_, size)| size) {
            Some(size) if size <= max && is_loose => Some(format!(
                "{store} allows namespace {namespace} uploads of at most {limit}, and the store cannot hold every part of a contentLengthRange to that; set {say} instead"
            )),
            Some(size) if size <= max => None,
            Some(size) => Some(format!(
                "the upload may have {size} bytes; {store} allows namespace {namespace} at most {limit}; make it smaller"
            )),
            None => Some(format!(
                "{store} allows namespace {namespace} uploads of at most {limit}, so the grant must say its size: set {say}"
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
                "spec.constraints.contentType is {t}; {store} allows namespace {namespace} only {types}"
            )),
            None => Some(format!(
                "{store} allows namespace {namespace} only uploads of {types}, so the grant must say its type: set spec.constraints.contentType"
            )),
        };
        if let Some(message) = message {
            return refuse(6, Reason::ContentTypeNotAllowed, message);
        }
    }
    Ok(())
}
