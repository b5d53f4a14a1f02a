use std::collections::BTreeMap;

use http::{Request, header};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Client, Resource,
    api::{DeleteParams, GetParams, PostParams, Preconditions},
    core::{ObjectMeta, PartialObjectMeta},
};

use super::error::{Error, call};
use crate::{
    api::{GROUP, MANAGED_BY_LABEL, MANAGED_BY_VALUE, SECRET_TYPE, annotation},
    core::record::{RecordKey, Subject},
    core::{GrantFacts, Owner, PublishMode, SecretView, secret_owner},
};

/// The name under which the apiserver lists Valet's fields in `managedFields`.
pub const FIELD_MANAGER: &str = "valet";

/// With this value of the header `Accept`, the apiserver returns only the metadata of a Secret. A full answer would
/// contain the Secret's data. If a full answer were truncated, the parse error would quote this data.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Reads and creates Secrets by name. Valet uses this type for the Secrets with the credentials of stores, and for the
/// Secret with the record key.
#[derive(Clone)]
pub struct NamedSecrets {
    client: Client,
}

impl NamedSecrets {
    /// Creates a `NamedSecrets` that sends all requests with the given client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn requests(namespace: &str) -> kube::core::Request {
        kube::core::Request::new(Secret::url_path(&(), Some(namespace)))
    }

    /// Sends a request and returns the metadata of the Secret in the answer. Valet never logs the answer.
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
            why: format!(
                "the apiserver's answer cannot be parsed (at column {column})",
                column = e.column()
            ),
        })?;
        Ok(answer.metadata)
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
            why: format!(
                "the apiserver's answer cannot be parsed (at column {column})",
                column = e.column()
            ),
        })
    }

    /// Reads a whole Secret, including its data.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`call`].
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Secret, Error> {
        self.read(Self::requests(namespace).get(name, &GetParams::default()))
            .await
    }

    /// Creates a Secret in the given namespace.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Conflict`] if a Secret with this name exists. Otherwise returns the errors of [`call`].
    pub async fn create(&self, namespace: &str, secret: &Secret) -> Result<(), Error> {
        let request = Self::requests(namespace).create(&params(), body(secret));
        self.metadata("creating a Secret", request).await.map(|_| ())
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    }
}

/// Reads and writes grant Secrets. A write either creates a Secret or changes an existing Secret. A change has two
/// preconditions: the UID and the resource version of the Secret that Valet read before.
#[derive(Clone)]
pub struct Secrets {
    api: NamedSecrets,
    /// The record key, with which Valet signs and verifies its records.
    records: RecordKey,
}

/// When Valet deletes a Secret, the first attempts have the Secret's resource version as a precondition. These attempts
/// fail if another client changes the Secret repeatedly.
///
/// After this number of failed attempts, Valet checks that the Secret still belongs to the grant. Then it deletes the
/// Secret with only the UID as a precondition.
const DELETIONS_BY_VERSION: usize = 3;

impl Secrets {
    /// Creates a `Secrets` that sends all requests with the given client. It signs records with the record key
    /// `records`.
    pub fn new(client: Client, records: RecordKey) -> Self {
        let api = NamedSecrets::new(client);
        Self { api, records }
    }

