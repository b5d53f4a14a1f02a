//! Tests of Flux by tenants: stores and grants in git, applied with Kustomizations as in docs/gitops.md.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use valet_harness::{Context, Result, process};

use crate::{
    flux::{self, Flux, Ready},
    git::Git,
    play::{Play, check},
    pods::{self, LONG},
    suite::LABEL,
};

/// The Kustomization of examples/gitops/flux-kustomization.yaml.
const UPLOADS: &str = "kustomization/uploads";
/// The Kustomization that UPLOADS depends on.
const STORES: &str = "kustomization/object-stores";
const SOURCE: &str = "gitrepository/web";
const REPOSITORY: &str = "web";

/// The repository of a tenant, and the Flux objects for it.
struct Tenant<'a> {
    play: &'a Play<'a>,
    flux: Flux<'a>,
    git: Git<'a>,
    store: String,
}

impl Tenant<'_> {
    /// Commits a grant.
    fn commit(&self, grant: &Value) -> Result<()> {
        let name = grant["metadata"]["name"].as_str().unwrap_or_default();
        self.git
            .commit(REPOSITORY, &format!("uploads/{name}.yaml"), &format!("{grant:#}\n"))
    }

    /// Commits the deletion of a grant.
    fn remove(&self, name: &str) -> Result<()> {
        self.git.commit(REPOSITORY, &format!("uploads/{name}.yaml"), "")
    }

    /// Lets Flux fetch and apply the repository, and returns the Ready condition of the Kustomization.
    fn sync(&self) -> Result<Ready> {
        for what in [SOURCE, STORES] {
            let ready = self.flux.reconcile(what)?;
            check(ready.status == "True", format!("{what}: {ready:?}"))?;
        }
        self.flux.reconcile(UPLOADS)
    }

    /// As `sync`, but a failure is an error.
    fn sync_well(&self) -> Result<()> {
        let ready = self.sync()?;
        check(ready.status == "True", format!("{UPLOADS}: {ready:?}"))
    }

    fn upload(&self, name: &str) -> Value {
        pods::upload(&self.play.namespace, name, &self.store, LONG)
    }

    fn download(&self, name: &str, seconds: u64) -> Value {
        let key = format!("tenants/{}/there", self.play.namespace);
        pods::download(&self.play.namespace, name, &self.store, &key, seconds)
    }

    /// The UID and the resource version of an object.
    fn version(&self, object: &str) -> Result<String> {
        self.play.field(object, ".metadata['uid', 'resourceVersion']")
    }
}

/// Grants are applied in order, become Ready, stay unchanged, are refused, pruned, replaced and expired. Manual
/// changes are also tested.
pub fn grants(play: &Play) -> Result<()> {
    let (suite, cluster) = (play.suite, &play.suite.cluster);
    // Finished grants are deleted at once, except grants in git.
    suite.install(&suite.chart(), &["ttlSecondsAfterFinished=1"])?;
    let flux = Flux::install(play)?;
    let git = Git::start(play, &flux.image)?;
    let t = Tenant {
        play,
        flux,
        git,
        store: format!("e2e-flux-{}", suite.run),
    };
    let secrets = suite.watch_secrets(&play.namespace)?;
    suite
        .s3
        .put(cluster, &format!("tenants/{}/there", play.namespace), "read me")?;

    applied(&t)?;
    left_alone(&t)?;
    refused(&t)?;
    replaced(&t)?;
    over(&t)?;
    by_hand(&t)?;
    by_helm(&t)?;

    // When a Kustomization is deleted, Flux deletes the objects that it applied.
    cluster.kubectl(&[
        "delete",
        UPLOADS,
        STORES,
        "--namespace",
        flux::NAMESPACE,
        "--timeout=60s",
    ])?;
    cluster.wait(30, "grants, Secrets and store to be pruned", || {
        let left = play.kubectl(&["get", "uploadgrants,downloadgrants", "--output", "name"])?;
        let gone = left.trim().is_empty() && !cluster.exists(&["clusterobjectstore", &t.store])?;
        Ok((gone && !play.exists("secret/avatar")? && !play.exists("secret/read")?).then_some(()))
    })?;
    // docs/gitops.md warns of `again`: it is deleted and created again, each time with a new credential. `avatar` was
    // replaced once, and its Secret was created again twice with the same credential. `read` was renewed.
    let keys = secrets.keys();
    let expected = [
        ("again", 3),
        ("avatar", 4),
        ("charted", 1),
        ("kept", 1),
        ("late", 1),
        ("read", 2),
        ("taken", 1),
    ];
    check(
        keys == expected.map(|(name, count)| (name.to_owned(), count)),
        format!("not the grants of the document: {keys:?}"),
    )?;
    cluster.kubectl(&["delete", SOURCE, "--namespace", flux::NAMESPACE, "--timeout=60s"])?;
    suite.install(&suite.chart(), &[])?;
    suite.ready()
}

