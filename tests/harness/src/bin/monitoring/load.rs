//! The load for the monitoring test: uploads that arrive, uploads that do not arrive, downloads, refusals, and stores
//! with problems.

use std::{fs, process::Command, time::Duration};

use serde_json::{Value, json};
use valet_harness::{
    Context, ControlPlane, Result, S3Server, Scratch, net,
    process::{clean, run_ok},
};

/// The namespaces of the tenants.
const NAMESPACES: [&str; 3] = ["web", "shop", "batch"];
/// Timeout for kubectl and curl on a busy machine.
const LONGEST: Duration = Duration::from_secs(30);

pub struct Load<'a> {
    plane: &'a ControlPlane,
    s3: &'a S3Server,
    scratch: Scratch,
    /// Upload grants in `web` whose workload has not run yet.
    due: Vec<String>,
}

impl<'a> Load<'a> {
    /// Creates namespaces, buckets and stores. `media` works, the credentials of `archive` expire, `locked` forbids
    /// HEAD requests, `broken` does not answer, and `shop/own` has no credentials.
    pub fn prepare(plane: &'a ControlPlane, s3: &'a S3Server) -> Result<Self> {
        s3.create_bucket("media")?;
        s3.create_bucket("locked")?;
        s3.create_user("locked", "locked-secret-key")?;
        s3.put("media", "tenants/web/there", b"from before")?;
        let mut objects: Vec<Value> = NAMESPACES
            .iter()
            .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .collect();

        let mut date = clean(Command::new("date"));
        date.args(["--utc", "--date=50 hours", "+%Y-%m-%dT%H:%M:%SZ"]);
        let date = run_ok(date, &[], LONGEST)?.text();
        let end = date.trim();
        let key = |name: &str, id: &str, secret: &str, end: Option<&str>| {
            let mut data = json!({"AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": secret});
            if let Some(end) = end {
                data["AWS_CREDENTIAL_EXPIRATION"] = end.into();
            }
            let metadata = json!({"name": name, "namespace": "valet-system"});
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})
        };
        objects.extend([
            key("media-keys", s3.access_key(), s3.secret_key(), None),
            key("archive-keys", s3.access_key(), s3.secret_key(), Some(end)),
            key("locked-keys", "locked", "locked-secret-key", None),
        ]);
        // Nothing listens on this port, because it was just released.
        let nobody = format!("http://127.0.0.1:{}", net::free_port()?);
        for (name, bucket, endpoint, keys) in [
            ("media", "media", s3.endpoint(), "media-keys"),
            ("archive", "media", s3.endpoint(), "archive-keys"),
            ("locked", "locked", s3.endpoint(), "locked-keys"),
            ("broken", "media", nobody, "media-keys"),
        ] {
            let mut store = store("ClusterObjectStore", json!({"name": name}), s3, keys);
            store["spec"]["s3"]["bucket"] = bucket.into();
            store["spec"]["s3"]["endpoint"] = endpoint.into();
            store["spec"]["access"] = json!([{
                "namespaces": {"names": NAMESPACES}, "operations": ["Upload", "Download"],
                "keyPrefix": "tenants/{namespace}/", "maxExpirationSeconds": 3600,
            }]);
            objects.push(store);
        }
        objects.push(store(
            "ObjectStore",
            json!({"name": "own", "namespace": "shop"}),
            s3,
            "not-there",
        ));
        plane.apply_all(&objects)?;
        Ok(Self {
            plane,
            s3,
            scratch: Scratch::new("load")?,
            due: Vec::new(),
        })
    }

    /// Creates grants that wait during the whole test.
    pub fn waiting(&self) -> Result<()> {
        let mut own = grant("DownloadGrant", "shop", "waits", "own", 600);
        own["spec"]["storeRef"] = json!({"kind": "ObjectStore", "name": "own"});
        self.create(&[
            grant("UploadGrant", "batch", "stuck-1", "broken", 600),
            grant("UploadGrant", "batch", "stuck-2", "broken", 600),
            grant("DownloadGrant", "web", "lost", "nowhere", 600),
            own,
        ])
    }

    /// Runs round `n`: creates grants, and runs the workloads of the last round.
    pub fn round(&mut self, n: usize) -> Result<()> {
        for name in std::mem::take(&mut self.due) {
            self.upload(&name)?;
        }
        let of = |kind: &str, namespace: &str, what: &str, store: &str, seconds: usize| {
            grant(kind, namespace, &format!("{what}-{n}"), store, seconds)
        };
        let mut grants = vec![
            of("UploadGrant", "web", "avatar", "media", 900),
            of("DownloadGrant", "web", "page", "media", 20 + n % 7),
            of("DownloadGrant", "shop", "invoice", "archive", 35),
        ];
        self.due.push(format!("avatar-{n}"));
        if n % 4 == 1 {
            grants.push(of("UploadGrant", "batch", "unused", "media", 9));
            let mut open = of("UploadGrant", "batch", "unseen", "locked", 45);
            open["spec"]["constraints"] = json!({"overwrite": "Allow"});
            grants.push(open);
        }
        if n % 6 == 2 {
            let mut there = of("UploadGrant", "web", "again", "media", 60);
            there["spec"]["key"] = json!("tenants/web/there");
            grants.push(there);
            grants.push(of("DownloadGrant", "shop", "too-long", "media", 7200));
        }
        if n == 12 {
            grants.extend((0..25).map(|i| grant("DownloadGrant", "batch", &format!("report-{i}"), "media", 40)));
        }
        // A rollout with wrong grants.
        if (15..25).contains(&n) {
            for i in 0..3 {
                let mut wrong = of("UploadGrant", "shop", &format!("wrong-{i}"), "media", 60);
                wrong["spec"]["key"] = json!(format!("tenants/web/{n}-{i}"));
                grants.push(wrong);
            }
        }
        self.create(&grants)
    }

    /// The number of credentials in Secrets, according to Kubernetes.
    pub fn keys(&self) -> Result<usize> {
        let args = [
            "get",
            "secrets",
            "--all-namespaces",
            "--field-selector=type=valetkey.dev/grant",
            "--output=name",
        ];
        Ok(self.plane.kubectl(&args)?.lines().count())
    }

    fn create(&self, grants: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": grants});
        self.plane
            .kubectl_in(&list.to_string(), &["create", "--filename=-", "--output=name"])?;
        Ok(())
    }

    /// Uploads as a pod with the Secret does.
    fn upload(&self, name: &str) -> Result<()> {
        let template = r#"--output=go-template={{index .data "curl.cfg" | base64decode}}"#;
        let Ok(config) = self
            .plane
            .kubectl(&["get", "secret", name, "--namespace=web", template])
        else {
            // While the leader changes, the credential does not exist yet, so the pod waits.
            return Ok(());
        };
        let file = self.scratch.write("curl.cfg", config)?;
        let body = self.scratch.join("body");
        fs::write(&body, name).context("cannot write a body")?;
        let mut curl = clean(Command::new("curl"));
        curl.arg("--config").arg(file).arg("--upload-file").arg(body);
        run_ok(curl, &[], LONGEST)?;
        self.s3
            .head("media", &format!("tenants/web/{name}"))?
            .context("the upload is there")?;
        Ok(())
    }
}

fn store(kind: &str, metadata: Value, s3: &S3Server, keys: &str) -> Value {
    json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": kind, "metadata": metadata,
        "spec": {"s3": {
            "bucket": "media", "region": s3.region(), "endpoint": s3.endpoint(), "addressingStyle": "Path",
            "credentials": {"secretRef": {"name": keys}},
        }},
    })
}

fn grant(kind: &str, namespace: &str, name: &str, store: &str, seconds: usize) -> Value {
    json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "storeRef": {"kind": "ClusterObjectStore", "name": store},
            "key": format!("tenants/{namespace}/{name}"), "expirationSeconds": seconds,
        },
    })
}
