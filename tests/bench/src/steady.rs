//! Measures the time from a grant to its Secret at a steady rate, alone and beside a flood in another namespace.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use tokio::time::sleep_until;
use valet_harness::{Context, Result};

use crate::{
    Bench,
    api::{Place, VALET, all},
    grants::{DOWNLOAD, Kind, LIFETIME, NAMESPACES, UPLOAD, namespace, places},
};

/// The time between two grants: ten grants per second.
const PAUSE: Duration = Duration::from_millis(100);

/// The times of one grant in milliseconds.
struct Times {
    /// From the request that creates the grant to its response.
    create: Vec<f64>,
    /// From the request that creates the grant to the watch event of its Secret.
    secret: Vec<f64>,
}

/// Returns the value that the given percentage of the values does not exceed.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent).div_ceil(100).max(1) - 1]
}

impl Bench {
    /// Creates ten grants per second of each kind.
    pub async fn steady(&mut self) -> Result<()> {
        for kind in [DOWNLOAD, UPLOAD] {
            let at = places("steady", self.sizes.steady, 1);
            let times = self.create_steadily(kind, &at).await?;
            self.add_times(&format!("{} at ten per second", kind.name), &times);
            self.delete_grants(kind, &at).await?;
        }
        Ok(())
    }

    /// Creates ten grants per second in a namespace, while another namespace creates as many grants as it can.
    pub async fn flood(&mut self) -> Result<()> {
        let flood = places("flood", self.sizes.flood, 1);
        let quiet: Vec<_> = (0..self.sizes.steady)
            .map(|n| Place {
                namespace: namespace(NAMESPACES - 1),
                name: format!("quiet-{n}"),
            })
            .collect();
        let served = self.cluster.watch(&all(VALET, DOWNLOAD.plural), "MODIFIED").await?;
        let began = Instant::now();
        let (flooded, times) = tokio::join!(
            self.create(DOWNLOAD, &flood, LIFETIME, |_| ()),
            self.create_steadily(DOWNLOAD, &quiet),
        );
        flooded?;
        let times = times?;
        let last = served.wait(flood.len() + quiet.len()).await?;
        let seconds = last.duration_since(began).as_secs_f64();
        self.add_times("quiet namespace during a flood", &times);
        self.report.add("flood: seconds to the last status", seconds);
        self.delete_grants(DOWNLOAD, &flood).await?;
        self.delete_grants(DOWNLOAD, &quiet).await
    }

    /// Creates ten grants per second, and measures the times.
    async fn create_steadily(&self, kind: Kind, at: &[Place]) -> Result<Times> {
        let prefix = at[0].name.split('-').next().unwrap_or_default();
        let secrets = self.cluster.watch_some(&all("", "secrets"), "ADDED", prefix).await?;
        let first = tokio::time::Instant::now();
        let answers: Vec<Result<(String, Instant, Instant)>> = stream::iter(at.iter().enumerate())
            .map(|(n, place)| async move {
                sleep_until(first + PAUSE * u32::try_from(n).unwrap_or(u32::MAX)).await;
                let grant = self.grant(kind, place, LIFETIME);
                let sent = Instant::now();
                let path = place.folder(VALET, kind.plural);
                self.cluster.send("POST", &path, Some(&grant)).await?;
                Ok((place.name.clone(), sent, Instant::now()))
            })
            .buffer_unordered(at.len())
            .collect()
            .await;
        let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
        let seen: HashMap<String, Instant> = secrets.wait_and_times(at.len()).await?;
        let mut times = Times {
            create: vec![],
            secret: vec![],
        };
        for (name, sent, answered) in answers {
            let seen = seen.get(&name).context("a grant has no Secret")?;
            times.create.push(answered.duration_since(sent).as_secs_f64() * 1000.0);
            times.secret.push(seen.duration_since(sent).as_secs_f64() * 1000.0);
        }
        Ok(times)
    }

    fn add_times(&mut self, name: &str, times: &Times) {
        for percent in [50, 99] {
            let (create, secret) = (percentile(&times.create, percent), percentile(&times.secret, percent));
            let report = &mut self.report;
            report.add(
                &format!("{name}: p{percent} of grant to Secret / p{percent} of the create request"),
                secret / create,
            );
            report.add(&format!("{name}: p{percent} of grant to Secret, ms"), secret);
            report.add(&format!("{name}: p{percent} of the create request, ms"), create);
        }
    }
}
