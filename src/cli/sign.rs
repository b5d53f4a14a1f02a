use std::{collections::BTreeMap, fs, io::Read as _, path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_yaml::Value;

use super::print_text;
use crate::{
    api::{
        ClusterObjectStore, DownloadGrant, GROUP, Grant, ObjectStore, Store, StoreKind, UploadGrant, VERSION, data,
    },
    grant::{
        Facts, GrantFacts, ObjectFact, PlaceFact, Read, SecretFact, Settings, Step, StoreFact, StoreView, decide,
    },
    sign::{Provider, SignError, secret_object},
    store,
};

/// The largest document that is read.
const MAX_BYTES: u64 = 4 << 20;

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Yaml,
    Json,
    Url,
    Curl,
    Parts,
}

/// What was found in the files.
#[derive(Default)]
struct Documents {
    uploads: Vec<UploadGrant>,
    downloads: Vec<DownloadGrant>,
    stores: Vec<ObjectStore>,
    cluster_stores: Vec<ClusterObjectStore>,
    namespaces: Vec<Namespace>,
}

pub async fn run(args: SignArgs) -> Result<(), String> {
    let documents = read(&args)?;
    match (documents.uploads.as_slice(), documents.downloads.as_slice()) {
        ([grant], []) => sign(grant, &documents, &args).await,
        ([], [grant]) => sign(grant, &documents, &args).await,
        ([], []) => Err("there is no UploadGrant or DownloadGrant in the files; give one with -f".into()),
        _ => Err("there is more than one grant in the files; sign them one by one".into()),
    }
}

fn read(args: &SignArgs) -> Result<Documents, String> {
    let mut found = Documents::default();
    for path in &args.filename {
        let name = path.display();
        let mut text = String::new();
        let result = if path.as_os_str() == "-" {
            std::io::stdin().take(MAX_BYTES).read_to_string(&mut text)
        } else {
            fs::File::open(path).and_then(|f| f.take(MAX_BYTES).read_to_string(&mut text))
        };
        result.map_err(|e| format!("{name}: {e}"))?;
        for document in serde_yaml::Deserializer::from_str(&text) {
            let value = Value::deserialize(document).map_err(|e| format!("{name}: not YAML: {e}"))?;
            if value.is_null() {
                continue;
            }
            let kind = value.get("kind").and_then(Value::as_str).unwrap_or("(none)").to_owned();
            match kind.as_str() {
                "UploadGrant" => found.uploads.push(strict(&name, &kind, value)?),
                "DownloadGrant" => found.downloads.push(strict(&name, &kind, value)?),
                "ObjectStore" => found.stores.push(strict(&name, &kind, value)?),
                "ClusterObjectStore" => found.cluster_stores.push(strict(&name, &kind, value)?),
                "Namespace" => found.namespaces.push(typed(&name, &kind, value)?),
                // Credentials stand beside a store in most files; they are taken from the environment here.
                "Secret" => {}
                _ => eprintln!("valet: {name}: a {kind} is not needed for signing and was passed over"),
            }
        }
    }
    Ok(found)
}

fn typed<T: DeserializeOwned>(file: &impl std::fmt::Display, kind: &str, value: Value) -> Result<T, String> {
    serde_yaml::from_value(value).map_err(|e| format!("{file}: {kind}: {e}"))
}

/// The same for Valet's own kinds, where a field that is not known is a mistake, as the apiserver has it: a constraint
/// that is misspelt would make a key that permits more than was meant.
fn strict<T: DeserializeOwned + Serialize>(
    file: &impl std::fmt::Display,
    kind: &str,
    value: Value,
) -> Result<T, String> {
    let wanted = format!("{GROUP}/{VERSION}");
    match value.get("apiVersion").and_then(Value::as_str) {
        Some(version) if version == wanted => {}
        other => {
            let found = other.unwrap_or("missing");
            return Err(format!("{file}: {kind}: apiVersion is {found}; write {wanted}"));
        }
    }
    let object: T = typed(file, kind, value.clone())?;
    let known = serde_yaml::to_value(&object).map_err(|e| format!("{file}: {kind}: {e}"))?;
    match unknown_field(&value, &known, "") {
        Some(path) => Err(format!(
            "{file}: {kind}: unknown field {path}; correct its spelling or remove it"
        )),
        None => Ok(object),
    }
}

