//! What a container is like: whether account, container and credentials are right, whether the clocks agree, and whether
//! the store copies for the holder of a key what he may not read. Nothing is written by a store that behaves.

use http::{Method, Request, header};
use http_body_util::Full;
use jiff::{SignedDuration, Timestamp};

use super::{
    AzureBlob, BACK_DATED, Credentials, OWN, PROBE_BLOB,
    requests::{Trouble, date, error_code},
    sas::{Pen, Permit, encoded},
};
use crate::{
    api::Reason,
    sign::{Finding, Probed, SignError, http::Unanswered},
};

/// Difference of clocks below which nothing is said: half of what the shortest sensible keys live.
const TOLERATED_SKEW: SignedDuration = SignedDuration::from_secs(30);
impl AzureBlob {
    /// Tries the container with two or three harmless requests for a blob that is not there.
    pub(super) async fn try_out(&self) -> Probed {
        let (mut finding, skew) = self.try_reading(None).await;
        let mut refuses_unsigned = None;
        if finding == Finding::Usable
            && let Some(policy) = &self.store.stored_access_policy
        {
            finding = match self.try_reading(Some(policy)).await.0 {
                Finding::Broken(Reason::CredentialsRefused, _) => Finding::Broken(
                    Reason::CredentialsRefused,
                    format!(
                        "the container has no stored access policy {policy}, or one with times or permissions of its own, so no key works: set it, or correct spec.azureBlob.storedAccessPolicy"
                    ),
                ),
                other => other,
            };
        }
        if finding == Finding::Usable {
            match self.refuses_foreign_sources().await {
                Ok(seen) => refuses_unsigned = seen,
                Err(why) => finding = Finding::Unreachable(why.to_string()),
            }
        }
        Probed {
            finding,
            skew,
            refuses_unsigned,
        }
    }

    /// Reads what is not there: the refusal says what is wrong, if something is.
    async fn try_reading(&self, policy: Option<&str>) -> (Finding, Option<SignedDuration>) {
        // An identity must be able to sign, too.
        if let Credentials::Identity(identity) = &self.credentials
            && let Err(e) = self.delegation(identity).await
        {
            return (of_credentials(e), None);
        }
        let answer = match self.read(Method::GET, PROBE_BLOB, policy).await {
            Ok(answer) => answer,
            Err(Trouble::Credentials(e)) => return (of_credentials(e), None),
            Err(Trouble::Unanswered(Unanswered::Inward(inward))) => {
                return (Finding::Broken(Reason::EndpointNotAllowed, inward.to_string()), None);
            }
            Err(Trouble::Unanswered(why)) => {
                let account = &self.store.account;
                return (
                    Finding::Unreachable(format!(
                        "{why}; check spec.azureBlob.account ({account}) and its endpoint"
                    )),
                    None,
                );
            }
        };
        let skew = date(&answer).map(|theirs| theirs.duration_since(Timestamp::now()));
        let is_skewed = skew.is_some_and(|skew| skew.abs() >= BACK_DATED.min(OWN));
        let finding = finding(answer.status, &error_code(&answer), is_skewed, &self.store.container);
        (finding, skew.filter(|skew| skew.abs() >= TOLERATED_SKEW))
    }

    /// Sends a signed PUT that asks to copy a blob which does not exist. Azure takes only sources that the sender may
    /// read, and so does not even look; a store that copies whatever it has looks for the blob and does not find it.
    ///
    /// `None` if the answer tells neither; an error if there was none.
    async fn refuses_foreign_sources(&self) -> Result<Option<bool>, Unanswered> {
        let base = self.own_base();
        let now = Timestamp::now();
        // At a name of its own: with a blob at one that everybody knows, the answer would be about that.
        let own = format!("{PROBE_BLOB}-{}", now.as_nanosecond());
        let permit = Permit {
            ip: None,
            ..self.permit(&own, "c", now - BACK_DATED, now + OWN, &base)
        };
        let url = match &self.credentials {
            Credentials::Unusable(_) => return Ok(None),
            Credentials::Key(key) => self.signed_url(&base, &permit, Pen::Account(key, None)),
            Credentials::Identity(identity) => {
                let Ok(delegation) = self.delegation(identity).await else {
                    return Ok(None);
                };
                let start = permit.start.max(delegation.start);
                self.signed_url(&base, &Permit { start, ..permit }, Pen::Delegation(&delegation.key))
            }
        };
        let absent = format!("{PROBE_BLOB}-absent-{}", now.as_nanosecond());
        let source = format!("{base}/{}/{}", self.store.container, encoded(&absent));
        let request = Request::builder()
            .method(Method::PUT)
            .uri(url.unwrap_or_default())
            .header("x-ms-copy-source", source)
            .header(header::CONTENT_LENGTH, 0)
            .body(Full::default())
            .map_err(|_| Unanswered::Malformed)?;
        let answer = self.http.send(request).await?;
        Ok(match (answer.status, error_code(&answer).as_str()) {
            (_, "CannotVerifyCopySource" | "PublicAccessNotPermitted" | "NoAuthenticationInformation") => Some(true),
            // It looked for the source. Of Azure's own it is documented that it does not.
            (404, "BlobNotFound") if !self.is_azures_own() => Some(false),
            _ => None,
        })
    }
}

