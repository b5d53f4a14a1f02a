//! Tests of what the operator does with each input on a real control plane and a real S3 server.

use std::{fs, path::Path, process::Command, sync::LazyLock, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::{Value, json};
use valet_harness::{
    ControlPlane, ControlPlaneOptions, OddStore, Oddity, Operator, OperatorOptions, S3Server, Scratch, Tools,
    eventually, kubectl::Namespace, operator::crds, process,
};

use crate::{VALET, input};

pub const SOON: Duration = Duration::from_secs(60);

pub struct World {
    pub plane: ControlPlane,
    pub s3: S3Server,
    _operator: Operator,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let tools = Tools::locate().expect("the tools build");
    let system = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "valet-system"}});
    let options = ControlPlaneOptions {
        manifests: vec![crds(Path::new(VALET)).expect("valet crds runs"), system.to_string()],
        ..ControlPlaneOptions::default()
    };
    let plane = ControlPlane::start_with(&tools, options).expect("the control plane starts");
    let s3 = S3Server::start(&tools).expect("the S3 server starts");
    for bucket in ["media", "media-b2", "media-b2-copies", "media-lock"] {
        s3.create_bucket(bucket).expect("a bucket can be made");
    }
    let odd = |oddity| OddStore::before(&s3, oddity).expect("a port is free").endpoint();
    plane
        .apply_all(&[
            json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": "valet-system"},
                "stringData": {"AWS_ACCESS_KEY_ID": s3.access_key(), "AWS_SECRET_ACCESS_KEY": s3.secret_key()},
            }),
            store("store", "media", &s3.endpoint()),
            store("b2", "media-b2", &odd(Oddity::NoConditions)),
            store("b2-copies", "media-b2-copies", &odd(Oddity::NoConditionsAndCopies)),
            store("lock", "media-lock", &odd(Oddity::ObjectLock)),
        ])
        .expect("the store can be applied");
    let operator =
        Operator::start(Path::new(VALET), &plane, &OperatorOptions::default()).expect("the operator starts");
    World {
        plane,
        s3,
        _operator: operator,
    }
});

/// A store that allows every operation to every namespace.
fn store(name: &str, bucket: &str, endpoint: &str) -> Value {
    json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": name},
        "spec": {
            "s3": {
                "bucket": bucket, "region": "us-east-1", "endpoint": endpoint, "addressingStyle": "Path",
                "credentials": {"secretRef": {"name": "keys"}},
            },
            "access": [{"namespaces": {"selector": {}}, "operations": ["Upload", "Download"]}],
        },
    })
}

/// A namespace for one test. It replaces the namespace `web` in an input.
pub struct Case {
    pub world: &'static World,
    namespace: Namespace<'static>,
    pub scratch: Scratch,
}

impl Case {
    pub fn new(test: &str) -> Self {
        let world = &*WORLD;
        Self {
            world,
            namespace: world.plane.namespace(test).expect("a namespace can be made"),
            scratch: Scratch::new("case").expect("a folder can be made"),
        }
    }

    pub fn manifest(&self, file: &str) -> String {
        input(file, 9).replace("namespace: web", &format!("namespace: {}", self.namespace.name()))
    }

    pub fn apply(&self, file: &str) {
        self.world
            .plane
            .apply(&self.manifest(file))
            .expect("the input can be applied");
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        let all = [args, &["--namespace", self.namespace.name()]].concat();
        self.world
            .plane
            .kubectl(&all)
            .unwrap_or_else(|e| panic!("kubectl {args:?}: {e}\n{}", self.namespace.dump()))
    }

    pub fn get(&self, what: &str) -> Option<Value> {
        let text = self.kubectl(&["get", what, "--ignore-not-found", "--output=json"]);
        (!text.trim().is_empty()).then(|| serde_json::from_str(&text).expect("kubectl prints JSON"))
    }

    pub fn reason(&self, grant: &str, reason: &str) -> Value {
        eventually(SOON, &format!("{grant} to be {reason}"), || {
            self.get(grant).filter(|g| {
                let conditions = g["status"]["conditions"].as_array();
                conditions
                    .into_iter()
                    .flatten()
                    .any(|c| c["type"] == "Ready" && c["reason"] == reason)
            })
        })
    }

    fn gone(&self, what: &str) {
        eventually(SOON, &format!("{what} to be deleted"), || {
            self.get(what).is_none().then_some(())
        });
    }

    /// Runs a program in a folder with the Secret's files.
    pub fn run(&self, secret: &str, program: &str, args: &[&str]) -> String {
        let secret: Secret =
            serde_json::from_value(self.get(&format!("secret/{secret}")).expect("it is there")).unwrap();
        for (name, ByteString(value)) in secret.data.unwrap() {
            fs::write(self.scratch.path().join(name), value).unwrap();
        }
        let mut command = process::clean(Command::new(program));
        command.args(args).current_dir(self.scratch.path());
        process::run_ok(command, b"", SOON)
            .unwrap_or_else(|e| panic!("{program}: {e}"))
            .text()
    }
}

/// An object key with special characters is uploaded unchanged with a PUT, a form and a multipart upload.
#[test]
fn key_with_special_characters_is_uploaded_unchanged_in_every_mode() {
    let case = Case::new("s01");
    case.apply("S01-special-characters-modes");
    let key = |mode: &str| format!("s01-{mode}/a b/x+y=z[1] (copy)!'*~&$@,;?#% \"q\" \u{e9}.bin");
    fs::write(case.scratch.path().join("body"), vec![7; 6_000_000]).unwrap();
    for (grant, args) in [
        ("sp-put", &["--config", "curl.cfg", "--upload-file", "body"][..]),
        ("sp-form", &["--config", "curl.cfg", "--form", "file=@body"][..]),
    ] {
        case.reason(&format!("ug/{grant}"), "Issued");
        case.run(grant, "curl", args);
    }
    case.reason("ug/sp-parts", "Issued");
    case.run("sp-parts", "sh", &["upload.sh", "body"]);
    for grant in ["sp-put", "sp-form", "sp-parts"] {
        case.reason(&format!("ug/{grant}"), "Completed");
        let stored = case.world.s3.get("media", &key(grant)).unwrap();
        assert_eq!(stored.map(|b| b.len()), Some(6_000_000), "{grant}");
    }
}

