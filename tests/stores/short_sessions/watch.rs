//! What the test observes, and the conditions that must hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};
use valet_harness::S3Server;

use super::{AFTER, BEFORE, LASTING, STORES, TEMPORARY_CREDENTIALS};
use crate::{
    temporary_credentials::{Input, run},
    world::{Mounted, Tenant, says},
};

/// A published credential that the test tries before and after its expiry.
struct Published {
    name: String,
    key: Rc<Mounted>,
    ends: Timestamp,
    tried_before: bool,
}

pub struct Watch<'a> {
    pub t: &'a Tenant,
    pub minio: &'a S3Server,
    pub began: Instant,
    /// The wall-clock time of `began`.
    pub zero: Timestamp,
    /// Failed conditions. The test reports them at the end, so that it observes everything.
    pub wrong: Vec<String>,
    /// The last observed state of each object.
    pub seen: BTreeMap<String, String>,
    /// The mounted credentials that are issued now.
    pub out: BTreeMap<String, Rc<Mounted>>,
    /// Published credentials whose expiry is not tested yet.
    ending: Vec<Published>,
    /// The expiry times of the sessions that signed credentials, by store.
    pub sessions: BTreeMap<&'static str, BTreeSet<Timestamp>>,
    /// The seconds after the start at which each session of store `quiet` was first seen.
    pub renewed: BTreeMap<Timestamp, u64>,
    /// The numbers of credentials published, tried before expiry, and tried after expiry.
    pub counts: [usize; 3],
    /// The number of requests with credentials that must always work.
    pub worked: usize,
}

impl<'a> Watch<'a> {
    pub fn new(t: &'a Tenant, minio: &'a S3Server) -> Self {
        Self {
            t,
            minio,
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
        }
    }

    pub fn tell(&self, who: &str, what: &str) {
        println!("| {} | {who} | {what} |", clock(self.began.elapsed()));
    }

    /// Formats a time as the duration since the start.
    fn since(&self, t: Timestamp) -> String {
        clock(t.duration_since(self.zero).unsigned_abs())
    }

    /// Records a failed condition.
    pub fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let what = what();
            self.tell("**wrong**", &what);
            self.wrong.push(what);
        }
    }

    /// Prints the state of an object if it changed.
    fn news(&mut self, name: &str, what: String) {
        if self.seen.get(name) != Some(&what) {
            self.tell(name, &what);
            self.seen.insert(name.to_owned(), what);
        }
    }

    /// Polls all objects once.
    pub fn head(&mut self) {
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
                        self.must(lasts, || "the session has expired and was not renewed".into());
                    }
                    // In store `each` every credential has its own session, so the expiry would change with each
                    // poll.
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
                        "Ready={} Active={} Completed={} RenewalFailing={}; credential until {key}, renewed {renewals} times",
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
            self.news(&format!("credential {name}"), "gone".into());
        }
    }

    /// Records a new credential, and checks that it does not outlive the session that signed it.
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
            "{name}: the credential expires at {ends}, its session at {session}"
        );
        let store = STORES.iter().find(|s| name.starts_with(&format!("{s}-"))).unwrap();
        self.sessions.entry(store).or_default().insert(session);
        self.counts[0] += 1;
        self.news(
            &format!("credential {name}"),
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
                    format!("{name}: a credential that was just published gives {status}")
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

    /// Tries credentials shortly before and after their expiry.
    pub fn ends(&mut self) {
        let mut ending = std::mem::take(&mut self.ending);
        ending.retain_mut(|published| {
            let left = published.ends.duration_since(Timestamp::now()).as_millis();
            if !published.tried_before && left <= i128::from(BEFORE * 1000) {
                published.tried_before = true;
                let (status, said) = published.key.curl(&[]);
                // On a busy machine the credential may have expired during the request.
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

    /// Checks that every grant with renewal has a credential that works.
    pub fn lasting(&mut self) {
        for name in LASTING {
            let found = self.out.get(name).map(|key| key.curl(&[]));
            self.must(found.as_ref().is_some_and(|(status, _)| *status == 200), || {
                format!("{name}: {found:?}")
            });
            self.worked += 1;
        }
        let key = self.out.get("byhand-always").cloned();
        let works = key.map_or("no credential".to_owned(), |key| {
            format!("a GET gives {}", key.curl(&[]).0)
        });
        self.news("use byhand-always", works);
    }

    /// Checks that the temporary credentials with renewal work, and that they allow nothing else.
    pub fn lent(&mut self) {
        let at = json!({"Bucket": self.t.name(), "Key": self.t.key("film")});
        let mut put = at.clone();
        put["Body"] = json!("mine");
        for name in TEMPORARY_CREDENTIALS {
            let key = self
                .out
                .get(name)
                .unwrap_or_else(|| panic!("{name} has no credential"))
                .clone();
            let did = run(
                self.t,
                &key,
                Input::Variables,
                &json!([["get_object", at], ["put_object", put]]),
            );
            let right = did[0]["ok"]["Body"] == "frames" && did[1]["error"] == "AccessDenied";
            self.must(right, || format!("{name}: {did:?}"));
            self.worked += 1;
        }
    }
}

fn clock(t: Duration) -> String {
    format!("{}:{:02}", t.as_secs() / 60, t.as_secs() % 60)
}

/// The session's expiry time according to the store, from the session token.
fn session_end(key: &Mounted) -> Timestamp {
    let token = key.files.get("AWS_SESSION_TOKEN").cloned().unwrap_or_else(|| {
        let (_, rest) = key.files["url"]
            .split_once("X-Amz-Security-Token=")
            .expect("a session signed");
        rest.split('&').next().unwrap().to_owned()
    });
    let claims = token.split('.').nth(1).expect("MinIO's tokens are JWTs");
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    Timestamp::from_second(claims["exp"].as_i64().expect("it has an expiry")).unwrap()
}