/// Stores are applied first, then grants. The Kustomization of the grants is Ready when their credentials are issued.
fn applied(t: &Tenant<'_>) -> Result<()> {
    let (suite, cluster) = (t.play.suite, &t.play.suite.cluster);
    t.git.make(REPOSITORY)?;
    t.commit(&t.upload("avatar"))?;
    t.commit(&t.download("read", LONG))?;
    let file = suite.root.join("examples/gitops/flux-kustomization.yaml");
    let example = fs::read_to_string(&file).context(format_args!("cannot read {}", file.display()))?;
    let source = json!({
        "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository",
        "metadata": {"name": "web", "namespace": flux::NAMESPACE},
        "spec": {"interval": "10m", "url": t.git.url(REPOSITORY), "ref": {"branch": "main"}},
    });
    cluster.apply(&[source])?;
    cluster.apply(&flux::from_yaml(cluster, &example)?)?;
    cluster.wait(60, "the Kustomization to wait for the stores'", || {
        let ready = t.flux.ready(UPLOADS)?;
        Ok((ready.reason == "DependencyNotReady").then_some(()))
    })?;
    check(!t.play.exists("ug/avatar")?, "grants are applied before the stores")?;

    let rules = json!([pods::rule_for_all(LABEL)]);
    let store = suite.s3.store(cluster, &t.store, "s3", &rules)?;
    t.git.commit(REPOSITORY, "stores/media.yaml", &format!("{store:#}\n"))?;
    let began = Instant::now();
    cluster.apply(&[json!({
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
        "metadata": {"name": "object-stores", "namespace": flux::NAMESPACE},
        "spec": {
            "interval": "10m", "timeout": "2m", "path": "./stores", "prune": true, "wait": true,
            "sourceRef": {"kind": "GitRepository", "name": "web"},
        },
    })])?;
    t.flux.reconcile(SOURCE)?;
    t.flux.wait_ready(STORES, 60)?;
    t.flux.reconcile(UPLOADS)?;
    t.flux.wait_ready(UPLOADS, 60)?;
    for grant in ["ug/avatar", "dg/read"] {
        let reason = t.play.field(grant, ".status.conditions[?(@.type==\"Ready\")].reason")?;
        check(
            reason == "Issued",
            format!("the Kustomization is Ready, and {grant} is {reason}"),
        )?;
    }
    t.play.note(format!(
        "stores and grants Ready {:.1} s after the stores' commit",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Reconciles without a new commit write nothing: the versions of grants and Secrets do not change.
fn left_alone(t: &Tenant<'_>) -> Result<()> {
    let store = || -> Result<String> {
        let store = ["clusterobjectstore", &t.store];
        t.play.suite.cluster.field(&store, ".metadata.generation")
    };
    let look = || -> Result<Vec<String>> {
        let objects = ["ug/avatar", "dg/read", "secret/avatar", "secret/read"];
        let versions: Result<Vec<String>> = objects.iter().map(|object| t.version(object)).collect();
        Ok(versions?.into_iter().chain([store()?]).collect())
    };
    let before = look()?;
    for _ in 0..3 {
        for what in [STORES, UPLOADS] {
            let ready = t.flux.reconcile(what)?;
            check(ready.status == "True", format!("{what}: {ready:?}"))?;
        }
    }
    let after = look()?;
    check(
        before == after,
        format!("{before:?} became {after:?} with nothing new in git"),
    )
}

/// A refused grant makes the Kustomization fail at once with the name of the grant, and does not affect other grants.
/// When it is removed from git, Flux prunes it.
fn refused(t: &Tenant<'_>) -> Result<()> {
    let before = t.play.published("avatar")?;
    let mut grant = t.upload("elsewhere");
    grant["spec"]["key"] = json!("somebody/elses");
    t.commit(&grant)?;
    let began = Instant::now();
    let ready = t.sync()?;
    let took = began.elapsed();
    check(
        ready.status == "False" && ready.message.contains("elsewhere") && ready.message.contains("Failed"),
        format!("a refused grant: {ready:?}"),
    )?;
    check(took < Duration::from_secs(30), format!("a refusal took {took:?}"))?;
    t.play.note(format!(
        "a refusal is seen after {:.1} s: {}",
        took.as_secs_f64(),
        ready.message
    ));
    check(
        before == t.play.published("avatar")?,
        "the credential of another grant has changed",
    )?;
    t.remove("elsewhere")?;
    t.sync_well()?;
    t.play.wait_for("delete", "ug/elsewhere", 20)
}

/// The fields that determine the access of a grant are immutable: the sync fails and the credential stays. With the
/// annotation kustomize.toolkit.fluxcd.io/force, Flux replaces the grant once.
fn replaced(t: &Tenant<'_>) -> Result<()> {
    let before = (t.play.published("avatar")?, t.version("ug/avatar")?);
    let mut grant = t.upload("avatar");
    grant["spec"]["key"] = json!(format!("tenants/{}/other", t.play.namespace));
    t.commit(&grant)?;
    let ready = t.sync()?;
    check(
        ready.status == "False" && ready.message.contains("create a new grant"),
        format!("a grant that changed: {ready:?}"),
    )?;
    t.play.note(format!("a change of spec.key: {}", ready.message));
    let after = (t.play.published("avatar")?, t.version("ug/avatar")?);
    check(before == after, "a change that was refused has changed something")?;

    grant["metadata"]["annotations"] = json!({"kustomize.toolkit.fluxcd.io/force": "enabled"});
    t.commit(&grant)?;
    t.sync_well()?;
    let after = (t.play.published("avatar")?, t.version("ug/avatar")?);
    check(before.0 != after.0, "the grant was not replaced")?;
    t.sync_well()?;
    t.sync_well()?;
    let last = (t.play.published("avatar")?, t.version("ug/avatar")?);
    check(
        after == last,
        "the annotation replaces the grant at every reconciliation",
    )
}

/// Finished grants: Valet keeps grants in git. A grant with a TTL is deleted and comes back with a new credential,
/// unless its deadline has passed.
fn over(t: &Tenant<'_>) -> Result<()> {
    const SHORT: u64 = 10;
    let began = Instant::now();
    let again = {
        let mut grant = t.download("again", SHORT);
        grant["spec"]["ttlSecondsAfterFinished"] = json!(10);
        grant
    };
    let late = {
        let mut grant = again.clone();
        grant["metadata"]["name"] = json!("late");
        grant["spec"]["deadlineTime"] = json!(in_seconds(40)?);
        grant
    };
    for grant in [&t.download("kept", SHORT), &again, &late] {
        t.commit(grant)?;
    }
    t.sync_well()?;
    for round in 0..2 {
        t.play.wait_for("delete", "dg/again", 30)?;
        t.play.wait_for("delete", "dg/late", 30)?;
        if round == 0 {
            // A grant that is created again after its deadline gets no credential.
            thread::sleep(Duration::from_secs(41).saturating_sub(began.elapsed()));
        }
        t.sync_well()?;
    }
    t.play.wait_for("delete", "dg/again", 30)?;
    // A deleted grant comes back only at Flux's next reconcile.
    thread::sleep(Duration::from_secs(3));
    check(
        !t.play.exists("dg/again")?,
        "a collected grant came back without a reconciliation",
    )?;
    let reason = t
        .play
        .field("dg/kept", ".status.conditions[?(@.type==\"Ready\")].reason")?;
    check(reason == "Expired", format!("a finished grant in git is {reason:?}"))?;
    for name in ["again", "late", "kept"] {
        t.remove(name)?;
    }
    t.sync_well()
}

/// Flux reverts manual changes of fields that it applied, and leaves fields of other clients unchanged.
fn by_hand(t: &Tenant<'_>) -> Result<()> {
    let suspend = |flag: &str| {
        let args = [
            "patch",
            "ug/avatar",
            "--type=merge",
            "--patch",
            r#"{"spec":{"suspend":true}}"#,
        ];
        t.play.kubectl(&[&args[..], &[flag]].concat())?;
        t.play.wait_secret_gone("avatar", 20)
    };
    let before = t.play.published("avatar")?;
    suspend("--field-manager=kubectl-patch")?;
    t.sync_well()?;
    check(
        t.play.field("ug/avatar", ".spec.suspend")?.is_empty(),
        "Flux leaves alone what kubectl has changed: docs/gitops.md says otherwise",
    )?;
    t.play.wait_for("jsonpath={.data.url}", "secret/avatar", 20)?;
    check(
        before.same_data(&t.play.published("avatar")?),
        "the grant has a different credential",
    )?;
    suspend("--field-manager=platform")?;
    t.sync_well()?;
    t.sync_well()?;
    check(
        !t.play.exists("secret/avatar")?,
        "Flux has undone what another manager has done",
    )?;
    let resumed = r#"{"spec":{"suspend":null}}"#;
    let args = [
        "patch",
        "ug/avatar",
        "--field-manager=platform",
        "--type=merge",
        "--patch",
        resumed,
    ];
    t.play.kubectl(&args)?;
    t.play.wait_for("jsonpath={.data.url}", "secret/avatar", 20)?;

    // A renewal request takes effect once, even if Flux removes the annotation.
    let before = t.play.published("read")?;
    let now = format!("valetkey.dev/renew-requested-at={}", in_seconds(0)?);
    t.play.kubectl(&["annotate", "dg/read", &now])?;
    t.play.suite.cluster.wait(20, "the credential to be renewed", || {
        Ok((before != t.play.published("read")?).then_some(()))
    })?;
    let renewed = t.play.published("read")?;
    t.sync_well()?;
    t.sync_well()?;
    let annotations = t.play.field("dg/read", ".metadata.annotations")?;
    check(
        annotations.is_empty(),
        format!("Flux leaves annotations of kubectl's: {annotations}"),
    )?;
    check(renewed == t.play.published("read")?, "the credential was renewed again")?;

    // Revoked grants: spec.revoke cannot be set back, so every reconcile fails until git also has the field.
    let mut taken = t.upload("taken");
    t.commit(&taken)?;
    t.sync_well()?;
    let revoke = [
        "patch",
        "ug/taken",
        "--type=merge",
        "--patch",
        r#"{"spec":{"revoke":true}}"#,
    ];
    t.play.kubectl(&revoke)?;
    t.play.wait_secret_gone("taken", 20)?;
    let ready = t.sync()?;
    check(
        ready.status == "False" && ready.message.contains("spec.revoke cannot be set back to false"),
        format!("git and a revocation by hand: {ready:?}"),
    )?;
    check(
        !t.play.exists("secret/taken")?,
        "a revoked grant has a credential again",
    )?;
    taken["spec"]["revoke"] = json!(true);
    t.commit(&taken)?;
    t.sync_well()?;
    t.remove("taken")?;
    t.sync_well()
}

/// Grants in a Helm chart: the HelmRelease is Ready when their credentials are issued, and fails when a grant is
/// refused.
fn by_helm(t: &Tenant<'_>) -> Result<()> {
    const RELEASE: &str = "helmrelease/backup";
    let commit = |name: &str, key: &str| -> Result<()> {
        let mut grant = t.upload(name);
        grant["spec"]["key"] = json!(key);
        t.git
            .commit(REPOSITORY, "chart/templates/grant.yaml", &format!("{grant:#}\n"))
    };
    let chart = json!({"apiVersion": "v2", "name": "backup", "version": "0.1.0"});
    t.git.commit(REPOSITORY, "chart/Chart.yaml", &chart.to_string())?;
    commit("refused", "somebody/elses")?;
    t.flux.reconcile(SOURCE)?;
    t.play.suite.cluster.apply(&[json!({
        "apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease",
        "metadata": {"name": "backup", "namespace": flux::NAMESPACE},
        "spec": {
            "interval": "10m", "timeout": "1m", "releaseName": "backup", "targetNamespace": t.play.namespace,
            "chart": {"spec": {
                "chart": "./chart", "reconcileStrategy": "Revision", "sourceRef": {"kind": "GitRepository", "name": "web"},
            }},
        },
    })])?;
    let began = Instant::now();
    let failed = t.play.suite.cluster.wait(90, "the HelmRelease to fail", || {
        let ready = t.flux.ready(RELEASE)?;
        Ok((ready.status == "False" && ready.reason == "InstallFailed").then_some(ready))
    })?;
    check(
        failed.message.contains("refused") && began.elapsed() < Duration::from_secs(30),
        format!("a refused grant in a chart, after {:?}: {failed:?}", began.elapsed()),
    )?;
    t.play.note(format!("a refusal in a chart: {}", failed.message));
    commit("charted", &format!("tenants/{}/charted", t.play.namespace))?;
    t.flux.reconcile(SOURCE)?;
    t.flux.wait_ready(RELEASE, 90)?;
    check(
        t.play.exists("secret/charted")?,
        "the HelmRelease is Ready before the credential is issued",
    )?;
    check(
        !t.play.exists("ug/refused")?,
        "the grant that has left the chart is still there",
    )?;
    t.play
        .suite
        .cluster
        .kubectl(&["delete", RELEASE, "--namespace", flux::NAMESPACE, "--timeout=60s"])?;
    t.play.wait_secret_gone("charted", 20)
}

/// A time in the near future in RFC 3339.
fn in_seconds(seconds: u32) -> Result<String> {
    let mut command = process::clean(Command::new("date"));
    command.args(["--utc", &format!("--date={seconds} seconds"), "+%Y-%m-%dT%H:%M:%SZ"]);
    Ok(process::run_ok(command, &[], Duration::from_secs(5))?
        .text()
        .trim()
        .to_owned())
}
