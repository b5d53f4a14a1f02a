//! The shared test environment, and the resources that each test has for itself.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use valet_harness::{
    AuditEvent, AuditMark, ControlPlane, ControlPlaneOptions, Operator, OperatorOptions, S3Server, Scratch, Tools,
    control_plane::OPERATOR, eventually, kubectl::Namespace, operator::crds, process,
};

/// The path of the program under test.
pub static VALET: LazyLock<PathBuf> = LazyLock::new(|| {
    // Cargo builds the operator together with the tests. The programs of the tests are in the folder `deps`, next to it.
    let test = std::env::current_exe().expect("the path of the test program");
    let folder = test.ancestors().nth(2).expect("the test program is in a folder");
    folder.join("valet")
});

/// The timeout for events that need no timer of their own. It is long enough for a heavily loaded machine, and much
/// shorter than the resync interval of ten minutes.
pub const SOON: Duration = Duration::from_secs(60);

/// The control plane and the S3 server that all tests share.
pub struct World {
    pub tools: Tools,
    pub plane: ControlPlane,
    pub s3: S3Server,
    admin: Admin,
}

/// Starts at the first use. The processes end with the test process.
pub static WORLD: LazyLock<World> = LazyLock::new(|| {
    let tools = Tools::locate().expect("the tools build");
    let options = ControlPlaneOptions {
        manifests: vec![
            crds(&VALET).expect("valet crds runs"),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "valet-system"}}).to_string(),
        ],
        ..ControlPlaneOptions::default()
    };
    let (plane, s3) = std::thread::scope(|scope| {
        let s3 = scope.spawn(|| S3Server::start(&tools).expect("the S3 server starts"));
        let plane = ControlPlane::start_with(&tools, options).expect("the control plane starts");
        (plane, s3.join().expect("the S3 server starts"))
    });
    let admin = Admin::new(&plane);
    World {
        tools,
        plane,
        s3,
        admin,
    }
});

/// A Kubernetes client with admin rights. Waiting tests read objects twenty times a second, and a kubectl process for
/// each read would need too much CPU time.
struct Admin {
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

impl Admin {
    fn new(plane: &ControlPlane) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime starts");
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(plane.kubeconfig()).expect("the kubeconfig file can be read");
            let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .expect("the kubeconfig file has what a client needs");
            config.read_timeout = Some(SOON);
            kube::Client::try_from(config).expect("a client can be made")
        });
        Self { runtime, client }
    }

    /// Sends a request to the apiserver and returns the object or the error.
    fn ask(&self, method: http::Method, path: &str, object: Option<&Value>) -> kube::Result<Value> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(object.map(|o| o.to_string().into_bytes()).unwrap_or_default())
            .expect("a path is a request");
        self.runtime.block_on(self.client.request(request))
    }
}

/// The URL path of the collection of a kind that tests read often.
fn collection(kind: &str, namespace: &str) -> Option<String> {
    let valet = "/apis/valetkey.dev/v1alpha1";
    Some(match kind.to_ascii_lowercase().as_str() {
        "ug" | "uploadgrant" => format!("{valet}/namespaces/{namespace}/uploadgrants"),
        "dg" | "downloadgrant" => format!("{valet}/namespaces/{namespace}/downloadgrants"),
        "ostore" | "objectstore" => format!("{valet}/namespaces/{namespace}/objectstores"),
        "costore" | "clusterobjectstore" => format!("{valet}/clusterobjectstores"),
        "secret" => format!("/api/v1/namespaces/{namespace}/secrets"),
        _ => return None,
    })
}

/// One test's namespace, bucket and files in the shared environment.
pub struct Tenant {
    pub world: &'static World,
    namespace: Namespace<'static>,
    scratch: Scratch,
}

impl Tenant {
    /// Creates a namespace, a bucket, and a ClusterObjectStore with the same name. Its access rule allows the
    /// namespace all object keys below `tenants/NAMESPACE/` for at most one hour. No operator is started.
    pub fn new(test: &str) -> Self {
        let world = &*WORLD;
        let namespace = world.plane.namespace(test).expect("a namespace can be made");
        let tenant = Self {
            world,
            namespace,
            scratch: Scratch::new("test").expect("a folder can be made"),
        };
        world.s3.create_bucket(tenant.name()).expect("a bucket can be made");
        tenant.apply(&[
            tenant.credentials(world.s3.access_key(), world.s3.secret_key()),
            tenant.store(),
        ]);
        tenant
    }

