//! Tests of what users may do through the Kubernetes roles that the chart's roles are aggregated into.

use std::process::Command;

use serde_json::{Value, json};
use valet_harness::{eventually, process};

use crate::{
    account::Account,
    world::{SOON, Tenant},
};

/// Whether a service account with this role in the namespace may do this.
fn may(t: &Tenant, role: &str, verb: &str, resource: &str) -> bool {
    let who = format!("system:serviceaccount:{}:{role}", t.name());
    let mut command: Command = t.world.plane.kubectl_command(t.world.plane.kubeconfig());
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    command.args(["auth", "can-i", verb, resource, "--subresource", subresource]);
    command.args(["--as", &who, "--namespace", t.name()]);
    let output = process::run(command, b"", SOON).expect("kubectl runs");
    output.text().trim() == "yes"
}

#[test]
fn tenants_may_use_grants_with_the_standard_roles() {
    let t = Tenant::new("people");
    let account = Account::new(&t, &["rbac.aggregateObjectStores=admin"]);
    // The apiserver has created its default roles by now. The controller aggregates the chart's roles into them.
    for role in ["view", "edit", "admin"] {
        let subject = format!("--serviceaccount={}:{role}", t.name());
        t.kubectl(&[
            "create",
            "rolebinding",
            role,
            &format!("--clusterrole={role}"),
            &subject,
        ]);
        eventually(SOON, "the roles to be aggregated", || {
            let found: Value = t.get(&format!("clusterrole/{role}"))?;
            found["rules"].to_string().contains("valetkey.dev").then_some(())
        });
    }
    let grants = "uploadgrants.valetkey.dev";
    eventually(SOON, "the role edit to have the permissions for grants", || {
        may(&t, "edit", "create", grants).then_some(())
    });
    eventually(SOON, "the role admin to have the permissions for stores", || {
        may(&t, "admin", "create", "objectstores.valetkey.dev").then_some(())
    });
    for (role, verb, resource, expected) in [
        ("view", "list", grants, true),
        ("view", "watch", "downloadgrants.valetkey.dev", true),
        ("view", "get", "objectstores.valetkey.dev", true),
        ("view", "create", grants, false),
        ("view", "get", "secrets", false),
        ("edit", "deletecollection", "downloadgrants.valetkey.dev", true),
        ("edit", "create", "objectstores.valetkey.dev", false),
        ("edit", "patch", "uploadgrants.valetkey.dev/status", false),
        ("admin", "create", grants, true),
        ("admin", "patch", "uploadgrants.valetkey.dev/status", false),
        ("admin", "get", "clusterobjectstores.valetkey.dev", false),
    ] {
        assert_eq!(may(&t, role, verb, resource), expected, "{role} {verb} {resource}");
    }
    // The platform team receives its role through a binding of its own.
    let name = format!("{}-clusterobjectstores-edit", account.name());
    let role = t.get(&format!("clusterrole/{name}")).expect("it is there");
    assert_eq!(role["rules"][0]["resources"], json!(["clusterobjectstores"]));
}
