//! Refusals by a store that only signs and enforces no constraint.

use std::sync::Arc;

use valet::{
    api::{Capability, DownloadMode, LengthRange, OperationSpec, Reason, ResponseHeaders},
    core::GrantFacts,
};

use super::Case;
use crate::common::{capabilities, constrain, download, rule, store, upload};

/// A store that only signs and enforces no constraint.
pub fn weak(mut grant: GrantFacts, change: impl FnOnce(&mut GrantFacts), message: &'static str) -> Case {
    change(&mut grant);
    let mut store = store([rule()]);
    let mut can = capabilities();
    can.enforced = [Capability::SignedHeadersOnly].into();
    can.post_form = None;
    store.capabilities = Arc::new(can);
    Case {
        grant,
        store,
        reason: Reason::CapabilityMissing,
        message,
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        weak(
            upload(),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.overwrite: Forbid on a presigned PUT \
             (WriteOnce); set spec.constraints.overwrite to Allow if replacing an object is acceptable, or use another \
             store",
        ),
        weak(
            upload(),
            |g| constrain(g, |c| c.content_type = Some("image/png".into())),
            "ClusterObjectStore media cannot enforce spec.constraints.contentType on a presigned PUT (ContentType); \
             remove spec.constraints.contentType from the grant, or use another store",
        ),
        weak(
            upload(),
            |g| constrain(g, |c| c.content_length = Some(1)),
            "ClusterObjectStore media cannot enforce spec.constraints.contentLength on a presigned PUT \
             (ContentLength); remove spec.constraints.contentLength from the grant, or use another store",
        ),
        weak(
            upload(),
            |g| constrain(g, |c| c.content_length_range = Some(LengthRange { min: 0, max: 1 })),
            "ClusterObjectStore media cannot enforce spec.constraints.contentLengthRange on a presigned PUT \
             (ContentLengthRange); remove spec.constraints.contentLengthRange from the grant, or use another store",
        ),
        weak(
            upload(),
            |g| constrain(g, |c| c.checksum_sha256 = Some("A".repeat(43) + "=")),
            "ClusterObjectStore media cannot enforce spec.constraints.checksumSHA256 on a presigned PUT \
             (ChecksumSHA256); remove spec.constraints.checksumSHA256 from the grant, or use another store",
        ),
        weak(
            upload(),
            |g| constrain(g, |c| c.checksum_md5 = Some("A".repeat(22) + "==")),
            "ClusterObjectStore media cannot enforce spec.constraints.checksumMD5 on a presigned PUT (ChecksumMD5); \
             remove spec.constraints.checksumMD5 from the grant, or use another store",
        ),
        weak(
            download(),
            |g| {
                g.operation_spec = OperationSpec::Download {
                    mode: DownloadMode::Url,
                    version: Some("v1".into()),
                    response: ResponseHeaders::default(),
                };
            },
            "ClusterObjectStore media cannot enforce spec.version on a presigned GET (Version); remove spec.version \
             from the grant, or use another store",
        ),
        weak(
            download(),
            |g| {
                g.operation_spec = OperationSpec::Download {
                    mode: DownloadMode::Url,
                    version: None,
                    response: ResponseHeaders {
                        content_type: Some("text/csv".into()),
                        ..ResponseHeaders::default()
                    },
                };
            },
            "ClusterObjectStore media cannot enforce spec.response on a presigned GET (ResponseHeaders); remove \
             spec.response from the grant, or use another store",
        ),
    ]
}
