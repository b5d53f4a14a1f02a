//! Valet's story, from an empty machine to an upload, a download and a key that is over, on a real control plane and
//! a real S3 server. Every command that is shown is run as it is shown, and every step is checked.
//!
//! ```text
//! demo [--keep]
//! ```
//! `--keep`, or the environment variable KEEP with anything in it, leaves everything running until Ctrl-C. The
//! operator is the program that VALET_BIN names, else the `valet` next to this one.

mod stage;

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, SystemTime},
};

use stage::Stage;
use valet_harness::{
    Context, ControlPlane, Error, Operator, OperatorOptions, Result, S3Server, Scratch, Tools,
    operator::find_valet,
    poll,
    process::{exit_on_interrupt, interrupt_is_the_end},
};

/// The tenant's file: any bytes do.
const SIZE: u64 = 48_213;

/// What the kubelet does when a pod mounts a Secret: one file for each entry.
const MOUNT: &str = r#"# usage: sh mount.sh SECRET FOLDER
mkdir "$2"
kubectl get secret "$1" -n web -o go-template='{{range $name, $value := .data}}{{$name}} {{$value}}{{"\n"}}{{end}}' |
  while read name value; do echo "$value" | base64 -d > "$2/$name"; done
"#;

fn main() -> ExitCode {
    exit_on_interrupt();
    let mut keep = env::var_os("KEEP").is_some_and(|value| !value.is_empty());
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--keep" => keep = true,
            _ => {
                eprintln!("usage: demo [--keep]\n  --keep  leave everything running until Ctrl-C");
                return ExitCode::from(2);
            }
        }
    }
    match play(keep) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything went as it should.
fn play(keep: bool) -> Result<bool> {
    let valet = find_valet()?;
    let tools = Tools::locate()?;
    let programs = Scratch::new("bin")?;
    symlink(&valet, programs.join("valet")).context("cannot make a link")?;
    let mut stage = Stage::new(&[programs.path(), tools.folder()])?;
    stage.title("Valet: an hour's key to one object, in a Secret, and never the store's credentials");

    stage.step(
        "A cluster and an object store",
        "etcd, kube-apiserver and kube-controller-manager, and versitygw, which speaks S3: real ones, as plain processes.",
    );
    let (cluster, store) = start_servers(&tools)?;
    store.create_versioned_bucket("media")?;
    stage.set("KUBECONFIG", cluster.kubeconfig().display().to_string());
    // What kubectl caches, and what it might find at home.
    stage.set("HOME", cluster.scratch().join("home").display().to_string());
    stage.set("S3_ENDPOINT", store.endpoint());
    stage.set("S3_ACCESS_KEY", store.access_key());
    stage.set("S3_SECRET_KEY", store.secret_key());

    let mut show = Show {
        stage,
        cluster,
        store,
        valet,
        operator: None,
    };
    if let Err(error) = show.story() {
        show.stage.fail(&error);
        if let Some(operator) = &show.operator {
            println!("\nThe operator's last words:\n{}", operator.process().log_tail());
        }
        println!("\nIn the namespace web:\n{}", show.cluster.dump("web"));
        show.cluster.scratch().keep();
    }
    let good = show.stage.end();
    if keep {
        show.invite();
        interrupt_is_the_end();
        loop {
            thread::park();
        }
    }
    Ok(good)
}

fn start_servers(tools: &Tools) -> Result<(ControlPlane, S3Server)> {
    thread::scope(|scope| {
        let store = scope.spawn(|| S3Server::start(tools));
        let cluster = ControlPlane::start(tools)?;
        let store = store.join().map_err(|_| Error::new("starting the store panicked"))??;
        Ok((cluster, store))
    })
}

struct Show {
    stage: Stage,
    cluster: ControlPlane,
    store: S3Server,
    valet: PathBuf,
    operator: Option<Operator>,
}

impl Show {
    fn story(&mut self) -> Result<()> {
        self.servers()?;
        self.install()?;
        self.operator()?;
        self.platform_team()?;
        self.tenant()?;
        self.workload()?;
        self.write_once()?;
        self.download()?;
        self.overview()?;
        self.the_end_of_a_key()?;
        self.refused()?;
        self.ledger()
    }

