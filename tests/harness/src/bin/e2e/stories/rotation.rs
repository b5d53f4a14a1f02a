//! Tests of the rotation of a store's credentials while pods use signed URLs.

use std::{thread, time::Duration, time::Instant};

use serde_json::json;
use valet_harness::Result;

use crate::{
    play::{Play, check},
    pods::{self, LONG},
    s3::AccessKey,
    suite::{LABEL, SYSTEM},
};

/// Maximum time in seconds until the operator has read changed store credentials.
const SEEN: u64 = 75;
/// Maximum time in seconds until the URLs are re-signed after that: docs/reference/stores.md.
const ANEW: u64 = 120;
/// Maximum time in seconds until the kubelet has updated a mounted Secret. It usually needs 60 to 90 s.
const KUBELET: u64 = 180;

/// The platform team changes the access key of a store while pods use signed URLs: first with a wrong secret, then
/// correctly. The URLs are re-signed and the kubelet updates the files. When the old access key is deleted, only
/// copies of old URLs stop working.
pub fn rotation(play: &Play) -> Result<()> {
    let (suite, cluster, namespace) = (play.suite, &play.suite.cluster, play.namespace.as_str());
    let store = format!("e2e-rotation-{}", suite.run);
    let status = format!("clusterobjectstore/{store}");
    // The platform team changes only the Secret with the store's credentials.
    let put_in = |key: &AccessKey| cluster.apply(&[key.in_secret(SYSTEM, &store)]);
    let old = suite.s3.add_access_key(cluster)?;
    put_in(&old)?;
    let mut object = suite
        .s3
        .store(cluster, &store, "s3", &json!([pods::rule_for_all(LABEL)]))?;
    object["spec"]["s3"]["credentials"]["secretRef"]["name"] = json!(store);
    let key = format!("tenants/{namespace}/film");
    suite.s3.put(cluster, &key, "frames")?;
    // The program reads curl.cfg for each transfer, as documented, and exits if a transfer fails.
    let script = "while curl --config /film/curl.cfg --output /work/film; do sleep 1; done; exit 1";
    cluster.apply(&[
        object,
        pods::download(namespace, "film", &store, &key, LONG),
        pods::upload(namespace, "report", &store, LONG),
        pods::pod(namespace, "player", &suite.image, script, &["film", "report"]),
    ])?;
    play.wait_for("condition=Ready", "pod/player", 60)?;
    let copies = "cp /film/curl.cfg /work/film.cfg; cp /report/curl.cfg /work/report.cfg; cat /film/expiry";
    let end = play.exec("player", copies)?;
    let signed_with = || -> Result<Vec<String>> {
        let of = |name: &&str| {
            let secret = format!("secret/{name}");
            play.field(&secret, ".metadata.annotations.valetkey\\.dev/signed-with")
        };
        ["film", "report"].iter().map(of).collect()
    };
    let before = signed_with()?;
    check(
        before.iter().all(|word| !word.is_empty()),
        "a Secret has no fingerprint of the access key that signed",
    )?;

    // The second access key exists, but the Secret gets a wrong secret key.
    let new = suite.s3.add_access_key(cluster)?;
    put_in(&new.with_wrong_secret()?)?;
    let began = Instant::now();
    play.wait_condition(&status, "Ready", "False", "CredentialsRefused", SEEN)?;
    let said_after = began.elapsed();
    let said = play.field(&status, ".status.conditions[?(@.type==\"Ready\")].message")?;
    check(
        said.contains("SignatureDoesNotMatch"),
        format!("the message does not say what is wrong: {said}"),
    )?;
    // A new grant waits, and its condition gives the reason. Issued credentials are kept.
    cluster.apply(&[pods::upload(namespace, "late", &store, LONG)])?;
    play.wait_condition("ug/late", "Ready", "False", "CredentialsRefused", 10)?;
    check(
        signed_with()? == before,
        "a credential was re-signed with an access key that the store rejects",
    )?;

    put_in(&new)?;
    let began = Instant::now();
    play.wait_condition(&status, "Ready", "True", "Ready", SEEN)?;
    play.wait_condition("ug/late", "Ready", "True", "Issued", 30)?;
    let mended = began.elapsed();
    cluster.wait(SEEN + ANEW, "both credentials to be re-signed", || {
        let now = signed_with()?;
        let is_anew = now.iter().zip(&before).all(|(now, before)| now != before);
        Ok(is_anew.then_some(()))
    })?;
    let anew = began.elapsed();
    let differ = "! cmp -s /film/curl.cfg /work/film.cfg && ! cmp -s /report/curl.cfg /work/report.cfg";
    cluster.wait(KUBELET, "both new credentials in the pod", || {
        play.exec("player", differ).map(|_| Some(()))
    })?;
    let in_pod = began.elapsed();
    check(
        play.exec("player", "cat /film/expiry")? == end,
        "the credential has a different expiry than before",
    )?;
    // Both access keys are valid until the owner deletes one.
    check(
        play.exec("player", "curl --config /work/film.cfg")? == "frames",
        "a copy of the old credential does not work any more",
    )?;

    suite.s3.delete_access_key(cluster, &old)?;
    let answer = "--no-fail --output /dev/null --write-out '%{http_code}'";
    let status_of_copy = play.exec("player", &format!("curl --config /work/film.cfg {answer}"))?;
    check(
        status_of_copy == "403",
        format!("a copy of the old credential is answered {status_of_copy}"),
    )?;
    check(
        play.exec("player", "curl --config /film/curl.cfg")? == "frames",
        "the new credential does not download the object",
    )?;
    play.exec(
        "player",
        "echo done >/work/report; curl --config /report/curl.cfg --upload-file /work/report",
    )?;
    play.wait_for("condition=Completed", "ug/report", 90)?;
    // No transfer of the pod has failed.
    thread::sleep(Duration::from_secs(3));
    play.runs_on("player")?;
    play.note(format!(
        "the wrong Secret is said after {:.0} s; with the right one: mended after {:.0} s, both keys signed anew after {:.0} s, \
         in the pod after {:.0} s",
        said_after.as_secs_f64(),
        mended.as_secs_f64(),
        anew.as_secs_f64(),
        in_pod.as_secs_f64()
    ));
    cluster.kubectl(&["delete", "clusterobjectstore", &store]).map(|_| ())
}
