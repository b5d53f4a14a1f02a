//! Tests of changes that happen while a store needs seconds to issue a credential.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use valet_harness::{
    control_plane::OPERATOR,
    fake::{Asked, Fake, Reply},
};

use crate::world::Tenant;

/// Longer than the time for which Valet uses what it read of a store.
const SLOW: Duration = Duration::from_secs(4);

/// A store whose STS answers slowly for each credential, once `slow` is true.
fn store(slow: Arc<AtomicBool>) -> Fake {
    let error = |status: u16, code: &str, message: &str| {
        Reply::Text(
            status,
            format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"),
        )
    };
    Fake::start(move |asked: &Asked| match asked.method.as_str() {
        "POST" => {
            if slow.load(Ordering::Relaxed) && asked.body.contains("tenants") {
                std::thread::sleep(SLOW);
            }
            let end = (Timestamp::now() + SignedDuration::from_hours(2)).strftime("%Y-%m-%dT%H:%M:%SZ");
            let keys = "<AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>";
            Reply::Text(
                200,
                format!(
                    "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>{keys}<Expiration>{end}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
                ),
            )
        }
        "PUT" if asked.header("x-amz-copy-source").is_some() => {
            error(403, "AccessDenied", "headers that are not signed")
        }
        "PUT" => error(403, "AccessDenied", "Access Denied"),
        _ => error(404, "NoSuchKey", "there is none"),
    })
}

/// If an access rule is narrowed or the grant is revoked while Valet signs a credential, Valet does not publish the
/// credential.
#[test]
fn credential_is_not_published_if_revoked_or_refused_meanwhile() {
    let t = Tenant::new("overtaken");
    let slow = Arc::new(AtomicBool::new(false));
    let fake = store(slow.clone());
    let with = |access: Value| {
        let mut store = t.store();
        store["spec"]["s3"]["endpoint"] = json!(fake.endpoint());
        store["spec"]["s3"]["credentials"]["assumeRole"] = json!({});
        store["spec"]["access"][0]["operations"] = access;
        store
    };
    let both = json!(["Upload", "Download"]);
    t.apply(&[with(both.clone())]);
    let _operator = t.operator();
    t.apply(&[t.grant("DownloadGrant", "first", json!({}))]);
    t.reason("dg/first", "Issued");
    t.delete("dg/first");
    t.gone("first");
    slow.store(true, Ordering::Relaxed);

    let mark = t.world.plane.audit_mark().unwrap();
    let initiated = |name: &str| {
        t.apply(&[t.grant("DownloadGrant", name, json!({}))]);
        // Valet has sent the request to STS by now, and STS answers later.
        std::thread::sleep(SLOW / 4);
    };
    initiated("narrowed");
    t.apply(&[with(json!(["Upload"]))]);
    t.reason("dg/narrowed", "OperationNotAllowed");

    slow.store(false, Ordering::Relaxed);
    t.apply(&[with(both)]);
    t.reason("dg/narrowed", "Issued");
    slow.store(true, Ordering::Relaxed);
    initiated("revoked");
    t.apply(&[t.grant("DownloadGrant", "revoked", json!({"revoke": true}))]);
    let revoked = t.reason("dg/revoked", "Revoked");
    assert_eq!(revoked["status"]["issuedTime"], Value::Null, "{revoked}");

    let events = t.world.plane.audit_since(mark).unwrap();
    let created: Vec<_> = events
        .iter()
        .filter(|e| e.user() == OPERATOR && e.namespace() == t.name())
        .filter(|e| (e.verb(), e.resource()) == ("create", "secrets") && e.code() == 201)
        .collect();
    assert_eq!(created.len(), 1, "only the grant that is still allowed has a Secret");
}
