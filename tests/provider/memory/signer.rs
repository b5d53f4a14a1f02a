//! Signs credentials for objects in memory.

use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use valet::{
    api::{DownloadMode, MAX_PARTS, OperationSpec, Overwrite, ResponseHeaders, UploadConstraints, UploadMode},
    core::{AllowedRequest, Credential, Form, Headers, SignError, Signed, SignedPart, SignedUrl, SigningRequest},
    provider::{Provider, Signer},
};

use super::{
    capabilities::MAX_EXPIRES_SECONDS,
    form::{self, size_range},
    scheme::{Request, SHA256, SIZE_RANGE, sign},
    store::Memory,
};

/// The number of hexadecimal digits of a fingerprint.
const FINGERPRINT_DIGITS: usize = 16;

impl Signer for Memory {
    fn sign<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<Signed, SignError>> {
        std::future::ready(self.sign_at(self.public_endpoint(), request)).boxed()
    }

    /// An access key does not expire.
    fn credentials_expire(&self) -> BoxFuture<'_, Result<Option<Timestamp>, SignError>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn fingerprint<'a>(&'a self, salt: &'a str) -> BoxFuture<'a, Result<Option<String>, SignError>> {
        let text = format!(
            "{salt}\n{}\n{}/{}",
            self.key.id,
            self.public_endpoint(),
            self.store.bucket
        );
        let mut digits = sign(&self.key.secret, &text);
        digits.truncate(FINGERPRINT_DIGITS);
        std::future::ready(Ok(Some(digits))).boxed()
    }
}

impl Memory {
    fn public_endpoint(&self) -> &str {
        self.store.public_endpoint.as_deref().unwrap_or(&self.store.endpoint)
    }

    /// Signs a credential for this endpoint.
    pub fn sign_at(&self, endpoint: &str, request: &SigningRequest) -> Result<Signed, SignError> {
        if !(1..=MAX_EXPIRES_SECONDS).contains(&request.lifetime.seconds()) {
            return Err(SignError::Refused(format!(
                "the lifetime of the credential must be between 1 and {MAX_EXPIRES_SECONDS} seconds"
            )));
        }
        let expires = request.lifetime.expires_at.as_second();
        let url = |wanted: &Request| {
            let target = wanted.signed(&self.key.id, &self.key.secret, expires);
            SignedUrl::new(format!("{endpoint}{target}"))
        };
        let path = self.path(request.key.as_str());
        let wanted = match &request.operation_spec {
            OperationSpec::Upload { mode, constraints, .. } => match mode {
                UploadMode::Put => Request {
                    method: "PUT",
                    path,
                    headers: put_headers(constraints)?,
                    ..Request::default()
                },
                UploadMode::PostForm => {
                    let object = (self.store.bucket.as_str(), request.key.as_str());
                    let key = (self.key.id.as_str(), self.key.secret.as_str());
                    let fields = form::fields(object, constraints, key, expires)?;
                    return Ok(self.signed(Credential::Form {
                        url: SignedUrl::new(format!("{endpoint}/{}/", self.store.bucket)),
                        fields: Form::new(fields),
                    }));
                }
                UploadMode::Multipart => return Ok(self.signed(Credential::Parts(parts(request, &path, url)?))),
                UploadMode::Resumable | UploadMode::Credentials => return Err(unsupported()),
            },
            OperationSpec::Download {
                mode: DownloadMode::Credentials,
                ..
            } => return Err(unsupported()),
            OperationSpec::Download { version, response, .. } => Request {
                method: "GET",
                path,
                query: get_query(version.as_deref(), response),
                ..Request::default()
            },
        };
        Ok(self.signed(Credential::Request {
            url: url(&wanted),
            method: wanted.method.to_owned(),
            headers: wanted.headers,
        }))
    }

    fn signed(&self, credential: Credential) -> Signed {
        Signed {
            credential,
            provider: self.name(),
        }
    }
}

fn unsupported() -> SignError {
    SignError::Refused("a bucket in memory supports neither resumable uploads nor temporary credentials".into())
}

fn put_headers(constraints: &UploadConstraints) -> Result<Headers, SignError> {
    if constraints.checksum_md5.is_some() {
        return Err(SignError::Refused("a bucket in memory does not check an MD5".into()));
    }
    let is_write_once = constraints.overwrite == Overwrite::Forbid;
    let headers = [
        ("content-type", constraints.content_type.clone()),
        (SIZE_RANGE, size_range(constraints)),
        (SHA256, constraints.checksum_sha256.clone()),
        ("if-none-match", is_write_once.then(|| "*".to_owned())),
    ];
    let set = headers
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Ok(set.collect())
}

fn get_query(version: Option<&str>, response: &ResponseHeaders) -> Vec<(&'static str, String)> {
    let parameters = [
        ("version", version),
        ("response-content-type", response.content_type.as_deref()),
        ("response-content-disposition", response.content_disposition.as_deref()),
        ("response-content-encoding", response.content_encoding.as_deref()),
        ("response-content-language", response.content_language.as_deref()),
        ("response-cache-control", response.cache_control.as_deref()),
    ];
    let set = parameters
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?.to_owned())));
    set.collect()
}

/// Signs one URL for each part of a multipart upload.
fn parts(
    request: &SigningRequest,
    path: &str,
    url: impl Fn(&Request) -> SignedUrl,
) -> Result<Vec<SignedPart>, SignError> {
    let upload = request.upload.as_ref();
    let upload = upload.ok_or_else(|| SignError::Refused("the multipart upload was not initiated".into()))?;
    let parts = request
        .operation_spec
        .parts()
        .filter(|parts| parts.count() <= MAX_PARTS);
    let parts = parts.ok_or_else(|| SignError::Refused("the multipart upload has too many parts".into()))?;
    let part = |part: valet::api::Part| {
        let wanted = Request {
            method: "PUT",
            path: path.to_owned(),
            query: vec![("upload", upload.clone()), ("part", part.number.to_string())],
            headers: vec![(SIZE_RANGE.to_owned(), format!("{}-{}", part.size.min, part.size.max))],
        };
        SignedPart {
            part,
            url: url(&wanted),
            headers: wanted.headers,
        }
    };
    Ok(parts.all().map(part).collect())
}
