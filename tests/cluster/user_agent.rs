//! Tests of the user agent that the operator sends to the apiserver and to the store.

use serde_json::json;
use valet_harness::{
    control_plane::OPERATOR,
    eventually,
    fake::{Fake, Reply},
};

use crate::world::{SOON, Tenant};

#[test]
fn every_request_names_valet_and_its_version() {
    let t = Tenant::new("agent");
    let server = Fake::start(|_| Reply::Text(503, String::new()));
    let mark = t.mark();
    let _operator = t.operator();
    let mut store = t.store();
    store["metadata"]["name"] = json!(format!("{}-fake", t.name()));
    store["spec"]["s3"]["endpoint"] = json!(server.endpoint());
    t.apply(&[store, t.grant("UploadGrant", "g", json!({}))]);
    t.reason("ug/g", "Issued");
    let own = concat!("valet/", env!("CARGO_PKG_VERSION"), " (");
    let of_tenant = || {
        let events = t.world.plane.audit_since(mark).expect("there is a log");
        events
            .into_iter()
            .filter(|e| e.user() == OPERATOR && e.namespace() == t.name())
            .collect::<Vec<_>>()
    };
    let asked = eventually(SOON, "the operator's requests to be recorded", || {
        Some(of_tenant()).filter(|events| events.iter().any(|e| e.verb() == "create"))
    });
    for event in &asked {
        assert!(event.user_agent().starts_with(own), "{event}: '{}'", event.user_agent());
    }
    // Requests through the AWS SDK have the SDK's user agent with Valet's name in it. Presigned requests have Valet's
    // user agent.
    let asked = eventually(SOON, "a request to a store", || {
        Some(server.asked()).filter(|a| !a.is_empty())
    });
    for request in &asked {
        let agent = request.header("user-agent").unwrap_or_default();
        let name = concat!("app/valet-", env!("CARGO_PKG_VERSION"));
        assert!(
            agent.contains(name) || agent.starts_with(own),
            "{} {}: '{agent}'",
            request.method,
            request.target
        );
    }
}
