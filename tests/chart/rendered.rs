//! Tests of how chart values change the rendered objects.

use serde_json::{Value, json};

use crate::helm::{CHART, Objects, objects, ok, text_of};

/// The kinds and names of all objects that the chart renders by default.
#[test]
fn default_values_render_the_expected_objects() {
    let all: Vec<_> = objects(&[])
        .0
        .iter()
        .map(|o| {
            format!(
                "{} {}",
                o["kind"].as_str().unwrap_or_default(),
                o["metadata"]["name"].as_str().unwrap_or_default()
            )
        })
        .collect();
    let mut all: Vec<_> = all.iter().map(String::as_str).collect();
    all.sort_unstable();
    assert_eq!(
        all,
        [
            "ClusterRole valet",
            "ClusterRole valet-clusterobjectstores-edit",
            "ClusterRole valet-edit",
            "ClusterRole valet-objectstores-edit",
            "ClusterRole valet-view",
            "ClusterRoleBinding valet",
            "CustomResourceDefinition clusterobjectstores.valetkey.dev",
            "CustomResourceDefinition downloadgrants.valetkey.dev",
            "CustomResourceDefinition objectstores.valetkey.dev",
            "CustomResourceDefinition uploadgrants.valetkey.dev",
            "Deployment valet",
            "PodDisruptionBudget valet",
            "Role valet-operator",
            "RoleBinding valet-operator",
            "Service valet",
            "ServiceAccount valet",
            "ValidatingAdmissionPolicy valet-gitops",
            "ValidatingAdmissionPolicy valet-grant-secrets",
            "ValidatingAdmissionPolicy valet-grants",
            "ValidatingAdmissionPolicy valet-secrets",
            "ValidatingAdmissionPolicyBinding valet-gitops",
            "ValidatingAdmissionPolicyBinding valet-grant-secrets",
            "ValidatingAdmissionPolicyBinding valet-grants",
            "ValidatingAdmissionPolicyBinding valet-secrets",
        ]
    );
}

#[test]
fn every_object_has_standard_labels_and_common_labels() {
    let values = [
        "commonLabels.team=platform",
        "networkPolicy.enabled=true",
        "serviceMonitor.enabled=true",
        "prometheusRule.enabled=true",
        "rbac.secretsNamespaces={web}",
    ];
    for object in objects(&values).0 {
        let labels = &object["metadata"]["labels"];
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        assert_eq!(labels["app.kubernetes.io/name"], "valet", "{name}");
        assert_eq!(labels["app.kubernetes.io/instance"], "valet", "{name}");
        assert_eq!(labels["app.kubernetes.io/managed-by"], "Helm", "{name}");
        assert_eq!(labels["team"], "platform", "{name}");
        let scope = object["metadata"]["namespace"].as_str();
        let cluster = ["Cluster", "Custom", "Validating"];
        let is_cluster = cluster
            .iter()
            .any(|c| object["kind"].as_str().unwrap_or_default().starts_with(c));
        assert_eq!(scope.is_none(), is_cluster, "{name}");
    }
}

/// The chart finds its pods by these labels. A user's labels cannot replace them, and no label appears twice.
#[test]
fn user_labels_do_not_replace_the_labels_of_the_chart() {
    let values = [
        "commonLabels.app\\.kubernetes\\.io/name=mine",
        "commonLabels.team=platform",
        "podLabels.app\\.kubernetes\\.io/instance=mine",
        "podLabels.team=keys",
        "service.labels.team=keys",
    ];
    let all = objects(&values);
    let labels = &all.get("Deployment", "valet")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["app.kubernetes.io/name"], "valet");
    assert_eq!(labels["app.kubernetes.io/instance"], "valet");
    assert_eq!(labels["team"], "keys", "the value for pods has precedence");
    assert_eq!(all.get("Service", "valet")["metadata"]["labels"]["team"], "keys");
    assert_eq!(all.get("Deployment", "valet")["metadata"]["labels"]["team"], "platform");
}

