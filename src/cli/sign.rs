mod account;
mod documents;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use self::documents::{Documents, only};
use super::print_text;
use crate::{
    api::{Grant, Operation, Store, StoreKind, data},
    core::{
        Facts, GrantFacts, MetadataDomains, ObjectFact, PlaceFact, Publish, Read, SecretFact, Settings, Step,
        StoreFact, StoreView, UploadFact, decide, secret_object,
    },
    provider::Provider,
};

#[derive(Debug, Args)]
pub struct SignArgs {
    /// YAML or JSON files with the grant and its store, in any order, several documents a file if you like; '-' is
    /// standard input. A Namespace with its labels may be among them, if the store's rules choose by label.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,

    /// Namespace of a grant that names none.
    #[arg(
        short,
        long,
        env = "VALET_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "default"
    )]
    namespace: String,

    /// What to print: the Secret as yaml or json, the bare url, a curl configuration file, or the parts of an upload.
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Output,

    /// Of a grant with mode: Multipart: the store's name for the upload whose parts are signed. The operator begins one
    /// itself, and puts it together; here both are left to you.
    #[arg(long, value_name = "ID")]
    upload_id: Option<String>,

    /// Ask whoever must be asked: STS (assumeRole, web identity), Azure and Google for an identity's signatures, the machine's
    /// metadata service, a profile's credential_process. Without it nothing is sent to anybody, and what needs it is refused.
    #[arg(long)]
    online: bool,

    /// With --online: an address in a ClusterObjectStore to which the identity in the environment may be shown, although it
    /// is not one of the cloud's own hosts. Can be given several times.
    #[arg(long, value_name = "URL", requires = "online")]
    trust_endpoint: Vec<String>,

    /// Networks, as CIDRs separated by commas, in which the endpoints of ObjectStores may be although their addresses are not
    /// public, as for the operator.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    allow_private_endpoints: Vec<ipnet::IpNet>,

    /// Networks, as CIDRs separated by commas, in which the endpoints of ObjectStores may not be, as for the operator.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    deny_endpoints: Vec<ipnet::IpNet>,

    /// Domains, separated by commas, whose labels and annotations grants may put on their Secrets, as for the operator.
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',', default_value = MetadataDomains::DEFAULT)]
    allow_secret_metadata: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Yaml,
    Json,
    Url,
    Curl,
    Parts,
}

