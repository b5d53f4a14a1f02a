//! Checks that a store can enforce the constraints of a grant. Valet refuses a grant with a constraint that the store
//! cannot enforce. It never signs a credential with weaker constraints.

use super::{grant_facts::GrantFacts, refusal::Refusal};
use crate::api::{
    Capabilities, Capability, DownloadMode, MAX_PARTS, Operation, OperationSpec, Overwrite, Reason, ResponseHeaders,
    UploadConstraints, UploadMode, annotation,
};

/// Returns the capabilities that a grant needs from its store. Each capability comes with the field of the spec that
/// needs it.
fn needs(grant: &GrantFacts) -> Vec<(Capability, &'static str)> {
    let all: &[(bool, Capability, &'static str)] = match &grant.operation_spec {
        OperationSpec::Upload {
            mode,
            constraints:
                UploadConstraints {
                    content_type,
                    content_length,
                    content_length_range,
                    checksum_sha256,
                    checksum_md5,
                    overwrite,
                },
            ..
        } => &[
            (
                // This code requires the capability `KeyPrefix` only for POST forms. Temporary credentials need a
                // different capability for prefixes.
                *mode == UploadMode::PostForm && grant.terms.is_prefix(),
                Capability::KeyPrefix,
                "a spec.key that ends with '/'",
            ),
            (
                content_type.is_some(),
                Capability::ContentType,
                "spec.constraints.contentType",
            ),
            (
                content_length.is_some(),
                Capability::ContentLength,
                "spec.constraints.contentLength",
            ),
            (
                content_length_range.is_some(),
                Capability::ContentLengthRange,
                "spec.constraints.contentLengthRange",
            ),
            (
                checksum_sha256.is_some(),
                Capability::ChecksumSHA256,
                "spec.constraints.checksumSHA256",
            ),
            (
                checksum_md5.is_some(),
                Capability::ChecksumMD5,
                "spec.constraints.checksumMD5",
            ),
            (
                *overwrite == Overwrite::Forbid,
                Capability::WriteOnce,
                "spec.constraints.overwrite: Forbid",
            ),
            (true, Capability::SignedHeadersOnly, "the signed headers"),
        ],
        OperationSpec::Download { version, response, .. } => &[
            (version.is_some(), Capability::Version, "spec.version"),
            (
                *response != ResponseHeaders::default(),
                Capability::ResponseHeaders,
                "spec.response",
            ),
        ],
    };
    all.iter()
        .filter_map(|(recorded_seconds, capability, field)| recorded_seconds.then_some((*capability, *field)))
        .collect()
}

/// Returns the type of request that the credential allows, as text for messages.
fn request(operation_spec: &OperationSpec) -> &'static str {
    match operation_spec {
        OperationSpec::Upload { mode, .. } => match mode {
            UploadMode::Put => "a presigned PUT",
            UploadMode::PostForm => "a POST form",
            UploadMode::Multipart => "a multipart upload",
            UploadMode::Resumable => "a resumable upload",
            UploadMode::Credentials => "temporary credentials",
        },
        OperationSpec::Download { mode, .. } => match mode {
            DownloadMode::Url => "a presigned GET",
            DownloadMode::Credentials => "temporary credentials",
        },
    }
}