/// A user's certificate authorities are added to those in the image. The two environment variables name both.
#[test]
fn ca_bundle_is_added_to_the_public_authorities() {
    assert!(!objects(&[]).container().to_string().contains("SSL_CERT"));
    for (value, source) in [
        ("caBundle.configMap=company", json!({"configMap": {"name": "company"}})),
        ("caBundle.secret=company", json!({"secret": {"name": "company"}})),
    ] {
        let rendered = objects(&[value]);
        let volume = json!({"name": "authorities", "projected": {"sources": [source]}});
        assert_eq!(rendered.pod()["volumes"], json!([volume]));
        let container = rendered.container();
        let mount = json!({"name": "authorities", "mountPath": "/etc/valet/authorities", "readOnly": true});
        assert_eq!(container["volumeMounts"], json!([mount]));
        assert_eq!(
            container["env"].as_array().map(|env| &env[1..]),
            Some(
                &[
                    json!({"name": "SSL_CERT_FILE", "value": "/etc/ssl/certs/ca-certificates.crt"}),
                    json!({"name": "SSL_CERT_DIR", "value": "/etc/valet/authorities"}),
                ][..]
            )
        );
    }
    let both = objects(&["caBundle.configMap=a", "caBundle.secret=b"]);
    let sources = both.pod()["volumes"][0]["projected"]["sources"]
        .as_array()
        .map(Vec::len);
    assert_eq!(sources, Some(2));
}

