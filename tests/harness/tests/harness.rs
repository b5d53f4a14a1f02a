//! The harness itself: that the servers are real, and that nothing of them stays.

use std::{fs, path::Path, process::Command, sync::LazyLock, thread, time::Duration};

use serde_json::{Value, json};
use valet_harness::{
    ControlPlane, ControlPlaneOptions, FormCheck, Process, S3Server, Scratch, Tools, UrlCheck, eventually, kstatus,
    process, verify, verify_form, verify_url, verify_urls,
};

/// For what has no timer of its own, on a machine however busy.
const SOON: Duration = Duration::from_secs(60);

static TOOLS: LazyLock<Tools> = LazyLock::new(|| Tools::locate().unwrap());

/// A kind of its own, so that the tests see what happens to kinds that are not Kubernetes' own.
const CRD: &str = r#"{
  "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
  "metadata": {"name": "things.harness.test"},
  "spec": {
    "group": "harness.test", "scope": "Namespaced",
    "names": {"kind": "Thing", "plural": "things", "singular": "thing", "shortNames": ["th"], "categories": ["valet"]},
    "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
      "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]
  }
}"#;

static CLUSTER: LazyLock<ControlPlane> = LazyLock::new(|| {
    let options = ControlPlaneOptions {
        manifests: vec![CRD.into()],
        ..ControlPlaneOptions::default()
    };
    let cluster = ControlPlane::start_with(&TOOLS, options).unwrap();
    println!("control plane started in {:?}", cluster.started_in());
    cluster
});

static STORE: LazyLock<S3Server> = LazyLock::new(|| {
    let store = S3Server::start(&TOOLS).unwrap();
    println!("S3 server started in {:?}", store.started_in());
    store
});

/// A Secret that belongs to a Thing.
fn owner_and_secret(namespace: &str) {
    CLUSTER
        .apply(&json!({"apiVersion": "harness.test/v1", "kind": "Thing", "metadata": {"name": "owner", "namespace": namespace}}).to_string())
        .unwrap();
    let owner = CLUSTER
        .kubectl_json(&["get", "th", "owner", "--namespace", namespace])
        .unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "stringData": {"url": "https://example.com"},
        "metadata": {"name": "owned", "namespace": namespace, "ownerReferences": [{
            "apiVersion": "harness.test/v1", "kind": "Thing", "name": "owner", "controller": true,
            "uid": owner["metadata"]["uid"],
        }]},
    });
    CLUSTER.apply(&secret.to_string()).unwrap();
}

fn secret_exists(namespace: &str) -> bool {
    CLUSTER
        .kubectl(&[
            "get",
            "secret",
            "owned",
            "--namespace",
            namespace,
            "--ignore-not-found",
            "--output",
            "name",
        ])
        .unwrap()
        .contains("owned")
}

#[test]
fn what_is_owned_goes_with_its_owner_and_a_namespace_goes_whole() {
    let namespace = CLUSTER.namespace("gc").unwrap();
    owner_and_secret(namespace.name());
    assert!(secret_exists(namespace.name()));
    assert!(namespace.dump().contains("kind: Thing"), "{}", namespace.dump());

    CLUSTER
        .kubectl(&["delete", "th", "owner", "--namespace", namespace.name()])
        .unwrap();
    eventually(SOON, "the owned Secret to go", || {
        (!secret_exists(namespace.name())).then_some(())
    });
    CLUSTER
        .kubectl(&["delete", "namespace", namespace.name(), "--timeout=60s"])
        .unwrap();
}

#[test]
fn the_audit_log_tells_who_did_what() {
    let namespace = CLUSTER.namespace("audit").unwrap();
    let mark = CLUSTER.audit_mark().unwrap();
    let mut command = CLUSTER.kubectl_command(CLUSTER.operator_kubeconfig());
    command.args(["create", "secret", "generic", "a", "--namespace", namespace.name()]);
    process::run_ok(command, &[], SOON).unwrap();
    CLUSTER
        .kubectl(&["get", "secret", "a", "--namespace", namespace.name()])
        .unwrap();
    let lines = eventually(SOON, "both requests in the audit log", || {
        let events = CLUSTER.audit_since(mark).unwrap();
        let mine = events.iter().filter(|event| event.namespace() == namespace.name());
        let lines: Vec<_> = mine
            .filter(|event| event.resource() == "secrets")
            .map(ToString::to_string)
            .collect();
        (lines.len() == 2).then_some(lines)
    });
    let name = namespace.name();
    assert_eq!(
        lines,
        [
            format!("valet-operator create secrets {name}/a 201"),
            format!("valet-test-admin get secrets {name}/a 200"),
        ]
    );
}