/// Returns the advice for a user whose grant has a constraint that the store cannot enforce in the grant's mode.
fn remedy(operation_spec: &OperationSpec, (missing, field): (Capability, &str), can: &Capabilities) -> String {
    let (mode, write_once) = match operation_spec {
        OperationSpec::Upload { mode, constraints, .. } => (*mode, constraints.overwrite == Overwrite::Forbid),
        OperationSpec::Download {
            mode: DownloadMode::Credentials,
            ..
        } => return format!("remove {field} from the grant, or set spec.mode to Url"),
        OperationSpec::Download { .. } => return format!("remove {field} from the grant, or use another store"),
    };
    if let OperationSpec::Upload { constraints, .. } = operation_spec
        && let Some((other, other_field)) = other_checksum(missing, constraints)
        && can.of(operation_spec).is_some_and(|keys| keys.contains(&other))
    {
        return format!("set {other_field} instead of {field}, or remove {field} from the grant");
    }
    let form = can.post_form.as_ref();
    let form_can = form.is_some_and(|f| f.contains(&missing));
    match (missing, mode) {
        (Capability::WriteOnce, UploadMode::PostForm | UploadMode::Credentials) => {
            if can.enforced.contains(&Capability::WriteOnce) {
                "set spec.constraints.overwrite to Allow if replacing an object is acceptable, or set spec.mode to Put"
                    .into()
            } else {
                "set spec.constraints.overwrite to Allow if replacing an object is acceptable, or use another store"
                    .into()
            }
        }
        (Capability::WriteOnce, UploadMode::Put | UploadMode::Multipart | UploadMode::Resumable) if can.only_read => {
            "the operator sends only read requests to the endpoint of an ObjectStore and cannot test overwrite: Forbid with an upload; set spec.constraints.overwrite to Allow if replacing an object is acceptable, or ask the platform team to set --tenant-store-requests=All"
                .into()
        }
        (Capability::WriteOnce, UploadMode::Put | UploadMode::Multipart | UploadMode::Resumable) => {
            "set spec.constraints.overwrite to Allow if replacing an object is acceptable, or use another store"
                .into()
        }
        (_, UploadMode::Put) if form_can => {
            // The message lists all changes to the spec at once. Otherwise a user could change the mode to PostForm,
            // and Valet would then refuse the grant because of a second constraint that POST forms cannot enforce.
            let to_form = if write_once && form.is_some_and(|f| !f.contains(&Capability::WriteOnce)) {
                "set spec.mode to PostForm and spec.constraints.overwrite to Allow, because a POST form cannot be write-once"
            } else {
                "set spec.mode to PostForm"
            };
            let parts_can = can.multipart.as_ref().is_some_and(|parts| parts.contains(&missing));
            let alternative = match missing {
                Capability::ContentLengthRange if parts_can => {
                    "set spec.mode to Multipart, or set the exact size in spec.constraints.contentLength"
                        .to_owned()
                }
                Capability::ContentLengthRange => {
                    "set the exact size in spec.constraints.contentLength".to_owned()
                }
                _ => format!("remove {field} from the grant"),
            };
            format!("{to_form}; alternatively, {alternative}")
        }
        (Capability::ContentLengthRange, UploadMode::Credentials) if form_can => {
            format!("set spec.mode to PostForm, or remove {field} from the grant")
        }
        (Capability::ContentLengthRange, _) if can.enforced.contains(&Capability::ContentLength) => {
            format!("set the exact size in spec.constraints.contentLength instead of {field}")
        }
        (_, UploadMode::PostForm | UploadMode::Multipart | UploadMode::Resumable | UploadMode::Credentials)
            if can.enforced.contains(&missing) =>
        {
            format!("set spec.mode to Put, or remove {field} from the grant")
        }
        _ => format!("remove {field} from the grant, or use another store"),
    }
}

/// If the store cannot enforce the grant's checksum, returns a second checksum algorithm that the user can try. The
/// result is MD5 instead of SHA-256, and SHA-256 instead of MD5. Returns `None` if the grant already sets the second
/// checksum.
fn other_checksum(missing: Capability, constraints: &UploadConstraints) -> Option<(Capability, &'static str)> {
    match missing {
        Capability::ChecksumSHA256 if constraints.checksum_md5.is_none() => {
            Some((Capability::ChecksumMD5, "spec.constraints.checksumMD5"))
        }
        Capability::ChecksumMD5 if constraints.checksum_sha256.is_none() => {
            Some((Capability::ChecksumSHA256, "spec.constraints.checksumSHA256"))
        }
        _ => None,
    }
}

