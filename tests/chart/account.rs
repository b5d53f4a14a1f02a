//! Tests that run the operator with the service account and the RBAC rights that the chart creates.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use serde_json::{Value, json};
use valet_harness::{AuditEvent, Operator, OperatorOptions, eventually, process, rights};

use crate::{
    helm::{Objects, text_of},
    world::{SOON, Tenant, VALET, says},
};

/// The maximum time that the apiserver needs to enforce a new policy.
const POLICY_SEEN: Duration = Duration::from_secs(30);

/// The object store of the tests is on loopback. A tenant's ObjectStore may use a loopback address only if this value
/// allows it.
const NEAR: &str = "allowPrivateEndpoints={127.0.0.0/8}";

/// An operator that serves all namespaces also reconciles the grants of other tests, and deletes grant Secrets that it
/// did not write.
static ALL_NAMESPACES: RwLock<()> = RwLock::new(());

/// For a test whose operator serves all namespaces: waits until no other test uses the cluster.
pub fn operator_for_all_namespaces() -> RwLockWriteGuard<'static, ()> {
    ALL_NAMESPACES.write().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that writes grant Secrets without an operator: waits until no operator serves all namespaces.
pub fn no_operator_for_all_namespaces() -> RwLockReadGuard<'static, ()> {
    ALL_NAMESPACES.read().unwrap_or_else(PoisonError::into_inner)
}

/// A release of the chart in a tenant's namespace, without its pods.
pub struct Account<'a> {
    home: &'a Tenant,
    /// All rendered objects.
    pub objects: Objects,
}

impl<'a> Account<'a> {
    /// Renders the chart as a release in the tenant's namespace, and applies the objects that concern access rights.
    pub fn new(home: &'a Tenant, values: &[&str]) -> Self {
        // These two policies apply to the whole cluster, so they would also affect the operators of tests that run at
        // the same time.
        let quiet = [
            "admissionPolicy.gitops.enabled=false",
            "admissionPolicy.grantSecrets.enabled=false",
        ];
        Self::with_advice(home, &[values, &quiet].concat())
    }

    /// Like `new`, with the policies that apply to the whole cluster. The values must limit them to one namespace.
    pub fn with_advice(home: &'a Tenant, values: &[&str]) -> Self {
        let account = Self {
            home,
            objects: Self::rendered(home, values),
        };
        account.apply();
        account
    }

    /// Like `new`, with the policy about who may write grant Secrets. The policy applies only in these namespaces.
    pub fn guarding(home: &'a Tenant, tenants: &[&Tenant], values: &[&str]) -> Self {
        let values = [values, &["admissionPolicy.gitops.enabled=false"]].concat();
        let mut objects = Self::rendered(home, &values);
        let names: Vec<_> = tenants.iter().map(|t| t.name()).collect();
        for object in &mut objects.0 {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            if object["kind"] == "ValidatingAdmissionPolicyBinding" && name.ends_with("-grant-secrets") {
                object["spec"]["matchResources"] = json!({"namespaceSelector": {"matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "In", "values": names},
                ]}});
            }
        }
        let account = Self { home, objects };
        account.apply();
        account
    }

    fn rendered(home: &Tenant, values: &[&str]) -> Objects {
        Objects::parse(&text_of(
            &format!("valet-{}", home.name()),
            home.name(),
            &[values, &["serviceAccount.name=valet"]].concat(),
        ))
    }

    fn apply(&self) {
        let plane = &self.home.world.plane;
        plane
            .apply(&self.objects.list(&rights::KINDS))
            .expect("the RBAC objects can be applied");
    }

    pub fn name(&self) -> String {
        format!("valet-{}", self.home.name())
    }

    /// The user name of the service account.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:valet", self.home.name())
    }

    fn token(&self) -> String {
        let plane = &self.home.world.plane;
        plane
            .service_account_token(self.home.name(), "valet")
            .expect("the account has a token")
    }

    /// A kubeconfig with the service account's token.
    pub fn kubeconfig(&self) -> PathBuf {
        let plane = &self.home.world.plane;
        plane
            .kubeconfig_for_token(&self.token())
            .expect("the file can be written")
    }

    /// Waits until the apiserver enforces the policy about Secrets, and returns its denial message.
    pub fn wait_until_confined(&self) -> String {
        let plane = &self.home.world.plane;
        let kubeconfig = self.kubeconfig();
        eventually(POLICY_SEEN, "the admission policy to take effect", || {
            let mut command = plane.kubectl_command(&kubeconfig);
            let args = [
                "create",
                "secret",
                "generic",
                "probe",
                "--from-literal=a=b",
                "--dry-run=server",
            ];
            command.args(args).args(["--namespace", self.home.name()]);
            let output = process::run(command, b"", SOON).expect("kubectl runs");
            output
                .stderr
                .contains("ValidatingAdmissionPolicy")
                .then_some(output.stderr)
        })
    }

    /// The result of `kubectl auth can-i --list` in a namespace: verbs by resource, without what every account may
    /// do.
    pub fn rights(&self, namespace: &str) -> BTreeMap<String, Vec<String>> {
        let plane = &self.home.world.plane;
        let text = plane
            .kubectl(&[
                "auth",
                "can-i",
                "--list",
                "--as",
                &self.user(),
                "--namespace",
                namespace,
                "--no-headers",
            ])
            .expect("kubectl can ask");
        let mut rights = BTreeMap::<String, Vec<String>>::new();
        for line in text.lines() {
            let columns: Vec<_> = line.split('[').map(str::trim).collect();
            // The columns are resources, non-resource URLs, resource names and verbs.
            let [resource, _, names, verbs] = columns[..] else {
                continue;
            };
            if resource.is_empty()
                || resource.ends_with("reviews.authorization.k8s.io")
                || resource.ends_with("reviews.authentication.k8s.io")
            {
                continue;
            }
            if resource == "secrets" && names != "]" {
                continue;
            }
            let verbs = verbs.trim_end_matches(']').split(' ').map(str::to_owned);
            let all = rights.entry(resource.to_owned()).or_default();
            all.extend(verbs);
            all.sort_unstable();
            all.dedup();
        }
        rights
    }

    /// Starts the operator with this service account and the arguments from the chart.
    pub fn operator(&self, more: &[&str]) -> Operator {
        let given = self.objects.args();
        let args = given
            .iter()
            .map(String::as_str)
            .filter(|a| {
                *a != "controller"
                    && !a.starts_with("--http-address")
                    && !more.iter().any(|m| m.split('=').next() == a.split('=').next())
            })
            .chain(more.iter().copied())
            .map(str::to_owned)
            .collect();
        let options = OperatorOptions {
            token: Some(self.token()),
            args,
            ..OperatorOptions::default()
        };
        Operator::start(&VALET, &self.home.world.plane, &options).expect("the operator starts")
    }
}