#[test]
fn a_service_account_has_the_rights_of_its_role_and_no_others() {
    let namespace = CLUSTER.namespace("rbac").unwrap();
    let name = namespace.name();
    CLUSTER
        .kubectl(&["create", "serviceaccount", "reader", "--namespace", name])
        .unwrap();
    CLUSTER
        .kubectl(&[
            "create",
            "role",
            "reader",
            "--verb=list",
            "--resource=configmaps",
            "--namespace",
            name,
        ])
        .unwrap();
    let account = format!("--serviceaccount={name}:reader");
    CLUSTER
        .kubectl(&[
            "create",
            "rolebinding",
            "reader",
            "--role=reader",
            &account,
            "--namespace",
            name,
        ])
        .unwrap();
    let token = CLUSTER.service_account_token(name, "reader").unwrap();
    let kubeconfig = CLUSTER.kubeconfig_for_token(&token).unwrap();
    let get = |what: &str| {
        let mut command = CLUSTER.kubectl_command(&kubeconfig);
        command.args(["get", what, "--namespace", name]);
        process::run(command, &[], SOON).unwrap()
    };
    eventually(SOON, "the role to be known", || {
        get("configmaps").status.success().then_some(())
    });
    let refused = get("secrets");
    assert!(refused.stderr.contains("Forbidden"), "{}", refused.stderr);
}

#[test]
fn kubectl_says_what_the_apiserver_said() {
    let error = CLUSTER
        .apply("{apiVersion: v1, kind: Secret, metadata: {name: UPPER}}")
        .unwrap_err();
    assert!(error.to_string().contains("lowercase RFC 1123"), "{error}");
}

#[test]
fn the_apiserver_has_metrics() {
    assert!(CLUSTER.metrics().unwrap().contains("apiserver_request_total"));
}

/// On a control plane of its own, since nobody else would like it.
#[test]
fn an_apiserver_comes_back_where_it_was_and_remembers() {
    let cluster = ControlPlane::start(&TOOLS).unwrap();
    cluster.kubectl(&["create", "namespace", "before"]).unwrap();
    cluster.stop_apiserver();
    let error = cluster.kubectl(&["get", "namespaces"]).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    cluster.start_apiserver().unwrap();
    cluster.kubectl(&["get", "namespace", "before"]).unwrap();

    cluster.pause_apiserver();
    let error = cluster
        .kubectl(&["get", "namespaces", "--request-timeout=1s"])
        .unwrap_err();
    assert!(error.to_string().contains("imeout"), "{error}");
    cluster.resume_apiserver();
    cluster.restart_controller_manager().unwrap();
    let events = cluster.audit().unwrap();
    let made = events
        .iter()
        .filter(|event| event.verb() == "create" && event.name() == "before");
    assert_eq!(made.count(), 1, "the log goes on after a restart");

    let folder = cluster.scratch().path().to_owned();
    assert!(folder.exists());
    drop(cluster);
    // Unless another test of this process has failed, which keeps the logs.
    assert!(!folder.exists() || folder.join("kube-apiserver.log").exists());
}

#[test]
fn the_store_keeps_bytes_and_versions_under_any_name() {
    STORE.create_versioned_bucket("versioned").unwrap();
    for key in [
        "plain",
        "a b+c%2F&=?#",
        "ü/日本/\u{1f511}",
        "tenants/web/it's (1)!*~.txt",
    ] {
        STORE.put("versioned", key, b"one").unwrap();
        let second = STORE.put("versioned", key, b"second").unwrap();
        assert_eq!(
            STORE.get("versioned", key).unwrap().as_deref(),
            Some(&b"second"[..]),
            "{key}"
        );
        let versions = STORE.versions("versioned", key).unwrap();
        let sizes: Vec<u64> = versions.iter().map(|version| version.size).collect();
        assert_eq!(sizes, [6, 3], "{key}");
        assert_eq!(
            second.header("x-amz-version-id"),
            Some(versions[0].version.as_str()),
            "{key}"
        );
        STORE.delete("versioned", key).unwrap();
        assert!(STORE.head("versioned", key).unwrap().is_none(), "{key}");
    }
    assert_eq!(STORE.get("versioned", "never").unwrap(), None);
    assert!(
        STORE
            .put("no-such-bucket", "key", b"")
            .unwrap_err()
            .to_string()
            .contains("NoSuchBucket")
    );
}

