//! The form in which the watch cache keeps a grant.

use std::{borrow::Cow, marker::PhantomData, sync::Arc};

use kube::{Resource, core::ObjectMeta};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::strip_metadata::{strip, strip_grant};
use crate::{
    api::{Grant, StoreKind, StoreRef, UploadMode, printable},
    core::{PackedText, StoreId, store_id},
};

/// A grant in the watch cache. It contains the metadata as a struct, and the spec and the status as compressed JSON
/// text. As structs, the spec and the status would need about eight times the memory, because most of their fields are
/// empty or are short strings with an allocation of their own.
///
/// If Valet cannot parse a grant, this type contains the parse error instead. The watch still delivers all other
/// grants.
#[derive(Debug)]
pub struct CachedGrant<G> {
    meta: ObjectMeta,
    content: Result<Content, Arc<str>>,
    grant: PhantomData<fn() -> G>,
}

/// The spec and the status of a cached grant.
#[derive(Clone, Debug)]
struct Content {
    /// The kind of the grant's store. The limit of concurrent reconciles depends on it. A grant that waits needs no
    /// parsing.
    store_kind: StoreKind,
    text: PackedText,
}

impl<G> Clone for CachedGrant<G> {
    fn clone(&self) -> Self {
        Self {
            meta: self.meta.clone(),
            content: self.content.clone(),
            grant: PhantomData,
        }
    }
}

/// A grant as the watch delivers it. The spec and the status are not parsed yet, because the grant can belong to a
/// different shard.
#[derive(Debug)]
pub struct WatchedGrant<G> {
    meta: ObjectMeta,
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
    grant: PhantomData<fn() -> G>,
}

impl<G> Clone for WatchedGrant<G> {
    fn clone(&self) -> Self {
        Self {
            meta: self.meta.clone(),
            spec: self.spec.clone(),
            status: self.status.clone(),
            grant: PhantomData,
        }
    }
}

impl<G: Grant> WatchedGrant<G> {
    /// Returns the store of the grant. The function parses only this part of the grant. Returns `None` if the store
    /// cannot be parsed.
    pub fn store(&self) -> Option<StoreId> {
        let spec: OnlyStore = serde_json::from_str(self.spec.as_ref()?.get()).ok()?;
        Some(store_id(&spec.store_ref, self.meta.namespace.as_deref()?))
    }

    /// Returns the object key if the grant is for a multipart upload and is not finished.
    pub fn multipart_key(&self) -> Option<String> {
        let spec = self.spec.as_ref()?.get();
        // This search is faster than parsing, and most grants are not for multipart uploads.
        if !spec.contains(UploadMode::Multipart.as_str()) {
            return None;
        }
        let spec: OnlyKey = serde_json::from_str(spec).ok()?;
        let status = self.status.as_ref();
        let status = status.and_then(|status| serde_json::from_str::<OnlyFinished>(status.get()).ok());
        let is_finished = status.is_some_and(|status| status.finished_time.is_some());
        (spec.mode == UploadMode::Multipart && !is_finished).then_some(spec.key)
    }

    /// Returns the form in which the watch cache keeps the grant.
    pub fn into_cached(self) -> CachedGrant<G> {
        let content = content::<G>(self.spec, self.status);
        CachedGrant {
            meta: self.meta,
            content: content.map_err(|error| printable(&without_position(&error)).into()),
            grant: PhantomData,
        }
    }
}

/// The part of a spec that names the store.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnlyStore {
    store_ref: StoreRef,
}

/// The parts of a spec that name the object and the mode of the upload.
#[derive(Deserialize)]
struct OnlyKey {
    key: String,
    mode: UploadMode,
}

/// The part of a status that tells whether the grant is finished.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnlyFinished {
    finished_time: Option<IgnoredAny>,
}

/// The parts of a grant in an answer of the apiserver.
#[derive(Deserialize)]
struct Sent {
    metadata: ObjectMeta,
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
}

/// The JSON text in a [`CachedGrant`]. The metadata is empty, because [`CachedGrant`] contains it as a struct.
#[derive(Serialize)]
struct ContentText<Spec, Status> {
    metadata: NoMetadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<Spec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
}

#[derive(Serialize)]
struct NoMetadata {}

fn text<Spec: Serialize, Status: Serialize>(
    spec: Option<Spec>,
    status: Option<Status>,
) -> Result<String, serde_json::Error> {
    serde_json::to_string(&ContentText {
        metadata: NoMetadata {},
        spec,
        status,
    })
}

impl<G: Grant> CachedGrant<G> {
    /// Returns the kind of the grant's store.
    ///
    /// # Errors
    ///
    /// As [`Self::grant`].
    pub fn store_kind(&self) -> Result<StoreKind, &str> {
        let content = self.content.as_ref().map_err(|error| error.as_ref())?;
        Ok(content.store_kind)
    }

