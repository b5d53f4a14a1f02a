//! What the operator's account may do to Secrets, tried with kubectl: RBAC bounds it, and where RBAC cannot, a policy does.

use serde_json::{Value, json};
use valet_harness::{eventually, process};

use crate::{
    account::Account,
    world::{SOON, Tenant, merge},
};

/// A kubectl of somebody else's.
pub struct As<'a> {
    pub tenant: &'a Tenant,
    pub kubeconfig: std::path::PathBuf,
}

impl As<'_> {
    /// Runs kubectl in the tenant's namespace; what it prints, or what it complains of.
    pub fn kubectl(&self, stdin: &str, args: &[&str]) -> Result<String, String> {
        let mut command = self.tenant.world.plane.kubectl_command(&self.kubeconfig);
        command.args(args).args(["--namespace", self.tenant.name()]);
        let output = process::run(command, stdin.as_bytes(), SOON).expect("kubectl runs");
        if output.status.success() {
            Ok(output.text())
        } else {
            Err(output.stderr)
        }
    }

    pub fn create(&self, object: &Value) -> Result<String, String> {
        self.kubectl(&object.to_string(), &["create", "--filename", "-"])
    }

    pub fn patch(&self, name: &str, patch: &Value) -> Result<String, String> {
        self.kubectl(
            "",
            &["patch", "secret", name, "--type=merge", "--patch", &patch.to_string()],
        )
    }
}

/// A Secret as the operator makes it for this grant.
pub fn secret(grant: &Value, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "valetkey.dev/grant",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/managed-by": "valet"},
            "ownerReferences": [{
                "apiVersion": "valetkey.dev/v1alpha1", "kind": "UploadGrant", "controller": true,
                "name": grant["metadata"]["name"], "uid": grant["metadata"]["uid"],
            }],
        },
        "stringData": {"url": "https://example.test/"},
    })
}

const OURS: &str = "only grant Secrets";

