//! The settings of a bucket in memory, and the access key that signs for it.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use valet::{
    net::EgressPolicy,
    provider::{Account, CredentialsError, Environment, Provider, ProviderSettings},
};

use super::{
    config::MemoryStore,
    store::{AccessKey, Memory},
};

const ACCESS_KEY: &str = "MEMORY_ACCESS_KEY";
const SECRET_KEY: &str = "MEMORY_SECRET_KEY";

/// A bucket and the access key that signs for it.
struct MemoryAccount {
    store: MemoryStore,
    key: AccessKey,
}

impl ProviderSettings for MemoryStore {
    fn field(&self) -> &'static str {
        "memory"
    }

    fn bucket(&self) -> &str {
        &self.bucket
    }

    fn secret(&self) -> Option<&str> {
        self.secret.as_deref()
    }

    fn endpoints(&self) -> Vec<&str> {
        vec![&self.endpoint]
    }

    fn with_secret(&self, entries: &[(&str, &[u8])]) -> Result<Box<dyn Account>, CredentialsError> {
        let text = |entry: &'static str| {
            let found = entries.iter().find(|(name, _)| *name == entry);
            let usual = "MEMORY_ACCESS_KEY and MEMORY_SECRET_KEY";
            let (_, value) = found.ok_or(CredentialsError::Missing { entry, usual })?;
            let text =
                std::str::from_utf8(value).map_err(|_| CredentialsError::Unusable(entry.into(), "not plain text"))?;
            Ok(text.to_owned())
        };
        let key = AccessKey {
            id: text(ACCESS_KEY)?,
            secret: text(SECRET_KEY)?,
        };
        Ok(Box::new(MemoryAccount {
            store: self.clone(),
            key,
        }))
    }

    fn with_environment<'a>(&'a self, _: &'a Environment) -> BoxFuture<'a, Box<dyn Account>> {
        let set = |name: &str| std::env::var(name).unwrap_or_default();
        let key = AccessKey {
            id: set(ACCESS_KEY),
            secret: set(SECRET_KEY),
        };
        let account: Box<dyn Account> = Box::new(MemoryAccount {
            store: self.clone(),
            key,
        });
        std::future::ready(account).boxed()
    }

    fn wanted_in_environment(&self) -> &'static str {
        "set the environment variables MEMORY_ACCESS_KEY and MEMORY_SECRET_KEY"
    }
}

impl Account for MemoryAccount {
    fn requires_environment(&self) -> Option<&'static str> {
        None
    }

    fn shows_identity_to(&self) -> Vec<String> {
        Vec::new()
    }

    fn connect(self: Box<Self>, egress: Option<EgressPolicy>) -> Arc<dyn Provider> {
        Arc::new(Memory::new(self.store, self.key, egress))
    }
}