    /// Parses the spec and the status.
    ///
    /// # Errors
    ///
    /// Returns the parse error. Its text is printable.
    pub fn grant(&self) -> Result<G, &str> {
        let content = self.content.as_ref().map_err(|error| error.as_ref())?;
        // Valet wrote this text itself from a parsed grant.
        let mut grant: G = serde_json::from_str(&content.text.text())
            .map_err(|_| "the cached version of the grant cannot be parsed")?;
        *grant.meta_mut() = self.meta.clone();
        Ok(grant)
    }

    /// Returns false if the spec and the status do not contain this text. In this case no parsing is needed.
    pub fn may_contain(&self, text: &str) -> bool {
        let quoted = serde_json::to_string(text).unwrap_or_default();
        self.content
            .as_ref()
            .is_ok_and(|content| content.text.text().contains(&quoted))
    }
}

/// Returns the content of a grant without the data that Valet does not need.
fn content<G: Grant>(
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
) -> Result<Content, serde_json::Error> {
    let mut grant: G = serde_json::from_str(&text(spec, status)?)?;
    strip_grant(&mut grant);
    Ok(Content {
        store_kind: grant.terms().store_ref.kind,
        text: PackedText::new(&text(Some(grant.spec()), grant.grant_status())?),
    })
}

/// Returns the text of a parse error without the position, because the position belongs to a text that no user sees.
fn without_position(error: &serde_json::Error) -> String {
    let error = error.to_string();
    error
        .rsplit_once(" at line ")
        .map_or(error.as_str(), |(cause, _)| cause)
        .to_owned()
}

impl<'de, G: Grant> Deserialize<'de> for WatchedGrant<G> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Sent {
            mut metadata,
            spec,
            status,
        } = Sent::deserialize(deserializer)?;
        strip(&mut metadata);
        Ok(Self {
            meta: metadata,
            spec,
            status,
            grant: PhantomData,
        })
    }
}

/// [`kube::runtime::Controller`] needs this implementation, but reads no grants itself.
impl<'de, G: Grant> Deserialize<'de> for CachedGrant<G> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        WatchedGrant::deserialize(deserializer).map(WatchedGrant::into_cached)
    }
}

/// Implements [`Resource`] for a form of a grant, as for the grant itself.
macro_rules! resource {
    ($form:ident) => {
        impl<G: Grant> Resource for $form<G> {
            type DynamicType = ();
            type Scope = G::Scope;

            fn kind((): &()) -> Cow<'_, str> {
                G::kind(&())
            }

            fn group((): &()) -> Cow<'_, str> {
                G::group(&())
            }

            fn version((): &()) -> Cow<'_, str> {
                G::version(&())
            }

            fn plural((): &()) -> Cow<'_, str> {
                G::plural(&())
            }

            fn meta(&self) -> &ObjectMeta {
                &self.meta
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.meta
            }
        }
    };
}

resource!(WatchedGrant);
resource!(CachedGrant);

#[cfg(test)]
mod tests {
    use kube::{ResourceExt, core::WatchEvent};
    use serde_json::{Value, json};

    use super::*;
    use crate::api::UploadGrant;