#[test]
fn the_store_comes_back_where_it_was_and_remembers() {
    let store = S3Server::start(&TOOLS).unwrap();
    store.create_bucket("media").unwrap();
    store.put("media", "key", b"bytes").unwrap();
    store.stop();
    assert!(store.get("media", "key").unwrap_err().to_string().contains("refused"));
    store.start_again().unwrap();
    assert_eq!(store.get("media", "key").unwrap().as_deref(), Some(&b"bytes"[..]));
}

#[test]
fn a_user_may_do_what_the_policy_says_until_gone() {
    STORE.create_bucket("shared").unwrap();
    STORE.create_user("SIGNER", "signers-secret").unwrap();
    STORE.put("shared", "key", b"bytes").unwrap();
    let check = UrlCheck {
        access_key: "SIGNER".into(),
        secret_key: "signers-secret".into(),
        region: STORE.region().into(),
        ..UrlCheck::default()
    };
    let params = json!({"Bucket": "shared", "Key": "key"});
    let url = verify::presign(&TOOLS, &STORE.endpoint(), &check, "get_object", &params, 60).unwrap();
    assert_eq!(curl(&[&url]), (403, String::from("AccessDenied")));
    STORE
        .put_bucket_policy(
            "shared",
            &json!({"Version": "2012-10-17", "Statement": [{
                "Effect": "Allow", "Principal": {"AWS": "SIGNER"}, "Action": "s3:GetObject", "Resource": "arn:aws:s3:::shared/*",
            }]}),
        )
        .unwrap();
    assert_eq!(curl(&[&url]), (200, String::from("bytes")));
    STORE.delete_user("SIGNER").unwrap();
    assert_eq!(curl(&[&url]), (403, String::from("InvalidAccessKeyId")));
}

#[test]
fn the_verifier_of_forms_agrees_with_botocore_and_with_the_store() {
    STORE.create_bucket("forms").unwrap();
    let mut check = FormCheck {
        bucket: "forms".into(),
        access_key: STORE.access_key().into(),
        secret_key: STORE.secret_key().into(),
        region: STORE.region().into(),
        ..FormCheck::default()
    };
    let key = "tenants/web/ü b+c%2F~!'()*=&/x.png";
    let fields = json!({"Content-Type": "image/png"});
    let conditions = json!([{"Content-Type": "image/png"}, ["content-length-range", 1, 3]]);
    let (url, made) =
        verify::presign_post(&TOOLS, &STORE.endpoint(), &check, key, (&fields, &conditions), 300).unwrap();
    check.fields = made;

    let verdict = verify_form(&TOOLS, &check).unwrap();
    assert_eq!(verdict.why, "");
    assert!(verdict.valid);
    assert_eq!(verdict.range, Some((1, 3)));
    assert_eq!(verdict.expires_at - verdict.issued_at, 300);
    let post = |fields: &[(String, String)]| {
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let strings = fields.iter().flat_map(|field| ["--form-string", field]);
        let args: Vec<_> = strings.chain(["--form", "file=xy;filename=x", &url]).collect();
        curl(&args)
    };
    assert_eq!(post(&check.fields), (204, String::new()));
    assert_eq!(STORE.get("forms", key).unwrap().as_deref(), Some(&b"xy"[..]));

    // What the store refuses the checker refuses, too.
    let says = |why: &str, change: &dyn Fn(&mut FormCheck)| {
        let mut other = check.clone();
        change(&mut other);
        let verdict = verify_form(&TOOLS, &other).unwrap();
        assert!(!verdict.valid && verdict.why.contains(why), "{why}: {verdict:?}");
        assert_ne!(post(&other.fields).0, 204, "{why}");
    };
    fn field<'a>(check: &'a mut FormCheck, name: &str) -> &'a mut String {
        &mut check.fields.iter_mut().find(|(n, _)| n == name).unwrap().1
    }
    says("the condition on key", &|c| field(c, "key").push('x'));
    says("the condition on Content-Type", &|c| {
        c.fields.retain(|(n, _)| n != "Content-Type")
    });
    says("no condition covers x-amz-meta-a", &|c| {
        c.fields.push(("x-amz-meta-a".into(), "b".into()));
    });
    says("the field key is there twice", &|c| {
        c.fields.push(("key".into(), "b".into()))
    });
    says("the signature", &|c| *field(c, "x-amz-signature") = "0".repeat(64));
}

