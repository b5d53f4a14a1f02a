//! Tests of the conformance check. A proxy in front of the store counts the requests, and answers some of them
//! wrongly where a test needs a store that does not conform.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use valet_harness::eventually;

use crate::world::{SOON, Tenant, condition, says};

/// Method and path of a request.
type Line = (String, String);

/// Returns the status that the proxy answers with, or `None` to forward the request to the store.
type FakeAnswer = fn(&Line, &[Line]) -> Option<u16>;

/// Starts a proxy in front of the S3 server. Returns its port and the list of requests that it received.
fn proxy(t: &Tenant, fake_answer: FakeAnswer) -> (u16, Arc<Mutex<Vec<Line>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it has an address").port();
    let (to, log) = (t.world.s3.port(), Arc::new(Mutex::new(Vec::new())));
    let seen = log.clone();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let log = log.clone();
            thread::spawn(move || pass_on(connection, to, fake_answer, &log));
        }
    });
    (port, seen)
}

fn pass_on(mut client: TcpStream, to: u16, fake_answer: FakeAnswer, log: &Mutex<Vec<Line>>) -> Option<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        let n = client.read(&mut buffer).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let length = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap_or(0));
    while bytes.len() < head + length {
        let n = client.read(&mut buffer).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
    }
    let mut words = text.split_whitespace();
    let method = words.next()?.to_owned();
    let path = words.next()?.split('?').next()?.to_owned();
    let line = (method, path);
    let answer = {
        let mut log = log.lock().unwrap();
        let answer = fake_answer(&line, &log);
        log.push(line);
        answer
    };
    if let Some(status) = answer {
        let text = format!("HTTP/1.1 {status} So\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return client.write_all(text.as_bytes()).ok();
    }
    let mut server = TcpStream::connect(("127.0.0.1", to)).ok()?;
    let first = text.find("\r\n")? + 2;
    server.write_all(&bytes[..first]).ok()?;
    server.write_all(b"connection: close\r\n").ok()?;
    server.write_all(&bytes[first..]).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    client.write_all(&answer).ok()
}

fn through(t: &Tenant, port: u16, asked_at: &str) -> Value {
    let mut store = t.store();
    store["spec"]["s3"]["endpoint"] = json!(format!("http://127.0.0.1:{port}"));
    // The URLs of grants lead directly to the store, not through the proxy.
    store["spec"]["s3"]["publicEndpoint"] = json!(t.world.s3.endpoint());
    store["spec"]["s3"]["probeKey"] = json!("tenants/probe");
    store["metadata"]["annotations"] = json!({"valetkey.dev/check-requested-at": asked_at});
    store
}

/// The conformance checks in the log, with the number of object requests of each. POST forms go to the bucket's URL
/// and are not counted.
fn requests_by_check(log: &Mutex<Vec<Line>>) -> BTreeMap<String, usize> {
    let mut requests_by_check = BTreeMap::new();
    for (_, path) in log.lock().unwrap().iter() {
        if let Some((_, rest)) = path.split_once("/probe/check-") {
            let id = rest.split('/').next().unwrap_or_default();
            *requests_by_check.entry(id.to_owned()).or_default() += 1;
        }
    }
    requests_by_check
}

fn message<'a>(object: &'a Value, type_: &str) -> &'a str {
    condition(object, type_)
        .and_then(|c| c["message"].as_str())
        .unwrap_or_default()
}