    /// The name of the namespace, the bucket, the store and the credentials Secret.
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// The credentials Secret of the store.
    pub fn credentials(&self, id: &str, secret: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": self.name(), "namespace": "valet-system"},
            "stringData": {"AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": secret},
        })
    }

    /// The tenant's ClusterObjectStore.
    pub fn store(&self) -> Value {
        json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": self.name()},
            "spec": {
                "s3": {
                    "bucket": self.name(), "region": self.world.s3.region(), "endpoint": self.world.s3.endpoint(),
                    "addressingStyle": "Path", "credentials": {"secretRef": {"name": self.name()}},
                },
                "access": [{
                    "namespaces": {"names": [self.name()]},
                    "operations": ["Upload", "Download"],
                    "keyPrefix": "tenants/{namespace}/",
                    "maxExpirationSeconds": 3600,
                }],
            },
        })
    }

    /// An object key that the access rule of the store allows.
    pub fn key(&self, rest: &str) -> String {
        format!("tenants/{}/{rest}", self.name())
    }

    /// A grant for the object key `tenants/NAMESPACE/NAME`. `spec` is merged into the default spec.
    pub fn grant(&self, kind: &str, name: &str, spec: Value) -> Value {
        let mut grant = json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name, "namespace": self.name()},
            "spec": {"storeRef": {"kind": "ClusterObjectStore", "name": self.name()}, "key": self.key(name)},
        });
        merge(&mut grant["spec"], spec);
        grant
    }

    /// Starts an operator that serves only this namespace.
    pub fn operator(&self) -> Operator {
        self.operator_with(&[])
    }

    /// Starts an operator that serves only this namespace, with additional arguments.
    pub fn operator_with(&self, args: &[&str]) -> Operator {
        let options = OperatorOptions {
            namespace: Some(self.name().to_owned()),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            ..OperatorOptions::default()
        };
        Operator::start(&VALET, &self.world.plane, &options).expect("the operator starts")
    }

    /// Applies objects as `kubectl apply` does.
    pub fn apply(&self, objects: &[Value]) {
        self.world.plane.apply_all(objects).expect("the objects can be applied");
    }

    /// Runs kubectl in this namespace and returns its output.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let all = [args, &["--namespace", self.name()]].concat();
        self.world
            .plane
            .kubectl(&all)
            .unwrap_or_else(|e| panic!("kubectl {}: {e}", args.join(" ")))
    }

    /// Merges a patch into an object, as `kubectl patch --type=merge` does. `what` is `kind/name`.
    pub fn patch(&self, what: &str, patch: &Value) {
        self.kubectl(&["patch", what, "--type=merge", "--patch", &patch.to_string()]);
    }

    /// Writes an object into the bucket with the store's own access key, as a client without a grant would.
    pub fn put(&self, key: &str, body: &[u8]) {
        self.world.s3.put(self.name(), key, body).expect("the store takes it");
    }

    /// Returns an object as `kubectl get --output json` does, if the object exists. `what` is `kind/name`.
    pub fn get(&self, what: &str) -> Option<Value> {
        let (kind, name) = what
            .split_once('/')
            .unwrap_or_else(|| panic!("{what} is not kind/name"));
        let Some(collection) = collection(kind, self.name()) else {
            let text = self.kubectl(&["get", what, "--ignore-not-found", "--output", "json"]);
            return (!text.trim().is_empty()).then(|| serde_json::from_str(&text).expect("kubectl prints JSON"));
        };
        let path = format!("{collection}/{name}");
        match self.world.admin.ask(http::Method::GET, &path, None) {
            Ok(mut object) => {
                if let Some(metadata) = object["metadata"].as_object_mut() {
                    metadata.remove("managedFields");
                }
                Some(object)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => panic!("GET {path}: {error}"),
        }
    }

    /// Creates an object exactly as given, with the strict field validation of kubectl.
    ///
    /// # Errors
    /// The error message of the apiserver.
    pub fn create(&self, object: &Value) -> Result<Value, String> {
        self.sent(http::Method::POST, "", object)
    }

    /// Replaces an object, whatever its current resource version.
    ///
    /// # Errors
    /// The error message of the apiserver.
    pub fn replace(&self, object: &Value) -> Result<Value, String> {
        let named = format!("/{}", object["metadata"]["name"].as_str().expect("it has a name"));
        let there = self.get(&format!("{}{named}", object["kind"].as_str().expect("it has a kind")));
        let mut object = object.clone();
        let there = there.ok_or("it is not there")?;
        object["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"].clone();
        self.sent(http::Method::PUT, &named, &object)
    }

    /// Deletes an object if it exists. `what` is `kind/name`.
    pub fn delete(&self, what: &str) {
        let (kind, name) = what
            .split_once('/')
            .unwrap_or_else(|| panic!("{what} is not kind/name"));
        let collection = collection(kind, self.name()).expect("one of Valet's kinds");
        let path = format!("{collection}/{name}");
        match self.world.admin.ask(http::Method::DELETE, &path, None) {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("DELETE {path}: {error}"),
        }
    }

    fn sent(&self, method: http::Method, named: &str, object: &Value) -> Result<Value, String> {
        let kind = object["kind"].as_str().expect("it has a kind");
        let collection = collection(kind, self.name()).expect("one of Valet's kinds");
        let path = format!("{collection}{named}?fieldValidation=Strict");
        match self.world.admin.ask(method, &path, Some(object)) {
            Ok(object) => Ok(object),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Waits until the grant's `Ready` condition has this reason, and returns the grant.
    pub fn reason(&self, grant: &str, reason: &str) -> Value {
        self.reason_within(grant, reason, SOON)
    }

    /// Like `reason`, with a different timeout.
    pub fn reason_within(&self, grant: &str, reason: &str, timeout: Duration) -> Value {
        eventually(timeout, &format!("{grant} to be {reason}"), || {
            self.get(grant)
                .filter(|g| condition(g, "Ready").is_some_and(|c| c["reason"] == reason))
        })
    }

    /// Waits for a time when no poll of these UploadGrants is due: after the poll at 14 seconds and before the poll
    /// at 30 seconds (docs/adr/0012).
    pub fn between_polls(&self, grants: &[&str]) {
        let issued = grants.iter().map(|grant| -> Timestamp {
            let grant = self.reason(&format!("ug/{grant}"), "Issued");
            let time = grant["status"]["issuedTime"].as_str().expect("it was issued");
            time.parse().expect("a time")
        });
        let quiet = issued.max().expect("there are some") + SignedDuration::from_millis(15_500);
        std::thread::sleep(Duration::try_from(quiet.duration_since(Timestamp::now())).unwrap_or_default());
    }

    /// Waits until the store has the result of the conformance check with this request, and returns the store.
    pub fn answered(&self, request: &str) -> Value {
        // The operators of other tests can run conformance checks at the same time.
        eventually(3 * SOON, "the conformance check to finish", || {
            self.get(&format!("costore/{}", self.name()))
                .filter(|s| s["status"]["conformanceCheck"]["request"] == request)
        })
    }

    /// Waits until a Secret is deleted. Valet writes the grant's status before it deletes the Secret.
    pub fn gone(&self, secret: &str) {
        eventually(SOON, &format!("Secret {secret} to be deleted"), || {
            self.get(&format!("secret/{secret}")).is_none().then_some(())
        });
    }

    /// The current end of the audit log.
    pub fn mark(&self) -> AuditMark {
        self.world.plane.audit_mark().expect("the audit log can be read")
    }

    /// The operator's write requests to the apiserver in this namespace since the mark, including events.
    pub fn written(&self, since: AuditMark) -> Vec<AuditEvent> {
        let by_the_operator = |e: &AuditEvent| e.is_write() && e.namespace() == self.name() && e.user() == OPERATOR;
        let events = self.world.plane.audit_since(since).expect("the audit log can be read");
        events.into_iter().filter(by_the_operator).collect()
    }

    /// How many Secrets in this namespace were created, replaced and deleted since the mark, by any client.
    pub fn secrets_written(&self, since: AuditMark) -> (usize, usize, usize) {
        let events = self.world.plane.audit_since(since).expect("the audit log can be read");
        let of = |verb: &str| {
            let is_one = |e: &&AuditEvent| {
                e.verb() == verb && e.resource() == "secrets" && e.namespace() == self.name() && e.code() < 300
            };
            events.iter().filter(is_one).count()
        };
        (of("create"), of("update"), of("delete"))
    }

    /// Waits for the Secret and writes each entry into a file, as a mounted volume does.
    pub fn mount(&self, secret: &str) -> Mounted {
        let object = eventually(SOON, &format!("Secret {secret}"), || {
            self.get(&format!("secret/{secret}"))
        });
        self.mounted(&object)
    }

    /// Writes each entry of this Secret into a file, as a mounted volume does.
    pub fn mounted(&self, object: &Value) -> Mounted {
        let secret: Secret = serde_json::from_value(object.clone()).expect("it is a Secret");
        let text = |bytes: ByteString| String::from_utf8(bytes.0).expect("a grant's Secret holds text");
        let files: BTreeMap<_, _> = secret.data.into_iter().flatten().map(|(k, v)| (k, text(v))).collect();
        let folder = self
            .scratch
            .path()
            .join(object["metadata"]["resourceVersion"].as_str().unwrap_or("offline"));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        for (name, content) in &files {
            std::fs::write(folder.join(name), content).expect("a file can be written");
        }
        Mounted { folder, files }
    }

    /// Writes a file with these bytes and returns its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.scratch.path().join(name);
        std::fs::write(&path, bytes).expect("a file can be written");
        path
    }

    /// The status that kstatus computes for an object: `Current`, `InProgress` or `Failed`.
    pub fn kstatus(&self, object: &Value) -> String {
        valet_harness::kstatus(&self.world.tools, object)
            .expect("kstatus can compute")
            .0
    }

    /// The content of the object in the bucket, read with the store's own access key.
    pub fn stored(&self, key: &str) -> Option<Vec<u8>> {
        self.world.s3.get(self.name(), key).expect("the store answers")
    }
}

/// A grant's Secret as files, as a pod sees it.
pub struct Mounted {
    pub folder: PathBuf,
    pub files: BTreeMap<String, String>,
}

impl Mounted {
    /// Runs `curl --config curl.cfg` with additional arguments, as a workload does. Returns the HTTP status and the
    /// body.
    pub fn curl(&self, args: &[&str]) -> (u16, String) {
        let mut command = process::clean(Command::new("curl"));
        let config = self.folder.join("curl.cfg");
        // The option --no-fail keeps the body of an error response, which the tests read.
        command
            .arg("--config")
            .arg(config)
            .args(["--no-fail", "--write-out", "\n%{http_code}"])
            .args(args);
        let output = process::run(command, b"", SOON).expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').unwrap_or(("", &text));
        (
            code.trim()
                .parse()
                .unwrap_or_else(|_| panic!("curl said: {text} {}", output.stderr)),
            body.to_owned(),
        )
    }

    /// Uploads a file with the grant's credential. Returns the HTTP status and the body.
    pub fn upload(&self, file: &Path) -> (u16, String) {
        self.curl(&["--upload-file", file.to_str().expect("a plain path")])
    }
}

/// The condition of this type, if the object has it.
pub fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|c| c["type"] == type_)
}

/// The sorted names of the tenant's objects of these kinds whose `Ready` condition has this reason.
pub fn with_reason(t: &Tenant, kinds: &str, reason: &str) -> Vec<String> {
    let list: Value =
        serde_json::from_str(&t.kubectl(&["get", kinds, "--output=json"])).expect("kubectl prints JSON");
    let objects = list["items"].as_array().expect("a list").iter();
    let mut names: Vec<_> = objects
        .filter(|object| condition(object, "Ready").is_some_and(|c| c["reason"] == reason))
        .map(|object| object["metadata"]["name"].as_str().expect("it has a name").to_owned())
        .collect();
    names.sort();
    names
}

/// Status and reason of a condition, for example `True Issued`; empty if the condition does not exist.
pub fn says(object: &Value, type_: &str) -> String {
    condition(object, type_).map_or(String::new(), |c| {
        format!(
            "{} {}",
            c["status"].as_str().unwrap_or_default(),
            c["reason"].as_str().unwrap_or_default()
        )
    })
}

/// A JSON merge patch as in RFC 7396, except that null sets a field to null.
pub fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}
