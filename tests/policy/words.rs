//! What refusals say: the field, what is wrong with its value, the remedy; and nothing of other namespaces' rules.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use valet::{
    api::{
        AccessRule, Ask, ByteSize, Capabilities, Capability, ClusterAccessRule, DownloadMode, LengthRange,
        Namespaces, Operation, Overwrite, Permission, Reason, ResponseHeaders,
    },
    grant::{GrantFacts, StoreView, admit},
};

use crate::common::{
    by_credentials, capabilities, constrain, download, form, form_below, in_parts, resumable, rule, store, upload,
};

struct Case {
    grant: GrantFacts,
    store: StoreView,
    reason: Reason,
    message: &'static str,
}

fn case(change: impl FnOnce(&mut GrantFacts, &mut AccessRule), reason: Reason, message: &'static str) -> Case {
    let (mut grant, mut rule) = (upload(), rule());
    change(&mut grant, &mut rule.rule);
    Case {
        grant,
        store: store([rule]),
        reason,
        message,
    }
}

/// A store that can nothing but sign.
fn weak(mut grant: GrantFacts, change: impl FnOnce(&mut GrantFacts), message: &'static str) -> Case {
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

/// A refusal that names the mode, and the other one if that can help.
fn of_mode(
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

fn of_credentials() -> Vec<Case> {
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
            "ClusterObjectStore media does not allow namespace web temporary credentials (spec.mode: Credentials); use a \
             signed URL, or ask the store's owner for a rule with credentials: Allow",
        ),
        lends(
            &|_, rule| rule.max_bytes = Some(ByteSize::Quantity("5Gi".into())),
            Reason::CapabilityMissing,
            "ClusterObjectStore media cannot hold temporary credentials to the maxBytes that it allows namespace web \
             (ContentLengthRange); set spec.mode to Put or PostForm, or ask the store's owner for a rule without it",
        ),
        lends(
            &|_, rule| rule.content_types = vec!["image/*".into()],
            Reason::CapabilityMissing,
            "ClusterObjectStore media cannot hold temporary credentials to the contentTypes that it allows namespace web \
             (ContentType); set spec.mode to Put or PostForm, or ask the store's owner for a rule without it",
        ),
        lends(
            &|grant, _| grant.terms.key = "tenants/".into(),
            Reason::KeyNotAllowed,
            "spec.key 'tenants/' is outside what ClusterObjectStore media allows namespace web: keys below 'tenants/web/'",
        ),
        lends(
            &|grant, _| grant.terms.key = "tenants/web//".into(),
            Reason::InvalidSpec,
            "spec.key has an empty segment: it may not start or end with '/' nor contain '//'; name the object as \
             'folder/file'",
        ),
        lends(
            &|grant, _| constrain(grant, |c| c.overwrite = Overwrite::Forbid),
            Reason::CapabilityMissing,
            "ClusterObjectStore media cannot enforce spec.constraints.overwrite: Forbid on temporary credentials \
             (WriteOnce); set spec.constraints.overwrite to Allow if replacing an object is acceptable, or spec.mode to \
             Put",
        ),
        lends(
            &|grant, _| constrain(grant, |c| c.content_type = Some("image/png".into())),
            Reason::CapabilityMissing,
            "ClusterObjectStore media cannot enforce spec.constraints.contentType on temporary credentials (ContentType); \
             set spec.mode to Put, or leave it out",
        ),
        lends(
            &|grant, _| constrain(grant, |c| c.content_length_range = Some(LengthRange { min: 0, max: 9 })),
            Reason::CapabilityMissing,
            "ClusterObjectStore media cannot enforce spec.constraints.contentLengthRange on temporary credentials \
             (ContentLengthRange); set spec.mode to PostForm, or leave it out",
        ),
        lends(
            &|grant, _| {
                grant.ask = Ask::Download {
                    mode: DownloadMode::Credentials,
                    version: Some("v1".into()),
                    response: ResponseHeaders::default(),
                };
            },
            Reason::CapabilityMissing,
            "ClusterObjectStore media cannot enforce spec.version on temporary credentials (Version); leave it out, or \
             set spec.mode to Url",
        ),
    ];
    for (grant, message) in [
        (
            by_credentials(upload(), false),
            "ClusterObjectStore media hands out no temporary credentials (Credentials); ask the store's owner to set \
             spec.s3.credentials.assumeRole, or set spec.mode to Put",
        ),
        (
            by_credentials(download(), false),
            "ClusterObjectStore media hands out no temporary credentials (Credentials); ask the store's owner to set \
             spec.s3.credentials.assumeRole, or set spec.mode to Url",
        ),
    ] {
        cases.push(of_mode(grant, |_| {}, |can| can.credentials = None, message));
    }
    cases
}

