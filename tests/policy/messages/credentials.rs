//! Refusals of temporary credentials.

use valet::{
    api::{
        AccessRule, ByteSize, Capabilities, DownloadMode, LengthRange, OperationSpec, Overwrite, Permission, Reason,
        Remedies, ResponseHeaders,
    },
    core::GrantFacts,
};

use super::{Case, case, modes::of_mode};
use crate::common::{by_credentials, constrain, download, rule, store, upload};

pub fn cases() -> Vec<Case> {
    let lends = |change: &dyn Fn(&mut GrantFacts, &mut AccessRule), reason, message| {
        let mut case = case(|_, _| {}, reason, message);
        let (mut grant, mut rule) = (by_credentials(upload(), true), rule());
        change(&mut grant, &mut rule.rule);
        (case.grant, case.store) = (grant, store([rule]));
        case
    };
    let mut cases = vec![
        lends(
            &|_, rule| rule.credentials = Permission::Forbid,
            Reason::OperationNotAllowed,
            "spec.mode is Credentials, but ClusterObjectStore media does not allow temporary credentials for \
             namespace web; use a signed URL, or ask the store's owner for an access rule with credentials: Allow",
        ),
        lends(
            &|_, rule| rule.max_bytes = Some(ByteSize::Quantity("5Gi".into())),
            Reason::CapabilityMissing,
            "ClusterObjectStore media cannot enforce maxBytes of the access rule for namespace web on temporary \
             credentials (ContentLengthRange); set spec.mode to Put or PostForm, or ask the store's owner for an \
             access rule without maxBytes",
        ),
        lends(
            &|_, rule| rule.content_types = vec!["image/*".into()],
            Reason::CapabilityMissing,
            "ClusterObjectStore media cannot enforce contentTypes of the access rule for namespace web on temporary \
             credentials (ContentType); set spec.mode to Put or PostForm, or ask the store's owner for an access \
             rule without contentTypes",
        ),
        lends(
            &|grant, _| grant.terms.key = "tenants/".into(),
            Reason::KeyNotAllowed,
            "spec.key 'tenants/' is outside the prefixes that ClusterObjectStore media allows for namespace web; \
             choose an object key that starts with 'tenants/web/'",
        ),
        lends(
            &|grant, _| grant.terms.key = "tenants/web//".into(),
            Reason::InvalidSpec,
            "spec.key has an empty segment, because it starts or ends with '/' or contains '//'; write the object \
             key as 'folder/file'",
        ),
        lends(
            &|grant, _| constrain(grant, |c| c.overwrite = Overwrite::Forbid),
            Reason::CapabilityMissing,
            "ClusterObjectStore media cannot enforce spec.constraints.overwrite: Forbid on temporary credentials \
             (WriteOnce); set spec.constraints.overwrite to Allow if replacing an object is acceptable, or set \
             spec.mode to Put",
        ),
        lends(
            &|grant, _| constrain(grant, |c| c.content_type = Some("image/png".into())),
            Reason::CapabilityMissing,
            "ClusterObjectStore media cannot enforce spec.constraints.contentType on temporary credentials \
             (ContentType); set spec.mode to Put, or remove spec.constraints.contentType from the grant",
        ),
        lends(
            &|grant, _| constrain(grant, |c| c.content_length_range = Some(LengthRange { min: 0, max: 9 })),
            Reason::CapabilityMissing,
            "ClusterObjectStore media cannot enforce spec.constraints.contentLengthRange on temporary credentials \
             (ContentLengthRange); set spec.mode to PostForm, or remove spec.constraints.contentLengthRange from \
             the grant",
        ),
        lends(
            &|grant, _| {
                grant.operation_spec = OperationSpec::Download {
                    mode: DownloadMode::Credentials,
                    version: Some("v1".into()),
                    response: ResponseHeaders::default(),
                };
            },
            Reason::CapabilityMissing,
            "ClusterObjectStore media cannot enforce spec.version on temporary credentials (Version); remove \
             spec.version from the grant, or set spec.mode to Url",
        ),
    ];
    for (grant, message) in [
        (
            by_credentials(upload(), false),
            "ClusterObjectStore media does not issue temporary credentials (Credentials); ask the store's owner to \
             set \
             spec.s3.credentials.assumeRole, or set spec.mode to Put",
        ),
        (
            by_credentials(download(), false),
            "ClusterObjectStore media does not issue temporary credentials (Credentials); ask the store's owner to \
             set \
             spec.s3.credentials.assumeRole, or set spec.mode to Url",
        ),
    ] {
        cases.push(of_mode(grant, |_| {}, |can| can.credentials = None, message));
    }
    // If a store never issues temporary credentials, the message suggests a mode that the store has.
    let never = |can: &mut Capabilities| {
        can.credentials = None;
        can.remedies = Remedies::default();
    };
    cases.push(of_mode(
        by_credentials(upload(), true),
        |_| {},
        |can| {
            never(can);
            can.post_form = None;
        },
        "ClusterObjectStore media does not issue temporary credentials (Credentials); set spec.key to one object \
         key and set spec.mode to Put, or use another store",
    ));
    cases.push(of_mode(
        by_credentials(upload(), true),
        |_| {},
        never,
        "ClusterObjectStore media does not issue temporary credentials (Credentials); set spec.mode to PostForm, or \
         use another \
         store",
    ));
    cases.push(of_mode(
        by_credentials(download(), true),
        |_| {},
        never,
        "ClusterObjectStore media does not issue temporary credentials (Credentials); set spec.key to one object \
         key and set spec.mode to Url, or use another store",
    ));
    cases
}
