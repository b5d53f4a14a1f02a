//! Tests of several operators that divide the stores among themselves (`--shards`).

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use serde_json::{Value, json};
use valet::{
    api::StoreKind,
    core::{Shard, StoreId},
};
use valet_harness::{AuditEvent, AuditMark, Operator, OperatorOptions, eventually};

use crate::world::{SOON, Tenant, VALET, condition, says, with_reason};

/// The number of shards.
const SHARDS: u16 = 2;
/// The number of grants of each kind for each store.
const GRANTS: usize = 20;

/// Returns the number of the shard that serves a ClusterObjectStore.
fn shard_of(store: &str) -> u16 {
    let id: StoreId = (StoreKind::ClusterObjectStore, String::new(), store.to_owned());
    let shards = (0..SHARDS).map(|index| Shard::new(index, SHARDS).unwrap());
    let serving: Vec<_> = shards.filter(|shard| shard.serves(&id)).collect();
    assert_eq!(serving.len(), 1);
    serving[0].index()
}

/// A tenant with two stores for each shard. All stores have the same bucket.
struct Stage {
    t: Tenant,
    /// The names of the stores.
    stores: Vec<String>,
}

impl Stage {
    fn new() -> Self {
        let t = Tenant::new("shards");
        // The shards use their own Leases in their own operator namespace.
        let mut credentials = t.credentials(t.world.s3.access_key(), t.world.s3.secret_key());
        credentials["metadata"]["namespace"] = json!(t.name());
        t.apply(&[credentials]);
        let names = || (0..).map(|n| format!("{}-{n}", t.name()));
        let of = |shard| names().filter(move |name| shard_of(name) == shard).take(2);
        let stores: Vec<_> = (0..SHARDS).flat_map(of).collect();
        let objects: Vec<_> = stores
            .iter()
            .map(|name| {
                let mut store = t.store();
                store["metadata"]["name"] = json!(name);
                store
            })
            .collect();
        t.apply(&objects);
        for name in ["shard-0", "shard-1", "all"] {
            let metadata = json!({"name": name, "namespace": t.name()});
            let role =
                json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"});
            t.apply(&[
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
                json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                    "metadata": {"name": format!("{}-{name}", t.name())}, "roleRef": role,
                    "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": t.name()}],
                }),
            ]);
        }
        Self { t, stores }
    }

    /// Starts an operator with a service account of its own, so that the audit log shows which operator sent a request.
    fn operator(&self, account: &str, args: &[&str]) -> Operator {
        let plane = &self.t.world.plane;
        let token = plane.service_account_token(self.t.name(), account).unwrap();
        let common = [
            "--leader-elect".to_owned(),
            format!("--operator-namespace={}", self.t.name()),
        ];
        let options = OperatorOptions {
            namespace: Some(self.t.name().to_owned()),
            token: Some(token),
            args: common
                .into_iter()
                .chain(args.iter().map(|arg| (*arg).to_owned()))
                .collect(),
            ..OperatorOptions::default()
        };
        Operator::start(&VALET, plane, &options).unwrap()
    }

    fn shard(&self, index: u16) -> Operator {
        let operator = self.operator(
            &format!("shard-{index}"),
            &[&format!("--shards={SHARDS}"), &format!("--shard={index}")],
        );
        eventually(SOON, "the shard to have a leader", || {
            operator.leads_with_label().then_some(())
        });
        operator
    }

    fn grant(&self, kind: &str, name: &str, store: &str) -> Value {
        let spec = json!({"storeRef": {"kind": "ClusterObjectStore", "name": store}});
        self.t.grant(kind, name, spec)
    }

    /// The writes of the operators since the mark: the resource, the object and the operator's service account.
    fn writes(&self, since: AuditMark) -> Vec<(String, String, String)> {
        let prefix = format!("system:serviceaccount:{}:", self.t.name());
        let all = self.t.world.plane.audit_since(since).unwrap();
        let is_written = |e: &&AuditEvent| e.is_write() && e.code() < 300 && e.resource() != "events";
        let written = all.iter().filter(is_written).filter_map(|e| {
            let account = e.user().strip_prefix(&prefix)?;
            Some((e.resource().to_owned(), e.name().to_owned(), account.to_owned()))
        });
        written.collect()
    }
}

/// Whether the metrics of a shard say that this replica is the leader. The metrics of a shard have the label `shard`.
trait Leads {
    fn leads_with_label(&self) -> bool;
}

impl Leads for Operator {
    fn leads_with_label(&self) -> bool {
        let metrics = self.metrics().unwrap_or_default();
        metrics
            .lines()
            .any(|line| line.starts_with("valet_leader{") && line.ends_with(" 1"))
    }
}