    fn servers(&mut self) -> Result<()> {
        let version = self.stage.run("kubectl version")?;
        self.stage.check(
            version.contains("Server Version: v"),
            &format!(
                "the cluster answers, {:.1} s after its start",
                self.cluster.started_in().as_secs_f64()
            ),
        );
        let (_, status) = self
            .stage
            .attempt("curl --silent $S3_ENDPOINT/media --output answer.xml --write-out '%{http_code}\\n'")?;
        self.stage.check(
            status.trim() == "403",
            &format!(
                "the store answers, {:.1} s after its start, and lets nobody in without a key",
                self.store.started_in().as_secs_f64()
            ),
        );
        Ok(())
    }

    fn install(&mut self) -> Result<()> {
        self.stage.step(
            "Install Valet's kinds",
            "Four custom resources; their rules are checked by the apiserver itself.",
        );
        self.stage.run("valet crds | kubectl apply -f -")?;
        self.stage
            .run("kubectl wait --for=condition=Established crd --all --timeout=30s")?;
        let kinds = self.stage.run("kubectl api-resources --api-group=valetkey.dev")?;
        let all = ["UploadGrant", "DownloadGrant", "ObjectStore", "ClusterObjectStore"];
        self.stage.check(
            all.iter().all(|kind| kinds.contains(kind)),
            "the cluster knows grants and stores",
        );
        Ok(())
    }

    fn operator(&mut self) -> Result<()> {
        self.stage.step(
            "Start the operator",
            "One process; in a cluster it would run as a Deployment.",
        );
        self.stage.run("kubectl create namespace valet-system")?;
        self.stage
            .note("$ valet controller --operator-namespace valet-system &");
        let options = OperatorOptions {
            args: vec!["--operator-namespace=valet-system".into()],
            env: vec![("VALET_LOG_FORMAT".into(), "human".into())],
            ..OperatorOptions::default()
        };
        let (valet, cluster) = (&self.valet, &self.cluster);
        let operator = thread::scope(|scope| {
            // Its garbage collector looks for new kinds only every half minute, unless it is new itself.
            let restart = scope.spawn(|| cluster.restart_controller_manager());
            let operator = Operator::start(valet, cluster, &options)?;
            restart.join().map_err(|_| Error::new("the restart panicked"))??;
            Ok::<_, Error>(operator)
        })?;
        let (status, _) = operator.http_get("/readyz")?;
        self.operator = Some(operator);
        self.stage.check(status == 200, "its /readyz says 200");
        Ok(())
    }

    fn platform_team(&mut self) -> Result<()> {
        self.stage.step(
            "The platform team owns the store",
            "Its credentials stay in valet-system; its rules say who may ask for what.",
        );
        self.stage.run(
            "kubectl create secret generic media-keys -n valet-system \\\n  \
             --from-literal=AWS_ACCESS_KEY_ID=$S3_ACCESS_KEY \\\n  \
             --from-literal=AWS_SECRET_ACCESS_KEY=$S3_SECRET_KEY",
        )?;
        let store = format!(
            r#"apiVersion: valetkey.dev/v1alpha1
kind: ClusterObjectStore
metadata: {{name: media}}
spec:
  s3:
    bucket: media
    region: {}
    endpoint: {}
    addressingStyle: Path
    credentials:
      secretRef: {{name: media-keys}}
  access:                              # whatever no rule allows is refused
  - namespaces: {{names: [web]}}
    operations: [Upload, Download]
    keyPrefix: "tenants/{{namespace}}/"
    maxExpirationSeconds: 3600
"#,
            self.store.region(),
            self.store.endpoint()
        );
        self.stage.file("store.yaml", &store)?;
        self.stage.run("kubectl apply -f store.yaml")?;
        self.stage
            .run("kubectl wait --for=condition=Ready costore/media --timeout=30s")?;
        self.stage.run("kubectl create namespace web")?;
        let ready = self.stage.run("kubectl get costore media")?;
        self.stage
            .check(ready.contains("True"), "the store is ready to be asked for keys");
        Ok(())
    }

