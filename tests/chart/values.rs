//! Tests of which chart values are accepted and which are refused with a message.

use serde_json::json;

use crate::helm::{self, CHART, objects, refused, set};

/// Values files, each for one typical use of the chart.
const FILES: [&str; 4] = ["production", "one-namespace", "few-secrets", "everything"];

fn file(name: &str) -> String {
    format!("{}/tests/chart/values/{name}.yaml", env!("VALET_ROOT"))
}

#[test]
fn helm_lint_reports_no_warning() {
    helm::ok(&["lint", "--strict", CHART]);
    for name in FILES {
        let said = helm::ok(&["lint", "--strict", CHART, "--values", &file(name)]);
        assert!(
            !said.contains("[WARNING]") && !said.contains("[ERROR]"),
            "{name}: {said}"
        );
    }
}

#[test]
fn invalid_value_is_rejected_with_its_name() {
    for (value, message) in [
        ("replica=3", "additional properties 'replica' not allowed"),
        // Other charts use these names for the same value.
        (
            "replicas=3",
            "at '/replicas': value must be 'omitted; use replicaCount instead'",
        ),
        ("installCRDs=true", "omitted; use crds.enabled instead"),
        (
            "image.registry=x",
            "omitted; use image.repository instead, with the registry as a prefix",
        ),
        (
            "serviceAccount.extraLabels.a=b",
            "omitted; use serviceAccount.labels instead",
        ),
        (
            "https_proxy=http://p:3128",
            "omitted; use extraEnv instead, with the variable HTTPS_PROXY",
        ),
        // A null value removes the default. That must not turn off a protection.
        ("crds.keep=null", "at '/crds': missing property 'keep'"),
        (
            "admissionPolicy.secrets.enabled=null",
            "at '/admissionPolicy/secrets': missing property 'enabled'",
        ),
        (
            "admissionPolicy.secrets.protectedNamespaces=null",
            "at '/admissionPolicy/secrets': missing property 'protectedNamespaces'",
        ),
        (
            "admissionPolicy.secrets.protectedNamespaces={kube_system}",
            "at '/admissionPolicy/secrets/protectedNamespaces/0'",
        ),
        (
            "admissionPolicy.grantSecrets=null",
            "at '/admissionPolicy': missing property 'grantSecrets'",
        ),
        // The value becomes part of a CEL expression.
        (
            "admissionPolicy.grantSecrets.exemptUsers={it's}",
            "at '/admissionPolicy/grantSecrets/exemptUsers/0'",
        ),
        // Without a list the policy would refuse every label. An empty list is the explicit way to ask for that.
        ("allowSecretMetadata=null", "missing property 'allowSecretMetadata'"),
        (
            "allowSecretMetadata={example.com/x}",
            "at '/allowSecretMetadata/0': 'example.com/x' does not match pattern",
        ),
        ("resyncSeconds=null", "missing property 'resyncSeconds'"),
        ("log=null", "missing property 'log'"),
        ("hostUsers=no", "at '/hostUsers'"),
        (
            "caBundle.configMap=My CA",
            "at '/caBundle/configMap': 'My CA' does not match pattern",
        ),
        (
            "extraContainers[0].name=a",
            "at '/extraContainers/0': missing property 'image'",
        ),
        ("replicaCount=two", "at '/replicaCount': got string, want integer"),
        ("replicaCount=-1", "at '/replicaCount': minimum: got -1, want 0"),
        (
            "image.pullPolicy=Sometimes",
            "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'",
        ),
        (
            "notifications.snsTopics={https://sns.example.com}",
            "at '/notifications/snsTopics/0'",
        ),
        (
            "notifications.snsTopics={arn:aws:sns:eu-west-1:111122223333:uploads}",
            "at '/notifications/snsTopics/0'",
        ),
        (
            "notifications.google.accounts={nobody=media}",
            "at '/notifications/google/accounts/0'",
        ),
        (
            "notifications.google.audience=a b",
            "at '/notifications/google/audience'",
        ),
        (
            "notifications.google.token=x",
            "additional properties 'token' not allowed",
        ),
        ("notifications.token=x", "additional properties 'token' not allowed"),
        (
            "image.digest=sha256:12",
            "at '/image/digest': 'sha256:12' does not match pattern",
        ),
        ("image.repository=", "at '/image/repository'"),
        ("watchSecrets=yes", "at '/watchSecrets': got string, want boolean"),
        ("leaderElect=1", "at '/leaderElect': got number, want boolean"),
        ("resyncSeconds=0", "at '/resyncSeconds': minimum: got 0, want 1"),
        (
            "ttlSecondsAfterFinished=ever",
            "at '/ttlSecondsAfterFinished': value must be 'never'",
        ),
        (
            "ttlSecondsAfterFinished=-1",
            "at '/ttlSecondsAfterFinished': minimum: got -1, want 0",
        ),
        ("concurrency=1025", "at '/concurrency': maximum: got 1,025, want 1,024"),
        (
            "scopedNamespace=Web",
            "at '/scopedNamespace': 'Web' does not match pattern",
        ),
        (
            "rbac.secretsNamespaces={a_b}",
            "at '/rbac/secretsNamespaces/0': 'a_b' does not match pattern",
        ),
        (
            "rbac.aggregateObjectStores=view",
            "at '/rbac/aggregateObjectStores': value must be one of 'none', 'admin', 'edit'",
        ),
        (
            "allowPrivateEndpoints={10.0.0.1}",
            "at '/allowPrivateEndpoints/0': '10.0.0.1' does not match pattern",
        ),
        (
            "log.format=xml",
            "at '/log/format': value must be one of 'json', 'human'",
        ),
        (
            "allowPrivateEndpoints={10.0.0.0/33}",
            "at '/allowPrivateEndpoints/0': '10.0.0.0/33' does not match pattern",
        ),
        (
            "denyEndpoints={10.0.0.1}",
            "at '/denyEndpoints/0': '10.0.0.1' does not match pattern",
        ),
        (
            "allowSecretMetadata={*.example.com}",
            "at '/allowSecretMetadata/0': '*.example.com' does not match pattern",
        ),
        (
            "extraArgs={foo}",
            "at '/extraArgs/0': 'foo' does not match pattern '^-'",
        ),
        ("extraEnv[0].value=x", "at '/extraEnv/0': missing property 'name'"),
        (
            "serviceMonitor.interval=30",
            "at '/serviceMonitor/interval': got number, want string",
        ),
        (
            "podDisruptionBudget.minAvailable=most",
            "at '/podDisruptionBudget/minAvailable': 'most' does not match pattern",
        ),
        (
            "networkPolicy.egress.stores.ports={70000}",
            "at '/networkPolicy/egress/stores/ports/0': maximum",
        ),
        ("podLabels.a=1", "at '/podLabels/a': got number, want string"),
        (
            "livenessProbe.httpGet=x",
            "at '/livenessProbe': additional properties 'httpGet' not allowed",
        ),
    ] {
        let said = refused(&[&["template", "valet", CHART][..], &set(&[value])].concat());
        assert!(said.contains(message), "{value}: {said}");
    }
}