/// RBAC gives the account everything here that it can give about Secrets, so that what stops it is the policy.
#[test]
fn the_policy_confines_the_account_to_grants_secrets() {
    let (home, t) = (Tenant::new("operator"), Tenant::new("confined"));
    let account = Account::new(&home, &["allowSecretMetadata={app.kubernetes.io,allowed.example.com}"]);
    t.kubectl(&["create", "role", "all-secrets", "--verb=*", "--resource=secrets"]);
    let subject = format!("--serviceaccount={}:valet", home.name());
    t.kubectl(&["create", "rolebinding", "all-secrets", "--role=all-secrets", &subject]);
    let operator = As {
        tenant: &t,
        kubeconfig: account.kubeconfig(),
    };
    t.apply(&[
        t.grant("UploadGrant", "one", json!({})),
        t.grant("UploadGrant", "two", json!({})),
    ]);
    let (one, two) = (
        t.get("ug/one").expect("it is there"),
        t.get("ug/two").expect("it is there"),
    );
    t.kubectl(&[
        "create",
        "secret",
        "generic",
        "foreign",
        "--from-literal=password=hunter2",
    ]);
    let said = account.wait_until_confined();
    assert!(said.contains(&format!("{}-secrets", account.name())), "{said}");

    // A grant's own: everything that the operator does.
    operator
        .create(&secret(&one, "one"))
        .expect("a grant's Secret can be made");
    operator
        .patch("one", &json!({"stringData": {"url": "https://example.test/2"}}))
        .expect("and replaced");
    operator
        .patch("one", &json!({"metadata": {"annotations": {"a": "b"}}}))
        .expect("and retouched");
    operator.kubectl("", &["delete", "secret", "one"]).expect("and deleted");
    operator.create(&secret(&one, "one")).expect("and made again");

    let refused = |what: &str, result: Result<String, String>, message: &str| {
        let said = result.expect_err(what);
        assert!(
            said.contains("ValidatingAdmissionPolicy 'valet") && said.contains(message),
            "{what}: {said}"
        );
    };
    // Somebody else's.
    refused(
        "change",
        operator.patch("foreign", &json!({"stringData": {"password": "x"}})),
        OURS,
    );
    refused("delete", operator.kubectl("", &["delete", "secret", "foreign"]), OURS);
    refused(
        "delete all",
        operator.kubectl("", &["delete", "secrets", "--all"]),
        OURS,
    );
    // Of all of them it deletes its own.
    assert!(t.get("secret/one").is_none() && t.get("secret/foreign").is_some());
    operator.create(&secret(&one, "one")).expect("and made once more");
    let ours = json!({"metadata": {
        "labels": {"app.kubernetes.io/managed-by": "valet"}, "ownerReferences": secret(&one, "")["metadata"]["ownerReferences"],
    }});
    refused("take over", operator.patch("foreign", &ours), OURS);

    // A Secret that is none of a grant, one thing wrong with each.
    for (what, wrong) in [
        ("type", json!({"type": "Opaque"})),
        (
            "type",
            json!({"type": "kubernetes.io/service-account-token", "metadata": {"annotations": {"kubernetes.io/service-account.name": "default"}}}),
        ),
        (
            "label",
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "helm"}}}),
        ),
        ("no owner", json!({"metadata": {"ownerReferences": []}})),
        (
            "an owner that does not control",
            json!({"metadata": {"ownerReferences": [{
                "apiVersion": "valetkey.dev/v1alpha1", "kind": "UploadGrant", "name": "one", "uid": one["metadata"]["uid"],
            }]}}),
        ),
        (
            "another kind of owner",
            json!({"metadata": {"ownerReferences": [{
                "apiVersion": "v1", "kind": "ConfigMap", "name": "one", "uid": one["metadata"]["uid"], "controller": true,
            }]}}),
        ),
        (
            "a look-alike group",
            json!({"metadata": {"ownerReferences": [{
                "apiVersion": "valetkey.dev.evil/v1", "kind": "UploadGrant", "name": "one", "uid": one["metadata"]["uid"], "controller": true,
            }]}}),
        ),
        // The garbage collector does not know such an owner, and would never delete the Secret.
        (
            "a version that does not exist",
            json!({"metadata": {"ownerReferences": [{
                "apiVersion": "valetkey.dev/evil", "kind": "UploadGrant", "name": "one", "uid": one["metadata"]["uid"], "controller": true,
            }]}}),
        ),
    ] {
        let mut bad = secret(&one, "bad");
        merge(&mut bad, wrong);
        refused(what, operator.create(&bad), OURS);
    }
    let mut bare = secret(&one, "bad");
    bare["metadata"]
        .as_object_mut()
        .expect("it is a map")
        .retain(|k, _| k == "name");
    refused("neither label nor owner", operator.create(&bare), OURS);

    // A grant's Secret does not stop being one, nor change hands.
    refused(
        "unlabel",
        operator.patch(
            "one",
            &json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}}),
        ),
        OURS,
    );
    refused(
        "disown",
        operator.patch("one", &json!({"metadata": {"ownerReferences": null}})),
        OURS,
    );
    let other = json!({"metadata": {"ownerReferences": secret(&two, "")["metadata"]["ownerReferences"]}});
    refused(
        "hand on",
        operator.patch("one", &other),
        "may not change which grant owns a grant Secret",
    );
    adds_nothing_of_others(&t, &operator, &one);
    t.kubectl(&["delete", "secret", "foreign"]);
    refused("delete a collection", collection(&operator), "not as a collection");
    assert!(t.get("secret/one").is_some(), "nothing was deleted");

    // Everybody else does what RBAC says.
    t.kubectl(&[
        "create",
        "secret",
        "generic",
        "foreign",
        "--from-literal=password=hunter2",
    ]);
    t.kubectl(&[
        "patch",
        "secret",
        "foreign",
        "--patch",
        r#"{"stringData":{"password":"x"}}"#,
    ]);
    t.kubectl(&["delete", "secrets", "--all"]);
}