#[test]
fn object_names_follow_the_release_name() {
    let named = |release: &str, values: &[&str]| {
        let objects = Objects::parse(&text_of(release, "valet-system", values));
        objects.kind("Deployment")[0]["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(named("valet", &[]), "valet");
    assert_eq!(named("my-valet", &[]), "my-valet");
    assert_eq!(named("keys", &[]), "keys-valet");
    assert_eq!(named("keys", &["nameOverride=doors"]), "keys-doors");
    assert_eq!(named("keys", &["fullnameOverride=doors"]), "doors");
    // A Service name has no dots and starts with a letter; a release name may differ.
    assert_eq!(named("eu.valet", &[]), "eu-valet");
    assert_eq!(named("2-valet", &[]), "valet-2-valet");
    assert_eq!(named("keys", &["fullnameOverride=2doors"]), "valet-2doors");
    assert_eq!(
        named("keys", &[&format!("fullnameOverride={}", "a".repeat(63))]).len(),
        52
    );
    let long = "a".repeat(53);
    assert_eq!(named(&long, &[]).len(), 52, "the name leaves room for suffixes");
}

#[test]
fn operator_arguments_follow_the_values() {
    let flags = |values: &[&str]| objects(values).args();
    assert_eq!(
        flags(&[]),
        [
            "controller",
            "--operator-namespace=valet-system",
            "--http-address=0.0.0.0:8080",
            "--log-level=info,kube_runtime=warn",
            "--log-format=json",
            "--concurrency=64",
            "--resync-seconds=600",
            "--ttl-seconds-after-finished=3600",
            "--leader-elect",
        ]
    );
    for (value, flag) in [
        ("watchSecrets=true", "--watch-secrets"),
        (
            "shareCredentialsWithNamespaces=true",
            "--share-credentials-with-namespaces",
        ),
        ("scopedNamespace=web", "--namespace=web"),
        ("ttlSecondsAfterFinished=never", "--ttl-seconds-after-finished=never"),
        ("ttlSecondsAfterFinished=0", "--ttl-seconds-after-finished=0"),
        ("resyncSeconds=86400", "--resync-seconds=86400"),
        ("concurrency=4", "--concurrency=4"),
        ("log.level=debug", "--log-level=debug"),
        ("log.format=human", "--log-format=human"),
        ("listenAddress=[::]", "--http-address=[::]:8080"),
        (
            "allowPrivateEndpoints={10.0.0.0/8,fd00::/8}",
            "--allow-private-endpoints=10.0.0.0/8,fd00::/8",
        ),
        (
            "denyEndpoints={198.51.100.0/24,2001:db8:64::/96}",
            "--deny-endpoints=198.51.100.0/24,2001:db8:64::/96",
        ),
        (
            "allowSecretMetadata={app.kubernetes.io,example.com}",
            "--allow-secret-metadata=app.kubernetes.io,example.com",
        ),
        ("extraArgs={--context=x}", "--context=x"),
    ] {
        let args = flags(&[value]);
        assert!(args.iter().any(|a| a == flag), "{value}: {args:?}");
    }
    assert!(!flags(&["leaderElect=false"]).iter().any(|a| a == "--leader-elect"));
    // Large numbers are rendered without an exponent.
    let args = flags(&["ttlSecondsAfterFinished=31536000"]);
    assert!(
        args.iter().any(|a| a == "--ttl-seconds-after-finished=31536000"),
        "{args:?}"
    );
}

#[test]
fn image_is_named_by_tag_and_digest() {
    let image = |values: &[&str]| {
        objects(values).container()["image"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(image(&["image.repository=r/v", "image.tag=v9"]), "r/v:v9");
    let digest = format!("sha256:{}", "0".repeat(64));
    assert_eq!(
        image(&[
            "image.repository=r/v",
            "image.tag=v9",
            &format!("image.digest={digest}")
        ]),
        format!("r/v:v9@{digest}")
    );
}

#[test]
fn pod_has_a_restricted_security_context() {
    let objects = objects(&[]);
    let pod = objects.pod();
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["runAsUser"], 65532);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = objects.container();
    assert_eq!(
        container["securityContext"],
        json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        })
    );
    assert_eq!(
        container["livenessProbe"]["httpGet"],
        json!({"path": "/livez", "port": "http-metrics"})
    );
    assert_eq!(
        container["readinessProbe"]["httpGet"],
        json!({"path": "/readyz", "port": "http-metrics"})
    );
    assert_eq!(container["env"][0]["name"], "POD_NAME");
    assert_eq!(
        container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"],
        "metadata.name"
    );
    assert_eq!(pod["terminationGracePeriodSeconds"], 30);
    assert_eq!(pod["enableServiceLinks"], false);
    // OpenShift chooses the user and group IDs itself.
    let unnumbered = crate::helm::objects(&[
        "podSecurityContext.runAsUser=null",
        "podSecurityContext.runAsGroup=null",
        "podSecurityContext.fsGroup=null",
    ]);
    assert_eq!(
        unnumbered.pod()["securityContext"],
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}})
    );
    // The topology spread counts only the pods of this release and version.
    let spread = &pod["topologySpreadConstraints"][0];
    assert_eq!(
        spread["labelSelector"]["matchLabels"],
        objects.get("Deployment", "valet")["spec"]["selector"]["matchLabels"]
    );
    assert_eq!(spread["matchLabelKeys"], json!(["pod-template-hash"]));
    assert_eq!(
        objects.get("ServiceAccount", "valet")["automountServiceAccountToken"],
        false
    );
    assert_eq!(pod["automountServiceAccountToken"], true);
}