fn of_credentials(error: SignError) -> Finding {
    match error {
        SignError::Credentials {
            reason: Reason::StoreUnreachable,
            message,
        } => Finding::Unreachable(message),
        SignError::Credentials { reason, message } => Finding::Broken(reason, message),
        other => Finding::Unreachable(other.to_string()),
    }
}

/// What an answer means ("Blob Storage error codes").
fn finding(status: u16, code: &str, is_skewed: bool, container: &str) -> Finding {
    let broken = |reason, message: String| Finding::Broken(reason, message);
    match (status, code) {
        (401 | 403, _) if is_skewed => broken(
            Reason::ClockSkewed,
            "the store's clock and the operator's differ by more than a quarter of an hour; set the clocks right (NTP)"
                .into(),
        ),
        (404, "ContainerNotFound") => broken(
            Reason::BucketNotFound,
            format!("the account has no container {container}; create it, or correct spec.azureBlob.container"),
        ),
        (404, "ResourceNotFound" | "AccountNotFound") => broken(
            Reason::BucketNotFound,
            "the store has no such account; correct spec.azureBlob.account".into(),
        ),
        (403, "KeyBasedAuthenticationNotPermitted") => broken(
            Reason::CredentialsRefused,
            "the account takes no account keys (KeyBasedAuthenticationNotPermitted); leave credentials out and give the operator an identity".into(),
        ),
        (403, "AccountIsDisabled") => broken(
            Reason::CredentialsRefused,
            "the storage account is disabled (AccountIsDisabled)".into(),
        ),
        // Not there, or not to be seen by this identity or from this network.
        (200 | 206 | 404 | 416, _) | (403, "AuthorizationPermissionMismatch") => Finding::Usable,
        (401 | 403, code) => broken(
            Reason::CredentialsRefused,
            format!(
                "the store does not take the credentials ({code}); check the account key or the identity's roles, and the account's firewall"
            ),
        ),
        (status, code) => Finding::Unreachable(format!("it answered {status} {code}").trim_end().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_mean() {
        let reason = |status, code, is_skewed| match finding(status, code, is_skewed, "media") {
            Finding::Usable => "usable",
            Finding::Broken(reason, _) => reason.as_str(),
            Finding::Unreachable(_) => "unreachable",
        };
        for (status, code, means) in [
            (404, "BlobNotFound", "usable"),
            (404, "", "usable"),
            (200, "", "usable"),
            (403, "AuthorizationPermissionMismatch", "usable"),
            (404, "ContainerNotFound", "BucketNotFound"),
            (404, "ResourceNotFound", "BucketNotFound"),
            (403, "AuthenticationFailed", "CredentialsRefused"),
            (403, "AuthorizationFailure", "CredentialsRefused"),
            (403, "KeyBasedAuthenticationNotPermitted", "CredentialsRefused"),
            (401, "InvalidAuthenticationInfo", "CredentialsRefused"),
            (400, "InvalidUri", "unreachable"),
            (503, "ServerBusy", "unreachable"),
            (302, "", "unreachable"),
        ] {
            assert_eq!(reason(status, code, false), means, "{status} {code}");
        }
        assert_eq!(reason(403, "AuthenticationFailed", true), "ClockSkewed");
        assert_eq!(reason(404, "BlobNotFound", true), "usable");
    }
}
