//! The connection to the apiserver. It sets the User-Agent of each request, and records the time of the apiserver's
//! last answer.
//!
//! Valet builds the connection from files such as kubeconfigs and certificates. It connects again when these files
//! change, because somebody can replace a certificate authority while the operator runs.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{self, Digest};
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri, header::USER_AGENT};
use kube::{Client, Config, client::Body, config::Kubeconfig};
use tower_service::Service;
use tracing::{info, warn};

use super::{cluster, options::Options};
use crate::{
    net::client::user_agent,
    telemetry::{Change, Contact},
};

/// The pause between two reads of the connection files. Valet may read a file while somebody replaces it. A change
/// therefore counts only if two consecutive reads return equal content.
const PERIOD: Duration = Duration::from_secs(5);
/// The maximum size of a connection file in bytes. A kubeconfig with the certificates of many clusters is still
/// smaller than this limit.
const LONGEST_FILE: u64 = 4 * 1024 * 1024;
/// The path of the cluster's certificate authority inside a pod.
const SERVICE_ACCOUNT_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// The connection to the apiserver, and a digest of the files from which it was built.
pub struct Apiserver {
    /// The client that all modules share. If Valet replaces the connection, this client uses the new connection.
    pub client: Client,
    /// Records when the apiserver last answered.
    pub contact: Contact,
    current: Arc<RwLock<Client>>,
    url: Uri,
    made_from: Digest,
}

impl Apiserver {
    /// Connects to the cluster that the options name.
    ///
    /// # Errors
    ///
    /// Returns a message if the operator cannot connect.
    pub async fn connect(options: &Options) -> Result<Self, String> {
        // Valet first computes the fingerprint of the files, and then connects with them. If somebody changes a file
        // between these two steps, the next comparison of fingerprints shows the change.
        let made_from = fingerprint(options).await;
        let (client, url) = connection(options).await?;
        let contact = Contact::new(Instant::now());
        let current = Arc::new(RwLock::new(client));
        let namespace = lock(&current).default_namespace().to_owned();
        let service = Current {
            client: current.clone(),
            contact: contact.clone(),
        };
        Ok(Self {
            client: Client::new(service, namespace),
            contact,
            current,
            url,
            made_from,
        })
    }

    /// Watches the connection files and connects again when they change. Logs when the apiserver stops answering.
    /// Returns a message only if the operator must restart.
    pub async fn watch_for_change(mut self, options: Options) -> String {
        let mut seen = self.made_from;
        let mut reported = None;
        loop {
            tokio::time::sleep(PERIOD).await;
            match self.contact.change(Instant::now()) {
                Some(Change::Lost) => warn!("the apiserver has not answered for a minute; the operator is not ready"),
                Some(Change::Back(time_without_answer)) => {
                    let seconds = time_without_answer.as_secs();
                    info!("the apiserver answers again; before, it did not answer for {seconds} s");
                }
                None => {}
            }
            let now = fingerprint(&options).await;
            if !same(&now, &seen) {
                seen = now;
                continue;
            }
            if same(&now, &self.made_from) {
                continue;
            }
            let trouble = match connection(&options).await {
                Ok((_, url)) if url != self.url => {
                    // The new settings may name a different cluster. In this case the operator must restart, because
                    // its cached data comes from the old cluster.
                    let old = &self.url;
                    if self.contact.time_without_answer(Instant::now()).is_some() {
                        return format!(
                            "apiserver {old} no longer answers, and the connection settings now name apiserver {url}; the operator restarts"
                        );
                    }
                    format!(
                        "the connection settings now name apiserver {url}, but the operator still uses apiserver {old}, because apiserver {old} still answers; restart the operator to use apiserver {url}"
                    )
                }
                Ok((client, _)) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = client;
                    self.made_from = now;
                    info!(
                        "the certificates or credentials for the apiserver have changed; new connections use the new certificates and credentials"
                    );
                    continue;
                }
                Err(why) => format!(
                    "the connection files for the apiserver have changed, but the new files cannot be used: {why}"
                ),
            };
            if reported.as_ref() != Some(&trouble) {
                warn!("{trouble}");
                reported = Some(trouble);
            }
        }
    }
}

async fn connection(options: &Options) -> Result<(Client, Uri), String> {
    let mut config: Config = cluster::config(options).await?;
    if let Ok(name) = HeaderValue::from_str(&user_agent()) {
        config.headers.push((USER_AGENT, name));
    }
    let url = config.cluster_url.clone();
    let client = Client::try_from(config)
        .map_err(|e| format!("the settings of the cluster connection cannot be used: {e}"))?;
    Ok((client, url))
}

/// A service that sends each request through the current connection.
struct Current {
    client: Arc<RwLock<Client>>,
    contact: Contact,
}

impl Service<Request<Body>> for Current {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // This service is always ready, because the client of the current connection queues each request.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, contact) = (lock(&self.client), self.contact.clone());
        Box::pin(async move {
            let answer = client.send(request).await?;
            // An answer with a 5xx status does not count as an answer of the apiserver. A load balancer can send such
            // answers while the apiserver is down.
            if !answer.status().is_server_error() {
                contact.answered(Instant::now());
            }
            Ok(answer)
        })
    }
}

fn lock(client: &RwLock<Client>) -> Client {
    client.read().unwrap_or_else(PoisonError::into_inner).clone()
}

fn same(a: &Digest, b: &Digest) -> bool {
    a.as_ref() == b.as_ref()
}

/// Computes a digest of all files from which the connection is built. These are the kubeconfigs, the certificates and
/// private keys that a kubeconfig names, and the cluster's certificate authority in a pod. Token files are not
/// included, because the client reads them again by itself.
async fn fingerprint(options: &Options) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for file in kubeconfigs(options) {
        add(&mut context, &file).await;
        for named in Kubeconfig::read_from(&file).map(|k| named(&k)).unwrap_or_default() {
            add(&mut context, &named).await;
        }
    }
    add(&mut context, Path::new(SERVICE_ACCOUNT_CA)).await;
    context.finish()
}

/// Returns the paths of the kubeconfig files. The function chooses the files as [`cluster::config`] does.
fn kubeconfigs(options: &Options) -> Vec<PathBuf> {
    if let Some(file) = &options.kubeconfig {
        return vec![file.clone()];
    }
    match std::env::var_os("KUBECONFIG") {
        Some(paths) if !paths.is_empty() => std::env::split_paths(&paths).collect(),
        _ => std::env::home_dir()
            .map(|home| home.join(".kube").join("config"))
            .into_iter()
            .collect(),
    }
}

/// Returns the paths of the certificate and private key files that a kubeconfig names.
fn named(kubeconfig: &Kubeconfig) -> Vec<PathBuf> {
    let clusters = kubeconfig.clusters.iter().filter_map(|c| c.cluster.as_ref());
    let users = kubeconfig.auth_infos.iter().filter_map(|u| u.auth_info.as_ref());
    clusters
        .filter_map(|c| c.certificate_authority.as_ref())
        .chain(users.clone().filter_map(|u| u.client_certificate.as_ref()))
        .chain(users.filter_map(|u| u.client_key.as_ref()))
        .map(PathBuf::from)
        .collect()
}

async fn add(context: &mut digest::Context, file: &Path) {
    let length = tokio::fs::metadata(file).await.map_or(0, |m| m.len());
    let content = match length {
        ..=LONGEST_FILE => tokio::fs::read(file).await.unwrap_or_default(),
        _ => length.to_be_bytes().to_vec(),
    };
    context.update(digest::digest(&digest::SHA256, &content).as_ref());
}
