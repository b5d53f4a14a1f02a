//! The credentials that sign SAS URLs.

use std::{fmt, sync::Arc};

use super::{sas::SharedKey, tokens::Identity};
use crate::{api::Reason, core::SignError};

/// The credentials that sign SAS URLs for an Azure container.
#[derive(Clone)]
pub enum Credentials {
    /// The storage account key signs.
    Key(SharedKey),
    /// The operator's identity signs with user delegation keys.
    Identity(Arc<Identity>),
    /// There are no usable credentials. The string contains the reason.
    Unusable(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key",
            Self::Identity(_) => "Identity",
            Self::Unusable(_) => "Unusable",
        })
    }
}

/// Returns the error for a store without usable credentials.
pub fn unusable(why: &str) -> SignError {
    SignError::Credentials {
        reason: Reason::CredentialsInvalid,
        message: why.to_owned(),
    }
}
