//! Tests of uploads and downloads by tenants.

use std::{fs, thread, time::Duration};

use serde_json::json;
use valet_harness::{Context, Result};

use crate::{
    play::{Play, check},
    pods::{self, LONG},
    suite::{LABEL, STORE},
};

/// Reads a file of `examples/`, replaces its namespace, store and image with those of the test, and returns the
/// documents.
fn example(play: &Play, file: &str) -> Result<Vec<String>> {
    let path = play.suite.root.join("examples").join(file);
    let text = fs::read_to_string(&path).context(format_args!("cannot read {}", path.display()))?;
    let text = text
        .replace("namespace: web\n", &format!("namespace: {}\n", play.namespace))
        .replace("tenants/web/", &format!("tenants/{}/", play.namespace))
        .replace("    name: media\n", &format!("    name: {STORE}\n"))
        .replace("curlimages/curl:8.11.1", &play.suite.image);
    // The first document is the namespace, which already exists.
    Ok(text.split("\n---\n").skip(1).map(str::to_owned).collect())
}

fn apply(play: &Play, manifest: &str) -> Result<()> {
    play.suite
        .cluster
        .kubectl_in(manifest, &["apply", "--filename", "-"])
        .map(|_| ())
}

fn phase(play: &Play, pod: &str) -> Result<String> {
    play.field(&format!("pod/{pod}"), ".status.phase")
}

/// Runs examples/03-upload-job.yaml, with the Job before its grant.
pub fn upload_job(play: &Play) -> Result<()> {
    let documents = example(play, "03-upload-job.yaml")?;
    let [grant, job] = &documents[..] else {
        return Err(valet_harness::Error::new(
            "the example is not a namespace, a grant and a Job any more",
        ));
    };
    apply(play, job)?;
    play.wait_for_missing("daily-report")?;
    let phases = play.kubectl(&["get", "pods", "--output", "jsonpath={.items[*].status.phase}"])?;
    check(phases == "Pending", format!("the pod does not wait: {phases}"))?;
    apply(play, grant)?;
    play.wait_for("condition=Completed", "ug/daily-report", 90)?;
    play.wait_for("condition=complete", "job/daily-report", 30)?;

    let key = format!("tenants/{}/reports/2027-01-31.csv", play.namespace);
    let expected = "day,orders\n2027-01-31,42\n";
    let found = play.suite.s3.get(&play.suite.cluster, &key)?;
    check(found == expected, format!("the store has {found:?}"))?;
    let head = play.suite.s3.head(&play.suite.cluster, &key)?;
    check(
        head.contains("content-type: text/csv"),
        format!("the object's type is another one: {head}"),
    )?;
    let size = play.field("ug/daily-report", ".status.object.size")?;
    check(
        size == expected.len().to_string(),
        format!("status.object.size is {size}"),
    )?;
    play.wait_secret_gone("daily-report", 10)?;
    let ready = play.field("ug/daily-report", ".status.conditions[?(@.type==\"Ready\")].reason")?;
    check(ready == "Completed", format!("Ready has the reason {ready}"))
}

/// Runs examples/05-download-init-container.yaml.
pub fn download(play: &Play) -> Result<()> {
    let model = "0123456789abcdef".repeat(4096);
    let key = format!("tenants/{}/models/small.bin", play.namespace);
    play.suite.s3.put(&play.suite.cluster, &key, &model)?;
    apply(play, &example(play, "05-download-init-container.yaml")?.join("\n---\n"))?;
    play.wait_for("condition=Ready", "pod/inference", 60)?;
    let found = play.exec("inference", "cat /models/small.bin")?;
    check(found == model, "the main container has another file than the store")?;
    // The main container does not have the grant of the init container.
    play.exec("inference", "! ls /grant 2>/dev/null").map(|_| ())
}

