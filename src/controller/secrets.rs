use http::{Request, header};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Client, Resource,
    api::{DeleteParams, GetParams, PostParams, Preconditions},
    core::{ObjectMeta, PartialObjectMeta},
};

use super::error::{Error, call};
use crate::{
    api::{GROUP, MANAGED_BY_LABEL, MANAGED_BY_VALUE, SECRET_TYPE, annotation},
    grant::{GrantFacts, Owner, PublishMode, SecretView},
};

/// Who wrote, in `managedFields`.
pub const FIELD_MANAGER: &str = "valet";

/// Replies with the metadata alone: the apiserver would send the data back, and a reply that is cut short would be
/// quoted in an error.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// The one way to Secrets. Every write is a create, or carries the identity and the version of what was judged.
#[derive(Clone)]
pub struct Secrets {
    client: Client,
}

impl Secrets {
    /// Works with this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn requests(namespace: &str) -> kube::core::Request {
        kube::core::Request::new(Secret::url_path(&(), Some(namespace)))
    }

    /// Sends a request and takes the metadata of the answer. The text never reaches a log.
    async fn metadata(
        &self,
        what: &'static str,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<ObjectMeta, Error> {
        let mut request = request.map_err(|e| Error::Api {
            call: what,
            why: e.to_string(),
        })?;
        request
            .headers_mut()
            .insert(header::ACCEPT, header::HeaderValue::from_static(METADATA_ONLY));
        let text = call(what, self.client.request_text(request)).await?;
        let answer: PartialObjectMeta<Secret> = serde_json::from_str(&text).map_err(|e| Error::Api {
            call: what,
            why: format!("the answer is not what it should be (column {})", e.column()),
        })?;
        Ok(answer.metadata)
    }

    /// What is there by the wanted name; `None` if nothing.
    ///
    /// # Errors
    /// As [`call`].
    pub async fn view(&self, grant: &GrantFacts) -> Result<Option<SecretView>, Error> {
        // The type is not metadata, and a Secret of another type is not ours; so this one reads it all.
        let request = Self::requests(&grant.namespace).get(grant.secret_name(), &GetParams::default());
        match self.read(request).await {
            Ok(secret) => Ok(Some(view(&secret.metadata, secret.type_.as_deref(), grant))),
            Err(Error::Gone(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn read(&self, request: Result<Request<Vec<u8>>, kube::core::request::Error>) -> Result<Secret, Error> {
        const WHAT: &str = "reading a Secret";
        let request = request.map_err(|e| Error::Api {
            call: WHAT,
            why: e.to_string(),
        })?;
        let text = call(WHAT, self.client.request_text(request)).await?;
        serde_json::from_str(&text).map_err(|e| Error::Api {
            call: WHAT,
            why: format!("the answer is not what it should be (column {})", e.column()),
        })
    }

    /// A credentials Secret, whole.
    ///
    /// # Errors
    /// As [`call`].
    pub async fn credentials(&self, namespace: &str, name: &str) -> Result<Secret, Error> {
        self.read(Self::requests(namespace).get(name, &GetParams::default()))
            .await
    }

    /// Writes a grant's Secret: creates it, or replaces exactly the one that was judged.
    ///
    /// # Errors
    /// [`Error::Conflict`] if there is another by that name; otherwise as [`call`].
    pub async fn publish(
        &self,
        grant: &GrantFacts,
        mode: &PublishMode,
        mut secret: Secret,
    ) -> Result<SecretView, Error> {
        let requests = Self::requests(&grant.namespace);
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PostParams::default()
        };
        let meta = match mode {
            PublishMode::Create => {
                self.metadata("creating the grant's Secret", requests.create(&params, body(&secret)))
                    .await?
            }
            PublishMode::Replace { uid, resource_version } => {
                secret.metadata.uid = Some(uid.clone());
                secret.metadata.resource_version = Some(resource_version.clone());
                let request = requests.replace(grant.secret_name(), &params, body(&secret));
                self.metadata("replacing the grant's Secret", request).await?
            }
        };
        Ok(view(&meta, Some(SECRET_TYPE), grant))
    }

    /// Brings labels and annotations up to date and leaves the data as it is.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the Secret is not the one that was judged; otherwise as [`call`].
    pub async fn retouch(
        &self,
        grant: &GrantFacts,
        uid: &str,
        resource_version: &str,
        labels: std::collections::BTreeMap<String, String>,
        annotations: std::collections::BTreeMap<String, String>,
    ) -> Result<SecretView, Error> {
        let requests = Self::requests(&grant.namespace);
        let mut secret = self
            .read(requests.get(grant.secret_name(), &GetParams::default()))
            .await?;
        let meta = &mut secret.metadata;
        if meta.uid.as_deref() != Some(uid) || meta.resource_version.as_deref() != Some(resource_version) {
            return Err(Error::Conflict("the grant's Secret"));
        }
        meta.labels = Some(labels);
        meta.annotations = Some(annotations);
        meta.managed_fields = None;
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PostParams::default()
        };
        let request = requests.replace(grant.secret_name(), &params, body(&secret));
        let meta = self.metadata("updating the grant's Secret", request).await?;
        Ok(view(&meta, Some(SECRET_TYPE), grant))
    }

    /// Deletes exactly the Secret that was judged. That it is gone already is as good.
    ///
    /// # Errors
    /// [`Error::Conflict`] if there is another by that name; otherwise as [`call`].
    pub async fn withdraw(&self, grant: &GrantFacts, uid: &str, resource_version: &str) -> Result<(), Error> {
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: Some(resource_version.to_owned()),
        });
        const WHAT: &str = "deleting the grant's Secret";
        let request = Self::requests(&grant.namespace).delete(grant.secret_name(), &params);
        let mut request = request.map_err(|e| Error::Api {
            call: WHAT,
            why: e.to_string(),
        })?;
        request
            .headers_mut()
            .insert(header::ACCEPT, header::HeaderValue::from_static(METADATA_ONLY));
        match call(WHAT, self.client.request_text(request)).await {
            Ok(_) | Err(Error::Gone(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

fn body(secret: &Secret) -> Vec<u8> {
    serde_json::to_vec(secret).unwrap_or_else(|_| unreachable!("a Secret is maps of strings, which JSON can say"))
}

/// Reads a Secret's metadata as facts about this grant.
fn view(meta: &ObjectMeta, type_: Option<&str>, grant: &GrantFacts) -> SecretView {
    let annotations = meta.annotations.clone().unwrap_or_default();
    let time = |key: &str| annotations.get(key).and_then(|t| t.parse::<Timestamp>().ok());
    let number = |key: &str| annotations.get(key).and_then(|n| n.parse::<i64>().ok());
    SecretView {
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
        owner: owner(meta, type_, grant),
        deleting: meta.deletion_timestamp.is_some(),
        issued_at: time(annotation::ISSUED_AT),
        expires_at: time(annotation::EXPIRES_AT),
        generation: number(annotation::GRANT_GENERATION),
        expiration_seconds: number(annotation::EXPIRATION_SECONDS),
        signed_with: annotations.get(annotation::SIGNED_WITH).cloned(),
        renewals: number(annotation::RENEWALS),
        earlier_expires_at: time(annotation::EARLIER_EXPIRES_AT),
        labels: meta.labels.clone().unwrap_or_default(),
        annotations,
    }
}

/// Whose Secret it is. Only type, label, controller reference and UID together make it this grant's: anybody can
/// write one of them.
fn owner(meta: &ObjectMeta, type_: Option<&str>, grant: &GrantFacts) -> Owner {
    if type_ != Some(SECRET_TYPE) {
        return Owner::Foreign("its type is not valetkey.dev/grant");
    }
    let labelled = meta
        .labels
        .as_ref()
        .and_then(|l| l.get(MANAGED_BY_LABEL))
        .is_some_and(|v| v == MANAGED_BY_VALUE);
    if !labelled {
        return Owner::Foreign("it has not the label app.kubernetes.io/managed-by=valet");
    }
    let controller = meta
        .owner_references
        .iter()
        .flatten()
        .find(|o| o.controller == Some(true));
    match controller {
        Some(o) if o.uid == grant.uid => Owner::ThisGrant,
        Some(o)
            if o.kind == grant.ask.operation().kind()
                && o.name == grant.name
                && o.api_version.split('/').next() == Some(GROUP) =>
        {
            Owner::Predecessor
        }
        Some(_) => Owner::Foreign("another object owns it"),
        None => Owner::Foreign("no grant owns it"),
    }
}
