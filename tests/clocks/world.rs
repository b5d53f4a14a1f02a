//! What all runs share, and what each run has of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use serde_json::{Value, json};
use valet_harness::{
    ControlPlane, ControlPlaneOptions, Operator, OperatorOptions, S3Options, S3Server, Scratch, Software, Tools,
    kubectl::Namespace, operator::crds,
};

use crate::conditions;

const VALET: &str = env!("CARGO_BIN_EXE_valet");
/// The stores, by the name of their software. versitygw refuses unsigned headers; MinIO obeys them.
pub const STORES: [&str; 2] = ["versitygw", "minio"];

/// What all runs share.
struct World {
    plane: ControlPlane,
    versitygw: S3Server,
    minio: S3Server,
    /// A kubeconfig without verification of the API server's certificate. An operator whose clock is behind would
    /// reject the certificate as not yet valid.
    kubeconfig: PathBuf,
}

/// Starts at the first use. The processes end with the test process.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let tools = Tools::locate().expect("the tools build");
    let options = ControlPlaneOptions {
        manifests: vec![
            crds(Path::new(VALET)).expect("valet crds runs"),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "valet-system"}}).to_string(),
        ],
        ..ControlPlaneOptions::default()
    };
    let plane = ControlPlane::start_with(&tools, options).expect("the control plane starts");
    let versitygw = S3Server::start(&tools).expect("versitygw starts");
    let options = S3Options {
        software: Software::Minio,
        ..S3Options::default()
    };
    let minio = S3Server::start_with(&tools, options).expect("MinIO starts");
    let text = fs::read_to_string(plane.operator_kubeconfig()).expect("the kubeconfig file can be read");
    let mut kubeconfig: Value = serde_json::from_str(&text).expect("the harness writes JSON");
    let cluster = kubeconfig["clusters"][0]["cluster"]
        .as_object_mut()
        .expect("it has a cluster");
    cluster.remove("certificate-authority-data");
    cluster.insert("insecure-skip-tls-verify".into(), true.into());
    let kubeconfig = plane
        .scratch()
        .write("clocks.kubeconfig", kubeconfig.to_string())
        .expect("a file can be written");
    World {
        plane,
        versitygw,
        minio,
        kubeconfig,
    }
});

/// The path of the library libfaketime, which changes the clock of a program.
fn libfaketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("it is there").flatten();
    folders
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.is_file())
        .expect("libfaketime is installed: apt-get install faketime")
}

/// What one run has of its own: a namespace, a store of each software, and a clock.
pub struct Place {
    world: &'static World,
    namespace: Namespace<'static>,
    scratch: Scratch,
}