/// The first field that was written and not read. What is empty says nothing and may be left out.
fn unknown_field(written: &Value, read: &Value, path: &str) -> Option<String> {
    match (written, read) {
        (Value::Mapping(written), read) => written.iter().find_map(|(key, value)| {
            let path = format!("{path}.{}", key.as_str().unwrap_or("?"));
            let empty = value.is_null()
                || value.as_mapping().is_some_and(|m| m.is_empty())
                || value.as_sequence().is_some_and(|s| s.is_empty());
            match read.get(key) {
                Some(read) => unknown_field(value, read, &path),
                None if empty => None,
                None => Some(path.trim_start_matches('.').to_owned()),
            }
        }),
        (Value::Sequence(written), Value::Sequence(read)) => {
            let pairs = written.iter().zip(read).enumerate();
            pairs
                .into_iter()
                .find_map(|(n, (w, r))| unknown_field(w, r, &format!("{path}[{n}]")))
        }
        _ => None,
    }
}

async fn sign<G: Grant>(grant: &G, documents: &Documents, args: &SignArgs) -> Result<(), String> {
    let mut facts = Facts::new(
        GrantFacts::of(grant),
        Settings {
            ttl_seconds_after_finished: None,
        },
    );
    let g = &mut facts.grant;
    if g.namespace.is_empty() {
        g.namespace.clone_from(&args.namespace);
    }
    // The status of a grant that was printed from a cluster is another story: here it is judged from nothing.
    g.status = Default::default();
    if let Some(upload) = &args.upload_id {
        if g.ask.parts().is_none() {
            return Err("--upload-id is for a grant with mode: Multipart; leave it out".into());
        }
        // As the operator finds it that has begun the upload before.
        g.held = true;
        g.status.upload_id = Some(upload.clone());
    }
    let (fact, provider) = store_of(g, documents).await?;
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
                let provider = provider.as_ref().ok_or("the store cannot be used")?;
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
            Step::Hold => {
                return Err("an upload in parts needs the operator, which begins it at the store and puts the parts together; apply the grant, or give the name of an upload that you have begun with --upload-id".into());
            }
            step => return Err(format!("the operator would not sign this now ({step:?})")),
        }
    }
}

type Known = (StoreFact, Option<Arc<dyn Provider>>);

async fn store_of(grant: &GrantFacts, documents: &Documents) -> Result<Known, String> {
    let wanted = &grant.terms.store_ref;
    let named = |meta: &kube::core::ObjectMeta| meta.name.as_deref() == Some(wanted.name.as_str());
    match wanted.kind {
        StoreKind::ClusterObjectStore => match documents.cluster_stores.iter().find(|s| named(&s.metadata)) {
            Some(store) => usable(store, grant, documents).await,
            None => Err(format!(
                "the grant names {wanted}, which is not in the files; give it with -f"
            )),
        },
        StoreKind::ObjectStore => {
            let mut store = documents.stores.iter().find(|s| named(&s.metadata)).cloned();
            if let Some(store) = &mut store {
                let namespace = store.metadata.namespace.get_or_insert_with(|| grant.namespace.clone());
                if *namespace != grant.namespace {
                    return Err(format!(
                        "{wanted} is in namespace {namespace}; it serves only grants of that namespace, and this one is in {}",
                        grant.namespace
                    ));
                }
            }
            match store {
                Some(store) => usable(&store, grant, documents).await,
                None => Err(format!(
                    "the grant names {wanted}, which is not in the files; give it with -f"
                )),
            }
        }
    }
}

async fn usable(store: &impl Store, grant: &GrantFacts, documents: &Documents) -> Result<Known, String> {
    let settings = store::settings(store).map_err(|(reason, message)| format!("{reason}: {message}"))?;
    let wanted = settings.wanted_in_environment();
    let account = settings.with_environment(&store::Environment::default()).await;
    let provider = account.connect(None);
    // As the operator found it that the document comes from.
    if let Some(status) = store.store_status() {
        provider.recall(&status.capabilities);
    }
    let credentials_expire = provider.credentials_expire().await.map_err(|e| match e {
        SignError::Credentials { message, .. } => {
            format!("there are no credentials in the environment; {wanted} ({message})")
        }
        e => e.to_string(),
    })?;
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
        capabilities: provider.capabilities(),
        credentials_expire,
        short_sessions: store.short_sessions(),
        signer: None,
        untried: None,
    };
    Ok((StoreFact::Usable(view), Some(provider)))
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
