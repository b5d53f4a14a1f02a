//! Tests of credentials that change: a rotated access key, sessions from web identity that are renewed, and sessions
//! shorter than a grant asks for. Each test also checks what a user sees.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::{Value, json};
use valet_harness::{Operator, OperatorOptions, S3Options, S3Server, Software, eventually};

use crate::{
    probed_store,
    world::{SOON, Tenant, VALET, condition, says},
};

/// The maximum time until credentials are re-signed after Valet read the store (see docs/reference/stores.md).
const RE_SIGNING_TIME: Duration = Duration::from_secs(120);

fn signed_with(secret: &Value) -> String {
    let annotations = &secret["metadata"]["annotations"];
    annotations["valetkey.dev/signed-with"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// After an access key is rotated, Valet re-signs issued credentials with the same expiry time, and the old access
/// key can then be deleted. A change that does not concern the credentials re-signs nothing.
#[test]
fn rotated_access_key_leads_to_re_signing_with_the_same_expiry() {
    let t = Tenant::new("rotate");
    let s3 = &t.world.s3;
    let user = |name: &str| format!("{}-{name}", t.name());
    for name in ["old", "new"] {
        s3.create_user(&user(name), "secret-of-the-user").unwrap();
    }
    s3.put_bucket_policy(
        t.name(),
        &json!({"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": {"AWS": [user("old"), user("new")]}, "Action": ["s3:*"],
            "Resource": [format!("arn:aws:s3:::{}", t.name()), format!("arn:aws:s3:::{}/*", t.name())],
        }]}),
    )
    .unwrap();
    t.apply(&[t.credentials(&user("old"), "secret-of-the-user")]);
    let operator = t.operator();
    probed_store(&t);
    s3.put(t.name(), &t.key("film"), b"frames").unwrap();
    // Re-signing is spread over two minutes by the grants' UIDs, so one of ten grants is re-signed early.
    let names: Vec<_> = (0..10).map(|n| format!("film-{n}")).collect();
    let film = json!({"key": t.key("film"), "expirationSeconds": 3600});
    let grants: Vec<_> = names
        .iter()
        .map(|n| t.grant("DownloadGrant", n, film.clone()))
        .collect();
    t.apply(&grants);
    t.apply(&[t.grant("UploadGrant", "up", json!({"expirationSeconds": 3600}))]);
    for name in &names {
        t.reason(&format!("dg/{name}"), "Issued");
    }
    t.reason("ug/up", "Issued");
    let secret = |name: &str| t.get(&format!("secret/{name}")).expect("the credential is issued");
    let first = signed_with(&secret("film-0"));
    assert!(!first.is_empty() && names.iter().all(|n| signed_with(&secret(n)) == first));

    // A new label changes the version of the credentials Secret, but not the credentials.
    let labelled = ["label", "secret", t.name(), "--namespace", "valet-system", "a=b"];
    t.world.plane.kubectl(&labelled).unwrap();
    touch(&t);
    t.apply(&[t.grant("DownloadGrant", "after", film.clone())]);
    t.reason("dg/after", "Issued");
    assert_eq!(signed_with(&secret("after")), first);

    let before = secret("film-0");
    let old = t.mount("film-0");
    assert_eq!(old.curl(&[]).0, 200);
    let statuses = t.get("dg/film-0").unwrap()["status"].clone();
    t.apply(&[t.credentials(&user("new"), "secret-of-the-user")]);
    // Valet would otherwise notice the new Secret within a minute.
    touch(&t);
    let began = Instant::now();
    let all = [&names[..], &["up".to_owned(), "after".to_owned()]].concat();
    let mut re_signed = std::collections::BTreeMap::new();
    eventually(RE_SIGNING_TIME + SOON, "every credential to be re-signed", || {
        for name in &all {
            if signed_with(&secret(name)) != first {
                re_signed.entry(name.clone()).or_insert(began.elapsed());
            }
        }
        (re_signed.len() == all.len()).then_some(())
    });
    println!("re-signed after {re_signed:?}");
    let spread = re_signed
        .values()
        .max()
        .unwrap()
        .saturating_sub(*re_signed.values().min().unwrap());
    assert!(
        spread > Duration::from_secs(10),
        "all credentials were re-signed at the same time: {re_signed:?}"
    );

    let after = secret("film-0");
    for same in ["issued-at", "expires-at", "grant-uid", "expiration-seconds"] {
        let name = format!("valetkey.dev/{same}");
        let of = |secret: &Value| secret["metadata"]["annotations"][&name].clone();
        assert_eq!(of(&before), of(&after), "{same}");
    }
    assert_eq!(
        before["metadata"]["uid"], after["metadata"]["uid"],
        "it is the same Secret"
    );
    assert!(after["metadata"]["annotations"].get("valetkey.dev/renewals").is_none());
    assert_eq!(
        t.get("dg/film-0").unwrap()["status"],
        statuses,
        "the status does not change"
    );
    // The command in docs/reference/stores.md counts grant Secrets by signing credentials. After a rotation it prints
    // one line for the store.
    let counted = t.kubectl(&[
        "get",
        "secrets",
        "-l",
        "app.kubernetes.io/managed-by=valet",
        "-o",
        r"custom-columns=STORE:.metadata.annotations.valetkey\.dev/store,SIGNED WITH:.metadata.annotations.valetkey\.dev/signed-with",
    ]);
    let lines: std::collections::BTreeSet<_> = counted.lines().skip(1).map(str::trim).collect();
    let wanted = format!("ClusterObjectStore/{}", t.name());
    assert!(
        lines.len() == 1 && lines.iter().all(|l| l.starts_with(&wanted) && !l.contains("<none>")),
        "{counted}"
    );
    s3.delete_user(&user("old")).unwrap();
    assert_eq!(old.curl(&[]).0, 403, "URLs of the old access key do not work");
    assert_eq!(t.mount("film-0").curl(&[]).0, 200);
    assert_eq!(t.mount("up").upload(&t.file("f", b"bytes")).0, 200);
    // The secret of neither access key appears in the log, a status or a Secret.
    let seen = [
        operator.log_text(),
        t.kubectl(&["get", "ug,dg,secrets", "--output", "yaml"]),
    ]
    .join("\n");
    assert!(!seen.contains("secret-of-the-user"));
}