#[test]
fn contradictory_values_are_rejected() {
    for (values, message) in [
        (
            &["scopedNamespace=web", "rbac.secretsNamespaces={web}"][..],
            "scopedNamespace and rbac.secretsNamespaces cannot both be set",
        ),
        (
            &["watchSecrets=true", "rbac.secretsNamespaces={web}"],
            "watchSecrets needs the permission to list the Secrets of all namespaces",
        ),
        (
            &[
                "networkPolicy.enabled=true",
                "networkPolicy.egress.stores.to[0].ipBlock.cidr=10.20.0.0/16",
            ],
            "networkPolicy.egress.stores.to does not limit the addresses of stores",
        ),
        (
            &["rbac.credentialsSecrets={media}"],
            "rbac.credentialsSecrets alone has no effect",
        ),
        (
            &["rbac.credentialsSecrets={media}", "scopedNamespace=default"],
            "has no effect, because the operator serves the release's namespace default",
        ),
        (
            &["extraArgs={--context=x,--namespace=web}"],
            "extraArgs contains --namespace=web: set scopedNamespace instead",
        ),
        (
            &["notifications.enabled=true"],
            "notifications.enabled needs notifications.existingSecret",
        ),
        (
            &[
                "notifications.enabled=true",
                "notifications.existingSecret=x",
                "notifications.port=8080",
            ],
            "notifications.port and service.port are ports of the same Service and must be different",
        ),
        (
            &["notifications.google.accounts={a@p.iam.gserviceaccount.com=media}"],
            "notifications.google.accounts and notifications.google.audience must be set together",
        ),
        (
            &["notifications.google.audience=https://valet.example.com"],
            "notifications.google.accounts and notifications.google.audience must be set together",
        ),
        (
            &[
                "notifications.google.accounts={a@p.iam.gserviceaccount.com=media}",
                "notifications.google.audience=https://valet.example.com",
            ],
            "notifications.google.accounts has no effect without notifications.enabled",
        ),
    ] {
        let said = refused(&[&["template", "valet", CHART][..], &set(values)].concat());
        assert!(said.contains(message), "{values:?}: {said}");
    }
    objects(&["rbac.credentialsSecrets={media}", "scopedNamespace=web"]);
}

