//! Tests of changes by owners of grants and stores: suspend, revoke and quotas.

use serde_json::{Value, json};
use valet_harness::{Error, Result};

use crate::{
    play::{Play, check},
    pods::{self, LONG},
    suite::{LABEL, STORE},
};

/// A grant is suspended, resumed and revoked while pods use it.
pub fn suspended(play: &Play) -> Result<()> {
    let key = format!("tenants/{}/film", play.namespace);
    play.suite.s3.put(&play.suite.cluster, &key, "frames")?;
    let player = pods::pod(&play.namespace, "player", &play.suite.image, "sleep 100000", &["film"]);
    let grant = pods::download(&play.namespace, "film", STORE, &key, LONG);
    play.suite.cluster.apply(&[grant, player])?;
    play.wait_for("condition=Ready", "pod/player", 60)?;
    let url = play.field("secret/film", ".data.url")?;
    play.exec("player", "cp /film/curl.cfg /work/kept.cfg")?;

    let say = |spec: Value| {
        let patch = json!({"spec": spec}).to_string();
        play.kubectl(&["patch", "dg/film", "--type=merge", "--patch", &patch])
    };
    say(json!({"suspend": true}))?;
    play.wait_condition("dg/film", "Suspended", "True", "Suspended", 30)?;
    play.wait_secret_gone("film", 10)?;
    shows_no_end(play)?;
    // A new pod waits for the Secret. A pod that has read the URL can use it until the expiry, which a condition of
    // the grant names.
    let late = pods::pod(
        &play.namespace,
        "late",
        &play.suite.image,
        "curl --config /film/curl.cfg",
        &["film"],
    );
    play.suite.cluster.apply(&[late])?;
    let of_late = "reason=FailedMount,involvedObject.name=late";
    play.suite.cluster.wait(30, "the kubelet to miss the Secret", || {
        let events = play.kubectl(&["get", "events", "--field-selector", of_late, "--output", "name"])?;
        Ok((!events.trim().is_empty()).then_some(()))
    })?;
    let copy = play.exec("player", "curl --config /work/kept.cfg")?;
    check(copy == "frames", format!("a copy of the credential gave {copy:?}"))?;
    let end = play.field("dg/film", ".status.expirationTime")?;
    let said = play.field("dg/film", ".status.conditions[?(@.type==\"Suspended\")].message")?;
    check(
        said.contains(&end),
        format!("the message does not contain the expiry of copies: {said}"),
    )?;

    say(json!({"suspend": false}))?;
    play.wait_for("jsonpath={.status.phase}=Succeeded", "pod/late", 120)?;
    let again = play.field("secret/film", ".data.url")?;
    check(again == url, "the grant has a different credential than before")?;

    say(json!({"revoke": true}))?;
    play.wait_condition("dg/film", "Ready", "True", "Revoked", 30)?;
    play.wait_secret_gone("film", 10)?;
    shows_no_end(play)?;
    let refused = say(json!({"revoke": false})).err().map(|error| error.to_string());
    check(
        refused.is_some_and(|said| said.contains("revoke")),
        "a revocation can be taken back",
    )
}

/// Checks that `kubectl get` shows no expiry for a grant without a credential, only NAME, READY, STATUS and AGE.
fn shows_no_end(play: &Play) -> Result<()> {
    let row = play.kubectl(&["get", "dg/film", "--no-headers"])?;
    check(
        row.split_whitespace().count() == 4,
        format!("the row shows a credential: {row}"),
    )
}

/// With a quota of one live grant, the second Job waits for the upload of the first, and then continues.
pub fn limits(play: &Play) -> Result<()> {
    let store = format!("e2e-narrow-{}", play.suite.run);
    let mut rule = pods::rule_for_all(LABEL);
    rule["maxLiveGrants"] = json!(1);
    play.suite.make_store_at(&store, "s3", json!([rule]))?;
    let (namespace, image) = (&play.namespace, &play.suite.image);
    let secrets = play.suite.watch_secrets(namespace)?;
    play.suite
        .cluster
        .apply(&[pods::upload(namespace, "first", &store, LONG)])?;
    play.wait_condition("ug/first", "Ready", "True", "Issued", 30)?;
    let uploader = |name: &str| {
        let script = format!("echo {name} >/work/file; curl --config /{name}/curl.cfg --upload-file /work/file");
        pods::pod(namespace, name, image, &script, &[name])
    };
    play.suite
        .cluster
        .apply(&[pods::upload(namespace, "second", &store, LONG), uploader("second")])?;
    play.wait_condition("ug/second", "Ready", "False", "TooManyGrants", 30)?;
    play.wait_condition("ug/second", "Reconciling", "True", "TooManyGrants", 5)?;
    play.wait_for_missing("second")?;
    check(
        !play.exists("secret/second")?,
        "there are two credentials, and the quota allows one",
    )?;

    play.suite.cluster.apply(&[uploader("first")])?;
    for name in ["first", "second"] {
        play.wait_for("jsonpath={.status.phase}=Succeeded", &format!("pod/{name}"), 150)?;
        play.wait_for("condition=Completed", &format!("ug/{name}"), 90)?;
        let found = play
            .suite
            .s3
            .get(&play.suite.cluster, &format!("tenants/{namespace}/{name}"))?;
        check(found.trim() == name, format!("the store has {found:?} for {name}"))?;
    }
    let keys = secrets.keys();
    if keys != ["first", "second"].map(|name| (name.to_owned(), 1)) {
        return Err(Error::new(format!("not one credential per grant: {keys:?}")));
    }
    play.suite
        .cluster
        .kubectl(&["delete", "clusterobjectstore", &store])
        .map(|_| ())
}
