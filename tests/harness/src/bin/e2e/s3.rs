//! The S3 servers, pods in the cluster with Services whose addresses are the endpoints: no DNS is needed.

use serde_json::{Value, json};
use valet_harness::{Result, net};

use crate::{cluster::Cluster, pods};

const NAMESPACE: &str = "valet-e2e-s3";
const BUCKET: &str = "media";
const REGION: &str = "us-east-1";
/// The Secret with the store's credentials, in the operator's namespace.
const KEYS: &str = "e2e-keys";

/// What a server's pod runs.
enum Server<'a> {
    /// versitygw, with more options.
    Versitygw(&'a str),
    /// MinIO, which has an STS.
    Minio,
}

impl Server<'_> {
    fn script(&self) -> String {
        match self {
            Self::Versitygw(options) => format!(
                "mkdir -p /work/objects /work/versions /work/users
                 exec versitygw --port 0.0.0.0:9000 --health /health --iam-dir /work/users {options} \
                   posix --versioning-dir /work/versions /work/objects"
            ),
            Self::Minio => format!(
                "export MINIO_ROOT_USER=\"$ROOT_ACCESS_KEY\" MINIO_ROOT_PASSWORD=\"$ROOT_SECRET_KEY\"
                 export MINIO_REGION={REGION} MINIO_BROWSER=off MINIO_UPDATE=off HOME=/work
                 mkdir -p /work/objects
                 exec minio server --quiet --address :9000 /work/objects"
            ),
        }
    }

    fn health(&self) -> &'static str {
        match self {
            Self::Versitygw(_) => "/health",
            Self::Minio => "/minio/health/ready",
        }
    }
}

/// See the module.
pub struct S3 {
    access_key: String,
    secret_key: String,
}