/// A grant for a store whose access rules name another namespace is refused.
pub fn refused(play: &Play) -> Result<()> {
    let store = format!("e2e-closed-{}", play.suite.run);
    let rule = |name: &str| json!([{"namespaces": {"names": [name]}, "operations": ["Upload"], "keyPrefix": "tenants/{namespace}/", "maxExpirationSeconds": 3600}]);
    play.suite.make_store_at(&store, "s3", rule("somebody-else"))?;
    let script = "echo hello >/work/file; curl --config /mine/curl.cfg --upload-file /work/file";
    play.suite.cluster.apply(&[
        pods::pod(&play.namespace, "uploader", &play.suite.image, script, &["mine"]),
        pods::upload(&play.namespace, "mine", &store, LONG),
    ])?;
    play.wait_condition("ug/mine", "Ready", "False", "NamespaceNotAllowed", 30)?;
    play.wait_condition("ug/mine", "Stalled", "True", "NamespaceNotAllowed", 5)?;
    play.wait_for_missing("mine")?;
    let event = play.suite.cluster.wait(20, "an event that says why", || {
        let said = play.kubectl(&[
            "get",
            "events",
            "--field-selector",
            "reason=NamespaceNotAllowed",
            "--output",
            "jsonpath={.items[*].message}",
        ])?;
        Ok((!said.is_empty()).then_some(said))
    })?;
    check(
        event.contains(&play.namespace) && event.contains(&store),
        format!("the event does not say who and where: {event}"),
    )?;
    check(phase(play, "uploader")? == "Pending", "the pod does not wait")?;
    check(!play.exists("secret/mine")?, "a refused grant has a Secret")?;

    play.suite.make_store_at(&store, "s3", rule(&play.namespace))?;
    play.wait_condition("ug/mine", "Ready", "True", "Issued", 30)?;
    // The kubelet retries with increasing pauses. The longer a pod has waited, the later it sees the Secret.
    play.wait_for("jsonpath={.status.phase}=Succeeded", "pod/uploader", 120)?;
    play.suite
        .cluster
        .kubectl(&["delete", "clusterobjectstore", &store])
        .map(|_| ())
}

/// The store does not answer at first, and answers later.
pub fn store_down(play: &Play) -> Result<()> {
    let (cluster, door) = (&play.suite.cluster, format!("door-{}", play.suite.run));
    play.suite.s3.door(cluster, &door, false)?;
    let store = format!("e2e-{door}");
    play.suite
        .make_store_at(&store, &door, json!([pods::rule_for_all(LABEL)]))?;
    let script = "echo late >/work/file; curl --config /late/curl.cfg --upload-file /work/file";
    cluster.apply(&[
        pods::pod(&play.namespace, "uploader", &play.suite.image, script, &["late"]),
        pods::upload(&play.namespace, "late", &store, LONG),
    ])?;
    play.wait_condition("ug/late", "Ready", "False", "StoreUnreachable", 40)?;
    play.wait_condition("ug/late", "Reconciling", "True", "StoreUnreachable", 5)?;
    check(
        !play.exists("secret/late")?,
        "a credential was issued although Valet does not know whether the object exists",
    )?;
    play.wait_for_missing("late")?;

    play.suite.s3.door(cluster, &door, true)?;
    play.wait_condition("ug/late", "Ready", "True", "Issued", 60)?;
    play.wait_for("jsonpath={.status.phase}=Succeeded", "pod/uploader", 120)?;
    play.wait_for("condition=Completed", "ug/late", 90)?;
    cluster.kubectl(&["delete", "clusterobjectstore", &store]).map(|_| ())
}

/// A credential expires after some seconds in a pod that runs longer.
pub fn expiry(play: &Play) -> Result<()> {
    const SECONDS: u64 = 25;
    let key = format!("tenants/{}/film", play.namespace);
    play.suite.s3.put(&play.suite.cluster, &key, "frames")?;
    let pod = pods::pod(&play.namespace, "player", &play.suite.image, "sleep 100000", &["film"]);
    let grant = pods::download(&play.namespace, "film", STORE, &key, SECONDS);
    play.suite.cluster.apply(&[grant, pod])?;
    play.wait_for("condition=Ready", "pod/player", 20)?;
    let film = play.exec(
        "player",
        "cp /film/curl.cfg /work/kept.cfg; curl --config /film/curl.cfg",
    )?;
    check(film == "frames", format!("the pod got {film:?}"))?;

    play.wait_condition("dg/film", "Ready", "True", "Expired", SECONDS + 20)?;
    play.wait_secret_gone("film", 5)?;
    // The copy of the URL in the pod no longer works.
    let answer = play.exec(
        "player",
        "curl --config /work/kept.cfg --no-fail --write-out '\\n%{http_code}'",
    )?;
    check(
        answer.ends_with("403") && answer.contains("expired"),
        format!("the store still accepts the credential: {answer}"),
    )?;
    play.exec("player", "! curl --config /work/kept.cfg --silent --output /work/none")?;
    thread::sleep(Duration::from_secs(2));
    play.runs_on("player")
}
