//! Checks the table of states (docs/architecture.md) with kstatus, the Lua rules for Argo CD and the CEL rules for
//! Flux.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use valet::api::{Progress, Reason};
use valet_harness::process;

use crate::world::{Tenant, condition};

const RULES: &str = concat!(env!("VALET_ROOT"), "/examples/gitops");

/// The verdicts of the three tools on an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdicts {
    kstatus: &'static str,
    argocd: &'static str,
    flux: &'static str,
}

const CURRENT: Verdicts = Verdicts {
    kstatus: "Current",
    argocd: "Healthy",
    flux: "Current",
};
const SUSPENDED: Verdicts = Verdicts {
    kstatus: "Current",
    argocd: "Suspended",
    flux: "Current",
};
const IN_PROGRESS: Verdicts = Verdicts {
    kstatus: "InProgress",
    argocd: "Progressing",
    flux: "InProgress",
};
const FAILED: Verdicts = Verdicts {
    kstatus: "Failed",
    argocd: "Degraded",
    flux: "Failed",
};
const DELETING: Verdicts = Verdicts {
    kstatus: "Terminating",
    argocd: "Progressing",
    flux: "InProgress",
};

/// The health rules as a user installs them.
struct Rules<'a> {
    tenant: &'a Tenant,
    argocd: PathBuf,
}

impl<'a> Rules<'a> {
    /// Patches Argo CD's ConfigMap with the command from the file, and reads the rules from the patched ConfigMap.
    fn install(tenant: &'a Tenant) -> Self {
        let plane = &tenant.world.plane;
        plane
            .kubectl(&["create", "namespace", "argocd"])
            .expect("a namespace can be made");
        plane
            .kubectl(&[
                "create",
                "configmap",
                "argocd-cm",
                "-n",
                "argocd",
                "--from-literal=url=https://argocd.example",
            ])
            .expect("a ConfigMap can be made");
        let file = format!("{RULES}/argocd-health.yaml");
        let text = std::fs::read_to_string(&file).expect("the rules can be read");
        let command = "kubectl patch configmap argocd-cm -n argocd --patch-file argocd-health.yaml";
        assert!(text.contains(command), "the file says how to install it");
        plane
            .kubectl(&["patch", "configmap", "argocd-cm", "-n", "argocd", "--patch-file", &file])
            .expect("it is a patch");
        let map = plane
            .kubectl_json(&["get", "configmap", "argocd-cm", "-n", "argocd"])
            .expect("it is there");
        assert_eq!(map["data"]["url"], "https://argocd.example", "existing entries stay");
        assert_eq!(
            map["data"].as_object().map(serde_json::Map::len),
            Some(5),
            "four kinds and the url"
        );
        let argocd = tenant.file("argocd-cm.json", map.to_string().as_bytes());
        Self { tenant, argocd }
    }

    fn ask(&self, tool: &str, rules: &Path, object: &Value) -> (String, String) {
        let mut command = self.tenant.world.tools.command("gitops");
        command.arg(tool).arg(rules);
        let output = process::run_ok(command, object.to_string().as_bytes(), Duration::from_secs(20))
            .unwrap_or_else(|e| panic!("{e}\n{object:#}"));
        let text = output.text();
        let (status, message) = text
            .trim_end_matches('\n')
            .split_once('\t')
            .expect("status and message");
        (status.to_owned(), message.to_owned())
    }

    /// Compares the verdicts of the three tools with the table.
    #[track_caller]
    fn expect(&self, situation: &str, object: &Value, verdicts: Verdicts) {
        let kstatus = self.tenant.kstatus(object);
        let (argocd, message) = self.ask("argocd", &self.argocd, object);
        let (flux, why) = self.ask("flux", &Path::new(RULES).join("flux-kustomization.yaml"), object);
        println!("{situation}: {kstatus} | {argocd} | {flux} | {message}");
        assert_eq!(
            (kstatus.as_str(), argocd.as_str(), flux.as_str()),
            (verdicts.kstatus, verdicts.argocd, verdicts.flux),
            "{situation}: {message} {why}\n{object:#}"
        );
        if object["metadata"]["deletionTimestamp"].is_null() {
            assert!(!message.is_empty(), "{situation}: Argo CD shows a sentence");
        }
    }

