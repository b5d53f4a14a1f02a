//! Tests of Flux by the platform team: Valet in a HelmRelease as in docs/install.md.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use valet_harness::{Context, Result};

use crate::{
    flux::{self, Flux},
    git::Git,
    play::{Play, check},
    pods::{self, LONG},
    suite::{self, RELEASE, STORE, SYSTEM},
};

const HELM_RELEASE: &str = "helmrelease/valet";
const SOURCE: &str = "gitrepository/valet";
const KINDS: [&str; 4] = ["uploadgrants", "downloadgrants", "objectstores", "clusterobjectstores"];

/// The HelmRelease is installed, reconciled without changes, changed, upgraded with its CRDs, uninstalled and
/// installed again. Live credentials work all the time.
pub fn release(play: &Play) -> Result<()> {
    let (suite, cluster) = (play.suite, &play.suite.cluster);
    let flux = Flux::install(play)?;
    play.note(flux.versions());
    let git = Git::start(play, &flux.image)?;

    // Start with a cluster without Valet and without its namespace.
    cluster.helm(&["uninstall", RELEASE, "--namespace", SYSTEM, "--wait"])?;
    suite::remove_kinds(cluster)?;
    cluster.kubectl(&["delete", "namespace", SYSTEM, "--timeout=60s"])?;

    let mut objects = flux::documented(suite, "docs/install.md", "With Flux")?;
    let tag = objects[0]["spec"]["ref"]["tag"].as_str().unwrap_or_default().to_owned();
    git.make("valet")?;
    git.copy("valet", &suite.root, "charts/valet")?;
    git.release("valet", "true", &tag)?;
    // Only the locations of the repository and of the image are specific to this cluster.
    let (repository, image) = suite.valet_image.rsplit_once(':').context("an image without a tag")?;
    objects[0]["spec"]["url"] = json!(git.url("valet"));
    objects[1]["spec"]["values"]["image"] = json!({"repository": repository, "tag": image});
    let release = objects[1].clone();
    let began = Instant::now();
    cluster.apply(&objects)?;
    let ready = flux.wait_ready(HELM_RELEASE, 150)?;
    play.note(format!(
        "installed after {:.1} s: {}",
        began.elapsed().as_secs_f64(),
        ready.message
    ));
    suite.ready()?;

    // The Secrets of the platform team, and grants with credentials, one of them mounted in a pod.
    suite.furnish()?;
    suite.make_store()?;
    let secrets = suite.watch_secrets(&play.namespace)?;
    let key = format!("tenants/{}/read", play.namespace);
    suite.s3.put(cluster, &key, "read me")?;
    cluster.apply(&[
        pods::upload(&play.namespace, "write", STORE, LONG),
        pods::download(&play.namespace, "read", STORE, &key, LONG),
        pods::pod(
            &play.namespace,
            "holder",
            &suite.image,
            "sleep 100000",
            &["write", "read"],
        ),
    ])?;
    play.wait_for("condition=Ready", "pod/holder", 60)?;
    let keys = || -> Result<_> { Ok((play.published("write")?, play.published("read")?)) };
    let before = keys()?;
    let same = |what: &str| -> Result<()> {
        check(
            before == keys()?,
            format!("an issued credential has changed with {what}"),
        )
    };

    left_alone(play, &flux)?;
    same("a reconciliation")?;

    // Change a chart value.
    change(play, &json!({"values": {"log": {"level": "debug"}}}))?;
    flux.wait_ready(HELM_RELEASE, 120)?;
    suite.ready()?;
    let args = cluster.field(
        &["deployment", RELEASE, "--namespace", SYSTEM],
        ".spec.template.spec.containers[0].args",
    )?;
    check(
        args.contains("--log-level=debug"),
        format!("the value did not arrive: {args}"),
    )?;
    same("a value")?;

    // Upgrade to the next version with changed CRDs: another git tag.
    let next = "sed -i 's/^version: .*/version: 99.0.0/' charts/valet/Chart.yaml
        sed -i 's/description: The reason of the condition Ready, for example Issued,/description: The reason of the condition Ready in one or two words, for example Issued,/' charts/valet/templates/crds.yaml";
    git.release("valet", next, "v99.0.0")?;
    let source = r#"{"spec":{"ref":{"tag":"v99.0.0"}}}"#;
    cluster.kubectl(&[
        "patch",
        SOURCE,
        "--namespace",
        flux::NAMESPACE,
        "--type=merge",
        "--patch",
        source,
    ])?;
    let columns = || {
        cluster.field(
            &["crd", "uploadgrants.valetkey.dev"],
            ".spec.versions[0].additionalPrinterColumns",
        )
    };
    cluster.wait(120, "the upgrade", || {
        Ok(columns()?.contains("one or two words").then_some(()))
    })?;
    let ready = flux.wait_ready(HELM_RELEASE, 120)?;
    check(
        ready.message.contains("99.0.0"),
        format!("it is not upgraded: {}", ready.message),
    )?;
    suite.ready()?;
    same("the upgrade")?;
    play.time_to_key("upgraded", 40)?;

    // Uninstall, and install again.
    cluster.kubectl(&["delete", HELM_RELEASE, "--namespace", flux::NAMESPACE, "--timeout=90s"])?;
    check(
        !cluster.exists(&["deployment", RELEASE, "--namespace", SYSTEM])?,
        "the operator is still there",
    )?;
    for kind in KINDS {
        check(
            cluster.exists(&["crd", &format!("{kind}.valetkey.dev")])?,
            format!("{kind} went with the release"),
        )?;
    }
    check(
        cluster.exists(&["clusterobjectstore", STORE])? && play.exists("ug/write")?,
        "stores or grants went with the release",
    )?;
    same("the release")?;
    check(
        play.exec("holder", "curl --config /read/curl.cfg")? == "read me",
        "an issued credential needs the operator",
    )?;
    cluster.apply(std::slice::from_ref(&release))?;
    flux.wait_ready(HELM_RELEASE, 150)?;
    suite.ready()?;
    same("the new release")?;
    play.time_to_key("new", 40)?;
    play.exec(
        "holder",
        "echo hello >/work/file; curl --config /write/curl.cfg --upload-file /work/file",
    )?;
    play.wait_for("condition=Completed", "ug/write", 90)?;
    let keys = secrets.keys();
    check(
        keys == ["new", "read", "upgraded", "write"].map(|name| (name.to_owned(), 1)),
        format!("not one credential per grant: {keys:?}"),
    )?;

    from_flux_to_helm_and_back(play, &flux, &release)
}

