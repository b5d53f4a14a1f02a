//! Decides which labels and annotations a grant may set on its Secret.

use std::{fmt, sync::Arc};

use super::refusal::Refusal;
use crate::api::{Reason, SecretTemplate};

/// The domains of labels and annotations that grants may set on their Secrets. Names without a domain are always
/// allowed.
///
/// Many controllers select Secrets by labels and annotations with their own domain. For example, Argo CD treats a
/// Secret with one of its labels as the configuration of a repository or a cluster. The platform team therefore
/// decides which domains are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataDomains(Arc<[String]>);

impl MetadataDomains {
    /// By default, the labels and annotations of a grant Secret may have only this domain. The labels that Kubernetes
    /// recommends have this domain.
    pub const DEFAULT: &str = "app.kubernetes.io";

    /// Creates the list of domains. The domain of a label or annotation is the part of its name before the slash.
    pub fn new(domains: impl IntoIterator<Item = String>) -> Self {
        let domains = domains.into_iter().map(|domain| domain.trim().to_ascii_lowercase());
        Self(domains.filter(|domain| !domain.is_empty()).collect())
    }

    fn allows(&self, name: &str) -> bool {
        let domain = name.split_once('/').map(|(domain, _)| domain.to_ascii_lowercase());
        domain.is_none_or(|domain| self.0.contains(&domain))
    }

    /// Returns a refusal that names the first label or annotation in `spec.secretTemplate` that is not allowed.
    pub(super) fn refusal(&self, template: &SecretTemplate) -> Option<Refusal> {
        let of = |field: &'static str, name: &String| (!self.allows(name)).then(|| (field, name.clone()));
        let (field, name) = None
            .or_else(|| template.labels.keys().find_map(|name| of("labels", name)))
            .or_else(|| template.annotations.keys().find_map(|name| of("annotations", name)))?;
        let domain = name.split('/').next().unwrap_or_default();
        Some(Refusal {
            reason: Reason::InvalidSpec,
            message: format!(
                "spec.secretTemplate.{field}: '{name}' has the domain {domain}, which is not allowed because other systems can react to metadata of this domain; remove '{name}', or ask the platform team to allow the domain (--allow-secret-metadata {domain})"
            ),
        })
    }
}

impl fmt::Display for MetadataDomains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl Default for MetadataDomains {
    fn default() -> Self {
        Self::new([Self::DEFAULT.to_owned()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_other_domains_is_refused_unless_allowed() {
        let of = |domains: &MetadataDomains, name: &str, is_label: bool| {
            let one = [(name.to_owned(), "x".to_owned())].into();
            let template = match is_label {
                true => SecretTemplate {
                    labels: one,
                    ..SecretTemplate::default()
                },
                false => SecretTemplate {
                    annotations: one,
                    ..SecretTemplate::default()
                },
            };
            domains.refusal(&template).map(|refusal| refusal.message)
        };
        let default = MetadataDomains::default();
        for name in ["team", "app", "app.kubernetes.io/name", "app.kubernetes.io/part-of"] {
            for is_label in [true, false] {
                assert_eq!(of(&default, name, is_label), None, "{name}");
            }
        }
        for name in [
            "argocd.argoproj.io/secret-type",
            "kubernetes.io/service-account.name",
            "k8s.io/x",
            "x.k8s.io/y",
            "node.kubernetes.io/x",
            "cattle.io/creator",
            "fleet.cattle.io/x",
            "replicator.v1.mittwald.de/replicate-from",
            "reflector.v1.k8s.emberstack.com/reflection-allowed",
            "sub.app.kubernetes.io/name",
            "App.Kubernetes.io.example/name",
            "/name",
        ] {
            for (is_label, field) in [(true, "labels"), (false, "annotations")] {
                let said = of(&default, name, is_label).unwrap_or_default();
                assert!(
                    said.starts_with(&format!("spec.secretTemplate.{field}: '{name}'")),
                    "{name}: {said}"
                );
            }
        }
        let more = MetadataDomains::new(["Example.com".into()]);
        assert_eq!(of(&more, "example.com/for", true), None);
        assert!(
            of(&more, "app.kubernetes.io/name", true).is_some(),
            "the list replaces the default"
        );
        assert!(of(&MetadataDomains::new([]), "team", true).is_none());
    }
}
