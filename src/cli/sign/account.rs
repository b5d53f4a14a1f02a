//! Chooses the credentials that `valet sign` signs with, and limits the requests that signing may send.
//!
//! Other people may have written the documents, but the credentials in the environment belong to the caller. So an
//! ObjectStore signs only with a Secret in the documents, as in a cluster. The environment's identity is never sent
//! to an address that only a document names.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use super::{
    SignArgs,
    documents::{Documents, only},
};
use crate::{
    api::{Store, StoreKind},
    net::EgressPolicy,
    provider::registry::{Account, CredentialsSource, NotAtHand, Settings},
    provider::{Provider, registry},
};

/// Connects to the store with its credentials.
///
/// # Errors
/// A sentence: the reason why the operator would refuse the store, or the request that signing needs.
pub async fn connect(
    store: &impl Store,
    documents: &Documents,
    args: &SignArgs,
) -> Result<Arc<dyn Provider>, String> {
    let settings = registry::settings(store).map_err(|(reason, message)| format!("{reason}: {message}"))?;
    let (account, outward) = match kind_of(store) {
        StoreKind::ObjectStore => {
            let outward = EgressPolicy::new(args.allow_private_endpoints.clone())
                .denying(args.deny_endpoints.clone())
                // With `--online`, signing may send requests that change something, for example to STS.
                .changing(true);
            let checked = if args.online {
                settings.check_endpoint(&outward).await
            } else {
                settings.check_endpoint_literal(&outward)
            };
            checked.map_err(|(reason, message)| format!("{reason}: {message}"))?;
            (from_documents(settings, store, documents)?, Some(outward))
        }
        StoreKind::ClusterObjectStore => (from_environment(settings, args).await?, None),
    };
    if let Some(asks) = account.asks().filter(|_| !args.online) {
        return Err(offline(asks));
    }
    if outward.is_none() {
        let untrusted = account.shows_identity_to().filter(|address| {
            let bare = |address: &str| address.trim_end_matches('/').to_ascii_lowercase();
            !args.trust_endpoint.iter().any(|t| bare(t) == bare(address))
        });
        if let Some(address) = untrusted {
            return Err(format!(
                "signing would send the environment's identity to {address}, which is not a public host of the cloud provider; to allow this, add --trust-endpoint {address}"
            ));
        }
    }
    // Without `--online`, the egress policy rejects every request.
    let outward = if args.online {
        outward
    } else {
        Some(EgressPolicy::nowhere().changing(true))
    };
    Ok(account.connect(outward))
}

fn kind_of<S: Store>(_: &S) -> StoreKind {
    S::KIND
}

fn offline(asks: &str) -> String {
    format!("{asks}; to allow valet sign to send requests, add --online")
}

/// The credentials of an ObjectStore: the Secret that the ObjectStore names. The Secret must be in the documents.
fn from_documents(settings: Settings, store: &impl Store, documents: &Documents) -> Result<Account, String> {
    let name = match settings.credentials() {
        CredentialsSource::Secret(name) => name,
        CredentialsSource::Environment => {
            return Err(format!(
                "CredentialsInvalid: an ObjectStore may not use the operator's own credentials, and valet sign does not use the environment's credentials for it; set {}.credentials.secretRef and add the Secret with -f",
                settings.field()
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
            "CredentialsNotFound: Secret {name} with the store's credentials is not in the files for namespace {}; add it with -f",
            namespace.unwrap_or_default()
        )
    })?;
    // `stringData` overrides `data`, as in the apiserver.
    let mut data = secret.data.clone().unwrap_or_default();
    for (name, value) in secret.string_data.iter().flatten() {
        data.insert(name.clone(), k8s_openapi::ByteString(value.clone().into_bytes()));
    }
    let entries = data.iter().map(|(name, value)| (name.as_str(), value.0.as_slice()));
    settings
        .with_secret(entries)
        .map_err(|e| format!("CredentialsInvalid: Secret {name} with the store's credentials cannot be used: {e}"))
}

/// The credentials of a ClusterObjectStore: the credentials in the environment.
async fn from_environment(settings: Settings, args: &SignArgs) -> Result<Account, String> {
    let environment = registry::Environment::default();
    if args.online {
        return Ok(settings.with_environment(&environment).await);
    }
    let wanted = settings.wanted_in_environment();
    settings
        .with_environment_at_hand(&environment)
        .await
        .map_err(|why| match why {
            NotAtHand::Nothing => format!(
                "there are no credentials in the environment; {wanted} (or add --online if they come from the machine or a role)"
            ),
            NotAtHand::Elsewhere(who) => offline(&who),
            NotAtHand::Unusable(why) => format!("the credentials in the environment cannot be used: {why}; {wanted}"),
        })
}
