//! The results of a conformance check, for all providers.

mod check;

pub use check::{
    BODY, BODY_MD5, Checker, LONGER, OTHER, OTHER_TYPE, PreparedRequest, TYPE, Tamper, Transport, Unavailable,
    forge_last, get, in_time,
};

use crate::api::{Capabilities, Capability, UploadMode};

/// The result of a conformance check. The check sends requests with signed credentials and finds out which
/// constraints the store enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConformanceReport {
    /// The constraints that the store enforces, as text for users.
    pub enforced: Vec<String>,
    /// The constraints that the store was expected to enforce but does not enforce.
    pub missing: Vec<Missing>,
    /// The reason why credentials for this store do not limit access at all. For example, the store accepts expired
    /// credentials or a wrong signature. `None` if the check found no such reason.
    pub unenforced: Option<String>,
    /// The constraints that Valet could not check, with the reasons. The text contains no secrets.
    pub not_tested: Vec<String>,
    /// The optional capabilities that the store does not have, and the reasons, as text for users.
    pub without: Vec<String>,
    /// This is true if the store stopped answering during the check. In this case, Valet repeats the check soon.
    pub interrupted: bool,
    /// The objects that the conformance check could not delete.
    pub left: Option<String>,
}

/// A capability that the conformance check found missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Url(Capability),
    Form(Capability),
    Forms,
    Part(Capability),
    Parts,
    /// The store does not limit temporary credentials to the objects and the operations of the grant.
    Credentials,
}

impl Missing {
    /// Returns the name with which `status.capabilities` lists the capability.
    pub fn name(self) -> String {
        let (form, parts) = (UploadMode::PostForm.as_str(), UploadMode::Multipart.as_str());
        match self {
            Self::Url(capability) => capability.as_str().to_owned(),
            Self::Form(capability) => format!("{form}/{}", capability.as_str()),
            Self::Forms => form.to_owned(),
            Self::Part(capability) => format!("{parts}/{}", capability.as_str()),
            Self::Parts => parts.to_owned(),
            Self::Credentials => UploadMode::Credentials.as_str().to_owned(),
        }
    }
}

impl ConformanceReport {
    /// Creates the result of a conformance check that could not run. If `is_to_be_repeated` is true, Valet repeats
    /// the check soon.
    pub fn not_tested(why: String, is_to_be_repeated: bool) -> Self {
        Self {
            not_tested: vec![format!("the conformance check could not run: {why}")],
            interrupted: is_to_be_repeated,
            ..Self::default()
        }
    }

    /// Returns true if the conformance check confirmed this capability.
    pub fn enforces(&self, capability: Missing) -> bool {
        self.enforced.contains(&capability.name())
    }

    /// Removes the capabilities that the conformance check found missing.
    pub fn narrow(&self, can: &mut Capabilities) {
        for missing in &self.missing {
            match missing {
                Missing::Url(capability) => {
                    can.enforced.remove(capability);
                    // If a store does not enforce a constraint for single requests, Valet assumes that the store also
                    // does not enforce it for multipart and resumable uploads. Valet therefore also removes the
                    // constraint from the capabilities for these uploads.
                    if let Some(parts) = &mut can.multipart {
                        parts.remove(capability);
                    }
                    if let Some(sessions) = &mut can.resumable {
                        sessions.remove(capability);
                    }
                }
                Missing::Form(capability) => {
                    if let Some(form) = &mut can.post_form {
                        form.remove(capability);
                    }
                }
                Missing::Forms => can.post_form = None,
                Missing::Part(capability) => {
                    if let Some(parts) = &mut can.multipart {
                        parts.remove(capability);
                    }
                }
                Missing::Parts => can.multipart = None,
                Missing::Credentials => can.credentials = None,
            }
        }
    }

    /// Returns the names of the capabilities that the conformance check did not test. If it tested no capability of a
    /// mode, the list contains one name for the whole mode.
    ///
    /// The list never contains `SignedHeadersOnly`, because every probe tests it and a separate condition reports it.
    pub fn not_tested_names(&self, can: &Capabilities) -> Vec<String> {
        let missing = self.missing.iter().map(|m| m.name());
        let tested: Vec<_> = self.enforced.iter().cloned().chain(missing).collect();
        let is_tried = |name: &str| tested.iter().any(|t| t == name);
        let has_tried = |mode: &str| {
            let mut modes = tested.iter().map(|t| t.split('/').next().unwrap_or_default());
            modes.any(|m| m == mode)
        };
        let is_not_tested = |name: &String| match name.split_once('/') {
            _ if is_tried(name) || name.ends_with(Capability::SignedHeadersOnly.as_str()) => false,
            Some((mode, _)) => has_tried(mode),
            None => !has_tried(name),
        };
        can.names().into_iter().filter(is_not_tested).collect()
    }

    /// Returns the names of the missing capabilities, as text for users.
    pub fn missing_names(&self) -> String {
        let names: Vec<_> = self.missing.iter().map(|m| m.name()).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If the check has no result for a capability, the capability counts as not tested.
    #[test]
    fn capabilities_without_a_result_are_listed_as_not_checked() {
        let can = Capabilities {
            enforced: [
                Capability::WriteOnce,
                Capability::Version,
                Capability::SignedHeadersOnly,
            ]
            .into(),
            post_form: Some([Capability::ContentType, Capability::KeyPrefix].into()),
            multipart: Some([Capability::ContentLength, Capability::ContentType].into()),
            resumable: Some([Capability::ContentType].into()),
            credentials: Some([Capability::SignedHeadersOnly].into()),
            ..Capabilities::default()
        };
        let nothing = ConformanceReport::default().not_tested_names(&can);
        assert_eq!(
            nothing,
            [
                "WriteOnce",
                "Version",
                "PostForm",
                "Multipart",
                "Credentials",
                "Resumable"
            ]
        );
        let some = ConformanceReport {
            enforced: vec![
                "WriteOnce".into(),
                "PostForm/ContentType".into(),
                "Credentials".into(),
                "expiry, signature and object key of signed PUT requests".into(),
            ],
            missing: vec![
                Missing::Form(Capability::KeyPrefix),
                Missing::Part(Capability::ContentLength),
            ],
            ..ConformanceReport::default()
        };
        assert_eq!(
            some.not_tested_names(&can),
            ["Version", "Multipart/ContentType", "Resumable"]
        );
    }

    #[test]
    fn missing_capabilities_are_removed() {
        let mut can = Capabilities {
            multipart: Some([Capability::ContentLength, Capability::WriteOnce].into()),
            ..Capabilities::default()
        };
        let missing = |missing| ConformanceReport {
            missing: vec![missing],
            ..ConformanceReport::default()
        };
        missing(Missing::Part(Capability::WriteOnce)).narrow(&mut can);
        assert_eq!(can.multipart, Some([Capability::ContentLength].into()));
        missing(Missing::Url(Capability::ContentLength)).narrow(&mut can);
        assert_eq!(
            can.multipart,
            Some([].into()),
            "a constraint that is missing for single requests must also be removed for multipart uploads"
        );
        missing(Missing::Parts).narrow(&mut can);
        assert_eq!(can.multipart, None);
    }
}
