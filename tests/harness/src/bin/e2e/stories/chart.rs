//! Tests of the chart by the platform team: install, upgrade and uninstall.

use std::{fs, path::PathBuf};

use valet_harness::{Context, Result};

use crate::{
    play::{Play, Published, check},
    pods::{self, LONG},
    suite::{self, RELEASE, STORE, SYSTEM, SecretWatch},
};

/// A pod with a live upload credential and a live download credential while the operator is changed.
struct Holder {
    secrets: SecretWatch,
    before: (Published, Published),
}

impl Holder {
    fn begin(play: &Play) -> Result<Self> {
        let (suite, namespace) = (play.suite, play.namespace.as_str());
        let secrets = suite.watch_secrets(namespace)?;
        let key = format!("tenants/{namespace}/read");
        suite.s3.put(&suite.cluster, &key, "read me")?;
        suite.cluster.apply(&[
            pods::upload(namespace, "write", STORE, LONG),
            pods::download(namespace, "read", STORE, &key, LONG),
            pods::pod(namespace, "holder", &suite.image, "sleep 100000", &["write", "read"]),
        ])?;
        play.wait_for("condition=Ready", "pod/holder", 60)?;
        Ok(Self {
            secrets,
            before: (play.published("write")?, play.published("read")?),
        })
    }

    /// Checks that the credentials are unchanged and work, that a new grant gets a credential, and that each grant
    /// had only one credential.
    fn lives_on(&self, play: &Play) -> Result<()> {
        play.time_to_key("new", 40)?;
        check(
            self.before == (play.published("write")?, play.published("read")?),
            "an issued credential has changed",
        )?;
        play.exec(
            "holder",
            "echo hello >/work/file; curl --config /write/curl.cfg --upload-file /work/file",
        )?;
        play.wait_for("condition=Completed", "ug/write", 90)?;
        let keys = self.secrets.keys();
        check(
            keys == ["new", "read", "write"].map(|name| (name.to_owned(), 1)),
            format!("not one credential per grant: {keys:?}"),
        )
    }
}

/// Uninstalls and installs the chart while a pod uses live credentials.
pub fn reinstall(play: &Play) -> Result<()> {
    let suite = play.suite;
    let holder = Holder::begin(play)?;

    suite
        .cluster
        .helm(&["uninstall", RELEASE, "--namespace", SYSTEM, "--wait"])?;
    check(
        !suite.cluster.exists(&["deployment", RELEASE, "--namespace", SYSTEM])?,
        "the operator is still there",
    )?;
    check(
        suite.cluster.exists(&["clusterobjectstore", STORE])?,
        "the store went with the release",
    )?;
    check(
        play.exists("ug/write")? && play.exists("dg/read")?,
        "grants went with the release",
    )?;
    check(
        holder.before == (play.published("write")?, play.published("read")?),
        "an issued credential was deleted with the release",
    )?;
    check(
        play.exec("holder", "curl --config /read/curl.cfg")? == "read me",
        "an issued credential needs the operator",
    )?;

    suite.install(&suite.chart(), &[])?;
    holder.lives_on(play)
}

/// The previous version of the chart with its CRDs, from tests/e2e/previous.
fn previous(play: &Play) -> Result<PathBuf> {
    let folder = play.suite.root.join("tests/e2e/previous");
    let entries = fs::read_dir(&folder).context(format_args!("cannot read {}", folder.display()))?;
    let mut charts = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "tgz"));
    charts
        .next()
        .context(format_args!("there is no chart in {}", folder.display()))
}

/// Upgrades from the previous chart to the current one.
pub fn upgrade(play: &Play) -> Result<()> {
    let suite = play.suite;
    suite
        .cluster
        .helm(&["uninstall", RELEASE, "--namespace", SYSTEM, "--wait"])?;
    suite::remove_kinds(&suite.cluster)?;
    let old = previous(play)?.display().to_string();
    suite.install(&old, &[])?;
    let fields = || -> Result<String> {
        suite
            .cluster
            .field(&["crd", "uploadgrants.valetkey.dev"], ".spec.versions[0].schema")
    };
    let old_kinds = fields()?;
    suite.make_store()?;
    let holder = Holder::begin(play)?;

    suite.install(&suite.chart(), &[])?;
    check(fields()? != old_kinds, "the upgrade has left the kinds as they were")?;
    holder.lives_on(play)?;
    let history = suite
        .cluster
        .helm(&["history", RELEASE, "--namespace", SYSTEM, "--output", "json"])?;
    let history: serde_json::Value = serde_json::from_str(&history).context("helm history is not JSON")?;
    let charts: Vec<&str> = history
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| row["chart"].as_str())
        .collect();
    play.note(format!("upgraded: {}", charts.join(" -> ")));
    Ok(())
}