/// Returns the message for a store that does not support the grant's mode. The message says which feature the store
/// does not have and what the user can do.
fn remedy_for_mode(grant: &GrantFacts, can: &Capabilities) -> String {
    let is_prefix = grant.terms.is_prefix();
    let is_upload = grant.operation_spec.operation() == Operation::Upload;
    // A signed URL is always for one object. A POST form can be for all object keys with one prefix.
    let form = can.post_form.as_ref().filter(|_| is_prefix && is_upload);
    let store = &grant.terms.store_ref;
    let other = match (is_upload, is_prefix) {
        _ if form.is_some_and(|form| form.contains(&Capability::KeyPrefix)) => "set spec.mode to PostForm",
        (true, true) => "set spec.key to one object key and set spec.mode to Put",
        (false, true) => "set spec.key to one object key and set spec.mode to Url",
        (true, false) => "set spec.mode to Put",
        (false, false) => "set spec.mode to Url",
    };
    let owners = |remedy: Option<&str>| match remedy {
        Some(remedy) => {
            let request = format!("ask the store's owner {remedy}");
            format!("{request}, or {other}")
        }
        None => format!("{other}, or use another store"),
    };
    if grant.operation_spec.is_for_credentials() {
        let remedy = owners(can.remedies.credentials);
        return format!("{store} does not issue temporary credentials (Credentials); {remedy}");
    }
    match &grant.operation_spec {
        OperationSpec::Upload {
            mode: UploadMode::Multipart,
            ..
        } if can.only_read => format!(
            "{store} does not support multipart uploads (Multipart), because the operator sends only read requests to the endpoint of an ObjectStore; ask the platform team to set --tenant-store-requests=All, or {other}"
        ),
        OperationSpec::Upload {
            mode: UploadMode::Multipart,
            ..
        } => format!(
            "{store} does not support multipart uploads (Multipart); {remedy}",
            remedy = owners(None)
        ),
        OperationSpec::Upload {
            mode: UploadMode::Resumable,
            ..
        } => format!(
            "{store} does not support resumable uploads (Resumable); {remedy}",
            remedy = owners(can.remedies.resumable)
        ),
        OperationSpec::Upload { .. } | OperationSpec::Download { .. } => {
            format!(
                "{store} does not support POST forms (PostForm); {remedy}",
                remedy = owners(None)
            )
        }
    }
}

/// Returns advice for the user if the store requires a checksum and the upload has no checksum. Returns `None` if the
/// grant sets a checksum or the client always sends a checksum.
fn remedy_for_checksum(operation_spec: &OperationSpec) -> Option<&'static str> {
    let OperationSpec::Upload { mode, constraints, .. } = operation_spec else {
        return None;
    };
    let has_any = constraints.checksum_sha256.is_some() || constraints.checksum_md5.is_some();
    match mode {
        UploadMode::Put => {
            (!has_any).then_some("set spec.constraints.checksumSHA256 or spec.constraints.checksumMD5")
        }
        // A POST form supports only a SHA-256 checksum. Stores do not check an MD5 checksum in a POST form.
        UploadMode::PostForm => constraints
            .checksum_sha256
            .is_none()
            .then_some("set spec.constraints.checksumSHA256"),
        UploadMode::Multipart => {
            Some("set spec.mode to Put, and set spec.constraints.checksumSHA256 or spec.constraints.checksumMD5")
        }
        // In the modes `Credentials` and `Resumable` the grant needs no checksum. Clients with temporary credentials
        // use Amazon's SDKs, which send a checksum automatically.
        UploadMode::Credentials | UploadMode::Resumable => None,
    }
}

