//! Measures how fast Valet does what its documentation promises to do within a time.

use std::{
    process::Command,
    thread,
    time::{Duration, SystemTime},
};

use valet_harness::{Context, Result, poll, process};

use crate::{Bench, KINDS, NAMESPACE, SETTLE, SOON, objects::names, times::Times};

/// Number of uploads for which a notification is sent, one after the other.
pub const TOLD: usize = 50;
/// The token that a sender of notifications needs.
pub const TOKEN: &str = "6f2d1c9ad0b84f7e-bench";
/// docs/notifications.md: a grant is Completed within a second after the notification, usually within a tenth of a
/// second.
const NOTIFIED: &str = "promised: 1000, most often 100";
/// docs/reference/access-rules.md: the number of Secrets that Valet deletes, and the time in seconds for it.
const WITHDRAWN: (usize, u64) = (200, 30);

impl Bench {
    /// Uploads objects and sends a notification for each. Measures the time until the grants are Completed, with the
    /// operator's histogram and with a client.
    pub fn notified(&mut self) -> Result<()> {
        let (kind, resource) = KINDS[1];
        let count = |bench: &Self| bench.metric("valet_notification_to_completed_seconds_count");
        let mut seen = Vec::new();
        for name in names("told", TOLD) {
            self.client.post(resource, &self.grant(kind, &name))?;
            self.wait_for_secrets(std::slice::from_ref(&name))?;
            let key = format!("tenants/{NAMESPACE}/{name}");
            self.scene.store.put(NAMESPACE, &key, b"here it is")?;
            let before = count(self)?;
            let began = std::time::Instant::now();
            self.post_news(&key)?;
            poll(SOON, || (count(self).ok()? > before).then_some(()))
                .context(format_args!("{name} was not completed by its notification"))?;
            seen.push(began.elapsed());
        }
        let within = |seconds: &str| -> Result<f64> {
            self.metric(&format!(
                "valet_notification_to_completed_seconds_bucket{{le=\"{seconds}\"}}"
            ))
        };
        let mean = 1000.0 * self.metric("valet_notification_to_completed_seconds_sum")? / count(self)?;
        let times = Times::of(&seen);
        println!(
            "\n{TOLD} uploads of which the operator is told ({NOTIFIED})\n  notification to Completed: mean {mean:.1}; \
             {} within 80, {} within 640; with the sending and looks every 50: p50 {:.1}, max {:.1}",
            within("0.08")?,
            within("0.64")?,
            times.p50,
            times.max
        );
        Ok(())
    }

    /// Narrows an access rule that all live grants need, and measures the time until the last Secret is deleted. No
    /// other measurement is possible after it.
    pub fn narrowed(&mut self) -> Result<()> {
        let live: Vec<_> = (self.watch.present().into_iter())
            .filter(|name| !name.starts_with("bare-"))
            .collect();
        let patch = r#"[{"op": "replace", "path": "/spec/access/0/maxExpirationSeconds", "value": 600}]"#;
        let began = SystemTime::now();
        self.scene.plane.kubectl(&[
            "patch",
            &format!("costore/{NAMESPACE}"),
            "--type=json",
            "--patch",
            patch,
        ])?;
        let (many, seconds) = WITHDRAWN;
        let all_gone = || live.iter().all(|name| self.watch.went(name).is_some()).then_some(());
        let patience = SOON + Duration::from_secs(seconds) * u32::try_from(live.len() / many + 1).unwrap_or(u32::MAX);
        poll(patience, all_gone).context("Secrets are there long after their rule was narrowed")?;
        self.watch.alive()?;
        let last = live.iter().filter_map(|name| self.watch.went(name)).max();
        let took = last
            .context("no grant was live")?
            .duration_since(began)
            .unwrap_or_default();
        println!(
            "\n{} keys whose rule is narrowed (promised: {seconds} s for {many})\n  the last Secret gone after {:.1} s, \
             {:.1} s for each {many}",
            live.len(),
            took.as_secs_f64(),
            took.as_secs_f64() * many as f64 / live.len() as f64
        );
        thread::sleep(SETTLE);
        Ok(())
    }

    /// Sends the notification that a store would send.
    fn post_news(&self, key: &str) -> Result<()> {
        let body = format!(
            r#"{{"Records": [{{"eventName": "s3:ObjectCreated:Put", "s3": {{"bucket": {{"name": "{NAMESPACE}"}}, "object": {{"key": "{key}"}}}}}}]}}"#
        );
        let mut command = process::clean(Command::new("curl"));
        command
            .args(["--silent", "--show-error", "--fail", "--data-binary", "@-", "--header"])
            .arg(format!("Authorization: Bearer {TOKEN}"))
            .arg(format!("http://127.0.0.1:{}/notifications", self.notifications));
        process::run_ok(command, body.as_bytes(), SOON)?;
        Ok(())
    }

    /// The value of a sample of the operator's metrics. 0 if there is no such sample.
    fn metric(&self, sample: &str) -> Result<f64> {
        let text = self.operator.metrics()?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.trim().parse().ok());
        Ok(value.unwrap_or_default())
    }
}