/// What would keep a grant's Secret when its grant is gone, or have another system act on it.
fn adds_nothing_of_others(t: &Tenant, operator: &As<'_>, grant: &Value) {
    let refused = |patch: Value, message: &str| {
        let said = operator.patch("one", &patch).expect_err("it must be refused");
        assert!(said.contains(message), "{patch}: {said}");
    };
    let mut owners = secret(grant, "")["metadata"]["ownerReferences"].clone();
    let second = json!({"apiVersion": "valetkey.dev/evil", "kind": "UploadGrant", "name": "x", "uid": "x"});
    owners.as_array_mut().expect("a list").push(second);
    refused(
        json!({"metadata": {"ownerReferences": owners}}),
        "may not add owners or finalizers",
    );
    refused(
        json!({"metadata": {"finalizers": ["example.com/stay"]}}),
        "may not add owners or finalizers",
    );
    for (field, name) in [
        ("labels", "argocd.argoproj.io/secret-type"),
        ("labels", "cattle.io/creator"),
        ("labels", "app.kubernetes.io.example.com/x"),
        ("annotations", "replicator.v1.mittwald.de/replicate-from"),
        ("annotations", "kubernetes.io/service-account.name"),
        ("annotations", "sub.allowed.example.com/x"),
    ] {
        refused(
            json!({"metadata": {field: {name: "x"}}}),
            &format!("may not set {name} on a Secret"),
        );
        let mut bad = secret(grant, "bad");
        bad["metadata"][field][name] = json!("x");
        let said = operator.create(&bad).expect_err("it must be refused");
        assert!(said.contains(&format!("may not set {name} on a Secret")), "{said}");
    }
    // What a tenant may ask for, what Valet records, and what somebody else has written there.
    let allowed = json!({"metadata": {
        "labels": {"team": "web", "app.kubernetes.io/part-of": "shop", "allowed.example.com/x": "y"},
        "annotations": {"note": "x", "valetkey.dev/issued-at": "2027-01-15T08:00:00Z"},
    }});
    operator.patch("one", &allowed).expect("its own can be set");
    t.kubectl(&["label", "secret", "one", "argocd.argoproj.io/instance=theirs"]);
    t.kubectl(&[
        "patch",
        "secret",
        "one",
        "--patch",
        r#"{"metadata":{"finalizers":["example.com/stay"]}}"#,
    ]);
    operator
        .patch("one", &json!({"stringData": {"url": "https://example.test/3"}}))
        .expect("what others have written stays, and is in nobody's way");
    refused(
        json!({"metadata": {"labels": {"argocd.argoproj.io/instance": "mine"}}}),
        "may not set argocd.argoproj.io/instance on a Secret",
    );
    operator
        .patch("one", &json!({"metadata": {"finalizers": null}}))
        .expect("a finalizer can be taken off");
}

/// A grant in these namespaces gets no Secret: there the account writes none, but the key of its own records.
#[test]
fn the_account_writes_no_secret_in_protected_namespaces() {
    let (home, t) = (Tenant::new("operator"), Tenant::new("protected"));
    let protected = format!(
        "admissionPolicy.secrets.protectedNamespaces={{kube-system,{}}}",
        t.name()
    );
    let account = Account::new(&home, &[&protected]);
    account.wait_until_confined();
    let operator = |tenant| As {
        tenant,
        kubeconfig: account.kubeconfig(),
    };
    for place in [&home, &t] {
        let grant = place.grant("UploadGrant", "one", json!({}));
        place.apply(&[grant]);
        let grant = place.get("ug/one").expect("it is there");
        let said = operator(place)
            .create(&secret(&grant, "one"))
            .expect_err("it must be refused");
        let message = format!(
            "may not write Secrets in namespace {}, because the chart protects it",
            place.name()
        );
        assert!(said.contains(&message), "{said}");
    }
    let said = operator(&home)
        .kubectl(
            &secret(&json!({"metadata": {"name": "x", "uid": "x"}}), "one").to_string(),
            &[
                "create",
                "--raw",
                "/api/v1/namespaces/kube-system/secrets",
                "--filename",
                "-",
            ],
        )
        .expect_err("it must be refused");
    assert!(
        said.contains("may not write Secrets in namespace kube-system"),
        "{said}"
    );

    let record = |name: &str, type_: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": type_, "metadata": {"name": name}, "stringData": {"key": "x"},
        })
    };
    let (name, type_) = ("valet-record-key", "valetkey.dev/record-key");
    let refused = |tenant, secret: Value| {
        let said = operator(tenant).create(&secret).expect_err("it must be refused");
        assert!(said.contains("may write only grant Secrets"), "{said}");
    };
    refused(&t, record(name, type_));
    refused(&home, record("another", type_));
    refused(&home, record(name, "Opaque"));
    operator(&home)
        .create(&record(name, type_))
        .expect("it makes the key of its records");
    let said = operator(&home)
        .kubectl(&record(name, type_).to_string(), &["replace", "--filename", "-"])
        .expect_err("it must be refused");
    assert!(said.contains("may change and delete only grant Secrets"), "{said}");
    let said = operator(&home)
        .kubectl("", &["delete", "secret", name])
        .expect_err("it must be refused");
    assert!(said.contains("may change and delete only grant Secrets"), "{said}");

    // With a value that has the operator serve its own namespace, grants there get their Secrets.
    let own = Tenant::new("own");
    let account = Account::new(&own, &[&format!("scopedNamespace={}", own.name())]);
    account.wait_until_confined();
    own.apply(&[own.grant("UploadGrant", "one", json!({}))]);
    let grant = own.get("ug/one").expect("it is there");
    let operator = As {
        tenant: &own,
        kubeconfig: account.kubeconfig(),
    };
    operator
        .create(&secret(&grant, "one"))
        .expect("its own namespace is served");
}

