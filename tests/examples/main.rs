//! Applies the examples of the documentation without changes: the files of `examples/` and every YAML block of the
//! README. Only the address and the credentials of the store are replaced.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;
use valet_harness::{
    Azurite, ControlPlane, ControlPlaneOptions, GcsServer, Operator, OperatorOptions, S3Options, S3Server, Software,
    Tools, eventually, process,
};

const VALET: &str = env!("CARGO_BIN_EXE_valet");
/// The address in the examples of the store with an STS.
const WITH_STS: &str = "http://127.0.0.1:9100";
const ROOT: &str = env!("VALET_ROOT");

/// Google's public test key, on one line, for a YAML string in single quotes.
fn google_key() -> String {
    let key: Value = serde_json::from_str(include_str!("../fixtures/google/service-account.json")).unwrap();
    key.to_string().replace('\'', "''")
}

/// The stores that replace those of the examples.
struct Stores {
    s3: S3Server,
    /// The store that issues temporary credentials.
    with_sts: S3Server,
    gcs: GcsServer,
    azure: Azurite,
}

/// Replaces addresses and credentials. Each example uses one S3 store: the plain one or the one with an STS.
fn filled_in(text: &str, stores: &Stores) -> String {
    let Stores {
        s3,
        with_sts,
        gcs,
        azure,
    } = stores;
    let store = if text.contains(WITH_STS) { with_sts } else { s3 };
    text.replace(WITH_STS, &store.endpoint())
        .replace("http://127.0.0.1:10000", &azure.endpoint())
        .replace("http://127.0.0.1:9000", &store.endpoint())
        .replace("http://127.0.0.1:4443", &gcs.endpoint())
        // The emulator ignores preconditions, so Valet refuses write-once uploads to it.
        .replace(
            "    contentType: application/pdf\n    contentLengthRange:",
            "    contentType: application/pdf\n    overwrite: Allow\n    contentLengthRange:",
        )
        .replace(
            "AZURE_STORAGE_KEY: change-me",
            &format!("AZURE_STORAGE_KEY: {}", azure.key()),
        )
        .replace(
            "credentials.json: change-me",
            &format!("credentials.json: '{}'", google_key()),
        )
        .replace(
            "AWS_ACCESS_KEY_ID: change-me",
            &format!("AWS_ACCESS_KEY_ID: {}", store.access_key()),
        )
        .replace(
            "AWS_SECRET_ACCESS_KEY: change-me",
            &format!("AWS_SECRET_ACCESS_KEY: {}", store.secret_key()),
        )
}

/// The documents of a file, as kubectl parses them.
fn documents(plane: &ControlPlane, text: &str) -> Vec<Value> {
    let json = plane
        .kubectl_in(text, &["create", "--dry-run=client", "--output=json", "-f", "-"])
        .expect("kubectl reads it");
    let read = serde_json::Deserializer::from_str(&json).into_iter::<Value>();
    read.map(|d| d.expect("kubectl writes JSON")).collect()
}