#[test]
fn pod_values_are_rendered_into_the_pod() {
    let file = concat!(env!("VALET_ROOT"), "/tests/chart/values/everything.yaml");
    let all = Objects::parse(&ok(&[
        "template",
        "valet",
        CHART,
        "--namespace",
        "valet-system",
        "--values",
        file,
    ]));
    let set: Value = serde_yaml::from_str(&std::fs::read_to_string(file).expect("the file is there")).expect("YAML");
    let deployment = all.get("Deployment", "valet-keys");
    let template = &deployment["spec"]["template"];
    let pod = all.pod();
    for name in [
        "imagePullSecrets",
        "tolerations",
        "affinity",
        "priorityClassName",
        "runtimeClassName",
        "hostAliases",
        "dnsPolicy",
        "dnsConfig",
    ] {
        assert_eq!(pod[name], set[name], "{name}");
    }
    assert_eq!(pod["hostUsers"], set["hostUsers"]);
    assert_eq!(pod["containers"][1], set["extraContainers"][0]);
    assert_eq!(pod["initContainers"], set["extraInitContainers"]);
    assert_eq!(pod["volumes"][1], set["extraVolumes"][0]);
    assert_eq!(all.container()["volumeMounts"][1], set["extraVolumeMounts"][0]);
    assert_eq!(all.container()["env"][2], set["extraEnv"][0]);
    assert_eq!(all.container()["env"][3], set["extraEnv"][1]);
    assert_eq!(template["metadata"]["labels"]["tier"], "control");
    assert_eq!(template["metadata"]["labels"]["team"], "platform");
    assert_eq!(template["metadata"]["annotations"]["sidecar.istio.io/inject"], "false");
    assert_eq!(deployment["metadata"]["annotations"], set["deploymentAnnotations"]);
    assert_eq!(deployment["spec"]["strategy"], set["strategy"]);
    assert_eq!(
        deployment["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"],
        "keys"
    );
    let account = all.get("ServiceAccount", "signer");
    assert_eq!(account["metadata"]["annotations"], set["serviceAccount"]["annotations"]);
    assert_eq!(account["metadata"]["labels"]["azure.workload.identity/use"], "true");
    assert_eq!(pod["serviceAccountName"], "signer");
    let service = all.get("Service", "valet-keys");
    assert_eq!(service["metadata"]["annotations"], set["service"]["annotations"]);
    assert_eq!(service["spec"]["ipFamilies"], set["service"]["ipFamilies"]);
    for crd in all.kind("CustomResourceDefinition") {
        let annotations = &crd["metadata"]["annotations"];
        assert_eq!(annotations["argocd.argoproj.io/sync-options"], "ServerSideApply=true");
        assert_eq!(annotations["helm.sh/resource-policy"], "keep");
    }
    // Users can add objects as a map or as text, with templates in both.
    assert_eq!(all.get("ConfigMap", "notice")["data"]["release"], "valet");
    assert_eq!(
        all.get("ConfigMap", "valet-keys-notice")["metadata"]["namespace"],
        "valet-system"
    );
    let egress = &all.get("NetworkPolicy", "valet-keys")["spec"]["egress"];
    assert_eq!(egress[0]["to"], set["networkPolicy"]["egress"]["dns"]["to"]);
    assert_eq!(egress[1]["to"], set["networkPolicy"]["egress"]["apiServer"]["to"]);
    assert_eq!(egress[3], set["networkPolicy"]["egress"]["extra"][0]);
}

