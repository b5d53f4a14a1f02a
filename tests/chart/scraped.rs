//! Tests that the Prometheus operator and Grafana's sidecar find the chart's objects.

use serde_json::{Value, json};

use crate::helm::{CHART, objects};

#[test]
fn monitoring_objects_have_the_labels_that_prometheus_selects() {
    let rendered = objects(&[
        "serviceMonitor.enabled=true",
        "serviceMonitor.additionalLabels.release=prometheus",
        "serviceMonitor.namespace=monitoring",
        "prometheusRule.enabled=true",
        "prometheusRule.additionalLabels.release=prometheus",
        "prometheusRule.runbookUrlPrefix=https://wiki.example/valet/",
    ]);
    let monitor = rendered.get("ServiceMonitor", "valet");
    assert_eq!(monitor["metadata"]["namespace"], "monitoring");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(
        monitor["spec"]["namespaceSelector"]["matchNames"],
        json!(["valet-system"])
    );
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!(endpoint["honorLabels"], true);
    // The Service has the labels and the port name that the ServiceMonitor selects.
    let service = rendered.get("Service", "valet");
    for (key, value) in monitor["spec"]["selector"]["matchLabels"]
        .as_object()
        .expect("there are labels")
    {
        assert_eq!(&service["metadata"]["labels"][key], value);
    }
    assert_eq!(service["spec"]["ports"][0]["name"], endpoint["port"]);
    assert_eq!(
        rendered.container()["ports"][0]["name"],
        service["spec"]["ports"][0]["targetPort"]
    );

    let rule = rendered.get("PrometheusRule", "valet");
    assert_eq!(rule["metadata"]["labels"]["release"], "prometheus");
    let groups = rule["spec"]["groups"].as_array().expect("there are groups");
    let alerts: Vec<_> = groups
        .iter()
        .flat_map(|g| g["rules"].as_array().into_iter().flatten())
        .filter(|r| r["alert"].is_string())
        .collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        let url = alert["annotations"]["runbook_url"].as_str().unwrap_or_default();
        let name = alert["alert"].as_str().unwrap_or_default();
        assert_eq!(url, format!("https://wiki.example/valet/{name}.md"));
    }
    // Without other values the chart renders the rules of the file unchanged.
    let file = std::fs::read_to_string(format!("{CHART}/files/alerts.yaml")).expect("the file is there");
    let file: Value = serde_yaml::from_str(&file).expect("it is YAML");
    let plain = objects(&["prometheusRule.enabled=true"]);
    assert_eq!(plain.get("PrometheusRule", "valet")["spec"]["groups"], file["groups"]);
}

#[test]
fn dashboard_has_the_label_that_the_grafana_sidecar_selects() {
    let rendered = objects(&["grafanaDashboard.enabled=true", "grafanaDashboard.namespace=monitoring"]);
    let map = rendered.get("ConfigMap", "valet-dashboard");
    assert_eq!(map["metadata"]["namespace"], "monitoring");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let file = std::fs::read_to_string(format!("{CHART}/files/dashboard.json")).expect("the file is there");
    let text = map["data"]["valet.json"].as_str().expect("it has the dashboard");
    assert_eq!(text.trim_end(), file.trim_end());
    let dashboard: Value = serde_json::from_str(text).expect("it is JSON");
    assert!(dashboard["title"].is_string());
}
