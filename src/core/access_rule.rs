use super::{
    enforce::largest, grant_facts::GrantFacts, key::ObjectKey, media_type::matches_type, refusal::Refusal,
    temporary_credentials::allows_temporary_credentials,
};
use crate::api::{AccessRule, OperationSpec, Reason, RenewalPermission, UploadMode};

/// Returns the `keyPrefix` of the rule. The namespace's name replaces the placeholder `{namespace}`.
fn prefix(rule: &AccessRule, namespace: &str) -> String {
    rule.key_prefix
        .as_deref()
        .unwrap_or_default()
        .replace("{namespace}", namespace)
}

/// Checks the grant against one access rule. If the rule refuses the grant, the error contains two values: the number
/// of checks that the grant passed, and the refusal.
pub(super) fn check_rule(
    grant: &GrantFacts,
    key: &ObjectKey,
    rule: &AccessRule,
    own_rules: &[&AccessRule],
) -> Result<(), (usize, Refusal)> {
    let (store, namespace, terms) = (&grant.terms.store_ref, &grant.namespace, &grant.terms);
    let operation = grant.operation_spec.operation();
    let refuse = |step, reason, message| Err((step, Refusal::new(reason, message)));

    if !rule.operations.contains(&operation) {
        let message = format!(
            "{store} does not allow namespace {namespace} to {verb} objects; ask the store's owner for an access rule with the operation {operation}",
            verb = operation.as_str().to_lowercase(),
            operation = operation.as_str()
        );
        return refuse(0, Reason::OperationNotAllowed, message);
    }
    if !key.is_below(&prefix(rule, namespace)) {
        let prefixes: Vec<_> = own_rules
            .iter()
            .filter(|r| r.operations.contains(&operation))
            .map(|r| format!("'{}/'", prefix(r, namespace).trim_end_matches('/')))
            .collect();
        let message = format!(
            "spec.key '{key}' is outside the prefixes that {store} allows for namespace {namespace}; choose an object key that starts with {prefixes}",
            key = key.as_str(),
            prefixes = prefixes.join(" or ")
        );
        return refuse(1, Reason::KeyNotAllowed, message);
    }
    if let Some(max) = rule.max_expiration_seconds
        && terms.expiration_seconds > max
    {
        let message = format!(
            "spec.expirationSeconds is {seconds}; {store} allows at most {max} seconds for namespace {namespace}; reduce spec.expirationSeconds to {max} or less",
            seconds = terms.expiration_seconds
        );
        return refuse(2, Reason::ExpirationTooLong, message);
    }
    if let Some(total) = rule.max_total_seconds
        && terms.expiration_seconds > total
    {
        let message = format!(
            "spec.expirationSeconds is {seconds}; {store} allows a total of {total} seconds for one grant of namespace {namespace}, including renewals; reduce spec.expirationSeconds to {total} or less",
            seconds = terms.expiration_seconds
        );
        return refuse(3, Reason::ExpirationTooLong, message);
    }
    if rule.renewal == RenewalPermission::Forbid && terms.renews() {
        let message = format!(
            "spec.renewal.policy is Always, but {store} does not allow renewal for namespace {namespace}; remove spec.renewal, or ask the store's owner for an access rule with renewal: Allow"
        );
        return refuse(4, Reason::RenewalNotAllowed, message);
    }
    if grant.operation_spec.is_for_credentials() {
        return allows_temporary_credentials(grant, rule).map_err(|message| (5, message));
    }
    let OperationSpec::Upload { mode, constraints, .. } = &grant.operation_spec else {
        return Ok(());
    };
    if let Some(limit) = &rule.max_bytes {
        // If Valet cannot parse the size limit of an access rule, the rule allows only empty objects. The current
        // schema rejects an invalid limit, but the schema of an older CRD may have accepted it.
        let max = limit.bytes().unwrap_or(0);
        let remedy = match mode {
            UploadMode::Put | UploadMode::Multipart => "set spec.constraints.contentLength",
            UploadMode::PostForm | UploadMode::Credentials => {
                "set spec.constraints.contentLengthRange or spec.constraints.contentLength"
            }
            UploadMode::Resumable => {
                "a resumable upload cannot enforce a size; use another spec.mode, and set spec.constraints.contentLength"
            }
        };
        // The constraints of a multipart upload can contain an exact object size or a range of sizes. With a range, the
        // store does not enforce the size of every part. A client could then upload more bytes than the limit. The
        // store would keep these bytes until the upload ends.
        let is_loose = *mode == UploadMode::Multipart && constraints.content_length.is_none();
        let message = match largest(constraints).map(|(_, size)| size) {
            Some(size) if size <= max && is_loose => Some(format!(
                "{store} allows uploads of at most {limit} for namespace {namespace}; contentLengthRange cannot enforce this limit, because it does not limit the size of every part of a multipart upload; set spec.constraints.contentLength instead"
            )),
            Some(size) if size <= max => None,
            Some(size) => Some(format!(
                "spec.constraints allows an upload of {size} bytes; {store} allows uploads of at most {limit} for namespace {namespace}; set a smaller size in spec.constraints"
            )),
            None => Some(format!(
                "{store} allows uploads of at most {limit} for namespace {namespace}, so the grant must limit the upload size; {remedy}"
            )),
        };
        if let Some(message) = message {
            return refuse(5, Reason::ContentLengthNotAllowed, message);
        }
    }
    if !rule.content_types.is_empty() {
        let types = rule.content_types.join(", ");
        let message = match &constraints.content_type {
            Some(content_type)
                if rule
                    .content_types
                    .iter()
                    .any(|pattern| matches_type(pattern, content_type)) =>
            {
                None
            }
            Some(content_type) => Some(format!(
                "spec.constraints.contentType is {content_type}; {store} allows only uploads of the types {types} for namespace {namespace}; set one of these types"
            )),
            None => Some(format!(
                "{store} allows only uploads of the types {types} for namespace {namespace}; set spec.constraints.contentType to one of these types"
            )),
        };
        if let Some(message) = message {
            return refuse(6, Reason::ContentTypeNotAllowed, message);
        }
    }
    Ok(())
}