/// Exactly what the rule names may be had whole: everything below it is allowed.
#[test]
fn a_prefix_is_allowed_where_all_of_it_is() {
    for (key, allowed) in [
        ("tenants/web/", true),
        ("tenants/web/a/", true),
        ("tenants/", false),
        ("tenants/webs/", false),
        ("tenants/we/", false),
    ] {
        let lent = [upload(), download()].map(|grant| by_credentials(grant, true));
        for mut grant in lent.into_iter().chain([form_below()]) {
            grant.terms.key = key.into();
            assert_eq!(admit(&grant, &store([rule()])).is_ok(), allowed, "{key}");
        }
    }
}

fn of_modes() -> Vec<Case> {
    let range = LengthRange { min: 1, max: 2 };
    vec![
        of_mode(
            upload(),
            |g| constrain(g, |c| c.content_length_range = Some(range)),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.contentLengthRange on a presigned PUT \
             (ContentLengthRange); set spec.mode to PostForm and spec.constraints.overwrite to Allow (a form cannot be \
             write-once), or spec.mode to Multipart, or give the exact size in spec.constraints.contentLength",
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
             (ContentLengthRange); set spec.mode to PostForm, or give the exact size in spec.constraints.contentLength",
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
             (ChecksumSHA256); set spec.mode to PostForm, or leave it out",
        ),
        // What the store checks instead, unless the grant asks for that, too.
        of_mode(
            upload(),
            |g| constrain(g, |c| c.checksum_sha256 = Some("A".repeat(43) + "=")),
            |can| {
                can.enforced.remove(&Capability::ChecksumSHA256);
                can.post_form = None;
            },
            "ClusterObjectStore media cannot enforce spec.constraints.checksumSHA256 on a presigned PUT \
             (ChecksumSHA256); give spec.constraints.checksumMD5 instead, or leave it out",
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
             (ChecksumSHA256); leave it out, or use another store",
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
            "ClusterObjectStore media cannot enforce spec.constraints.checksumMD5 on a POST form \
             (ChecksumMD5); give spec.constraints.checksumSHA256 instead, or leave it out",
        ),
        of_mode(
            in_parts(),
            |g| constrain(g, |c| c.checksum_md5 = Some("A".repeat(22) + "==")),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.checksumMD5 on an upload in parts \
             (ChecksumMD5); set spec.mode to Put, or leave it out",
        ),
        of_mode(
            form_below(),
            |_| {},
            |can| {
                can.post_form.as_mut().unwrap().remove(&Capability::KeyPrefix);
            },
            "ClusterObjectStore media is not known to keep a POST form to what is below spec.key (KeyPrefix); name one \
             object, or ask the store's owner, who can have that tried with real keys (annotation \
             valetkey.dev/canary-requested-at) and reads the result in the store's condition KeysEnforced",
        ),
        of_mode(
            form_below(),
            |g| constrain(g, |c| c.overwrite = Overwrite::Forbid),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.overwrite: Forbid on a POST form (WriteOnce); set \
             spec.constraints.overwrite to Allow if replacing an object is acceptable, or spec.mode to Put",
        ),
        of_mode(
            form(),
            |g| constrain(g, |c| c.overwrite = Overwrite::Forbid),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.overwrite: Forbid on a POST form (WriteOnce); set \
             spec.constraints.overwrite to Allow if replacing an object is acceptable, or spec.mode to Put",
        ),
        of_mode(
            form(),
            |g| constrain(g, |c| c.content_type = Some("image/png".into())),
            |can| {
                can.post_form.as_mut().unwrap().remove(&Capability::ContentType);
            },
            "ClusterObjectStore media cannot enforce spec.constraints.contentType on a POST form (ContentType); set \
             spec.mode to Put, or leave it out",
        ),
        of_mode(
            form(),
            |_| {},
            |can| can.post_form = None,
            "ClusterObjectStore media takes no POST forms (PostForm); set spec.mode to Put, or use another store",
        ),
        of_mode(
            in_parts(),
            |g| constrain(g, |c| c.checksum_sha256 = Some("A".repeat(43) + "=")),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.checksumSHA256 on an upload in parts \
             (ChecksumSHA256); set spec.mode to Put, or leave it out",
        ),
        of_mode(
            in_parts(),
            |_| {},
            |can| {
                can.multipart.as_mut().unwrap().remove(&Capability::WriteOnce);
            },
            "ClusterObjectStore media cannot enforce spec.constraints.overwrite: Forbid on an upload in parts (WriteOnce); \
             set spec.constraints.overwrite to Allow if replacing an object is acceptable, or use another store",
        ),
        of_mode(
            in_parts(),
            |_| {},
            |can| can.multipart = None,
            "ClusterObjectStore media takes no uploads in parts (Multipart); set spec.mode to Put, or use another store",
        ),
        of_mode(
            resumable(),
            |g| constrain(g, |c| c.content_length = Some(1)),
            |_| {},
            "ClusterObjectStore media cannot enforce spec.constraints.contentLength on a resumable upload (ContentLength); set \
             spec.mode to Put, or leave it out",
        ),
        of_mode(
            resumable(),
            |_| {},
            |can| can.resumable = None,
            "ClusterObjectStore media takes no resumable uploads (Resumable), which the owner of a store on Google Cloud Storage \
             can allow with resumableUploads: Tolerate; set spec.mode to Put, or use another store",
        ),
        Case {
            reason: Reason::InvalidSpec,
            ..of_mode(
                in_parts(),
                |g| constrain(g, |c| c.content_length = None),
                |_| {},
                "spec.mode is Multipart and nothing says how many parts there are; set spec.constraints.contentLength or \
                 contentLengthRange",
            )
        },
        Case {
            reason: Reason::ContentLengthNotAllowed,
            ..of_mode(
                in_parts(),
                |g| constrain(g, |c| c.content_length = Some(500 * 20_000 + 1)),
                |_| {},
                "spec.constraints.contentLength is 10000001 bytes, which makes 501 parts of 20000 bytes, and 500 is the \
                 most; make the parts larger (spec.multipart.partSizeBytes), or split the object",
            )
        },
        of_mode(
            upload(),
            |_| {},
            |can| {
                can.enforced.remove(&Capability::SignedHeadersOnly);
            },
            "ClusterObjectStore media obeys headers that nobody signed (it has no SignedHeadersOnly), so the holder of an \
             upload key could copy whatever its credentials can read; ask the store's owner to set credentials.assumeRole (S3), \
             or unsignedHeaders: Tolerate. A form is not concerned: spec.mode PostForm with spec.constraints.overwrite Allow",
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
                "spec.constraints.contentLengthRange.max is 5368709121 bytes; ClusterObjectStore media takes at most \
                 5368709120 in one request; split the object",
            )
        },
        Case {
            grant: form(),
            ..case(
                |_, r| r.max_bytes = Some(ByteSize::Number(999_999)),
                Reason::ContentLengthNotAllowed,
                "the upload may have 1000000 bytes; ClusterObjectStore media allows namespace web at most 999999; make it \
                 smaller",
            )
        },
        {
            let mut of_any_size = case(
                |_, r| r.max_bytes = Some(ByteSize::Number(5)),
                Reason::ContentLengthNotAllowed,
                "ClusterObjectStore media allows namespace web uploads of at most 5, so the grant must say its size: set \
                 spec.constraints.contentLengthRange or contentLength",
            );
            of_any_size.grant = form();
            constrain(&mut of_any_size.grant, |c| c.content_length_range = None);
            of_any_size
        },
    ]
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        case(
            |g, _| g.terms.key = "tenants/web/../shop/x".into(),
            Reason::InvalidSpec,
            "spec.key has a '.' or '..' segment (or a percent-encoded spelling of one), which clients and stores \
             resolve differently; write the resolved key",
        ),
        case(
            |g, _| g.terms.key = "tenants//x".into(),
            Reason::InvalidSpec,
            "spec.key has an empty segment: it may not start or end with '/' nor contain '//'; name the object as \
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
            "spec.key is 1200 bytes long in UTF-8; the store takes at most 1024; shorten it",
        ),
        case(
            |g, _| g.terms.key.clear(),
            Reason::InvalidSpec,
            "spec.key is empty; name the object",
        ),
        case(
            |g, _| g.terms.expiration_seconds = 604_801,
            Reason::ExpirationTooLong,
            "spec.expirationSeconds is 604801; ClusterObjectStore media can sign for at most 604800; ask for less",
        ),
        case(
            |g, _| constrain(g, |c| c.content_length = Some(5_368_709_121)),
            Reason::ContentLengthNotAllowed,
            "spec.constraints.contentLength is 5368709121 bytes; ClusterObjectStore media takes at most 5368709120 \
             in one request; split the object",
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
            "spec.key 'tenants/shop/x' is outside what ClusterObjectStore media allows namespace web: keys below \
             'tenants/web/'",
        ),
        case(
            |g, _| g.terms.expiration_seconds = 3601,
            Reason::ExpirationTooLong,
            "spec.expirationSeconds is 3601; ClusterObjectStore media allows namespace web at most 3600; ask for less",
        ),
        case(
            |g, r| {
                constrain(g, |c| c.content_length = Some(65_000_001));
                r.max_bytes = Some(ByteSize::Quantity("65M".into()));
            },
            Reason::ContentLengthNotAllowed,
            "the upload may have 65000001 bytes; ClusterObjectStore media allows namespace web at most 65M; make it \
             smaller",
        ),
        case(
            |_, r| r.max_bytes = Some(ByteSize::Number(5)),
            Reason::ContentLengthNotAllowed,
            "ClusterObjectStore media allows namespace web uploads of at most 5, so the grant must say its size: set \
             spec.constraints.contentLength",
        ),
        case(
            |_, r| r.content_types = vec!["image/png".into(), "text/*".into()],
            Reason::ContentTypeNotAllowed,
            "ClusterObjectStore media allows namespace web only uploads of image/png, text/*, so the grant must say \
             its type: set spec.constraints.contentType",
        ),
        case(
            |g, r| {
                constrain(g, |c| c.content_type = Some("image/gif".into()));
                r.content_types = vec!["image/png".into()];
            },
            Reason::ContentTypeNotAllowed,
            "spec.constraints.contentType is image/gif; ClusterObjectStore media allows namespace web only image/png",
        ),
    ];
    cases.extend(of_modes());
    cases.extend(of_credentials());
    cases.extend([
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
            "ClusterObjectStore media cannot enforce spec.constraints.contentType on a presigned PUT \
             (ContentType); leave it out, or use another store",
        ),
        weak(
            upload(),
            |g| constrain(g, |c| c.content_length = Some(1)),
            "ClusterObjectStore media cannot enforce spec.constraints.contentLength on a presigned PUT \
             (ContentLength); leave it out, or use another store",
        ),
        weak(
            upload(),
            |g| constrain(g, |c| c.content_length_range = Some(LengthRange { min: 0, max: 1 })),
            "ClusterObjectStore media cannot enforce spec.constraints.contentLengthRange on a presigned PUT \
             (ContentLengthRange); leave it out, or use another store",
        ),
        weak(
            upload(),
            |g| constrain(g, |c| c.checksum_sha256 = Some("A".repeat(43) + "=")),
            "ClusterObjectStore media cannot enforce spec.constraints.checksumSHA256 on a presigned PUT \
             (ChecksumSHA256); leave it out, or use another store",
        ),
        weak(
            upload(),
            |g| constrain(g, |c| c.checksum_md5 = Some("A".repeat(22) + "==")),
            "ClusterObjectStore media cannot enforce spec.constraints.checksumMD5 on a presigned PUT \
             (ChecksumMD5); leave it out, or use another store",
        ),
        weak(
            download(),
            |g| {
                g.ask = Ask::Download {
                    mode: DownloadMode::Url,
                    version: Some("v1".into()),
                    response: ResponseHeaders::default(),
                };
            },
            "ClusterObjectStore media cannot enforce spec.version on a presigned GET (Version); leave it out, or \
             use another store",
        ),
        weak(
            download(),
            |g| {
                g.ask = Ask::Download {
                    mode: DownloadMode::Url,
                    version: None,
                    response: ResponseHeaders {
                        content_type: Some("text/csv".into()),
                        ..ResponseHeaders::default()
                    },
                };
            },
            "ClusterObjectStore media cannot enforce spec.response on a presigned GET (ResponseHeaders); leave it \
             out, or use another store",
        ),
    ]);
    cases
}

