//! Refusals of invalid specs, and of grants that no access rule allows.

use valet::api::{ByteSize, Operation, Reason, RenewalPermission};

use super::{Case, case};
use crate::common::{constrain, renew_always};

pub fn cases() -> Vec<Case> {
    vec![
        case(
            |g, _| g.terms.key = "tenants/web/../shop/x".into(),
            Reason::InvalidSpec,
            "spec.key has a '.' or '..' segment (or a percent-encoded spelling of one), which clients and stores \
             resolve differently; write the resolved key",
        ),
        case(
            |g, _| g.terms.key = "tenants//x".into(),
            Reason::InvalidSpec,
            "spec.key has an empty segment: it must not start or end with '/' or contain '//'; write it as \
             'folder/file'",
        ),
        case(
            |g, _| g.terms.key = "tenants/web/a\nb".into(),
            Reason::InvalidSpec,
            "spec.key has the character U+000A, a control, line separator or text direction character; remove it",
        ),
        case(
            |g, _| g.terms.key = "é".repeat(600),
            Reason::InvalidSpec,
            "spec.key is 1200 bytes long in UTF-8; the store accepts at most 1024; shorten it",
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
            "spec.expirationSeconds is 301; ClusterObjectStore media allows namespace web at most 300 in total, \
             including renewals; ask for less",
        ),
        case(
            |g, r| {
                renew_always(g);
                r.renewal = RenewalPermission::Forbid;
            },
            Reason::RenewalNotAllowed,
            "spec.renewal.policy is Always; ClusterObjectStore media does not allow renewal for namespace web; \
             leave spec.renewal \
             out, or ask the store's owner for a rule with renewal: Allow",
        ),
        case(
            |g, _| g.terms.expiration_seconds = 604_801,
            Reason::ExpirationTooLong,
            "spec.expirationSeconds is 604801; ClusterObjectStore media can sign for at most 604800; ask for less",
        ),
        case(
            |g, _| constrain(g, |c| c.content_length = Some(5_368_709_121)),
            Reason::ContentLengthNotAllowed,
            "spec.constraints.contentLength is 5368709121 bytes; ClusterObjectStore media accepts at most \
             5368709120 bytes in one request; set spec.mode to Multipart, or split the \
             object",
        ),
        case(
            |g, _| g.namespace = "shop".into(),
            Reason::NamespaceNotAllowed,
            "ClusterObjectStore media has no access rule for namespace shop; ask the store's owner to add one under \
             spec.access",
        ),
        case(
            |_, r| r.operations = vec![Operation::Download],
            Reason::OperationNotAllowed,
            "ClusterObjectStore media does not allow namespace web to upload; ask the store's owner for a rule with \
             that operation",
        ),
        case(
            |g, _| g.terms.key = "tenants/shop/x".into(),
            Reason::KeyNotAllowed,
            "spec.key 'tenants/shop/x' is outside the prefixes that ClusterObjectStore media allows namespace web; \
             choose a key below 'tenants/web/'",
        ),
        case(
            |g, _| g.terms.expiration_seconds = 3601,
            Reason::ExpirationTooLong,
            "spec.expirationSeconds is 3601; ClusterObjectStore media allows namespace web at most 3600; ask for \
             less",
        ),
        case(
            |g, r| {
                constrain(g, |c| c.content_length = Some(65_000_001));
                r.max_bytes = Some(ByteSize::Quantity("65M".into()));
            },
            Reason::ContentLengthNotAllowed,
            "spec.constraints allows an upload of 65000001 bytes; ClusterObjectStore media allows namespace web at \
             most 65M; set a smaller size",
        ),
        case(
            |_, r| r.max_bytes = Some(ByteSize::Number(5)),
            Reason::ContentLengthNotAllowed,
            "ClusterObjectStore media allows namespace web uploads of at most 5, so the grant must limit its size; \
             set spec.constraints.contentLength",
        ),
        case(
            |_, r| r.content_types = vec!["image/png".into(), "text/*".into()],
            Reason::ContentTypeNotAllowed,
            "ClusterObjectStore media allows namespace web only uploads of image/png, text/*, so the grant must \
             name its type; set spec.constraints.contentType",
        ),
        case(
            |g, r| {
                constrain(g, |c| c.content_type = Some("image/gif".into()));
                r.content_types = vec!["image/png".into()];
            },
            Reason::ContentTypeNotAllowed,
            "spec.constraints.contentType is image/gif; ClusterObjectStore media allows namespace web only image/png; set one \
             of these types",
        ),
    ]
}
