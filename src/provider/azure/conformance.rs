//! The conformance check of an Azure Blob Storage container.

use std::collections::BTreeSet;

use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request, header};
use http_body_util::Full;
use hyper::body::Bytes;

use super::{requests::Trouble, store::AzureBlob};
use crate::{
    api::{Capability, OperationSpec, Overwrite, UploadConstraints, UploadMode},
    conformance::{
        BODY, Checker, ConformanceReport, Missing, PreparedRequest, Tamper, Transport, Unavailable, get, in_time,
    },
    core::{SignError, Signed, SigningRequest},
};

/// Runs the conformance check with blobs under the prefix `probe`, at the operator's endpoint.
pub async fn check(azure: &AzureBlob, probe: &str) -> ConformanceReport {
    let mut checker = Checker::new(azure, probe);
    let result = in_time(run_checks(&mut checker)).await;
    checker.end(result).await
}

/// Returns a write-once upload, which must not overwrite an existing blob.
fn put() -> OperationSpec {
    OperationSpec::Upload {
        mode: UploadMode::Put,
        multipart: Default::default(),
        constraints: UploadConstraints {
            overwrite: Overwrite::Forbid,
            ..UploadConstraints::default()
        },
    }
}

async fn run_checks(checker: &mut Checker<'_, AzureBlob>) -> Result<(), Unavailable> {
    if let Err(status) = checker.accepts("put", &put()).await? {
        checker.found.not_tested.push(format!(
            "the conformance check stopped, because the store answered status {status} to a PUT request under prefix {folder}/; allow the credentials to create blobs under this prefix",
            folder = checker.folder
        ));
        return Ok(());
    }
    checker
        .enforces(&put(), "put", |_| {}, &[Missing::Url(Capability::WriteOnce)])
        .await?;
    let delete: Tamper = |r| {
        r.method = "DELETE".into();
        r.body.clear();
    };
    checker.must_enforce("PUT", "put-x", &put(), Some(delete)).await?;

    if checker.accepts("put", &get()).await?.is_ok() {
        let other: Tamper = |r| r.url = r.url.replace("rsct=text/plain", "rsct=text/html");
        checker
            .enforces(&get(), "put", other, &[Missing::Url(Capability::ResponseHeaders)])
            .await?;
        let write: Tamper = |r| {
            r.method = "PUT".into();
            r.headers.push(("x-ms-blob-type".into(), "BlockBlob".into()));
            r.body = BODY.into();
        };
        checker.must_enforce("GET", "put", &get(), Some(write)).await?;
    } else {
        let why = "the conformance check skipped signed URLs for GET, because the credentials are not allowed to read blobs under prefix valet-probe/";
        checker.found.not_tested.push(why.into());
    }
    Ok(())
}

impl Transport for AzureBlob {
    /// Signs a credential for the operator's endpoint. The store's `ipRange` is only for workloads, so this signature
    /// does not contain the IP range.
    fn sign<'a>(&'a self, request: &'a SigningRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
        async move { self.sign_for(request, &self.account_url(), None).await }.boxed()
    }

    fn send(&self, sent: PreparedRequest) -> BoxFuture<'_, Result<u16, Unavailable>> {
        async move {
            let mut request = Request::builder().method(sent.method.as_str()).uri(sent.url);
            for (name, value) in sent.headers {
                request = request.header(name, value);
            }
            let request = request
                .header(header::CONTENT_LENGTH, sent.body.len())
                .body(Full::new(Bytes::from(sent.body)))
                .map_err(|_| Unavailable("the request could not be built".into()))?;
            match self.http.send(request).await {
                Ok(answer) if answer.status < 500 || answer.status == 501 => Ok(answer.status),
                Ok(answer) => Err(Unavailable(format!("the store answered {}", answer.status))),
                Err(e) => Err(Unavailable(e.to_string())),
            }
        }
        .boxed()
    }

    /// Makes the signature invalid by changing its first character. The last character is not suitable: it contains
    /// padding bits, so the changed signature could still be valid.
    fn forge(sent: &mut PreparedRequest) {
        if let Some(at) = sent.url.find("&sig=").map(|at| at + "&sig=".len()) {
            let other = if sent.url[at..].starts_with('A') { "B" } else { "A" };
            let length = if sent.url[at..].starts_with('%') { 3 } else { 1 };
            sent.url.replace_range(at..at + length, other);
        }
    }

    /// Deletes the blobs that the conformance check wrote. If the account has soft delete or versioning, Azure keeps
    /// the deleted blobs recoverable.
    fn delete_test_objects<'a>(
        &'a self,
        _: &'a str,
        written: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Option<&'static str>> {
        async move {
            let mut is_gone = true;
            for blob in written {
                is_gone &= match self.own_request(Method::DELETE, blob, "d", None).await {
                    Ok(answer) => matches!(answer.status, 202 | 404),
                    Err(Trouble::Credentials(_) | Trouble::Unanswered(_)) => false,
                };
            }
            (!is_gone).then_some("the identity to delete")
        }
        .boxed()
    }
}
