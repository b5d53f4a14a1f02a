//! Refusals of invalid specs, and of grants that no access rule allows.

use valet::api::{ByteSize, Operation, Reason, RenewalPermission};

use super::{Case, case};
use crate::common::{constrain, renew_always};

pub fn cases() -> Vec<Case> {
    vec![
        case(
            |g, _| g.terms.key = "tenants/web/../shop/x".into(),
            Reason::InvalidSpec,
            "spec.key has a '.' or '..' segment, plain or percent-encoded; clients and stores resolve such a \
             segment differently; write the object key without '.' and '..' segments",
        ),
        case(
            |g, _| g.terms.key = "tenants//x".into(),
            Reason::InvalidSpec,
            "spec.key has an empty segment, because it starts or ends with '/' or contains '//'; write the object \
             key as 'folder/file'",
        ),
        case(
            |g, _| g.terms.key = "tenants/web/a\nb".into(),
            Reason::InvalidSpec,
            "spec.key contains the character U+000A, which is a control, line separator or text direction \
             character; remove this character",
        ),
        case(
            |g, _| g.terms.key = "é".repeat(600),
            Reason::InvalidSpec,
            "spec.key is 1200 bytes long in UTF-8; the store accepts at most 1024 bytes; shorten the object key",
        ),
        case(
            |g, _| g.terms.key.clear(),
            Reason::InvalidSpec,
            "spec.key is empty; enter an object key",
        ),
        case(
            |g, r| {
                g.terms.expiration_seconds = 301;
                r.max_total_seconds = Some(300);
            },
            Reason::ExpirationTooLong,
            "spec.expirationSeconds is 301; ClusterObjectStore media allows a total of 300 seconds for one grant of \
             namespace web, including renewals; reduce spec.expirationSeconds to 300 or less",
        ),
        case(
            |g, r| {
                renew_always(g);
                r.renewal = RenewalPermission::Forbid;
            },
            Reason::RenewalNotAllowed,
            "spec.renewal.policy is Always, but ClusterObjectStore media does not allow renewal for namespace web; \
             remove spec.renewal, or ask the store's owner for an access rule with renewal: Allow",
        ),
        case(
            |g, _| g.terms.expiration_seconds = 604_801,
            Reason::ExpirationTooLong,
            "spec.expirationSeconds is 604801; ClusterObjectStore media can sign credentials for at most 604800 \
             seconds; reduce spec.expirationSeconds to 604800 or less",
        ),
        case(
            |g, _| constrain(g, |c| c.content_length = Some(5_368_709_121)),
            Reason::ContentLengthNotAllowed,
            "spec.constraints.contentLength is 5368709121 bytes; ClusterObjectStore media accepts at most \
             5368709120 bytes in one request; set spec.mode to Multipart, or split the object into smaller objects",
        ),
        case(
            |g, _| g.namespace = "shop".into(),
            Reason::NamespaceNotAllowed,
            "ClusterObjectStore media has no access rule for namespace shop; ask the store's owner to add an access \
             rule under spec.access",
        ),
        case(
            |_, r| r.operations = vec![Operation::Download],
            Reason::OperationNotAllowed,
            "ClusterObjectStore media does not allow namespace web to upload objects; ask the store's owner for an \
             access rule with the operation Upload",
        ),
        case(
            |g, _| g.terms.key = "tenants/shop/x".into(),
            Reason::KeyNotAllowed,
            "spec.key 'tenants/shop/x' is outside the prefixes that ClusterObjectStore media allows for namespace \
             web; choose an object key that starts with 'tenants/web/'",
        ),
        case(
            |g, _| g.terms.expiration_seconds = 3601,
            Reason::ExpirationTooLong,
            "spec.expirationSeconds is 3601; ClusterObjectStore media allows at most 3600 seconds for namespace \
             web; reduce spec.expirationSeconds to 3600 or less",
        ),
        case(
            |g, r| {
                constrain(g, |c| c.content_length = Some(65_000_001));
                r.max_bytes = Some(ByteSize::Quantity("65M".into()));
            },
            Reason::ContentLengthNotAllowed,
            "spec.constraints allows an upload of 65000001 bytes; ClusterObjectStore media allows uploads of at \
             most 65M for namespace web; set a smaller size in spec.constraints",
        ),
        case(
            |_, r| r.max_bytes = Some(ByteSize::Number(5)),
            Reason::ContentLengthNotAllowed,
            "ClusterObjectStore media allows uploads of at most 5 for namespace web, so the grant must limit the \
             upload size; set spec.constraints.contentLength",
        ),
        case(
            |_, r| r.content_types = vec!["image/png".into(), "text/*".into()],
            Reason::ContentTypeNotAllowed,
            "ClusterObjectStore media allows only uploads of the types image/png, text/* for namespace web; set \
             spec.constraints.contentType to one of these types",
        ),
        case(
            |g, r| {
                constrain(g, |c| c.content_type = Some("image/gif".into()));
                r.content_types = vec!["image/png".into()];
            },
            Reason::ContentTypeNotAllowed,
            "spec.constraints.contentType is image/gif; ClusterObjectStore media allows only uploads of the types \
             image/png for namespace web; set one of these types",
        ),
    ]
}