/// Copies the credentials of a tenant's store into the release's namespace.
fn copy_credentials(home: &Tenant, tenant: &Tenant) {
    let s3 = &tenant.world.s3;
    let mut credentials = tenant.credentials(s3.access_key(), s3.secret_key());
    credentials["metadata"]["namespace"] = json!(home.name());
    home.apply(&[credentials]);
}

/// The API group, the resource with its subresource, and the verb of a request.
type Right = (String, String, String);

fn used(events: &[AuditEvent], user: &str) -> BTreeSet<Right> {
    events
        .iter()
        .filter(|e| e.user() == user && !e.resource().is_empty())
        .map(|e| {
            let group = e
                .json
                .pointer("/objectRef/apiGroup")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let resource = match e.subresource() {
                "" => e.resource().to_owned(),
                sub => format!("{}/{sub}", e.resource()),
            };
            (group.to_owned(), resource, e.verb().to_owned())
        })
        .collect()
}

/// The rights that the rendered roles grant.
fn granted(objects: &Objects, name: &str) -> BTreeSet<Right> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let roles = objects.0.iter().filter(|o| {
        let called = o["metadata"]["name"].as_str().unwrap_or_default();
        let ours = [name.to_owned(), format!("{name}-operator"), format!("{name}-secrets")];
        (o["kind"] == "ClusterRole" || o["kind"] == "Role") && ours.iter().any(|n| n == called)
    });
    let mut all = BTreeSet::new();
    for rule in roles.flat_map(|r| r["rules"].as_array().into_iter().flatten()) {
        for group in rule["apiGroups"].as_array().into_iter().flatten() {
            for resource in rule["resources"].as_array().into_iter().flatten() {
                for verb in rule["verbs"].as_array().into_iter().flatten() {
                    all.insert((text(group), text(resource), text(verb)));
                }
            }
        }
    }
    all
}

/// The tenant's store with one more access rule, which selects the namespace by its label and allows a prefix.
fn store_with(t: &Tenant, prefix: &str) -> Value {
    let mut store = t.store();
    let rules = store["spec"]["access"].as_array_mut().expect("it has rules");
    let mut rule = rules[0].clone();
    rule["namespaces"] = json!({"selector": {"matchLabels": {"kubernetes.io/metadata.name": t.name()}}});
    rule["keyPrefix"] = json!(prefix);
    rules.push(rule);
    store
}

