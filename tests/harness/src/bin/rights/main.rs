//! Compares the permissions for Secrets of the accounts in the charts of Valet, cert-manager and external-secrets.
//!
//! ```text
//! rights [--check PAGE]
//! ```
//! The program starts a control plane, renders the charts with helm, and applies the objects that grant or restrict
//! permissions. It runs `kubectl auth can-i --list`, tries actions of each account on Secrets of others, and prints a
//! Markdown table. CERT_MANAGER and EXTERNAL_SECRETS name a folder or an archive of these charts; without them, their
//! rows are left out. With `--check`, a row that is missing on the page makes the exit status 1.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use valet_harness::{
    Context, ControlPlane, Error, Result, Tools, process, program,
    rights::{self, Chart},
};

const ROOT: &str = env!("VALET_ROOT");
/// A namespace that the values name, and a namespace that no chart knows.
const SERVED: &str = "team-a";
const OTHER: &str = "web";

fn main() -> ExitCode {
    program::run("rights", table)
}

fn table() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let page = match &arguments[..] {
        [] => None,
        [flag, page] if flag == "--check" => {
            Some(fs::read_to_string(page).context(format_args!("cannot read {page}"))?)
        }
        _ => return Err(Error::new("usage: rights [--check PAGE]")),
    };
    let tools = Tools::locate()?;
    let ours = PathBuf::from(format!("{ROOT}/charts/valet"));
    let theirs = |variable: &str| env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    let (cert_manager, external_secrets) = (theirs("CERT_MANAGER"), theirs("EXTERNAL_SECRETS"));

    let mut found = Vec::new();
    for (path, namespace, values) in [
        (Some(&ours), "valet-system", &[][..]),
        (Some(&ours), "valet-system", &["scopedNamespace=team-a"]),
        (Some(&ours), "valet-system", &["rbac.secretsNamespaces={team-a}"]),
        (cert_manager.as_ref(), "cert-manager", &[]),
        (external_secrets.as_ref(), "external-secrets", &[]),
        (
            external_secrets.as_ref(),
            "external-secrets",
            &["scopedRBAC=true", "scopedNamespace=team-a"],
        ),
    ] {
        let Some(path) = path else {
            eprintln!("rights: no chart for {namespace}: give it as CERT_MANAGER or EXTERNAL_SECRETS");
            continue;
        };
        // Each chart gets a separate cluster, so that no account has permissions of another chart.
        let plane = ControlPlane::start(&tools)?;
        for name in [namespace, SERVED, OTHER] {
            plane.kubectl(&["create", "namespace", name])?;
        }
        let chart = Chart {
            title: title(&tools, path, values)?,
            path,
            release: namespace.trim_end_matches("-system"),
            namespace,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
            served: (!values.is_empty()).then_some(SERVED),
            other: OTHER,
        };
        found.extend(rights::rows(&plane, &chart)?);
    }
    println!("{}\n{}", rights::HEAD, found.join("\n"));
    if let Some(page) = page {
        let missing: Vec<_> = found
            .iter()
            .filter(|row| !page.contains(row.as_str()))
            .cloned()
            .collect();
        if !missing.is_empty() {
            return Err(Error::new(format!("not on the page:\n{}", missing.join("\n"))));
        }
    }
    Ok(())
}

/// The name and version of the chart and the values that were set. For Valet's chart only the name, because its
/// version changes with each release.
fn title(tools: &Tools, path: &Path, values: &[&str]) -> Result<String> {
    let mut helm = tools.command("helm");
    helm.args(["show", "chart"]).arg(path);
    let text = process::run_ok(helm, b"", std::time::Duration::from_secs(30))?.text();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().trim_matches('"').to_owned())
            .unwrap_or_default()
    };
    let mut title = match field("name:").as_str() {
        "valet" => "Valet".to_owned(),
        name => format!("{name} {}", field("version:")),
    };
    for value in values {
        title.push_str(&format!(", `{value}`"));
    }
    Ok(title)
}
