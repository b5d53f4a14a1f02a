//! Tests of Azure and Google stores with emulators on the node. The workloads use only curl, as for S3.

use std::{fs, time::SystemTime};

use serde_json::{Value, json};
use valet_harness::{Azurite, Context, GcsServer, Result, azurite::ACCOUNT, google, node};

use crate::{
    play::{Play, check},
    pods::{self, LONG},
    suite::{LABEL, SYSTEM},
};

/// The container or bucket.
const BUCKET: &str = "media";

/// The content of the uploaded file.
const REPORT: &str = "day,orders\n2027-01-31,42\n";

/// A shell function `answer CONFIG`: prints the status with which the store answers to the upload of another file.
const ANSWER: &str = r#"
answer() { curl --config "$1" --no-fail --output /work/said --write-out '%{http_code}\n' --upload-file /work/other; }
echo other > /work/other
"#;

/// Changes a SAS that may only create a blob into one that may also overwrite it. The signature no longer matches.
const ALTERED: &str = r"
sed 's/&sp=c&/\&sp=cw\&/' /report/curl.cfg > /work/altered.cfg
answer /work/altered.cfg
";

/// Creates a store for the test. `place` is the value of `spec.azureBlob` or `spec.gcs`, and `entries` are the
/// entries of its credentials Secret.
fn store(play: &Play, field: &str, mut place: Value, entries: Value) -> Result<String> {
    let name = format!("e2e-{field}-{}", play.suite.run).to_ascii_lowercase();
    place["credentials"] = json!({"secretRef": {"name": name}});
    play.suite.cluster.apply(&[
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": SYSTEM},
            "stringData": entries,
        }),
        json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": name},
            "spec": {field: place, "access": [pods::rule_for_all(LABEL)]},
        }),
    ])?;
    Ok(name)
}

/// Creates an upload grant with these constraints. Returns the object key.
fn grant(play: &Play, store: &str, constraints: Value) -> Result<String> {
    let mut grant = pods::upload(&play.namespace, "report", store, LONG);
    grant["spec"]["constraints"] = constraints;
    play.suite.cluster.apply(&[grant])?;
    play.wait_condition("ug/report", "Ready", "True", "Issued", 60)?;
    Ok(format!("tenants/{}/report", play.namespace))
}

/// Runs a Job that uploads, with additional commands `before` and `after`. Waits until Valet detects the upload, and
/// returns the output of the Job.
fn send(play: &Play, before: &str, after: &str) -> Result<String> {
    let report = REPORT.replace('\n', "\\n");
    let upload = "curl --config /report/curl.cfg --upload-file /work/report.csv --output /work/said";
    let script = format!("printf '{report}' > /work/report.csv\n{before}\n{upload}\n{after}");
    let spec = pods::spec(&play.suite.image, &script, &["report"]);
    play.suite
        .cluster
        .apply(&[pods::job(&play.namespace, "sender", spec)])?;
    play.wait_for("condition=complete", "job/sender", 90)?;
    play.wait_for("condition=Completed", "ug/report", 90)?;
    let size = play.field("ug/report", ".status.object.size")?;
    check(
        size == REPORT.len().to_string(),
        format!("status.object.size is {size}"),
    )?;
    play.kubectl(&["logs", "job/sender"])
}