/// Changes the HelmRelease as a commit would.
fn change(play: &Play, spec: &Value) -> Result<()> {
    let patch = json!({"spec": spec}).to_string();
    let args = [
        "patch",
        HELM_RELEASE,
        "--namespace",
        flux::NAMESPACE,
        "--type=merge",
        "--patch",
    ];
    play.suite.cluster.kubectl(&[&args[..], &[&patch]].concat()).map(|_| ())
}

/// With drift detection, three reconciles change nothing, and a manual change is reverted.
fn left_alone(play: &Play, flux: &Flux<'_>) -> Result<()> {
    let cluster = &play.suite.cluster;
    change(play, &json!({"driftDetection": {"mode": "enabled"}}))?;
    flux.wait_ready(HELM_RELEASE, 60)?;
    let before = installed(play)?;
    check(before.len() > 15, format!("the release is not all there: {before:?}"))?;
    for _ in 0..3 {
        let ready = flux.reconcile(HELM_RELEASE)?;
        check(ready.status == "True", format!("{ready:?}"))?;
        thread::sleep(Duration::from_secs(1));
    }
    let after = installed(play)?;
    let changed: Vec<_> = after
        .iter()
        .filter(|(name, version)| before.get(*name) != Some(*version))
        .collect();
    check(
        changed.is_empty() && before.len() == after.len(),
        format!("changed with nothing to change: {changed:?}"),
    )?;
    let events = flux.events("valet")?;
    check(
        !events
            .iter()
            .any(|reason| reason.starts_with("Drift") || reason.starts_with("Upgrade")),
        format!("Flux found a difference: {events:?}"),
    )?;
    cluster.kubectl(&["scale", "deployment", RELEASE, "--namespace", SYSTEM, "--replicas=1"])?;
    flux.reconcile(HELM_RELEASE)?;
    cluster.wait(30, "Flux to scale it back", || {
        let replicas = cluster.field(&["deployment", RELEASE, "--namespace", SYSTEM], ".spec.replicas")?;
        Ok((replicas == "2").then_some(()))
    })?;
    play.suite.ready()?;
    play.note(format!(
        "{} objects of the release unchanged by three reconciliations with drift detection",
        after.len()
    ));
    Ok(())
}

/// The resource versions of all objects of the release.
fn installed(play: &Play) -> Result<BTreeMap<String, String>> {
    let kinds = "deployments,services,serviceaccounts,configmaps,poddisruptionbudgets,roles,rolebindings,clusterroles,\
                 clusterrolebindings,customresourcedefinitions,validatingadmissionpolicies,\
                 validatingadmissionpolicybindings,servicemonitors,prometheusrules";
    let selector = format!("app.kubernetes.io/instance={RELEASE}");
    let list = play
        .suite
        .cluster
        .json(&["get", kinds, "--namespace", SYSTEM, "--selector", &selector])?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(items
        .iter()
        .map(|item| {
            let name = format!("{} {}", text(&item["kind"]), text(&item["metadata"]["name"]));
            (name, text(&item["metadata"]["resourceVersion"]))
        })
        .collect())
}

/// Helm takes over an installation by Flux, and Flux takes over an installation by Helm.
fn from_flux_to_helm_and_back(play: &Play, flux: &Flux<'_>, release: &Value) -> Result<()> {
    let (suite, cluster) = (play.suite, &play.suite.cluster);
    let before = play.published("read")?;
    let delete = ["delete", HELM_RELEASE, "--namespace", flux::NAMESPACE, "--timeout=90s"];
    cluster.kubectl(&delete)?;
    // The remaining CRDs have Flux as their field manager, and are of another version.
    suite.install_with(&suite.chart(), &[], &["--force-conflicts"])?;
    suite.ready()?;

    let mut taken_over = release.clone();
    taken_over["spec"]["storageNamespace"] = json!(SYSTEM);
    cluster.apply(&[taken_over])?;
    let ready = flux.wait_ready(HELM_RELEASE, 120)?;
    check(
        ready.reason == "UpgradeSucceeded",
        format!("Flux has not gone on where Helm was: {ready:?}"),
    )?;
    play.note(format!("taken over from Helm: {}", ready.message));
    suite.ready()?;
    check(
        before == play.published("read")?,
        "an issued credential has changed with the new owner of the release",
    )?;

    // Install the release of the tests again.
    cluster.kubectl(&delete)?;
    cluster.kubectl(&["delete", SOURCE, "--namespace", flux::NAMESPACE, "--timeout=30s"])?;
    suite.install_with(&suite.chart(), &[], &["--force-conflicts"])?;
    suite.ready()
}