#[test]
fn every_refusal_in_its_own_words() {
    for case in cases() {
        let refusal = admit(&case.grant, &case.store).expect_err(case.message);
        assert_eq!((refusal.reason, refusal.message.as_str()), (case.reason, case.message));
    }
}

/// The reasons that `admit` has, each tried above.
#[test]
fn every_reason_is_reached() {
    let reached: Vec<_> = cases().iter().map(|c| c.reason).collect();
    for reason in [
        Reason::InvalidSpec,
        Reason::NamespaceNotAllowed,
        Reason::OperationNotAllowed,
        Reason::KeyNotAllowed,
        Reason::ExpirationTooLong,
        Reason::ContentTypeNotAllowed,
        Reason::ContentLengthNotAllowed,
        Reason::CapabilityMissing,
    ] {
        assert!(reached.contains(&reason), "{reason}");
    }
}

/// Messages end up in tenants' statuses and in logs: one line each, and of a length that fits an event.
#[test]
fn messages_are_one_short_line() {
    for case in cases() {
        assert!(!case.message.chars().any(char::is_control), "{}", case.message);
        assert!(case.message.len() < 1024, "{}", case.message);
    }
    let mut grant = upload();
    grant.terms.key = format!("tenants/shop/{}", "k".repeat(1000));
    let refusal = admit(&grant, &store([rule()])).unwrap_err();
    assert!(refusal.message.len() < 32_768, "a condition's message takes so much");
}