#[test]
fn disabled_objects_are_not_rendered() {
    for (value, kind, name) in [
        ("serviceAccount.create=false", "ServiceAccount", "valet"),
        ("rbac.create=false", "ClusterRole", "valet"),
        ("rbac.create=false", "ClusterRoleBinding", "valet"),
        ("rbac.create=false", "Role", "valet-operator"),
        ("rbac.create=false", "ClusterRole", "valet-edit"),
        (
            "crds.enabled=false",
            "CustomResourceDefinition",
            "uploadgrants.valetkey.dev",
        ),
        ("podDisruptionBudget.enabled=false", "PodDisruptionBudget", "valet"),
        (
            "admissionPolicy.secrets.enabled=false",
            "ValidatingAdmissionPolicy",
            "valet-secrets",
        ),
        (
            "admissionPolicy.secrets.enabled=false",
            "ValidatingAdmissionPolicyBinding",
            "valet-secrets",
        ),
        (
            "admissionPolicy.grantSecrets.enabled=false",
            "ValidatingAdmissionPolicy",
            "valet-grant-secrets",
        ),
        (
            "admissionPolicy.grantSecrets.enabled=false",
            "ValidatingAdmissionPolicyBinding",
            "valet-grant-secrets",
        ),
        (
            "admissionPolicy.grants.enabled=false",
            "ValidatingAdmissionPolicy",
            "valet-grants",
        ),
        (
            "admissionPolicy.grants.enabled=false",
            "ValidatingAdmissionPolicyBinding",
            "valet-grants",
        ),
        (
            "admissionPolicy.gitops.enabled=false",
            "ValidatingAdmissionPolicy",
            "valet-gitops",
        ),
        (
            "admissionPolicy.gitops.enabled=false",
            "ValidatingAdmissionPolicyBinding",
            "valet-gitops",
        ),
    ] {
        objects(&[]).get(kind, name);
        assert!(objects(&[value]).find(kind, name).is_none(), "{value}: {kind} {name}");
    }
    let other = objects(&["serviceAccount.create=false", "serviceAccount.name=mine"]);
    assert_eq!(other.pod()["serviceAccountName"], "mine");
    assert_eq!(other.get("ClusterRoleBinding", "valet")["subjects"][0]["name"], "mine");
    for name in ["valet-secrets", "valet-grants"] {
        let policy = other.get("ValidatingAdmissionPolicy", name);
        assert_eq!(
            policy["spec"]["matchConditions"][0]["expression"],
            "request.userInfo.username == 'system:serviceaccount:valet-system:mine'"
        );
    }
    let guard = other
        .get("ValidatingAdmissionPolicy", "valet-grant-secrets")
        .to_string();
    assert!(
        guard.contains("['system:serviceaccount:valet-system:mine', "),
        "{guard}"
    );
}

/// The operator's account writes no Secrets in the namespaces that the value lists, nor in its own namespace unless
/// it serves that.
#[test]
fn release_namespace_is_protected_unless_it_is_served() {
    for (values, protected) in [
        (
            &[][..],
            "['kube-system', 'kube-public', 'kube-node-lease', 'valet-system']",
        ),
        (
            &["scopedNamespace=valet-system"],
            "['kube-system', 'kube-public', 'kube-node-lease']",
        ),
        (
            &["rbac.secretsNamespaces={valet-system,web}"],
            "['kube-system', 'kube-public', 'kube-node-lease']",
        ),
        (&["scopedNamespace=web"], "'valet-system']"),
        (
            &["admissionPolicy.secrets.protectedNamespaces={argocd,valet-system}"],
            "['argocd', 'valet-system']",
        ),
    ] {
        let rendered = objects(values);
        let policy = rendered.get("ValidatingAdmissionPolicy", "valet-secrets").to_string();
        assert!(policy.contains(protected), "{values:?}: {policy}");
    }
}

/// The chart's CRDs are those that the program prints. An uninstall keeps them and their objects by default.
#[test]
fn crds_of_the_chart_equal_those_of_the_program() {
    let printed = valet_harness::operator::crds(&crate::world::VALET).expect("valet crds runs");
    let printed = Objects::parse(&printed);
    for (keep, annotations) in [
        ("true", json!({"helm.sh/resource-policy": "keep"})),
        ("false", Value::Null),
    ] {
        let rendered = objects(&[&format!("crds.keep={keep}")]);
        let rendered = rendered.kind("CustomResourceDefinition");
        assert_eq!(rendered.len(), printed.0.len());
        for (rendered, printed) in rendered.iter().zip(&printed.0) {
            assert_eq!(rendered["metadata"]["name"], printed["metadata"]["name"]);
            assert_eq!(rendered["spec"], printed["spec"], "{}", printed["metadata"]["name"]);
            assert_eq!(rendered["metadata"]["annotations"], annotations);
        }
    }
}

