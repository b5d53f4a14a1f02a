//! Tests of what the operator's account may do with Secrets. RBAC limits the account; a ValidatingAdmissionPolicy
//! does so where RBAC cannot.

use serde_json::{Value, json};
use valet_harness::{eventually, process};

use crate::{
    account::{Account, no_operator_for_all_namespaces},
    world::{SOON, Tenant, merge},
};

/// Runs kubectl as another user.
pub struct As<'a> {
    pub tenant: &'a Tenant,
    pub kubeconfig: std::path::PathBuf,
}

impl As<'_> {
    /// Runs kubectl in the tenant's namespace and returns its output, or its error message.
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

/// A Secret as the operator creates it for this grant.
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

/// RBAC grants the account every right to Secrets here, so a denied request was denied by the policy.
#[test]
fn admission_policy_limits_operator_to_grant_secrets() {
    let _quiet = no_operator_for_all_namespaces();
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

    // The account may do everything that the operator does with a grant Secret.
    operator
        .create(&secret(&one, "one"))
        .expect("a grant Secret can be created");
    operator
        .patch("one", &json!({"stringData": {"url": "https://example.test/2"}}))
        .expect("the grant Secret can be replaced");
    operator
        .patch("one", &json!({"metadata": {"annotations": {"a": "b"}}}))
        .expect("the metadata of the grant Secret can be updated");
    operator
        .kubectl("", &["delete", "secret", "one"])
        .expect("the grant Secret can be deleted");
    operator
        .create(&secret(&one, "one"))
        .expect("the grant Secret can be created again");

    let refused = |what: &str, result: Result<String, String>, message: &str| {
        let said = result.expect_err(what);
        assert!(
            said.contains("ValidatingAdmissionPolicy 'valet") && said.contains(message),
            "{what}: {said}"
        );
    };
    // The account may not touch a Secret that Valet did not create.
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
    // `kubectl delete --all` deleted only the grant Secret.
    assert!(t.get("secret/one").is_none() && t.get("secret/foreign").is_some());
    operator
        .create(&secret(&one, "one"))
        .expect("the grant Secret can be created once more");
    let ours = json!({"metadata": {
        "labels": {"app.kubernetes.io/managed-by": "valet"}, "ownerReferences": secret(&one, "")["metadata"]["ownerReferences"],
    }});
    refused("take over", operator.patch("foreign", &ours), OURS);

    // Each of these Secrets has one property that makes it an invalid grant Secret.
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
        // The garbage collector does not know an owner of this API version, and would never delete the Secret.
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

    // The account may not turn a grant Secret into another Secret, or change its owner.
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

    // The policy does not apply to other users.
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

/// Expects that the account may not add an owner, a finalizer, or a label or annotation that another system acts on.
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
    // The account may set metadata that a tenant may request, and metadata that Valet records. Metadata from other
    // users may stay.
    let allowed = json!({"metadata": {
        "labels": {"team": "web", "app.kubernetes.io/part-of": "shop", "allowed.example.com/x": "y"},
        "annotations": {"note": "x", "valetkey.dev/issued-at": "2027-01-15T08:00:00Z"},
    }});
    operator.patch("one", &allowed).expect("its own finalizer can be set");
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
        .expect("finalizers of other clients stay and do not prevent the change");
    refused(
        json!({"metadata": {"labels": {"argocd.argoproj.io/instance": "mine"}}}),
        "may not set argocd.argoproj.io/instance on a Secret",
    );
    operator
        .patch("one", &json!({"metadata": {"finalizers": null}}))
        .expect("the finalizer can be removed");
}

/// In protected namespaces a grant receives no Secret. The account may write only the Secret with the record key
/// there.
#[test]
fn operator_cannot_write_grant_secrets_in_protected_namespaces() {
    let _quiet = no_operator_for_all_namespaces();
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
        .expect("the operator can create its record key");
    let said = operator(&home)
        .kubectl(&record(name, type_).to_string(), &["replace", "--filename", "-"])
        .expect_err("it must be refused");
    assert!(said.contains("may change and delete only grant Secrets"), "{said}");
    let said = operator(&home)
        .kubectl("", &["delete", "secret", name])
        .expect_err("it must be refused");
    assert!(said.contains("may change and delete only grant Secrets"), "{said}");

    // If a value makes the operator serve its own namespace, grants in that namespace receive Secrets.
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

/// RBAC allows the account to patch UploadGrants. The policy allows it to change only the multipart upload finalizer.
#[test]
fn admission_policy_limits_operator_to_multipart_finalizer() {
    let _quiet = no_operator_for_all_namespaces();
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
    eventually(SOON, "the admission policy to take effect", || {
        patch(json!({"spec": {"expirationSeconds": 600}}))
            .err()
            .filter(|said| said.contains("the finalizer"))
    });
    patch(finalizers(&["example.com/theirs", "valetkey.dev/multipart"])).expect("its own finalizer can be set");
    patch(finalizers(&["example.com/theirs"])).expect("the finalizer can be removed again");
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
    // Valet puts no finalizer on a DownloadGrant, so the account may not patch it.
    t.apply(&[t.grant("DownloadGrant", "two", json!({}))]);
    let said = operator
        .kubectl("", &["patch", "dg/two", "--type=merge", "--patch", "{}"])
        .expect_err("RBAC denies the request");
    assert!(said.contains("cannot patch resource"), "{said}");
    t.patch("ug/one", &json!({"metadata": {"finalizers": null}}));
}

/// Deletes all Secrets with one `deletecollection` request. `kubectl delete --all` lists and deletes them one by one.
fn collection(operator: &As<'_>) -> Result<String, String> {
    let path = format!("/api/v1/namespaces/{}/secrets", operator.tenant.name());
    operator.kubectl("", &["delete", "--raw", &path])
}

/// With the chart's default roles the account cannot list, watch or delete many Secrets at once.
#[test]
fn operator_cannot_list_or_delete_many_secrets_at_once() {
    let _quiet = no_operator_for_all_namespaces();
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
    // An attacker who controls the pod can still read a Secret whose name they know (see
    // docs/reference/permissions.md).
    operator
        .kubectl("", &["get", "secret", "foreign"])
        .expect("RBAC cannot tell Secrets apart");
}

/// Writes a changed copy of the Secret to a file.
fn written(t: &Tenant, name: &str) -> String {
    let mut secret = t.get(&format!("secret/{name}")).expect("it is there");
    secret["data"] = json!({"password": "eA=="});
    let path = t.file("secret.json", secret.to_string().as_bytes());
    path.to_str().expect("a plain path").to_owned()
}

/// The rights to Secrets that `kubectl auth can-i --list` shows in each mode: in a served namespace, in the
/// operator's namespace and elsewhere. docs/reference/permissions.md has the same table.
#[test]
fn permissions_for_secrets_match_each_mode() {
    let none: &[&str] = &[];
    let grants: &[&str] = &["create", "delete", "get", "update"];
    let watching: &[&str] = &["create", "delete", "get", "list", "update", "watch"];
    // The account reads the credentials Secrets of ClusterObjectStores here, and creates the Secret with the record
    // key.
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
                .expect_err("no other Secret can be read");
            assert!(said.contains("cannot get resource"), "{said}");
        }
    }
}

/// All resources that the account may use by default, without what every account may use.
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

/// The apiserver's type checker reports no warning for the policies.
#[test]
fn admission_policies_pass_the_type_check() {
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
