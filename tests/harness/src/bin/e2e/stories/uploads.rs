//! Tests of uploads: with notifications from the store, and from a browser.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use valet_harness::{Context, Result, process};

use crate::{
    play::{Play, check},
    pods::{self, LONG},
    suite::{LABEL, RELEASE, SYSTEM},
};

/// A pod uploads between two polls. The store sends a notification, and the grant is Completed long before the next
/// poll. The test counts the polls.
pub fn notified(play: &Play) -> Result<()> {
    let (suite, cluster) = (play.suite, &play.suite.cluster);
    let address = cluster.field(&["service", RELEASE, "--namespace", SYSTEM], ".spec.clusterIP")?;
    let port = cluster.field(
        &["service", RELEASE, "--namespace", SYSTEM],
        ".spec.ports[?(@.name==\"notifications\")].port",
    )?;
    check(!port.trim().is_empty(), "the Service has no port for notifications")?;
    let url = format!(
        "http://valet:{}@{}:{}/notifications",
        suite.token,
        address.trim(),
        port.trim()
    );
    let store = format!("e2e-notifying-{}", suite.run);
    let rules = json!([pods::rule_for_all(LABEL)]);
    let object = suite.s3.notifying(cluster, &suite.image, &url, &store, &rules)?;
    let script = "until [ -s /note/curl.cfg ]; do sleep 1; done; echo news > /work/news; sleep 100000";
    // A failed poll of a store that is not ready yet would also be counted.
    cluster.apply(&[object])?;
    let ready = format!("clusterobjectstore/{store}");
    cluster.kubectl(&["wait", "--for=condition=Ready", &ready, "--timeout=60s"])?;
    cluster.apply(&[
        pods::upload(&play.namespace, "note", &store, LONG),
        pods::pod(&play.namespace, "sender", &suite.image, script, &["note"]),
    ])?;
    play.wait_condition("ug/note", "Ready", "True", "Issued", 60)?;
    let issued = Instant::now();
    play.wait_for("condition=Ready", "pod/sender", 60)?;

    // Polls follow 2, 6, 14 and 30 s after the credential was issued. Upload long after the third poll and long
    // before the fourth.
    std::thread::sleep(Duration::from_secs(17).saturating_sub(issued.elapsed()));
    play.exec("sender", "curl --config /note/curl.cfg --upload-file /work/news")?;
    let arrived = Instant::now();
    play.wait_for("condition=Completed", "ug/note", 10)?;
    let seen = arrived.elapsed();
    let since_issued = issued.elapsed();
    check(
        since_issued < Duration::from_secs(29),
        format!(
            "it took {since_issued:?} since the credential was issued, and a poll finds the upload after this time"
        ),
    )?;

    // The metrics of the leader. The Service can select any pod, so ask all pods.
    let metrics = cluster.field(&["service", RELEASE, "--namespace", SYSTEM], ".spec.ports[0].port")?;
    let ours = format!("store=\"{store}\"");
    let scrape = format!("curl --fail -sS http://{}:{}/metrics", address.trim(), metrics.trim());
    let text = cluster.wait(30, "a scrape that the leader answered", || {
        let text = play.exec("sender", &scrape)?;
        Ok((text.contains("valet_leader 1") && text.contains(&ours)).then_some(text))
    })?;
    let looks: u64 = text
        .lines()
        .filter(|line| line.starts_with("valet_store_polls_total") && line.contains(&ours))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    // One poll before the credential was issued, three regular polls, and one poll because of the notification.
    check(
        (2..=5).contains(&looks),
        format!("{looks} looks, where five are enough"),
    )?;
    let of = |name: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let (sum, count) = of("valet_notification_to_completed_seconds_sum")
        .zip(of("valet_notification_to_completed_seconds_count"))
        .context("no notification was counted")?;
    check(
        count >= 1.0 && sum / count < 1.0,
        format!("{sum} s for {count} notifications"),
    )?;
    play.note(format!(
        "Completed {:.2} s after the upload's command, {:.3} s after the notification; {looks} HEADs",
        seen.as_secs_f64(),
        sum / count
    ));
    Ok(())
}

