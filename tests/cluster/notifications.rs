//! Tests of notifications from versitygw and MinIO, of forged notifications, and of notifications that a standby
//! replica receives.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use valet::{api::StoreKind, core::Shard};
use valet_harness::{Operator, OperatorOptions, S3Options, S3Server, Software, eventually, net, process};

use crate::world::{SOON, Tenant, VALET, condition, says};

/// The token of the notification endpoint in these tests.
const TOKEN: &str = "6f2d1c9ad0b84f7e-notify";

/// A tenant whose operator receives notifications, and whose store sends them.
struct NotificationSetup {
    t: Tenant,
    port: u16,
    tokens: PathBuf,
}

impl NotificationSetup {
    fn new(test: &str) -> Self {
        let t = Tenant::new(test);
        let tokens = t.file("tokens", format!("{TOKEN} {}\n", t.name()).as_bytes());
        let port = net::free_port().expect("a free port");
        Self { t, port, tokens }
    }

    fn options(&self, port: u16) -> OperatorOptions {
        OperatorOptions {
            namespace: Some(self.t.name().to_owned()),
            args: vec![
                format!("--notifications-address=127.0.0.1:{port}"),
                format!("--notifications-token-file={}", self.tokens.display()),
            ],
            ..OperatorOptions::default()
        }
    }

    fn operator(&self) -> Operator {
        Operator::start(&VALET, &self.t.world.plane, &self.options(self.port)).expect("the operator starts")
    }

    /// Starts an S3 server for this test and points the tenant's ClusterObjectStore to it.
    fn store(&self, options: S3Options) -> S3Server {
        let software = options.software;
        let s3 = S3Server::start_with(&self.t.world.tools, options).expect("the S3 server starts");
        s3.create_bucket(self.t.name()).expect("a bucket can be made");
        let mut store = self.t.store();
        store["spec"]["s3"]["endpoint"] = json!(s3.endpoint());
        if software == Software::Minio {
            store["spec"]["s3"]["unsignedHeaders"] = json!("Tolerate");
        }
        self.t
            .apply(&[self.t.credentials(s3.access_key(), s3.secret_key()), store]);
        s3
    }

    fn versitygw(&self, port: u16) -> S3Server {
        self.store(S3Options {
            event_webhook_url: Some(format!("http://valet:{TOKEN}@127.0.0.1:{port}/notifications")),
            ..S3Options::default()
        })
    }

    /// Sends a notification as a store does. Returns the HTTP status.
    fn post(&self, port: u16, header: &str, body: &str) -> u16 {
        let mut command = process::clean(Command::new("curl"));
        command.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]);
        command.args(["--header", header, "--data-binary", "@-"]);
        command.arg(format!("http://127.0.0.1:{port}/notifications"));
        let output = process::run(command, body.as_bytes(), SOON).expect("curl runs");
        let code = String::from_utf8_lossy(&output.stdout).into_owned();
        code.trim().parse().unwrap_or_else(|_| panic!("curl said {code}"))
    }

    fn notification(&self, bucket: &str, key: &str) -> String {
        json!({"Records": [{
            "eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": {"key": key}},
        }]})
        .to_string()
    }
}

/// The value of a metric series of the operator, or 0 if the series does not exist.
fn metric(operator: &Operator, sample: &str) -> f64 {
    let text = operator.metrics().expect("the operator answers");
    text.lines()
        .find_map(|line| line.strip_prefix(sample)?.trim().parse().ok())
        .unwrap_or(0.0)
}

fn notified(operator: &Operator, outcome: &str) -> f64 {
    metric(operator, &format!("valet_notifications_total{{outcome=\"{outcome}\"}}"))
}

/// As [`notified`], for an operator of this shard.
fn notified_shard(operator: &Operator, shard: u16, outcome: &str) -> f64 {
    let sample = format!("valet_notifications_total{{shard=\"{shard}\",outcome=\"{outcome}\"}}");
    metric(operator, &sample)
}

pub fn polls(t: &Tenant, operator: &Operator) -> f64 {
    polls_of(operator, "ClusterObjectStore", "", t.name())
}

fn polls_of(operator: &Operator, kind: &str, namespace: &str, name: &str) -> f64 {
    let of = |outcome| {
        metric(
            operator,
            &format!(
                "valet_store_polls_total{{store_kind=\"{kind}\",store_namespace=\"{namespace}\",store=\"{name}\",outcome=\"{outcome}\"}}"
            ),
        )
    };
    of("present") + of("absent") + of("error") + of("forbidden")
}

