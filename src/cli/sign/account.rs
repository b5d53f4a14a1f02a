//! Whose credentials sign, and who may be asked for what.
//!
//! The documents are somebody else's, the environment is the caller's own. So an ObjectStore signs with a Secret that stands in
//! the documents, as in a cluster; and what the environment holds goes to no address that only a document names.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use super::{
    SignArgs,
    documents::{Documents, only},
};
use crate::{
    api::{Store, StoreKind},
    net::Outward,
    provider::registry::{Account, CredentialsSource, NotAtHand, Settings},
    provider::{Provider, registry},
};

/// The store, ready to sign.
///
/// # Errors
/// A sentence: what the operator says where it would refuse the store, or what would have to be asked of somebody.
pub async fn connect(
    store: &impl Store,
    documents: &Documents,
    args: &SignArgs,
) -> Result<Arc<dyn Provider>, String> {
    let settings = registry::settings(store).map_err(|(reason, message)| format!("{reason}: {message}"))?;
    let (account, outward) = match kind_of(store) {
        StoreKind::ObjectStore => {
            let outward = Outward::new(args.allow_private_endpoints.clone())
                .denying(args.deny_endpoints.clone())
                // Who asks for requests gets those that signing takes.
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
                "the document's store would be shown the environment's own identity at {address}, which is none of the cloud's own hosts; if that is what you want, add --trust-endpoint {address}"
            ));
        }
    }
    // Whatever a provider would send: offline it has nowhere to send it.
    let outward = if args.online {
        outward
    } else {
        Some(Outward::nowhere().changing(true))
    };
    Ok(account.connect(outward))
}

fn kind_of<S: Store>(_: &S) -> StoreKind {
    S::KIND
}

fn offline(asks: &str) -> String {
    format!("{asks}; valet sign sends nothing to anybody unless --online is given")
}

/// The credentials of an ObjectStore: the Secret that it names, which must be in the documents.
fn from_documents(settings: Settings, store: &impl Store, documents: &Documents) -> Result<Account, String> {
    let name = match settings.credentials() {
        CredentialsSource::Secret(name) => name,
        CredentialsSource::Environment => {
            return Err(format!(
                "CredentialsInvalid: an ObjectStore may not use the operator's own credentials, nor those of the environment here; set {}.credentials.secretRef and give the Secret with -f",
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
            "CredentialsNotFound: Secret {name} with the store's credentials is not in the files, at least not in namespace {}; give it with -f",
            namespace.unwrap_or_default()
        )
    })?;
    // As the apiserver merges the two.
    let mut data = secret.data.clone().unwrap_or_default();
    for (name, value) in secret.string_data.iter().flatten() {
        data.insert(name.clone(), k8s_openapi::ByteString(value.clone().into_bytes()));
    }
    let entries = data.iter().map(|(name, value)| (name.as_str(), value.0.as_slice()));
    settings
        .with_secret(entries)
        .map_err(|e| format!("CredentialsInvalid: Secret {name} with the store's credentials cannot be used: {e}"))
}

/// The credentials of a ClusterObjectStore: those of the environment.
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
                "there are no credentials in the environment; {wanted} (or add --online, if the machine or a role gives them)"
            ),
            NotAtHand::Elsewhere(who) => offline(&who),
            NotAtHand::Unusable(why) => format!("the credentials in the environment cannot be used: {why}; {wanted}"),
        })
}
