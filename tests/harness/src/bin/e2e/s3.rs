//! The S3 server, a pod in the cluster with a Service whose address is the endpoint: no DNS is needed.

use serde_json::{Value, json};
use valet_harness::{Result, net};

use crate::{cluster::Cluster, pods};

const NAMESPACE: &str = "valet-e2e-s3";
const BUCKET: &str = "media";
const REGION: &str = "us-east-1";
/// The Secret with the store's credentials, in the operator's namespace.
const KEYS: &str = "e2e-keys";

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
        let mut spec = pods::spec(
            image,
            "mkdir -p /work/objects /work/versions /work/users
             exec versitygw --port 0.0.0.0:9000 --health /health --iam-dir /work/users \
               posix --versioning-dir /work/versions /work/objects",
            &[],
        );
        let container = &mut spec["containers"][0];
        container["env"] = json!([
            {"name": "ROOT_ACCESS_KEY", "value": s3.access_key}, {"name": "ROOT_SECRET_KEY", "value": s3.secret_key},
        ]);
        container["readinessProbe"] = json!({"httpGet": {"path": "/health", "port": 9000}, "periodSeconds": 1});
        cluster.apply(&[
            json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {
                    "valetkey.dev/e2e": "suite", "pod-security.kubernetes.io/enforce": "restricted",
                }},
            }),
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "s3", "namespace": NAMESPACE},
                "spec": {
                    "selector": {"matchLabels": {"app": "s3"}},
                    "template": {"metadata": {"labels": {"app": "s3"}}, "spec": spec},
                },
            }),
            service("s3", true),
        ])?;
        cluster.kubectl(&[
            "rollout",
            "status",
            "deployment/s3",
            "--namespace",
            NAMESPACE,
            "--timeout=90s",
        ])?;
        s3.ask(cluster, &["--request", "PUT"], "", "")?;
        Ok(s3)
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

    /// Another Service in front of the same server, which a story can close and open: closed, it has an address at
    /// which nobody answers.
    pub fn door(&self, cluster: &Cluster, name: &str, open: bool) -> Result<()> {
        cluster.apply(&[service(name, open)])
    }

    /// A request signed by curl, sent from within the server's pod: none of Valet's code is in it. The pod knows the
    /// credentials; they stand on no command line of ours.
    fn ask(&self, cluster: &Cluster, args: &[&str], key: &str, body: &str) -> Result<String> {
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
            "deployment/s3",
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

fn service(name: &str, open: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": if open { "s3" } else { "nobody" }}, "ports": [{"port": 9000}]},
    })
}