/// Checks that this many uploads were completed by their notifications, and none by a scheduled poll. `make bench`
/// measures how long a notification takes.
/// Uploads the object of a new grant `one` to this server, and waits until the grant is completed.
fn upload_one(t: &Tenant, s3: &S3Server) {
    let mut credentials = t.credentials(s3.access_key(), s3.secret_key());
    credentials["metadata"]["namespace"] = json!(t.name());
    t.apply(&[credentials, t.grant("UploadGrant", "one", json!({}))]);
    let key = t.mount("one");
    t.between_polls(&["one"]);
    assert_eq!(key.upload(&t.file("one", b"to whom it may concern")).0, 200);
    t.reason("ug/one", "Completed");
}

fn completed_by_notification(operator: &Operator, uploads: usize) {
    let count = metric(operator, "valet_notification_to_completed_seconds_count");
    assert_eq!(count, uploads as f64, "each was completed by its notification");
}

/// Object keys that stores may encode in different ways.
const NAMES: [(&str, &str); 4] = [
    ("plain", "plain.png"),
    ("blanks", "a b+c%41/=&?.txt"),
    ("letters", "ärger/日本.txt"),
    ("plus", "one+two"),
];

fn notification_completes_uploads(test: &str, start: impl Fn(&NotificationSetup) -> S3Server) {
    let setup = NotificationSetup::new(test);
    let t = &setup.t;
    let operator = setup.operator();
    let s3 = start(&setup);
    let grants: Vec<_> = NAMES
        .iter()
        .map(|(name, key)| t.grant("UploadGrant", name, json!({"key": t.key(key)})))
        .collect();
    t.apply(&grants);
    let keys: Vec<_> = NAMES.iter().map(|(name, _)| t.mount(name)).collect();
    t.between_polls(&NAMES.map(|(name, _)| name));
    let before = polls(t, &operator);
    for (key, (name, _)) in keys.iter().zip(NAMES) {
        assert_eq!(key.upload(&t.file(name, b"here it is")).0, 200, "{name}");
        let grant = t.reason(&format!("ug/{name}"), "Completed");
        assert_eq!(grant["status"]["object"]["size"], 10);
    }
    assert_eq!(polls(t, &operator) - before, NAMES.len() as f64, "one HEAD each");
    completed_by_notification(&operator, NAMES.len());
    assert_eq!(notified(&operator, "refused"), 0.0);
    assert_eq!(notified(&operator, "malformed"), 0.0);
    assert_eq!(notified(&operator, "accepted"), NAMES.len() as f64);
    // An object that no grant waits for.
    s3.put(t.name(), "other", b"x").unwrap().ok().unwrap();
    eventually(SOON, "the foreign event to be counted", || {
        (notified(&operator, "unknown") >= 1.0).then_some(())
    });
    let log = operator.log_text();
    assert!(
        !log.contains(TOKEN) && !log.contains("one+two") && !log.contains("plain.png"),
        "{log}"
    );
    assert!(!operator.metrics().unwrap().contains("plain.png"));
}

#[test]
fn versitygw_notification_completes_upload() {
    notification_completes_uploads("told", |setup| setup.versitygw(setup.port));
}

#[test]
fn minio_notification_completes_upload() {
    notification_completes_uploads("toldminio", |setup| {
        let port = setup.port;
        let set = |name: &str, value: &str| (format!("MINIO_NOTIFY_WEBHOOK_{name}_VALET"), value.to_owned());
        let minio = setup.store(S3Options {
            software: Software::Minio,
            env: vec![
                set("ENABLE", "on"),
                set("ENDPOINT", &format!("http://127.0.0.1:{port}/notifications")),
                set("AUTH_TOKEN", TOKEN),
            ],
            ..S3Options::default()
        });
        let rules = "<NotificationConfiguration><QueueConfiguration><Id>valet</Id>\
            <Queue>arn:minio:sqs:us-east-1:VALET:webhook</Queue><Event>s3:ObjectCreated:*</Event>\
            </QueueConfiguration></NotificationConfiguration>";
        minio
            .request(
                "PUT",
                setup.t.name(),
                "",
                &[("notification", "")],
                &[],
                rules.as_bytes(),
            )
            .unwrap()
            .ok()
            .unwrap();
        minio
    });
}

