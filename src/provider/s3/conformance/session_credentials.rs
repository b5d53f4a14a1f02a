//! Checks that temporary credentials allow only what the grant allows. The check sends requests with an S3 client that
//! uses these credentials, as a workload does.

use aws_sdk_s3::{Client, config::http::HttpResponse, error::SdkError, primitives::ByteStream};

use super::super::{assume_role::assume, responses::unreachable};
use super::transport::Bucket;
use crate::{
    api::{DownloadMode, OperationSpec, Overwrite, UploadConstraints, UploadMode},
    conformance::{BODY, Checker, Missing, Unavailable},
};

/// The operations that the check tries with temporary credentials.
#[derive(Clone, Copy)]
enum Action {
    Put,
    Get,
    Delete,
    List,
}

/// An S3 client with temporary credentials for the prefix `lent/` in the folder of the conformance check.
struct Holder<'a> {
    client: Client,
    bucket: &'a str,
    folder: String,
}

impl<'a> Holder<'a> {
    async fn new(
        bucket: &Bucket<'a>,
        checker: &Checker<'_, Bucket<'_>>,
        operation_spec: &OperationSpec,
        is_over: bool,
    ) -> Result<Self, Unavailable> {
        let s3 = bucket.s3;
        let session = s3.session().await?;
        let own = assume(s3, &session, &checker.request("lent/", operation_spec, is_over)?).await?;
        let own = own.ok_or_else(|| Unavailable("the store has no STS".into()))?;
        Ok(Self {
            client: s3.client(&own, s3.store.endpoint.as_ref()),
            bucket: &s3.store.bucket,
            folder: checker.folder.clone(),
        })
    }

    /// Returns true if the store allows the operation with these temporary credentials.
    async fn is_permitted(&self, action: Action, name: &str) -> Result<bool, Unavailable> {
        let (client, bucket, key) = (&self.client, self.bucket, format!("{}/{name}", self.folder));
        match action {
            Action::Put => {
                let put = client.put_object().bucket(bucket).key(key);
                is_accepted(put.body(ByteStream::from_static(BODY)).send().await)
            }
            Action::Get => is_accepted(client.get_object().bucket(bucket).key(key).send().await),
            Action::Delete => is_accepted(client.delete_object().bucket(bucket).key(key).send().await),
            Action::List => is_accepted(client.list_objects_v2().bucket(bucket).prefix(key).send().await),
        }
    }
}

fn is_accepted<T, E: std::error::Error + 'static>(
    answer: Result<T, SdkError<E, HttpResponse>>,
) -> Result<bool, Unavailable> {
    match answer {
        Ok(_) => Ok(true),
        Err(e) => match e.raw_response().map(|r| r.status().as_u16()) {
            Some(status) if status < 500 || status == 501 => Ok(false),
            _ => Err(Unavailable(unreachable(&e))),
        },
    }
}

/// Checks that temporary credentials for a prefix allow only the operations of the grant, and only objects with this
/// prefix. The function also checks that the credentials expire.
pub async fn check(bucket: &Bucket<'_>, checker: &mut Checker<'_, Bucket<'_>>) -> Result<(), Unavailable> {
    match check_limits(bucket, checker).await? {
        None => checker.found.enforced.push(Missing::Credentials.name()),
        Some(why) => {
            checker
                .found
                .without
                .push(format!("{} ({why})", Missing::Credentials.name()));
            checker.found.missing.push(Missing::Credentials);
        }
    }
    Ok(())
}

/// Returns what the temporary credentials wrongly allow or wrongly refuse. Returns `None` if the check found no such
/// error.
async fn check_limits(
    bucket: &Bucket<'_>,
    checker: &mut Checker<'_, Bucket<'_>>,
) -> Result<Option<String>, Unavailable> {
    for name in ["lent/a", "lent/b", "stray-lent"] {
        checker.wrote(name);
    }
    let upload = OperationSpec::Upload {
        mode: UploadMode::Credentials,
        multipart: Default::default(),
        constraints: UploadConstraints {
            overwrite: Overwrite::Allow,
            ..UploadConstraints::default()
        },
    };
    let writer = Holder::new(bucket, checker, &upload, false).await?;
    if !writer.is_permitted(Action::Put, "lent/a").await? {
        return Ok(Some("temporary credentials for uploads cannot write".into()));
    }
    for (action, name, what) in [
        (Action::Put, "stray-lent", "write outside their prefix"),
        (Action::Get, "lent/a", "read, although they are for uploads"),
        (Action::List, "lent/", "list, although they are for uploads"),
        (Action::Delete, "lent/a", "delete, although they are for uploads"),
    ] {
        if writer.is_permitted(action, name).await? {
            return Ok(Some(format!("temporary credentials can {what}")));
        }
    }
    let late = Holder::new(bucket, checker, &upload, true).await?;
    if late.is_permitted(Action::Put, "lent/b").await? {
        return Ok(Some(
            "temporary credentials can still write after they have expired".into(),
        ));
    }
    if !checker.exists("put").await? {
        let why = "the conformance check skipped temporary credentials for downloads, because the store's credentials are not allowed to read objects under spec.s3.probeKey";
        checker.found.not_tested.push(why.into());
        return Ok(None);
    }
    // If `..` has no special meaning in the store, an object key such as `lent/../a` begins with the prefix `lent/`.
    // The credentials then correctly allow this object key.
    for (dots, escaped) in [
        ("lent/../out-lent-0", "out-lent-0"),
        ("lent/%2e%2e/out-lent-1", "out-lent-1"),
    ] {
        if writer.is_permitted(Action::Put, dots).await? {
            checker.wrote(dots);
        }
        if checker.exists(escaped).await? {
            return Ok(Some(
                "temporary credentials can write outside their prefix with an object key that contains '..'".into(),
            ));
        }
    }
    let download = OperationSpec::Download {
        mode: DownloadMode::Credentials,
        version: None,
        response: Default::default(),
    };
    let reader = Holder::new(bucket, checker, &download, false).await?;
    if !reader.is_permitted(Action::Get, "lent/a").await? {
        return Ok(Some("temporary credentials for downloads cannot read".into()));
    }
    for (action, name, what) in [
        (Action::Get, "put", "read outside their prefix"),
        (Action::List, "", "list outside their prefix"),
        (Action::Put, "lent/b", "write, although they are for downloads"),
        (Action::Delete, "lent/a", "delete, although they are for downloads"),
    ] {
        if reader.is_permitted(action, name).await? {
            return Ok(Some(format!("temporary credentials can {what}")));
        }
    }
    Ok(None)
}
