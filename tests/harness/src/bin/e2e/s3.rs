//! S3 servers in pods. The endpoints of the stores are the IP addresses of their Services, so no DNS is needed.

use serde_json::{Value, json};
use valet_harness::{Result, net};

use crate::{cluster::Cluster, pods};

const NAMESPACE: &str = "valet-e2e-s3";
/// The server that most tests use, and its Service.
const MAIN: &str = "s3";
const BUCKET: &str = "media";
const REGION: &str = "us-east-1";
/// The Secret with the store's credentials, in the operator's namespace.
const KEYS: &str = "e2e-keys";

/// The server software in a pod.
enum Server<'a> {
    /// versitygw with additional arguments.
    Versitygw(&'a str),
    /// MinIO, which has an STS.
    Minio,
    /// A gateway in front of the server at this address. It does not check signatures: see [`GATEWAY`].
    Gateway(&'a str),
}

/// A gateway that some users put in front of a store so that clients need no credentials. It does not check the
/// signature, the expiry or the object key of a request. It signs each request itself, and forwards only the method,
/// the path, the type and the body. It supports only requests for objects. The script reads one request from standard
/// input and writes the response to standard output.
const GATEWAY: &str = r#"
end=$(printf '\r')
read -r method target version
path=${target%%\?*} length=0 type=application/octet-stream
while read -r line; do
  line=${line%"$end"} value=${line#*: }
  case $line in
    '') break ;;
    [Cc]ontent-[Ll]ength:*) length=$value ;;
    [Cc]ontent-[Tt]ype:*) type=$value ;;
  esac
done
body=/work/body.$$
head -c "$length" > $body
trap 'rm -f $body' EXIT
case $path in
  /health | /media/?*) ;;
  *) method=NONE ;;
esac
case $method in
  HEAD) set -- --head ;;
  GET | DELETE) set -- --request $method ;;
  PUT) set -- --request PUT --data-binary @$body --header "content-type: $type" ;;
  *) printf 'HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n'; exit ;;
esac
curl --silent --include --raw --aws-sigv4 aws:amz:REGION:s3 --user "$ROOT_ACCESS_KEY:$ROOT_SECRET_KEY" \
  --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --header 'connection: close' "$@" "UPSTREAM$path"
"#;

impl Server<'_> {
    fn script(&self) -> String {
        match self {
            Self::Versitygw(options) => format!(
                // A deleted access key must stop working at once, not after the two minutes of the cache.
                "mkdir -p /work/objects /work/versions /work/users
                 exec versitygw --port 0.0.0.0:9000 --health /health --iam-dir /work/users --iam-cache-disable {options} \
                   posix --versioning-dir /work/versions /work/objects"
            ),
            Self::Minio => format!(
                "export MINIO_ROOT_USER=\"$ROOT_ACCESS_KEY\" MINIO_ROOT_PASSWORD=\"$ROOT_SECRET_KEY\"
                 export MINIO_REGION={REGION} MINIO_BROWSER=off MINIO_UPDATE=off HOME=/work
                 mkdir -p /work/objects
                 exec minio server --quiet --address :9000 /work/objects"
            ),
            Self::Gateway(upstream) => format!(
                "cat > /work/gateway <<'END'\n{}\nEND\nexec nc -ll -p 9000 -e sh /work/gateway",
                GATEWAY.replace("REGION", REGION).replace("UPSTREAM", upstream)
            ),
        }
    }

    fn health(&self) -> &'static str {
        match self {
            Self::Versitygw(_) | Self::Gateway(_) => "/health",
            Self::Minio => "/minio/health/ready",
        }
    }
}

/// An access key of the servers.
pub struct AccessKey {
    id: String,
    secret: String,
}

impl AccessKey {
    fn random() -> Result<Self> {
        Ok(Self {
            id: format!("VALETE2E{}", net::random_hex(4)?.to_ascii_uppercase()),
            secret: net::random_hex(20)?,
        })
    }

