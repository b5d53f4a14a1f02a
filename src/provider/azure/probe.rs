//! Probes an Azure container. The probe checks the account, the container, the credentials and the clock skew. It
//! also checks that the holder of a SAS cannot copy data that the holder is not allowed to read. If the store behaves
//! correctly, the probe writes nothing.

use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request, header};
use http_body_util::Full;
use jiff::Timestamp;

use super::{
    credentials::Credentials,
    limits::{BACK_DATED, OWN, PROBE_BLOB},
    requests::Trouble,
    responses::{date, error_code},
    sas::{SasParams, SasSigner, encoded},
    store::AzureBlob,
};
use crate::{
    api::Reason,
    net::client::Unanswered,
    provider::{
        probe::{OTHER_MD5, UnsignedHeaders},
        probe_steps::{ProbeRead, ProbeSteps},
        probed::Finding,
    },
};

impl ProbeSteps for AzureBlob {
    fn read(&self) -> BoxFuture<'_, ProbeRead> {
        self.probe_read(None).boxed()
    }

    fn settings(&self) -> BoxFuture<'_, Result<(), Finding>> {
        async {
            let Some(policy) = &self.store.stored_access_policy else {
                return Ok(());
            };
            match self.probe_read(Some(policy)).await.finding {
                Finding::Usable => Ok(()),
                Finding::Broken(Reason::CredentialsRefused, _) => Err(Finding::Broken(
                    Reason::CredentialsRefused,
                    format!(
                        "the container has no stored access policy {policy}, or this policy sets times or permissions; create the policy without times and permissions, or correct spec.azureBlob.storedAccessPolicy"
                    ),
                )),
                other => Err(other),
            }
        }
        .boxed()
    }

    fn unsigned_headers(&self, _: bool) -> BoxFuture<'_, Result<UnsignedHeaders, Finding>> {
        async {
            let found = self.refuses_foreign_sources().await;
            found.map_err(|why| Finding::Unreachable(why.to_string()))
        }
        .boxed()
    }
}

impl AzureBlob {
    /// Sends a read request for a blob that usually does not exist. The error in the answer shows whether the
    /// account, the container and the credentials are correct.
    async fn probe_read(&self, policy: Option<&str>) -> ProbeRead {
        // If the operator's identity signs, the identity must be able to fetch a user delegation key.
        if let Credentials::Identity(identity) = &self.credentials
            && let Err(e) = self.delegation(identity).await
        {
            return ProbeRead::of(Finding::from(e));
        }
        let answer = match self.read(Method::GET, PROBE_BLOB, policy).await {
            Ok(answer) => answer,
            Err(Trouble::Credentials(e)) => return ProbeRead::of(Finding::from(e)),
            Err(Trouble::Unanswered(Unanswered::EgressDenied(inward))) => {
                return ProbeRead::of(Finding::Broken(Reason::EndpointNotAllowed, inward.to_string()));
            }
            Err(Trouble::Unanswered(why)) => {
                let account = &self.store.account;
                return ProbeRead::of(Finding::Unreachable(format!(
                    "{why}; check spec.azureBlob.account ({account}) and spec.azureBlob.endpoint"
                )));
            }
        };
        let skew = date(&answer).map(|store_time| store_time.duration_since(Timestamp::now()));
        let is_dead = skew.is_some_and(|skew| skew.abs() >= BACK_DATED.min(OWN));
        let finding = finding(answer.status, &error_code(&answer), is_dead, &self.store.container);
        ProbeRead {
            finding,
            skew,
            is_absent: answer.status == 404,
        }
    }

    /// Sends a signed PUT request with a header that asks the store to copy a blob. This source blob does not exist.
    ///
    /// Azure copies only from a source that the sender is allowed to read. It refuses the request before it searches
    /// for the source blob. An unsafe store searches for the source blob and does not find it.
    ///
    /// The refusal counts only if the store accepts the PUT request without the copy header. The PUT request contains
    /// a wrong MD5, so a correct store writes nothing.
    async fn refuses_foreign_sources(&self) -> Result<UnsignedHeaders, Unanswered> {
        let unknown = |why: &str| Ok(UnsignedHeaders::Unknown(why.to_owned()));
        if !self.allows_writes() {
            return unknown(
                "only an upload can show whether the store rejects unsigned headers, but the operator sends only read requests to this store",
            );
        }
        let base = self.account_url();
        let now = Timestamp::now();
        // Each probe uses a new blob name. An existing blob with this name could change the store's answer.
        let own = format!("{PROBE_BLOB}-{}", now.as_nanosecond());
        let delegation = match &self.credentials {
            Credentials::Unusable(_) => return unknown("there are no credentials"),
            Credentials::Key(_) => None,
            Credentials::Identity(identity) => match self.delegation(identity).await {
                Ok(delegation) => Some(delegation),
                Err(_) => return unknown("there is no user delegation key"),
            },
        };
        let sign = |blob: &str| {
            let permit = SasParams {
                ip: None,
                ..self.params(blob, "c", now - BACK_DATED, now + OWN, &base)
            };
            match (&self.credentials, &delegation) {
                (Credentials::Key(key), _) => self.signed_url(&base, &permit, SasSigner::Account(key, None)),
                (_, Some(delegation)) => {
                    let start = permit.start.max(delegation.start);
                    self.signed_url(
                        &base,
                        &SasParams { start, ..permit },
                        SasSigner::Delegation(&delegation.key),
                    )
                }
                _ => Ok(String::new()),
            }
            .unwrap_or_default()
        };
        // The uploads before and after the copy request have different blob names. A store that ignores the wrong MD5
        // writes the blob of the first upload. This blob could change the answer to the second upload.
        let (before, after) = (format!("{own}-before"), format!("{own}-after"));
        if let Err(said) = self.accepts(&before, &sign(&before)).await? {
            return unknown(&format!(
                "the probe sent an upload without a copy source; the store answered status {said}"
            ));
        }
        let absent = format!("{PROBE_BLOB}-absent-{}", now.as_nanosecond());
        let source = format!("{base}/{}/{}", self.store.container, encoded(&absent));
        let (status, code) = self.put(&sign(&own), &[("x-ms-copy-source", &source)]).await?;
        let is_refusal = matches!(
            code.as_str(),
            "CannotVerifyCopySource" | "PublicAccessNotPermitted" | "NoAuthenticationInformation"
        );
        if is_refusal && self.accepts(&after, &sign(&after)).await?.is_ok() {
            return Ok(UnsignedHeaders::Refused);
        }
        // The store searched for the copy source, so the store obeys unsigned headers. Azure documents that Azure
        // itself does not obey them. Therefore Valet draws this conclusion only for stores outside Azure.
        if (status, code.as_str()) == (404, "BlobNotFound") && !self.is_microsofts() {
            return Ok(UnsignedHeaders::Obeyed);
        }
        let why = format!("the probe sent an upload with a copy source; the store answered status {status} {code}");
        unknown(why.trim_end())
    }

