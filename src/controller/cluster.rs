//! The way to the cluster, and whether Valet's kinds are there.

use kube::{
    Api, Client, Config, CustomResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
    core::DeserializeGuard,
};

use super::{error::CALL_TIMEOUT, options::Options, stores::scoped};
use crate::api::{ClusterObjectStore, DownloadGrant, ObjectStore, UploadGrant};

/// How to connect to the cluster that the options name.
///
/// # Errors
/// A sentence, if there is none.
pub async fn config(options: &Options) -> Result<Config, String> {
    let wanted = KubeConfigOptions {
        context: options.context.clone(),
        ..KubeConfigOptions::default()
    };
    match (&options.kubeconfig, &options.context) {
        (Some(path), _) => {
            let file = Kubeconfig::read_from(path).map_err(|e| format!("--kubeconfig {}: {e}", path.display()))?;
            Config::from_custom_kubeconfig(file, &wanted).await.map_err(|e| format!("--kubeconfig {}: {e}", path.display()))
        }
        (None, Some(context)) => Config::from_kubeconfig(&wanted).await.map_err(|e| format!("--context {context}: {e}")),
        (None, None) => Config::infer().await.map_err(|e| {
            format!("no cluster to work with: {e}; give --kubeconfig, set KUBECONFIG, or run in a pod with a service account")
        }),
    }
}

/// Fails at once, and in plain words, where the kinds are not installed or may not be read.
pub async fn check_crds(client: &Client, namespace: Option<&str>) -> Result<(), String> {
    async fn check<K>(api: Api<DeserializeGuard<K>>) -> Result<(), String>
    where
        K: kube::Resource<DynamicType = ()>
            + CustomResourceExt
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let name = K::crd_name();
        match tokio::time::timeout(CALL_TIMEOUT, api.list(&ListParams::default().limit(1))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(s))) if s.code == 404 => Err(format!(
                "the cluster does not know {name}; install the CRDs first: valet crds | kubectl apply -f -"
            )),
            Ok(Err(kube::Error::Api(s))) if s.code == 403 => {
                Err(format!("the operator's account may not list {name}: {}", s.message))
            }
            Ok(Err(e)) => Err(format!("the apiserver cannot be asked for {name}: {e}")),
            Err(_) => Err(format!(
                "the apiserver did not answer within {} s",
                CALL_TIMEOUT.as_secs()
            )),
        }
    }
    check::<UploadGrant>(scoped(client.clone(), namespace)).await?;
    check::<DownloadGrant>(scoped(client.clone(), namespace)).await?;
    check::<ObjectStore>(scoped(client.clone(), namespace)).await?;
    check::<ClusterObjectStore>(Api::all(client.clone())).await
}
