//! Tests of the conformance check of a store.

use std::time::Instant;

use serde_json::json;
use valet_harness::Result;

use crate::{
    play::{Play, check},
    pods::{self, LONG},
    suite::LABEL,
};

/// A gateway in front of the store signs every request itself, so a credential of one tenant can read all objects.
/// The store's owner requests a conformance check. Then Valet issues no credentials for the store, and the conditions
/// of grants give the reason. Without the gateway, the check passes.
pub fn conformance(play: &Play) -> Result<()> {
    let (suite, cluster, namespace) = (play.suite, &play.suite.cluster, play.namespace.as_str());
    let store = format!("e2e-conformance-{}", suite.run);
    let status = format!("clusterobjectstore/{store}");
    let access = json!([pods::rule_for_all(LABEL)]);
    let mut object = suite.s3.behind_gateway(cluster, &suite.image, &store, &access)?;
    object["spec"]["s3"]["probeKey"] = json!(store);
    let (own, others) = (format!("tenants/{namespace}/own"), format!("tenants/{namespace}-2/own"));
    suite.s3.put(cluster, &own, "mine")?;
    suite.s3.put(cluster, &others, "theirs")?;
    let grant = |name: &str| pods::download(namespace, name, &store, &own, LONG);
    let holder = |name: &str| pods::pod(namespace, name, &suite.image, "sleep 100000", &[name]);
    cluster.apply(&[object.clone(), grant("first"), holder("first")])?;
    play.wait_for("condition=Ready", "pod/first", 60)?;
    // Uses the signed URL unchanged, and with another object key.
    let read = |name: &str| {
        let bend = format!("sed 's#/{own}?#/{others}?#' /{name}/curl.cfg >/work/bent.cfg");
        let bent = "curl --config /work/bent.cfg --no-fail --output /work/bent --write-out '%{http_code} '";
        play.exec(
            name,
            &format!("{bend}; {bent}; cat /work/bent; echo; curl --config /{name}/curl.cfg"),
        )
    };
    let found = read("first")?;
    check(
        found == "200 theirs\nmine",
        format!("the gateway does not work as this story needs: {found}"),
    )?;

    // Valet cannot detect the problem before a conformance check is requested.
    play.wait_condition(&status, "Ready", "True", "Ready", 10)?;
    let began = Instant::now();
    cluster.kubectl(&["annotate", &status, "valetkey.dev/check-requested-at=now"])?;
    play.wait_condition(&status, "Ready", "False", "ConstraintsNotEnforced", 60)?;
    let found_out = began.elapsed();
    cluster.apply(&[grant("second"), holder("second")])?;
    play.wait_condition("dg/second", "Ready", "False", "ConstraintsNotEnforced", 20)?;
    let said = play.field("dg/second", ".status.conditions[?(@.type==\"Ready\")].message")?;
    check(
        said.contains("the store accepts a PUT request after the credential has expired"),
        format!("the grant does not say why: {said}"),
    )?;
    check(
        !play.exists("secret/second")?,
        "a grant of a store that checks nothing has a credential",
    )?;
    play.wait_for_missing("second")?;

    // The owner removes the gateway. The annotation stays, so Valet also checks the changed store.
    object["spec"]["s3"]["endpoint"] = json!(suite.s3.endpoint(cluster)?);
    let began = Instant::now();
    cluster.apply(&[object])?;
    play.wait_condition(&status, "ConstraintsEnforced", "True", "ConstraintsEnforced", 120)?;
    play.wait_condition(&status, "Ready", "True", "Ready", 5)?;
    let passed = began.elapsed();
    play.wait_for("condition=Ready", "pod/second", 120)?;
    let found = read("second")?;
    check(
        found.starts_with("403 ") && found.ends_with("\nmine") && !found.contains("theirs"),
        format!("the pod got {found}"),
    )?;
    let left = suite.s3.get(cluster, &format!("?prefix={store}"))?;
    check(
        !left.contains("<Key>"),
        format!("something is left of the trials: {left}"),
    )?;
    play.note(format!(
        "found out {:.1} s after it was asked for; passed {:.1} s after the gateway was gone",
        found_out.as_secs_f64(),
        passed.as_secs_f64()
    ));
    cluster.kubectl(&["delete", "clusterobjectstore", &store]).map(|_| ())
}