    /// Sends an upload without a copy source to this URL. The upload has a wrong MD5. Returns `Ok` if the store writes
    /// the blob, or if the store refuses the upload only because of the wrong MD5. Otherwise the function returns the
    /// status and the error code of the answer. If the store wrote a blob, the function deletes the blob.
    async fn accepts(&self, blob: &str, url: &str) -> Result<Result<(), String>, Unanswered> {
        const KIND: (&str, &str) = ("x-ms-blob-type", "BlockBlob");
        let broken = self.put(url, &[KIND, ("content-md5", OTHER_MD5)]).await?;
        let (status, code) = match broken {
            // Azurite returns this error code for a wrong MD5, but also for many other errors. Therefore Valet sends a
            // second upload without an MD5. If Azurite accepts the second upload, the wrong MD5 caused the error.
            (400, code) if code == "InvalidOperation" && !self.is_microsofts() => self.put(url, &[KIND]).await?,
            said => said,
        };
        if status == 201 {
            let _ = self.own_request(Method::DELETE, blob, "d", None).await;
        }
        Ok(match (status, code.as_str()) {
            (201, _) | (400, "Md5Mismatch" | "InvalidMd5") => Ok(()),
            _ => Err(format!("{status} {code}").trim_end().to_owned()),
        })
    }

    /// Sends one PUT request without a body. Returns the status and the error code of the answer.
    async fn put(&self, url: &str, headers: &[(&str, &str)]) -> Result<(u16, String), Unanswered> {
        let mut request = Request::builder().method(Method::PUT).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.header(header::CONTENT_LENGTH, 0).body(Full::default());
        let answer = self.http.send(request.map_err(|_| Unanswered::Malformed)?).await?;
        Ok((answer.status, error_code(&answer)))
    }
}

/// Converts the store's answer to a read request into the result of the probe (Azure Storage documentation, "Blob
/// Storage error codes").
fn finding(status: u16, code: &str, is_skewed: bool, container: &str) -> Finding {
    let broken = |reason, message: String| Finding::Broken(reason, message);
    match (status, code) {
        (401 | 403, _) if is_skewed => broken(
            Reason::ClockSkewed,
            "the store's clock and the operator's clock differ by more than 15 minutes; synchronize the clocks (NTP)"
                .into(),
        ),
        (404, "ContainerNotFound") => broken(
            Reason::BucketNotFound,
            format!("the storage account has no container {container}; create the container, or correct spec.azureBlob.container"),
        ),
        (404, "ResourceNotFound" | "AccountNotFound") => broken(
            Reason::BucketNotFound,
            "the storage account in spec.azureBlob.account does not exist; correct spec.azureBlob.account".into(),
        ),
        (403, "KeyBasedAuthenticationNotPermitted") => broken(
            Reason::CredentialsRefused,
            "the storage account does not allow account keys (KeyBasedAuthenticationNotPermitted); remove spec.azureBlob.credentials, and give the operator an Azure identity".into(),
        ),
        (403, "AccountIsDisabled") => broken(
            Reason::CredentialsRefused,
            "the storage account is disabled (AccountIsDisabled)".into(),
        ),
        // The blob exists, the blob does not exist, or the store does not allow this identity or network to read the
        // blob. In all these cases, the probe reports the store as usable.
        (200 | 206 | 404 | 416, _) | (403, "AuthorizationPermissionMismatch") => Finding::Usable,
        (401 | 403, code) => broken(
            Reason::CredentialsRefused,
            format!(
                "the store does not accept the credentials ({code}); check the account key or the roles of the operator's identity, and check the firewall of the storage account"
            ),
        ),
        (status, code) => Finding::Unreachable(format!("the store answered {status} {code}").trim_end().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azure_probe_answers_map_to_findings() {
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