/// All that a tenant may learn is what its own namespace is allowed.
#[test]
fn other_namespaces_rules_are_nobodys_business() {
    let marker = "zxq";
    let theirs = ClusterAccessRule {
        namespaces: Namespaces {
            names: vec![format!("{marker}-team")],
            selector: Some(LabelSelector {
                match_labels: Some([("team".to_owned(), marker.to_owned())].into()),
                match_expressions: None,
            }),
        },
        rule: AccessRule {
            operations: vec![Operation::Upload, Operation::Download],
            key_prefix: Some(format!("{marker}/secret")),
            credentials: Permission::Allow,
            max_expiration_seconds: Some(77_777),
            max_bytes: Some(ByteSize::Number(77_777)),
            content_types: vec![format!("{marker}/x")],
            max_live_grants: Some(77_777),
        },
    };
    for mut case in cases() {
        let mut rules = vec![theirs.clone()];
        rules.extend(case.store.rules.iter().cloned());
        rules.push(theirs.clone());
        case.store.rules = Arc::new(rules);
        let refusal = admit(&case.grant, &case.store).expect_err(case.message);
        assert_eq!(refusal.message, case.message, "their rules changed what is said");
        assert!(!refusal.message.contains(marker) && !refusal.message.contains("77777"));
    }
}

/// Of several rules that refuse, the one that the grant came furthest with speaks; and all prefixes are named.
#[test]
fn the_closest_rule_speaks() {
    let (mut far, mut near) = (rule(), rule());
    far.rule.key_prefix = Some("public".into());
    near.rule.max_expiration_seconds = Some(60);
    for rules in [[far.clone(), near.clone()], [near, far.clone()]] {
        let refusal = admit(&upload(), &store(rules)).unwrap_err();
        assert_eq!(refusal.reason, Reason::ExpirationTooLong);
    }
    let mut grant = upload();
    grant.terms.key = "elsewhere/x".into();
    let mut downloads = rule();
    downloads.rule.operations = vec![Operation::Download];
    downloads.rule.key_prefix = Some("only-downloads".into());
    let refusal = admit(&grant, &store([rule(), far, downloads])).unwrap_err();
    assert!(
        refusal.message.ends_with("keys below 'tenants/web/' or 'public/'"),
        "{}",
        refusal.message
    );
}
