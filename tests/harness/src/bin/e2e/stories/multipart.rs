//! Tests of multipart uploads.

use std::time::Instant;

use serde_json::{Value, json};
use valet_harness::{Context, Result};

use crate::{
    play::{Play, check},
    pods::{self, LONG},
    suite::STORE,
};

/// 1 GiB, in 64 parts of 16 MiB.
const SIZE: u64 = 1 << 30;

/// Normal changes of the operator's memory in MiB. This is less than the size of one part.
const NOISE: f64 = 15.0;

/// Creates the file and uploads it with a curl wrapper that fails once, at part 17.
const SCRIPT: &str = r#"
mkdir /work/bin
cat > /work/bin/curl <<'END'
#!/bin/sh
read -r url
case $url in *partNumber=17\&*) [ -e /work/broke ] || { : > /work/broke; echo 'curl: (56) broken by the story' >&2; exit 56; } ;; esac
printf '%s\n' "$url" | exec /usr/bin/curl "$@"
END
chmod +x /work/bin/curl
head -c SIZE /dev/urandom > /work/dump
sha256sum < /work/dump
TMPDIR=/work PATH=/work/bin:$PATH sh /big/upload.sh /work/dump
"#;

fn grant(play: &Play, name: &str, size: u64) -> Value {
    let mut grant = pods::upload(&play.namespace, name, STORE, LONG);
    grant["spec"]["mode"] = json!("Multipart");
    grant["spec"]["constraints"] = json!({"contentLength": size, "contentType": "application/x-dump"});
    grant
}

/// The memory of each replica in MiB: the current and the maximum resident size.
fn memory(play: &Play) -> Result<Vec<(f64, f64)>> {
    let suite = play.suite;
    let line = "awk '/^VmHWM|^VmRSS/ {print $2}' /proc/$p/status | xargs echo";
    let said = suite
        .privileged_pods
        .each(&suite.cluster, &suite.operators()?, "valet", line)?;
    let number = |word: Option<&str>| word.and_then(|w| w.parse::<f64>().ok()).map(|kb| kb / 1024.0);
    said.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let most = number(words.next());
            most.zip(number(words.next())).map(|(most, now)| (now, most))
        })
        .collect::<Option<Vec<_>>>()
        .context("the kernel said nothing of the operator's memory")
}

/// The number of incomplete multipart uploads under the prefix of the test.
fn open(play: &Play) -> Result<usize> {
    let query = format!("?prefix=tenants%2F{}%2F&uploads=", play.namespace);
    let listed = play.suite.s3.get(&play.suite.cluster, &query)?;
    Ok(listed.matches("<UploadId>").count())
}

/// A Job uploads 1 GiB as a multipart upload, and sends one part twice. An aborted upload leaves no parts.
pub fn multipart_job(play: &Play) -> Result<()> {
    let (suite, cluster) = (play.suite, &play.suite.cluster);
    let before = memory(play)?;
    let script = SCRIPT.replace("SIZE", &SIZE.to_string());
    let spec = pods::spec(&suite.image, &script, &["big"]);
    let began = Instant::now();
    cluster.apply(&[pods::job(&play.namespace, "dump", spec), grant(play, "big", SIZE)])?;
    play.wait_condition("ug/big", "Ready", "True", "Issued", 30)?;
    check(open(play)? == 1, "the upload was not initiated")?;
    play.wait_for("condition=complete", "job/dump", 300)?;
    let sent = began.elapsed();
    play.wait_for("condition=Completed", "ug/big", 150)?;
    let seen = began.elapsed();

    let log = play.kubectl(&["logs", "job/dump"])?;
    check(
        log.contains("part 17 failed; next try in 1 s") && log.contains("part 64 is in the store"),
        format!("the script said {log}"),
    )?;
    check(!log.contains("X-Amz-Signature"), "the script printed a URL")?;
    let digest = log
        .lines()
        .find_map(|line| line.strip_suffix("  -"))
        .unwrap_or_default();
    let stored = suite.s3.digest(cluster, &format!("tenants/{}/big", play.namespace))?;
    check(
        !digest.is_empty() && stored.contains(digest),
        format!("the file has {digest}, the object {stored}"),
    )?;
    let size = play.field("ug/big", ".status.object.size")?;
    check(size == SIZE.to_string(), format!("status.object.size is {size}"))?;
    let kind = play.field("ug/big", ".status.object.contentType")?;
    check(kind == "application/x-dump", format!("the object's type is {kind}"))?;
    check(open(play)? == 0, "an upload goes on")?;
    let after = memory(play)?;
    for ((now, _), (then, most)) in before.iter().zip(&after) {
        check(
            most - now < NOISE,
            format!("the operator had {now:.1} MiB, and {most:.1} MiB at the most"),
        )?;
        play.note(format!(
            "memory of one replica: {now:.1} MiB before, {then:.1} MiB after, at most {most:.1} MiB"
        ));
    }
    play.note(format!(
        "1 GiB made and sent in {:.0} s, Completed {:.0} s later",
        sent.as_secs_f64(),
        (seen - sent).as_secs_f64()
    ));

    // The second upload is aborted halfway.
    let script = "head -c 33554432 /dev/zero > /work/f; TMPDIR=/work sh /left/upload.sh /work/f 1; sleep 1000";
    cluster.apply(&[
        grant(play, "left", 32 << 20),
        pods::pod(&play.namespace, "half", &suite.image, script, &["left"]),
    ])?;
    cluster.wait(60, "the first part", || {
        let log = play.kubectl(&["logs", "pod/half"]).unwrap_or_default();
        Ok(log.contains("part 1 is in the store").then_some(()))
    })?;
    check(open(play)? == 1, "the upload does not go on")?;
    play.kubectl(&["delete", "ug/left", "--timeout=60s"])?;
    check(open(play)? == 0, "parts of a deleted grant are in the store")?;
    play.wait_secret_gone("left", 10)
}