/// A store that conforms gets `ConstraintsEnforced` True, and no object of the check stays. With 100 grants Valet still
/// makes only one check.
#[test]
fn conformance_check_of_conforming_store_passes_and_runs_once() {
    let t = Tenant::new("check");
    let (port, log) = proxy(&t, |_, _| None);
    t.apply(&[through(&t, port, "2026-01-01T00:00:00Z")]);
    let grants: Vec<_> = (0..100)
        .map(|n| t.grant("UploadGrant", &format!("g{n}"), json!({})))
        .collect();
    t.apply(&grants);
    let operator = t.operator();
    let store = t.answered("2026-01-01T00:00:00Z");
    assert_eq!(
        says(&store, "ConstraintsEnforced"),
        "True ConstraintsEnforced",
        "{}",
        store["status"]
    );
    let said = message(&store, "ConstraintsEnforced");
    for promise in [
        "WriteOnce",
        "ChecksumSHA256",
        "ChecksumMD5",
        "PostForm/ContentLengthRange",
        "expiry, signature and object key of signed GET requests",
        "expiry, signature and object key of signed UploadPart requests",
        "Multipart/ContentLength",
        "Multipart/WriteOnce",
    ] {
        assert!(said.contains(promise), "{promise}: {said}");
    }
    let not_probed: Vec<_> = said.split("; not tested: ").skip(1).collect();
    assert_eq!(
        not_probed,
        ["Version, Multipart/ContentType, Multipart/ContentLengthRange"],
        "{said}"
    );
    for n in 0..100 {
        t.reason(&format!("ug/g{n}"), "Issued");
    }
    let first = requests_by_check(&log);
    assert_eq!(first.len(), 1, "{first:#?}");
    assert!(first.values().all(|requests| (30..45).contains(requests)), "{first:#?}");
    let nothing_is_left = || {
        let left = t.world.s3.versions(t.name(), "tenants/probe").unwrap();
        assert!(left.is_empty(), "{left:#?}");
    };
    nothing_is_left();

    // A new request starts a new check. In a bucket with versioning, no version stays either.
    let settings = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                    <Status>Enabled</Status></VersioningConfiguration>";
    let versioning = [("versioning", "")];
    let s3 = &t.world.s3;
    s3.request("PUT", t.name(), "", &versioning, &[], settings.as_bytes())
        .unwrap()
        .ok()
        .unwrap();
    t.kubectl(&[
        "annotate",
        "--overwrite",
        &format!("costore/{}", t.name()),
        "valetkey.dev/check-requested-at=again",
    ]);
    t.answered("again");
    assert_eq!(requests_by_check(&log).len(), 2);
    nothing_is_left();
    // After the annotation is removed, the store no longer reports a result of the check.
    t.kubectl(&[
        "annotate",
        &format!("costore/{}", t.name()),
        "valetkey.dev/check-requested-at-",
    ]);
    eventually(SOON, "the result of the conformance check to be removed", || {
        let store = t.get(&format!("costore/{}", t.name()))?;
        (store["status"]["conformanceCheck"].is_null() && says(&store, "ConstraintsEnforced").is_empty())
            .then_some(())
    });
    let log_text = operator.log_text();
    assert!(!log_text.contains("X-Amz-Signature"), "a credential was logged");
}

/// If the store does not enforce write-once, grants that need it get `CapabilityMissing`, also a grant that already
/// has a credential. Other grants are still issued.
#[test]
fn write_once_grant_is_refused_if_store_allows_overwrite() {
    let t = Tenant::new("forgetful");
    let (port, _) = proxy(&t, |line, before| {
        let (method, path) = line;
        let times = before.iter().filter(|b| *b == line).count();
        let again = method == "PUT" && path.ends_with("/put") && times > 0;
        // The third PUT to this path sends a part that is too long for its URL. The proxy accepts this part.
        let parts = method == "PUT" && path.ends_with("/parts") && times == 2;
        (again || parts || method == "PUT" && path.ends_with("/md5")).then_some(200)
    });
    let mut cheap = through(&t, port, "");
    cheap["metadata"].as_object_mut().unwrap().remove("annotations");
    t.apply(&[cheap]);
    let _operator = t.operator();
    t.apply(&[t.grant("UploadGrant", "once", json!({}))]);
    t.reason("ug/once", "Issued");
    t.apply(&[through(&t, port, "now")]);
    let store = t.answered("now");
    assert_eq!(says(&store, "ConstraintsEnforced"), "False ConstraintsNotEnforced");
    assert!(
        message(&store, "ConstraintsEnforced")
            .contains("does not enforce WriteOnce, ChecksumMD5, Multipart/ContentLength;"),
        "{store:#}"
    );
    assert_eq!(says(&store, "Ready"), "True Ready");
    let named = |name: &str| {
        store["status"]["capabilities"]
            .as_array()
            .unwrap()
            .contains(&json!(name))
    };
    assert!(!named("WriteOnce") && !named("ChecksumMD5") && named("ChecksumSHA256") && named("ContentType"));
    assert!(!named("Multipart/ContentLength") && named("Multipart/ContentType") && named("ContentLength"));
    let grant = t.reason("ug/once", "CapabilityMissing");
    assert!(message(&grant, "Ready").contains("(WriteOnce)"), "{grant:#}");
    t.gone("once");
    t.apply(&[t.grant("UploadGrant", "again", json!({"constraints": {"overwrite": "Allow"}}))]);
    t.reason("ug/again", "Issued");
    let md5 = json!({"constraints": {"overwrite": "Allow", "checksumMD5": "XUFAKrxLKna5cZ2REBfFkg=="}});
    t.apply(&[t.grant("UploadGrant", "md5", md5)]);
    let grant = t.reason("ug/md5", "CapabilityMissing");
    assert!(
        message(&grant, "Ready").contains("set spec.constraints.checksumSHA256 instead"),
        "{grant:#}"
    );
}