    fn tenant(&mut self) -> Result<()> {
        self.stage.step(
            "A tenant asks for a key: this object, this type, these very bytes, five minutes",
            "Whatever the grant says becomes part of the signature, so that the store enforces it.",
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
            "the key is in a Secret of the tenant's namespace, and nothing else is",
        );
        let annotations = &secret["metadata"]["annotations"];
        let time = |name: &str| annotations[format!("valetkey.dev/{name}")].as_str().and_then(epoch);
        self.stage.check(
            time("issued-at")
                .zip(time("expires-at"))
                .is_some_and(|(from, to)| to - from == 300),
            "it says when the key ends: 300 s after it was signed",
        );
        let grant = self.cluster.kubectl_json(&["get", "ug", "avatar-42", "-n", "web"])?;
        let owner = &secret["metadata"]["ownerReferences"][0];
        self.stage.check(
            owner["uid"] == grant["metadata"]["uid"] && owner["controller"] == true,
            "it belongs to the grant and goes when the grant goes",
        );
        Ok(())
    }

    fn workload(&mut self) -> Result<()> {
        self.stage.step(
            "The workload has a mounted file and curl: no SDK, no credentials, no access to the cluster",
            "There is no node here, so a script does what the kubelet does when a pod mounts the Secret.",
        );
        self.stage.file("mount.sh", MOUNT)?;
        self.stage.run("sh mount.sh avatar-42 grant && ls -x grant")?;
        self.stage
            .note("First something else than was agreed, of the same size:");
        self.stage.run(&format!("head -c {SIZE} /dev/zero > zeros.png"))?;
        let (_, refusal) = self.stage.attempt(
            "curl --config grant/curl.cfg --no-fail --upload-file zeros.png | grep -oE '<(Code|Message)>[^<]*'",
        )?;
        let (key, bucket) = ("tenants/web/users/42/avatar.png", "media");
        self.stage.check(
            refusal.contains("<Code>") && self.store.head(bucket, key)?.is_none(),
            "the store itself refuses other bytes",
        );
        self.stage.note("And now the file that the key is for:");
        let (status, said) = self
            .stage
            .attempt("curl --config grant/curl.cfg --upload-file avatar.png --write-out 'HTTP %{http_code}\\n'")?;
        let bytes = fs::read(self.stage.folder().join("avatar.png")).context("cannot read avatar.png")?;
        self.stage.check(
            status == 0 && said.contains("HTTP 200") && self.store.get(bucket, key)? == Some(bytes),
            "the bytes went straight from the workload to the store",
        );
        Ok(())
    }

    fn write_once(&mut self) -> Result<()> {
        self.stage.step(
            "The key writes once, and the operator sees that it was used",
            "Its holder may keep a copy: it is worth nothing any more.",
        );
        let (status, said) = self
            .stage
            .attempt("curl --config grant/curl.cfg --upload-file avatar.png")?;
        self.stage.check(
            status != 0 && said.contains("412"),
            "a second upload is refused (412 Precondition Failed)",
        );
        self.stage
            .run("kubectl wait --for=condition=Completed ug/avatar-42 -n web --timeout=90s")?;
        self.stage
            .run("kubectl get ug avatar-42 -n web -o jsonpath-as-json='{.status.object}'")?;
        let grant = self.cluster.kubectl_json(&["get", "ug", "avatar-42", "-n", "web"])?;
        let object = &grant["status"]["object"];
        let versions = self.store.versions("media", "tenants/web/users/42/avatar.png")?;
        let stored = versions.first().context("the store holds no such object")?;
        self.stage.check(
            versions.len() == 1
                && object["size"] == stored.size
                && object["version"] == stored.version.as_str()
                && object["eTag"].as_str().map(|tag| tag.trim_matches('"')) == Some(stored.e_tag.trim_matches('"')),
            "the grant's status has the object's size, entity tag and version, as the store has them",
        );
        let gone = poll(Duration::from_secs(10), || {
            (!self.secret_exists("avatar-42")).then_some(())
        });
        let (status, said) = self.stage.attempt("kubectl get secret avatar-42 -n web")?;
        self.stage.check(
            gone.is_some() && status != 0 && said.contains("NotFound"),
            "the Secret is withdrawn",
        );
        Ok(())
    }

    fn download(&mut self) -> Result<()> {
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
        self.stage.check(status == 0, "the same bytes come back");
        Ok(())
    }

