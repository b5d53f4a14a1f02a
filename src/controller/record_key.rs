//! The operator's record key: in a Secret of the operator's own namespace, made by the operator itself at its first start.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Client, core::ObjectMeta};
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::{error::Error, secrets::NamedSecrets};
use crate::{
    api::{RECORD_KEY_NAME, RECORD_KEY_TYPE},
    core::record::RecordKey,
};

/// The name of the Secret's one entry.
const ENTRY: &str = "key";

/// How often it is looked at whether the Secret is still there.
const PERIOD: Duration = Duration::from_secs(60);

/// Where the record key is kept.
pub struct RecordKeyStore {
    secrets: NamedSecrets,
    namespace: String,
}

impl RecordKeyStore {
    /// In the operator's namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            secrets: NamedSecrets::new(client),
            namespace: namespace.to_owned(),
        }
    }

    /// The key that all replicas share: as it is kept, or a new one, which is kept from now on.
    ///
    /// # Errors
    /// A sentence that names the Secret and what to do.
    pub async fn open(&self) -> Result<RecordKey, String> {
        // Two replicas that start at one time may both find none; one of them creates it.
        for _ in 0..3 {
            if let Some(key) = self.read().await? {
                return Ok(key);
            }
            let key = RecordKey::random()?;
            if self.create(&key).await? {
                info!(
                    namespace = self.namespace,
                    secret = RECORD_KEY_NAME,
                    "record key created; credentials that were issued with another one are issued again"
                );
                return Ok(key);
            }
        }
        Err(format!("{}: it is created and deleted all the time", self.name()))
    }

    /// Sees to it that the Secret stays: makes it again if somebody deletes it. Ends with a sentence if another key has taken
    /// its place: one process works with one key, and the next start of the operator takes the other one.
    pub async fn keep(&self, key: &RecordKey) -> String {
        loop {
            match self.read().await {
                Ok(Some(found)) if found.expose() == key.expose() => {}
                Ok(Some(_)) => {
                    return format!("{} holds another key than at the start of this process", self.name());
                }
                Ok(None) => match self.create(key).await {
                    Ok(_) => warn!(
                        namespace = self.namespace,
                        secret = RECORD_KEY_NAME,
                        "the Secret with the record key was deleted, and is made again"
                    ),
                    Err(why) => error!("{why}"),
                },
                Err(why) => error!("{why}"),
            }
            sleep(PERIOD).await;
        }
    }

    fn name(&self) -> String {
        format!("Secret {}/{RECORD_KEY_NAME} (the record key)", self.namespace)
    }

    async fn read(&self) -> Result<Option<RecordKey>, String> {
        let secret = match self.secrets.get(&self.namespace, RECORD_KEY_NAME).await {
            Ok(secret) => secret,
            Err(Error::Gone(_)) => return Ok(None),
            Err(e) => return Err(format!("{}: {e}; the operator's account needs get for it", self.name())),
        };
        let entry = secret.data.as_ref().and_then(|data| data.get(ENTRY));
        let bytes = entry.and_then(|ByteString(bytes)| <[u8; 32]>::try_from(bytes.as_slice()).ok());
        match bytes {
            Some(bytes) if secret.type_.as_deref() == Some(RECORD_KEY_TYPE) => Ok(Some(RecordKey::new(bytes))),
            _ => Err(format!(
                "{}: it must have the type {RECORD_KEY_TYPE} and 32 bytes under '{ENTRY}'; delete it, and a new one is made",
                self.name()
            )),
        }
    }

    /// Whether it was created; not if there is one already.
    async fn create(&self, key: &RecordKey) -> Result<bool, String> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(RECORD_KEY_NAME.to_owned()),
                namespace: Some(self.namespace.clone()),
                // Not the label of grants' Secrets: those are made again, and this one must be backed up.
                ..ObjectMeta::default()
            },
            type_: Some(RECORD_KEY_TYPE.to_owned()),
            data: Some(BTreeMap::from([(ENTRY.to_owned(), ByteString(key.expose().to_vec()))])),
            ..Secret::default()
        };
        match self.secrets.create(&self.namespace, &secret).await {
            Ok(()) => Ok(true),
            Err(Error::Conflict(_)) => Ok(false),
            Err(Error::Gone(_)) => Err(format!(
                "{}: namespace {} does not exist; create it, or name another one with --operator-namespace",
                self.name(),
                self.namespace
            )),
            Err(e) => Err(format!(
                "{}: {e}; the operator's account needs create for Secrets there",
                self.name()
            )),
        }
    }
}