/// Two shards serve four stores. Each shard writes only its own stores and their grants, and writes each object once.
/// If one shard is lost, its grants wait. An operator without shards then serves all grants, although the other shard
/// still works.
#[test]
fn each_shard_serves_its_own_stores_and_their_grants() {
    let stage = Stage::new();
    let t = &stage.t;
    let mark = t.mark();
    let shards = [stage.shard(0), stage.shard(1)];
    for store in &stage.stores {
        eventually(SOON, "the store to be ready", || {
            t.get(&format!("costore/{store}"))
                .filter(|store| says(store, "Ready") == "True Ready")
        });
    }

    // The name of each grant, and the shard that must serve it.
    let mut expected: BTreeMap<String, u16> = BTreeMap::new();
    let mut grants = vec![];
    for (number, store) in stage.stores.iter().enumerate() {
        for n in 0..GRANTS {
            for (kind, short) in [("UploadGrant", "u"), ("DownloadGrant", "d")] {
                let name = format!("{short}{number}-{n}");
                grants.push(stage.grant(kind, &name, store));
                expected.insert(name, shard_of(store));
            }
        }
    }
    t.apply(&grants);
    let issued = || with_reason(t, "uploadgrants,downloadgrants", "Issued");
    eventually(SOON, "all grants to be issued", || {
        (issued().len() == expected.len()).then_some(())
    });
    let active = t.get("ug/u0-0").unwrap();
    assert_eq!(condition(&active, "Active").unwrap()["status"], "True");
    // The watch events of the operators' own writes arrive within this time, and so would any write that they cause.
    sleep(Duration::from_secs(3));

    let mut secrets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut statuses: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (resource, name, account) in stage.writes(mark) {
        match resource.as_str() {
            "secrets" if name == "valet-record-key" => {}
            "secrets" => secrets.entry(name).or_default().push(account),
            "uploadgrants" | "downloadgrants" => statuses.entry(name).or_default().push(account),
            "clusterobjectstores" => assert_eq!(account, format!("shard-{}", shard_of(&name)), "{name}"),
            "leases" => assert!(
                name.is_empty() || name == format!("valet-{account}"),
                "{name} {account}"
            ),
            other => panic!("{account} wrote {other} {name}"),
        }
    }
    let once: BTreeMap<_, _> = expected
        .iter()
        .map(|(name, shard)| (name.clone(), vec![format!("shard-{shard}")]))
        .collect();
    assert_eq!(secrets, once, "each Secret is written once, by the shard of its store");
    assert_eq!(statuses, once, "each status is written once, by the shard of its store");
    for (index, shard) in shards.iter().enumerate() {
        let metrics = shard.metrics().unwrap();
        let label = format!("{{shard=\"{index}\"");
        assert!(
            metrics.contains(&format!("valet_shards{label}}} {SHARDS}\n")),
            "{metrics}"
        );
        for kind in ["UploadGrant", "DownloadGrant"] {
            let line = format!(
                "valet_grants{label},kind=\"{kind}\",namespace=\"{}\",reason=\"Issued\"}} 40\n",
                t.name()
            );
            assert!(metrics.contains(&line), "{line} is not in {metrics}");
        }
        let unlabelled = metrics
            .lines()
            .filter(|line| line.starts_with("valet_"))
            .find(|line| !line.contains(&label));
        assert_eq!(unlabelled, None);
    }

    // An upload and a download in a store of each shard.
    let file = t.file("upload", b"shards");
    for number in [0, 2] {
        assert_eq!(t.mount(&format!("u{number}-0")).upload(&file).0, 200);
        let download = t.grant("DownloadGrant", &format!("read-{number}"), json!({
            "storeRef": {"kind": "ClusterObjectStore", "name": stage.stores[number]}, "key": t.key(&format!("u{number}-0")),
        }));
        t.apply(&[download]);
        t.reason(&format!("ug/u{number}-0"), "Completed");
        t.reason(&format!("dg/read-{number}"), "Issued");
        assert_eq!(t.mount(&format!("read-{number}")).curl(&[]), (200, "shards".to_owned()));
    }

    // One shard is lost. The grants of the other shard are issued, and the grants of the lost shard wait.
    let [first, second] = shards;
    second.kill();
    drop(second);
    t.apply(&[
        stage.grant("DownloadGrant", "after-0", &stage.stores[0]),
        stage.grant("DownloadGrant", "after-1", &stage.stores[2]),
    ]);
    t.reason("dg/after-0", "Issued");
    sleep(Duration::from_secs(5));
    assert_eq!(says(&t.get("dg/after-1").unwrap(), "Ready"), "Unknown Pending");

    // An operator without shards takes over all stores while the first shard still runs.
    let mark = t.mark();
    let all = stage.operator("all", &["--shards=1"]);
    eventually(SOON, "the operator to become the leader", || all.leads().then_some(()));
    t.reason("dg/after-1", "Issued");
    t.apply(&[
        stage.grant("DownloadGrant", "last-0", &stage.stores[0]),
        stage.grant("DownloadGrant", "last-1", &stage.stores[2]),
    ]);
    t.reason("dg/last-0", "Issued");
    t.reason("dg/last-1", "Issued");
    sleep(Duration::from_secs(3));
    let mut written: Vec<_> = stage
        .writes(mark)
        .into_iter()
        .filter_map(|(resource, name, _)| (resource == "secrets").then_some(name))
        .collect();
    written.sort();
    assert_eq!(
        written,
        ["after-1", "last-0", "last-1"],
        "no credential is issued twice"
    );
    drop((first, all));
}