    fn overview(&mut self) -> Result<()> {
        self.stage.step(
            "What the team sees",
            "One row a grant; kubectl wait, Helm, Argo CD and Flux read the same Ready.",
        );
        let rows = self.stage.run("kubectl get ug,dg -n web")?;
        let row = |name: &str, words: [&str; 2]| {
            rows.lines().any(|line| {
                line.contains(name) && words.iter().all(|word| line.split_whitespace().any(|w| w == *word))
            })
        };
        self.stage.check(
            row("/avatar-42 ", ["True", "Completed"]) && row("/avatar-42-read ", ["True", "Issued"]),
            "one is completed, the other one's key works",
        );
        Ok(())
    }

    fn the_end_of_a_key(&mut self) -> Result<()> {
        self.stage.step(
            "The end of a key",
            "Eight seconds to live, and five more until the finished grant is collected.",
        );
        let grant = "apiVersion: valetkey.dev/v1alpha1
kind: DownloadGrant
metadata: {name: quick-look, namespace: web}
spec:
  storeRef: {kind: ClusterObjectStore, name: media}
  key: tenants/web/users/42/avatar.png
  expirationSeconds: 8
  ttlSecondsAfterFinished: 5
";
        self.stage.file("quick-look.yaml", grant)?;
        self.stage.run("kubectl apply -f quick-look.yaml")?;
        self.stage
            .run("kubectl wait --for=condition=Ready dg/quick-look -n web --timeout=30s")?;
        self.stage.run("sh mount.sh quick-look quick")?;
        self.stage
            .run("curl --config quick/curl.cfg --output look.png && cat quick/expiry && echo")?;
        let expiry =
            fs::read_to_string(self.stage.folder().join("quick/expiry")).context("cannot read quick/expiry")?;
        let end = epoch(expiry.trim()).context(format_args!("quick/expiry is {expiry:?}, no RFC 3339 time"))?;
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(end.unsigned_abs());

        let mut early = false;
        let gone = poll(Duration::from_secs(30), || {
            let now = SystemTime::now();
            match end.duration_since(now) {
                Ok(left) => self
                    .stage
                    .live(&format!("the key works for another {} s", left.as_secs() + 1)),
                Err(over) => self.stage.live(&format!("over for {} s", over.duration().as_secs())),
            }
            if self.secret_exists("quick-look") {
                return None;
            }
            // After the look: one that began before the end may have seen what was there after it.
            let now = SystemTime::now();
            early |= now < end;
            Some(now)
        });
        self.stage.live_end();
        let late = gone.and_then(|gone| gone.duration_since(end).ok());
        self.stage.check(
            !early && late.is_some_and(|late| late < Duration::from_millis(1500)),
            &match late {
                Some(late) => format!("its Secret was gone {:.2} s after its end", late.as_secs_f64()),
                None => "its Secret goes at its end, neither before nor much later".to_owned(),
            },
        );
        let (_, refusal) = self.stage.attempt("curl --config quick/curl.cfg --no-fail --write-out '\\nHTTP %{http_code}\\n' | grep -aoE '<(Code|Message)>[^<]*|^HTTP.*'")?;
        self.stage.check(
            refusal.contains("HTTP 403"),
            "whoever kept a copy of the old URL is refused by the store",
        );
        self.stage
            .run("kubectl wait --for=delete dg/quick-look -n web --timeout=30s")?;
        let over = SystemTime::now().duration_since(end).unwrap_or_default();
        self.stage.check(
            over >= Duration::from_millis(4500) && over < Duration::from_secs(12),
            &format!("the grant was collected {:.0} s after that", over.as_secs_f64()),
        );
        Ok(())
    }

    fn refused(&mut self) -> Result<()> {
        self.stage.step(
            "What is not allowed is refused, with the reason",
            "The rule for the namespace web ends at tenants/web/.",
        );
        let grant = "apiVersion: valetkey.dev/v1alpha1
kind: DownloadGrant
metadata: {name: salaries, namespace: web}
spec:
  storeRef: {kind: ClusterObjectStore, name: media}
  key: tenants/payroll/salaries.csv
  expirationSeconds: 600
";
        self.stage.file("salaries.yaml", grant)?;
        self.stage.run("kubectl apply -f salaries.yaml")?;
        self.stage
            .run("kubectl wait --for=condition=Stalled dg/salaries -n web --timeout=30s")?;
        let message = self.stage.run(
            "kubectl get dg salaries -n web -o jsonpath='{range .status.conditions[?(@.type==\"Ready\")]}{.reason}: {.message}{end}'",
        )?;
        let deployer = self.stage.run("kubectl get dg salaries -n web -o json | kstatus")?;
        self.stage.check(
            message.starts_with("KeyNotAllowed") && message.contains("tenants/web"),
            "the reason says what would be allowed",
        );
        self.stage.check(
            deployer.starts_with("Failed"),
            "Helm, Argo CD and Flux see that it has failed, and do not wait for ever",
        );
        self.stage.check(!self.secret_exists("salaries"), "no key was signed");
        Ok(())
    }