/// A null value is accepted where it has a meaning.
#[test]
fn null_is_accepted_for_optional_values() {
    for value in [
        "resources",
        "nodeSelector",
        "tolerations",
        "podSecurityContext",
        "securityContext",
        "commonLabels",
        "podLabels",
        "imagePullSecrets",
        "topologySpreadConstraints",
        "livenessProbe",
        "podDisruptionBudget.maxUnavailable",
        "revisionHistoryLimit",
        "terminationGracePeriodSeconds",
        "image.tag",
        "serviceAccount.annotations",
    ] {
        objects(&[&format!("{value}=null")]);
    }
    let budget = objects(&["podDisruptionBudget.maxUnavailable=null"]);
    assert_eq!(budget.get("PodDisruptionBudget", "valet")["spec"]["maxUnavailable"], 1);
}

/// A parent chart passes `global` values to this chart. The chart reads only the image pull secrets in them, in both
/// common formats.
#[test]
fn chart_as_a_subchart_accepts_global_values() {
    let rendered = objects(&[
        "global.imageRegistry=somewhere",
        "imagePullSecrets[0].name=own",
        "global.imagePullSecrets[0].name=own",
        "global.imagePullSecrets[1]=plain",
    ]);
    assert_eq!(
        rendered.pod()["imagePullSecrets"],
        json!([{"name": "own"}, {"name": "plain"}])
    );
}

/// The notes after an install contain no warning by default, and one warning for each risky value.
#[test]
fn install_notes_warn_about_risky_values() {
    let notes = |values: &[&str]| {
        let args = [&["install", "valet", CHART, "--dry-run=client"][..], &set(values)].concat();
        let said = helm::ok(&args);
        said.split_once("NOTES:").expect("there are notes").1.to_owned()
    };
    let plain = notes(&[]);
    assert!(plain.contains("kind: ClusterObjectStore") && plain.contains("rollout status deployment/valet"));
    assert!(!plain.contains("WARNING"), "{plain}");
    let open = "Every pod in the cluster can read the metrics";
    assert!(plain.contains(open) && !notes(&["networkPolicy.enabled=true"]).contains(open));
    let token = notes(&["notifications.enabled=true", "notifications.existingSecret=x"]);
    assert!(
        token.contains("WARNING: notifications.enabled: stores send their tokens over plain HTTP"),
        "{token}"
    );
    assert!(notes(&["scopedNamespace=team-a"]).contains("It serves namespace team-a."));
    for (value, warning) in [
        ("leaderElect=false", "WARNING: leaderElect is false with 2 replicas"),
        ("replicaCount=1", "WARNING: 1 replica:"),
        ("replicaCount=0", "WARNING: 0 replicas:"),
        ("watchSecrets=true", "every Secret of the cluster"),
        ("shareCredentialsWithNamespaces=true", "the operator's own identity"),
        ("allowPrivateEndpoints={169.254.0.0/16}", "the cloud's metadata service"),
        ("allowPrivateEndpoints={0.0.0.0/0}", "to every address"),
        ("rbac.aggregateObjectStores=edit", "every user with the role edit"),
        (
            "admissionPolicy.secrets.enabled=false",
            "WARNING: admissionPolicy.secrets is off",
        ),
        (
            "admissionPolicy.grantSecrets.enabled=false",
            "WARNING: admissionPolicy.grantSecrets is off",
        ),
        (
            "admissionPolicy.grants.enabled=false",
            "WARNING: admissionPolicy.grants is off",
        ),
        ("rbac.create=false", "service account valet has its permissions"),
        ("global.priorityClassName=x", "no effect: global.priorityClassName"),
        ("crds.keep=false", "helm uninstall deletes every grant"),
        ("crds.enabled=false", "does not start before the CRDs are installed"),
        ("podDisruptionBudget.minAvailable=2", "minAvailable is 2 of 2 replicas"),
        (
            "podDisruptionBudget.minAvailable=100%",
            "minAvailable is 100% of 2 replicas",
        ),
    ] {
        let said = notes(&[value]);
        assert!(said.contains(warning) && said.contains("WARNING: "), "{value}: {said}");
        assert_eq!(said.matches("WARNING: ").count(), 1, "{value}: {said}");
    }
}