impl S3 {
    /// Starts it and makes the bucket.
    pub fn install(cluster: &Cluster, image: &str) -> Result<Self> {
        let s3 = Self {
            access_key: format!("VALETE2E{}", net::random_hex(4)?.to_ascii_uppercase()),
            secret_key: net::random_hex(20)?,
        };
        cluster.apply(&[json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {
                "valetkey.dev/e2e": "suite", "pod-security.kubernetes.io/enforce": "restricted",
            }},
        })])?;
        s3.start(cluster, image, "s3", &Server::Versitygw(""))?;
        Ok(s3)
    }

    /// Starts a server with its Service and makes its bucket.
    fn start(&self, cluster: &Cluster, image: &str, name: &str, server: &Server<'_>) -> Result<()> {
        let mut spec = pods::spec(image, &server.script(), &[]);
        let container = &mut spec["containers"][0];
        container["env"] = json!([
            {"name": "ROOT_ACCESS_KEY", "value": self.access_key}, {"name": "ROOT_SECRET_KEY", "value": self.secret_key},
        ]);
        container["readinessProbe"] = json!({"httpGet": {"path": server.health(), "port": 9000}, "periodSeconds": 1});
        cluster.apply(&[
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {
                    "selector": {"matchLabels": {"app": name}},
                    "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
                },
            }),
            service(name, name),
        ])?;
        cluster.kubectl(&[
            "rollout",
            "status",
            &format!("deployment/{name}"),
            "--namespace",
            NAMESPACE,
            "--timeout=90s",
        ])?;
        self.ask_at(cluster, name, &["--request", "PUT"], "", "").map(|_| ())
    }

    /// Starts another server, with the same credentials, that announces what comes to `url`; the store that leads to it.
    pub fn notifying(&self, cluster: &Cluster, image: &str, url: &str, name: &str, access: &Value) -> Result<Value> {
        let options = format!("--event-webhook-url \"{url}\"");
        self.start(cluster, image, name, &Server::Versitygw(&options))?;
        self.store(cluster, name, name, access)
    }

    /// Starts a MinIO, with the same credentials; the store that leads to it and makes a session for each key.
    pub fn with_sessions(&self, cluster: &Cluster, image: &str, name: &str, access: &Value) -> Result<Value> {
        self.start(cluster, image, name, &Server::Minio)?;
        let mut store = self.store(cluster, name, name, access)?;
        store["spec"]["s3"]["credentials"]["assumeRole"] = json!({"durationSeconds": 3600});
        Ok(store)
    }

    /// The Secret with which Valet signs.
    pub fn credentials(&self, namespace: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": KEYS, "namespace": namespace},
            "stringData": {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key},
        })
    }

    /// A ClusterObjectStore that reaches the server by the Service `service`.
    pub fn store(&self, cluster: &Cluster, name: &str, service: &str, access: &Value) -> Result<Value> {
        let address = cluster.field(&["service", service, "--namespace", NAMESPACE], ".spec.clusterIP")?;
        Ok(json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": name},
            "spec": {
                "s3": {
                    "bucket": BUCKET, "region": REGION, "endpoint": format!("http://{}:9000", address.trim()),
                    "addressingStyle": "Path", "credentials": {"secretRef": {"name": KEYS}},
                },
                "access": access,
            },
        }))
    }

    /// Where the server's pod itself is, for who is on the node: Services' addresses are for pods.
    pub fn address_of_pod(&self, cluster: &Cluster) -> Result<String> {
        let pods = ["pods", "--namespace", NAMESPACE, "--selector", "app=s3"];
        let address = cluster.field(&pods, ".items[0].status.podIP")?;
        Ok(format!("http://{}:9000", address.trim()))
    }

    /// Another Service in front of the same server, which a story can close and open: closed, it has an address at
    /// which nobody answers.
    pub fn door(&self, cluster: &Cluster, name: &str, open: bool) -> Result<()> {
        cluster.apply(&[service(name, if open { "s3" } else { "nobody" })])
    }

    /// A request signed by curl, sent from within the server's pod: none of Valet's code is in it. The pod knows the
    /// credentials; they stand on no command line of ours.
    fn ask(&self, cluster: &Cluster, args: &[&str], key: &str, body: &str) -> Result<String> {
        self.ask_at(cluster, "s3", args, key, body)
    }

    /// The same of the server of this name, in its words.
    pub fn ask_at(&self, cluster: &Cluster, server: &str, args: &[&str], key: &str, body: &str) -> Result<String> {
        let server = format!("deployment/{server}");
        let line = format!(
            "exec curl --fail-with-body -sS --aws-sigv4 aws:amz:{REGION}:s3 --user \"$ROOT_ACCESS_KEY:$ROOT_SECRET_KEY\" \
             --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' \"$@\""
        );
        let url = format!(
            "http://127.0.0.1:9000/{BUCKET}{}{key}",
            if key.is_empty() { "" } else { "/" }
        );
        let exec = [
            "exec",
            "--stdin",
            &server,
            "--namespace",
            NAMESPACE,
            "--",
            "sh",
            "-c",
            &line,
            "curl",
        ];
        cluster.kubectl_in(body, &[&exec[..], args, &[&url]].concat())
    }

    /// Puts an object.
    pub fn put(&self, cluster: &Cluster, key: &str, body: &str) -> Result<()> {
        self.ask(cluster, &["--request", "PUT", "--data-binary", "@-"], key, body)
            .map(|_| ())
    }

    /// Reads an object.
    pub fn get(&self, cluster: &Cluster, key: &str) -> Result<String> {
        self.ask(cluster, &[], key, "")
    }

    /// The SHA-256 of an object, of which nothing leaves the server's pod.
    pub fn digest(&self, cluster: &Cluster, key: &str) -> Result<String> {
        let file = format!("/work/objects/{BUCKET}/{key}");
        cluster.kubectl(&[
            "exec",
            "deployment/s3",
            "--namespace",
            NAMESPACE,
            "--",
            "sha256sum",
            &file,
        ])
    }

    /// An object's headers.
    pub fn head(&self, cluster: &Cluster, key: &str) -> Result<String> {
        self.ask(cluster, &["--head"], key, "")
            .map(|text| text.to_ascii_lowercase())
    }
}

fn service(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": app}, "ports": [{"port": 9000}]},
    })
}
