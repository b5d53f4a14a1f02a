//! Tests of temporary credentials in a Job.

use std::time::Instant;

use serde_json::{Value, json};
use valet_harness::Result;

use crate::{
    play::{Play, check},
    pods::{self, LONG},
    suite::LABEL,
};

/// The settings of rclone from docs/reference/secret.md. The credentials are environment variables with the names
/// that SDKs use.
const RCLONE: &str = r#"
export HOME=/work RCLONE_S3_ENV_AUTH=true RCLONE_S3_PROVIDER=Other RCLONE_S3_ENDPOINT="$AWS_ENDPOINT_URL_S3"
export RCLONE_RETRIES=1 RCLONE_LOW_LEVEL_RETRIES=1
"#;

/// Uploads a folder with a subfolder and a file in two parts under the prefix. Then tries requests that the store
/// must reject, with rclone and also with curl, because rclone reads before it writes. A request that is not rejected
/// is printed and makes the Job fail.
const WRITER: &str = r#"
mkdir -p /work/results/logs
for n in 1 2 3; do echo "step $n" > /work/results/step-$n.txt; done
echo "a plus, a + b, and ümlaut" > "/work/results/logs/a + b ü.txt"
seq 1 900000 > /work/results/numbers
export RCLONE_S3_NO_CHECK_BUCKET=true RCLONE_S3_NO_HEAD=true RCLONE_NO_CHECK_DEST=true RCLONE_S3_UPLOAD_CUTOFF=5Mi
rclone copy /work/results ":s3:$bucket/$key"
echo "written"

no() {
  what=$1; shift
  if "$@" > /work/said 2>&1; then echo "NOT REFUSED: $what"; exit 1; fi
  grep -qE 'AccessDenied|status code: 403|error: 403' /work/said || { echo "REFUSED FOR ANOTHER REASON: $what"; cat /work/said; exit 1; }
  echo "refused: $what"
}
signed() {
  method=$1; shift
  curl --fail-with-body -sS --request "$method" --aws-sigv4 "aws:amz:$AWS_REGION:s3" \
    --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" --header "x-amz-security-token: $AWS_SESSION_TOKEN" \
    --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "$@"
}
at=$AWS_ENDPOINT_URL_S3/$bucket
# curl as it is used here is let in, so what it is refused, it is refused for what it asks.
signed PUT --data-binary hello "$at/${key}by-curl"
no 'rclone writes beside' rclone copy /work/results/logs ":s3:$bucket/${key%/}-2"
no 'rclone writes above' rclone copyto /work/results/step-1.txt ":s3:$bucket/OTHERS"
no 'rclone reads theirs' rclone copyto ":s3:$bucket/OTHERS" /work/theirs
no 'rclone reads its own' rclone copy ":s3:$bucket/$key" /work/back
no 'rclone lists the bucket' rclone lsf ":s3:$bucket"
no 'rclone lists its own' rclone lsf ":s3:$bucket/$key"
no 'rclone deletes' rclone delete ":s3:$bucket/$key"
no 'PUT beside' signed PUT --data-binary mine "$at/${key%/}-2/x"
no 'PUT above' signed PUT --data-binary mine "$at/OTHERS"
no 'PUT of its own name' signed PUT --data-binary mine "$at/${key%/}"
no 'GET of theirs' signed GET "$at/OTHERS"
no 'GET of its own' signed GET "$at/${key}step-1.txt"
no 'DELETE of theirs' signed DELETE "$at/OTHERS"
no 'DELETE of its own' signed DELETE "$at/${key}step-1.txt"
no 'list of the bucket' signed GET "$at?list-type=2"
no 'another bucket' signed PUT "$AWS_ENDPOINT_URL_S3/mine"
echo "done"
"#;

/// The number of rejected requests that [`WRITER`] prints.
const REFUSALS: usize = 16;

/// Reads the objects under the prefix with rclone, and checks that writes are rejected.
const READER: &str = r#"
rclone copy ":s3:$bucket/$key" /work/back
cd /work/back
find . -type f | sort
[ "$(sha256sum < numbers)" = "$(seq 1 900000 | sha256sum)" ]
cd /work
if rclone copy --s3-no-check-bucket --s3-no-head --no-check-dest /work/back ":s3:$bucket/$key" > /work/said 2>&1; then exit 1; fi
grep -q AccessDenied /work/said
if rclone lsf ":s3:$bucket" > /work/said 2>&1; then exit 1; fi
grep -q AccessDenied /work/said
"#;

/// A pod spec with all entries of a grant Secret as environment variables.
fn spec(image: &str, script: &str, secret: &str) -> Value {
    let mut spec = pods::spec(image, &format!("{RCLONE}{script}"), &[]);
    spec["restartPolicy"] = json!("Never");
    spec["containers"][0]["envFrom"] = json!([{"secretRef": {"name": secret}}]);
    spec
}

fn with_credentials(mut grant: Value, key: &str) -> Value {
    grant["spec"]["key"] = json!(key);
    grant["spec"]["mode"] = json!("Credentials");
    if grant["kind"] == "UploadGrant" {
        grant["spec"]["constraints"] = json!({"overwrite": "Allow"});
    }
    grant
}

