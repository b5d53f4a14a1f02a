//! The table of the providers, each with a store for the tests.

use std::sync::Arc;

use serde_json::{Value, json};
use valet::{
    api::ClusterObjectStore,
    provider::{Provider, ProviderSettings, registry},
};
use valet_harness::{Azurite, S3Server, Tools, azurite::ACCOUNT};

use crate::{
    google::{self, GoogleServer},
    memory::{config::MemoryStore, server::MemoryServer},
};

/// The bucket of each store.
pub const BUCKET: &str = "acceptance";
/// The prefix of all objects that the checks themselves write.
pub const PREFIX: &str = "suite/";

// The capabilities that each provider must have after a probe, in alphabetical order.
const MEMORY_CAPABILITIES: &str = "\
    ChecksumSHA256 ContentLength ContentLengthRange ContentType Multipart Multipart/ContentLength \
    Multipart/ContentLengthRange Multipart/ContentType Multipart/SignedHeadersOnly Multipart/WriteOnce \
    PostForm PostForm/ChecksumSHA256 PostForm/ContentLength PostForm/ContentLengthRange PostForm/ContentType \
    PostForm/SignedHeadersOnly ResponseHeaders SignedHeadersOnly Version WriteOnce";
const S3_CAPABILITIES: &str = "\
    ChecksumMD5 ChecksumSHA256 ContentLength ContentType Multipart Multipart/ContentLength \
    Multipart/ContentLengthRange Multipart/ContentType Multipart/SignedHeadersOnly Multipart/WriteOnce \
    PostForm PostForm/ChecksumSHA256 PostForm/ContentLength PostForm/ContentLengthRange PostForm/ContentType \
    PostForm/SignedHeadersOnly ResponseHeaders SignedHeadersOnly Version WriteOnce";
const AZURE_CAPABILITIES: &str = "ResponseHeaders SignedHeadersOnly Version WriteOnce";
const GCS_CAPABILITIES: &str = "\
    ChecksumMD5 ContentLength ContentLengthRange ContentType PostForm PostForm/ContentLength \
    PostForm/ContentLengthRange PostForm/ContentType PostForm/SignedHeadersOnly ResponseHeaders \
    SignedHeadersOnly Version WriteOnce";

/// The credentials and the bucket with which the suite creates a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Valid,
    OtherCredentials,
    MissingBucket,
}

impl Variant {
    fn bucket(self) -> &'static str {
        match self {
            Self::MissingBucket => "no-such-bucket",
            _ => BUCKET,
        }
    }
}

type Connect = Box<dyn Fn(Variant) -> Arc<dyn Provider>>;
type Objects = Box<dyn Fn() -> Vec<String>>;

/// A provider and its store.
pub struct Subject {
    pub name: &'static str,
    pub provider: Arc<dyn Provider>,
    /// The capabilities that the provider must have after a probe, in alphabetical order.
    pub capabilities: Vec<&'static str>,
    /// These texts are secret. No text of the provider may contain them.
    pub secrets: Vec<String>,
    connect: Connect,
    objects: Objects,
}

impl Subject {
    fn new(
        name: &'static str,
        capabilities: &'static str,
        secrets: Vec<String>,
        connect: Connect,
        objects: Objects,
    ) -> Self {
        Self {
            name,
            capabilities: capabilities.split_whitespace().collect(),
            provider: connect(Variant::Valid),
            secrets,
            connect,
            objects,
        }
    }

    /// Creates a second provider.
    pub fn connect(&self, variant: Variant) -> Arc<dyn Provider> {
        (self.connect)(variant)
    }

    /// Lists the object keys in the bucket without the provider.
    pub fn objects(&self) -> Vec<String> {
        (self.objects)()
    }

    /// Returns an object key that only this check uses.
    pub fn key(&self, name: &str) -> String {
        format!("{PREFIX}{name}")
    }
}

/// Creates a provider as the operator does: from a store and the entries of its Secret.
fn from_registry(provider: Value, entries: &[(&str, &str)]) -> Arc<dyn Provider> {
    let store: ClusterObjectStore = serde_json::from_value(json!({
        "apiVersion": "valetkey.dev/v1alpha1",
        "kind": "ClusterObjectStore",
        "metadata": {"name": "media"},
        "spec": provider,
    }))
    .expect("a store");
    let settings = registry::settings(&store).expect("valid settings");
    let entries: Vec<_> = entries.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    settings.with_secret(&entries).expect("credentials").connect(None)
}