/// Checks that the store can enforce every constraint of the grant.
///
/// # Errors
///
/// Returns a [`Refusal`] if the store cannot enforce a constraint. The message names a change to the spec that solves
/// the problem.
pub(super) fn enforceable(grant: &GrantFacts, can: &Capabilities) -> Result<(), Refusal> {
    let store = &grant.terms.store_ref;
    let Some(enforced) = can.of(&grant.operation_spec) else {
        return Err(Refusal::new(Reason::CapabilityMissing, remedy_for_mode(grant, can)));
    };
    if can.wants_checksums
        && let Some(remedy) = remedy_for_checksum(&grant.operation_spec)
    {
        let message = format!(
            "{store} accepts an upload only with a checksum, because its bucket has Object Lock with a default retention; {remedy}"
        );
        return Err(Refusal::new(Reason::CapabilityMissing, message));
    }
    if let Some((capability, field)) = needs(grant).into_iter().find(|(c, _)| !enforced.contains(c)) {
        if capability == Capability::KeyPrefix {
            let remedy = if can.only_read {
                "set spec.key to one object key".to_owned()
            } else {
                format!(
                    "set spec.key to one object key, or ask the store's owner to start a conformance check (annotation {annotation}); the store's condition ConstraintsEnforced shows the result",
                    annotation = annotation::CHECK_REQUESTED_AT
                )
            };
            let message = format!(
                "Valet does not know whether {store} limits a POST form to object keys with the prefix in spec.key (KeyPrefix); {remedy}"
            );
            return Err(Refusal::new(Reason::CapabilityMissing, message));
        }
        if capability == Capability::SignedHeadersOnly {
            let form = can.post_form.as_ref().is_some_and(|f| f.contains(&capability));
            let remedy = match can.remedies.signed_headers {
                Some(remedy) => format!("ask the store's owner {remedy}"),
                None => "use another store".to_owned(),
            };
            let remedy = if form {
                let to_form = "use a POST form: set spec.mode to PostForm and spec.constraints.overwrite to Allow";
                format!("{remedy}; alternatively, {to_form}")
            } else {
                remedy
            };
            let message = format!(
                "{store} does not have the capability SignedHeadersOnly (see its condition UnsignedHeadersRefused); the holder of an upload URL could therefore add a header and copy any object that the store's credentials can read; {remedy}"
            );
            return Err(Refusal::new(Reason::CapabilityMissing, message));
        }
        return Err(Refusal::new(
            Reason::CapabilityMissing,
            format!(
                "{store} cannot enforce {field} on {request} ({capability}); {remedy}",
                request = request(&grant.operation_spec),
                remedy = remedy(&grant.operation_spec, (capability, field), can),
                capability = capability.as_str()
            ),
        ));
    }
    let recorded_seconds = grant.terms.expiration_seconds;
    if recorded_seconds > can.max_expiration_seconds {
        return Err(Refusal::new(
            Reason::ExpirationTooLong,
            format!(
                "spec.expirationSeconds is {recorded_seconds}; {store} can sign credentials for at most {max} seconds; reduce spec.expirationSeconds to {max} or less",
                max = can.max_expiration_seconds
            ),
        ));
    }
    if let OperationSpec::Upload {
        mode: UploadMode::Multipart,
        constraints,
        ..
    } = &grant.operation_spec
    {
        return check_parts(grant, constraints);
    }
    if let OperationSpec::Upload { constraints, .. } = &grant.operation_spec
        && let Some((field, length)) = largest(constraints)
        && length > can.max_upload_bytes
    {
        return Err(Refusal::new(
            Reason::ContentLengthNotAllowed,
            format!(
                "{field} is {length} bytes; {store} accepts at most {max} bytes in one request; {remedy}",
                max = can.max_upload_bytes,
                remedy = alternative_to_prefix(can)
            ),
        ));
    }
    Ok(())
}

/// Returns the advice for a grant whose object is too large for one request to the store.
fn alternative_to_prefix(can: &Capabilities) -> &'static str {
    match (can.multipart.is_some(), can.resumable.is_some()) {
        (true, _) => "set spec.mode to Multipart, or split the object into smaller objects",
        (false, true) => "set spec.mode to Resumable, or split the object into smaller objects",
        (false, false) => "split the object into smaller objects",
    }
}

/// Checks that Valet can compute the number of parts of a multipart upload from the grant's spec, and that this
/// number is at most [`MAX_PARTS`].
fn check_parts(grant: &GrantFacts, constraints: &UploadConstraints) -> Result<(), Refusal> {
    let (Some(parts), Some((field, length))) = (grant.operation_spec.parts(), largest(constraints)) else {
        return Err(Refusal::new(
            Reason::InvalidSpec,
            "spec.mode is Multipart, but the grant sets no object size, so the number of parts is unknown; set spec.constraints.contentLength or spec.constraints.contentLengthRange",
        ));
    };
    if parts.count() <= MAX_PARTS {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::ContentLengthNotAllowed,
        format!(
            "{field} is {length} bytes and needs {count} parts of {part_bytes} bytes, but at most {MAX_PARTS} parts are allowed; increase spec.multipart.partSizeBytes, or split the object into smaller objects",
            count = parts.count(),
            part_bytes = parts.part_bytes
        ),
    ))
}

/// Returns the maximum size of an upload in bytes, and the name of the constraint that sets this maximum.
pub(super) fn largest(constraints: &UploadConstraints) -> Option<(&'static str, i64)> {
    let exact = constraints
        .content_length
        .map(|n| ("spec.constraints.contentLength", n));
    let range = constraints
        .content_length_range
        .map(|r| ("spec.constraints.contentLengthRange.max", r.max));
    exact.or(range)
}