/// A forged notification with a valid token can only make Valet poll early, at most once a second. A notification
/// without a valid token has no effect.
#[test]
fn forged_notification_causes_at_most_one_poll_per_second() {
    let setup = NotificationSetup::new("lies");
    let t = &setup.t;
    let operator = setup.operator();
    t.apply(&[t.grant("UploadGrant", "wanted", json!({}))]);
    t.reason("ug/wanted", "Issued");
    let (bucket, key) = (t.name().to_owned(), t.key("wanted"));
    let good = format!("Authorization: Bearer {TOKEN}");
    let true_notification = setup.notification(&bucket, &key);

    let before = polls(t, &operator);
    for (header, body) in [
        ("X-Nothing: here", true_notification.as_str()),
        ("Authorization: Bearer 6f2d1c9ad0b84f7e-notifz", &true_notification),
        ("Authorization: Bearer", &true_notification),
        ("X-Api-Key: 6f2d1c9ad0b84f7e", "nonsense"),
    ] {
        assert_eq!(setup.post(setup.port, header, body), 401, "{header}");
    }
    assert_eq!(notified(&operator, "refused"), 4.0);
    let huge = format!("{{\"x\":\"{}\"}}", "y".repeat(600_000));
    for (body, status) in [("{}", 400), ("", 400), ("[[[[", 400), (huge.as_str(), 413)] {
        assert_eq!(setup.post(setup.port, &good, body), status);
    }
    assert_eq!(notified(&operator, "malformed"), 4.0);
    // Notifications about other buckets and other object keys.
    for body in [
        setup.notification("elsewhere", &key),
        setup.notification(&bucket, "wanted"),
        setup.notification("", ""),
    ] {
        assert_eq!(setup.post(setup.port, &good, &body), 204);
    }
    assert_eq!(notified(&operator, "unknown"), 3.0);
    assert!(polls(t, &operator) - before <= 1.0, "no poll was necessary");

    // Notifications for an object that does not exist, with each header that can carry the token.
    let before = polls(t, &operator);
    let began = Instant::now();
    for n in 0..60 {
        let header = match n % 3 {
            0 => good.clone(),
            1 => format!("X-Api-Key: {TOKEN}"),
            _ => format!("Authorization: {TOKEN}"),
        };
        assert_eq!(setup.post(setup.port, &header, &true_notification), 204);
    }
    std::thread::sleep(Duration::from_millis(1500));
    let cost = polls(t, &operator) - before;
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("60 forged notifications in {seconds:.1} s: {cost} HEAD requests");
    // One poll at once, one poll a second, and the scheduled polls after 2, 6, 14 and 30 seconds.
    assert!(
        cost >= 1.0 && cost <= seconds + 1.0 + 4.0,
        "{cost} polls in {seconds} s"
    );
    let grant = t.reason("ug/wanted", "Issued");
    assert_eq!(says(&grant, "Completed"), "False Pending");

    // A new token replaces the first one.
    let other = "0a1b2c3d4e5f6071-other";
    std::fs::write(&setup.tokens, format!("{other} {}", t.name())).unwrap();
    eventually(SOON, "the new token to be accepted", || {
        (setup.post(setup.port, &format!("X-Api-Key: {other}"), &true_notification) == 204).then_some(())
    });
    assert_eq!(setup.post(setup.port, &good, &true_notification), 401);
    let log = operator.log_text();
    assert!(
        !log.contains(TOKEN) && !log.contains(other) && !log.contains(&key),
        "{log}"
    );
}