/// What a client gets: status, and body or, of an error, its code.
fn curl(args: &[&str]) -> (u16, String) {
    let mut command = process::clean(Command::new("curl"));
    command
        .args(["--silent", "--show-error", "--write-out", "\n%{http_code}"])
        .args(args);
    let text = process::run_ok(command, &[], SOON).unwrap().text();
    let (body, status) = text.rsplit_once('\n').unwrap();
    let code = body
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    (status.parse().unwrap(), code.map_or(body, |(code, _)| code).to_owned())
}

#[test]
fn the_verifier_agrees_with_botocore_and_with_the_store() {
    STORE.create_bucket("verify").unwrap();
    let mut check = UrlCheck {
        method: "PUT".into(),
        headers: vec![
            ("Content-Type".into(), "image/png".into()),
            ("If-None-Match".into(), "*".into()),
        ],
        access_key: STORE.access_key().into(),
        secret_key: STORE.secret_key().into(),
        region: STORE.region().into(),
        ..UrlCheck::default()
    };
    let key = "tenants/web/ü b+c%2F~!'()*=&/x.png";
    let params = json!({"Bucket": "verify", "Key": key, "ContentType": "image/png", "IfNoneMatch": "*"});
    check.url = verify::presign(&TOOLS, &STORE.endpoint(), &check, "put_object", &params, 300).unwrap();

    let verdict = verify_url(&TOOLS, &check).unwrap();
    assert_eq!(verdict.why, "");
    assert!(verdict.valid && verdict.canonical);
    assert_eq!(verdict.key_in("verify"), Some(key.as_bytes()));
    assert_eq!(verdict.expires_at - verdict.issued_at, 300);
    assert_eq!(verdict.signed_headers, ["content-type", "host", "if-none-match"]);
    assert_eq!(
        (verdict.scheme.as_str(), verdict.host.clone()),
        ("http", format!("127.0.0.1:{}", STORE.port()))
    );

    let send = [
        "--request",
        "PUT",
        "--header",
        "Content-Type: image/png",
        "--header",
        "If-None-Match: *",
        "--data-binary",
        "x",
    ];
    assert_eq!(curl(&[&send[..], &[&check.url]].concat()).0, 200);
    assert_eq!(
        curl(&[&send[..], &[&check.url]].concat()),
        (412, "PreconditionFailed".into())
    );
    assert_eq!(STORE.get("verify", key).unwrap().as_deref(), Some(&b"x"[..]));

    // One byte, one header, one word: each makes another request of it.
    let with = |change: &dyn Fn(&mut UrlCheck)| {
        let mut other = check.clone();
        change(&mut other);
        other
    };
    let changed = [
        with(&|c| c.url = c.url.replace("x.png", "y.png")),
        with(&|c| c.url = c.url.replace("X-Amz-Expires=300", "X-Amz-Expires=301")),
        with(&|c| c.url = flip_last(&c.url)),
        with(&|c| c.url.push_str("&versionId=1")),
        with(&|c| c.url = c.url.replace("%2B", "+").replace("127.0.0.1", "127.0.0.2")),
        with(&|c| c.method = "GET".into()),
        with(&|c| c.headers[0].1 = "image/gif".into()),
        with(&|c| c.headers.truncate(1)),
        with(&|c| c.headers.push(("x-amz-copy-source".into(), "/verify/secret".into()))),
        with(&|c| c.region = "eu-west-1".into()),
        with(&|c| c.secret_key.push('x')),
        with(&|c| c.session_token = Some("token".into())),
    ];
    for (verdict, check) in verify_urls(&TOOLS, &changed).unwrap().iter().zip(&changed) {
        assert!(!verdict.valid && !verdict.why.is_empty(), "{check:?}");
    }
}

