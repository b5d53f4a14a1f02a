//! What stores turn out to be like, and what follows from it: a store that behaves as Amazon documents, and one that
//! obeys headers which nobody signed.

mod fifteen;
mod inward;
mod lent;
mod moving;
mod parts;
mod unconfined;
mod versity;
#[path = "../cluster/world.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod world;

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use valet_harness::{
    GARAGE_BUCKET, Operator, OperatorOptions, S3Options, S3Server, Software, eventually,
    fake::{Fake, Reply},
};
use world::{SOON, Tenant, VALET, condition, says};

/// A tenant whose store is MinIO.
struct OnMinio {
    tenant: Tenant,
    minio: S3Server,
    operator: Operator,
}

impl OnMinio {
    fn new(test: &str) -> Self {
        let tenant = Tenant::new(test);
        let options = S3Options {
            software: Software::Minio,
            ..S3Options::default()
        };
        let minio = S3Server::start_with(&tenant.world.tools, options).expect("MinIO starts");
        minio.create_bucket(tenant.name()).expect("a bucket can be made");
        tenant.apply(&[tenant.credentials(minio.access_key(), minio.secret_key())]);
        let operator = tenant.operator();
        Self {
            tenant,
            minio,
            operator,
        }
    }

    /// The store with more settings; waits until it has been tried out.
    fn store(&self, more: Value) -> Value {
        self.minio_store(more);
        tried(&self.tenant)
    }

    /// The same without waiting.
    fn minio_store(&self, more: Value) {
        let mut store = self.tenant.store();
        store["spec"]["s3"]["endpoint"] = json!(self.minio.endpoint());
        world::merge(&mut store["spec"]["s3"], more);
        self.tenant.apply(&[store]);
    }
}

/// The store once what was tried speaks of its present spec.
fn tried(t: &Tenant) -> Value {
    eventually(SOON, "the store to be tried out", || {
        t.get(&format!("costore/{}", t.name())).filter(|s| {
            s["status"]["observedGeneration"] == s["metadata"]["generation"]
                && condition(s, "UnsignedHeadersRefused").is_some()
        })
    })
}

fn can(store: &Value, capability: &str) -> bool {
    store["status"]["capabilities"]
        .as_array()
        .is_some_and(|all| all.contains(&json!(capability)))
}

#[test]
fn a_store_that_behaves() {
    let t = Tenant::new("behaves");
    let _operator = t.operator();
    let store = tried(&t);
    assert_eq!(says(&store, "Ready"), "True Ready");
    assert_eq!(says(&store, "UnsignedHeadersRefused"), "True HeadersRefused");
    assert_eq!(says(&store, "ClockInSync"), "True Ready");
    assert!(can(&store, "SignedHeadersOnly"));
    // Nothing was written.
    assert!(t.world.s3.versions(t.name(), "").unwrap().is_empty());
}