/// RBAC lets it patch UploadGrants; the policy leaves it their one finalizer.
#[test]
fn the_policy_confines_the_account_to_a_finalizer() {
    let t = Tenant::new("held");
    let account = Account::new(&t, &[]);
    let operator = As {
        tenant: &t,
        kubeconfig: account.kubeconfig(),
    };
    t.apply(&[t.grant("UploadGrant", "one", json!({}))]);
    t.patch(
        "ug/one",
        &json!({"metadata": {"finalizers": ["example.com/theirs"], "labels": {"a": "b"}}}),
    );
    account.wait_until_confined();
    let patch =
        |patch: Value| operator.kubectl("", &["patch", "ug/one", "--type=merge", "--patch", &patch.to_string()]);
    let finalizers = |all: &[&str]| json!({"metadata": {"finalizers": all}});
    let refused = |patched: Result<String, String>| {
        let said = patched.expect_err("it must be refused");
        assert!(said.contains("only the status of a grant and the finalizer"), "{said}");
    };
    eventually(SOON, "the policy to be obeyed", || {
        patch(json!({"spec": {"expirationSeconds": 600}}))
            .err()
            .filter(|said| said.contains("the finalizer"))
    });
    patch(finalizers(&["example.com/theirs", "valetkey.dev/multipart"])).expect("its own can be set");
    patch(finalizers(&["example.com/theirs"])).expect("and taken off");
    for wrong in [
        json!({"spec": {"suspend": true}}),
        json!({"metadata": {"labels": {"a": "c"}}}),
        json!({"metadata": {"annotations": {"valetkey.dev/renew-requested-at": "2027-01-15T08:00:00Z"}}}),
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"}]}}),
        finalizers(&[]),
        finalizers(&["example.com/theirs", "example.com/another"]),
    ] {
        refused(patch(wrong));
    }
    // A DownloadGrant is never held.
    t.apply(&[t.grant("DownloadGrant", "two", json!({}))]);
    let said = operator
        .kubectl("", &["patch", "dg/two", "--type=merge", "--patch", "{}"])
        .expect_err("RBAC says no");
    assert!(said.contains("cannot patch resource"), "{said}");
    t.patch("ug/one", &json!({"metadata": {"finalizers": null}}));
}

/// `kubectl delete --all` lists and deletes one by one; this is the apiserver's own way to delete many.
fn collection(operator: &As<'_>) -> Result<String, String> {
    let path = format!("/api/v1/namespaces/{}/secrets", operator.tenant.name());
    operator.kubectl("", &["delete", "--raw", &path])
}

/// With the chart's own roles and nothing else, in default mode.
#[test]
fn the_account_cannot_read_in_bulk() {
    let t = Tenant::new("bulk");
    let account = Account::new(&t, &[]);
    let operator = As {
        tenant: &t,
        kubeconfig: account.kubeconfig(),
    };
    t.kubectl(&[
        "create",
        "secret",
        "generic",
        "foreign",
        "--from-literal=password=hunter2",
    ]);
    account.wait_until_confined();
    let refused = |args: &[&str], message: &str| {
        let said = operator.kubectl("", args).expect_err("it must be refused");
        assert!(said.contains(message), "{args:?}: {said}");
    };
    refused(&["get", "secrets"], "cannot list resource \"secrets\"");
    refused(
        &["get", "secrets", "--all-namespaces"],
        "cannot list resource \"secrets\"",
    );
    let watch = format!("/api/v1/namespaces/{}/secrets?watch=1", t.name());
    refused(&["get", "--raw", &watch], "cannot watch resource \"secrets\"");
    refused(
        &["patch", "secret", "foreign", "--patch", "{}"],
        "cannot patch resource \"secrets\"",
    );
    refused(&["delete", "secret", "foreign"], OURS);
    assert!(
        collection(&operator)
            .expect_err("it must be refused")
            .contains("cannot deletecollection")
    );
    refused(&["replace", "--filename", &written(&t, "foreign")], OURS);
    // What is left to whoever takes the pod over: one Secret whose name he knows. docs/reference/permissions.md says so.
    operator
        .kubectl("", &["get", "secret", "foreign"])
        .expect("RBAC cannot tell Secrets apart");
}

/// The Secret in a file, changed.
fn written(t: &Tenant, name: &str) -> String {
    let mut secret = t.get(&format!("secret/{name}")).expect("it is there");
    secret["data"] = json!({"password": "eA=="});
    let path = t.file("secret.json", secret.to_string().as_bytes());
    path.to_str().expect("a plain path").to_owned()
}

