//! Sessions of 15 minutes, the shortest that STS makes, watched in real time over their life and that of the ones after: that
//! each is renewed before its end, that no key outlives the session that signed it, that whoever has a key that is renewed has
//! one that works at all times; and what a user sees of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    rc::Rc,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use valet_harness::{S3Server, eventually, process};

use crate::{
    lent::{Told, run},
    moving::{Identity, ROLE, trusting},
    world::{Mounted, SOON, Tenant, says},
};

/// Beyond the end of the first session and the second renewal.
const LENGTH: u64 = 22 * 60;
/// Between two looks at everything, in seconds.
const PAUSE: u64 = 5;
/// A key is tried this long before its end, and after it, in seconds.
const BEFORE: i64 = 4;
const AFTER: i64 = 2;
/// When the session that nobody renews gives way to a fresh one.
const BY_HAND: u64 = 16 * 60;

/// A store whose sessions are the operator's own, by web identity; another one, of which nobody asks for more than its session
/// has left; one that gives each key a session of its own; one with a session in its Secret.
const STORES: [&str; 4] = ["own", "quiet", "each", "byhand"];
/// Whoever has these must have a key that works at all times.
const LASTING: [&str; 4] = ["own-always", "own-always-long", "each-always", "each-always-long"];
/// The same of credentials that are lent.
const LENT: [&str; 2] = ["each-lent", "each-lent-long"];

/// A key that was published, which is tried around its end.
struct Published {
    name: String,
    key: Rc<Mounted>,
    ends: Timestamp,
    tried_before: bool,
}

struct Watch<'a> {
    t: &'a Tenant,
    minio: &'a S3Server,
    began: Instant,
    /// The same by the clock.
    zero: Timestamp,
    /// What was not as it should be: told at the end, so that the rest is seen, too.
    wrong: Vec<String>,
    /// What was last seen of each object.
    seen: BTreeMap<String, String>,
    /// The keys that are out.
    out: BTreeMap<String, Rc<Mounted>>,
    /// Their ends are still to come.
    ending: Vec<Published>,
    /// The ends of the sessions that signed, by store.
    sessions: BTreeMap<&'static str, BTreeSet<Timestamp>>,
    /// When the session of the quiet store was another one, in seconds after the beginning.
    renewed: BTreeMap<Timestamp, u64>,
    /// Keys published, tried before their end and after.
    counts: [usize; 3],
    /// Every request with a key that had to work.
    worked: usize,
}