/// A tenant's own store has the same bucket name as the platform's store, and both have a grant for the same object
/// key. A notification for the platform's store does not make Valet poll the tenant's store.
#[test]
fn notification_with_a_token_of_another_store_causes_no_request() {
    let setup = NotificationSetup::new("spy");
    let t = &setup.t;
    let mut options = setup.options(setup.port);
    options.args.push("--allow-private-endpoints=127.0.0.0/8".into());
    options.args.push("--tenant-store-requests=All".into());
    let operator = Operator::start(&VALET, &t.world.plane, &options).expect("the operator starts");
    let server = S3Server::start_with(&t.world.tools, S3Options::default()).expect("the S3 server starts");
    server.create_bucket(t.name()).expect("a bucket can be made");
    let mut credentials = t.credentials(server.access_key(), server.secret_key());
    credentials["metadata"]["namespace"] = json!(t.name());
    let mut spy = t.store();
    spy["kind"] = json!("ObjectStore");
    spy["metadata"] = json!({"name": "spy", "namespace": t.name()});
    spy["spec"]["s3"]["endpoint"] = json!(server.endpoint());
    spy["spec"].as_object_mut().unwrap().remove("access");
    let key = t.key("payroll");
    t.apply(&[
        credentials,
        spy,
        t.grant("UploadGrant", "owner", json!({"key": key})),
        t.grant(
            "UploadGrant",
            "spy",
            json!({"key": key, "storeRef": {"kind": "ObjectStore", "name": "spy"}}),
        ),
    ]);
    t.between_polls(&["owner", "spy"]);
    let (owners, spys) = (
        || polls(t, &operator),
        || polls_of(&operator, "ObjectStore", t.name(), "spy"),
    );
    let before = (owners(), spys());
    let (header, true_notification) = (format!("X-Api-Key: {TOKEN}"), setup.notification(t.name(), &key));
    assert_eq!(setup.post(setup.port, &header, &true_notification), 204);
    eventually(SOON, "a request to the owner's store", || {
        (owners() == before.0 + 1.0).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(spys(), before.1, "no request to the tenant's server");

    // With a token for the stores of the namespace, Valet polls the tenant's store and not the platform's store.
    let other = "0a1b2c3d4e5f6071-other";
    std::fs::write(
        &setup.tokens,
        format!("{TOKEN} {}\n{other} {}/spy\n", t.name(), t.name()),
    )
    .unwrap();
    let header = format!("X-Api-Key: {other}");
    eventually(SOON, "the other token to be accepted", || {
        (setup.post(setup.port, &header, &true_notification) == 204).then_some(())
    });
    eventually(SOON, "a request to the tenant's store", || {
        (spys() > before.1).then_some(())
    });
    assert_eq!(owners(), before.0 + 1.0, "no request to the platform's store");
}

/// A Service distributes notifications over all replicas, and versitygw sends each notification once. A standby
/// therefore forwards notifications to the leader.
#[test]
fn standby_forwards_notifications_to_the_leader() {
    let setup = NotificationSetup::new("passon");
    let t = &setup.t;
    let mut credentials = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
    credentials["metadata"]["namespace"] = json!(t.name());
    t.apply(&[credentials]);
    let waiting = net::free_port().unwrap();
    let replica = |port| {
        let mut options = setup.options(port);
        options
            .args
            .extend(["--leader-elect".into(), format!("--operator-namespace={}", t.name())]);
        options.env.push(("VALET_POD_IP".into(), "127.0.0.1".into()));
        Operator::start(&VALET, &t.world.plane, &options).unwrap()
    };
    let first = replica(setup.port);
    eventually(SOON, "the first replica to become the leader", || {
        (metric(&first, "valet_leader") == 1.0).then_some(())
    });
    let second = replica(waiting);
    assert_eq!(metric(&second, "valet_leader"), 0.0);

    let s3 = setup.versitygw(waiting);
    upload_one(t, &s3);
    completed_by_notification(&first, 1);
    assert!(notified(&second, "relayed") >= 1.0);
    // A notification in the request headers is also forwarded. It names an object that no grant waits for.
    let unknown = notified(&first, "unknown");
    let mut command = process::clean(Command::new("curl"));
    command.args([
        "--silent",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        "--data-binary",
        "{}",
    ]);
    for header in [
        "X-Api-Key: ".to_owned() + TOKEN,
        "ce-specversion: 1.0".into(),
        "ce-type: Microsoft.Storage.BlobCreated".into(),
        "ce-subject: blobServices/default/containers/nobodys/blobs/x".into(),
    ] {
        command.args(["--header", &header]);
    }
    command.arg(format!("http://127.0.0.1:{waiting}/notifications"));
    assert_eq!(process::run(command, b"", SOON).unwrap().text(), "204");
    assert_eq!(notified(&first, "unknown"), unknown + 1.0);

    // The leader is frozen. The standby answers 503, so that a store which repeats notifications sends this one
    // again.
    let good = format!("Authorization: Bearer {TOKEN}");
    let true_notification = setup.notification(t.name(), &t.key("two"));
    assert_eq!(
        setup.post(waiting, "X-Api-Key: not-the-token-at-all", &true_notification),
        401
    );
    first.process().pause();
    assert_eq!(setup.post(waiting, &good, &true_notification), 503);
    first.kill();
    eventually(
        SOON,
        "the second replica to take over and to receive the notification",
        || (setup.post(waiting, &good, &true_notification) == 204).then_some(()),
    );
}

/// An object that differs from the grant was not uploaded with its credential. The grant reports `ObjectMismatch` and
/// not success.
#[test]
fn object_that_differs_from_grant_is_a_mismatch() {
    let t = Tenant::new("mismatch");
    let _operator = t.operator();
    let described = json!({"contentLength": 5, "contentType": "text/plain"});
    let mut over = described.clone();
    over["overwrite"] = json!("Allow");
    t.apply(&[
        t.grant("UploadGrant", "once", json!({"constraints": described})),
        t.grant("UploadGrant", "over", json!({"constraints": over})),
    ]);
    t.reason("ug/once", "Issued");
    let key = t.mount("over");
    // Another client writes the objects with its own access key.
    for name in ["once", "over"] {
        t.put(&t.key(name), b"longer");
    }
    let grant = t.reason("ug/once", "ObjectMismatch");
    assert_eq!(t.kstatus(&grant), "Failed");
    assert_eq!(says(&grant, "Completed"), "False ObjectMismatch");
    assert_eq!(says(&grant, "Active"), "False ObjectMismatch");
    let message = condition(&grant, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(
        message.contains("the object has 6 bytes instead of 5 bytes; the object has the content type"),
        "{message}"
    );
    t.gone("once");

    // The credential can still upload the right object. After that the grant completes.
    let grant = eventually(SOON, "the other object to be reported", || {
        t.get("ug/over")
            .filter(|g| says(g, "Completed") == "False ObjectMismatch")
    });
    assert_eq!(says(&grant, "Ready"), "True Issued");
    assert_eq!(key.upload(&t.file("over", b"right")).0, 200);
    let grant = t.reason("ug/over", "Completed");
    assert_eq!(grant["status"]["object"]["size"], 5);
    assert_eq!(grant["status"]["object"]["contentType"], "text/plain");
}

/// A Service distributes notifications over the replicas of all shards. A replica forwards a notification to the leader
/// of each shard that can serve one of the sender's stores.
#[test]
fn notification_reaches_the_shard_that_serves_its_store() {
    let setup = NotificationSetup::new("shardnote");
    let t = &setup.t;
    let all = "9b2d1c9ad0b84f7e-all-stores";
    let tokens = format!("{TOKEN} {}\n{all} *\n", t.name());
    std::fs::write(&setup.tokens, tokens).unwrap();
    let id = (StoreKind::ClusterObjectStore, String::new(), t.name().to_owned());
    let serving = u16::from(Shard::new(1, 2).unwrap().serves(&id));
    let other = 1 - serving;
    let replica = |shard: u16, port: u16| {
        let mut options = setup.options(port);
        options.args.extend([
            "--leader-elect".into(),
            format!("--operator-namespace={}", t.name()),
            "--shards=2".into(),
            format!("--shard={shard}"),
        ]);
        options.env.push(("VALET_POD_IP".into(), "127.0.0.1".into()));
        let operator = Operator::start(&VALET, &t.world.plane, &options).unwrap();
        eventually(SOON, "the shard to have a leader", || {
            (metric(&operator, &format!("valet_leader{{shard=\"{shard}\"}}")) == 1.0).then_some(())
        });
        operator
    };
    let server = replica(serving, setup.port);
    let port = net::free_port().unwrap();
    let first = replica(other, port);
    let s3 = setup.versitygw(port);
    upload_one(t, &s3);
    let completed = format!("valet_notification_to_completed_seconds_count{{shard=\"{serving}\"}}");
    assert_eq!(
        metric(&server, &completed),
        1.0,
        "the notification completed the upload"
    );
    assert!(notified_shard(&first, other, "relayed") >= 1.0);
    assert_eq!(
        notified_shard(&first, other, "unknown"),
        0.0,
        "the token is not for a store of this shard"
    );

    // A token for all stores concerns both shards. Each shard counts the object that no grant waits for.
    let good = format!("Authorization: Bearer {all}");
    let unknown = notified_shard(&server, serving, "unknown");
    let notification = setup.notification(t.name(), &t.key("nobodys"));
    eventually(SOON, "the tokens to be read", || {
        (setup.post(port, &good, &notification) == 204).then_some(())
    });
    assert_eq!(notified_shard(&first, other, "unknown"), 1.0);
    assert_eq!(notified_shard(&server, serving, "unknown"), unknown + 1.0);

    // Without a leader of the serving shard, the sender must repeat the notification.
    server.kill();
    assert_eq!(setup.post(port, &good, &notification), 503);
    let token = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(setup.post(port, &token, &notification), 503);
    let next = net::free_port().unwrap();
    let _server = replica(serving, next);
    eventually(SOON, "the new leader to receive notifications", || {
        (setup.post(port, &token, &notification) == 204).then_some(())
    });
}