    fn ledger(&mut self) -> Result<()> {
        self.stage.step(
            "What all this has cost the cluster",
            "Everything that Valet has written for avatar-42, from the apiserver's audit log: key, status; and after the upload again.",
        );
        let events = self.cluster.audit()?;
        let writes: Vec<&valet_harness::AuditEvent> = events
            .iter()
            .filter(|event| event.is_write() && event.user() == valet_harness::control_plane::OPERATOR)
            .collect();
        let avatar: Vec<String> = writes
            .iter()
            .filter(|event| event.name() == "avatar-42")
            .map(ToString::to_string)
            .collect();
        for line in &avatar {
            self.stage.note(&format!("  {line}"));
        }
        let made = avatar.iter().filter(|line| line.contains(" create secrets ")).count();
        self.stage.check(
            made == 1 && avatar.len() <= 4,
            &format!("one Secret made, {} writes in all", avatar.len()),
        );
        self.stage.check(
            writes
                .iter()
                .all(|event| event.namespace() == "web" || event.resource() != "secrets"),
            "it has written Secrets in the tenant's namespace only",
        );
        Ok(())
    }

    fn secret_exists(&self, name: &str) -> bool {
        // Not by kubectl, which takes as long to start as the audience would notice.
        self.cluster
            .get(&format!("/api/v1/namespaces/web/secrets/{name}"))
            .is_ok()
    }

    /// Where everything is, for whoever wants to go on.
    fn invite(&self) {
        println!("\nEverything is still running. In another terminal:\n");
        for (name, value) in self.stage.env() {
            if name == "PATH" {
                let mine: Vec<_> = env::split_paths(value).take(2).collect();
                let mine: Vec<_> = mine.iter().map(|folder| folder.display().to_string()).collect();
                println!("  export PATH={}:$PATH", mine.join(":"));
            } else if name != "HOME" {
                println!("  export {name}={value}");
            }
        }
        println!("  cd {}", self.stage.folder().display());
        println!("\nand, for instance:\n");
        for line in [
            "kubectl get valet -A",
            "kubectl explain ug.spec.constraints",
            "sed 's/avatar-42/avatar-43/; s#/42/#/43/#' avatar-42.yaml | kubectl apply -f - && kubectl get ug -n web -w",
            "kubectl patch costore media --type=merge -p '{\"spec\":{\"access\":[]}}'   # and see the keys go",
        ] {
            println!("  {line}");
        }
        if let Some(operator) = &self.operator {
            println!("  tail -f {}", operator.log().display());
            println!("  curl -s http://127.0.0.1:{}/metrics | grep ^valet", operator.port());
        }
        println!("\nCtrl-C here ends it all and tidies up.");
    }
}

/// Seconds since 1970 of a UTC time in whole seconds, as Valet writes them: `2026-01-02T03:04:05Z`.
fn epoch(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, by: char| -> Option<Vec<i64>> { text.split(by).map(|n| n.parse().ok()).collect() };
    let ([year, month, day], [hour, minute, second]) = (
        <[i64; 3]>::try_from(numbers(date, '-')?).ok()?,
        <[i64; 3]>::try_from(numbers(time, ':')?).ok()?,
    );
    // Years that begin in March have their leap day at the end, and months of 153 days every five.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_read() {
        assert_eq!(super::epoch("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(super::epoch("2000-02-29T12:00:00Z"), Some(951_825_600));
        assert_eq!(super::epoch("2026-11-24T04:19:07Z"), Some(1_795_493_947));
        assert_eq!(super::epoch("2026-11-24T04:19:07+01:00"), None);
    }
}