#[test]
fn documented_examples_work_unchanged() {
    let tools = Tools::locate().unwrap();
    let crds = fs::read_to_string(Path::new(ROOT).join("crds/valet.yaml")).unwrap();
    let plane = ControlPlane::start_with(
        &tools,
        ControlPlaneOptions {
            manifests: vec![
                crds,
                r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "valet-system"}}"#.into(),
            ],
            ..ControlPlaneOptions::default()
        },
    )
    .unwrap();
    let store = S3Server::start(&tools).unwrap();
    store.create_bucket("media").unwrap();
    let options = S3Options {
        software: Software::Minio,
        ..S3Options::default()
    };
    let with_sts = S3Server::start_with(&tools, options).unwrap();
    with_sts.create_bucket("runs").unwrap();
    let azure = Azurite::start().unwrap();
    azure.create_container("media").unwrap();
    let gcs = GcsServer::start().unwrap();
    gcs.create_bucket("media").unwrap();
    let stores = Stores {
        s3: store,
        with_sts,
        gcs,
        azure,
    };
    // The tenant's own store runs on this machine.
    let options = OperatorOptions {
        args: vec![
            "--allow-private-endpoints=127.0.0.0/8".into(),
            "--tenant-store-requests=All".into(),
        ],
        ..OperatorOptions::default()
    };
    let _operator = Operator::start(Path::new(VALET), &plane, &options).unwrap();

    let mut files: Vec<_> = fs::read_dir(Path::new(ROOT).join("examples"))
        .unwrap()
        .map(|f| f.unwrap().path())
        // Rules for GitOps tools are not Kubernetes objects of this cluster. tests/gitops tests them.
        .filter(|f| f.is_file())
        .collect();
    files.sort();
    assert!(files.len() >= 9, "{files:?}");
    let mut uploads = 0;
    for file in &files {
        let text = filled_in(&fs::read_to_string(file).unwrap(), &stores);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        plane.apply(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        for document in documents(&plane, &text) {
            let kind = document["kind"].as_str().unwrap_or_default();
            if !kind.ends_with("Grant") {
                continue;
            }
            let (grant, namespace) = (
                document["metadata"]["name"].as_str().unwrap(),
                document["metadata"]["namespace"].as_str().unwrap(),
            );
            let args = [
                "wait",
                "--for=condition=Ready",
                &format!("{kind}/{grant}"),
                "--namespace",
                namespace,
                "--timeout=30s",
            ];
            plane
                .kubectl(&args)
                .unwrap_or_else(|e| panic!("{name}: {e}\n{}", plane.dump(namespace)));
            if kind == "UploadGrant" {
                uploads += usize::from(upload(&plane, &stores, &document, namespace));
            }
        }
    }
    assert!(
        uploads >= 4,
        "most upload examples end with an upload that arrived: {uploads}"
    );

    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let blocks: Vec<_> = readme
        .split("```yaml\n")
        .skip(1)
        .map(|b| b.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() >= 2, "the README has its examples");
    for block in blocks {
        plane
            .kubectl_in(&filled_in(block, &stores), &["apply", "--dry-run=server", "-f", "-"])
            .unwrap_or_else(|e| panic!("README: {e}\n{block}"));
    }
}

/// Uploads a file of zeros for the grant. Returns false if the grant needs another file.
fn upload(plane: &ControlPlane, stores: &Stores, grant: &Value, namespace: &str) -> bool {
    let constraints = &grant["spec"]["constraints"];
    // Temporary credentials are tested in tests/stores.
    if constraints.get("checksumSHA256").is_some() || grant["spec"]["mode"] == "Credentials" {
        return false;
    }
    let name = grant["spec"]["secretName"]
        .as_str()
        .or(grant["metadata"]["name"].as_str())
        .unwrap();
    let secret = plane
        .kubectl(&["get", "secret", name, "--namespace", namespace, "--output=json"])
        .unwrap();
    let secret: Secret = serde_json::from_str(&secret).unwrap();
    let data: BTreeMap<_, _> = secret.data.unwrap();
    let scratch = valet_harness::Scratch::new("example").unwrap();
    let (config, body) = (scratch.path().join("curl.cfg"), scratch.path().join("body"));
    if let Some(text) = data.get("curl.cfg") {
        fs::write(&config, &text.0).unwrap();
    }
    fs::write(
        &body,
        vec![0; constraints["contentLength"].as_u64().unwrap_or(9) as usize],
    )
    .unwrap();
    let mut client = process::clean(Command::new("curl"));
    client.arg("--config").arg(config);
    let mut soon = Duration::from_secs(5);
    match grant["spec"]["mode"].as_str() {
        Some("PostForm") => client.arg("--form").arg(format!("file=@{}", body.display())),
        Some("Multipart") => {
            for name in ["upload.sh", "parts.json", "expiry"] {
                fs::write(scratch.path().join(name), &data[name].0).unwrap();
            }
            // The operator completes the multipart upload at its next poll.
            soon = Duration::from_secs(75);
            client = process::clean(Command::new("sh"));
            client.arg(scratch.path().join("upload.sh")).arg(&body)
        }
        _ => client.arg("--upload-file").arg(&body),
    };
    process::run_ok(client, b"", Duration::from_secs(60)).unwrap();
    let key = grant["spec"]["key"].as_str().unwrap();
    if key.ends_with('/') {
        // For a prefix, the form adds the file name to the object key.
        let there = stores.with_sts.head("runs", &format!("{key}body")).unwrap();
        there.expect("it is there as soon as the store has answered");
        return true;
    }
    eventually(soon, key, || match data["provider"].0.as_slice() {
        b"gcs" => stores.gcs.get("media", key).unwrap().map(|_| ()),
        b"azure-blob" => stores.azure.get("media", key).unwrap().map(|_| ()),
        _ => stores
            .s3
            .head("media", key)
            .unwrap()
            .map(|head| drop(head.ok().unwrap())),
    });
    true
}
