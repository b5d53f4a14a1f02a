//! Reads the queries of a Grafana dashboard.

use serde_json::Value;

/// One query of one panel.
#[derive(Clone, Debug)]
pub struct Query {
    /// The ID of the panel, which is unique in the dashboard.
    pub panel: u64,
    pub title: String,
    /// The expression with values for all dashboard variables and for `rate_interval`.
    pub expr: String,
    /// The template for the names of the series, for example `p99 {{kind}}`.
    pub legend: String,
    /// Whether the query returns only the last value.
    pub instant: bool,
}

/// Returns all queries of a dashboard in the order of its panels. Rows have no queries.
pub fn queries(dashboard: &Value, rate_interval: &str) -> Vec<Query> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut queries = Vec::new();
    for panel in list(&dashboard["panels"]) {
        for target in list(&panel["targets"]) {
            let mut expr = text(&target["expr"]).replace("$__rate_interval", rate_interval);
            for variable in list(&dashboard["templating"]["list"]) {
                expr = expr.replace(&format!("${}", text(&variable["name"])), &text(&variable["allValue"]));
            }
            queries.push(Query {
                panel: panel["id"].as_u64().unwrap_or_default(),
                title: text(&panel["title"]),
                expr,
                legend: text(&target["legendFormat"]),
                instant: target["instant"] == true,
            });
        }
    }
    queries
}
