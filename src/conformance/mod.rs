//! What came of a round trip with real keys, in words that every provider shares.

mod check;

pub use check::{
    Away, BODY, BODY_MD5, Bend, Hands, LONGER, OTHER, OTHER_TYPE, Sent, TYPE, Trip, forge_last, get, in_time,
};

use crate::api::{Capabilities, Capability, UploadMode};

/// What a store really enforces, tried with keys as grants get them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Canary {
    /// What was tried and holds, for a person.
    pub held: Vec<String>,
    /// What the store was thought to enforce and does not.
    pub missing: Vec<Missing>,
    /// Why no key of the store is worth anything: it takes keys that are over, or other ones than were signed.
    pub worthless: Option<String>,
    /// What could not be tried, and why. No secrets.
    pub untried: Vec<String>,
    /// What does not hold and can go without saying of a store, and what shows it, for a person.
    pub without: Vec<String>,
    /// Whether the store went away meanwhile, so that it is worth to try again soon.
    pub interrupted: bool,
    /// What was written and could not be deleted again.
    pub left: Option<String>,
}

/// Something that the store's keys cannot pin down after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Its signed URLs.
    Url(Capability),
    /// Its POST forms.
    Form(Capability),
    /// It takes no POST forms.
    Forms,
    /// Its uploads in parts.
    Part(Capability),
    /// It takes no uploads in parts.
    Parts,
    /// It lends no credentials that can do only what they are lent for.
    Credentials,
}

impl Missing {
    /// The name in `status.capabilities`.
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

impl Canary {
    /// Nothing was tried. `is_to_be_repeated`: whether it is worth to try again soon.
    pub fn untried(why: String, is_to_be_repeated: bool) -> Self {
        Self {
            untried: vec![format!("all of it: {why}")],
            interrupted: is_to_be_repeated,
            ..Self::default()
        }
    }

    /// Whether this was tried and holds.
    pub fn holds(&self, promise: Missing) -> bool {
        self.held.contains(&promise.name())
    }

    /// Takes away from what a store is thought to enforce what it does not.
    pub fn narrow(&self, can: &mut Capabilities) {
        for missing in &self.missing {
            match missing {
                Missing::Url(capability) => {
                    can.enforced.remove(capability);
                    // What is not held in one request is not held in several.
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

    /// The names of what the store is thought to enforce and was not tried, a whole mode by its own name. Whether it refuses
    /// headers that nobody signed is not among them: every trial shows that, and a condition of its own says it.
    pub fn untried_names(&self, can: &Capabilities) -> Vec<String> {
        let missing = self.missing.iter().map(|m| m.name());
        let tried: Vec<_> = self.held.iter().cloned().chain(missing).collect();
        let is_tried = |name: &str| tried.iter().any(|t| t == name);
        let has_tried = |mode: &str| {
            let mut modes = tried.iter().map(|t| t.split('/').next().unwrap_or_default());
            modes.any(|m| m == mode)
        };
        let is_untried = |name: &String| match name.split_once('/') {
            _ if is_tried(name) || name.ends_with(Capability::SignedHeadersOnly.as_str()) => false,
            Some((mode, _)) => has_tried(mode),
            None => !has_tried(name),
        };
        can.names().into_iter().filter(is_untried).collect()
    }

    /// The names of what is missing, for a person.
    pub fn missing_names(&self) -> String {
        let names: Vec<_> = self.missing.iter().map(|m| m.name()).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said to hold is what was tried, and the rest is named.
    #[test]
    fn what_was_not_tried_is_named() {
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
        let nothing = Canary::default().untried_names(&can);
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
        let some = Canary {
            held: vec![
                "WriteOnce".into(),
                "PostForm/ContentType".into(),
                "Credentials".into(),
                "end, signature and object of PUT".into(),
            ],
            missing: vec![
                Missing::Form(Capability::KeyPrefix),
                Missing::Part(Capability::ContentLength),
            ],
            ..Canary::default()
        };
        assert_eq!(
            some.untried_names(&can),
            ["Version", "Multipart/ContentType", "Resumable"]
        );
    }

    #[test]
    fn what_is_missing_is_taken_away() {
        let mut can = Capabilities {
            multipart: Some([Capability::ContentLength, Capability::WriteOnce].into()),
            ..Capabilities::default()
        };
        let missing = |missing| Canary {
            missing: vec![missing],
            ..Canary::default()
        };
        missing(Missing::Part(Capability::WriteOnce)).narrow(&mut can);
        assert_eq!(can.multipart, Some([Capability::ContentLength].into()));
        missing(Missing::Url(Capability::ContentLength)).narrow(&mut can);
        assert_eq!(can.multipart, Some([].into()), "nor in parts");
        missing(Missing::Parts).narrow(&mut can);
        assert_eq!(can.multipart, None);
    }
}