/// Makes the operator do each of its tasks once.
fn whole_job(t: &Tenant, operator: &Operator) {
    // Issue a credential, replace it with another lifetime, update metadata through a label, and complete by an
    // upload.
    let upload = |spec: Value| t.apply(&[t.grant("UploadGrant", "up", spec)]);
    upload(json!({"expirationSeconds": 600, "ttlSecondsAfterFinished": 0}));
    t.reason("ug/up", "Issued");
    let first = t.mount("up");
    upload(json!({"expirationSeconds": 900, "ttlSecondsAfterFinished": 0}));
    eventually(SOON, "a new credential", || {
        (t.mount("up").files["url"] != first.files["url"]).then_some(())
    });
    upload(json!({"expirationSeconds": 900, "ttlSecondsAfterFinished": 0, "secretTemplate": {"labels": {"a": "b"}}}));
    eventually(SOON, "the label", || {
        (t.get("secret/up")?["metadata"]["labels"]["a"] == "b").then_some(())
    });
    let (code, body) = t.mount("up").upload(&t.file("up.bin", b"twelve bytes"));
    assert_eq!(code, 200, "{body}");
    // The operator deletes the grant Secret when it sees the object, and deletes the finished grant at once.
    eventually(Duration::from_secs(60), "the finished grant to be deleted", || {
        (t.get("ug/up").is_none() && t.get("secret/up").is_none()).then_some(())
    });
    assert_eq!(t.stored(&t.key("up")), Some(b"twelve bytes".to_vec()));

    // The grant is refused, allowed, and refused again for the same reason. This creates an event and then repeats
    // it.
    t.apply(&[t.grant(
        "DownloadGrant",
        "no",
        json!({"key": "elsewhere/x", "expirationSeconds": 600}),
    )]);
    t.reason("dg/no", "KeyNotAllowed");
    let event = |least: i64| {
        eventually(SOON, "an event", || {
            let text = t.kubectl(&["get", "events.events.k8s.io", "--output", "json"]);
            let events: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
            events["items"].as_array()?.iter().find_map(|e| {
                let count = e["series"]["count"].as_i64().unwrap_or(1);
                (e["regarding"]["name"] == "no" && e["reason"] == "KeyNotAllowed" && count >= least).then_some(())
            })
        });
    };
    event(1);
    t.apply(&[store_with(t, "elsewhere/")]);
    t.reason("dg/no", "Issued");
    t.apply(&[store_with(t, "nowhere/")]);
    t.reason("dg/no", "KeyNotAllowed");
    event(2);
    // A download credential expires, and the operator deletes its grant at once.
    t.apply(&[t.grant(
        "DownloadGrant",
        "short",
        json!({"expirationSeconds": 3, "ttlSecondsAfterFinished": 0}),
    )]);
    t.reason("dg/short", "Issued");

    // A multipart upload keeps its finalizer until it is completed or aborted.
    let in_parts = json!({"mode": "Multipart", "constraints": {"contentLength": 3}, "expirationSeconds": 600});
    t.apply(&[t.grant("UploadGrant", "parts", in_parts)]);
    t.reason("ug/parts", "Issued");
    t.kubectl(&["delete", "ug/parts", "--timeout=30s"]);

    // A tenant's own store, which is deleted later.
    let mut own = t.store();
    own["kind"] = json!("ObjectStore");
    own["metadata"]["namespace"] = json!(t.name());
    own["spec"]["access"] = json!([]);
    let s3 = &t.world.s3;
    let mut credentials = t.credentials(s3.access_key(), s3.secret_key());
    credentials["metadata"]["namespace"] = json!(t.name());
    t.apply(&[credentials, own]);
    let own_ref = json!({"storeRef": {"kind": "ObjectStore", "name": t.name()}, "expirationSeconds": 600});
    t.apply(&[t.grant("DownloadGrant", "down", own_ref)]);
    t.reason("dg/down", "Issued");
    for store in ["ostore", "costore"] {
        eventually(SOON, "the store's status", || {
            (says(&t.get(&format!("{store}/{}", t.name()))?, "Ready") == "True Ready").then_some(())
        });
    }
    t.kubectl(&["delete", "objectstore", t.name()]);
    t.reason("dg/down", "StoreNotFound");
    t.gone("down");
    eventually(Duration::from_secs(90), "the finished grant to be deleted", || {
        t.get("dg/short").is_none().then_some(())
    });
    assert!(operator.leads());
}

