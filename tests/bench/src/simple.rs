//! The operator that a team would write by hand: a controller of kube-rs that signs a URL, writes it into a Secret and
//! reports it in the status. It has no access rules, quotas, probes, metrics or protection against other clients. The
//! benchmark compares Valet with it.

use std::{env, process::Command, sync::Arc, time::Duration};

use aws_sdk_s3::{
    Client as S3,
    config::{BehaviorVersion, Credentials, Region},
    presigning::PresigningConfig,
};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
    runtime::{Controller, controller::Action, watcher},
};
use serde_json::json;
use valet_harness::{Context as _, Process, Result, Scene};

use crate::{
    api::{SIMPLE, connect},
    grants::DOWNLOAD,
};

/// The argument with which this program runs as the simple operator.
pub const VERB: &str = "simple-operator";

/// The environment variables of the simple operator: the kubeconfig, and the store with its credentials.
const VARIABLES: [&str; 5] = ["KUBECONFIG", "ENDPOINT", "BUCKET", "ACCESS_KEY", "SECRET_KEY"];

/// Starts this program as the simple operator.
pub fn start(scene: &Scene) -> Result<Process> {
    let values = [
        scene.plane.kubeconfig().display().to_string(),
        scene.store.endpoint(),
        crate::NAMESPACE.to_owned(),
        scene.store.access_key().to_owned(),
        scene.store.secret_key().to_owned(),
    ];
    let mut command = Command::new(env::current_exe().context("cannot find this program")?);
    command.arg(VERB);
    for (name, value) in VARIABLES.iter().zip(values) {
        command.env(format!("SIMPLE_{name}"), value);
    }
    Process::start(VERB, command, scene.plane.scratch().join("simple-operator.log"))
}

struct Context {
    client: Client,
    s3: S3,
    bucket: String,
    grants: ApiResource,
}

/// Runs the simple operator until the process ends.
pub async fn run() -> Result<()> {
    let variable = |name: &str| env::var(format!("SIMPLE_{name}")).context(format_args!("no SIMPLE_{name}"));
    let credentials = Credentials::new(variable("ACCESS_KEY")?, variable("SECRET_KEY")?, None, None, "simple");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(variable("ENDPOINT")?)
        .force_path_style(true)
        .credentials_provider(credentials)
        .build();
    let kind = GroupVersionKind::gvk(SIMPLE, "v1alpha1", DOWNLOAD.name);
    let grants = ApiResource::from_gvk_with_plural(&kind, DOWNLOAD.plural);
    let client = connect(variable("KUBECONFIG")?.as_ref()).await?;
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &grants);
    let context = Arc::new(Context {
        client,
        s3: S3::from_conf(config),
        bucket: variable("BUCKET")?,
        grants: grants.clone(),
    });
    Controller::new_with(api, watcher::Config::default(), grants)
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(5)), context)
        .for_each(|_| std::future::ready(()))
        .await;
    Ok(())
}

async fn reconcile(grant: Arc<DynamicObject>, context: Arc<Context>) -> Result<Action, kube::Error> {
    let (namespace, name) = (grant.namespace().unwrap_or_default(), grant.name_any());
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let until = |end: Timestamp| {
        end.duration_since(Timestamp::now())
            .max(SignedDuration::ZERO)
            .unsigned_abs()
    };
    let status = &grant.data["status"]["expirationTime"];
    if let Some(end) = status.as_str().and_then(|end| end.parse::<Timestamp>().ok()) {
        if until(end).is_zero() {
            secrets.delete(&name, &Default::default()).await?;
            return Ok(Action::await_change());
        }
        return Ok(Action::requeue(until(end)));
    }
    let lifetime = Duration::from_secs(grant.data["spec"]["expirationSeconds"].as_u64().unwrap_or(3600));
    let key = grant.data["spec"]["key"].as_str().unwrap_or_default();
    let request = context.s3.get_object().bucket(&context.bucket).key(key);
    let presigning = PresigningConfig::expires_in(lifetime).expect("the lifetime is at most a week");
    let signed = request.presigned(presigning).await.expect("signing needs no request");
    let end = Timestamp::now() + lifetime;
    let owner = grant.controller_owner_ref(&context.grants);
    let secret = json!({
        "metadata": {"name": name, "ownerReferences": [owner], "annotations": {"expires-at": end.to_string()}},
        "stringData": {"url": signed.uri()},
    });
    let secret = serde_json::from_value(secret).expect("this is a Secret");
    secrets.create(&PostParams::default(), &secret).await?;
    let grants: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &context.grants);
    let condition = json!({
        "type": "Ready", "status": "True", "reason": "Issued", "message": format!("the URL is in Secret {name}"),
        "lastTransitionTime": Timestamp::now(),
    });
    let status = json!({"status": {"expirationTime": end, "conditions": [condition]}});
    grants
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(Action::requeue(lifetime))
}