/// No upload keys, until the store's owner has seen to it that they can do no harm. Downloads are as good as ever.
#[test]
fn a_store_that_obeys_unsigned_headers() {
    let on = OnMinio::new("obeys");
    let t = &on.tenant;
    let store = on.store(json!({}));
    assert_eq!(says(&store, "Ready"), "True Ready");
    assert_eq!(says(&store, "UnsignedHeadersRefused"), "False HeadersObeyed");
    assert!(!can(&store, "SignedHeadersOnly"));
    t.apply(&[
        t.grant("UploadGrant", "up", json!({})),
        t.grant("DownloadGrant", "down", json!({})),
    ]);
    let refused = t.reason("ug/up", "CapabilityMissing");
    let message = condition(&refused, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(
        message.contains("assumeRole") && message.contains("SignedHeadersOnly"),
        "{message}"
    );
    assert_eq!(t.kstatus(&refused), "Failed");
    t.reason("dg/down", "Issued");

    // A form is not concerned: no header of it asks the store for anything.
    let form = json!({"mode": "PostForm", "constraints": {"overwrite": "Allow", "contentLengthRange": {"max": 9}}});
    t.apply(&[t.grant("UploadGrant", "form", form)]);
    t.reason("ug/form", "Issued");
    on.minio.put(t.name(), "secret/form", b"everybody's").unwrap();
    let file = format!("file=@{}", t.file("form", b"bytes").display());
    let copy = format!("x-amz-copy-source: /{}/secret/form", t.name());
    let form = t.mount("form");
    assert_eq!(form.curl(&["--form", &file, "--header", &copy]).0, 204);
    assert_eq!(
        on.minio.get(t.name(), &t.key("form")).unwrap().as_deref(),
        Some(&b"bytes"[..])
    );
    let large = format!("file=@{}", t.file("large", b"ten bytes!").display());
    assert_eq!(form.curl(&["--form", &large]).0, 400, "a byte more than the most");
    t.reason("ug/form", "Completed");

    // The attack that is the reason: with the owner's consent the key is handed out, and does what it must not.
    on.minio.put(t.name(), "secret/salaries", b"everybody's").unwrap();
    on.store(json!({"unsignedHeaders": "Tolerate"}));
    t.reason("ug/up", "Issued");
    let copy = format!("x-amz-copy-source: /{}/secret/salaries", t.name());
    let key = t.mount("up");
    let (status, said) = key.curl(&["--upload-file", "/dev/null", "--header", &copy]);
    assert_eq!(status, 200, "{said}");
    assert_eq!(
        on.minio.get(t.name(), &t.key("up")).unwrap().as_deref(),
        Some(&b"everybody's"[..]),
        "MinIO no longer obeys; then this whole test is out of date"
    );
}

/// Each key with credentials of its own, confined to its object: the attack fails, and so does every other use.
#[test]
fn each_key_has_its_own_session() {
    let on = OnMinio::new("scoped");
    let t = &on.tenant;
    let store = on.store(json!({"credentials": {"assumeRole": {"durationSeconds": 900}}}));
    assert_eq!(says(&store, "UnsignedHeadersRefused"), "False HeadersObeyed");
    assert!(can(&store, "SignedHeadersOnly"));
    on.minio.put(t.name(), "secret/salaries", b"everybody's").unwrap();
    t.apply(&[
        t.grant("UploadGrant", "attack", json!({"expirationSeconds": 600})),
        t.grant("UploadGrant", "up", json!({"expirationSeconds": 600})),
        t.grant("UploadGrant", "long", json!({"expirationSeconds": 3600})),
        t.grant(
            "UploadGrant",
            "form",
            json!({"mode": "PostForm", "constraints": {"overwrite": "Allow"}, "expirationSeconds": 600}),
        ),
        t.grant("UploadGrant", "wild", json!({"key": t.key("a*b")})),
    ]);
    let copy = format!("x-amz-copy-source: /{}/secret/salaries", t.name());
    let attack = t.mount("attack");
    assert!(attack.files["url"].contains("X-Amz-Security-Token="));
    let (status, said) = attack.curl(&["--upload-file", "/dev/null", "--header", &copy]);
    assert_eq!(status, 403, "{said}");
    assert_eq!(on.minio.get(t.name(), &t.key("attack")).unwrap(), None);
    // Nor does an archive that MinIO is asked to unpack reach another key than the grant's.
    let archive = t.file("archive", &tar("elsewhere", b"mine"));
    let (unpack, below) = (
        "x-amz-meta-snowball-auto-extract: true",
        "x-amz-meta-minio-snowball-prefix: secret",
    );
    let upload = ["--upload-file", archive.to_str().unwrap()];
    let (status, said) = attack.curl(&[upload[0], upload[1], "--header", unpack, "--header", below]);
    assert_eq!(status, 403, "{said}");
    for key in ["elsewhere", "secret/elsewhere", &t.key("attack/elsewhere")] {
        assert_eq!(on.minio.get(t.name(), key).unwrap(), None, "{key}");
    }

    let up = t.mount("up");
    assert_eq!(up.upload(&t.file("f", b"bytes")).0, 200);
    assert_eq!(
        on.minio.get(t.name(), &t.key("up")).unwrap().as_deref(),
        Some(&b"bytes"[..])
    );
    t.reason("ug/up", "Completed");
    // A form is signed by the key's own session, too.
    let form = t.mount("form");
    assert!(form.files["fields.json"].contains("\"x-amz-security-token\": "));
    let file = format!("file=@{}", t.file("form", b"bytes").display());
    assert_eq!(form.curl(&["--form", &file]).0, 204);
    let another = t.key("form-2");
    assert_eq!(
        form.curl(&["--form-string", &format!("key={another}"), "--form", &file])
            .0,
        403
    );
    t.apply(&[t.grant(
        "DownloadGrant",
        "down",
        json!({"key": t.key("up"), "expirationSeconds": 60}),
    )]);
    let (status, body) = t.mount("down").curl(&[]);
    assert_eq!((status, body.trim()), (200, "bytes"));

    // A key ends with its session, and says so; a key that a policy cannot name alone is refused.
    let long = t.reason("ug/long", "Issued");
    assert_eq!(says(&long, "Active"), "True ExpiryTruncated");
    let wild = t.reason("ug/wild", "CapabilityMissing");
    let message = condition(&wild, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("'*'"), "{message}");
}

/// What a store does with headers that are not signed is not known before it has answered: until then nobody gets a key for
/// an upload, though one could be signed. What needs no answer is signed all the same.
#[test]
fn a_store_that_nobody_has_tried_yet() {
    let on = OnMinio::new("untried");
    let t = &on.tenant;
    on.minio.stop();
    on.minio_store(json!({}));
    t.apply(&[
        t.grant("UploadGrant", "up", json!({"constraints": {"overwrite": "Allow"}})),
        t.grant("DownloadGrant", "down", json!({})),
    ]);
    t.reason("dg/down", "Issued");
    let waits = t.reason("ug/up", "StoreUnreachable");
    let message = condition(&waits, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("not known yet"), "{message}");
    assert!(t.get("secret/up").is_none());
    on.minio.start_again().unwrap();
    t.reason_within("ug/up", "CapabilityMissing", Duration::from_secs(90));
    assert!(t.get("secret/up").is_none());
    // Its owner's word needs no trial.
    on.minio.stop();
    on.minio_store(json!({"unsignedHeaders": "Tolerate"}));
    t.reason_within("ug/up", "Issued", Duration::from_secs(90));
}

/// What is wrong with a store is said by name, on the store and on its grants, before any key is handed out.
#[test]
fn what_is_wrong_is_found() {
    let t = Tenant::new("wrong");
    let _operator = t.operator();
    tried(&t);
    let broken = |name: &str, secret: Option<(&str, &str)>, more: Value, reason: &str| {
        let mut store = t.store();
        let name = format!("{}-{name}", t.name());
        store["metadata"]["name"] = json!(name);
        world::merge(&mut store["spec"]["s3"], more);
        if let Some((id, secret)) = secret {
            let mut credentials = t.credentials(id, secret);
            credentials["metadata"]["name"] = json!(name);
            store["spec"]["s3"]["credentials"]["secretRef"]["name"] = json!(name);
            t.apply(&[credentials]);
        }
        t.apply(&[store]);
        let store = t.reason(&format!("costore/{name}"), reason);
        assert_eq!(t.kstatus(&store), "InProgress", "{name}");
        let storeref = json!({"storeRef": {"kind": "ClusterObjectStore", "name": name}});
        t.apply(&[t.grant("DownloadGrant", &name, storeref)]);
        let grant = t.reason(&format!("dg/{name}"), reason);
        assert!(t.get(&format!("secret/{name}")).is_none());
        condition(&grant, "Ready").unwrap()["message"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let id = t.world.s3.access_key();
    let said = broken(
        "secret",
        Some((id, "marker-of-a-secret")),
        json!({}),
        "CredentialsRefused",
    );
    assert!(
        said.contains("SignatureDoesNotMatch") && !said.contains("marker") && !said.contains(id),
        "{said}"
    );
    let said = broken("id", Some(("NOBODY", "secret")), json!({}), "CredentialsRefused");
    assert!(said.contains("InvalidAccessKeyId"), "{said}");
    let said = broken("bucket", None, json!({"bucket": "no-such-bucket"}), "BucketNotFound");
    assert!(said.contains("no-such-bucket"), "{said}");
    let said = broken("region", None, json!({"region": "eu-north-9"}), "RegionMismatch");
    assert!(said.contains("spec.s3.region"), "{said}");
}

/// A store that is away says so; grants that need no look at it get their keys all the same; and when it is back, all
/// is well within the minute.
#[test]
fn a_store_that_is_away_when_it_is_tried() {
    let t = Tenant::new("away");
    let server = S3Server::start(&t.world.tools).unwrap();
    server.create_bucket(t.name()).unwrap();
    server.stop();
    t.apply(&[t.credentials(server.access_key(), server.secret_key())]);
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(server.endpoint());
    t.apply(&[store]);
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        ..OperatorOptions::default()
    };
    let _operator = Operator::start(Path::new(VALET), &t.world.plane, &options).unwrap();
    let name = format!("costore/{}", t.name());
    t.reason(&name, "StoreUnreachable");
    t.apply(&[
        t.grant("DownloadGrant", "down", json!({})),
        t.grant("UploadGrant", "up", json!({})),
    ]);
    t.reason("dg/down", "Issued");
    t.reason("ug/up", "StoreUnreachable");
    server.start_again().unwrap();
    t.reason_within("ug/up", "Issued", Duration::from_secs(70));
    let store = t.reason_within(&name, "Ready", Duration::from_secs(70));
    assert_eq!(says(&store, "UnsignedHeadersRefused"), "True HeadersRefused");
}

/// Asks for a round trip with real keys, and waits for what it found.
fn canary(t: &Tenant, store: Value) -> Value {
    canary_by(t, store, "now")
}

fn canary_by(t: &Tenant, mut store: Value, request: &str) -> Value {
    store["metadata"]["annotations"] = json!({"valetkey.dev/canary-requested-at": request});
    t.apply(&[store]);
    t.answered(request)
}

/// With a session for each key, MinIO holds keys to everything that they promise.
#[test]
fn real_keys_on_minio() {
    let on = OnMinio::new("real-keys");
    let t = &on.tenant;
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(on.minio.endpoint());
    store["spec"]["s3"]["credentials"]["assumeRole"] = json!({"durationSeconds": 900});
    let store = canary(t, store);
    assert_eq!(says(&store, "KeysEnforced"), "True KeysEnforced", "{}", store["status"]);
    let message = condition(&store, "KeysEnforced").unwrap()["message"].as_str().unwrap();
    for promise in [" PostForm/KeyPrefix", " Credentials"] {
        assert!(message.contains(promise) && !message.contains("not tried"), "{message}");
    }
    assert!(can(&store, "Credentials"));
    let left = on.minio.versions(t.name(), "").unwrap();
    assert!(left.is_empty(), "{left:#?}");
}

/// An STS that does not look at the policy which it is given lends what can do anything. The trial finds that out.
#[test]
fn real_keys_of_a_careless_sts() {
    let on = OnMinio::new("careless");
    let t = &on.tenant;
    let mut curl = valet_harness::process::clean(std::process::Command::new("curl"));
    curl.args(["--silent", "--fail", "--aws-sigv4", "aws:amz:us-east-1:sts", "--user"])
        .arg(format!("{}:{}", on.minio.access_key(), on.minio.secret_key()))
        .args(["--data", "Action=AssumeRole&Version=2011-06-15&DurationSeconds=7200"])
        .arg(on.minio.endpoint());
    let session = valet_harness::process::run_ok(curl, b"", SOON).expect("MinIO gives a session");
    let sts = Fake::start(move |_| Reply::Text(200, session.text()));
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(on.minio.endpoint());
    store["spec"]["s3"]["credentials"]["assumeRole"] = json!({"durationSeconds": 900, "endpoint": sts.endpoint()});
    store["spec"]["access"][0]["credentials"] = json!("Allow");
    let spec = json!({"mode": "Credentials", "key": t.key("runs/"), "constraints": {"overwrite": "Allow"}, "expirationSeconds": 60});
    let tried = canary(t, store);
    assert_eq!(
        says(&tried, "KeysEnforced"),
        "False KeysNotEnforced",
        "{}",
        tried["status"]
    );
    let message = condition(&tried, "KeysEnforced").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("does not enforce Credentials:"), "{message}");
    assert!(
        message.contains("without Credentials (they can write beside what they are lent for)"),
        "{message}"
    );
    assert!(!can(&tried, "Credentials"));
    t.apply(&[t.grant("UploadGrant", "lent", spec)]);
    t.reason("ug/lent", "CapabilityMissing");
}

/// A form for everything below a key: any number of objects, each as the grant says, named by their files or otherwise; and
/// nothing beside it, however it is spelled. Nobody waits for any of them, and in the end nobody is told that nothing came.
#[test]
fn a_form_below_a_key() {
    let on = OnMinio::new("below");
    let t = &on.tenant;
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(on.minio.endpoint());
    let spec = json!({
        "mode": "PostForm", "key": t.key("inbox/"), "expirationSeconds": 20, "ttlSecondsAfterFinished": 3600,
        "constraints": {"contentType": "text/plain", "contentLengthRange": {"min": 1, "max": 5}, "overwrite": "Allow"},
    });
    // Nobody has tried yet.
    t.apply(&[store.clone(), t.grant("UploadGrant", "inbox", spec.clone())]);
    t.reason("ug/inbox", "CapabilityMissing");
    let tried = canary(t, store);
    assert!(can(&tried, "PostForm/KeyPrefix"), "{}", tried["status"]);
    let grant = t.reason("ug/inbox", "Issued");
    assert_eq!(says(&grant, "Completed"), "Unknown NotObservable");

    let key = t.mount("inbox");
    let stored = |name: &str| on.minio.get(t.name(), &t.key(name)).unwrap();
    let post = |named: &str, bytes: &[u8]| {
        let file = t.file("upload", bytes);
        key.curl(&["--form", &format!("file=@{}{named}", file.display())]).0
    };
    assert_eq!(post("", b"12345"), 204);
    assert_eq!(
        stored("inbox/upload").as_deref(),
        Some(&b"12345"[..]),
        "by the file's name"
    );
    assert_eq!(post(";filename=a b+\u{fc}.txt", b"1"), 204);
    assert_eq!(stored("inbox/a b+\u{fc}.txt").as_deref(), Some(&b"1"[..]));
    assert_eq!(post(";filename=../../out.txt", b"1"), 204, "of a path, the last part");
    assert_eq!(stored("inbox/out.txt").as_deref(), Some(&b"1"[..]));
    assert_eq!(post("", b"123456"), 400, "a byte more than the most");

    // Named otherwise, as a page with a script does.
    let config = key.files["curl.cfg"].clone();
    let as_key = |name: &str, of: &str, to: &str| {
        let config = config.replace(&t.key("inbox/${filename}"), name).replace(of, to);
        std::fs::write(key.folder.join("curl.cfg"), config).unwrap();
        post("", b"1234")
    };
    assert_eq!(as_key(&t.key("inbox/a/b"), "", ""), 204);
    assert_eq!(stored("inbox/a/b").as_deref(), Some(&b"1234"[..]));
    assert_eq!(as_key(&t.key("inbox/c"), "=text/plain", "=text/html"), 403);
    let encoded = t.key("inbox/x").replace('/', "%2F");
    for name in [
        t.key("inboxes/x"),
        t.key("inbox"),
        t.key("Inbox/x"),
        t.key("inbox/../outbox/x"),
        t.key("inbox/./x"),
        t.key("inbox//x"),
        format!("/{}", t.key("inbox/x")),
        encoded,
        "x".to_owned(),
        "${filename}".to_owned(),
    ] {
        let status = as_key(&name, "", "");
        assert!((400..500).contains(&status), "{name}: {status}");
    }
    let all = on.minio.versions(t.name(), "tenants/").unwrap();
    let mut all: Vec<_> = all
        .iter()
        .map(|object| object.key.strip_prefix(&t.key("")).unwrap())
        .collect();
    all.sort_unstable();
    assert_eq!(
        all,
        ["inbox/a b+\u{fc}.txt", "inbox/a/b", "inbox/out.txt", "inbox/upload"]
    );

    let over = t.reason_within("ug/inbox", "Expired", Duration::from_secs(40));
    assert_eq!(says(&over, "Completed"), "Unknown NotObservable");
    assert_eq!(t.kstatus(&over), "Current");
    t.gone("inbox");
    assert_eq!(as_key(&t.key("inbox/late"), "", ""), 403);

    // And by a session of its own, which ends at the same keys.
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(on.minio.endpoint());
    store["spec"]["s3"]["credentials"]["assumeRole"] = json!({"durationSeconds": 900});
    let tried = canary_by(t, store, "with sessions");
    assert!(can(&tried, "PostForm/KeyPrefix"), "{}", tried["status"]);
    t.apply(&[t.grant("UploadGrant", "scoped", spec)]);
    let key = t.mount("scoped");
    assert!(key.files["fields.json"].contains("x-amz-security-token"));
    assert_eq!(
        key.curl(&["--form", &format!("file=@{}", t.file("scoped", b"12").display())])
            .0,
        204
    );
    assert_eq!(stored("inbox/scoped").as_deref(), Some(&b"12"[..]));
}

/// An operator that starts while the store is away has not tried it: what is out stays, and what is new waits for the trial.
#[test]
fn a_form_below_a_key_while_the_store_is_away() {
    let OnMinio {
        tenant: t,
        minio,
        operator,
    } = OnMinio::new("belowaway");
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(minio.endpoint());
    canary(&t, store);
    let grant = |name: &str| {
        let spec = json!({"mode": "PostForm", "key": t.key("inbox/"), "constraints": {"overwrite": "Allow"}});
        t.grant("UploadGrant", name, spec)
    };
    t.apply(&[grant("first")]);
    t.reason("ug/first", "Issued");
    let secret = t.get("secret/first").unwrap();
    drop(operator);
    minio.stop();

    let _operator = t.operator();
    t.apply(&[grant("later"), t.grant("DownloadGrant", "down", json!({}))]);
    let waits = t.reason("ug/later", "StoreUnreachable");
    let message = condition(&waits, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("to be tried out with real keys first"), "{message}");
    t.reason("dg/down", "StoreUnreachable");
    assert_eq!(says(&t.get("ug/first").unwrap(), "Ready"), "True Issued");
    minio.start_again().unwrap();
    t.reason_within("ug/later", "Issued", Duration::from_secs(70));
    t.reason_within("dg/down", "Issued", Duration::from_secs(70));
    assert_eq!(says(&t.get("ug/first").unwrap(), "Ready"), "True Issued");
    assert_eq!(t.get("secret/first").unwrap(), secret, "the same key all the time");
}

/// Garage takes a second upload by a write-once key. Asked for a round trip, Valet finds that, and signs none.
#[test]
#[ignore = "needs Garage, which takes long to build; make conformance runs it"]
fn real_keys_on_garage() {
    let t = Tenant::new("garage");
    let options = S3Options {
        software: Software::Garage,
        ..S3Options::default()
    };
    let garage = S3Server::start_with(&t.world.tools, options).expect("Garage starts");
    eventually(SOON, "its bucket", || garage.head(GARAGE_BUCKET, "").ok().flatten());
    t.apply(&[t.credentials(garage.access_key(), garage.secret_key())]);
    let _operator = t.operator();
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(garage.endpoint());
    store["spec"]["s3"]["bucket"] = json!(GARAGE_BUCKET);
    let store = canary(&t, store);
    assert_eq!(
        says(&store, "KeysEnforced"),
        "False KeysNotEnforced",
        "{}",
        store["status"]
    );
    let message = condition(&store, "KeysEnforced").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("does not enforce WriteOnce:"), "{message}");
    assert!(!can(&store, "WriteOnce") && can(&store, "ContentType") && can(&store, "PostForm/ContentLengthRange"));
    assert!(can(&store, "PostForm/KeyPrefix"), "{}", store["status"]);
    let left = || {
        garage
            .request("GET", GARAGE_BUCKET, "", &[("list-type", "2")], &[], b"")
            .unwrap()
    };
    let is_empty = || {
        String::from_utf8_lossy(&left().body)
            .contains("<KeyCount>0</KeyCount>")
            .then_some(())
    };
    eventually(SOON, "nothing to be left", is_empty);
    t.apply(&[
        t.grant("UploadGrant", "once", json!({})),
        t.grant(
            "UploadGrant",
            "again",
            json!({"constraints": {"overwrite": "Allow", "contentType": "text/plain"}}),
        ),
    ]);
    t.reason("ug/once", "CapabilityMissing");
    t.reason("ug/again", "Issued");
    assert_eq!(t.mount("again").upload(&t.file("body", b"x")).0, 200);
    t.reason("ug/again", "Completed");
}

/// An archive with one file (POSIX, "ustar interchange format").
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut head = [0_u8; 512];
    let mut field = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, name);
    field(100, "0000644");
    field(108, "0000000");
    field(116, "0000000");
    field(124, &format!("{:011o}", content.len()));
    field(136, "00000000000");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\u{0}00");
    let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = head.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}
