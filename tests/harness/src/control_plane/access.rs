//! Users of a control plane, each with a kubeconfig file.

use std::{fs, path::PathBuf, sync::atomic::Ordering};

use serde_json::json;

use super::{ADMIN, CONTEXT, ControlPlane, OPERATOR};
use crate::{Context, Result, certificates, net};

impl ControlPlane {
    /// Writes a kubeconfig file for the user of a token, for example a service account.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn kubeconfig_for_token(&self, token: &str) -> Result<PathBuf> {
        let n = self.kubeconfigs.fetch_add(1, Ordering::Relaxed);
        self.write_kubeconfig(&format!("kubeconfig-{n}"), "token", token)
    }

    /// Creates a token for an existing service account. It is valid for an hour.
    ///
    /// # Errors
    /// Returns an error if kubectl cannot create the token.
    pub fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let token = self.kubectl(&["create", "token", name, "--namespace", namespace])?;
        Ok(token.trim().to_owned())
    }

    /// Writes a kubeconfig file for each user of the apiserver.
    pub(super) fn write_users(&self) -> Result<()> {
        const MASTERS: &str = "system:masters";
        let mut users = vec![
            ("kubeconfig", ADMIN.to_owned(), MASTERS),
            ("operator.kubeconfig", OPERATOR.to_owned(), MASTERS),
            // These users have the same names as in real clusters. The group gives them all permissions, so that no
            // roles are needed.
            (
                "controller-manager.kubeconfig",
                "system:kube-controller-manager".to_owned(),
                MASTERS,
            ),
        ];
        if let Some(node) = &self.options.node {
            users.push(("scheduler.kubeconfig", "system:kube-scheduler".to_owned(), MASTERS));
            users.push(("proxy.kubeconfig", "system:kube-proxy".to_owned(), MASTERS));
            // The apiserver itself knows the permissions of nodes.
            users.push((
                "kubelet.kubeconfig",
                format!("system:node:{}", node.name),
                "system:nodes",
            ));
        }
        let mut tokens = String::new();
        for (file, user, group) in users {
            let token = if user == ADMIN {
                self.admin_token.clone()
            } else {
                net::random_hex(16)?
            };
            self.write_kubeconfig(file, &user, &token)?;
            tokens.push_str(&format!("{token},{user},{user},\"{group}\"\n"));
        }
        self.scratch.write("tokens.csv", tokens)?;
        Ok(())
    }

    fn write_kubeconfig(&self, file: &str, user: &str, token: &str) -> Result<PathBuf> {
        let ca = fs::read(&self.ca).context(format_args!("cannot read {}", self.ca.display()))?;
        // YAML parsers also accept JSON.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": CONTEXT, "cluster": {
                "server": self.url(), "certificate-authority-data": certificates::base64(&ca),
            }}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": user}}],
            "current-context": CONTEXT,
        });
        self.scratch.write(file, format!("{config:#}\n"))
    }
}