/// With the default values the account can do all of the operator's work and has no right that the operator does not
/// use.
#[test]
fn default_permissions_are_sufficient_and_all_are_used() {
    let _alone = operator_for_all_namespaces();
    let (home, tenant) = (Tenant::new("operator"), Tenant::new("default"));
    let account = Account::guarding(&home, &[&tenant], &[NEAR]);
    copy_credentials(&home, &tenant);
    account.wait_until_confined();
    let mark = home.world.plane.audit_mark().expect("there is a log");
    let operator = account.operator(&[]);
    whole_job(&tenant, &operator);
    let lease = home
        .get("lease/valet")
        .expect("the Lease is in the release's namespace");
    assert!(lease["spec"]["holderIdentity"].is_string());
    operator.terminate().expect("it stops");

    let events = home.world.plane.audit_since(mark).expect("there is a log");
    let denied: Vec<_> = events
        .iter()
        .filter(|e| e.user() == account.user() && e.code() == 403)
        .map(ToString::to_string)
        .collect();
    assert!(denied.is_empty(), "{denied:#?}");
    let (granted, used) = (
        granted(&account.objects, &account.name()),
        used(&events, &account.user()),
    );
    // The operator reads a grant again only if the grant changes in the milliseconds between two writes of one
    // reconcile.
    let rare = |(_, resource, verb): &&Right| verb == "get" && resource.ends_with("loadgrants");
    let left_over: Vec<_> = granted.difference(&used).filter(|right| !rare(right)).collect();
    assert!(left_over.is_empty(), "permissions that were never used: {left_over:#?}");
    let unknown: Vec<_> = used.difference(&granted).collect();
    assert!(
        unknown.is_empty(),
        "permissions that were used but not granted by these roles: {unknown:#?}"
    );
}

/// With `watchSecrets` the operator replaces a deleted Secret at once.
#[test]
fn watch_secrets_lets_operator_replace_deleted_secret_at_once() {
    let _alone = operator_for_all_namespaces();
    let (home, tenant) = (Tenant::new("operator"), Tenant::new("watched"));
    let account = Account::new(&home, &["watchSecrets=true"]);
    copy_credentials(&home, &tenant);
    let _operator = account.operator(&[]);
    tenant.apply(&[tenant.grant("DownloadGrant", "down", json!({"expirationSeconds": 600}))]);
    tenant.reason("dg/down", "Issued");
    let uid = tenant.get("secret/down").expect("it is there")["metadata"]["uid"].clone();
    tenant.kubectl(&["delete", "secret", "down"]);
    eventually(SOON, "the Secret to be restored", || {
        tenant.get("secret/down").filter(|s| s["metadata"]["uid"] != uid)
    });
}

/// With `scopedNamespace` the operator serves one namespace with rights in that namespace only, and no request is
/// denied.
#[test]
fn scoped_operator_works_with_permissions_in_one_namespace() {
    // The operator serves one namespace only, but it also writes the status of ClusterObjectStores, which all tests
    // share.
    let _alone = operator_for_all_namespaces();
    let (home, tenant, other) = (Tenant::new("operator"), Tenant::new("served"), Tenant::new("unserved"));
    let account = Account::new(&home, &[NEAR, &format!("scopedNamespace={}", tenant.name())]);
    copy_credentials(&home, &tenant);
    let mark = home.world.plane.audit_mark().expect("there is a log");
    let operator = account.operator(&[]);
    whole_job(&tenant, &operator);
    other.apply(&[other.grant("DownloadGrant", "down", json!({}))]);
    operator.terminate().expect("it stops");
    let events = home.world.plane.audit_since(mark).expect("there is a log");
    let of_account: Vec<_> = events.iter().filter(|e| e.user() == account.user()).collect();
    let denied: Vec<_> = of_account
        .iter()
        .filter(|e| e.code() == 403)
        .map(ToString::to_string)
        .collect();
    assert!(denied.is_empty(), "{denied:#?}");
    let unseen = other.get("dg/down").expect("it is there");
    assert_eq!(
        says(&unseen, "Ready"),
        "Unknown Pending",
        "no operator has reconciled the store"
    );
    assert!(!account.rights(other.name()).contains_key("secrets"));
}

/// With `rbac.secretsNamespaces` the operator sees grants in all namespaces and issues credentials only in the listed
/// ones.
#[test]
fn secrets_are_written_only_in_the_listed_namespaces() {
    let _alone = operator_for_all_namespaces();
    let (home, listed, other) = (Tenant::new("operator"), Tenant::new("listed"), Tenant::new("unlisted"));
    let account = Account::new(&home, &[&format!("rbac.secretsNamespaces={{{}}}", listed.name())]);
    copy_credentials(&home, &listed);
    copy_credentials(&home, &other);
    let _operator = account.operator(&[]);
    for t in [&listed, &other] {
        t.apply(&[t.grant("DownloadGrant", "down", json!({"expirationSeconds": 600}))]);
    }
    listed.reason("dg/down", "Issued");
    let waits = other.reason("dg/down", "SecretNotWritable");
    let conditions = waits["status"]["conditions"].to_string();
    assert!(
        conditions.contains("cannot create resource"),
        "the condition has the message of the apiserver: {conditions}"
    );
    assert!(other.get("secret/down").is_none());
}