/// A Job waits for temporary credentials and uploads a folder under one prefix with an S3 client. Everything else is
/// rejected. The credentials of a download grant can read the folder and nothing else.
pub fn s3_client(play: &Play) -> Result<()> {
    let (suite, cluster) = (play.suite, &play.suite.cluster);
    let began = Instant::now();
    let image = suite.stores_image()?;
    let unpacked = began.elapsed();
    let store = format!("e2e-lending-{}", suite.run);
    let mut rule = pods::rule_for_all(LABEL);
    let closed = suite.s3.with_sessions(cluster, &image, &store, &json!([rule]))?;
    rule["credentials"] = json!("Allow");
    let lending = {
        let mut store = closed.clone();
        store["spec"]["access"] = json!([rule]);
        store
    };
    let ask = |args: &[&str], key: &str, body: &str| suite.s3.ask_at(cluster, &store, args, key, body);
    let get = |key: &str| ask(&[], key, "");
    let (tenant, others) = (
        format!("tenants/{}", play.namespace),
        format!("tenants/{}/run-4", play.namespace),
    );
    let key = format!("{tenant}/run-42/");
    ask(&["--request", "PUT", "--data-binary", "@-"], &others, "theirs")?;

    // The Job is created before its grant, and the grant before the access rule that allows temporary credentials.
    let began = Instant::now();
    let writer = spec(&image, &WRITER.replace("OTHERS", &others), "run-42");
    cluster.apply(&[
        pods::job(&play.namespace, "simulation", writer),
        closed,
        with_credentials(pods::upload(&play.namespace, "run-42", &store, LONG), &key),
    ])?;
    play.wait_condition("ug/run-42", "Ready", "False", "OperationNotAllowed", 60)?;
    check(!play.exists("secret/run-42")?, "a refused grant has a Secret")?;
    cluster.apply(&[lending])?;
    play.wait_condition("ug/run-42", "Ready", "True", "Issued", 30)?;
    let issued = began.elapsed();
    play.wait_condition("ug/run-42", "Completed", "Unknown", "NotObservable", 5)?;
    let end = play
        .wait_for("condition=complete", "job/simulation", 90)
        .map(|()| began.elapsed());
    let log = play.kubectl(&["logs", "job/simulation", "--tail=100"])?;
    let end = end.map_err(|error| valet_harness::Error::new(format!("{error}; the Job said {log}")))?;
    check(
        log.matches("\nrefused: ").count() == REFUSALS && log.ends_with("done\n"),
        format!("the Job said {log}"),
    )?;

    // Check the store with its administrator credentials.
    let numbers: String = (1..=900_000).map(|n| format!("{n}\n")).collect();
    let files = [
        ("step-1.txt", "step 1\n"),
        ("step-2.txt", "step 2\n"),
        ("step-3.txt", "step 3\n"),
        ("logs/a%20%2B%20b%20%C3%BC.txt", "a plus, a + b, and ümlaut\n"),
        ("by-curl", "hello"),
        ("numbers", &numbers),
    ];
    for (name, content) in files {
        let found = get(&format!("{key}{name}"))?;
        check(
            found == content,
            format!("{name} has {} bytes in the store, and other ones", found.len()),
        )?;
    }
    let head = ask(&["--head"], &format!("{key}numbers"), "")?.to_ascii_lowercase();
    check(
        head.lines()
            .any(|line| line.starts_with("etag:") && line.trim_end().ends_with("-2\"")),
        format!("the large file did not go up in two parts: {head}"),
    )?;
    let listed = get("?list-type=2")?;
    check(
        listed.matches("<Key>").count() == files.len() + 1,
        format!("the bucket has other objects: {listed}"),
    )?;
    check(get(&others)? == "theirs", "somebody else's object is another one")?;

    // Download the folder again.
    cluster.apply(&[
        with_credentials(pods::download(&play.namespace, "back", &store, &key, LONG), &key),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader", "namespace": play.namespace},
            "spec": spec(&image, READER, "back"),
        }),
    ])?;
    let read = play.wait_for("jsonpath={.status.phase}=Succeeded", "pod/reader", 60);
    let log = play.kubectl(&["logs", "pod/reader", "--tail=100"])?;
    read.map_err(|error| valet_harness::Error::new(format!("{error}; the pod said {log}")))?;
    let found = "./by-curl\n./logs/a + b ü.txt\n./numbers\n./step-1.txt\n./step-2.txt\n./step-3.txt\n";
    check(log.contains(found), format!("the pod said {log}"))?;
    play.note(format!(
        "image unpacked in {:.1} s; credentials {:.1} s and {} files {:.1} s after the Job was made; {REFUSALS} refusals",
        unpacked.as_secs_f64(),
        issued.as_secs_f64(),
        files.len() - 1,
        end.as_secs_f64(),
    ));
    cluster.kubectl(&["delete", "clusterobjectstore", &store]).map(|_| ())
}
