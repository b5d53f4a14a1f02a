//! Tenants and their workloads: a write-once upload and a download.

use std::{fs, time::Duration};

use valet_harness::{Context, Result, poll};

use crate::Show;

/// The size of the tenant's file, which has any content.
const SIZE: u64 = 48_213;

/// Simulates how the kubelet mounts a Secret: one file for each entry.
const MOUNT: &str = r#"# usage: sh mount.sh SECRET FOLDER
mkdir "$2"
kubectl get secret "$1" -n web -o go-template='{{range $name, $value := .data}}{{$name}} {{$value}}{{"\n"}}{{end}}' |
  while read name value; do echo "$value" | base64 -d > "$2/$name"; done
"#;

impl Show {
    pub fn tenant(&mut self) -> Result<()> {
        self.stage.step(
            "A tenant creates a grant: one object, one content type, one checksum, five minutes",
            "The signature contains the constraints of the grant, so the store enforces them.",
        );
        self.stage.run(&format!("head -c {SIZE} /dev/urandom > avatar.png"))?;
        let checksum = self.stage.run("openssl dgst -sha256 -binary avatar.png | base64")?;
        let grant = format!(
            "apiVersion: valetkey.dev/v1alpha1
kind: UploadGrant
metadata: {{name: avatar-42, namespace: web}}
spec:
  storeRef: {{kind: ClusterObjectStore, name: media}}
  key: tenants/web/users/42/avatar.png
  expirationSeconds: 300
  constraints:
    contentType: image/png
    contentLength: {SIZE}
    checksumSHA256: {}
",
            checksum.trim()
        );
        self.stage.file("avatar-42.yaml", &grant)?;
        self.stage.run("kubectl apply -f avatar-42.yaml")?;
        self.stage
            .run("kubectl wait --for=condition=Ready ug/avatar-42 -n web --timeout=30s")?;
        self.stage.run("kubectl describe secret avatar-42 -n web")?;
        self.stage.run(
            "kubectl get secret avatar-42 -n web -o jsonpath='{.data.url}' | base64 -d |\n  \
             sed -E 's/(X-Amz-Signature=)[0-9a-f]+/\\1…/; s/[?&]/\\n  &/g'",
        )?;

        let secret = self
            .cluster
            .kubectl_json(&["get", "secret", "avatar-42", "-n", "web"])?;
        let names: Vec<&str> = secret["data"]
            .as_object()
            .map(|data| data.keys().map(String::as_str).collect())
            .unwrap_or_default();
        self.stage.check(
            names == ["curl.cfg", "expiry", "headers", "method", "provider", "type", "url"]
                && secret["type"] == "valetkey.dev/grant",
            "the Secret in the tenant's namespace contains only the credential",
        );
        let annotations = &secret["metadata"]["annotations"];
        let time = |name: &str| {
            annotations[format!("valetkey.dev/{name}")]
                .as_str()
                .and_then(|time| time.parse::<jiff::Timestamp>().ok())
        };
        self.stage.check(
            time("issued-at")
                .zip(time("expires-at"))
                .is_some_and(|(from, to)| to.duration_since(from).as_secs() == 300),
            "it contains the expiry: 300 s after the signature",
        );
        let grant = self.cluster.kubectl_json(&["get", "ug", "avatar-42", "-n", "web"])?;
        let owner = &secret["metadata"]["ownerReferences"][0];
        self.stage.check(
            owner["uid"] == grant["metadata"]["uid"] && owner["controller"] == true,
            "the grant owns the Secret, so Kubernetes deletes it with the grant",
        );
        Ok(())
    }

