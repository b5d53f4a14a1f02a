//! Reads the apiserver's audit log: which user read or wrote which resource.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use serde_json::Value;

use crate::{Context, Result};

/// The apiserver logs the metadata of every request for a resource after the response, and of a watch also when it
/// starts. The policy leaves out the reads of Kubernetes' own components: there are thousands of them, and Valet does
/// not cause them.
pub(crate) const POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1",
  "kind": "Policy",
  "omitStages": ["RequestReceived"],
  "rules": [
    {"level": "None", "nonResourceURLs": ["*"]},
    {"level": "None", "verbs": ["get", "list", "watch"], "users": ["system:apiserver", "system:kube-controller-manager"]},
    {"level": "Metadata"}
  ]
}"#;

/// A position in the audit log from which a test counts events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditMark(u64);

/// One request to the apiserver (audit.k8s.io/v1 Event).
#[derive(Clone, Debug)]
pub struct AuditEvent {
    /// The event as it was logged.
    pub json: Value,
}

impl AuditEvent {
    fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// The verb of the request: get, list, watch, create, update, patch, delete or deletecollection.
    pub fn verb(&self) -> &str {
        self.text("/verb")
    }

    /// Whether the verb changes something.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb(), "get" | "list" | "watch")
    }

    /// The stage of the event: `ResponseComplete`, or `ResponseStarted` for a watch that has just started.
    pub fn stage(&self) -> &str {
        self.text("/stage")
    }

    /// The user who sent the request.
    pub fn user(&self) -> &str {
        self.text("/user/username")
    }

    /// The plural name of the resource, for example `secrets`. Empty for a request that is not about a resource.
    pub fn resource(&self) -> &str {
        self.text("/objectRef/resource")
    }

    /// The subresource, for example `status`. Usually empty.
    pub fn subresource(&self) -> &str {
        self.text("/objectRef/subresource")
    }

    /// The namespace of the request. Empty for cluster-wide resources and for requests across all namespaces.
    pub fn namespace(&self) -> &str {
        self.text("/objectRef/namespace")
    }

    /// The object's name; empty for lists.
    pub fn name(&self) -> &str {
        self.text("/objectRef/name")
    }

    /// Path and query of the request.
    pub fn uri(&self) -> &str {
        self.text("/requestURI")
    }

    /// The client's User-Agent.
    pub fn user_agent(&self) -> &str {
        self.text("/userAgent")
    }

    /// The HTTP status of the response, or 0 if there was no response.
    pub fn code(&self) -> u64 {
        self.json
            .pointer("/responseStatus/code")
            .and_then(Value::as_u64)
            .unwrap_or_default()
    }
}

impl std::fmt::Display for AuditEvent {
    /// Formats the event in one line, for example: `valet-operator create secrets web/avatar-42 201`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.user(), self.verb(), self.resource())?;
        if !self.subresource().is_empty() {
            write!(f, "/{}", self.subresource())?;
        }
        write!(f, " {}/{} {}", self.namespace(), self.name(), self.code())
    }
}

/// Returns the events after `mark`, and the current end of the log. An incomplete last line is read by the next call.
pub(crate) fn read(log: &Path, mark: AuditMark) -> Result<(Vec<AuditEvent>, AuditMark)> {
    let what = format!("cannot read {}", log.display());
    let mut file = File::open(log).context(&what)?;
    file.seek(SeekFrom::Start(mark.0)).context(&what)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).context(&what)?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let events = bytes[..whole]
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            Ok(AuditEvent {
                json: serde_json::from_slice(line).context(&what)?,
            })
        })
        .collect::<Result<_>>()?;
    Ok((events, AuditMark(mark.0 + whole as u64)))
}
