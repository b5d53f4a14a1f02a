use std::collections::BTreeMap;

use super::{
    enforce::{enforceable, largest},
    facts::{GrantFacts, RulesView, StoreView},
    key::ObjectKey,
    lending::lends,
    media_type::matches_type,
    selector::selects,
};
use crate::api::{AccessRule, Ask, ClusterAccessRule, Namespaces, Reason, UploadMode};

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

/// Decides whether the grant may have what it asks for: the key must be one that everybody reads alike, the store
/// must be able to enforce every constraint, and one access rule must allow all of it.
///
/// # Errors
/// The [`Refusal`]. It speaks only of rules that are for the grant's own namespace.
pub fn admit(grant: &GrantFacts, store: &StoreView) -> Result<ObjectKey, Refusal> {
    let key = object_key(grant, store.capabilities.max_key_bytes)?;
    enforceable(grant, &store.capabilities)?;
    allowed(grant, &key, &store.rules, &store.namespace_labels)?;
    Ok(key)
}

/// Whether the rules alone still allow what the grant asks for, of a store of which nothing else is known now.
///
/// # Errors
/// The [`Refusal`], as [`admit`]'s.
pub(super) fn still_allowed(grant: &GrantFacts, view: &RulesView) -> Result<(), Refusal> {
    let key = object_key(grant, usize::MAX)?;
    allowed(grant, &key, &view.rules, &view.namespace_labels)
}

fn object_key(grant: &GrantFacts, limit: usize) -> Result<ObjectKey, Refusal> {
    let parse = if grant.ask.takes_prefix() {
        ObjectKey::parse_scope
    } else {
        ObjectKey::parse
    };
    parse(&grant.terms.key, limit).map_err(|e| Refusal::new(Reason::InvalidSpec, e.to_string()))
}

/// Holds the grant against every rule for its namespace; of those that refuse it, the one that it came furthest
/// with has the most to say.
fn allowed(
    grant: &GrantFacts,
    key: &ObjectKey,
    rules: &[ClusterAccessRule],
    labels: &BTreeMap<String, String>,
) -> Result<(), Refusal> {
    let (name, namespace) = (&grant.terms.store_ref, &grant.namespace);
    let mine: Vec<_> = rules
        .iter()
        .filter(|r| chooses(&r.namespaces, namespace, labels))
        .map(|r| &r.rule)
        .collect();
    if mine.is_empty() {
        return Err(Refusal::new(
            Reason::NamespaceNotAllowed,
            format!(
                "{name} has no access rule for namespace {namespace}; ask the store's owner to add one under spec.access"
            ),
        ));
    }
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
    if grant.ask.is_for_credentials() {
        return lends(grant, rule).map_err(|message| (3, message));
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
            return refuse(3, Reason::ContentLengthNotAllowed, message);
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
            return refuse(4, Reason::ContentTypeNotAllowed, message);
        }
    }
    Ok(())
}
