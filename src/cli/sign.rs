mod account;
mod args;
mod documents;
mod effects;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

pub use self::args::SignArgs;
use self::{
    args::Output,
    documents::{Documents, only},
    effects::FileEffects,
};
use super::print::print_text;
use crate::{
    api::{Grant, Store, StoreKind, data},
    core::{Facts, GrantFacts, MetadataDomains, SecretFact, Settings, StoreFact, StoreView},
    provider::Provider,
    reconcile::{Error, Reconcile},
};

pub async fn run(args: SignArgs) -> Result<(), String> {
    let documents = Documents::read(&args.filename)?;
    match (documents.uploads.as_slice(), documents.downloads.as_slice()) {
        ([grant], []) => sign(grant, &documents, &args).await,
        ([], [grant]) => sign(grant, &documents, &args).await,
        ([], []) => Err(
            "the files contain no UploadGrant and no DownloadGrant; use -f to add a file that contains a grant"
                .into(),
        ),
        _ => Err("the files contain more than one grant; sign each grant with a separate command".into()),
    }
}

async fn sign<G: Grant>(grant: &G, documents: &Documents, args: &SignArgs) -> Result<(), String> {
    let mut facts = Facts::new(
        GrantFacts::of(grant),
        Settings {
            ttl_seconds_after_finished: None,
            secret_metadata: MetadataDomains::new(args.allow_secret_metadata.clone()),
        },
    );
    let g = &mut facts.grant;
    if g.namespace.is_empty() {
        g.namespace.clone_from(&args.namespace);
    }
    // The file can contain a status that a user copied from a cluster. `valet sign` ignores this status, because it
    // cannot verify the status without the operator's record key.
    g.status = Default::default();
    if let Some(upload) = &args.upload_id {
        if g.operation_spec.parts().is_none() {
            return Err("--upload-id is allowed only for a grant with mode: Multipart; remove --upload-id".into());
        }
        // The user has already initiated the multipart upload. The reconcile must treat the upload as if the operator
        // had initiated it.
        g.held = true;
        g.status.upload_id = Some(upload.clone());
    }
    let Known {
        fact,
        provider,
        is_tried,
    } = store_of(g, documents, args).await?;
    let terms = &g.terms;
    let mut effects = FileEffects {
        store: fact,
        provider,
        is_tried,
        requested: (terms.expiration_seconds, terms.deadline_time.as_ref().map(|t| t.0)),
        result: None,
    };
    facts.secret = SecretFact::Absent;
    let outcome = Reconcile::new(&mut effects, facts, Timestamp::now()).run().await;
    match (effects.result, outcome) {
        (Some(result), _) => print(args.output, &result?),
        (None, Err(error)) if !matches!(error, Error::Stopped) => Err(error.to_string()),
        // The reconcile neither signed nor refused the grant. `valet sign` has no Secret, no object and no earlier
        // expiry, so only the two causes in this message remain.
        (None, _) => Err("valet sign cannot sign the grant now, because the grant has expired, or because the operator would wait before it issues a credential; check spec.deadlineTime and the lifetime that the store's access rules allow".into()),
    }
}

/// A store from the files that the user passed.
struct Known {
    fact: StoreFact,
    provider: Arc<dyn Provider>,
    /// This is true if Valet knows whether the store rejects or obeys unsigned headers.
    is_tried: bool,
}

async fn store_of(grant: &GrantFacts, documents: &Documents, args: &SignArgs) -> Result<Known, String> {
    let wanted_store = &grant.terms.store_ref;
    let named = |meta: &kube::core::ObjectMeta| meta.name.as_deref() == Some(wanted_store.name.as_str());
    let missing =
        || format!("the grant names {wanted_store}, but the files do not contain this store; add the store with -f");
    match wanted_store.kind {
        StoreKind::ClusterObjectStore => {
            let store = only(&documents.cluster_stores, &wanted_store.to_string(), |s| {
                named(&s.metadata)
            })?;
            usable(store.ok_or_else(missing)?, grant, documents, args).await
        }
        StoreKind::ObjectStore => {
            let mut stores = documents.stores.clone();
            for store in &mut stores {
                store.metadata.namespace.get_or_insert_with(|| grant.namespace.clone());
            }
            let is_here = |meta: &kube::core::ObjectMeta| meta.namespace.as_deref() == Some(grant.namespace.as_str());
            let here = only(&stores, &wanted_store.to_string(), |s| {
                named(&s.metadata) && is_here(&s.metadata)
            })?;
            if let Some(store) = here {
                return usable(store, grant, documents, args).await;
            }
            match stores.iter().find(|s| named(&s.metadata)) {
                Some(elsewhere) => Err(format!(
                    "{wanted_store} is in namespace {namespace} and serves only grants of this namespace, but the grant is in namespace {grant_namespace}",
                    namespace = elsewhere.metadata.namespace.as_deref().unwrap_or_default(),
                    grant_namespace = grant.namespace
                )),
                None => Err(missing()),
            }
        }
    }
}

async fn usable(
    store: &impl Store,
    grant: &GrantFacts,
    documents: &Documents,
    args: &SignArgs,
) -> Result<Known, String> {
    let provider = account::connect(store, documents, args).await?;
    let mut capabilities = provider.capabilities();
    let mut is_tried = !provider.requires_probe();
    // If the file contains the status of the store, this status lists the capabilities that the operator found.
    // `valet sign` uses these capabilities, because it does not probe the store.
    if let Some(status) = store.store_status() {
        provider.seed_capabilities(&status.capabilities);
        capabilities = provider.capabilities();
        if status.observed_generation.is_some() {
            capabilities = Arc::new(capabilities.restricted_to(&status.capabilities));
            is_tried = true;
        }
    }
    let credentials_expire = provider.credentials_expire().await.map_err(|e| e.to_string())?;
    let labels: BTreeMap<String, String> = documents
        .namespaces
        .iter()
        .find(|n| n.metadata.name.as_deref() == Some(grant.namespace.as_str()))
        .and_then(|n| n.metadata.labels.clone())
        .unwrap_or_default();
    let view = StoreView {
        max_live_grants: store.limits().max_live_grants,
        rules: Arc::new(store.rules()),
        namespace_labels: Arc::new(labels),
        capabilities,
        credentials_expire,
        short_sessions: store.short_sessions(),
        signer: None,
        not_probed: None,
        skew: None,
    };
    Ok(Known {
        fact: StoreFact::Usable(view),
        provider,
        is_tried,
    })
}

fn print(output: Output, secret: &k8s_openapi::api::core::v1::Secret) -> Result<(), String> {
    let entry = |name: &str| {
        let bytes = secret.data.as_ref().and_then(|d| d.get(name)).map(|b| b.0.clone());
        let bytes = bytes
            .ok_or_else(|| format!("the Secret of this grant has no entry {name}; set --output to yaml or json"))?;
        String::from_utf8(bytes).map_err(|e| e.to_string())
    };
    print_text(&match output {
        Output::Yaml => serde_yaml::to_string(secret).map_err(|e| e.to_string())?,
        Output::Json => serde_json::to_string_pretty(secret).map_err(|e| e.to_string())? + "\n",
        Output::Url => entry(data::URL)? + "\n",
        Output::Curl => entry(data::CURL_CONFIG)?,
        Output::Parts => entry(data::PARTS)?,
    })
}
