//! What came of a round trip with real keys, in words that every provider shares.

mod trip;

pub(super) use trip::{
    Away, BODY, BODY_MD5, Bend, Hands, LONGER, OTHER, OTHER_TYPE, Sent, TYPE, Trip, forge_last, get,
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
    /// It lends no credentials that can do only what they are lent for.
    Credentials,
}

impl Missing {
    /// The name in `status.capabilities`.
    pub fn name(self) -> String {
        let mode = UploadMode::PostForm.as_str();
        match self {
            Self::Url(capability) => capability.as_str().to_owned(),
            Self::Form(capability) => format!("{mode}/{}", capability.as_str()),
            Self::Forms => mode.to_owned(),
            Self::Credentials => UploadMode::Credentials.as_str().to_owned(),
        }
    }
}

impl Canary {
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
                Missing::Credentials => can.credentials = None,
            }
        }
    }

    /// The names of what is missing, for a person.
    pub fn missing_names(&self) -> String {
        let names: Vec<_> = self.missing.iter().map(|m| m.name()).collect();
        names.join(", ")
    }
}
