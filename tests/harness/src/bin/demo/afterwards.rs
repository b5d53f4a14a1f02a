//! The last part of the demo: which users can read the Secrets, the expiry of a credential, a refusal, and the API requests
//! of the operator.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use valet_harness::{Context, Result, poll};

use crate::Show;

impl Show {
    pub fn overview(&mut self) -> Result<()> {
        self.stage.step(
            "What the team sees",
            "One row per grant. kubectl wait, Helm, Argo CD and Flux read the same condition Ready.",
        );
        let rows = self.stage.run("kubectl get ug,dg -n web")?;
        let row = |name: &str, words: [&str; 2]| {
            rows.lines().any(|line| {
                line.contains(name) && words.iter().all(|word| line.split_whitespace().any(|w| w == *word))
            })
        };
        self.stage.check(
            row("/avatar-42 ", ["True", "Completed"]) && row("/avatar-42-read ", ["True", "Issued"]),
            "one grant is completed, the credential of the other grant works",
        );
        Ok(())
    }

    pub fn the_end_of_a_key(&mut self) -> Result<()> {
        self.stage.step(
            "A credential expires",
            "The credential is valid for eight seconds. Five seconds later, Valet deletes the finished grant.",
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
        let end: jiff::Timestamp = expiry
            .trim()
            .parse()
            .context(format_args!("quick/expiry is {expiry:?}, no RFC 3339 time"))?;
        let end = SystemTime::from(end);

        let mut early = false;
        let gone = poll(Duration::from_secs(30), || {
            let now = SystemTime::now();
            match end.duration_since(now) {
                Ok(left) => self
                    .stage
                    .live(&format!("the credential works for another {} s", left.as_secs() + 1)),
                Err(over) => self.stage.live(&format!("expired for {} s", over.duration().as_secs())),
            }
            if self.secret_exists("quick-look") {
                return None;
            }
            // The time is read after the check. A check that began before the expiry could see the state after it.
            let now = SystemTime::now();
            early |= now < end;
            Some(now)
        });
        self.stage.live_end();
        let late = gone.and_then(|gone| gone.duration_since(end).ok());
        self.stage.check(
            !early && late.is_some(),
            &match late {
                Some(late) => format!("its Secret was deleted {:.2} s after the expiry", late.as_secs_f64()),
                None => "its Secret is deleted at the expiry and not before".to_owned(),
            },
        );
        let (_, refusal) = self.stage.attempt("curl --config quick/curl.cfg --no-fail --write-out '\\nHTTP %{http_code}\\n' | grep -aoE '<(Code|Message)>[^<]*|^HTTP.*'")?;
        self.stage
            .check(refusal.contains("HTTP 403"), "the store rejects a copy of the old URL");
        self.stage
            .run("kubectl wait --for=delete dg/quick-look -n web --timeout=30s")?;
        let over = SystemTime::now().duration_since(end).unwrap_or_default();
        self.stage.check(
            over >= Duration::from_millis(4500),
            &format!("the grant was deleted {:.0} s after that", over.as_secs_f64()),
        );
        Ok(())
    }

    pub fn refused(&mut self) -> Result<()> {
        self.stage.step(
            "Valet refuses what no rule allows, with the reason",
            "The rule for the namespace web allows only object keys under tenants/web/.",
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
            "the message says what is allowed",
        );
        self.stage.check(
            deployer.starts_with("Failed"),
            "Helm, Argo CD and Flux see that the grant has failed, and stop waiting",
        );
        self.stage
            .check(!self.secret_exists("salaries"), "no credential was signed");
        Ok(())
    }

    pub fn ledger(&mut self) -> Result<()> {
        self.stage.step(
            "The writes to the apiserver",
            "All writes of Valet for avatar-42 from the apiserver's audit log: the Secret and the status, and the changes after the upload.",
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
            &format!("one Secret created, {} writes in total", avatar.len()),
        );
        let elsewhere: Vec<_> = writes
            .iter()
            .filter(|event| event.resource() == "secrets" && event.namespace() != "web")
            .map(ToString::to_string)
            .collect();
        for line in &elsewhere {
            self.stage.note(&format!("  {line}"));
        }
        self.stage.check(
            elsewhere.len() <= 1 && elsewhere.iter().all(|line| line.contains("valet-record-key")),
            "Valet has written Secrets only in the tenant's namespace, except its own record key",
        );
        Ok(())
    }
}