/// If the store accepts an expired credential, the store is not ready, and Valet deletes the Secrets that it issued.
#[test]
fn store_that_accepts_expired_credentials_is_not_ready() {
    let t = Tenant::new("timeless");
    let (port, _) = proxy(&t, |(method, path), _| {
        (method == "PUT" && path.ends_with("/put-x")).then_some(200)
    });
    let mut store = through(&t, port, "now");
    let annotations = store["metadata"]["annotations"].take();
    t.apply(&[store.clone(), t.grant("DownloadGrant", "g", json!({}))]);
    let _operator = t.operator();
    t.reason("dg/g", "Issued");
    store["metadata"]["annotations"] = annotations;
    t.apply(&[store]);
    let store = t.answered("now");
    assert_eq!(says(&store, "Ready"), "False ConstraintsNotEnforced");
    assert_eq!(t.kstatus(&store), "Failed");
    assert!(
        message(&store, "Ready")
            .contains("a PUT request after the credential has expired, and answers with status 200"),
        "{store:#}"
    );
    let grant = t.reason("dg/g", "ConstraintsNotEnforced");
    assert_eq!(t.kstatus(&grant), "Failed");
    assert!(
        t.get("secret/g").is_none(),
        "the Secret of the issued credential is deleted"
    );
}

/// If the credentials must not write below the probe key, the check reports `NotObservable` and grants are still
/// issued. If the check cannot delete its objects, the condition reports it.
#[test]
fn conformance_check_without_write_permission_is_not_observable() {
    let t = Tenant::new("narrow");
    let s3 = &t.world.s3;
    let user = format!("narrow-{}", t.name());
    s3.create_user(&user, "narrowsecret").unwrap();
    let allow = |action: &str, below: &str| {
        let (resource, user) = (format!("arn:aws:s3:::{}/{below}", t.name()), user.clone());
        json!({"Effect": "Allow", "Principal": {"AWS": [user]}, "Action": [action], "Resource": [resource]})
    };
    let policy = |statements: Value| json!({"Version": "2012-10-17", "Statement": statements});
    let grants = format!("tenants/{}/*", t.name());
    s3.put_bucket_policy(
        t.name(),
        &policy(json!([allow("s3:PutObject", &grants), allow("s3:GetObject", &grants)])),
    )
    .unwrap();
    let (port, _) = proxy(&t, |_, _| None);
    t.apply(&[t.credentials(&user, "narrowsecret"), through(&t, port, "one")]);
    let _operator = t.operator();
    let store = t.answered("one");
    assert_eq!(
        says(&store, "ConstraintsEnforced"),
        "Unknown NotObservable",
        "{}",
        store["status"]
    );
    assert!(
        message(&store, "ConstraintsEnforced").contains("allow the credentials to write objects under this prefix"),
        "{store:#}"
    );
    t.apply(&[t.grant("DownloadGrant", "g", json!({}))]);
    t.reason("dg/g", "Issued");

    let probe = "tenants/probe/*";
    let more = json!([
        allow("s3:PutObject", &grants),
        allow("s3:GetObject", &grants),
        allow("s3:PutObject", probe),
        allow("s3:GetObject", probe)
    ]);
    s3.put_bucket_policy(t.name(), &policy(more)).unwrap();
    t.apply(&[through(&t, port, "two")]);
    let store = t.answered("two");
    // versitygw rejects POST forms of a user who must not write to the whole bucket.
    assert_eq!(
        says(&store, "ConstraintsEnforced"),
        "False ConstraintsNotEnforced",
        "{}",
        store["status"]
    );
    let said = message(&store, "ConstraintsEnforced");
    assert!(
        said.contains("does not enforce PostForm;") && said.contains("answered status 403"),
        "{said}"
    );
    assert!(
        message(&store, "ConstraintsEnforced").contains("could not be deleted"),
        "{store:#}"
    );
    thread::sleep(Duration::from_millis(500));
    assert!(!s3.versions(t.name(), "tenants/probe").unwrap().is_empty());
}
