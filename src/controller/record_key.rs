//! Stores the operator's record key in a Secret of the operator's namespace. The operator creates the key at its
//! first start.

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

/// The name of the only entry in the Secret.
const ENTRY: &str = "key";

/// How often the operator checks that the Secret still exists.
const PERIOD: Duration = Duration::from_secs(60);

/// Reads and creates the Secret with the record key.
pub struct RecordKeyStore {
    secrets: NamedSecrets,
    namespace: String,
}

impl RecordKeyStore {
    /// Uses the given namespace of the operator.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            secrets: NamedSecrets::new(client),
            namespace: namespace.to_owned(),
        }
    }

    /// Reads the record key that all replicas share. Creates the key and its Secret if they do not exist.
    ///
    /// # Errors
    /// A message that names the Secret and what to do.
    pub async fn open(&self) -> Result<RecordKey, String> {
        // Two replicas that start at the same time may both find no Secret. Only one of them can create it.
        for _ in 0..3 {
            if let Some(key) = self.read().await? {
                return Ok(key);
            }
            let key = RecordKey::random()?;
            if self.create(&key).await? {
                info!(
                    namespace = self.namespace,
                    secret = RECORD_KEY_NAME,
                    "record key created; Valet reissues credentials that were recorded with another record key"
                );
                return Ok(key);
            }
        }
        Err(format!("{}: the Secret is repeatedly created and deleted", self.name()))
    }

    /// Recreates the Secret if it is deleted. Returns a message if the Secret contains another key. One process uses
    /// one key, so the operator must restart to use the new key.
    pub async fn keep(&self, key: &RecordKey) -> String {
        loop {
            match self.read().await {
                Ok(Some(found)) if found.expose() == key.expose() => {}
                Ok(Some(_)) => {
                    return format!(
                        "{} has another record key than at the start of this process",
                        self.name()
                    );
                }
                Ok(None) => match self.create(key).await {
                    Ok(_) => warn!(
                        namespace = self.namespace,
                        secret = RECORD_KEY_NAME,
                        "the Secret with the record key was deleted and has been created again"
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
            Err(e) => {
                return Err(format!(
                    "{}: {e}; allow the operator's account to get this Secret",
                    self.name()
                ));
            }
        };
        let entry = secret.data.as_ref().and_then(|data| data.get(ENTRY));
        let bytes = entry.and_then(|ByteString(bytes)| <[u8; 32]>::try_from(bytes.as_slice()).ok());
        match bytes {
            Some(bytes) if secret.type_.as_deref() == Some(RECORD_KEY_TYPE) => Ok(Some(RecordKey::new(bytes))),
            _ => Err(format!(
                "{}: the Secret must have the type {RECORD_KEY_TYPE} and 32 bytes in the entry '{ENTRY}'; delete it, and the operator creates a new one",
                self.name()
            )),
        }
    }

    /// Creates the Secret. Returns false if it already exists.
    async fn create(&self, key: &RecordKey) -> Result<bool, String> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(RECORD_KEY_NAME.to_owned()),
                namespace: Some(self.namespace.clone()),
                // The Secret does not have the label of grant Secrets, because grant Secrets can be recreated, and
                // this Secret must be backed up.
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
                "{}: namespace {} does not exist; create it, or set --operator-namespace to another namespace",
                self.name(),
                self.namespace
            )),
            Err(e) => Err(format!(
                "{}: {e}; allow the operator's account to create Secrets in this namespace",
                self.name()
            )),
        }
    }
}
