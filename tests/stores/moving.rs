//! Credentials that move: a rotation, sessions by web identity that are renewed, and sessions that are shorter than what a grant
//! asks for; each with what the user sees.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::{Value, json};
use valet_harness::{Operator, OperatorOptions, S3Options, S3Server, Software, eventually};

use crate::{
    tried,
    world::{SOON, Tenant, VALET, condition, says},
};

/// Within this long keys are signed anew after the store was read, see docs/reference/stores.md.
const ANEW: Duration = Duration::from_secs(120);

fn signed_with(secret: &Value) -> String {
    let annotations = &secret["metadata"]["annotations"];
    annotations["valetkey.dev/signed-with"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The old access key gives way to another one: keys that are out are signed anew, with the same end, and then the old one
/// can go. What changes nothing of the credentials signs nothing anew.
#[test]
fn a_rotation() {
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
    tried(&t);
    s3.put(t.name(), &t.key("film"), b"frames").unwrap();
    // By their UIDs they are spread over the two minutes, so the first of ten comes soon.
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
    let secret = |name: &str| t.get(&format!("secret/{name}")).expect("the key is out");
    let first = signed_with(&secret("film-0"));
    assert!(!first.is_empty() && names.iter().all(|n| signed_with(&secret(n)) == first));

    // A label on the credentials' Secret is another version of it, and the same credentials.
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
    // Without this it would be noticed within a minute.
    touch(&t);
    let began = Instant::now();
    let all = [&names[..], &["up".to_owned(), "after".to_owned()]].concat();
    let mut anew = std::collections::BTreeMap::new();
    eventually(ANEW + SOON, "every key to be signed anew", || {
        for name in &all {
            if signed_with(&secret(name)) != first {
                anew.entry(name.clone()).or_insert(began.elapsed());
            }
        }
        (anew.len() == all.len()).then_some(())
    });
    println!("signed anew after {anew:?}");
    let spread = anew
        .values()
        .max()
        .unwrap()
        .saturating_sub(*anew.values().min().unwrap());
    assert!(spread > Duration::from_secs(10), "they came together: {anew:?}");

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
        "the status has nothing new to say"
    );
    // As docs/reference/stores.md counts what is signed with what: one line a store when all is done.
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
    assert_eq!(old.curl(&[]).0, 403, "what the old access key has signed is over");
    assert_eq!(t.mount("film-0").curl(&[]).0, 200);
    assert_eq!(t.mount("up").upload(&t.file("f", b"bytes")).0, 200);
    // Neither key is named anywhere.
    let seen = [
        operator.log_text(),
        t.kubectl(&["get", "ug,dg,secrets", "--output", "yaml"]),
    ]
    .join("\n");
    assert!(!seen.contains("secret-of-the-user"));
}

/// Changes the store in a way that changes nothing, so that it is read now.
fn touch(t: &Tenant) {
    let store = t.get(&format!("costore/{}", t.name())).unwrap();
    let n = store["spec"]["access"][0]["maxExpirationSeconds"].as_i64().unwrap();
    let access = json!([{
        "namespaces": {"names": [t.name()]}, "operations": ["Upload", "Download"], "keyPrefix": "tenants/{namespace}/",
        "maxExpirationSeconds": n + 1,
    }]);
    t.patch(&format!("costore/{}", t.name()), &json!({"spec": {"access": access}}));
}

/// A pod's identity: the apiserver is the issuer, MinIO takes its word.
pub struct Identity<'a> {
    pub t: &'a Tenant,
    pub token: PathBuf,
}

/// The client that MinIO knows, which tokens must be meant for.
const AUDIENCE: &str = "valet";
/// MinIO's name for who comes with such a token: a hash of [`AUDIENCE`].
pub const ROLE: &str = "arn:minio:iam:us-east-1::role/SeTraM0IBlfFQuECTSTzHcZr6dg";

impl Identity<'_> {
    /// An operator that has this identity alone, and may use it for stores of its namespace's own, which is where it works.
    /// `sts` is where the token is exchanged for a session of `role`.
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
        Operator::start(Path::new(VALET), &self.t.world.plane, &options).expect("the operator starts")
    }

    /// Puts a fresh token where the kubelet would.
    pub fn issue(&self, minutes: u32) {
        self.issue_to("valet", minutes);
    }

    /// The same of another account.
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

/// MinIO that trusts the apiserver.
pub fn trusting(t: &Tenant) -> S3Server {
    let plane = &t.world.plane;
    // As a cluster must do whose issuer others are to ask.
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

/// Web identity, for real: sessions as short as their tokens, keys that never outlive them, fresh sessions with fresh tokens, and
/// the store's choice what to do about grants that ask for more.
#[test]
fn web_identity() {
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

    // Within the session: as asked. The object goes up with it.
    t.apply(&[grant("UploadGrant", "fits", 600)]);
    let fits = t.reason("ug/fits", "Issued");
    assert_eq!(says(&fits, "Active"), "True Issued");
    let key = t.mount("fits");
    assert!(key.files["url"].contains("X-Amz-Security-Token="));
    assert_eq!(key.upload(&t.file("f", b"bytes")).0, 200);
    t.reason("ug/fits", "Completed");

    // More than is left of it: cut short, five seconds before the session's end, and said.
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

    // The store's owner wants no such keys: refused, with the number that would do.
    store["spec"]["shortSessions"] = json!("Refuse");
    t.apply(&[store]);
    t.apply(&[grant("DownloadGrant", "whole", 3600)]);
    let whole = t.reason("dg/whole", "ExpirationTooLong");
    assert_eq!(t.kstatus(&whole), "Failed");
    let said = condition(&whole, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(
        said.contains("shortSessions: Refuse") && said.contains("ask for at most 8"),
        "{said}"
    );
    assert!(t.get("secret/whole").is_none());
    assert_eq!(
        says(&t.get("dg/long").unwrap(), "Ready"),
        "True Issued",
        "what is out stays"
    );

    // The kubelet brings a token with more life, and whoever asks for more gets a session with it: nobody waits for the
    // old one to end. At most a minute passes, since STS is not asked more often.
    identity.issue(120);
    let whole = t.reason_within("dg/whole", "Issued", Duration::from_secs(150));
    assert_eq!(says(&whole, "Active"), "True Issued");
    assert_eq!(t.mount("whole").curl(&[]).0, 200);
    // The key that was signed with the old session is as it was.
    assert_eq!(says(&t.get("dg/long").unwrap(), "Active"), "True ExpiryTruncated");
    eventually(Duration::from_secs(90), "the store to say so, too", || {
        let store = t.get("ostore/own").unwrap();
        (end_of(&store, "credentialsExpirationTime") > session).then_some(())
    });

    // A token that is no good any more: the session at hand goes on, and nothing is said but in the log.
    std::fs::write(&identity.token, "no token").unwrap();
    t.apply(&[grant("DownloadGrant", "later", 600)]);
    let later = t.reason("dg/later", "Issued");
    assert_eq!(says(&later, "Active"), "True Issued");
    assert!(!operator.log_text().contains("X-Amz-Security-Token"));
}