#[test]
fn download_with_range_header_is_served() {
    let case = Case::new("s29");
    case.world.s3.put("media", "u/big.bin", &[1; 100]).unwrap();
    let grant = case.manifest("S29-range").split("---\n").nth(1).unwrap().to_owned();
    case.world.plane.apply(&grant).unwrap();
    case.reason("dg/g", "Issued");
    let said = case.run(
        "g",
        "curl",
        &[
            "--config",
            "curl.cfg",
            "--range",
            "0-9",
            "--output",
            "part",
            "--write-out",
            "%{http_code}",
        ],
    );
    assert_eq!(said, "206");
    assert_eq!(fs::read(case.scratch.path().join("part")).unwrap().len(), 10);
}

#[test]
fn second_grant_with_same_secret_name_is_in_conflict_without_writes() {
    let case = Case::new("l50");
    case.apply("L50-shared-secret-name");
    let (won, lost) = eventually(SOON, "one of the two grants to be issued", || {
        let reason = |grant: &str| {
            let grant = case.get(grant)?;
            let conditions = grant["status"]["conditions"].as_array()?.clone();
            let ready = conditions.into_iter().find(|c| c["type"] == "Ready")?;
            Some(ready["reason"].as_str()?.to_owned())
        };
        let both = [("ug/first", reason("ug/first")?), ("ug/second", reason("ug/second")?)];
        let of = |wanted: &str| both.iter().find(|(_, r)| r == wanted).map(|(g, _)| *g);
        of("Issued").zip(of("SecretConflict"))
    });
    let version = |what: &str| case.get(what).unwrap()["metadata"]["resourceVersion"].clone();
    let before = (version(lost), version("secret/shared-key"));
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(
        (version(lost), version("secret/shared-key")),
        before,
        "{won} has the Secret, and nothing else was written"
    );
}

#[test]
fn existing_secret_is_never_changed() {
    let case = Case::new("l51");
    case.apply("L51-existing-secret");
    let before = case.get("secret/app-config");
    case.reason("dg/app-config", "SecretConflict");
    assert_eq!(case.get("secret/app-config"), before);
}

#[test]
fn grant_deleted_after_its_secret_leaves_no_secret() {
    let case = Case::new("l54");
    case.apply("L54-secret-deleted-first");
    for grant in ["dg/early", "dg/early2"] {
        case.reason(grant, "Issued");
    }
    case.kubectl(&["delete", "secret", "early"]);
    case.kubectl(&["delete", "dg", "early", "early2"]);
    for gone in ["dg/early", "secret/early", "dg/early2", "secret/early2"] {
        case.gone(gone);
    }
}

#[test]
fn namespace_with_live_grants_terminates() {
    let case = Case::new("l57");
    let name = format!("{}-doomed", case.namespace.name());
    let text = input("L57-namespace-terminating", 9).replace("doomed", &name);
    case.world.plane.apply(&text).unwrap();
    let kubectl = |args: &[&str]| case.world.plane.kubectl(args).unwrap();
    let wait = "--for=condition=Ready";
    for grant in ["ug/g1", "dg/g2", "dg/g3"] {
        kubectl(&["wait", wait, grant, "--namespace", &name, "--timeout=60s"]);
    }
    kubectl(&["delete", "namespace", &name, "--wait=false"]);
    eventually(SOON, "all grants except the one with a finalizer to be deleted", || {
        let left = kubectl(&["get", "ug,dg,secret", "--namespace", &name, "--output=name"]);
        (left.trim() == "downloadgrant.valetkey.dev/g3").then_some(())
    });
    kubectl(&[
        "patch",
        "dg",
        "g3",
        "--namespace",
        &name,
        "--type=merge",
        "--patch",
        r#"{"metadata":{"finalizers":null}}"#,
    ]);
    eventually(SOON, "the namespace to be deleted", || {
        let left = kubectl(&["get", "namespace", &name, "--ignore-not-found", "--output=name"]);
        left.trim().is_empty().then_some(())
    });
}

#[test]
fn download_of_absent_object_is_issued() {
    let case = Case::new("l58");
    case.apply("L58-download-of-nothing");
    case.reason("dg/nothing", "Issued");
}

#[test]
fn grants_deleted_at_once_leave_no_secret() {
    let case = Case::new("l61");
    let text = case.manifest("L61-create-and-delete");
    case.world.plane.apply(&text).unwrap();
    case.world
        .plane
        .kubectl_in(&text, &["delete", "--wait=false", "-f", "-"])
        .unwrap();
    eventually(SOON, "all objects to be deleted", || {
        let left = case.kubectl(&["get", "ug,secret", "--output=name"]);
        left.trim().is_empty().then_some(())
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(case.kubectl(&["get", "ug,secret", "--output=name"]).trim(), "");
}

#[test]
fn short_download_expires_and_short_ttl_deletes_grant_in_time() {
    let case = Case::new("l68");
    case.apply("L68-ttl");
    case.reason("dg/brief", "Issued");
    eventually(Duration::from_secs(20), "the Secret to be deleted", || {
        case.get("secret/brief").is_none().then_some(())
    });
    eventually(Duration::from_secs(20), "the grant to be deleted", || {
        case.get("dg/brief").is_none().then_some(())
    });
}