/// The provider that exists only for the tests.
pub fn memory() -> Subject {
    let secret = "marker-of-the-secret";
    let server = MemoryServer::start("test", secret, BUCKET);
    let endpoint = server.endpoint();
    let connect = move |variant: Variant| {
        let store: MemoryStore = serde_json::from_value(json!({
            "bucket": variant.bucket(), "endpoint": endpoint,
        }))
        .expect("settings");
        let secret = match variant {
            Variant::OtherCredentials => "marker-of-another-secret",
            _ => secret,
        };
        let entries: [(&str, &[u8]); 2] = [("MEMORY_ACCESS_KEY", b"test"), ("MEMORY_SECRET_KEY", secret.as_bytes())];
        store.with_secret(&entries).expect("credentials").connect(None)
    };
    let secrets = vec![secret.to_owned(), "marker-of-another-secret".to_owned()];
    Subject::new(
        "memory",
        MEMORY_CAPABILITIES,
        secrets,
        Box::new(connect),
        Box::new(move || server.keys(BUCKET)),
    )
}

/// S3 on a real versitygw.
pub fn s3() -> Subject {
    let tools = Tools::locate().expect("the programs of hack/tools.sh");
    let server = Arc::new(S3Server::start(&tools).expect("versitygw starts"));
    server.create_bucket(BUCKET).expect("a bucket can be made");
    let secrets = vec![server.secret_key().to_owned(), "marker-of-another-secret".to_owned()];
    let of = server.clone();
    let connect = move |variant: Variant| {
        let secret = match variant {
            Variant::OtherCredentials => "marker-of-another-secret",
            _ => of.secret_key(),
        };
        from_registry(
            json!({"s3": {
                "bucket": variant.bucket(), "region": of.region(), "endpoint": of.endpoint(), "addressingStyle": "Path",
                "credentials": {"secretRef": {"name": "x"}},
            }}),
            &[
                ("AWS_ACCESS_KEY_ID", of.access_key()),
                ("AWS_SECRET_ACCESS_KEY", secret),
            ],
        )
    };
    let objects = move || {
        let versions = server.versions(BUCKET, "").expect("versitygw lists objects");
        versions.into_iter().map(|version| version.key).collect()
    };
    Subject::new("s3", S3_CAPABILITIES, secrets, Box::new(connect), Box::new(objects))
}

/// Azure Blob Storage on Azurite. Azurite obeys unsigned headers, so the store tolerates them.
pub fn azure() -> Subject {
    let server = Arc::new(Azurite::start().expect("Azurite starts"));
    server.create_container(BUCKET).expect("a container can be made");
    let other = "b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXIu";
    let secrets = vec![server.key().to_owned(), other.to_owned()];
    let of = server.clone();
    let connect = move |variant: Variant| {
        let key = match variant {
            Variant::OtherCredentials => other,
            _ => of.key(),
        };
        from_registry(
            json!({"azureBlob": {
                "account": ACCOUNT, "container": variant.bucket(), "endpoint": of.endpoint(), "addressingStyle": "Path",
                "unsignedHeaders": "Tolerate", "credentials": {"secretRef": {"name": "x"}},
            }}),
            &[("AZURE_STORAGE_KEY", key)],
        )
    };
    let objects = move || server.names(BUCKET, "").expect("Azurite lists blobs");
    Subject::new(
        "azure",
        AZURE_CAPABILITIES,
        secrets,
        Box::new(connect),
        Box::new(objects),
    )
}

/// Google Cloud Storage, on a server that verifies requests as Google documents it.
pub fn gcs() -> Subject {
    let (server, endpoint) = GoogleServer::start(BUCKET);
    let connect = move |variant: Variant| {
        let key = match variant {
            Variant::OtherCredentials => google::other_key(),
            _ => google::KEY.to_owned(),
        };
        from_registry(
            json!({"gcs": {
                "bucket": variant.bucket(), "endpoint": endpoint, "credentials": {"secretRef": {"name": "x"}},
            }}),
            &[("credentials.json", &key)],
        )
    };
    let objects = move || server.keys();
    Subject::new(
        "gcs",
        GCS_CAPABILITIES,
        vec![google::secret()],
        Box::new(connect),
        Box::new(objects),
    )
}