/// Changes a field of the store that does not concern its credentials, so that Valet reads the store now.
fn touch(t: &Tenant) {
    let store = t.get(&format!("costore/{}", t.name())).unwrap();
    let n = store["spec"]["access"][0]["maxExpirationSeconds"].as_i64().unwrap();
    let access = json!([{
        "namespaces": {"names": [t.name()]}, "operations": ["Upload", "Download"], "keyPrefix": "tenants/{namespace}/",
        "maxExpirationSeconds": n + 1,
    }]);
    t.patch(&format!("costore/{}", t.name()), &json!({"spec": {"access": access}}));
}

/// The identity of a pod. The apiserver issues its token, and MinIO trusts the apiserver.
pub struct Identity<'a> {
    pub t: &'a Tenant,
    pub token: PathBuf,
}

/// The audience that MinIO requires in a token.
const AUDIENCE: &str = "valet";
/// MinIO's role for such tokens. Its name contains a hash of [`AUDIENCE`].
pub const ROLE: &str = "arn:minio:iam:us-east-1::role/SeTraM0IBlfFQuECTSTzHcZr6dg";

impl Identity<'_> {
    /// Starts an operator that has only this identity, and may use it for ObjectStores of its own namespace. `sts` is
    /// the endpoint that exchanges the token for a session of `role`.
    pub fn operator(&self, role: &str, sts: String) -> Operator {
        let env = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", self.token.display().to_string()),
            ("AWS_ROLE_ARN", role.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL_STS", sts),
        ];
        let options = OperatorOptions {
            namespace: Some(self.t.name().to_owned()),
            args: [
                "--share-credentials-with-namespaces",
                "--allow-private-endpoints=127.0.0.0/8",
                "--tenant-store-requests=All",
            ]
            .map(str::to_owned)
            .into(),
            env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            ..OperatorOptions::default()
        };
        Operator::start(&VALET, &self.t.world.plane, &options).expect("the operator starts")
    }

    /// Writes a new token to the place where the kubelet would write it.
    pub fn issue(&self, minutes: u32) {
        self.issue_to("valet", minutes);
    }

    /// Writes a new token of another service account.
    pub fn issue_to(&self, account: &str, minutes: u32) {
        let token = self.t.kubectl(&[
            "create",
            "token",
            account,
            &format!("--audience={AUDIENCE}"),
            &format!("--duration={minutes}m"),
        ]);
        std::fs::write(&self.token, token.trim()).unwrap();
    }
}

/// Starts MinIO with the apiserver as a trusted OpenID provider.
pub fn trusting(t: &Tenant) -> S3Server {
    let plane = &t.world.plane;
    // A cluster needs this binding if other systems fetch its OpenID documents.
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "issuer-for-all"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:service-account-issuer-discovery",
        },
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}],
    });
    plane.apply(&binding.to_string()).unwrap();
    let env = [
        (
            "CONFIG_URL",
            format!("{}/.well-known/openid-configuration", plane.url()),
        ),
        ("CLIENT_ID", AUDIENCE.to_owned()),
        ("ROLE_POLICY", "readwrite".to_owned()),
    ];
    let options = S3Options {
        software: Software::Minio,
        env: env
            .map(|(name, value)| (format!("MINIO_IDENTITY_OPENID_{name}"), value))
            .into(),
        trusted_ca: Some(plane.ca_file().to_owned()),
        ..S3Options::default()
    };
    let minio = S3Server::start_with(&t.world.tools, options).expect("MinIO starts");
    minio.create_bucket(t.name()).unwrap();
    minio
}

