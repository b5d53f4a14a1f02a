//! Refusals of constraints that the store cannot enforce in the grant's mode, but could enforce in another mode.

use std::sync::Arc;

use valet::{
    api::{ByteSize, Capabilities, Capability, LengthRange, Overwrite, Reason},
    core::GrantFacts,
};

use super::{Case, case, weak::weak};
use crate::common::{capabilities, constrain, form, form_below, in_parts, resumable, upload};

/// A refusal that names the mode, and another mode if that mode helps.
pub fn of_mode(
    grant: GrantFacts,
    change: impl FnOnce(&mut GrantFacts),
    weaken: impl FnOnce(&mut Capabilities),
    message: &'static str,
) -> Case {
    let mut case = weak(grant, change, message);
    let mut can = capabilities();
    weaken(&mut can);
    case.store.capabilities = Arc::new(can);
    case
}

pub fn cases() -> Vec<Case> {
    let range = LengthRange { min: 1, max: 2 };
    vec![
        of_mode(
            upload(),
            |g| constrain(g, |c| c.content_length_range = Some(range)),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.contentLengthRange on a presigned PUT \
             (ContentLengthRange); set spec.mode to PostForm and spec.constraints.overwrite to Allow, because a \
             POST form cannot be write-once; alternatively, set spec.mode to Multipart, or set the exact size in \
             spec.constraints.contentLength",
        ),
        of_mode(
            upload(),
            |g| {
                constrain(g, |c| {
                    c.content_length_range = Some(range);
                    c.overwrite = Overwrite::Allow;
                });
            },
            |can| can.multipart = None,
            "ClusterObjectStore media cannot enforce spec.constraints.contentLengthRange on a presigned PUT \
             (ContentLengthRange); set spec.mode to PostForm; alternatively, set the exact size in \
             spec.constraints.contentLength",
        ),
        of_mode(
            upload(),
            |g| {
                constrain(g, |c| {
                    c.checksum_sha256 = Some("A".repeat(43) + "=");
                    c.overwrite = Overwrite::Allow;
                });
            },
            |can| {
                can.enforced.remove(&Capability::ChecksumSHA256);
                can.enforced.remove(&Capability::ChecksumMD5);
            },
            "ClusterObjectStore media cannot enforce spec.constraints.checksumSHA256 on a presigned PUT \
             (ChecksumSHA256); set spec.mode to PostForm; alternatively, remove spec.constraints.checksumSHA256 \
             from the grant",
        ),
        // The message suggests another checksum, unless the grant already has it.
        of_mode(
            upload(),
            |g| constrain(g, |c| c.checksum_sha256 = Some("A".repeat(43) + "=")),
            |can| {
                can.enforced.remove(&Capability::ChecksumSHA256);
                can.post_form = None;
            },
            "ClusterObjectStore media cannot enforce spec.constraints.checksumSHA256 on a presigned PUT \
             (ChecksumSHA256); set spec.constraints.checksumMD5 instead of spec.constraints.checksumSHA256, or \
             remove spec.constraints.checksumSHA256 from the grant",
        ),
        of_mode(
            upload(),
            |g| {
                constrain(g, |c| {
                    c.checksum_sha256 = Some("A".repeat(43) + "=");
                    c.checksum_md5 = Some("A".repeat(22) + "==");
                });
            },
            |can| {
                can.enforced.remove(&Capability::ChecksumSHA256);
                can.post_form = None;
            },
            "ClusterObjectStore media cannot enforce spec.constraints.checksumSHA256 on a presigned PUT \
             (ChecksumSHA256); remove spec.constraints.checksumSHA256 from the grant, or use another store",
        ),
        of_mode(
            form(),
            |g| {
                constrain(g, |c| {
                    c.checksum_md5 = Some("A".repeat(22) + "==");
                    c.overwrite = Overwrite::Allow;
                });
            },
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.checksumMD5 on a POST form (ChecksumMD5); set \
             spec.constraints.checksumSHA256 instead of spec.constraints.checksumMD5, or remove \
             spec.constraints.checksumMD5 from the grant",
        ),
        of_mode(
            in_parts(),
            |g| constrain(g, |c| c.checksum_md5 = Some("A".repeat(22) + "==")),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.checksumMD5 on a multipart upload \
             (ChecksumMD5); set spec.mode to Put, or remove spec.constraints.checksumMD5 from the grant",
        ),
        of_mode(
            form_below(),
            |_| {},
            |can| {
                can.post_form.as_mut().unwrap().remove(&Capability::KeyPrefix);
            },
            "Valet does not know whether ClusterObjectStore media limits a POST form to object keys with the prefix \
             in spec.key (KeyPrefix); set spec.key to one object key, or ask the store's owner to start a \
             conformance check (annotation valetkey.dev/check-requested-at); the store's condition ConstraintsEnforced \
             shows the result",
        ),
        of_mode(
            form_below(),
            |g| constrain(g, |c| c.overwrite = Overwrite::Forbid),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.overwrite: Forbid on a POST form (WriteOnce); \
             set spec.constraints.overwrite to Allow if replacing an object is acceptable, or set spec.mode to Put",
        ),
        of_mode(
            form(),
            |g| constrain(g, |c| c.overwrite = Overwrite::Forbid),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.overwrite: Forbid on a POST form (WriteOnce); \
             set spec.constraints.overwrite to Allow if replacing an object is acceptable, or set spec.mode to Put",
        ),
        of_mode(
            form(),
            |g| constrain(g, |c| c.content_type = Some("image/png".into())),
            |can| {
                can.post_form.as_mut().unwrap().remove(&Capability::ContentType);
            },
            "ClusterObjectStore media cannot enforce spec.constraints.contentType on a POST form (ContentType); set \
             spec.mode to Put, or remove spec.constraints.contentType from the grant",
        ),
        of_mode(
            form(),
            |_| {},
            |can| can.post_form = None,
            "ClusterObjectStore media does not support POST forms (PostForm); set spec.mode to Put, or use another \
             store",
        ),
        of_mode(
            in_parts(),
            |g| constrain(g, |c| c.checksum_sha256 = Some("A".repeat(43) + "=")),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.checksumSHA256 on a multipart upload \
             (ChecksumSHA256); set spec.mode to Put, or remove spec.constraints.checksumSHA256 from the grant",
        ),
        of_mode(
            in_parts(),
            |_| {},
            |can| {
                can.multipart.as_mut().unwrap().remove(&Capability::WriteOnce);
            },
            "ClusterObjectStore media cannot enforce spec.constraints.overwrite: Forbid on a multipart upload \
             (WriteOnce); \
             set spec.constraints.overwrite to Allow if replacing an object is acceptable, or use another store",
        ),
        of_mode(
            in_parts(),
            |_| {},
            |can| can.multipart = None,
            "ClusterObjectStore media does not support multipart uploads (Multipart); set spec.mode to Put, or use \
             another store",
        ),
        of_mode(
            resumable(),
            |g| constrain(g, |c| c.content_length = Some(1)),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.contentLength on a resumable upload \
             (ContentLength); set spec.mode to Put, or remove spec.constraints.contentLength from the grant",
        ),
        of_mode(
            resumable(),
            |_| {},
            |can| can.resumable = None,
            "ClusterObjectStore media does not support resumable uploads (Resumable); ask the store's owner to set \
             spec.gcs.resumableUploads: Tolerate, or set spec.mode to Put",
        ),
        of_mode(
            in_parts(),
            |_| {},
            |can| {
                can.multipart = None;
                can.only_read = true;
            },
            "ClusterObjectStore media does not support multipart uploads (Multipart), because the operator sends \
             only read requests to the endpoint of an ObjectStore; ask the platform team to set \
             --tenant-store-requests=All, or set spec.mode to Put",
        ),
        of_mode(
            upload(),
            |_| {},
            |can| {
                can.enforced.remove(&Capability::WriteOnce);
                can.only_read = true;
            },
            "ClusterObjectStore media cannot enforce spec.constraints.overwrite: Forbid on a presigned PUT \
             (WriteOnce); the operator sends only read requests to the endpoint of an ObjectStore and cannot test \
             overwrite: Forbid with an upload; set spec.constraints.overwrite to Allow if replacing an object is \
             acceptable, or ask the platform team to set --tenant-store-requests=All",
        ),
        of_mode(
            upload(),
            |_| {},
            |can| can.wants_checksums = true,
            "ClusterObjectStore media accepts an upload only with a checksum, because its bucket has Object Lock \
             with a default retention; set spec.constraints.checksumSHA256 or spec.constraints.checksumMD5",
        ),
        of_mode(
            form(),
            |_| {},
            |can| can.wants_checksums = true,
            "ClusterObjectStore media accepts an upload only with a checksum, because its bucket has Object Lock \
             with a default retention; set spec.constraints.checksumSHA256",
        ),
        of_mode(
            in_parts(),
            |_| {},
            |can| can.wants_checksums = true,
            "ClusterObjectStore media accepts an upload only with a checksum, because its bucket has Object Lock \
             with a default retention; set spec.mode to Put, and set spec.constraints.checksumSHA256 or \
             spec.constraints.checksumMD5",
        ),
        Case {
            reason: Reason::InvalidSpec,
            ..of_mode(
                in_parts(),
                |g| constrain(g, |c| c.content_length = None),
                |_| {},
                "spec.mode is Multipart, but the grant sets no object size, so the number of parts is unknown; set \
                 spec.constraints.contentLength or spec.constraints.contentLengthRange",
            )
        },
        Case {
            reason: Reason::ContentLengthNotAllowed,
            ..of_mode(
                in_parts(),
                |g| constrain(g, |c| c.content_length = Some(500 * 20_000 + 1)),
                |_| {},
                "spec.constraints.contentLength is 10000001 bytes and needs 501 parts of 20000 bytes, but at most \
                 500 parts are allowed; increase spec.multipart.partSizeBytes, or split the object into smaller \
                 objects",
            )
        },
        of_mode(
            upload(),
            |_| {},
            |can| {
                can.enforced.remove(&Capability::SignedHeadersOnly);
            },
            "ClusterObjectStore media does not have the capability SignedHeadersOnly (see its condition \
             UnsignedHeadersRefused); the holder of an upload URL could therefore add a header and copy any object \
             that the store's credentials can read; ask the \
             store's owner to set spec.s3.credentials.assumeRole, or spec.s3.unsignedHeaders: Tolerate; \
             alternatively, use a POST form: set spec.mode to PostForm and spec.constraints.overwrite to Allow",
        ),
        Case {
            reason: Reason::ContentLengthNotAllowed,
            ..of_mode(
                form(),
                |g| {
                    constrain(g, |c| {
                        c.content_length_range = Some(LengthRange {
                            min: 0,
                            max: 5_368_709_121,
                        })
                    })
                },
                |_| {},
                "spec.constraints.contentLengthRange.max is 5368709121 bytes; ClusterObjectStore media accepts at \
                 most 5368709120 bytes in one request; set spec.mode to Multipart, or split the object into smaller \
                 objects",
            )
        },
        Case {
            grant: form(),
            ..case(
                |_, r| r.max_bytes = Some(ByteSize::Number(999_999)),
                Reason::ContentLengthNotAllowed,
                "spec.constraints allows an upload of 1000000 bytes; ClusterObjectStore media allows uploads of at \
                 most 999999 for namespace web; set a smaller size in spec.constraints",
            )
        },
        {
            let mut of_any_size = case(
                |_, r| r.max_bytes = Some(ByteSize::Number(5)),
                Reason::ContentLengthNotAllowed,
                "ClusterObjectStore media allows uploads of at most 5 for namespace web, so the grant must limit \
                 the upload size; set spec.constraints.contentLengthRange or spec.constraints.contentLength",
            );
            of_any_size.grant = form();
            constrain(&mut of_any_size.grant, |c| c.content_length_range = None);
            of_any_size
        },
    ]
}
