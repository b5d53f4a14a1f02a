//! Defines for which stores a sender is allowed to send notifications.

use std::{collections::BTreeSet, str::FromStr};

use crate::{
    api::StoreKind,
    core::{Shard, StoreId},
};

/// The stores for which a sender is allowed to send notifications. The bucket name in a message cannot decide this,
/// because the owner of an ObjectStore can write any bucket name into the store's spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SenderScope(BTreeSet<Stores>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stores {
    /// The form `NAME` names one ClusterObjectStore.
    Cluster(String),
    /// The form `*` names all ClusterObjectStores.
    AllClusters,
    /// The form `NAMESPACE/NAME` names one ObjectStore.
    Namespaced(String, String),
    /// The form `NAMESPACE/*` names all ObjectStores of a namespace.
    AllNamespaced(String),
}

/// The forms of store names that Valet accepts, as a sentence for error messages.
pub const STORE_NAMES: &str = "the accepted store names are NAME for a ClusterObjectStore, NAMESPACE/NAME for an ObjectStore, * for all ClusterObjectStores, and NAMESPACE/* for all ObjectStores of a namespace";

impl SenderScope {
    /// Returns true if the sender is allowed to send notifications for this store.
    pub fn covers(&self, store: &StoreId) -> bool {
        let (kind, namespace, name) = store;
        self.0.iter().any(|stores| match (stores, kind) {
            (Stores::Cluster(own), StoreKind::ClusterObjectStore) => own == name,
            (Stores::AllClusters, StoreKind::ClusterObjectStore) => true,
            (Stores::Namespaced(own, one), StoreKind::ObjectStore) => own == namespace && one == name,
            (Stores::AllNamespaced(own), StoreKind::ObjectStore) => own == namespace,
            _ => false,
        })
    }

    /// Returns true if the shard can serve a store of this scope.
    pub fn concerns(&self, shard: Shard) -> bool {
        self.0.iter().any(|stores| match stores {
            Stores::Cluster(name) => shard.serves(&(StoreKind::ClusterObjectStore, String::new(), name.clone())),
            Stores::Namespaced(namespace, name) => {
                shard.serves(&(StoreKind::ObjectStore, namespace.clone(), name.clone()))
            }
            Stores::AllClusters | Stores::AllNamespaced(_) => true,
        })
    }

    /// Returns true if the scope `other` contains every store of this scope.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.iter().all(|stores| {
            let wider = match stores {
                Stores::Cluster(_) => Some(Stores::AllClusters),
                Stores::Namespaced(namespace, _) => Some(Stores::AllNamespaced(namespace.clone())),
                Stores::AllClusters | Stores::AllNamespaced(_) => None,
            };
            other.0.contains(stores) || wider.is_some_and(|wider| other.0.contains(&wider))
        })
    }

    /// Returns true if the scope contains no store.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }

    /// Parses store names in the forms of [`STORE_NAMES`]. If a word is invalid, the error is the position of the
    /// first invalid word. The error does not contain the word itself, because a user can have written a secret token
    /// there.
    pub fn read<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, usize> {
        words
            .enumerate()
            .map(|(at, word)| stores(word).ok_or(at + 1))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn stores(word: &str) -> Option<Stores> {
    let is_name = |name: &str| {
        (1..=253).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
    };
    Some(match word.split_once('/') {
        None if word == "*" => Stores::AllClusters,
        None if is_name(word) => Stores::Cluster(word.to_owned()),
        Some((namespace, "*")) if is_name(namespace) => Stores::AllNamespaced(namespace.to_owned()),
        Some((namespace, name)) if is_name(namespace) && is_name(name) => {
            Stores::Namespaced(namespace.to_owned(), name.to_owned())
        }
        _ => return None,
    })
}

/// A sender with a name (an SNS topic or a Google account), and a store for which the sender is allowed to send
/// notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSender {
    /// The ARN of the SNS topic, or the name of the Google account.
    pub name: String,
    pub scope: SenderScope,
}

impl NamedSender {
    /// Returns the stores of all entries with this sender name. The result is empty if no entry has this sender name.
    pub fn scope_of(senders: &[Self], name: &str) -> SenderScope {
        let mut scope = SenderScope::default();
        for sender in senders.iter().filter(|s| s.name == name) {
            scope.extend(&sender.scope);
        }
        scope
    }
}

