//! Tests that only the operator can create grant Secrets or change the data that it wrote about them.

use serde_json::{Value, json};
use valet_harness::eventually;

use crate::{
    account::{Account, no_operator_for_all_namespaces},
    confined::{As, secret},
    world::{SOON, Tenant, merge},
};

const MAKES: &str = "Only Valet may create Secrets of type valetkey.dev/grant";
const ANNOTATES: &str = "Only Valet may change the annotations of a grant Secret";
const LABELS: &str = "Only Valet may change the label app.kubernetes.io/managed-by";
const OWNS: &str = "Only Valet and the garbage collector may change the owners";

/// A user with the Kubernetes role `edit`, or another role, in the namespace.
fn person<'a>(t: &'a Tenant, name: &str, role: &str) -> As<'a> {
    t.kubectl(&["create", "serviceaccount", name]);
    let subject = format!("--serviceaccount={}:{name}", t.name());
    t.kubectl(&[
        "create",
        "rolebinding",
        name,
        &format!("--clusterrole={role}"),
        &subject,
    ]);
    let plane = &t.world.plane;
    let token = plane
        .service_account_token(t.name(), name)
        .expect("the account has a token");
    As {
        tenant: t,
        kubeconfig: plane.kubeconfig_for_token(&token).expect("the file can be written"),
    }
}

#[track_caller]
fn refused(result: Result<String, String>, message: &str) {
    let said = result.expect_err("it must be refused");
    assert!(
        said.contains("-grant-secrets' with binding") && said.contains(message),
        "{message}: {said}"
    );
}

/// Waits until the apiserver enforces the policy in this namespace.
fn wait_until_guarded(person: &As<'_>) {
    let probe =
        json!({"apiVersion": "v1", "kind": "Secret", "type": "valetkey.dev/grant", "metadata": {"name": "probe"}});
    eventually(SOON, "the admission policy to take effect", || {
        let args = ["create", "--dry-run=server", "--filename", "-"];
        person
            .kubectl(&probe.to_string(), &args)
            .err()
            .filter(|said| said.contains(MAKES))
    });
}

#[test]
fn user_without_exemption_cannot_forge_a_grant_secret() {
    let _quiet = no_operator_for_all_namespaces();
    let (home, t) = (Tenant::new("operator"), Tenant::new("forged"));
    let account = Account::guarding(&home, &[&t], &[]);
    let mallory = person(&t, "mallory", "edit");
    // A cluster administrator is not the operator either. A deployment tool that applies tenants' manifests often has
    // these rights.
    let deployer = person(&t, "deployer", "cluster-admin");
    t.apply(&[
        t.grant("UploadGrant", "one", json!({})),
        t.grant("UploadGrant", "two", json!({})),
    ]);
    let grant = |name: &str| t.get(&format!("ug/{name}")).expect("it is there");
    for who in [&mallory, &deployer] {
        wait_until_guarded(who);
    }
    let operator = As {
        tenant: &t,
        kubeconfig: account.kubeconfig(),
    };
    let mut real = secret(&grant("one"), "one");
    real["metadata"]["annotations"] = json!({"valetkey.dev/expires-at": "2027-01-15T08:00:00Z", "note": "x"});

    // A user may not create a grant Secret, with or without an owner, under any name.
    for who in [&mallory, &deployer] {
        refused(who.create(&real), MAKES);
        refused(
            who.create(&json!({"apiVersion": "v1", "kind": "Secret", "type": "valetkey.dev/grant", "metadata": {"name": "bare"}})),
            MAKES,
        );
        refused(
            who.kubectl(&real.to_string(), &["apply", "--server-side", "--filename", "-"]),
            MAKES,
        );
    }
    operator
        .create(&real)
        .expect("the operator can create the grant Secret");

    // A user may not change what the operator wrote about a grant Secret.
    let two = secret(&grant("two"), "")["metadata"]["ownerReferences"].clone();
    for who in [&mallory, &deployer] {
        for (meta, message) in [
            (
                json!({"annotations": {"valetkey.dev/expires-at": "2099-01-15T08:00:00Z"}}),
                ANNOTATES,
            ),
            (json!({"annotations": {"valetkey.dev/expires-at": null}}), ANNOTATES),
            (
                json!({"annotations": {"valetkey.dev/expiration-seconds": "1"}}),
                ANNOTATES,
            ),
            (json!({"annotations": null}), ANNOTATES),
            (json!({"labels": {"app.kubernetes.io/managed-by": "me"}}), LABELS),
            (json!({"labels": {"app.kubernetes.io/managed-by": null}}), LABELS),
            (json!({"labels": {"valetkey.dev/x": "y"}}), LABELS),
            (json!({"ownerReferences": two}), OWNS),
            (json!({"ownerReferences": null}), OWNS),
        ] {
            refused(who.patch("one", &json!({"metadata": meta})), message);
        }
    }

    // A user may change labels and annotations, copy the data into another type, write other Secrets, and delete the
    // Secret.
    mallory
        .kubectl("", &["label", "secret", "one", "team=web"])
        .expect("a label can be set");
    mallory
        .kubectl(
            "",
            &["annotate", "--overwrite", "secret", "one", "note=y", "example.com/x=y"],
        )
        .expect("an annotation can be set");
    let mut copy = real.clone();
    merge(
        &mut copy,
        json!({"type": "Opaque", "metadata": {"name": "copy", "ownerReferences": null}}),
    );
    mallory.create(&copy).expect("a copy of another type can be made");
    mallory
        .patch(
            "copy",
            &json!({"metadata": {"annotations": {"valetkey.dev/expires-at": "x"}}}),
        )
        .expect("other Secrets are not restricted");
    mallory
        .kubectl("", &["delete", "secret", "one"])
        .expect("it can be deleted");
}

