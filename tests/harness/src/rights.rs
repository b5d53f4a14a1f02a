//! Finds the permissions for Secrets of the accounts in a chart: the output of `kubectl auth can-i --list`, and the
//! results of real attempts with kubectl.
//!
//! helm renders the chart as for an install. Only objects that grant or restrict permissions are applied, so no pod
//! runs. Then the permissions of each service account are listed for each namespace, and each account tries actions
//! on Secrets of others (`--dry-run=server`).

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use serde_json::json;

use crate::{Context, ControlPlane, Result, Scratch, poll, process};

/// The kinds that grant or restrict permissions, and service accounts.
pub const KINDS: [&str; 7] = [
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];
/// The verbs in the order of the table.
const VERBS: [&str; 8] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
];
/// The Secret of another owner.
const PRECIOUS: &str = "precious";
/// helm and kubectl need seconds, or much longer on a busy machine.
const LONGEST: Duration = Duration::from_secs(60);
/// Time limit until the apiserver enforces a new policy.
const POLICY_SEEN: Duration = Duration::from_secs(30);

/// A chart and its installation.
pub struct Chart<'a> {
    /// The title in the table.
    pub title: String,
    /// The folder of the chart, or the archive from `helm package`.
    pub path: &'a Path,
    /// The release's name.
    pub release: &'a str,
    /// The namespace of the release, which must exist.
    pub namespace: &'a str,
    /// Values in the format of `--set`.
    pub values: Vec<String>,
    /// A namespace that the values name, if any.
    pub served: Option<&'a str>,
    /// A namespace that neither the chart nor its values name.
    pub other: &'a str,
}

/// The permissions of an account in one namespace, and the results of its attempts.
#[derive(Clone, PartialEq, Eq)]
struct Reach {
    verbs: String,
    /// Whether these attempts succeed: list all Secrets, change a Secret of another owner, delete it, and create a
    /// token of another account.
    tried: [bool; 4],
}

/// The head of the table for the rows of [`rows`].
pub const HEAD: &str = "| chart | account | where | verbs on `secrets` | lists them | changes another's | deletes another's | makes a token of another account |
|---|---|---|---|---|---|---|---|";

/// Returns rows of a Markdown table: one for each account and namespace in which it has permissions for Secrets.
///
/// # Errors
/// Returns an error if the chart cannot be rendered or applied, or if kubectl fails.
pub fn rows(plane: &ControlPlane, chart: &Chart<'_>) -> Result<Vec<String>> {
    let rendered = render(plane, chart)?;
    let mut parts = Vec::new();
    let mut confined = false;
    for part in rendered.split("\n---\n") {
        let kind = part
            .lines()
            .find_map(|line| line.strip_prefix("kind: "))
            .unwrap_or_default();
        if KINDS.contains(&kind.trim()) {
            confined |= kind.trim() == "ValidatingAdmissionPolicyBinding";
            parts.push(part.to_owned());
        }
    }
    plane.kubectl_in(&parts.join("\n---\n"), &["apply", "--filename", "-"])?;

    let mut places = vec![("its own namespace", chart.namespace)];
    places.extend(chart.served.map(|served| ("the namespace that it serves", served)));
    places.push(("every other namespace", chart.other));
    for (_, namespace) in &places {
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": PRECIOUS, "namespace": namespace}});
        plane.apply(&secret.to_string())?;
    }

    let accounts = plane.kubectl(&[
        "get",
        "serviceaccounts",
        "--namespace",
        chart.namespace,
        "--output",
        "name",
    ])?;
    let mut rows = Vec::new();
    for account in accounts.lines().filter_map(|line| line.strip_prefix("serviceaccount/")) {
        // Every namespace has the account `default`.
        if account == "default" {
            continue;
        }
        let user = format!("system:serviceaccount:{}:{account}", chart.namespace);
        let mut reach = Vec::new();
        for (said, namespace) in &places {
            let verbs = verbs(plane, &user, namespace)?;
            if confined && verbs.contains("create") {
                wait_for_policy(plane, &user, namespace)?;
            }
            let tried = tries(plane, &user, namespace)?;
            reach.push((*said, Reach { verbs, tried }));
        }
        rows.extend(told(&reach).into_iter().map(|(place, reach)| {
            let yes = reach.tried.map(|yes| if yes { "**yes**" } else { "no" }).join(" | ");
            format!("| {} | `{account}` | {place} | {} | {yes} |", chart.title, reach.verbs)
        }));
    }
    Ok(rows)
}