    fn grant(spec: Value) -> Value {
        json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "UploadGrant",
            "metadata": {"name": "g", "namespace": "web", "uid": "u", "resourceVersion": "7", "generation": 2},
            "spec": spec,
        })
    }

    /// Returns the cached grant of a watch event with this object. The event is a line of text, as in a real watch.
    fn watched(object: &Value) -> CachedGrant<UploadGrant> {
        let line = format!(r#"{{"type":"MODIFIED","object":{object}}}"#);
        match serde_json::from_str(&line).unwrap() {
            WatchEvent::Modified(cached) => cached,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn store_is_known_without_parsing_the_grant() {
        let store = |spec| {
            let watched: WatchedGrant<UploadGrant> = serde_json::from_value(grant(spec)).unwrap();
            watched.store()
        };
        let own = (StoreKind::ObjectStore, "web".to_owned(), "media".to_owned());
        let shared = (StoreKind::ClusterObjectStore, String::new(), "media".to_owned());
        let shared_ref = json!({"kind": "ClusterObjectStore", "name": "media"});
        assert_eq!(store(json!({"storeRef": {"name": "media"}, "key": 1})), Some(own));
        assert_eq!(store(json!({"key": {"a": []}, "storeRef": shared_ref})), Some(shared));
        assert_eq!(store(json!({"storeRef": {"kind": "Bucket", "name": "media"}})), None);
        assert_eq!(store(json!("text")), None);
    }

    #[test]
    fn object_key_of_an_unfinished_multipart_upload_is_known_without_parsing_the_grant() {
        let key = |spec, status| {
            let mut object = grant(spec);
            object["status"] = status;
            let watched: WatchedGrant<UploadGrant> = serde_json::from_value(object).unwrap();
            watched.multipart_key()
        };
        let multipart = json!({"storeRef": {"name": "media"}, "key": "a/b", "mode": "Multipart", "multipart": {}});
        let open = json!({"observedGeneration": 1});
        let finished = json!({"finishedTime": "2026-01-01T00:00:00Z"});
        assert_eq!(key(multipart.clone(), json!(null)).as_deref(), Some("a/b"));
        assert_eq!(key(multipart.clone(), open.clone()).as_deref(), Some("a/b"));
        assert_eq!(key(multipart, finished), None);
        let put = json!({"storeRef": {"name": "Multipart"}, "key": "Multipart", "mode": "Put"});
        assert_eq!(key(put, open), None);
    }

    #[test]
    fn cached_grant_contains_the_whole_spec_and_status() {
        let mut object = grant(json!({
            "storeRef": {"kind": "ObjectStore", "name": "media"}, "key": "a/\"b\" <c>&é", "expirationSeconds": 600,
            "constraints": {"contentLengthRange": {"min": 1, "max": 9}}, "mode": "Put", "overwrite": "Forbid",
            "secretTemplate": {"labels": {"a": "b"}}, "revoke": true, "suspend": false, "ttlSecondsAfterFinished": 60,
        }));
        object["status"] = json!({
            "observedGeneration": 2, "issuedTime": "2026-01-01T00:00:00Z", "renewals": 3,
            "binding": {"name": "g", "expirationTime": "2026-01-01T01:00:00Z"}, "object": {"size": 3, "eTag": "x"},
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Issued", "message": "m", "observedGeneration": 2,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        });
        let expected: UploadGrant = serde_json::from_value(object.clone()).unwrap();
        let cached = watched(&object);
        assert_eq!(json!(cached.grant().unwrap()), json!(expected));
        assert_eq!(json!(cached.clone().grant().unwrap()), json!(expected));
        assert!(cached.may_contain("a/\"b\" <c>&é") && cached.may_contain("media"));
        assert!(!cached.may_contain("medi"), "only a whole string counts");
    }

    /// The operator keeps one of these for each grant, so each byte counts.
    #[test]
    fn cached_grant_is_small() {
        let bytes = size_of::<CachedGrant<UploadGrant>>();
        assert!(bytes <= 400, "{bytes} bytes");
        let object = grant(json!({"storeRef": {"name": "media"}, "key": "k"}));
        let content = watched(&object).content.unwrap().text;
        assert_eq!(
            content.text(),
            r#"{"metadata":{},"spec":{"storeRef":{"kind":"ObjectStore","name":"media"},"key":"k","expirationSeconds":3600,"mode":"Put"}}"#,
            "fields without a value must not be in the text"
        );
    }

    #[test]
    fn spec_and_status_of_a_typical_grant_need_less_than_300_bytes() {
        let mut object = grant(json!({
            "storeRef": {"kind": "ClusterObjectStore", "name": "media"}, "key": "tenants/web/reports/2026-11.csv",
            "expirationSeconds": 7200,
        }));
        let condition = |kind: &str, message: &str| {
            json!({
                "type": kind, "status": "True", "reason": "Issued", "message": message, "observedGeneration": 1,
                "lastTransitionTime": "2026-11-30T18:46:43Z",
            })
        };
        object["status"] = json!({
            "observedGeneration": 1, "expirationSeconds": 7200, "issuedTime": "2026-11-30T18:46:43Z",
            "expirationTime": "2026-11-30T20:46:43Z",
            "binding": {"name": "reports", "expirationTime": "2026-11-30T20:46:43Z"},
            "recordSignature": "+W8t8aytubXEOV7/djTUWpz71BXJLv5ITP+uLG5ImpQ=",
            "conditions": [
                condition("Ready", "the download credential is in Secret reports until 2026-11-30T20:46:43Z"),
                condition("Active", "the credential can be used"),
            ],
        });
        let content = watched(&object).content.unwrap().text;
        let bytes = content.packed_length();
        assert!(bytes < 300, "{bytes} of {} bytes", content.text().len());
    }

    #[test]
    fn grant_without_status_is_cached_without_status() {
        let object = grant(json!({"storeRef": {"name": "media"}, "key": "k"}));
        assert!(watched(&object).grant().unwrap().status.is_none());
    }

    #[test]
    fn invalid_grant_is_cached_with_its_metadata_and_a_short_error() {
        let object = grant(json!({"storeRef": {"name": "media"}, "key": 1}));
        let cached = watched(&object);
        let error = cached.grant().unwrap_err();
        assert_eq!(error, "invalid type: integer `1`, expected a string");
        assert_eq!((cached.name_any().as_str(), cached.meta().generation), ("g", Some(2)));
        assert!(!cached.may_contain("media"));

        let cached = watched(&grant("é".repeat(200_000).into()));
        assert!(cached.grant().unwrap_err().len() <= 1024);
    }

    #[test]
    fn unneeded_metadata_is_not_cached() {
        let mut object = grant(json!({"storeRef": {"name": "media"}, "key": "k"}));
        object["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
        object["metadata"]["annotations"] = json!({"mine": "x", "valetkey.dev/renew-requested-at": "now"});
        let cached = watched(&object);
        assert_eq!(cached.meta().managed_fields, None);
        let annotations: Vec<_> = cached.annotations().keys().collect();
        assert_eq!(annotations, ["valetkey.dev/renew-requested-at"]);
        assert_eq!(cached.grant().unwrap().annotations().len(), 1);
    }
}
