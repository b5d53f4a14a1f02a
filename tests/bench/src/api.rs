//! Requests to the API server, and their counts.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    AsyncBufReadExt, StreamExt, TryStreamExt,
    io::BufReader,
    stream::{self, BoxStream},
};
use http::Request;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use valet_harness::{Context, Error, Result, Scene, control_plane};

use crate::WORKERS;

/// The API group of Valet.
pub const VALET: &str = "valetkey.dev";
/// The API group of the copies of Valet's CRDs. The operator does not watch them, so the bare client uses them.
pub const BARE: &str = "bare.example.com";
/// The API group of further copies of Valet's CRDs. The simple operator watches them.
pub const SIMPLE: &str = "simple.example.com";

/// A client of the API server.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
}

/// Returns the path of a resource in all namespaces. `group` is empty for the core group.
pub fn all(group: &str, plural: &str) -> String {
    match group {
        "" => format!("/api/v1/{plural}"),
        group => format!("/apis/{group}/v1alpha1/{plural}"),
    }
}

/// The namespace and the name of an object.
#[derive(Clone)]
pub struct Place {
    pub namespace: String,
    pub name: String,
}

impl Place {
    /// Returns the path of the object. `group` is empty for the core group.
    pub fn path(&self, group: &str, plural: &str) -> String {
        format!("{}/{}", self.folder(group, plural), self.name)
    }

    /// Returns the path to which the object is posted.
    pub fn folder(&self, group: &str, plural: &str) -> String {
        let namespace = &self.namespace;
        match group {
            "" => format!("/api/v1/namespaces/{namespace}/{plural}"),
            group => format!("/apis/{group}/v1alpha1/namespaces/{namespace}/{plural}"),
        }
    }
}

/// Creates a client of the API server. `kubeconfig` is the path of a kubeconfig file.
pub async fn connect(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig).context("cannot read the kubeconfig")?;
    let options = KubeConfigOptions {
        context: Some(control_plane::CONTEXT.to_owned()),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(file, &options)
        .await
        .context("the kubeconfig is invalid")?;
    Client::try_from(config).context("cannot create a client")
}

impl Cluster {
    /// Connects as the admin user.
    pub async fn connect(scene: &Scene) -> Result<Self> {
        let client = connect(scene.plane.kubeconfig()).await?;
        Ok(Self { client })
    }

    /// Sends one request and returns the body of the answer.
    pub async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String> {
        let content_type = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Type", content_type)
            .body(body.map(Value::to_string).unwrap_or_default().into_bytes())
            .context("the request is invalid")?;
        let answer = self.client.request_text(request).await;
        answer.context(format_args!("{method} {path}"))
    }

    /// Reads one object.
    pub async fn get(&self, path: &str) -> Result<Value> {
        serde_json::from_str(&self.send("GET", path, None).await?).context("the answer is not JSON")
    }

    /// Runs the requests of all `items` with [`WORKERS`] workers.
    pub async fn each<T, F>(&self, items: Vec<T>, work: impl Fn(Self, T) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let results: Vec<Result<()>> = stream::iter(items)
            .map(|item| work(self.clone(), item))
            .buffer_unordered(WORKERS)
            .collect()
            .await;
        results.into_iter().collect()
    }

    /// Counts the events of one type for a resource in all namespaces, for example `MODIFIED`, from now on. The API
    /// server sends only metadata.
    ///
    /// The API server ends a watch whose client is too slow. The count then continues with a new watch from the last
    /// resource version.
    pub async fn watch(&self, path: &str, event: &str) -> Result<EventCount> {
        self.watch_some(path, event, "").await
    }

    /// As [`Self::watch`], but keeps the time of the first event of each object whose name begins with `prefix`. With
    /// an empty prefix, it keeps no times.
    pub async fn watch_some(&self, path: &str, event: &str, prefix: &str) -> Result<EventCount> {
        let list = self.get(&format!("{path}?limit=1")).await?;
        let version = list["metadata"]["resourceVersion"].as_str();
        let mut version = version.context("the list has no resource version")?.to_owned();
        let mut stream = self.watch_from(path, &version).await?;
        let begin = format!("{{\"type\":\"{event}\"");
        let (sender, count) = watch::channel((0, Instant::now()));
        let times = Arc::new(Mutex::new(HashMap::new()));
        let (cluster, path, prefix, seen) = (self.clone(), path.to_owned(), prefix.to_owned(), times.clone());
        let task = tokio::spawn(async move {
            loop {
                while let Ok(Some(line)) = stream.try_next().await {
                    let now = Instant::now();
                    if line.starts_with("{\"type\":\"ERROR\"") {
                        return;
                    }
                    if let Some(text) = field(&line, "resourceVersion") {
                        version = text.to_owned();
                    }
                    if !line.starts_with(&begin) {
                        continue;
                    }
                    if prefix.is_empty() {
                        sender.send_modify(|(count, last)| (*count, *last) = (*count + 1, now));
                    } else if let Some(name) = field(&line, "name").filter(|name| name.starts_with(&prefix)) {
                        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                        seen.entry(name.to_owned()).or_insert(now);
                        drop(seen);
                        sender.send_modify(|(count, last)| (*count, *last) = (*count + 1, now));
                    }
                }
                match cluster.watch_from(&path, &version).await {
                    Ok(next) => stream = next,
                    Err(_) => return,
                }
            }
        });
        Ok(EventCount { count, times, task })
    }

