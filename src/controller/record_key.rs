//! Stores the operator's record key in a Secret in the operator's namespace. The record key is the HMAC key with
//! which Valet signs its own records. The operator creates the record key at its first start.

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

/// The name of the data entry that contains the record key. The Secret has no other entries.
const ENTRY: &str = "key";

/// The pause between two checks that the Secret with the record key still exists.
const PERIOD: Duration = Duration::from_secs(60);

/// Reads and creates the Secret with the record key.
pub struct RecordKeyStore {
    secrets: NamedSecrets,
    namespace: String,
}

impl RecordKeyStore {
    /// Creates a `RecordKeyStore` for the Secret in `namespace`, which is the operator's own namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            secrets: NamedSecrets::new(client),
            namespace: namespace.to_owned(),
        }
    }

    /// Reads the record key that all replicas share. If the Secret does not exist, creates a new record key and the
    /// Secret.
    ///
    /// # Errors
    ///
    /// Returns a message with the name of the Secret and advice for the user.
    pub async fn open(&self) -> Result<RecordKey, String> {
        // If two replicas start together, both may find no Secret. Only the first request to create the Secret
        // succeeds. The replica whose request fails then reads the Secret.
        for _ in 0..3 {
            if let Some(key) = self.read().await? {
                return Ok(key);
            }
            let key = RecordKey::random()?;
            if self.create(&key).await? {
                info!(
                    namespace = self.namespace,
                    secret = RECORD_KEY_NAME,
                    "Valet created a new record key; Valet issues new credentials for all live grants whose records were signed with an earlier record key"
                );
                return Ok(key);
            }
        }
        let name = self.name();
        Err(format!(
            "Secret {name} with the record key is repeatedly created and deleted; find the client that deletes the Secret"
        ))
    }

    /// Checks the Secret with the record key at regular intervals. If somebody has deleted the Secret, creates the
    /// Secret again with the same record key. If the Secret contains a different record key, returns a message. The
    /// operator must then restart, because a process uses only one record key.
    pub async fn watch_for_change(&self, key: &RecordKey) -> String {
        loop {
            match self.read().await {
                Ok(Some(found)) if found.expose() == key.expose() => {}
                Ok(Some(_)) => {
                    let name = self.name();
                    return format!(
                        "Secret {name} no longer contains the record key with which this process started; the operator restarts"
                    );
                }
                Ok(None) => match self.create(key).await {
                    Ok(_) => warn!(
                        namespace = self.namespace,
                        secret = RECORD_KEY_NAME,
                        "the Secret with the record key was deleted; Valet has created the Secret again"
                    ),
                    Err(why) => error!("{why}"),
                },
                Err(why) => error!("{why}"),
            }
            sleep(PERIOD).await;
        }
    }

    fn name(&self) -> String {
        format!("{}/{RECORD_KEY_NAME}", self.namespace)
    }

    async fn read(&self) -> Result<Option<RecordKey>, String> {
        let secret = match self.secrets.get(&self.namespace, RECORD_KEY_NAME).await {
            Ok(secret) => secret,
            Err(Error::Gone(_)) => return Ok(None),
            Err(e) => {
                return Err(format!(
                    "Secret {name} with the record key cannot be read; allow the operator's account to get this Secret: {e}",
                    name = self.name()
                ));
            }
        };
        let entry = secret.data.as_ref().and_then(|data| data.get(ENTRY));
        let bytes = entry.and_then(|ByteString(bytes)| <[u8; 32]>::try_from(bytes.as_slice()).ok());
        match bytes {
            Some(bytes) if secret.type_.as_deref() == Some(RECORD_KEY_TYPE) => Ok(Some(RecordKey::new(bytes))),
            _ => Err(format!(
                "Secret {name} must have type {RECORD_KEY_TYPE} and a record key of 32 bytes in entry '{ENTRY}'; delete the Secret; the operator then creates a new Secret",
                name = self.name()
            )),
        }
    }

    /// Creates the Secret with the record key. Returns false if the Secret already exists.
    async fn create(&self, key: &RecordKey) -> Result<bool, String> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(RECORD_KEY_NAME.to_owned()),
                namespace: Some(self.namespace.clone()),
                // The Secret with the record key does not have the label of grant Secrets. A backup may exclude all
                // Secrets with this label, but it must contain the Secret with the record key.
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
                "Valet cannot create Secret {name} for its record key, because namespace {namespace} does not exist; create the namespace, or set --operator-namespace to another namespace",
                name = self.name(),
                namespace = self.namespace
            )),
            Err(e) => Err(format!(
                "Valet cannot create Secret {name} for its record key; allow the operator's account to create Secrets in this namespace: {e}",
                name = self.name()
            )),
        }
    }
}