fn end_of(object: &Value, field: &str) -> Timestamp {
    object["status"][field].as_str().expect(field).parse().unwrap()
}

/// With web identity a session is as short as its token, no credential outlives its session, and a new token gives a
/// new session. `shortSessions` decides about grants that ask for more.
#[test]
fn credential_does_not_outlive_its_web_identity_session() {
    let t = Tenant::new("irsa");
    let minio = trusting(&t);
    t.kubectl(&["create", "serviceaccount", "valet"]);
    let identity = Identity {
        t: &t,
        token: t.file("token", b""),
    };
    identity.issue(15);
    let operator = identity.operator(ROLE, minio.endpoint());
    let mut store = json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": "ObjectStore", "metadata": {"name": "own", "namespace": t.name()},
        "spec": {"s3": {
            "bucket": t.name(), "region": minio.region(), "endpoint": minio.endpoint(), "addressingStyle": "Path",
            "unsignedHeaders": "Tolerate",
        }},
    });
    let grant = |kind: &str, name: &str, seconds: i64| {
        let own = json!({"kind": "ObjectStore", "name": "own"});
        t.grant(
            kind,
            name,
            json!({"storeRef": own, "key": t.key("fits"), "expirationSeconds": seconds}),
        )
    };
    t.apply(&[store.clone()]);
    let known = eventually(SOON, "the store to be ready", || {
        t.get("ostore/own")
            .filter(|s| says(s, "Ready") == "True Ready" && s["status"]["credentialsExpirationTime"].is_string())
    });
    let session = end_of(&known, "credentialsExpirationTime");
    let left = session.duration_since(Timestamp::now()).as_secs();
    assert!((840..=900).contains(&left), "a session of 15 minutes has {left} s left");

    // A grant that fits into the session receives the requested lifetime, and its upload succeeds.
    t.apply(&[grant("UploadGrant", "fits", 600)]);
    let fits = t.reason("ug/fits", "Issued");
    assert_eq!(says(&fits, "Active"), "True Issued");
    let key = t.mount("fits");
    assert!(key.files["url"].contains("X-Amz-Security-Token="));
    assert_eq!(key.upload(&t.file("f", b"bytes")).0, 200);
    t.reason("ug/fits", "Completed");

    // A grant that asks for more expires five seconds before the session ends. A condition and an event report the earlier expiry.
    t.apply(&[grant("DownloadGrant", "long", 3600)]);
    let long = t.reason("dg/long", "Issued");
    assert_eq!(says(&long, "Active"), "True ExpiryTruncated");
    assert_eq!(end_of(&long, "expirationTime"), session - Duration::from_secs(5));
    let event = eventually(SOON, "an event", || {
        let events = t.kubectl(&[
            "get",
            "events",
            "--field-selector=reason=ExpiryTruncated",
            "--output=name",
        ]);
        (!events.trim().is_empty()).then_some(events)
    });
    assert_eq!(event.lines().count(), 1, "{event}");
    let key = t.mount("long");
    assert_eq!(key.curl(&[]).0, 200);

    // With `shortSessions: Refuse` the grant is refused, and the message names a lifetime that is allowed.
    store["spec"]["shortSessions"] = json!("Refuse");
    t.apply(&[store]);
    t.apply(&[grant("DownloadGrant", "whole", 3600)]);
    let whole = t.reason("dg/whole", "ExpirationTooLong");
    assert_eq!(t.kstatus(&whole), "Failed");
    let said = condition(&whole, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(
        said.contains("shortSessions: Refuse") && said.contains("reduce spec.expirationSeconds to 8"),
        "{said}"
    );
    assert!(t.get("secret/whole").is_none());
    assert_eq!(
        says(&t.get("dg/long").unwrap(), "Ready"),
        "True Issued",
        "the issued credential stays"
    );

    // The kubelet writes a token with a longer life. Valet creates a new session with it although the old session has
    // not expired, at most a minute later, because it limits its requests to STS.
    identity.issue(120);
    let whole = t.reason_within("dg/whole", "Issued", Duration::from_secs(150));
    assert_eq!(says(&whole, "Active"), "True Issued");
    assert_eq!(t.mount("whole").curl(&[]).0, 200);
    // The credential that the old session signed does not change.
    assert_eq!(says(&t.get("dg/long").unwrap(), "Active"), "True ExpiryTruncated");
    eventually(Duration::from_secs(90), "the store to report the problem", || {
        let store = t.get("ostore/own").unwrap();
        (end_of(&store, "credentialsExpirationTime") > session).then_some(())
    });

    // With an invalid token Valet continues to use its session, and only the log reports the problem.
    std::fs::write(&identity.token, "no token").unwrap();
    t.apply(&[grant("DownloadGrant", "later", 600)]);
    let later = t.reason("dg/later", "Issued");
    assert_eq!(says(&later, "Active"), "True Issued");
    assert!(!operator.log_text().contains("X-Amz-Security-Token"));
}