    /// Reads the Secret that has the name from the grant's spec. Returns `None` if the Secret does not exist.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`call`].
    pub async fn view(&self, grant: &GrantFacts) -> Result<Option<SecretView>, Error> {
        // A grant Secret always has the type `valetkey.dev/grant`, so Valet must check the type. The metadata does not
        // contain the type, so this request reads the whole Secret.
        let request = NamedSecrets::requests(&grant.namespace).get(grant.secret_name(), &GetParams::default());
        match self.api.read(request).await {
            Ok(secret) => Ok(Some(self.seen(
                &secret.metadata,
                secret.type_.as_deref(),
                secret.data.as_ref(),
                grant,
            ))),
            Err(Error::Gone(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes a grant Secret. The method creates the Secret, or it replaces exactly the version of the Secret that
    /// Valet read before.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Conflict`] if the Secret already exists, or if it has changed since Valet read it. Otherwise
    /// returns the errors of [`call`].
    pub async fn publish(
        &self,
        grant: &GrantFacts,
        mode: &PublishMode,
        mut secret: Secret,
    ) -> Result<SecretView, Error> {
        let requests = NamedSecrets::requests(&grant.namespace);
        let params = params();
        self.authenticate(grant, &mut secret);
        let meta = match mode {
            PublishMode::Create => {
                self.api
                    .metadata("creating the grant's Secret", requests.create(&params, body(&secret)))
                    .await?
            }
            PublishMode::Replace { uid, resource_version } => {
                secret.metadata.uid = Some(uid.clone());
                secret.metadata.resource_version = Some(resource_version.clone());
                let request = requests.replace(grant.secret_name(), &params, body(&secret));
                self.api.metadata("replacing the grant's Secret", request).await?
            }
        };
        Ok(self.seen(&meta, Some(SECRET_TYPE), secret.data.as_ref(), grant))
    }

    /// Updates the labels, annotations and owner reference of a Secret. The data does not change.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Conflict`] if the Secret has changed since Valet read it. Otherwise returns the errors of
    /// [`call`].
    pub async fn update_metadata(
        &self,
        grant: &GrantFacts,
        uid: &str,
        resource_version: &str,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    ) -> Result<SecretView, Error> {
        let requests = NamedSecrets::requests(&grant.namespace);
        let mut secret = self.read_for_update(grant, uid, resource_version).await?;
        let meta = &mut secret.metadata;
        meta.labels = Some(labels);
        meta.annotations = Some(annotations);
        meta.owner_references = Some(vec![secret_owner(grant)]);
        meta.managed_fields = None;
        self.authenticate(grant, &mut secret);
        let params = params();
        let request = requests.replace(grant.secret_name(), &params, body(&secret));
        let meta = self.api.metadata("updating the grant's Secret", request).await?;
        Ok(self.seen(&meta, Some(SECRET_TYPE), secret.data.as_ref(), grant))
    }

    /// Reads the whole Secret before Valet updates the Secret. Returns an error if the Secret has changed since Valet
    /// decided to update it.
    async fn read_for_update(&self, grant: &GrantFacts, uid: &str, resource_version: &str) -> Result<Secret, Error> {
        let requests = NamedSecrets::requests(&grant.namespace);
        let secret = self
            .api
            .read(requests.get(grant.secret_name(), &GetParams::default()))
            .await?;
        let meta = &secret.metadata;
        if meta.uid.as_deref() != Some(uid) || meta.resource_version.as_deref() != Some(resource_version) {
            return Err(Error::Conflict("the grant's Secret"));
        }
        Ok(secret)
    }

    /// Removes the data of a Secret and keeps its metadata. Valet then no longer accepts the Secret as an authentic
    /// grant Secret.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Conflict`] if the Secret has changed since Valet read it. Otherwise returns the errors of
    /// [`call`].
    pub async fn empty(&self, grant: &GrantFacts, uid: &str, resource_version: &str) -> Result<SecretView, Error> {
        let requests = NamedSecrets::requests(&grant.namespace);
        let mut secret = self.read_for_update(grant, uid, resource_version).await?;
        let meta = &mut secret.metadata;
        meta.managed_fields = None;
        (secret.data, secret.string_data) = (None, None);
        let params = params();
        let request = requests.replace(grant.secret_name(), &params, body(&secret));
        let meta = self.api.metadata("emptying the grant's Secret", request).await?;
        Ok(self.seen(&meta, Some(SECRET_TYPE), None, grant))
    }

    /// Deletes the Secret that Valet read before. Returns true if the Secret still exists, because finalizers of other
    /// programs delay the deletion. It is not an error if the Secret no longer exists.
    ///
    /// A client other than Valet may keep changing the Secret. In this case Valet deletes the current version of the
    /// Secret, if the Secret still belongs to the grant.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Conflict`] if the Secret was replaced or no longer belongs to the grant. Otherwise returns
    /// the errors of [`call`].
    pub async fn delete(&self, grant: &GrantFacts, uid: &str, resource_version: &str) -> Result<bool, Error> {
        let mut version = resource_version.to_owned();
        for attempt in 1.. {
            let precondition = (attempt <= DELETIONS_BY_VERSION).then_some(version);
            match self.send_delete(grant, uid, precondition).await {
                Err(Error::Conflict(what)) if attempt <= DELETIONS_BY_VERSION => match self.view(grant).await? {
                    None => return Ok(false),
                    Some(now) if now.uid == uid && now.owner == Owner::ThisGrant && !now.deleting => {
                        version = now.resource_version;
                    }
                    Some(_) => return Err(Error::Conflict(what)),
                },
                done => return done,
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn send_delete(
        &self,
        grant: &GrantFacts,
        uid: &str,
        resource_version: Option<String>,
    ) -> Result<bool, Error> {
        const WHAT: &str = "deleting the grant's Secret";
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version,
        });
        let request = NamedSecrets::requests(&grant.namespace).delete(grant.secret_name(), &params);
        let mut request = request.map_err(|e| Error::Api {
            call: WHAT,
            why: e.to_string(),
        })?;
        request
            .headers_mut()
            .insert(header::ACCEPT, header::HeaderValue::from_static(METADATA_ONLY));
        match call(WHAT, self.api.client.request_text(request)).await {
            // If the Secret still exists, the apiserver answers with the Secret. Otherwise it answers with a Status.
            Ok(text) => Ok(serde_json::from_str::<PartialObjectMeta<Secret>>(&text)
                .is_ok_and(|answer| answer.metadata.deletion_timestamp.is_some())),
            Err(Error::Gone(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Adds Valet's signature to a Secret before the Secret is written.
    fn authenticate(&self, grant: &GrantFacts, secret: &mut Secret) {
        let annotations = secret.metadata.annotations.get_or_insert_default();
        let data = secret.data.get_or_insert_default();
        let signature = self
            .records
            .sign_secret(subject(grant), grant.secret_name(), annotations, data);
        annotations.insert(annotation::RECORD_SIGNATURE.into(), signature);
    }

    /// Converts a Secret into facts for the decision about this grant. The facts do not contain the data of the Secret.
    /// They only say whether the Secret has data, and whether somebody has changed the data since Valet wrote it.
    fn seen(
        &self,
        meta: &ObjectMeta,
        type_: Option<&str>,
        data: Option<&BTreeMap<String, ByteString>>,
        grant: &GrantFacts,
    ) -> SecretView {
        let none = BTreeMap::new();
        let annotations = meta.annotations.clone().unwrap_or_default();
        let is_authentic =
            self.records
                .is_own_secret(subject(grant), grant.secret_name(), &annotations, data.unwrap_or(&none));
        let mut view = SecretView {
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            has_data: data.is_some_and(|data| !data.is_empty()),
            has_sole_owner: has_sole_owner(meta, grant),
            ..SecretView::new(
                meta.uid.clone().unwrap_or_default(),
                meta.resource_version.clone().unwrap_or_default(),
                owner(meta, type_, grant),
                meta.labels.clone().unwrap_or_default(),
                annotations,
            )
        };
        view.read_evidence(is_authentic);
        view
    }
}

fn subject(grant: &GrantFacts) -> Subject<'_> {
    Subject {
        uid: &grant.uid,
        operation: grant.operation_spec.operation(),
    }
}

/// Returns true if the grant is the only owner of the Secret. If the Secret has a second owner, the garbage collector
/// does not delete the Secret together with the grant.
fn has_sole_owner(meta: &ObjectMeta, grant: &GrantFacts) -> bool {
    let wanted = secret_owner(grant);
    let is_wanted = |owner: &OwnerReference| {
        OwnerReference {
            block_owner_deletion: None,
            ..owner.clone()
        } == wanted
    };
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    matches!(owners, [only] if is_wanted(only))
}

fn body(secret: &Secret) -> Vec<u8> {
    serde_json::to_vec(secret).unwrap_or_else(|_| unreachable!("a Secret can always be serialized to JSON"))
}

/// Returns the owner of the Secret. The Secret belongs to the grant only if its type, its label, its controller
/// reference and the UID in this reference all match. One matching value alone proves nothing, because any client can
/// set such a value.
fn owner(meta: &ObjectMeta, type_: Option<&str>, grant: &GrantFacts) -> Owner {
    if type_ != Some(SECRET_TYPE) {
        return Owner::Foreign("the type of the Secret is not valetkey.dev/grant");
    }
    let labelled = meta
        .labels
        .as_ref()
        .and_then(|l| l.get(MANAGED_BY_LABEL))
        .is_some_and(|v| v == MANAGED_BY_VALUE);
    if !labelled {
        return Owner::Foreign("the Secret does not have the label app.kubernetes.io/managed-by=valet");
    }
    let controller = meta
        .owner_references
        .iter()
        .flatten()
        .find(|o| o.controller == Some(true));
    match controller {
        Some(o) if o.uid == grant.uid => Owner::ThisGrant,
        Some(o)
            if o.kind == grant.operation_spec.operation().kind()
                && o.name == grant.name
                && o.api_version.split('/').next() == Some(GROUP) =>
        {
            Owner::Predecessor
        }
        Some(_) => Owner::Foreign("another object owns the Secret"),
        None => Owner::Foreign("no grant owns the Secret"),
    }
}
