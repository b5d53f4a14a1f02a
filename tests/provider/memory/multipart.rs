//! Multipart uploads to a bucket in memory.

use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use serde::Deserialize;
use valet::{
    api::{ObservedObject, OperationSpec, Reason},
    core::{
        AbortAccess, Access, AllowedRequest, ArrivedPart, Assembly, Completion, ObjectKey, OpenUpload, SignError,
        SigningRequest, UploadFact, UploadsFact,
    },
    net::client::Answer,
    provider::Multipart,
};

use super::{
    scheme::Request,
    store::{Memory, code},
};

#[derive(Deserialize)]
struct Begun {
    upload: String,
}

#[derive(Deserialize)]
struct ListedPart {
    number: i64,
    size: i64,
    tag: String,
}

#[derive(Deserialize)]
struct Completed {
    tag: String,
}

#[derive(Deserialize)]
struct ListedUpload {
    upload: String,
    initiated: Timestamp,
    has_parts: bool,
}

impl Multipart for Memory {
    fn initiate<'a>(&'a self, request: &'a AllowedRequest) -> BoxFuture<'a, Result<String, SignError>> {
        self.begin_upload(request).boxed()
    }

    fn arrived<'a>(&'a self, access: &'a Access, upload: &'a str) -> BoxFuture<'a, UploadFact> {
        self.list_parts(access.key(), upload).boxed()
    }

    fn complete<'a>(&'a self, access: &'a Access, assembly: &'a Assembly) -> BoxFuture<'a, Completion> {
        self.complete_upload(access.key(), assembly).boxed()
    }

    fn abort<'a>(&'a self, upload: &'a AbortAccess) -> BoxFuture<'a, Result<(), String>> {
        self.abort_upload(upload.key(), upload.upload()).boxed()
    }

    fn open<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, UploadsFact> {
        async {
            let request = Request {
                method: "GET",
                path: self.path(""),
                query: vec![("key", access.key().as_str().to_owned())],
                ..Request::default()
            };
            let listed: Vec<ListedUpload> = match self.send(&request, &[], Vec::new()).await {
                Ok(answer) if matches!(answer.status, 401 | 403) => return UploadsFact::Hidden,
                Ok(answer) => match read(&answer) {
                    Ok(listed) => listed,
                    Err(why) => return UploadsFact::Unreachable(why),
                },
                Err(e) => return UploadsFact::Unreachable(e.to_string()),
            };
            let open = listed.into_iter().map(|upload| OpenUpload {
                id: upload.upload,
                initiated: Some(upload.initiated),
                has_parts: upload.has_parts,
            });
            UploadsFact::Listed {
                uploads: open.collect(),
                contested: false,
            }
        }
        .boxed()
    }
}

/// The conformance check also calls these methods. They do not check whether an access rule allows the grant.
impl Memory {
    pub async fn begin_upload(&self, request: &SigningRequest) -> Result<String, SignError> {
        let OperationSpec::Upload { constraints, .. } = &request.operation_spec else {
            return Err(SignError::Refused(
                "a DownloadGrant cannot initiate a multipart upload".into(),
            ));
        };
        let content_type = constraints.content_type.iter();
        let request = Request {
            method: "POST",
            path: self.path(request.key.as_str()),
            headers: content_type
                .map(|value| ("content-type".to_owned(), value.clone()))
                .collect(),
            ..Request::default()
        };
        let answer = self.send(&request, &[], Vec::new()).await?;
        let initiated: Begun = read(&answer).map_err(|message| SignError::Credentials {
            reason: match answer.status {
                401 | 403 => Reason::CredentialsRefused,
                _ => Reason::StoreUnreachable,
            },
            message,
        })?;
        Ok(initiated.upload)
    }

    fn upload_request(&self, method: &'static str, key: &ObjectKey, upload: &str) -> Request {
        Request {
            method,
            path: self.path(key.as_str()),
            query: vec![("upload", upload.to_owned())],
            ..Request::default()
        }
    }

    pub async fn list_parts(&self, key: &ObjectKey, upload: &str) -> UploadFact {
        let request = self.upload_request("GET", key, upload);
        let answer = match self.send(&request, &[], Vec::new()).await {
            Ok(answer) => answer,
            Err(e) => return UploadFact::Unreachable(e.to_string()),
        };
        match answer.status {
            401 | 403 => UploadFact::Hidden,
            _ if code(&answer) == "NoSuchUpload" => UploadFact::Gone,
            _ => match read::<Vec<ListedPart>>(&answer) {
                Ok(parts) => UploadFact::Open(parts.into_iter().map(arrived).collect()),
                Err(why) => UploadFact::Unreachable(why),
            },
        }
    }

    pub async fn complete_upload(&self, key: &ObjectKey, assembly: &Assembly) -> Completion {
        let mut request = self.upload_request("POST", key, &assembly.upload);
        if assembly.write_once {
            request.headers.push(("if-none-match".to_owned(), "*".to_owned()));
        }
        let parts: Vec<_> = assembly.parts.iter().map(|part| (part.number, &part.e_tag)).collect();
        let body = serde_json::to_vec(&parts).unwrap_or_default();
        let answer = match self.send(&request, &[], body).await {
            Ok(answer) => answer,
            Err(e) => return Completion::Unreachable(e.to_string()),
        };
        match (answer.status, code(&answer)) {
            (412, _) => Completion::Exists,
            (_, "NoSuchUpload") => Completion::Gone,
            (200, _) => match read::<Completed>(&answer) {
                Ok(done) => Completion::Done(
                    ObservedObject {
                        size: Some(assembly.parts.iter().map(|part| part.size).sum()),
                        e_tag: Some(done.tag),
                        ..ObservedObject::default()
                    }
                    .checked(),
                ),
                Err(why) => Completion::Unreachable(why),
            },
            (status, code) => Completion::Refused(format!("the store answered {status} {code}")),
        }
    }

    pub async fn abort_upload(&self, key: &ObjectKey, upload: &str) -> Result<(), String> {
        let request = self.upload_request("DELETE", key, upload);
        let answer = self.send(&request, &[], Vec::new()).await.map_err(|e| e.to_string())?;
        match answer.status {
            200..300 => Ok(()),
            _ if code(&answer) == "NoSuchUpload" => Ok(()),
            status => Err(format!("the store answered {status} {}", code(&answer))),
        }
    }
}

fn arrived(part: ListedPart) -> ArrivedPart {
    ArrivedPart {
        number: part.number,
        size: part.size,
        e_tag: part.tag,
    }
}

/// Reads the JSON body of a successful answer. The error is a text for a message.
fn read<T: for<'de> Deserialize<'de>>(answer: &Answer) -> Result<T, String> {
    match answer.status {
        200 => serde_json::from_slice(&answer.body).map_err(|_| "the store's answer is not valid JSON".into()),
        status => Err(format!("the store answered {status} {}", code(answer))),
    }
}
