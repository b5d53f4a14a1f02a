//! Creates values of `Access` for the tests of providers. A provider signs only with such a value, which proves that
//! the access rules allow the request. The rules of the store here allow everything.

use std::sync::Arc;

use serde_json::json;
use valet::{
    api::{OperationSpec, UploadGrant},
    core::{Access, AllowedRequest, GrantFacts, RulesView, SigningRequest, still_allowed},
};

/// Access to this object key for this operation.
pub fn access_for(key: &str, operation_spec: OperationSpec, holder: &str) -> Access {
    let grant: UploadGrant = serde_json::from_value(json!({
        "apiVersion": "valetkey.dev/v1alpha1",
        "kind": "UploadGrant",
        "metadata": {"namespace": "web", "name": "a"},
        "spec": {"storeRef": {"name": "media"}, "key": key},
    }))
    .expect("a grant");
    let mut grant = GrantFacts::of(&grant);
    grant.operation_spec = operation_spec;
    // The provider must refuse some requests that the schema already refuses.
    grant.broken_rules.clear();
    if let Some((namespace, name)) = holder.split_once('.') {
        (grant.namespace, grant.name) = (namespace.into(), name.into());
    }
    let rule = json!({
        "namespaces": {"selector": {}},
        "operations": ["Upload", "Download"],
        "credentials": "Allow",
    });
    let rules = RulesView {
        rules: Arc::new(vec![serde_json::from_value(rule).expect("a rule")]),
        namespace_labels: Arc::default(),
    };
    still_allowed(&grant, &rules).expect("it allows everything")
}

/// Upload access to this object key.
pub fn access(key: &str) -> Access {
    let operation_spec = OperationSpec::Upload {
        mode: Default::default(),
        multipart: Default::default(),
        constraints: Default::default(),
    };
    access_for(key, operation_spec, "web.a")
}

/// The request, as if it came from a grant that the access rules allow.
pub fn allowed(request: SigningRequest) -> AllowedRequest {
    let SigningRequest {
        key,
        operation_spec,
        lifetime,
        holder,
        upload,
    } = request;
    access_for(key.as_str(), operation_spec, &holder).to_sign(lifetime, upload)
}