    pub fn workload(&mut self) -> Result<()> {
        self.stage.step(
            "The workload needs a mounted file and curl: no SDK, no store credentials, no access to the cluster",
            "There is no node, so a script does what the kubelet does when a pod mounts the Secret.",
        );
        self.stage.file("mount.sh", MOUNT)?;
        self.stage.run("sh mount.sh avatar-42 grant && ls -x grant")?;
        self.stage.note("First a different file of the same size:");
        self.stage.run(&format!("head -c {SIZE} /dev/zero > zeros.png"))?;
        let (_, refusal) = self.stage.attempt(
            "curl --config grant/curl.cfg --no-fail --upload-file zeros.png | grep -oE '<(Code|Message)>[^<]*'",
        )?;
        let (key, bucket) = ("tenants/web/users/42/avatar.png", "media");
        self.stage.check(
            refusal.contains("<Code>") && self.store.head(bucket, key)?.is_none(),
            "the store rejects different bytes",
        );
        self.stage.note("And now the file of the grant:");
        let (status, said) = self
            .stage
            .attempt("curl --config grant/curl.cfg --upload-file avatar.png --write-out 'HTTP %{http_code}\\n'")?;
        let bytes = fs::read(self.stage.folder().join("avatar.png")).context("cannot read avatar.png")?;
        self.stage.check(
            status == 0 && said.contains("HTTP 200") && self.store.get(bucket, key)? == Some(bytes),
            "the bytes went directly from the workload to the store",
        );
        Ok(())
    }

    pub fn write_once(&mut self) -> Result<()> {
        self.stage.step(
            "The credential can write only once, and the operator detects the upload",
            "A copy of the URL does not work any more.",
        );
        let (status, said) = self
            .stage
            .attempt("curl --config grant/curl.cfg --upload-file avatar.png")?;
        self.stage.check(
            status != 0 && said.contains("412"),
            "the store rejects a second upload (412 Precondition Failed)",
        );
        self.stage
            .run("kubectl wait --for=condition=Completed ug/avatar-42 -n web --timeout=90s")?;
        self.stage
            .run("kubectl get ug avatar-42 -n web -o jsonpath-as-json='{.status.object}'")?;
        let grant = self.cluster.kubectl_json(&["get", "ug", "avatar-42", "-n", "web"])?;
        let object = &grant["status"]["object"];
        let versions = self.store.versions("media", "tenants/web/users/42/avatar.png")?;
        let stored = versions.first().context("the store has no such object")?;
        self.stage.check(
            versions.len() == 1
                && object["size"] == stored.size
                && object["version"] == stored.version.as_str()
                && object["eTag"].as_str().map(|tag| tag.trim_matches('"')) == Some(stored.e_tag.trim_matches('"')),
            "the grant's status has the size, ETag and version of the object in the store",
        );
        let gone = poll(Duration::from_secs(10), || {
            (!self.secret_exists("avatar-42")).then_some(())
        });
        let (status, said) = self.stage.attempt("kubectl get secret avatar-42 -n web")?;
        self.stage.check(
            gone.is_some() && status != 0 && said.contains("NotFound"),
            "Valet has deleted the Secret",
        );
        Ok(())
    }

    pub fn download(&mut self) -> Result<()> {
        self.stage
            .step("Another workload reads it", "A DownloadGrant works the same way.");
        let grant = "apiVersion: valetkey.dev/v1alpha1
kind: DownloadGrant
metadata: {name: avatar-42-read, namespace: web}
spec:
  storeRef: {kind: ClusterObjectStore, name: media}
  key: tenants/web/users/42/avatar.png
  expirationSeconds: 600
";
        self.stage.file("avatar-42-read.yaml", grant)?;
        self.stage.run("kubectl apply -f avatar-42-read.yaml")?;
        self.stage
            .run("kubectl wait --for=condition=Ready dg/avatar-42-read -n web --timeout=30s")?;
        self.stage.run("sh mount.sh avatar-42-read read")?;
        self.stage.run("curl --config read/curl.cfg --output copy.png")?;
        let (status, _) = self.stage.attempt("cmp avatar.png copy.png && echo the same")?;
        self.stage
            .check(status == 0, "the downloaded file is equal to the uploaded file");
        Ok(())
    }
}
