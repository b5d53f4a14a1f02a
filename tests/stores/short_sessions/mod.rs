//! A test of sessions of 15 minutes, the shortest that STS creates, in real time. Each session is renewed before it
//! expires, and no credential outlives its session. A grant with renewal always has a credential that works. The test
//! also prints what a user sees.

mod watch;

use std::{process::Command, time::Duration};

use jiff::SignedDuration;
use serde_json::{Value, json};
use valet_harness::{eventually, process};

use self::watch::Watch;
use crate::{
    rotation::{Identity, ROLE, trusting},
    world::{SOON, Tenant, says},
};

/// The duration of the test in seconds, longer than the first session and the second renewal.
const LENGTH: u64 = 22 * 60;
/// The pause between two polls of all objects, in seconds.
const PAUSE: u64 = 5;
/// How long before and after its expiry the test tries a credential, in seconds.
const BEFORE: i64 = 4;
const AFTER: i64 = 2;
/// When the test replaces the session that Valet does not renew, in seconds after the start.
const BY_HAND: u64 = 16 * 60;

/// Stores by their sessions: two use the operator's own session from web identity (`quiet` has only grants shorter
/// than its session), one gives each credential its own session, and one has a session in its credentials Secret.
const STORES: [&str; 4] = ["own", "quiet", "each", "byhand"];
/// Grants that must have a working credential at all times.
const LASTING: [&str; 4] = ["own-always", "own-always-long", "each-always", "each-always-long"];
/// Grants with temporary credentials, which must also work at all times.
const TEMPORARY_CREDENTIALS: [&str; 2] = ["each-lent", "each-lent-long"];

impl Watch<'_> {
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

    /// The grants that the test applies at this second.
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
            // The session in the Secret has three minutes left for the first grant, and has expired for the second.
            720 => all.push(self.grant("byhand", "late", json!({"expirationSeconds": 600}))),
            925 => all.push(self.grant("byhand", "none", json!({"expirationSeconds": 600}))),
            _ => {}
        }
        all
    }

    /// Writes a session of 15 minutes to the Secret, as a user's own job would.
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

#[test]
#[ignore = "takes 22 minutes, in real time: make sessions"]
fn sessions_of_15_minutes_are_renewed_in_time() {
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
    let mut watch = Watch::new(&t, &minio);
    println!("| time | object | observation |\n|---|---|---|");
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
        // A slow round covers all seconds since the previous round, so no grant is skipped.
        let grants: Vec<_> = (next..=elapsed).flat_map(|second| watch.due(second)).collect();
        if !grants.is_empty() {
            t.apply(&grants);
        }
        if elapsed / 60 > next.saturating_sub(1) / 60 {
            // The kubelet replaces a token before it expires.
            identity.issue(15);
        }
        if elapsed >= BY_HAND && !by_hand {
            by_hand = true;
            watch.session_by_hand();
        }
        if next == 0 {
            for name in [&LASTING[..], &TEMPORARY_CREDENTIALS].concat() {
                t.mount(name);
            }
        }
        if next == 0 || elapsed / PAUSE > (next - 1) / PAUSE {
            watch.head();
            watch.lasting();
            for name in watch
                .out
                .keys()
                .filter(|n| n.contains("-up-"))
                .cloned()
                .collect::<Vec<_>>()
            {
                // The test uses an upload URL at once, so that the upload completes before the URL expires.
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
    // Valet renews a session when a third of its life is left, and the next resync of the store shows this.
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
    assert_eq!(
        says_of("byhand-none"),
        "True Issued",
        "the grant waited for the new session"
    );
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
