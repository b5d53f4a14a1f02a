//! Requests that the operator sends to Azure for itself: it fetches user delegation keys and reads blobs.

use std::sync::Arc;

use http::{Method, Request, header};
use http_body_util::Full;
use hyper::body::Bytes;
use jiff::Timestamp;

use super::{
    credentials::{Credentials, unusable},
    delegation::{self, Delegation, REPLACE_AFTER},
    limits::{BACK_DATED, OWN},
    responses::{date, error_code},
    sas::{SasParams, SasSigner, VERSION, encoded},
    store::AzureBlob,
    tokens::{self, Identity},
};
use crate::{
    api::Reason,
    core::SignError,
    net::client::{Answer, SOURCE_TIMEOUT, Unanswered, is_private},
};

/// The reason why the operator's own request to the store failed.
pub enum Trouble {
    Credentials(SignError),
    Unanswered(Unanswered),
}

impl Trouble {
    /// Returns the error as a sentence for users.
    pub fn text(&self) -> String {
        match self {
            Self::Credentials(e) => e.to_string(),
            Self::Unanswered(e) => e.to_string(),
        }
    }
}

impl AzureBlob {
    /// Returns the current user delegation key of the operator's identity. If this key is too old, the function
    /// fetches a new one.
    pub(super) async fn delegation(&self, identity: &Identity) -> Result<Arc<Delegation>, SignError> {
        let mut slot = self.delegation.lock().await;
        let now = Timestamp::now();
        if let Some((fetched, delegation)) = slot.as_ref()
            // If the fetch time is in the future, somebody set the operator's clock back after the fetch. The start
            // time of the cached key can then also be in the future, so Valet fetches a new key.
            && (*fetched..*fetched + REPLACE_AFTER).contains(&now)
        {
            return Ok(delegation.clone());
        }
        let fetched = tokio::time::timeout(SOURCE_TIMEOUT, self.fetch_delegation(identity, now));
        let fetched = fetched.await.unwrap_or_else(|_| {
            Err(tokens::unreachable(
                "the store did not return a user delegation key in time".into(),
            ))
        });
        match (fetched, slot.as_ref()) {
            (Ok(delegation), _) => {
                let delegation = Arc::new(delegation);
                *slot = Some((now, delegation.clone()));
                Ok(delegation)
            }
            // While Azure does not answer, Valet uses the last user delegation key, which is valid for days. If Azure
            // refuses to issue a new key, Valet no longer uses the last key.
            (Err(SignError::Credentials { reason, .. }), Some((_, last)))
                if reason == Reason::StoreUnreachable && now < last.expiry =>
            {
                Ok(last.clone())
            }
            (Err(e), _) => Err(e),
        }
    }

    async fn fetch_delegation(&self, identity: &Identity, now: Timestamp) -> Result<Delegation, SignError> {
        let uri = format!("{}/?restype=service&comp=userdelegationkey", self.account_url());
        let body = delegation::send_request(now, BACK_DATED);
        let answer = match self.send_as_identity(identity, Method::POST, &uri, body.into()).await {
            Ok(answer) => answer,
            Err(Trouble::Credentials(e)) => return Err(e),
            Err(Trouble::Unanswered(e)) => {
                return Err(tokens::unreachable(format!(
                    "the store returned no user delegation key: {e}"
                )));
            }
        };
        let code = error_code(&answer);
        let refused = |reason, message: String| Err(SignError::Credentials { reason, message });
        match answer.status {
            200 => delegation::read(&answer.body).ok_or_else(|| {
                tokens::unreachable("the store's answer does not contain a valid user delegation key".into())
            }),
            401 | 403 => {
                if answer.status == 401 {
                    identity.forget().await;
                }
                refused(
                    Reason::CredentialsRefused,
                    format!(
                        "the store refused to issue a user delegation key for the operator's identity (status {status} {code}); give the identity the role Storage Blob Delegator on the storage account, or set spec.azureBlob.credentials.secretRef",
                        status = answer.status
                    ),
                )
            }
            status if status < 500 && status != 429 => refused(
                Reason::CredentialsInvalid,
                format!(
                    "the store returned no user delegation key (status {status} {code}); check that spec.azureBlob.endpoint is an Azure Blob Storage endpoint"
                ),
            ),
            status => Err(tokens::unreachable(format!(
                "the store returned no user delegation key (status {status} {code})"
            ))),
        }
    }