/// What `kubectl auth can-i --list` says of Secrets, in each mode, in three places: where grants are served, in the
/// operator's own namespace, elsewhere. The table in docs/reference/permissions.md.
#[test]
fn rights_to_secrets_in_each_mode() {
    let none: &[&str] = &[];
    let grants: &[&str] = &["create", "delete", "get", "update"];
    let watching: &[&str] = &["create", "delete", "get", "list", "update", "watch"];
    // Beside the credentials of ClusterObjectStores the key of its own records, which it makes.
    let own: &[&str] = &["create", "get"];
    let create: &[&str] = &["create"];
    for (mode, values, served, own, elsewhere) in [
        ("default", &[][..], grants, grants, grants),
        ("watching", &["watchSecrets=true"], watching, watching, watching),
        ("scoped", &["scopedNamespace=SERVED"], grants, own, none),
        (
            "scoped-watching",
            &["scopedNamespace=SERVED", "watchSecrets=true"],
            watching,
            own,
            none,
        ),
        ("listed", &["rbac.secretsNamespaces={SERVED}"], grants, own, none),
        (
            "named",
            &["rbac.secretsNamespaces={SERVED}", "rbac.credentialsSecrets={media}"],
            grants,
            create,
            none,
        ),
        ("without", &["rbac.create=false"], none, none, none),
    ] {
        let operator = Tenant::new(&format!("own-{mode}"));
        let tenant = Tenant::new(&format!("served-{mode}"));
        let stranger = Tenant::new(&format!("other-{mode}"));
        let values: Vec<_> = values.iter().map(|v| v.replace("SERVED", tenant.name())).collect();
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        let account = Account::new(&operator, &values);
        for (place, expected) in [(&tenant, served), (&operator, own), (&stranger, elsewhere)] {
            let may = account.rights(place.name());
            let secrets = may
                .get("secrets")
                .map(|v| v.iter().map(String::as_str).collect::<Vec<_>>())
                .unwrap_or_default();
            assert_eq!(secrets, expected, "{mode}, {}", place.name());
            if values.is_empty() {
                assert_eq!(
                    may.keys().collect::<Vec<_>>(),
                    default_resources(place.name() == operator.name()),
                    "{mode}"
                );
            }
        }
        if mode == "named" {
            let as_operator = As {
                tenant: &operator,
                kubeconfig: account.kubeconfig(),
            };
            let media = operator.kubectl(&["create", "secret", "generic", "media", "--from-literal=a=b"]);
            assert!(media.contains("created"));
            as_operator
                .kubectl("", &["get", "secret", "media"])
                .expect("the named Secret can be read");
            operator.kubectl(&["create", "secret", "generic", "other", "--from-literal=a=b"]);
            let said = as_operator
                .kubectl("", &["get", "secret", "other"])
                .expect_err("no other can");
            assert!(said.contains("cannot get resource"), "{said}");
        }
    }
}

/// Everything that the account may touch by default, beyond what every account may.
fn default_resources(own: bool) -> Vec<&'static String> {
    let mut all = vec![
        "clusterobjectstores.valetkey.dev",
        "clusterobjectstores.valetkey.dev/status",
        "downloadgrants.valetkey.dev",
        "downloadgrants.valetkey.dev/status",
        "events.events.k8s.io",
        "namespaces",
        "objectstores.valetkey.dev",
        "objectstores.valetkey.dev/status",
        "secrets",
        "uploadgrants.valetkey.dev",
        "uploadgrants.valetkey.dev/status",
    ];
    if own {
        all.push("leases.coordination.k8s.io");
    }
    all.sort_unstable();
    all.into_iter().map(|s| &*Box::leak(Box::new(s.to_owned()))).collect()
}

/// The policies say nothing that the apiserver's type checker does not understand.
#[test]
fn the_policies_type_check() {
    let t = Tenant::new("types");
    let account = Account::with_advice(&t, &[&format!("scopedNamespace={}", t.name())]);
    for policy in ["secrets", "grant-secrets", "grants", "gitops"] {
        let name = format!("validatingadmissionpolicy/{}-{policy}", account.name());
        let checked = eventually(SOON, "the type check", || {
            t.get(&name).filter(|p| p["status"]["observedGeneration"].is_number())
        });
        assert_eq!(
            checked["status"]["typeChecking"]["expressionWarnings"],
            Value::Null,
            "{checked:#}"
        );
    }
}