/// Downloads the object in an init container. The main container has no credential.
fn fetch(play: &Play, store: &str, key: &str) -> Result<()> {
    let grant = pods::download(&play.namespace, "back", store, key, LONG);
    let mut pod = pods::pod(&play.namespace, "reader", &play.suite.image, "sleep 100000", &["back"]);
    let main = &mut pod["spec"]["containers"][0];
    let mut init = main.clone();
    init["name"] = json!("fetch");
    init["command"] = json!(["curl", "--config", "/back/curl.cfg", "--output", "/work/report.csv"]);
    main["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
    pod["spec"]["initContainers"] = json!([init]);
    play.suite.cluster.apply(&[grant, pod])?;
    play.wait_for("condition=Ready", "pod/reader", 60)?;
    let found = play.exec("reader", "cat /work/report.csv")?;
    check(found == REPORT, format!("the main container has {found:?}"))
}

fn is_report(stored: Option<Vec<u8>>) -> Result<()> {
    let stored = stored.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    check(stored.as_deref() == Some(REPORT), format!("the store has {stored:?}"))
}

/// Azure Blob Storage with Azurite, which checks signatures.
pub fn azure(play: &Play) -> Result<()> {
    let azurite = Azurite::start_at(node::ADDRESS)?;
    azurite.create_container(BUCKET)?;
    let place = json!({
        "account": ACCOUNT, "container": BUCKET, "endpoint": azurite.endpoint(), "addressingStyle": "Path",
        // Azurite obeys an unsigned header `x-ms-copy-source`. Azure obeys it only with a signature for the source.
        "unsignedHeaders": "Tolerate",
    });
    let entries = json!({"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_KEY": azurite.key()});
    let store = store(play, "azureBlob", place, entries)?;
    let key = grant(play, &store, json!({}))?;
    let said = send(play, &format!("{ANSWER}{ALTERED}"), "answer /report/curl.cfg")?;
    check(
        said == "403\n403\n",
        format!("a changed URL and a second upload were answered {said:?}"),
    )?;
    is_report(azurite.get(BUCKET, &key)?)?;
    fetch(play, &store, &key)?;
    play.suite
        .cluster
        .kubectl(&["delete", "clusterobjectstore", &store])
        .map(|_| ())
}

/// Google Cloud Storage with fake-gcs-server. The server stores objects, but checks no signatures, and lets a
/// write-once URL overwrite an object. So the grant allows overwriting, and a checker of Google's documented rules
/// verifies the URLs. The checker uses no code of Valet.
pub fn google(play: &Play) -> Result<()> {
    let file = play.suite.root.join("tests/fixtures/google/service-account.json");
    let account = fs::read_to_string(&file).context(format_args!("cannot read {}", file.display()))?;
    let server = GcsServer::start_at(node::ADDRESS)?;
    server.create_bucket(BUCKET)?;
    let place = json!({"bucket": BUCKET, "endpoint": server.endpoint()});
    let store = store(play, "gcs", place, json!({"credentials.json": account}))?;
    // Valet refuses write-once uploads to a store that does not enforce write-once.
    let key = grant(play, &store, json!({"overwrite": "Allow"}))?;
    is_signed(play, &account, "report", "PUT")?;
    send(play, "", "")?;
    is_report(server.get(BUCKET, &key)?)?;
    fetch(play, &store, &key)?;
    is_signed(play, &account, "back", "GET")?;
    play.note("fake-gcs-server checks no signatures: a separate program checked both URLs against Google's rules");
    play.suite
        .cluster
        .kubectl(&["delete", "clusterobjectstore", &store])
        .map(|_| ())
}

/// Checks the signed URL in a grant Secret with Google's published rules: it is valid for its own object, and not for
/// another object.
fn is_signed(play: &Play, account: &str, secret: &str, method: &str) -> Result<()> {
    let data = |name: &str| {
        let template = format!("go-template={{{{.data.{name} | base64decode}}}}");
        play.kubectl(&["get", "secret", secret, "--output", &template])
    };
    let (url, headers) = (data("url")?, data("headers")?);
    let headers: Vec<_> = headers.lines().filter_map(|line| line.split_once(": ")).collect();
    let parsed: Value = serde_json::from_str(account).context("the service account's key is JSON")?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let why = |url: &str| -> Result<String> {
        let question = json!({
            "op": "verify", "key_file": account, "account": parsed["client_email"], "url": url, "method": method,
            "headers": headers, "now": now.as_ref().map_or(0, |now| now.as_secs()),
        });
        let (answer, _) = google::ask(question, &[])?;
        Ok(answer["why"].as_str().unwrap_or("it says nothing").to_owned())
    };
    let refused = why(url.trim())?;
    check(
        refused.is_empty(),
        format!("Google would reject the URL for {method}: {refused}"),
    )?;
    let bent = url.trim().replacen("/tenants/", "/TENANTS/", 1);
    check(
        !why(&bent)?.is_empty(),
        format!("the checker accepts the URL for {method} for any object"),
    )
}
