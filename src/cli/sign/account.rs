//! Chooses the credentials that `valet sign` signs with, and limits the requests that signing can send.
//!
//! The credentials in the environment belong to the user of `valet sign`, but a different person may have written the
//! documents. Therefore `valet sign` signs for an ObjectStore only with a Secret from the documents, as the operator
//! does in a cluster.
//!
//! It never sends the credentials of the environment to an address that comes only from a document.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use super::{
    SignArgs,
    documents::{Documents, only},
};
use crate::{
    api::{Store, StoreKind},
    net::EgressPolicy,
    provider::{Account, CredentialsSource, Environment, NoLocalCredentials, Provider, Settings, registry},
};

/// Connects to the store with the store's credentials.
///
/// # Errors
/// Returns a sentence for the user. The sentence says why the operator would refuse the store, or which request
/// `valet sign` must send before it can sign.
pub async fn connect(
    store: &impl Store,
    documents: &Documents,
    args: &SignArgs,
) -> Result<Arc<dyn Provider>, String> {
    let settings = registry::settings(store).map_err(|(reason, message)| format!("{reason}: {message}"))?;
    let (account, egress) = match kind_of(store) {
        StoreKind::ObjectStore => {
            let egress = EgressPolicy::new(args.allow_private_endpoints.clone())
                .denying(args.deny_endpoints.clone())
                // The flag `--online` allows requests that change something, for example requests to STS.
                .changing(true);
            let checked = if args.online {
                settings.check_endpoint(&egress).await
            } else {
                settings.check_endpoint_literal(&egress)
            };
            checked.map_err(|(reason, message)| format!("{reason}: {message}"))?;
            (from_documents(settings, store, documents)?, Some(egress))
        }
        StoreKind::ClusterObjectStore => (from_environment(settings, args).await?, None),
    };
    if let Some(requires_environment) = account.requires_environment().filter(|_| !args.online) {
        return Err(offline(requires_environment));
    }
    if egress.is_none() {
        let certificate_problem = account.shows_identity_to().into_iter().find(|address| {
            let bare = |address: &str| address.trim_end_matches('/').to_ascii_lowercase();
            !args.trust_endpoint.iter().any(|t| bare(t) == bare(address))
        });
        if let Some(address) = certificate_problem {
            return Err(format!(
                "valet sign would send the environment's identity to {address}, but this address is not a public host of the cloud provider; to allow this address, add --trust-endpoint {address}"
            ));
        }
    }
    // Without the flag `--online`, the egress policy rejects every request.
    let egress = if args.online {
        egress
    } else {
        Some(EgressPolicy::deny_all().changing(true))
    };
    Ok(account.connect(egress))
}

fn kind_of<S: Store>(_: &S) -> StoreKind {
    S::KIND
}

fn offline(requires_environment: &str) -> String {
    let remedy = "to allow valet sign to send requests, add --online";
    format!("{requires_environment}; {remedy}")
}

/// Returns the credentials of an ObjectStore. They come from the Secret that the ObjectStore names. The documents
/// must contain this Secret.
fn from_documents(settings: Settings, store: &impl Store, documents: &Documents) -> Result<Box<dyn Account>, String> {
    let name = match settings.credentials() {
        CredentialsSource::Secret(name) => name,
        CredentialsSource::Environment => {
            return Err(format!(
                "CredentialsInvalid: an ObjectStore is not allowed to use the credentials of the operator or of the environment; set {field}.credentials.secretRef and add the Secret with -f",
                field = settings.field()
            ));
        }
    };
    let namespace = store.meta().namespace.as_deref();
    let is_it = |secret: &Secret| {
        let meta = &secret.metadata;
        meta.name.as_deref() == Some(name.as_str())
            && meta.namespace.as_deref().is_none_or(|own| Some(own) == namespace)
    };
    let secret = only(&documents.secrets, &format!("Secret {name}"), is_it)?.ok_or_else(|| {
        format!(
            "CredentialsNotFound: the store's credentials are in Secret {name} of namespace {namespace}, but the files do not contain this Secret; add the Secret with -f",
            namespace = namespace.unwrap_or_default()
        )
    })?;
    // The entries in `stringData` override those in `data`, as in the apiserver.
    let mut data = secret.data.clone().unwrap_or_default();
    for (name, value) in secret.string_data.iter().flatten() {
        data.insert(name.clone(), k8s_openapi::ByteString(value.clone().into_bytes()));
    }
    let entries: Vec<_> = data
        .iter()
        .map(|(name, value)| (name.as_str(), value.0.as_slice()))
        .collect();
    settings
        .with_secret(&entries)
        .map_err(|e| format!("CredentialsInvalid: Secret {name} with the store's credentials cannot be used: {e}"))
}

/// Returns the credentials for a ClusterObjectStore. They come from the environment.
async fn from_environment(settings: Settings, args: &SignArgs) -> Result<Box<dyn Account>, String> {
    let environment = Environment::default();
    if args.online {
        return Ok(settings.with_environment(&environment).await);
    }
    let remedy = settings.wanted_in_environment();
    settings
        .with_local_environment(&environment)
        .await
        .map_err(|why| match why {
            NoLocalCredentials::Nothing => format!(
                "the environment contains no credentials; {remedy}, or add --online if the credentials come from the metadata service of the machine or from a role"
            ),
            NoLocalCredentials::Elsewhere(who) => offline(&who),
            NoLocalCredentials::Unusable(why) => format!("the credentials in the environment cannot be used: {why}; {remedy}"),
        })
}