#[test]
fn garbage_collector_can_still_delete_grant_secrets() {
    let _quiet = no_operator_for_all_namespaces();
    let (home, t) = (Tenant::new("operator"), Tenant::new("collected"));
    let account = Account::guarding(&home, &[&t], &[]);
    wait_until_guarded(&person(&t, "mallory", "edit"));
    let operator = As {
        tenant: &t,
        kubeconfig: account.kubeconfig(),
    };
    let made = |name: &str| {
        t.apply(&[t.grant("UploadGrant", name, json!({}))]);
        let grant = t.get(&format!("ug/{name}")).expect("it is there");
        operator
            .create(&secret(&grant, name))
            .expect("the operator can create the grant Secret");
    };
    made("gone");
    made("orphan");
    t.kubectl(&["delete", "ug/gone"]);
    t.gone("gone");
    // The garbage collector removes the owner reference, and the deletion of the grant waits for it.
    t.kubectl(&["delete", "ug/orphan", "--cascade=orphan", "--timeout=60s"]);
    let orphan = t.get("secret/orphan").expect("it stays");
    assert_eq!(orphan["metadata"]["ownerReferences"], Value::Null);
}

#[test]
fn exempt_user_can_restore_grant_secrets() {
    let _quiet = no_operator_for_all_namespaces();
    let (home, t) = (Tenant::new("operator"), Tenant::new("restored"));
    let account = Account::guarding(
        &home,
        &[&t],
        &[
            &format!(
                "admissionPolicy.grantSecrets.exemptUsers={{system:serviceaccount:{}:backup}}",
                t.name()
            ),
            "admissionPolicy.grantSecrets.exemptGroups={restorers}",
        ],
    );
    let (mallory, backup) = (person(&t, "mallory", "edit"), person(&t, "backup", "edit"));
    t.apply(&[t.grant("UploadGrant", "one", json!({}))]);
    let grant = t.get("ug/one").expect("it is there");
    wait_until_guarded(&mallory);
    backup.create(&secret(&grant, "one")).expect("the user is exempt");
    backup
        .patch(
            "one",
            &json!({"metadata": {"annotations": {"valetkey.dev/expires-at": "x"}}}),
        )
        .expect("the user is exempt");
    refused(mallory.create(&secret(&grant, "two")), MAKES);
    let as_group = |groups: &[&str]| {
        let admin = As {
            tenant: &t,
            kubeconfig: t.world.plane.kubeconfig().to_owned(),
        };
        let groups: Vec<_> = groups.iter().map(|g| format!("--as-group={g}")).collect();
        let mut args = vec!["create", "--dry-run=server", "--as=somebody", "--filename", "-"];
        args.extend(groups.iter().map(String::as_str));
        admin.kubectl(&secret(&grant, "three").to_string(), &args)
    };
    as_group(&["system:masters", "restorers"]).expect("the group is exempt");
    refused(as_group(&["system:masters"]), MAKES);
    drop(account);
}

/// The policy of a release for one namespace does not apply to other namespaces, which another release may serve.
#[test]
fn scoped_release_guards_only_its_own_namespace() {
    let _quiet = no_operator_for_all_namespaces();
    let (t, other) = (Tenant::new("guarded"), Tenant::new("unguarded"));
    let _account = Account::with_advice(&t, &[&format!("scopedNamespace={}", t.name())]);
    let bare =
        json!({"apiVersion": "v1", "kind": "Secret", "type": "valetkey.dev/grant", "metadata": {"name": "bare"}});
    let mallory = person(&t, "mallory", "edit");
    wait_until_guarded(&mallory);
    refused(mallory.create(&bare), MAKES);
    person(&other, "mallory", "edit")
        .create(&bare)
        .expect("this release does not serve that namespace");
}