impl Watch<'_> {
    fn tell(&self, who: &str, what: &str) {
        println!("| {} | {who} | {what} |", clock(self.began.elapsed()));
    }

    /// An instant, as time since the beginning.
    fn since(&self, t: Timestamp) -> String {
        clock(t.duration_since(self.zero).unsigned_abs())
    }

    /// Notes what is not as it should be.
    fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let what = what();
            self.tell("**wrong**", &what);
            self.wrong.push(what);
        }
    }

    /// Tells what is new about an object.
    fn news(&mut self, name: &str, what: String) {
        if self.seen.get(name) != Some(&what) {
            self.tell(name, &what);
            self.seen.insert(name.to_owned(), what);
        }
    }

    /// Looks at everything once.
    fn look(&mut self) {
        let text = self.t.kubectl(&["get", "ostore,dg,ug,secrets", "--output", "json"]);
        let list: Value = serde_json::from_str(&text).unwrap();
        let mut present = BTreeSet::new();
        for object in list["items"].as_array().unwrap() {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let end = |field: &str| {
                object["status"][field]
                    .as_str()
                    .and_then(|t| t.parse::<Timestamp>().ok())
            };
            match object["kind"].as_str().unwrap() {
                "ObjectStore" => {
                    let session = end("credentialsExpirationTime");
                    if ["own", "quiet"].contains(&name.as_str())
                        && let Some(session) = session
                    {
                        if name == "quiet" {
                            let elapsed = self.began.elapsed().as_secs();
                            self.renewed.entry(session).or_insert(elapsed);
                        }
                        let lasts = session > Timestamp::now();
                        self.must(lasts, || "the session is over and was not renewed".into());
                    }
                    // The end that each key's own session would have moves with every look.
                    let session = session.filter(|_| name != "each");
                    let session = session.map_or("-".to_owned(), |t| self.since(t));
                    self.news(
                        &format!("store {name}"),
                        format!("Ready={}; session until {session}", says(object, "Ready")),
                    );
                }
                "Secret" if object["type"] == "valetkey.dev/grant" => {
                    self.published(&name, object);
                    present.insert(name);
                }
                "Secret" => {}
                _ => {
                    let key = end("expirationTime").map_or("-".to_owned(), |t| self.since(t));
                    let renewals = object["status"]["renewals"].as_i64().unwrap_or_default();
                    let what = format!(
                        "Ready={} Active={} Completed={} RenewalFailing={}; key until {key}, renewed {renewals} times",
                        says(object, "Ready"),
                        says(object, "Active"),
                        says(object, "Completed"),
                        says(object, "RenewalFailing"),
                    );
                    self.news(&format!("grant {name}"), what);
                }
            }
        }
        let gone: Vec<_> = self.out.keys().filter(|n| !present.contains(*n)).cloned().collect();
        for name in gone {
            self.out.remove(&name);
            self.news(&format!("key {name}"), "gone".into());
        }
    }

    /// A key that is new: never longer than the session that signed it.
    fn published(&mut self, name: &str, secret: &Value) {
        let version = secret["metadata"]["resourceVersion"].as_str().unwrap();
        if self.out.get(name).is_some_and(|known| known.folder.ends_with(version)) {
            return;
        }
        let key = Rc::new(self.t.mounted(secret));
        let ends: Timestamp = secret["metadata"]["annotations"]["valetkey.dev/expires-at"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let session = session_end(&key);
        assert!(
            ends <= session,
            "{name}: the key ends at {ends}, its session at {session}"
        );
        let store = STORES.iter().find(|s| name.starts_with(&format!("{s}-"))).unwrap();
        self.sessions.entry(store).or_default().insert(session);
        self.counts[0] += 1;
        self.news(
            &format!("key {name}"),
            format!(
                "until {}, signed by a session until {}",
                self.since(ends),
                self.since(session)
            ),
        );
        self.out.insert(name.to_owned(), key.clone());
        if !key.files.contains_key("AWS_SESSION_TOKEN") {
            if !name.contains("-up") {
                let status = key.curl(&[]).0;
                self.must(status == 200, || {
                    format!("{name}: a key that was just published gives {status}")
                });
            }
            self.ending.push(Published {
                name: name.to_owned(),
                key,
                ends,
                tried_before: name.contains("-up"),
            });
        }
    }

    /// Tries keys around their ends.
    fn ends(&mut self) {
        let mut ending = std::mem::take(&mut self.ending);
        ending.retain_mut(|published| {
            let left = published.ends.duration_since(Timestamp::now()).as_millis();
            if !published.tried_before && left <= i128::from(BEFORE * 1000) {
                published.tried_before = true;
                let (status, said) = published.key.curl(&[]);
                // On a machine that is busy the end may have come meanwhile.
                if Timestamp::now() < published.ends {
                    self.must(status == 200, || {
                        format!("{}, {left} ms before its end: {said}", published.name)
                    });
                    self.counts[1] += 1;
                }
            }
            if left > i128::from(-AFTER * 1000) {
                return true;
            }
            let (status, said) = if published.name.contains("-up") {
                published.key.upload(&self.t.file("late", b"late"))
            } else {
                published.key.curl(&[])
            };
            self.must(status == 403, || {
                format!("{}, after its end: {status} {said}", published.name)
            });
            self.counts[2] += 1;
            false
        });
        ending.append(&mut self.ending);
        self.ending = ending;
    }

    /// Whoever has a key that is renewed has one that works.
    fn lasting(&mut self) {
        for name in LASTING {
            let found = self.out.get(name).map(|key| key.curl(&[]));
            self.must(found.as_ref().is_some_and(|(status, _)| *status == 200), || {
                format!("{name}: {found:?}")
            });
            self.worked += 1;
        }
        let key = self.out.get("byhand-always").cloned();
        let works = key.map_or("no key".to_owned(), |key| format!("a GET gives {}", key.curl(&[]).0));
        self.news("use byhand-always", works);
    }

    /// The same of what is lent, which can do nothing else.
    fn lent(&mut self) {
        let at = json!({"Bucket": self.t.name(), "Key": self.t.key("film")});
        let mut put = at.clone();
        put["Body"] = json!("mine");
        for name in LENT {
            let key = self
                .out
                .get(name)
                .unwrap_or_else(|| panic!("{name} has no key"))
                .clone();
            let did = run(
                self.t,
                &key,
                Told::Variables,
                &json!([["get_object", at], ["put_object", put]]),
            );
            let right = did[0]["ok"]["Body"] == "frames" && did[1]["error"] == "AccessDenied";
            self.must(right, || format!("{name}: {did:?}"));
            self.worked += 1;
        }
    }

    fn grant(&self, store: &str, name: &str, spec: Value) -> Value {
        let kind = if name.starts_with("up") {
            "UploadGrant"
        } else {
            "DownloadGrant"
        };
        let name = format!("{store}-{name}");
        let mut all = json!({
            "storeRef": {"kind": "ObjectStore", "name": store}, "constraints": {"overwrite": "Allow"}, "key": self.t.key(&name),
        });
        if kind == "DownloadGrant" {
            all.as_object_mut().unwrap().remove("constraints");
            all["key"] = json!(self.t.key("film"));
        }
        crate::world::merge(&mut all, spec);
        self.t.grant(kind, &name, all)
    }

    /// What is applied in this many seconds after the beginning.
    fn due(&self, second: u64) -> Vec<Value> {
        let mut all = Vec::new();
        let lives = [60, 120, 300, 600];
        let at = |n: u64| json!({"expirationSeconds": lives[usize::try_from(n).unwrap() % lives.len()]});
        if second.is_multiple_of(30) {
            let n = second / 30;
            all.push(self.grant("own", &format!("{second}"), at(n)));
            if n % 4 == 2 {
                all.push(self.grant("quiet", &format!("{second}"), json!({"expirationSeconds": 60})));
            }
            if n.is_multiple_of(2) {
                all.push(self.grant("each", &format!("{second}"), at(n / 2)));
            }
            if n % 6 == 3 {
                all.push(self.grant("own", &format!("up-{second}"), at(n / 6)));
                all.push(self.grant("each", &format!("up-{second}"), at(n / 6)));
            }
        }
        match second {
            0 => {
                for store in ["own", "each"] {
                    for (name, seconds) in [("always", 600), ("always-long", 3600)] {
                        let spec = json!({"expirationSeconds": seconds, "renewal": {"policy": "Always"}});
                        all.push(self.grant(store, name, spec));
                    }
                }
                for (name, seconds) in [("lent", 600), ("lent-long", 3600)] {
                    let spec = json!({
                        "expirationSeconds": seconds, "mode": "Credentials", "renewal": {"policy": "Always"},
                    });
                    all.push(self.grant("each", name, spec));
                }
                let always = json!({"expirationSeconds": 600, "renewal": {"policy": "Always"}});
                all.push(self.grant("byhand", "always", always));
                for store in ["own", "each", "byhand"] {
                    all.push(self.grant(store, "long", json!({"expirationSeconds": 3600})));
                }
            }
            // Three minutes are left, and none, and then there is a fresh one.
            720 => all.push(self.grant("byhand", "late", json!({"expirationSeconds": 600}))),
            925 => all.push(self.grant("byhand", "none", json!({"expirationSeconds": 600}))),
            _ => {}
        }
        all
    }

    /// Puts a session of 15 minutes into the Secret, as somebody's own job does.
    fn session_by_hand(&self) {
        let mut command = process::clean(Command::new("curl"));
        command
            .args(["--silent", "--fail", "--aws-sigv4", "aws:amz:us-east-1:sts", "--user"])
            .arg(format!("{}:{}", self.minio.access_key(), self.minio.secret_key()))
            .args(["--data", "Action=AssumeRole&Version=2011-06-15&DurationSeconds=900"])
            .arg(self.minio.endpoint());
        let answer = process::run_ok(command, b"", SOON).unwrap().text();
        let of = |tag: &str| {
            let (_, rest) = answer.split_once(&format!("<{tag}>")).expect(tag);
            rest.split_once('<').unwrap().0.to_owned()
        };
        self.t.apply(&[json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "session", "namespace": self.t.name()},
            "stringData": {
                "AWS_ACCESS_KEY_ID": of("AccessKeyId"), "AWS_SECRET_ACCESS_KEY": of("SecretAccessKey"),
                "AWS_SESSION_TOKEN": of("SessionToken"), "AWS_CREDENTIAL_EXPIRATION": of("Expiration"),
            },
        })]);
        self.tell("the Secret of byhand", "a fresh session of 15 minutes");
    }
}

