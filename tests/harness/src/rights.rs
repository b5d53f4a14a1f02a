//! What a chart's accounts may do to Secrets: what `kubectl auth can-i --list` says of each, and what becomes of it when
//! kubectl tries to.
//!
//! helm renders a chart, as for an install; what gives and bounds rights is applied, and nothing else: no pod runs. Then
//! each service account is asked for, namespace by namespace, and tries itself (`--dry-run=server`) on Secrets that are
//! somebody else's.

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use serde_json::json;

use crate::{Context, ControlPlane, Result, Scratch, poll, process};

/// The kinds that give and bound rights, and the accounts themselves.
pub const KINDS: [&str; 7] = [
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];
/// As roles list them, and as a table should.
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
/// The Secret that is somebody else's.
const PRECIOUS: &str = "precious";
/// helm and kubectl take seconds, on a busy machine many.
const LONGEST: Duration = Duration::from_secs(60);
/// How long an apiserver may take to obey a policy that is new.
const POLICY_SEEN: Duration = Duration::from_secs(30);

/// A chart, and how it is installed.
pub struct Chart<'a> {
    /// What the table calls it.
    pub title: String,
    /// Its folder, or the archive that `helm package` makes.
    pub path: &'a Path,
    /// The release's name.
    pub release: &'a str,
    /// The release's namespace, which must be there.
    pub namespace: &'a str,
    /// Values, as `--set` takes them.
    pub values: Vec<String>,
    /// A namespace that the values speak of, if there is one.
    pub served: Option<&'a str>,
    /// A namespace of which neither the chart nor its values know anything.
    pub other: &'a str,
}

/// What an account may do in one place, and could do when it tried.
#[derive(Clone, PartialEq, Eq)]
struct Reach {
    verbs: String,
    /// Lists all Secrets there; changes, deletes somebody else's; makes a token of another account.
    tried: [bool; 4],
}

/// The head of the table whose rows [`rows`] gives.
pub const HEAD: &str = "| chart | account | where | verbs on `secrets` | lists them | changes another's | deletes another's | makes a token of another account |
|---|---|---|---|---|---|---|---|";

/// Rows of a table in Markdown: one for each account and place where it may do anything to Secrets.
///
/// # Errors
/// If the chart cannot be rendered or applied, or kubectl not be asked.
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
        // Every namespace has this one.
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

/// Places where it is the same become one.
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

/// `kubectl auth can-i --list`: what the account may do to Secrets in a namespace, those that are named apart.
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
    // Names, and the verbs that hold for them; no names are all.
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

/// What comes of it when the account tries: nothing is done, since the server is told to try only.
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

/// A policy is obeyed a moment after it was made.
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
