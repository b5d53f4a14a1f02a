//! What lent credentials can do beyond what they are lent for, tried with an S3 client, as their holder has one.

use aws_sdk_s3::{Client, config::http::HttpResponse, error::SdkError, primitives::ByteStream};

use super::Bucket;
use crate::{
    api::{Ask, DownloadMode, Overwrite, UploadConstraints, UploadMode},
    conformance::{Away, BODY, Missing, Trip},
};

/// What a client can ask for.
#[derive(Clone, Copy)]
enum Deed {
    Put,
    Get,
    Delete,
    List,
}

/// Somebody to whom credentials were lent, for what is below `lent`.
struct Holder<'a> {
    client: Client,
    bucket: &'a str,
    folder: String,
}

impl<'a> Holder<'a> {
    async fn new(bucket: &Bucket<'a>, trip: &Trip<'_, Bucket<'_>>, ask: &Ask, is_over: bool) -> Result<Self, Away> {
        let s3 = bucket.s3;
        let session = s3.session().await?;
        let own = s3.assume(&session, &trip.request("lent/", ask, is_over)?).await?;
        let own = own.ok_or_else(|| Away("there is no STS".into()))?;
        Ok(Self {
            client: s3.client(&own, s3.store.endpoint.as_ref()),
            bucket: &s3.store.bucket,
            folder: trip.folder.clone(),
        })
    }

    /// Whether the store lets him.
    async fn may(&self, deed: Deed, name: &str) -> Result<bool, Away> {
        let (client, bucket, key) = (&self.client, self.bucket, format!("{}/{name}", self.folder));
        match deed {
            Deed::Put => {
                let put = client.put_object().bucket(bucket).key(key);
                taken(put.body(ByteStream::from_static(BODY)).send().await)
            }
            Deed::Get => taken(client.get_object().bucket(bucket).key(key).send().await),
            Deed::Delete => taken(client.delete_object().bucket(bucket).key(key).send().await),
            Deed::List => taken(client.list_objects_v2().bucket(bucket).prefix(key).send().await),
        }
    }
}

fn taken<T, E: std::error::Error + 'static>(answer: Result<T, SdkError<E, HttpResponse>>) -> Result<bool, Away> {
    match answer {
        Ok(_) => Ok(true),
        Err(e) => match e.raw_response().map(|r| r.status().as_u16()) {
            Some(status) if status < 500 || status == 501 => Ok(false),
            _ => Err(Away(super::super::unreachable(&e))),
        },
    }
}

/// Promises that what is lent for the objects below a key, until a time, does nothing else.
pub async fn lent(bucket: &Bucket<'_>, trip: &mut Trip<'_, Bucket<'_>>) -> Result<(), Away> {
    match beyond(bucket, trip).await? {
        None => trip.found.held.push(Missing::Credentials.name()),
        Some(why) => {
            trip.found
                .without
                .push(format!("{} ({why})", Missing::Credentials.name()));
            trip.found.missing.push(Missing::Credentials);
        }
    }
    Ok(())
}

/// What they can do beyond that, or cannot do of it.
async fn beyond(bucket: &Bucket<'_>, trip: &mut Trip<'_, Bucket<'_>>) -> Result<Option<String>, Away> {
    for name in ["lent/a", "lent/b", "stray-lent"] {
        trip.wrote(name);
    }
    let upload = Ask::Upload {
        mode: UploadMode::Credentials,
        multipart: Default::default(),
        constraints: UploadConstraints {
            overwrite: Overwrite::Allow,
            ..UploadConstraints::default()
        },
    };
    let writer = Holder::new(bucket, trip, &upload, false).await?;
    if !writer.may(Deed::Put, "lent/a").await? {
        return Ok(Some("lent for uploads, they cannot write".into()));
    }
    for (deed, name, what) in [
        (Deed::Put, "stray-lent", "write beside what they are lent for"),
        (Deed::Get, "lent/a", "read, lent for uploads"),
        (Deed::List, "lent/", "list, lent for uploads"),
        (Deed::Delete, "lent/a", "delete, lent for uploads"),
    ] {
        if writer.may(deed, name).await? {
            return Ok(Some(format!("they can {what}")));
        }
    }
    let late = Holder::new(bucket, trip, &upload, true).await?;
    if late.may(Deed::Put, "lent/b").await? {
        return Ok(Some("they can write after their end".into()));
    }
    if !trip.exists("put").await? {
        let why = "lent credentials for downloads: the store's own may not read below probeKey";
        trip.found.untried.push(why.into());
        return Ok(None);
    }
    // Where '..' is a name like others, the object is below.
    for (dots, escaped) in [
        ("lent/../out-lent-0", "out-lent-0"),
        ("lent/%2e%2e/out-lent-1", "out-lent-1"),
    ] {
        if writer.may(Deed::Put, dots).await? {
            trip.wrote(dots);
        }
        if trip.exists(escaped).await? {
            return Ok(Some("they can write to another folder by a key with '..'".into()));
        }
    }
    let download = Ask::Download {
        mode: DownloadMode::Credentials,
        version: None,
        response: Default::default(),
    };
    let reader = Holder::new(bucket, trip, &download, false).await?;
    if !reader.may(Deed::Get, "lent/a").await? {
        return Ok(Some("lent for downloads, they cannot read".into()));
    }
    for (deed, name, what) in [
        (Deed::Get, "put", "read beside what they are lent for"),
        (Deed::List, "", "list beside what they are lent for"),
        (Deed::Put, "lent/b", "write, lent for downloads"),
        (Deed::Delete, "lent/a", "delete, lent for downloads"),
    ] {
        if reader.may(deed, name).await? {
            return Ok(Some(format!("they can {what}")));
        }
    }
    Ok(None)
}