/// A page that a pod serves together with the files of its grant Secret. The page builds the form from these files
/// and sends it with a file.
const PAGE: &str = r#"<!doctype html><title>avatar</title><body><script>
(async () => {
  const fields = await (await fetch('fields.json')).json();
  const form = document.createElement('form');
  form.method = 'POST';
  form.enctype = 'multipart/form-data';
  form.action = (await (await fetch('url')).text()).trim();
  for (const [name, value] of Object.entries(fields)) {
    const input = document.createElement('input');
    Object.assign(input, {type: 'hidden', name, value});
    form.append(input);
  }
  const input = document.createElement('input');
  Object.assign(input, {type: 'file', name: 'file'});
  const files = new DataTransfer();
  files.items.add(new File(['BYTES'], 'avatar.png', {type: 'image/png'}));
  input.files = files.files;
  form.append(input);
  document.body.append(form);
  form.submit();
})();
</script>"#;

/// A real browser on the node loads the page and sends the form: first with a file that is too large, then with a
/// valid file.
pub fn browser_form(play: &Play) -> Result<()> {
    let (suite, cluster) = (play.suite, &play.suite.cluster);
    let browser = ["chromium-headless-shell", "chromium"]
        .into_iter()
        .find(|name| {
            Command::new(name)
                .arg("--version")
                .output()
                .is_ok_and(|o| o.status.success())
        })
        .context("there is no browser: apt-get install --yes --no-install-recommends chromium-headless-shell")?;
    // The browser is outside the cluster, and reaches the store at another address than the operator.
    let store = format!("e2e-public-{}", suite.run);
    let mut object = suite
        .s3
        .store(cluster, &store, "s3", &json!([pods::rule_for_all(LABEL)]))?;
    object["spec"]["s3"]["publicEndpoint"] = json!(suite.s3.address_of_pod(cluster)?);
    let mut grant = pods::upload(&play.namespace, "avatar", &store, LONG);
    grant["spec"]["mode"] = json!("PostForm");
    grant["spec"]["constraints"] =
        json!({"overwrite": "Allow", "contentType": "image/png", "contentLengthRange": {"min": 1, "max": 20}});
    let page = |bytes: &str| PAGE.replace("BYTES", bytes);
    let script =
        "cd /work && cp /avatar/url /avatar/fields.json . && cp /pages/*.html . && exec httpd -f -p 8000 -h /work";
    let mut pod = pods::pod(&play.namespace, "site", &suite.image, script, &["avatar"]);
    pod["spec"]["volumes"]
        .as_array_mut()
        .context("a pod without volumes")?
        .push(json!({"name": "pages", "configMap": {"name": "pages"}}));
    pod["spec"]["containers"][0]["volumeMounts"]
        .as_array_mut()
        .context("a container without mounts")?
        .push(json!({"name": "pages", "mountPath": "/pages"}));
    pod["spec"]["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/small.html", "port": 8000}, "periodSeconds": 1});
    cluster.apply(&[
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pages", "namespace": play.namespace},
            "data": {"large.html": page("twenty-one bytes long"), "small.html": page("nineteen bytes long")},
        }),
        object,
        grant,
        pod,
    ])?;
    play.wait_condition("ug/avatar", "Ready", "True", "Issued", 30)?;
    play.wait_for("condition=Ready", "pod/site", 60)?;
    let site = play.field("pod/site", ".status.podIP")?;
    let visit = |name: &str| -> Result<String> {
        let mut command = process::clean(Command::new(browser));
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .arg(format!(
                "--user-data-dir={}",
                cluster.scratch().join("browser").display()
            ))
            // The browser waits until the page has finished, and prints its content.
            .args(["--timeout=10000", "--virtual-time-budget=10000", "--dump-dom"])
            .arg(format!("http://{site}:8000/{name}.html"));
        Ok(process::run(command, b"", Duration::from_secs(90))?.text())
    };
    let key = format!("tenants/{}/avatar", play.namespace);

    let said = visit("large")?;
    check(
        said.contains("EntityTooLarge"),
        format!("the store let a byte too many through, or the form did not reach it: {said}"),
    )?;
    check(suite.s3.get(cluster, &key).is_err(), "a file that is too large arrived")?;
    let began = Instant::now();
    visit("small")?;
    let stored = suite.s3.get(cluster, &key)?;
    check(stored == "nineteen bytes long", format!("the object is {stored:?}"))?;
    let head = suite.s3.head(cluster, &key)?;
    check(
        head.contains("content-type: image/png"),
        format!("the object's headers are {head}"),
    )?;
    play.wait_for("condition=Completed", "ug/avatar", 90)?;
    let version = Command::new(browser).arg("--version").output();
    let version = version.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    play.note(format!(
        "{}; Completed {:.0} s after the browser was started",
        version.unwrap_or_default(),
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}