    /// Sends a request with the access token of the operator's identity. If there is no answer, the function sends
    /// the request a second time.
    async fn send_as_identity(
        &self,
        identity: &Identity,
        method: Method,
        uri: &str,
        body: Bytes,
    ) -> Result<Answer, Trouble> {
        // Valet does not send the operator's token to an endpoint that a tenant chose. A server that receives the
        // token can use it in other stores that the operator can access.
        if self.is_tenants && !self.is_microsofts() {
            let message = "for an ObjectStore, the operator sends the token of the operator's identity only to Azure endpoints; remove spec.azureBlob.endpoint, or set spec.azureBlob.credentials.secretRef";
            return Err(Trouble::Credentials(SignError::Credentials {
                reason: Reason::CredentialsInvalid,
                message: message.into(),
            }));
        }
        let token = identity.token().await.map_err(Trouble::Credentials)?;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("x-ms-version", VERSION)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_LENGTH, body.len())
            .body(Full::new(body))
            .map_err(|_| Trouble::Unanswered(Unanswered::Malformed))?;
        if !is_private(request.uri()) {
            let message = "the operator sends the token of the operator's identity only over https; set spec.azureBlob.endpoint to an https URL, or set spec.azureBlob.credentials.secretRef";
            return Err(Trouble::Credentials(SignError::Credentials {
                reason: Reason::CredentialsInvalid,
                message: message.into(),
            }));
        }
        self.send(request).await
    }

    /// Sends a read request for a blob. If `policy` is set, the SAS of the request refers to the stored access policy
    /// with this name.
    pub(super) async fn read(&self, method: Method, blob: &str, policy: Option<&str>) -> Result<Answer, Trouble> {
        self.own_request(method, blob, "r", policy).await
    }

    /// Sends a request for a blob on behalf of the operator itself. If the store has an account key, the account key
    /// signs a SAS with a short lifetime for the request. Otherwise the request contains the access token of the
    /// operator's identity.
    pub(super) async fn own_request(
        &self,
        method: Method,
        blob: &str,
        permissions: &str,
        policy: Option<&str>,
    ) -> Result<Answer, Trouble> {
        let base = self.account_url();
        match &self.credentials {
            Credentials::Unusable(why) => Err(Trouble::Credentials(unusable(why))),
            Credentials::Identity(identity) => {
                let uri = format!("{base}/{}/{}", self.store.container, encoded(blob));
                self.send_as_identity(identity, method, &uri, Bytes::new()).await
            }
            Credentials::Key(key) => {
                let now = Timestamp::now();
                let permit = SasParams {
                    // The store's `ipRange` is only for workloads. The operator's address can be outside this range.
                    ip: None,
                    ..self.params(blob, permissions, now - BACK_DATED, now + OWN, &base)
                };
                let url = self
                    .signed_url(&base, &permit, SasSigner::Account(key, policy))
                    .map_err(Trouble::Credentials)?;
                let request = Request::builder()
                    .method(method)
                    .uri(url)
                    .body(Full::default())
                    .map_err(|_| Trouble::Unanswered(Unanswered::Malformed))?;
                self.send(request).await
            }
        }
    }

    /// Records the store's time from the answer and returns the answer unchanged.
    fn timed(&self, answer: Result<Answer, Unanswered>) -> Result<Answer, Trouble> {
        if let Some(store_time) = answer.as_ref().ok().and_then(date) {
            self.findings.clock.observe(store_time);
        }
        answer.map_err(Trouble::Unanswered)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Trouble> {
        match self.http.send(request.clone()).await {
            Ok(answer) if answer.status >= 500 => {}
            Err(Unanswered::Connection) => {}
            answer => return self.timed(answer),
        }
        let answer = self.http.send(request).await;
        self.timed(answer)
    }
}