impl Place {
    /// Creates everything except the grants and the operator. The operator's clock will be `offset` seconds ahead.
    pub fn new(name: &str, offset: i64) -> Self {
        let world = &*WORLD;
        let place = Self {
            world,
            namespace: world.plane.namespace(name).expect("a namespace can be made"),
            scratch: Scratch::new("clocks").expect("a folder can be made"),
        };
        place.set_clock(offset);
        for store in STORES {
            let name = place.store(store);
            let server = place.server(store);
            server.create_bucket(&name).expect("a bucket can be made");
            server
                .put(&name, &place.key("there"), b"there")
                .expect("the store takes it");
            place.apply(&[
                json!({
                    "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "valet-system"},
                    "stringData": {"AWS_ACCESS_KEY_ID": server.access_key(), "AWS_SECRET_ACCESS_KEY": server.secret_key()},
                }),
                json!({
                    "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": name},
                    "spec": {
                        "s3": {
                            "bucket": name, "region": server.region(), "endpoint": server.endpoint(),
                            "addressingStyle": "Path", "credentials": {"secretRef": {"name": name}},
                        },
                        "access": [{
                            "namespaces": {"names": [place.namespace.name()]}, "operations": ["Upload", "Download"],
                            "keyPrefix": "tenants/{namespace}/", "maxExpirationSeconds": 3600,
                        }],
                    },
                }),
            ]);
        }
        place
    }

    fn server(&self, store: &str) -> &S3Server {
        match store {
            "minio" => &self.world.minio,
            _ => &self.world.versitygw,
        }
    }

    /// The name of a store, which is also the name of its bucket and its credentials Secret.
    pub fn store(&self, store: &str) -> String {
        format!("{}-{store}", self.namespace.name())
    }

    fn key(&self, rest: &str) -> String {
        format!("tenants/{}/{rest}", self.namespace.name())
    }

    /// An upload, a write-once upload and a download for each store. The names have the form FORM-GROUP-STORE.
    pub fn grants(&self, group: &str, seconds: u32) -> Vec<Value> {
        let grant = |kind: &str, form: &str, store: &str, spec: Value| {
            let name = format!("{form}-{group}-{store}");
            let mut all = json!({
                "storeRef": {"kind": "ClusterObjectStore", "name": self.store(store)},
                "key": self.key(&name), "expirationSeconds": seconds,
            });
            let (all_of, more) = (all.as_object_mut().expect("an object"), spec);
            all_of.extend(more.as_object().expect("an object").clone());
            json!({
                "apiVersion": "valetkey.dev/v1alpha1", "kind": kind,
                "metadata": {"name": name, "namespace": self.namespace.name()}, "spec": all,
            })
        };
        let of = |store: &str| {
            [
                grant(
                    "UploadGrant",
                    "put",
                    store,
                    json!({"constraints": {"overwrite": "Allow"}}),
                ),
                grant("UploadGrant", "once", store, json!({})),
                grant("DownloadGrant", "get", store, json!({"key": self.key("there")})),
            ]
        };
        STORES.into_iter().flat_map(of).collect()
    }

    /// Applies objects, as `kubectl apply` does.
    pub fn apply(&self, objects: &[Value]) {
        self.world.plane.apply_all(objects).expect("the objects can be applied");
    }

    pub fn delete_grants(&self) {
        let args = [
            "delete",
            "ug,dg",
            "--all",
            "--timeout=60s",
            "--namespace",
            self.namespace.name(),
        ];
        self.world.plane.kubectl(&args).expect("the grants can be deleted");
    }

    /// Sets the operator's clock to `offset` seconds ahead.
    pub fn set_clock(&self, offset: i64) {
        let new = self
            .scratch
            .write("new", format!("{offset:+}\n"))
            .expect("a file can be written");
        // The rename is atomic, because the operator reads the file all the time.
        fs::rename(new, self.scratch.join("clock")).expect("a file can be renamed");
    }

    /// Starts an operator with this clock, for this namespace only.
    pub fn operator(&self) -> Operator {
        let env = [
            ("LD_PRELOAD", libfaketime()),
            ("FAKETIME_TIMESTAMP_FILE", self.scratch.join("clock")),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            // Only the displayed time is changed, not the monotonic clock.
            ("DONT_FAKE_MONOTONIC", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ];
        let options = OperatorOptions {
            namespace: Some(self.namespace.name().to_owned()),
            kubeconfig: Some(self.world.kubeconfig.clone()),
            env: env
                .map(|(name, value)| (name.to_owned(), value.display().to_string()))
                .into(),
            ..OperatorOptions::default()
        };
        Operator::start(Path::new(VALET), &self.world.plane, &options).expect("the operator starts")
    }

    /// Reads all stores and grants.
    pub fn snapshot(&self) -> Snapshot {
        let args = ["get", "costore,ug,dg", "--namespace", self.namespace.name()];
        let mut list = self.world.plane.kubectl_json(&args).expect("kubectl reads them");
        Snapshot(serde_json::from_value(list["items"].take()).expect("a list"))
    }
}

/// All stores and grants at one time.
pub struct Snapshot(Vec<Value>);

impl Snapshot {
    pub fn store(&self, name: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|o| o["kind"] == "ClusterObjectStore" && o["metadata"]["name"] == name)
    }

    /// The grants with their names.
    pub fn grants(&self) -> impl Iterator<Item = (&str, &Value)> {
        let grants = self.0.iter().filter(|o| o["kind"] != "ClusterObjectStore");
        grants.map(|o| (o["metadata"]["name"].as_str().unwrap_or_default(), o))
    }

    /// The reason of a grant's `Ready` condition, or an empty string.
    pub fn reason(&self, name: &str) -> String {
        let grant = self.grants().find(|(its, _)| *its == name);
        let said = grant.map_or(String::new(), |(_, grant)| says(grant, "Ready"));
        said.split(' ').nth(1).unwrap_or_default().to_owned()
    }
}

/// Status and reason of a condition, such as `True Issued`, or an empty string.
pub fn says(object: &Value, type_: &str) -> String {
    conditions(object)
        .iter()
        .find(|c| c["type"] == type_)
        .map_or(String::new(), |c| {
            let of = |field: &str| c[field].as_str().unwrap_or_default();
            format!("{} {}", of("status"), of("reason"))
        })
}