pub async fn run(args: SignArgs) -> Result<(), String> {
    let documents = Documents::read(&args.filename)?;
    match (documents.uploads.as_slice(), documents.downloads.as_slice()) {
        ([grant], []) => sign(grant, &documents, &args).await,
        ([], [grant]) => sign(grant, &documents, &args).await,
        ([], []) => Err("there is no UploadGrant or DownloadGrant in the files; give one with -f".into()),
        _ => Err("there is more than one grant in the files; sign them one by one".into()),
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
    // The status of a grant that was printed from a cluster is no evidence here.
    g.status = Default::default();
    if let Some(upload) = &args.upload_id {
        if g.ask.parts().is_none() {
            return Err("--upload-id is for a grant with mode: Multipart; leave it out".into());
        }
        // As the operator finds it that has begun the upload before.
        g.held = true;
        g.status.upload_id = Some(upload.clone());
    }
    let Known {
        fact,
        provider,
        is_tried,
    } = store_of(g, documents, args).await?;
    facts.store = fact;
    // Offline nobody looks: neither for a Secret nor whether the object is there.
    facts.secret = SecretFact::Absent;
    let now = Timestamp::now();
    loop {
        match decide(&facts, now) {
            Step::Read(Read::Object(_)) => facts.object = ObjectFact::Hidden,
            // And nobody knows of other grants.
            Step::Read(Read::Place(_)) => facts.place = PlaceFact::Given,
            Step::Publish(publish) => {
                if !is_tried && facts.grant.ask.operation() == Operation::Upload {
                    eprintln!(
                        "valet: nobody has tried here what the store does with headers that are not signed; the operator does before it signs an upload"
                    );
                }
                say_of_end(&publish, &facts.grant, provider.as_ref()).await;
                let signed = provider.sign(&publish.request).await.map_err(|e| e.to_string())?;
                let mut secret = secret_object(&facts.grant, &publish, &signed);
                if facts.grant.uid.is_empty() {
                    // A grant that is in no cluster owns nothing.
                    secret.metadata.owner_references = None;
                }
                return print(args.output, &secret);
            }
            Step::Report { status, .. } => {
                let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
                return Err(ready.map_or("refused".into(), |c| format!("{}: {}", c.reason, c.message)));
            }
            // What has come of the upload is its owner's business: nothing is sent. What is refused is said then.
            Step::Abort(_) => facts.upload = UploadFact::Gone,
            Step::Read(Read::Upload(..)) => facts.upload = UploadFact::Open(Vec::new()),
            Step::Release { .. } => facts.grant.held = false,
            Step::Hold => {
                return Err("an upload in parts needs the operator, which begins it at the store and puts the parts together; apply the grant, or give the name of an upload that you have begun with --upload-id".into());
            }
            // The rest concerns a Secret, an object or an end that nobody has looked for here.
            _ => {
                return Err("there is nothing to sign now: the operator would wait, or the grant has ended; check spec.deadlineTime and the lifetime that the store's rules allow".into());
            }
        }
    }
}

/// What the caller should know of an end that comes earlier than asked.
async fn say_of_end(publish: &Publish, grant: &GrantFacts, provider: &dyn Provider) {
    let lifetime = publish.request.lifetime;
    let deadline = grant.terms.deadline_time.as_ref().map(|t| t.0);
    if !lifetime.is_truncated(grant.terms.expiration_seconds, deadline) {
        return;
    }
    let why = if provider.end_is_unknown().await {
        "the credentials are temporary and nothing says when they end (AWS_CREDENTIAL_EXPIRATION)"
    } else {
        "the credentials end then, or the store's rules allow no longer time"
    };
    eprintln!(
        "valet: what is signed ends at {}, earlier than asked: {why}",
        lifetime.expires_at
    );
}

/// A store that is in the files.
struct Known {
    fact: StoreFact,
    provider: Arc<dyn Provider>,
    /// Whether it is known what it does with headers that are not signed.
    is_tried: bool,
}

async fn store_of(grant: &GrantFacts, documents: &Documents, args: &SignArgs) -> Result<Known, String> {
    let wanted = &grant.terms.store_ref;
    let named = |meta: &kube::core::ObjectMeta| meta.name.as_deref() == Some(wanted.name.as_str());
    let missing = || format!("the grant names {wanted}, which is not in the files; give it with -f");
    match wanted.kind {
        StoreKind::ClusterObjectStore => {
            let store = only(&documents.cluster_stores, &wanted.to_string(), |s| named(&s.metadata))?;
            usable(store.ok_or_else(missing)?, grant, documents, args).await
        }
        StoreKind::ObjectStore => {
            let mut stores = documents.stores.clone();
            for store in &mut stores {
                store.metadata.namespace.get_or_insert_with(|| grant.namespace.clone());
            }
            let is_here = |meta: &kube::core::ObjectMeta| meta.namespace.as_deref() == Some(grant.namespace.as_str());
            let here = only(&stores, &wanted.to_string(), |s| {
                named(&s.metadata) && is_here(&s.metadata)
            })?;
            if let Some(store) = here {
                return usable(store, grant, documents, args).await;
            }
            match stores.iter().find(|s| named(&s.metadata)) {
                Some(elsewhere) => Err(format!(
                    "{wanted} is in namespace {}; it serves only grants of that namespace, and this one is in {}",
                    elsewhere.metadata.namespace.as_deref().unwrap_or_default(),
                    grant.namespace
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
    let mut is_tried = !provider.rests_on_trial();
    // As the operator found it that the document comes from.
    if let Some(status) = store.store_status() {
        provider.recall(&status.capabilities);
        capabilities = provider.capabilities();
        if status.observed_generation.is_some() {
            capabilities = Arc::new(capabilities.among(&status.capabilities));
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
        untried: None,
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
        let bytes = bytes.ok_or_else(|| format!("a key of this mode has no {name}; use --output yaml or json"))?;
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
