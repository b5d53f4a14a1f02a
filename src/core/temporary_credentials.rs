use super::{grant_facts::GrantFacts, refusal::Refusal};
use crate::api::{AccessRule, Capability, Operation, Permission, Reason};

/// Checks that an access rule allows temporary credentials for the grant. No store can enforce a size or a content
/// type for uploads with temporary credentials. An access rule that limits the size or the content type therefore
/// refuses temporary credentials for uploads.
pub fn allows_temporary_credentials(grant: &GrantFacts, rule: &AccessRule) -> Result<(), Refusal> {
    let (store, namespace) = (&grant.terms.store_ref, &grant.namespace);
    if rule.credentials == Permission::Forbid {
        let message = format!(
            "spec.mode is Credentials, but {store} does not allow temporary credentials for namespace {namespace}; use a signed URL, or ask the store's owner for an access rule with credentials: Allow"
        );
        return Err(Refusal::new(Reason::OperationNotAllowed, message));
    }
    let limits = [
        (rule.max_bytes.is_some(), Capability::ContentLengthRange, "maxBytes"),
        (!rule.content_types.is_empty(), Capability::ContentType, "contentTypes"),
    ];
    let broken = limits
        .into_iter()
        .find(|(is_set, ..)| *is_set && grant.operation_spec.operation() == Operation::Upload);
    match broken {
        None => Ok(()),
        Some((_, capability, field)) => Err(Refusal::new(
            Reason::CapabilityMissing,
            format!(
                "{store} cannot enforce {field} of the access rule for namespace {namespace} on temporary credentials ({capability}); set spec.mode to Put or PostForm, or ask the store's owner for an access rule without {field}",
                capability = capability.as_str()
            ),
        )),
    }
}