impl FromStr for NamedSender {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!(
                "'{text}' does not have the form SENDER=STORE with a valid store name; repeat SENDER=STORE for each store of the sender; {STORE_NAMES}"
            )
        };
        let (name, store) = text.split_once('=').ok_or_else(wanted)?;
        let scope = SenderScope::read(std::iter::once(store)).map_err(|_| wanted())?;
        if name.is_empty() {
            return Err(wanted());
        }
        Ok(Self {
            name: name.to_owned(),
            scope,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(words: &[&str]) -> SenderScope {
        SenderScope::read(words.iter().copied()).unwrap()
    }

    fn cluster(name: &str) -> StoreId {
        (StoreKind::ClusterObjectStore, String::new(), name.into())
    }

    fn own(namespace: &str, name: &str) -> StoreId {
        (StoreKind::ObjectStore, namespace.into(), name.into())
    }

    #[test]
    fn scope_covers_only_the_stores_that_it_names() {
        for (words, store, covers) in [
            (&["media"][..], cluster("media"), true),
            (&["media"], cluster("backups"), false),
            (&["media"], own("team-a", "media"), false),
            (&["*"], cluster("media"), true),
            (&["*"], own("team-a", "media"), false),
            (&["team-a/media"], own("team-a", "media"), true),
            (&["team-a/media"], own("team-b", "media"), false),
            (&["team-a/media"], own("team-a", "other"), false),
            (&["team-a/media"], cluster("media"), false),
            (&["team-a/*"], own("team-a", "other"), true),
            (&["team-a/*"], own("team-ab", "other"), false),
            (&["team-a/*"], cluster("other"), false),
            (&["media", "team-a/*"], own("team-a", "x"), true),
            (&[], cluster("media"), false),
        ] {
            assert_eq!(scope(words).covers(&store), covers, "{words:?} {store:?}");
        }
    }

    #[test]
    fn scope_is_within_another_scope_only_if_it_is_wider() {
        for (narrow, wide, within) in [
            (&["media"][..], &["media"][..], true),
            (&["media"], &["*"], true),
            (&["media"], &["team-a/*"], false),
            (&["*"], &["media"], false),
            (&["*"], &["*"], true),
            (&["team-a/x"], &["team-a/*"], true),
            (&["team-a/*"], &["team-a/x"], false),
            (&["media", "team-a/x"], &["media"], false),
            (&["media", "team-a/x"], &["*", "team-a/*"], true),
        ] {
            assert_eq!(scope(narrow).is_within(&scope(wide)), within, "{narrow:?} {wide:?}");
        }
    }

    #[test]
    fn malformed_store_name_is_rejected_with_its_position() {
        for word in ["", "/", "a/", "/a", "a/b/c", "A", "a b", "**", "*/*", "*/a", "a=b", "é"] {
            assert_eq!(SenderScope::read(["ok", word].into_iter()), Err(2), "{word}");
        }
    }

    #[test]
    fn named_sender_without_a_store_is_rejected() {
        let sender: NamedSender = "arn:aws:sns:eu-west-1:111122223333:uploads=team-a/media"
            .parse()
            .unwrap();
        assert_eq!(sender.name, "arn:aws:sns:eu-west-1:111122223333:uploads");
        assert!(sender.scope.covers(&own("team-a", "media")));
        for text in ["arn:aws:sns:eu-west-1:1:t", "=media", "a@b=", "a@b=A"] {
            let error = text.parse::<NamedSender>().unwrap_err();
            assert!(error.contains("SENDER=STORE"), "{error}");
        }
    }

    #[test]
    fn scope_concerns_the_shards_that_serve_its_stores() {
        let concerned = |text: &str| {
            let scope = SenderScope::read(text.split(' ')).unwrap();
            let shards = (0..4).map(|index| Shard::new(index, 4).unwrap());
            shards
                .filter(|shard| scope.concerns(*shard))
                .map(Shard::index)
                .collect::<Vec<_>>()
        };
        assert_eq!(concerned("media").len(), 1);
        assert_eq!(concerned("web/media").len(), 1);
        assert_eq!(concerned("*"), [0, 1, 2, 3]);
        assert_eq!(concerned("web/*"), [0, 1, 2, 3]);
        let all = (0..100).map(|n| format!("store-{n}")).collect::<Vec<_>>().join(" ");
        assert_eq!(concerned(&all), [0, 1, 2, 3]);
        assert!(
            SenderScope::read(["media"].into_iter())
                .unwrap()
                .concerns(Shard::default())
        );
    }
}