#[test]
fn disruption_budget_has_exactly_one_limit() {
    let spec = |value: &str| objects(&[value]).get("PodDisruptionBudget", "valet")["spec"].clone();
    let plain = spec("replicaCount=2");
    assert_eq!(
        (&plain["maxUnavailable"], &plain["minAvailable"]),
        (&json!(1), &Value::Null)
    );
    let least = spec("podDisruptionBudget.minAvailable=1");
    assert_eq!(
        (&least["maxUnavailable"], &least["minAvailable"]),
        (&Value::Null, &json!(1))
    );
    let none = spec("podDisruptionBudget.minAvailable=0");
    assert_eq!(
        (&none["maxUnavailable"], &none["minAvailable"]),
        (&Value::Null, &json!(0))
    );
    assert_eq!(spec("podDisruptionBudget.minAvailable=50%")["minAvailable"], "50%");
}

#[test]
fn network_policy_allows_the_required_egress() {
    let rendered = objects(&[
        "networkPolicy.enabled=true",
        "networkPolicy.egress.stores.ports={443,9000}",
    ]);
    let spec = &rendered.get("NetworkPolicy", "valet")["spec"];
    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(
        spec["podSelector"]["matchLabels"],
        rendered.get("Deployment", "valet")["spec"]["selector"]["matchLabels"]
    );
    assert_eq!(
        spec["ingress"],
        json!([{"ports": [{"port": "http-metrics", "protocol": "TCP"}]}])
    );
    let ports = |rule: &Value| -> Vec<i64> {
        rule["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|p| p["port"].as_i64())
            .collect()
    };
    let egress = spec["egress"].as_array().expect("there are rules");
    assert_eq!(
        egress.iter().map(ports).collect::<Vec<_>>(),
        [vec![53, 53], vec![443, 6443], vec![443, 9000]]
    );
    for rule in [1, 2] {
        assert_eq!(egress[rule]["to"][0]["ipBlock"]["except"], json!(["169.254.0.0/16"]));
    }
    let rendered = objects(&[
        "networkPolicy.enabled=true",
        "networkPolicy.egress.apiServer.to[0].ipBlock.cidr=10.10.0.1/32",
        "networkPolicy.egress.stores.to[0].ipBlock.cidr=10.20.0.0/16",
    ]);
    let egress = &rendered.get("NetworkPolicy", "valet")["spec"]["egress"];
    assert_eq!(egress[1]["to"], json!([{"ipBlock": {"cidr": "10.10.0.1/32"}}]));
    assert_eq!(egress[2]["to"], json!([{"ipBlock": {"cidr": "10.20.0.0/16"}}]));
}

/// The chart's roles for users are aggregated into the Kubernetes roles, and none of them includes Secrets.
#[test]
fn roles_for_users_never_include_secrets() {
    let label = |role: &Value, to: &str| {
        role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{to}")] == "true"
    };
    let aggregated = |values: &[&str], name: &str| {
        let rendered = objects(values);
        let role = rendered.get("ClusterRole", name);
        let rules = role["rules"].to_string();
        assert!(
            !rules.contains("secrets") && !rules.contains("status") && !rules.contains('*'),
            "{rules}"
        );
        ["view", "edit", "admin"].map(|to| label(role, to))
    };
    assert_eq!(aggregated(&[], "valet-view"), [true, true, true]);
    assert_eq!(aggregated(&[], "valet-edit"), [false, true, true]);
    assert_eq!(aggregated(&[], "valet-objectstores-edit"), [false, false, false]);
    assert_eq!(aggregated(&[], "valet-clusterobjectstores-edit"), [false, false, false]);
    let to = |who: &str| {
        aggregated(
            &[&format!("rbac.aggregateObjectStores={who}")],
            "valet-objectstores-edit",
        )
    };
    assert_eq!(to("admin"), [false, false, true]);
    assert_eq!(to("edit"), [false, true, true]);
    assert_eq!(
        aggregated(&["rbac.aggregateToView=false"], "valet-view"),
        [false, true, true]
    );
    assert_eq!(
        aggregated(&["rbac.aggregateToEdit=false"], "valet-edit"),
        [false, false, true]
    );
    assert_eq!(
        aggregated(&["rbac.aggregateToAdmin=false"], "valet-edit"),
        [false, true, false]
    );
}