fn clock(t: Duration) -> String {
    format!("{}:{:02}", t.as_secs() / 60, t.as_secs() % 60)
}

/// When the session ends by the word of the store, which is in the token that it gave.
fn session_end(key: &Mounted) -> Timestamp {
    let token = key.files.get("AWS_SESSION_TOKEN").cloned().unwrap_or_else(|| {
        let (_, rest) = key.files["url"]
            .split_once("X-Amz-Security-Token=")
            .expect("a session signed");
        rest.split('&').next().unwrap().to_owned()
    });
    let claims = token.split('.').nth(1).expect("MinIO's tokens are JWTs");
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    Timestamp::from_second(claims["exp"].as_i64().expect("it says when it ends")).unwrap()
}

#[test]
#[ignore = "takes 22 minutes, in real time: make sessions"]
fn sessions_of_15_minutes() {
    let t = Tenant::new("fifteen");
    let minio = trusting(&t);
    minio.put(t.name(), &t.key("film"), b"frames").unwrap();
    t.kubectl(&["create", "serviceaccount", "valet"]);
    let identity = Identity {
        t: &t,
        token: t.file("token", b""),
    };
    identity.issue(15);
    let operator = identity.operator(ROLE, minio.endpoint());
    let store = |name: &str, credentials: Value| {
        json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ObjectStore", "metadata": {"name": name, "namespace": t.name()},
            "spec": {"s3": {
                "bucket": t.name(), "region": minio.region(), "endpoint": minio.endpoint(), "addressingStyle": "Path",
                "unsignedHeaders": "Tolerate", "credentials": credentials,
            }},
        })
    };
    let mut root = t.credentials(minio.access_key(), minio.secret_key());
    root["metadata"]["namespace"] = json!(t.name());
    let by_web_identity = |name: &str| {
        let mut store = store(name, Value::Null);
        store["spec"]["s3"].as_object_mut().unwrap().remove("credentials");
        store
    };
    let mut watch = Watch {
        t: &t,
        minio: &minio,
        began: Instant::now(),
        zero: Timestamp::now(),
        wrong: Vec::new(),
        seen: BTreeMap::new(),
        out: BTreeMap::new(),
        ending: Vec::new(),
        sessions: BTreeMap::new(),
        renewed: BTreeMap::new(),
        counts: [0; 3],
        worked: 0,
    };
    println!("| at | of | what is seen |\n|---|---|---|");
    watch.session_by_hand();
    t.apply(&[
        root,
        by_web_identity("own"),
        by_web_identity("quiet"),
        store(
            "each",
            json!({"secretRef": {"name": t.name()}, "assumeRole": {"durationSeconds": 900}}),
        ),
        store("byhand", json!({"secretRef": {"name": "session"}})),
    ]);
    for name in STORES {
        eventually(SOON, "the stores to be ready", || {
            t.get(&format!("ostore/{name}"))
                .filter(|s| says(s, "Ready") == "True Ready")
        });
    }
    let mut next = 0;
    let mut by_hand = false;
    loop {
        let elapsed = watch.began.elapsed().as_secs();
        // Nothing is left out where a round took longer than a second.
        let grants: Vec<_> = (next..=elapsed).flat_map(|second| watch.due(second)).collect();
        if !grants.is_empty() {
            t.apply(&grants);
        }
        if elapsed / 60 > next.saturating_sub(1) / 60 {
            // As the kubelet does in time.
            identity.issue(15);
        }
        if elapsed >= BY_HAND && !by_hand {
            by_hand = true;
            watch.session_by_hand();
        }
        if next == 0 {
            for name in [&LASTING[..], &LENT].concat() {
                t.mount(name);
            }
        }
        if next == 0 || elapsed / PAUSE > (next - 1) / PAUSE {
            watch.look();
            watch.lasting();
            for name in watch
                .out
                .keys()
                .filter(|n| n.contains("-up-"))
                .cloned()
                .collect::<Vec<_>>()
            {
                // At once, so that it is seen.
                let key = watch.out.remove(&name).unwrap();
                if watch.seen.insert(format!("use {name}"), "uploaded".into()).is_none() {
                    let status = key.upload(&t.file("frames", b"frames")).0;
                    watch.must(status == 200, || format!("{name}: {status}"));
                }
                watch.out.insert(name, key);
            }
        }
        if next == 0 || elapsed / 60 > (next - 1) / 60 {
            watch.lent();
        }
        watch.ends();
        next = elapsed + 1;
        if elapsed >= LENGTH {
            break;
        }
        while watch.began.elapsed().as_secs() < next {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    let [published, before, after] = watch.counts;
    println!(
        "{published} keys published; {before} worked {BEFORE} s before their end, {after} did not {AFTER} s after it; {} requests with keys that \
         are renewed, all of which worked; sessions of own: {}",
        watch.worked,
        watch.sessions["own"].len()
    );
    assert!(watch.wrong.is_empty(), "{:#?}", watch.wrong);
    assert!(published > 80 && before > 50 && after > 50);
    let own: Vec<_> = watch.sessions["own"].iter().copied().collect();
    assert!(own.len() >= 3, "{own:?}");
    let longest = SignedDuration::from_secs(900);
    assert!(own.windows(2).all(|w| w[1].duration_since(w[0]) < longest), "{own:?}");
    // By itself a session is renewed when a third of it is left, and that is seen at the store's sweep.
    let renewed: Vec<_> = watch.renewed.values().copied().collect();
    assert!(renewed.len() >= 3, "{renewed:?}");
    assert!(
        renewed.windows(2).all(|w| (540..=680).contains(&(w[1] - w[0]))),
        "{renewed:?}"
    );
    assert_eq!(watch.sessions["byhand"].len(), 2);
    let says_of = |name: &str| says(&t.get(&format!("dg/{name}")).unwrap(), "Ready");
    for name in LASTING {
        let grant = t.get(&format!("dg/{name}")).unwrap();
        assert!(grant["status"]["renewals"].as_i64().unwrap() >= 2, "{name}");
    }
    assert_eq!(says_of("byhand-none"), "True Issued", "it waited for the fresh session");
    assert_eq!(says_of("byhand-always"), "True Issued");
    assert!(!operator.log_text().contains("X-Amz-Security-Token"));
    for line in operator
        .log_text()
        .lines()
        .filter(|l| l.contains("\"WARN\"") || l.contains("\"ERROR\""))
    {
        println!("logged: {line}");
    }
}