    /// The same access key with a wrong secret, as after a copy error.
    pub fn with_wrong_secret(&self) -> Result<Self> {
        let id = self.id.clone();
        Ok(Self { id, ..Self::random()? })
    }

    /// A Secret with this access key for a store.
    pub fn in_secret(&self, namespace: &str, name: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
            "stringData": {"AWS_ACCESS_KEY_ID": self.id, "AWS_SECRET_ACCESS_KEY": self.secret},
        })
    }
}

/// The S3 servers of the tests.
pub struct S3 {
    root: AccessKey,
}

impl S3 {
    /// Starts the server and creates the bucket.
    pub fn install(cluster: &Cluster, image: &str) -> Result<Self> {
        let s3 = Self {
            root: AccessKey::random()?,
        };
        cluster.apply(&[json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {
                "valetkey.dev/e2e": "suite", "pod-security.kubernetes.io/enforce": "restricted",
            }},
        })])?;
        s3.start_with_bucket(cluster, image, MAIN, &Server::Versitygw(""))?;
        Ok(s3)
    }

    /// Starts a server with its Service and creates its bucket.
    fn start_with_bucket(&self, cluster: &Cluster, image: &str, name: &str, server: &Server<'_>) -> Result<()> {
        self.start(cluster, image, name, server)?;
        self.ask_at(cluster, name, &["--request", "PUT"], "", "").map(|_| ())
    }

    /// Starts a server with its Service.
    fn start(&self, cluster: &Cluster, image: &str, name: &str, server: &Server<'_>) -> Result<()> {
        let mut spec = pods::spec(image, &server.script(), &[]);
        let container = &mut spec["containers"][0];
        container["env"] = json!([
            {"name": "ROOT_ACCESS_KEY", "value": self.root.id}, {"name": "ROOT_SECRET_KEY", "value": self.root.secret},
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
        let deployment = format!("deployment/{name}");
        let status = [
            "rollout",
            "status",
            &deployment,
            "--timeout=90s",
            "--namespace",
            NAMESPACE,
        ];
        cluster.kubectl(&status)?;
        if name == MAIN {
            return Ok(());
        }
        // The nodes can reach the Service only some time after the pod is ready. Valet probes a store that does not
        // answer again only after a minute, so wait here.
        let url = format!("{}{}", endpoint(cluster, name)?, server.health());
        let main = format!("deployment/{MAIN}");
        let ask = [
            "exec",
            &main,
            "--namespace",
            NAMESPACE,
            "--",
            "curl",
            "--fail",
            "-sS",
            "-o",
            "/dev/null",
            &url,
        ];
        cluster.wait(30, &format!("the way to Service {name}"), || {
            cluster.kubectl(&ask).map(|_| Some(()))
        })
    }

    /// Starts another server with the same credentials that sends notifications to `url`. Returns a store for this
    /// server.
    pub fn notifying(&self, cluster: &Cluster, image: &str, url: &str, name: &str, access: &Value) -> Result<Value> {
        let options = format!("--event-webhook-url \"{url}\"");
        self.start_with_bucket(cluster, image, name, &Server::Versitygw(&options))?;
        self.store(cluster, name, name, access)
    }

    /// Starts a MinIO with the same credentials. Returns a store that uses an STS session for each grant.
    pub fn with_sessions(&self, cluster: &Cluster, image: &str, name: &str, access: &Value) -> Result<Value> {
        self.start_with_bucket(cluster, image, name, &Server::Minio)?;
        let mut store = self.store(cluster, name, name, access)?;
        store["spec"]["s3"]["credentials"]["assumeRole"] = json!({"durationSeconds": 3600});
        Ok(store)
    }

    /// Starts a gateway in front of the server that checks no signatures. Returns a store for the gateway.
    pub fn behind_gateway(&self, cluster: &Cluster, image: &str, name: &str, access: &Value) -> Result<Value> {
        let server = endpoint(cluster, MAIN)?;
        self.start(cluster, image, name, &Server::Gateway(&server))?;
        self.store(cluster, name, name, access)
    }

    /// The Secret with the credentials that Valet signs with.
    pub fn credentials(&self, namespace: &str) -> Value {
        self.root.in_secret(namespace, KEYS)
    }

    /// Creates another access key with all permissions on the server.
    pub fn add_access_key(&self, cluster: &Cluster) -> Result<AccessKey> {
        let key = AccessKey::random()?;
        let line = r#"read -r secret; admin create-user --access "$1" --secret "$secret" --role admin"#;
        self.admin(cluster, line, &key.id, &key.secret)?;
        Ok(key)
    }

    /// Deletes an access key. URLs that it signed stop working at once.
    pub fn delete_access_key(&self, cluster: &Cluster, key: &AccessKey) -> Result<()> {
        self.admin(cluster, r#"admin delete-user --access "$1""#, &key.id, "")
    }

    /// Runs an administration command in the pod of the server.
    fn admin(&self, cluster: &Cluster, line: &str, id: &str, stdin: &str) -> Result<()> {
        let script = format!(
            "admin() {{ ADMIN_ACCESS_KEY_ID=$ROOT_ACCESS_KEY ADMIN_SECRET_ACCESS_KEY=$ROOT_SECRET_KEY ADMIN_REGION={REGION} \
             ADMIN_ENDPOINT_URL=http://127.0.0.1:9000 versitygw admin \"$@\"; }}; {line}"
        );
        let pod = ["exec", "--stdin", "deployment/s3", "--namespace", NAMESPACE];
        let shell = ["--", "sh", "-euc", &script, "sh", id];
        cluster
            .kubectl_in(&format!("{stdin}\n"), &[&pod[..], &shell].concat())
            .map(|_| ())
    }

    /// A ClusterObjectStore that uses the Service `service`.
    pub fn store(&self, cluster: &Cluster, name: &str, service: &str, access: &Value) -> Result<Value> {
        Ok(json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": name},
            "spec": {
                "s3": {
                    "bucket": BUCKET, "region": REGION, "endpoint": endpoint(cluster, service)?,
                    "addressingStyle": "Path", "credentials": {"secretRef": {"name": KEYS}},
                },
                "access": access,
            },
        }))
    }

    /// The endpoint of the server for pods.
    pub fn endpoint(&self, cluster: &Cluster) -> Result<String> {
        endpoint(cluster, MAIN)
    }

    /// The endpoint of the server's pod, for clients on the node. Service addresses work only for pods.
    pub fn address_of_pod(&self, cluster: &Cluster) -> Result<String> {
        let pods = ["pods", "--namespace", NAMESPACE, "--selector", "app=s3"];
        let address = cluster.field(&pods, ".items[0].status.podIP")?;
        Ok(format!("http://{}:9000", address.trim()))
    }

    /// Another Service for the same server, which a test can close and open. A closed Service has an address that
    /// does not answer.
    pub fn door(&self, cluster: &Cluster, name: &str, open: bool) -> Result<()> {
        cluster.apply(&[service(name, if open { "s3" } else { "nobody" })])
    }

    /// Sends a request that curl signs, from the pod of the server. It uses no code of Valet. The pod contains the
    /// credentials, so they are on no command line.
    fn ask(&self, cluster: &Cluster, args: &[&str], key: &str, body: &str) -> Result<String> {
        self.ask_at(cluster, MAIN, args, key, body)
    }

    /// As `ask`, for the server with this name.
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

    /// The SHA-256 of an object, computed in the pod of the server.
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

    /// The headers of an object.
    pub fn head(&self, cluster: &Cluster, key: &str) -> Result<String> {
        self.ask(cluster, &["--head"], key, "")
            .map(|text| text.to_ascii_lowercase())
    }
}

/// The endpoint of this Service for pods.
fn endpoint(cluster: &Cluster, service: &str) -> Result<String> {
    let address = cluster.field(&["service", service, "--namespace", NAMESPACE], ".spec.clusterIP")?;
    Ok(format!("http://{}:9000", address.trim()))
}

fn service(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app": app}, "ports": [{"port": 9000}]},
    })
}