    /// Starts a watch at a resource version, and returns its lines.
    async fn watch_from(&self, path: &str, version: &str) -> Result<BoxStream<'static, io::Result<String>>> {
        let request = Request::builder()
            .uri(format!("{path}?watch=1&resourceVersion={version}"))
            .header("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
            .body(Vec::new())
            .context("the request is invalid")?;
        let stream = self.client.request_stream(request).await;
        let stream = stream.context(format_args!("watch of {path}"))?;
        // The stream is read in large pieces, so a slow client falls behind less.
        Ok(BufReader::with_capacity(1 << 20, stream).lines().boxed())
    }

    /// Reads the object until it has the field, for at most a minute, and returns the object.
    pub async fn wait_for(&self, path: &str, field: &str) -> Result<Value> {
        for _ in 0..600 {
            if let Ok(object) = self.get(path).await
                && object.pointer(field).is_some()
            {
                return Ok(object);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(Error::new(format!("{path} did not get {field} in a minute")))
    }
}

/// Returns the first value of a text field in a line of JSON without spaces.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!("\"{name}\":\""))?;
    rest.split('"').next()
}

/// The number of events that a watch has delivered, and the time of the last event.
pub struct EventCount {
    count: watch::Receiver<(usize, Instant)>,
    times: Arc<Mutex<HashMap<String, Instant>>>,
    task: JoinHandle<()>,
}

impl EventCount {
    /// Waits until the watch has delivered this number of events. Returns the time of the last event.
    pub async fn wait(mut self, events: usize) -> Result<Instant> {
        let time_limit =
            Duration::from_secs(180) + Duration::from_millis(20) * u32::try_from(events).unwrap_or(u32::MAX);
        let all = timeout(time_limit, self.count.wait_for(|(count, _)| *count >= events)).await;
        let last = all
            .context(format_args!("fewer than {events} watch events in {time_limit:?}"))?
            .context("the watch ended")?
            .1;
        Ok(last)
    }

    /// Returns the number of events so far.
    pub fn so_far(&self) -> usize {
        self.count.borrow().0
    }

    /// Waits as [`Self::wait`], and returns the time of the first event of each object, by the name of the object.
    pub async fn wait_and_times(self, events: usize) -> Result<HashMap<String, Instant>> {
        let times = self.times.clone();
        self.wait(events).await?;
        Ok(times.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for EventCount {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The number of requests that the API server has answered, by verb and resource.
pub type Counts = BTreeMap<String, u64>;

/// Reads the counts of the requests for grants, Secrets and Events.
pub fn counts(scene: &Scene) -> Result<Counts> {
    let mut counts = Counts::new();
    for line in scene.plane.metrics()?.lines() {
        let Some((labels, value)) = line
            .strip_prefix("apiserver_request_total{")
            .and_then(|rest| rest.rsplit_once("} "))
        else {
            continue;
        };
        let label = |name: &str| {
            let start = labels.find(&format!("{name}=\"")).map(|at| at + name.len() + 2);
            start.and_then(|at| labels[at..].split('"').next()).unwrap_or_default()
        };
        let (verb, resource, sub) = (label("verb"), label("resource"), label("subresource"));
        if !matches!(label("group"), "" | VALET | "events.k8s.io") || verb == "WATCH" {
            continue;
        }
        if matches!(
            resource,
            "secrets" | "events" | "downloadgrants" | "uploadgrants" | "clusterobjectstores"
        ) {
            let slash = if sub.is_empty() { "" } else { "/" };
            let count = value.parse::<f64>().unwrap_or_default() as u64;
            *counts.entry(format!("{verb} {resource}{slash}{sub}")).or_default() += count;
        }
    }
    Ok(counts)
}

/// Returns the difference of two counts, without zeros.
pub fn difference(before: &Counts, after: &Counts) -> Counts {
    let each = after
        .iter()
        .map(|(call, n)| (call.clone(), n - before.get(call).unwrap_or(&0)));
    each.filter(|(_, n)| *n > 0).collect()
}