    /// Waits until `Ready` has this reason, and compares the verdicts of the three tools with the table.
    #[track_caller]
    fn expect_reason(&self, what: &str, reason: Reason) -> Value {
        let object = self
            .tenant
            .reason_within(what, reason.as_str(), Duration::from_secs(90));
        let verdicts = match reason.progress() {
            Progress::Current if reason == Reason::Suspended => SUSPENDED,
            Progress::Current => CURRENT,
            Progress::InProgress => IN_PROGRESS,
            Progress::Stalled => FAILED,
        };
        self.expect(&format!("{what} {reason}"), &object, verdicts);
        let (_, message) = self.ask("argocd", &self.argocd, &object);
        let ready = &condition(&object, "Ready").expect("it has Ready")["message"];
        assert_eq!(message, format!("{reason}: {}", ready.as_str().unwrap_or_default()));
        object
    }
}

#[test]
fn every_state_has_the_expected_health_in_argo_cd_and_flux() {
    let t = Tenant::new("gitops");
    let rules = Rules::install(&t);
    let own = |name: &str, credentials: &str| {
        let mut store = t.store();
        store["kind"] = json!("ObjectStore");
        store["metadata"] = json!({"name": name, "namespace": t.name()});
        store["spec"]["s3"]["credentials"] = json!({"secretRef": {"name": credentials}});
        store["spec"]
            .as_object_mut()
            .expect("a store has a spec")
            .remove("access");
        store
    };
    let mut poor = t.store();
    poor["metadata"]["name"] = json!(format!("{}-poor", t.name()));
    let mut inwards = own("inwards", t.name());
    inwards["spec"]["s3"]["endpoint"] = json!("http://127.0.0.2:9000");
    let mut empty = t.store();
    empty["metadata"]["name"] = json!(format!("{}-empty", t.name()));
    empty["spec"]["s3"]["bucket"] = json!("no-such-bucket");
    poor["spec"]["s3"]["credentials"] = json!({"secretRef": {"name": "not-there"}});
    let mut credentials = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
    credentials["metadata"]["namespace"] = json!(t.name());
    let short = json!({"expirationSeconds": 1, "ttlSecondsAfterFinished": -1});
    let mut held = t.grant("DownloadGrant", "held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    t.world
        .s3
        .put(t.name(), &t.key("there"), b"before")
        .expect("the store takes it");
    t.apply(&[
        credentials,
        poor,
        inwards,
        empty,
        own("rich", t.name()),
        own("bare", "not-there"),
        t.grant("UploadGrant", "issued", json!({"expirationSeconds": 600})),
        t.grant("DownloadGrant", "reading", json!({"expirationSeconds": 600})),
        t.grant("UploadGrant", "done", json!({"expirationSeconds": 600})),
        t.grant("UploadGrant", "there", json!({})),
        t.grant("UploadGrant", "suspended", json!({"suspend": true})),
        t.grant("DownloadGrant", "revoked", json!({"revoke": true})),
        t.grant(
            "UploadGrant",
            "renewed",
            json!({"expirationSeconds": 600, "renewal": {"policy": "Always"}}),
        ),
        t.grant("UploadGrant", "unused", short.clone()),
        t.grant("DownloadGrant", "over", short),
        t.grant("UploadGrant", "refused", json!({"key": "elsewhere"})),
        t.grant("DownloadGrant", "longer", json!({"expirationSeconds": 3601})),
        t.grant("DownloadGrant", "nowhere", json!({"storeRef": {"name": "nowhere"}})),
        t.grant(
            "DownloadGrant",
            "poor",
            json!({"storeRef": {"name": format!("{}-poor", t.name())}}),
        ),
        held,
    ]);

    // No operator is running yet, so the objects have no status.
    for what in [
        "ug/issued",
        "dg/reading",
        "ostore/rich",
        &format!("costore/{}", t.name()),
    ] {
        let unseen = t.get(what).expect("it was applied");
        assert!(unseen["status"]["observedGeneration"].is_null(), "{unseen:#}");
        rules.expect(&format!("{what} unseen"), &unseen, IN_PROGRESS);
    }
    // Stores of tenants need public addresses, so the test allows its own address.
    let operator = t.operator_with(&["--allow-private-endpoints=127.0.0.1/32", "--tenant-store-requests=All"]);
    rules.expect_reason("dg/reading", Reason::Issued);
    rules.expect_reason("dg/over", Reason::Expired);
    rules.expect_reason("ug/there", Reason::ObjectExists);
    rules.expect_reason("ug/suspended", Reason::Suspended);
    rules.expect_reason("dg/revoked", Reason::Revoked);
    rules.expect_reason("ug/renewed", Reason::Issued);
    t.kubectl(&["annotate", "ug/renewed", "valetkey.dev/renew-requested-at=soon"]);
    let failing = valet_harness::eventually(Duration::from_secs(30), "the message of the failing grant", || {
        t.get("ug/renewed").filter(|g| condition(g, "RenewalFailing").is_some())
    });
    rules.expect("ug/renewed with a remark", &failing, CURRENT);
    rules.expect_reason("ug/unused", Reason::ExpiredUnused);
    rules.expect_reason("ug/refused", Reason::KeyNotAllowed);
    rules.expect_reason("dg/longer", Reason::ExpirationTooLong);
    rules.expect_reason("dg/nowhere", Reason::StoreNotFound);
    rules.expect_reason("dg/poor", Reason::CredentialsNotFound);
    rules.expect_reason(&format!("costore/{}", t.name()), Reason::Ready);
    rules.expect_reason(&format!("costore/{}-poor", t.name()), Reason::CredentialsNotFound);
    rules.expect_reason(&format!("costore/{}-empty", t.name()), Reason::BucketNotFound);
    rules.expect_reason("ostore/rich", Reason::Ready);
    rules.expect_reason("ostore/inwards", Reason::EndpointNotAllowed);
    rules.expect_reason("ostore/bare", Reason::CredentialsNotFound);
    assert_eq!(t.mount("done").upload(&t.file("body", b"bytes")).0, 200);
    rules.expect_reason("ug/done", Reason::Completed);
    let issued = rules.expect_reason("ug/issued", Reason::Issued);

    // A grant that is being deleted.
    rules.expect_reason("dg/held", Reason::Issued);
    t.kubectl(&["delete", "dg/held", "--wait=false"]);
    let held = t.get("dg/held").expect("its finalizer keeps it");
    rules.expect("dg/held deleting", &held, DELETING);
    // Deletion increases the generation, so the rules see a stale status. The rules must also be right for a current
    // status.
    let mut seen = held;
    seen["status"]["observedGeneration"] = seen["metadata"]["generation"].clone();
    rules.expect("dg/held deleting and observed", &seen, DELETING);
    t.patch("dg/held", &json!({"metadata": {"finalizers": null}}));

    // A change that no operator has reconciled.
    operator.kill();
    t.patch("ug/issued", &json!({"spec": {"expirationSeconds": 900}}));
    let changed = t.get("ug/issued").expect("it is there");
    assert_eq!(changed["status"], issued["status"]);
    assert_eq!(condition(&changed, "Ready").expect("it has Ready")["status"], "True");
    rules.expect("ug/issued changed", &changed, IN_PROGRESS);
}

/// Unknown kinds and broken rules are errors, so the test above cannot pass by accident.
#[test]
fn broken_health_rules_and_unknown_kinds_are_errors() {
    let t = Tenant::new("rules");
    let ask = |tool: &str, rules: &str, object: Value| {
        let file = t.file("rules.yaml", rules.as_bytes());
        let mut command = t.world.tools.command("gitops");
        command.arg(tool).arg(file);
        process::run(command, object.to_string().as_bytes(), Duration::from_secs(20)).expect("it runs")
    };
    let grant = json!({"apiVersion": "valetkey.dev/v1alpha1", "kind": "UploadGrant", "metadata": {"generation": 1}, "status": {}});
    let argocd = |lua: &str| {
        let rules = json!({"data": {"resource.customizations.health.valetkey.dev_UploadGrant": lua}});
        ask("argocd", &rules.to_string(), grant.clone())
    };
    assert_eq!(argocd("return {status = 'Healthy'}").text(), "Healthy\t\n");
    for lua in [
        "return {status = 'Fine'}",
        "return 'Healthy'",
        "while true do end",
        "return string.upper('x')",
    ] {
        assert!(!argocd(lua).status.success(), "{lua}");
    }
    let flux = |current: &str| {
        let check = json!({"apiVersion": "valetkey.dev/v1", "kind": "UploadGrant", "current": current});
        ask(
            "flux",
            &json!({"spec": {"healthCheckExprs": [check]}}).to_string(),
            grant.clone(),
        )
        .text()
    };
    assert_eq!(flux("metadata.generation == 1"), "Current\t\n");
    assert!(flux("metadata.generation == 2").starts_with("InProgress\t"));
    assert!(flux("status.nothing == 2").starts_with("Unknown\t"));
    let other = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}});
    let file = format!("{RULES}/argocd-health.yaml");
    let text = std::fs::read_to_string(file).expect("the rules can be read");
    assert!(!ask("argocd", &text, other).status.success());
}
