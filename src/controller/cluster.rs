//! Loads the connection settings of the cluster, and checks that Valet's CRDs are installed.

use kube::{
    Api, Client, Config, CustomResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
    core::DeserializeGuard,
};

use super::{error::CALL_TIMEOUT, options::Options, stores::scoped_api};
use crate::api::{ClusterObjectStore, DownloadGrant, ObjectStore, UploadGrant};

/// Returns the connection settings of the cluster that the options name.
///
/// # Errors
///
/// Returns a message if no cluster is configured or if the kubeconfig cannot be read.
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
            format!("no Kubernetes cluster is configured; set --kubeconfig or KUBECONFIG, or run Valet in a pod with a service account: {e}")
        }),
    }
}

/// Checks at startup that Valet's CRDs are installed, and that the operator has permission to list their objects. If
/// not, returns a message that says what to do.
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
                "CRD {name} is not installed in the cluster; install the CRDs with: valet crds | kubectl apply -f -"
            )),
            Ok(Err(kube::Error::Api(s))) if s.code == 403 => Err(format!(
                "the operator's account is not allowed to list objects of CRD {name}: {why}",
                why = s.message
            )),
            Ok(Err(e)) => Err(format!("listing objects of CRD {name} failed: {e}")),
            Err(_) => Err(format!(
                "the apiserver did not answer within {seconds} s",
                seconds = CALL_TIMEOUT.as_secs()
            )),
        }
    }
    check::<UploadGrant>(scoped_api(client.clone(), namespace)).await?;
    check::<DownloadGrant>(scoped_api(client.clone(), namespace)).await?;
    check::<ObjectStore>(scoped_api(client.clone(), namespace)).await?;
    check::<ClusterObjectStore>(Api::all(client.clone())).await
}