/// Merges namespaces with equal permissions.
fn told(reach: &[(&'static str, Reach)]) -> Vec<(String, Reach)> {
    if reach.iter().all(|(_, one)| *one == reach[0].1) {
        return match &reach[0].1 {
            one if one.verbs.is_empty() => Vec::new(),
            one => vec![("everywhere".to_owned(), one.clone())],
        };
    }
    reach
        .iter()
        .filter(|(_, one)| !one.verbs.is_empty())
        .map(|(place, one)| ((*place).to_owned(), one.clone()))
        .collect()
}

fn render(plane: &ControlPlane, chart: &Chart<'_>) -> Result<String> {
    let home = Scratch::disposable("helm")?;
    let mut helm: Command = plane.tools().command("helm");
    helm.env("HOME", home.path())
        .args(["template", chart.release])
        .arg(chart.path)
        .args(["--namespace", chart.namespace]);
    for value in &chart.values {
        helm.args(["--set", value]);
    }
    Ok(process::run_ok(helm, b"", LONGEST)?.text())
}

/// Runs `kubectl auth can-i --list`: returns the verbs for Secrets in a namespace, with separate verbs for named
/// Secrets.
fn verbs(plane: &ControlPlane, user: &str, namespace: &str) -> Result<String> {
    let text = plane.kubectl(&[
        "auth",
        "can-i",
        "--list",
        "--as",
        user,
        "--namespace",
        namespace,
        "--no-headers",
    ])?;
    // Verbs by the names that they are limited to. An empty list of names means all Secrets.
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for line in text.lines() {
        let columns: Vec<_> = line
            .split('[')
            .map(|column| column.trim().trim_end_matches(']').trim())
            .collect();
        let [resource, _, names, verbs] = columns[..] else {
            continue;
        };
        let of = match resource {
            "secrets" => names.to_owned(),
            "serviceaccounts/token" => format!("{names}/token"),
            _ => continue,
        };
        all.entry(of)
            .or_default()
            .extend(verbs.split_whitespace().map(str::to_owned));
    }
    let listed = |found: &[String]| {
        if found.iter().any(|verb| verb == "*") {
            return "*".to_owned();
        }
        let known = VERBS.iter().filter(|verb| found.iter().any(|one| one == *verb));
        known.copied().collect::<Vec<_>>().join(", ")
    };
    let said = all.iter().map(|(names, found)| match names.as_str() {
        "" => listed(found),
        "/token" => format!("{} of `serviceaccounts/token`", listed(found)),
        names => format!(
            "{} of `{}`",
            listed(found),
            names.split(' ').collect::<Vec<_>>().join("`, `")
        ),
    });
    Ok(said.collect::<Vec<_>>().join("; "))
}

/// Runs the attempts of the account with `--dry-run=server`, so that nothing changes.
fn tries(plane: &ControlPlane, user: &str, namespace: &str) -> Result<[bool; 4]> {
    let place = ["--namespace", namespace, "--as", user];
    let works = |stdin: &str, args: &[&str]| -> Result<bool> {
        let mut command = plane.kubectl_command(plane.kubeconfig());
        command.args(args).args(place);
        let output = process::run(command, stdin.as_bytes(), LONGEST)?;
        let refused = ["Forbidden", "forbidden"]
            .iter()
            .any(|word| output.stderr.contains(word));
        if !output.status.success() && !refused {
            return Err(crate::Error::new(format!(
                "kubectl {} as {user} failed, and was not refused: {}",
                args.join(" "),
                output.stderr
            )));
        }
        Ok(output.status.success())
    };
    let changed = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": PRECIOUS}, "stringData": {"changed": "yes"},
    });
    let token = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "stolen", "annotations": {"kubernetes.io/service-account.name": "default"}},
    });
    let patch = r#"{"stringData":{"changed":"yes"}}"#;
    Ok([
        works("", &["get", "secrets", "--output", "name"])?,
        works(
            &changed.to_string(),
            &["replace", "--dry-run=server", "--filename", "-"],
        )? || works("", &["patch", "secret", PRECIOUS, "--dry-run=server", "--patch", patch])?,
        works("", &["delete", "secret", PRECIOUS, "--dry-run=server"])?,
        works(&token.to_string(), &["create", "--dry-run=server", "--filename", "-"])?,
    ])
}

/// The apiserver enforces a new policy only after a short time.
fn wait_for_policy(plane: &ControlPlane, user: &str, namespace: &str) -> Result<()> {
    let args = [
        "create",
        "secret",
        "generic",
        "probe",
        "--dry-run=server",
        "--namespace",
        namespace,
        "--as",
        user,
    ];
    poll(POLICY_SEEN, || {
        let refused = plane.kubectl(&args).err()?;
        refused.to_string().contains("ValidatingAdmissionPolicy").then_some(())
    })
    .context("the apiserver does not obey the chart's policy")
}