fn flip_last(url: &str) -> String {
    let (rest, last) = url.split_at(url.len() - 1);
    format!("{rest}{}", if last == "0" { "1" } else { "0" })
}

#[test]
fn kstatus_reads_conditions_as_deployers_do() {
    let object = |conditions: Value| {
        json!({"apiVersion": "x.test/v1", "kind": "X", "metadata": {"name": "x", "generation": 1},
            "status": {"observedGeneration": 1, "conditions": conditions}})
    };
    for (conditions, expected) in [
        (json!([{"type": "Ready", "status": "True", "reason": "R"}]), "Current"),
        (
            json!([{"type": "Ready", "status": "False", "reason": "R", "message": "wait"}]),
            "InProgress",
        ),
        (
            json!([{"type": "Stalled", "status": "True", "reason": "R", "message": "no"}]),
            "Failed",
        ),
    ] {
        assert_eq!(kstatus(&TOOLS, &object(conditions)).unwrap().0, expected);
    }
}

// --- processes and folders ----------------------------------------------------------------------------------------

#[test]
fn an_error_shows_the_last_lines_of_the_log() {
    let scratch = Scratch::new("test").unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo it is all wrong; exit 3"]);
    let process = Process::start("shell", command, scratch.join("shell.log")).unwrap();
    let error = process
        .wait_until(SOON, "it was ready", || false)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("shell ended (exit status: 3) before it was ready"),
        "{error}"
    );
    assert!(error.contains("shell.log:\n    it is all wrong"), "{error}");
}

#[test]
fn a_process_ends_as_it_is_asked_to() {
    let scratch = Scratch::new("test").unwrap();
    let sleep = || {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::start("sleep", command, scratch.join("sleep.log")).unwrap()
    };
    let asked = sleep();
    assert!(asked.is_running());
    assert!(!asked.terminate(SOON).unwrap().success());
    let frozen = sleep();
    frozen.pause();
    let error = frozen.terminate(Duration::from_millis(200)).unwrap_err().to_string();
    assert!(error.contains("was killed"), "{error}");
    let dropped = sleep();
    let pid = dropped.pid();
    drop(dropped);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());

    let mut command = Command::new("sleep");
    command.arg("600");
    // It sleeps for ten minutes: if it were not killed, this would not come to an end.
    let error = process::run(command, &[], Duration::from_millis(200)).unwrap_err();
    assert!(
        error.to_string().contains("sleep 600 did not end within 0.2 s"),
        "{error}"
    );
}

/// This test program plays the parent: it runs itself with this variable set, and only the test below.
const PLAY_PARENT: &str = "HARNESS_TEST_PLAY_PARENT";

#[test]
fn children_and_folders_do_not_outlive_their_parent() {
    // A Process in a static, started by a thread that is long gone: what tests do.
    static CHILD: LazyLock<(Process, Scratch)> = LazyLock::new(|| {
        let scratch = Scratch::new("child").unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        (Process::start("sleep", command, scratch.join("log")).unwrap(), scratch)
    });
    if let Ok(how) = std::env::var(PLAY_PARENT) {
        let (pid, folder) = thread::spawn(|| (CHILD.0.pid(), CHILD.1.path().to_owned()))
            .join()
            .unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(
            CHILD.0.is_running(),
            "the end of the thread that started it is not the end of it"
        );
        println!("child {pid} {}", folder.display());
        if how == "crash" {
            std::process::abort();
        }
        return;
    }
    for how in ["exit", "crash"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "children_and_folders_do_not_outlive_their_parent",
                "--nocapture",
            ])
            .env(PLAY_PARENT, how)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let (_, line) = text.split_once("child ").unwrap_or_else(|| panic!("{output:?}"));
        let (pid, folder) = line.lines().next().unwrap().split_once(' ').unwrap();
        eventually(SOON, "the child to die", || dead(pid).then_some(()));
        if how == "crash" {
            assert!(Path::new(folder).exists(), "nobody was there to delete it");
            // The first folder that a process makes is preceded by a sweep.
            let swept = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "an_error_shows_the_last_lines_of_the_log"])
                .output()
                .unwrap();
            assert!(swept.status.success(), "{swept:?}");
        }
        assert!(!Path::new(folder).exists(), "{how}: {folder} is still there");
    }
}

/// Gone, or waiting for whoever adopts orphans to take note.
fn dead(pid: &str) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    }
}
