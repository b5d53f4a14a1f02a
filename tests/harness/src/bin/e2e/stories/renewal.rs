//! Tests of renewal: a pod that runs longer than the lifetime of its credential.

use std::time::Instant;

use valet_harness::Result;

use crate::{
    play::{Play, check},
    pods::{self, LONG},
    suite::STORE,
};

/// The credential in a running pod is renewed: the kubelet updates the files, the same command works with the new
/// URL, and the old URL works until its expiry.
pub fn renewal(play: &Play) -> Result<()> {
    let key = format!("tenants/{}/prices", play.namespace);
    play.suite.s3.put(&play.suite.cluster, &key, "apples 3")?;
    let mut grant = pods::download(&play.namespace, "prices", STORE, &key, LONG);
    grant["spec"]["renewal"] = serde_json::json!({"policy": "Always"});
    // The program reads curl.cfg for each transfer, as documented, and exits if a transfer fails.
    let script = "while curl --config /prices/curl.cfg --output /work/prices; do sleep 1; done; exit 1";
    let pod = pods::pod(&play.namespace, "shop", &play.suite.image, script, &["prices"]);
    play.suite.cluster.apply(&[grant, pod])?;
    play.wait_for("condition=Ready", "pod/shop", 60)?;
    play.wait_condition("dg/prices", "Ready", "True", "Issued", 5)?;
    check(
        !play.field("dg/prices", ".status.renewalTime")?.is_empty(),
        "the grant does not say when its credential is renewed",
    )?;
    let in_pod = || play.exec("shop", "cat /prices/expiry");
    let first = in_pod()?;
    let files = play.exec("shop", "ls /prices; cp /prices/curl.cfg /work/first.cfg")?;

    // A renewal would follow after ten minutes. An annotation requests it now, and the operator does the same write.
    let now = play.exec("shop", "date -u +%FT%TZ")?;
    let annotation = format!("valetkey.dev/renew-requested-at={}", now.trim());
    let began = Instant::now();
    play.kubectl(&["annotate", "dg/prices", &annotation])?;
    play.suite.cluster.wait(20, "the second credential", || {
        Ok((play.field("dg/prices", ".status.renewals")? == "1").then_some(()))
    })?;
    let published = began.elapsed();
    // The kubelet needs 60 to 90 s to update the files. Valet assumes at most 180 s.
    let second = play.suite.cluster.wait(180, "the second credential in the pod", || {
        let now = in_pod()?;
        Ok((now != first).then_some(now))
    })?;
    play.note(format!(
        "published after {:.1} s, in the pod after {:.0} s",
        published.as_secs_f64(),
        began.elapsed().as_secs_f64()
    ));
    let expiration = play.field("dg/prices", ".status.expirationTime")?;
    check(
        second.trim() == expiration,
        format!("the credential in the pod expires at {second}, the grant says {expiration}"),
    )?;
    check(play.exec("shop", "ls /prices")? == files, "the files have other names")?;
    for config in ["/work/first.cfg", "/prices/curl.cfg"] {
        let found = play.exec("shop", &format!("curl --config {config}"))?;
        check(found == "apples 3", format!("with {config} the pod got {found:?}"))?;
    }
    play.runs_on("shop")
}
