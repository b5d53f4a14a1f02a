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

    pub fn the_end_of_a_key(&mut self) -> Result<()> {
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
                    .live(&format!("the key works for another {} s", left.as_secs() + 1)),
                Err(over) => self.stage.live(&format!("over for {} s", over.duration().as_secs())),
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
                Some(late) => format!("its Secret was gone {:.2} s after its end", late.as_secs_f64()),
                None => "its Secret goes at its end and not before".to_owned(),
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
            over >= Duration::from_millis(4500),
            &format!("the grant was collected {:.0} s after that", over.as_secs_f64()),
        );
        Ok(())
    }

    pub fn refused(&mut self) -> Result<()> {
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

    pub fn ledger(&mut self) -> Result<()> {
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
            "it has written Secrets in the tenant's namespace only, besides its own record key",
        );
        Ok(())
    }
}
