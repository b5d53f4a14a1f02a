//! Tests of multipart uploads: attacks with the URLs of parts, and changed parts. The tests initiate and complete the
//! upload as root, which the operator does otherwise.

use std::{thread, time::Duration};

use serde_json::{Value, json};
use valet_harness::{Context, Error, Result, Software};

use crate::{
    cells::{Bend, Outcome, figures, told},
    key::Request,
    store::{BUCKET, Column, SECRET, Store},
};

/// One row: its name, and its test, which uses a separate object. `None` means that the test does not apply to the
/// store.
pub struct Row {
    pub name: &'static str,
    pub cell: fn(&Store, &str) -> Option<Result<Outcome>>,
}

/// The size of the first part. The last part is smaller.
const PART: usize = 5 << 20;
const LAST: &[u8] = b"0123456789";

/// All rows of the table.
pub const ROWS: [Row; 10] = [
    Row {
        name: "method",
        cell: |s, k| Some(bent(s, k, &[(&|r: &mut Request| r.method = "DELETE".into(), LAST)])),
    },
    Row {
        name: "part",
        cell: |s, k| {
            Some(bent(
                s,
                k,
                &[(&|r: &mut Request| r.in_url("partNumber=2", "partNumber=3"), LAST)],
            ))
        },
    },
    Row {
        name: "upload",
        cell: another_upload,
    },
    Row {
        name: "object key",
        cell: |s, k| Some(bent(s, k, &[(&|r: &mut Request| r.in_url("x.bin?", "x.bin-2?"), LAST)])),
    },
    Row {
        name: "expiry",
        cell: |s, k| Some(expiry(s, k)),
    },
    Row {
        name: "signature",
        cell: |s, k| Some(bent(s, k, &[(&Request::forge, LAST)])),
    },
    Row {
        name: "`contentLength`",
        cell: content_length,
    },
    Row {
        name: "`overwrite: Forbid`",
        cell: |s, k| Some(write_once(s, k)),
    },
    Row {
        name: "`x-amz-copy-source`, unsigned",
        cell: |s, k| Some(copy_source(s, k)),
    },
    Row {
        name: "the same, with `assumeRole`",
        cell: copy_source_in_session,
    },
];

/// An initiated upload, with the requests for its two parts.
struct Upload<'a> {
    store: &'a Store<'a>,
    key: &'a str,
    id: String,
    parts: Vec<Request>,
}

/// Returns the text between the start and the end of an XML element.
fn within<'t>(text: &'t str, tag: &str) -> Option<&'t str> {
    text.split_once(&format!("<{tag}>"))?
        .1
        .split_once(&format!("</{tag}>"))
        .map(|(inner, _)| inner)
}

impl<'a> Upload<'a> {
    fn begin(store: &'a Store<'a>, key: &'a str) -> Result<Self> {
        Self::begin_with(store, key, 3600, json!({}))
    }

    fn begin_with(store: &'a Store<'a>, key: &'a str, seconds: u64, credentials: Value) -> Result<Self> {
        let initiated = store
            .server
            .request("POST", BUCKET, key, &[("uploads", "")], &[], &[])?
            .ok()?;
        let text = String::from_utf8_lossy(&initiated.body).into_owned();
        let id = within(&text, "UploadId").context("the upload has no name")?.to_owned();
        let spec = json!({
            "mode": "Multipart", "multipart": {"partSizeBytes": PART}, "expirationSeconds": seconds,
            "constraints": {"contentLength": PART + LAST.len()},
        });
        let text = store.sign_parts(key, spec, credentials, &id)?;
        let listed: Value = serde_json::from_str(&text).context("parts.json is no JSON")?;
        let parts = listed["parts"].as_array().into_iter().flatten().map(|part| Request {
            method: "PUT".into(),
            url: part["url"].as_str().unwrap_or_default().to_owned(),
            // curl sets Content-Length itself.
            headers: Vec::new(),
            fields: Vec::new(),
            ca: None,
        });
        let parts: Vec<_> = parts.collect();
        if parts.len() != 2 {
            return Err(Error::new(format!("{} parts instead of 2", parts.len())));
        }
        Ok(Self { store, key, id, parts })
    }

    /// The numbers, sizes and ETags of the uploaded parts. `None` if the upload does not exist.
    fn came(&self) -> Result<Option<Vec<(String, String, String)>>> {
        let query = [("uploadId", self.id.as_str())];
        let answer = self.store.server.request("GET", BUCKET, self.key, &query, &[], &[])?;
        if answer.status == 404 {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&answer.ok()?.body).into_owned();
        let field = |part: &str, tag| within(part, tag).unwrap_or_default().to_owned();
        let parts = text.split("<Part>").skip(1);
        Ok(Some(
            parts
                .map(|p| (field(p, "PartNumber"), field(p, "Size"), field(p, "ETag")))
                .collect(),
        ))
    }

    /// Sends the first part, and the second part with `request`.
    fn send(&self, request: &Request) -> Result<u16> {
        let first = self.parts[0].send(&self.store.file(&vec![b'a'; PART])?)?;
        if first.status != 200 {
            return Err(Error::new(format!("the first part was answered {}", first.status)));
        }
        Ok(request.send(&self.store.file(LAST)?)?.status)
    }

    /// Completes the upload.
    fn complete(&self, headers: &[(&str, &str)]) -> Result<u16> {
        let parts = self.came()?.unwrap_or_default();
        let listed: String = parts
            .iter()
            .map(|(n, _, tag)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{tag}</ETag></Part>"))
            .collect();
        let body = format!(
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{listed}</CompleteMultipartUpload>"
        );
        let query = [("uploadId", self.id.as_str())];
        let answer = self
            .store
            .server
            .request("POST", BUCKET, self.key, &query, headers, body.as_bytes())?;
        Ok(
            if answer.body.windows(7).any(|w| w == b"<Error>") && answer.status == 200 {
                500
            } else {
                answer.status
            },
        )
    }

    /// Whether the stored object equals the sent parts.
    fn arrived(&self) -> Result<bool> {
        Ok(self
            .store
            .stored(self.key)?
            .is_some_and(|o| o.len() == PART + LAST.len() && o.ends_with(LAST)))
    }
}

/// Sends the last part with violating requests, then with a conforming request, and completes the upload.
fn bent(store: &Store, key: &str, bends: &[Bend<'_>]) -> Result<Outcome> {
    let upload = Upload::begin(store, key)?;
    tried(&upload, bends)
}

fn tried(upload: &Upload<'_>, bends: &[Bend<'_>]) -> Result<Outcome> {
    let mut refusals = Vec::new();
    for (bend, body) in bends {
        let mut request = upload.parts[1].clone();
        bend(&mut request);
        refusals.push(request.send(&upload.store.file(body)?)?.status);
    }
    let kept_out = upload.came()?.is_some_and(|parts| parts.is_empty());
    let good = upload.send(&upload.parts[1])?;
    let arrived = upload.complete(&[])? == 200 && upload.arrived()? && upload.came()?.is_none();
    Ok(Outcome {
        said: figures(good, &refusals),
        as_documented: good == 200 && kept_out && arrived && refusals.iter().all(|s| (400..500).contains(s)),
    })
}

/// Uses the URL of a part with another upload of the same object, and after its own upload was aborted.
fn another_upload(store: &Store, key: &str) -> Option<Result<Outcome>> {
    let run = || {
        let (upload, other) = (Upload::begin(store, key)?, Upload::begin(store, key)?);
        let id = other.id.clone();
        let outcome = tried(&upload, &[(&|r: &mut Request| r.in_url(&upload.id, &id), LAST)])?;
        let query = [("uploadId", other.id.as_str())];
        store.server.request("DELETE", BUCKET, key, &query, &[], &[])?.ok()?;
        let late = other.parts[1].send(&store.file(LAST)?)?.status;
        Ok(Outcome {
            said: format!("{}; aborted: {late}", outcome.said),
            as_documented: outcome.as_documented && late == 404 && other.came()?.is_none(),
        })
    };
    Some(run())
}

fn expiry(store: &Store, key: &str) -> Result<Outcome> {
    let upload = Upload::begin_with(store, key, 3, json!({}))?;
    let good = upload.send(&upload.parts[1])?;
    thread::sleep(Duration::from_secs(5));
    let late = upload.parts[1].send(&store.file(b"too late!!")?)?.status;
    let mut longer = upload.parts[1].clone();
    longer.in_url("X-Amz-Expires=3", "X-Amz-Expires=3600");
    let longer = longer.send(&store.file(b"too late!!")?)?.status;
    // Parts that arrived before the expiry can still be combined later.
    let arrived = upload.complete(&[])? == 200 && upload.arrived()?;
    let refusals = [late, longer];
    Ok(Outcome {
        said: figures(good, &refusals),
        as_documented: good == 200 && arrived && refusals.iter().all(|s| (400..500).contains(s)),
    })
}

fn content_length(store: &Store, key: &str) -> Option<Result<Outcome>> {
    let same = |_: &mut Request| {};
    let bends: [Bend<'_>; 3] = [(&same, b"012345678"), (&same, b"0123456789+"), (&same, b"")];
    Some(bent(store, key, &bends))
}

/// Checks that Valet refuses a multipart upload to this store.
fn refused(store: &Store, key: &str, constraints: Value, because: &str) -> Result<Outcome> {
    let spec = json!({"mode": "Multipart", "constraints": constraints});
    let why = store.refusal(Column::Put, key, spec, &["--output", "parts"])?;
    Ok(told(why, because))
}

/// Checks that a part is signed without a checksum.
pub fn without_checksum(store: &Store) -> Result<Outcome> {
    let constraints = json!({"contentLength": PART + LAST.len()});
    refused(store, "tenants/web/parts/x.bin", constraints, "only with a checksum")
}

/// Completes an upload after another client has created the object.
fn write_once(store: &Store, key: &str) -> Result<Outcome> {
    if !store.has_conditions() {
        let constraints = json!({"contentLength": PART + LAST.len()});
        return refused(store, key, constraints, "(WriteOnce)");
    }
    let upload = Upload::begin(store, key)?;
    upload.send(&upload.parts[1])?;
    store.server.put(BUCKET, key, b"faster")?;
    let refused = upload.complete(&[("if-none-match", "*")])?;
    // Garage has already deleted the upload (404). The other stores reject the condition (412).
    let holds = (400..500).contains(&refused) && store.stored(key)?.as_deref() == Some(b"faster");
    let free = format!("{key}-free");
    let upload = Upload::begin(store, &free)?;
    upload.send(&upload.parts[1])?;
    let good = upload.complete(&[("if-none-match", "*")])?;
    let figures = figures(good, &[refused]);
    Ok(Outcome {
        said: if holds {
            figures
        } else {
            format!("**not enforced**: {figures}")
        },
        as_documented: good == 200 && holds,
    })
}

/// Asks the store to copy an object of the same size into the part. Returns the status, and whether the copy
/// succeeded.
fn attack(upload: &Upload<'_>) -> Result<(u16, bool)> {
    let secret = format!("{}-ten-bytes", SECRET.0);
    upload.store.server.put(BUCKET, &secret, b"a secret!!")?;
    let mut request = upload.parts[1].clone();
    request
        .headers
        .push(("x-amz-copy-source".into(), format!("/{BUCKET}/{secret}")));
    let status = upload.send(&request)?;
    upload.complete(&[])?;
    let obeyed = upload
        .store
        .stored(upload.key)?
        .is_some_and(|object| object.ends_with(b"a secret!!"));
    Ok((status, obeyed))
}

fn copy_source(store: &Store, key: &str) -> Result<Outcome> {
    let (status, obeyed) = attack(&Upload::begin(store, key)?)?;
    Ok(Outcome {
        said: if obeyed {
            format!("**obeyed**: {status}")
        } else {
            status.to_string()
        },
        as_documented: obeyed == (store.software == Software::Minio),
    })
}

fn copy_source_in_session(store: &Store, key: &str) -> Option<Result<Outcome>> {
    let run = || {
        let session = json!({"assumeRole": {"durationSeconds": 900}});
        let upload = Upload::begin_with(store, key, 600, session)?;
        let (status, obeyed) = attack(&upload)?;
        let whole = format!("{key}-whole");
        let session = json!({"assumeRole": {"durationSeconds": 900}});
        let upload = Upload::begin_with(store, &whole, 600, session)?;
        let good = upload.send(&upload.parts[1])?;
        let arrived = upload.complete(&[])? == 200 && upload.arrived()?;
        Ok(Outcome {
            said: figures(good, &[status]),
            as_documented: good == 200 && arrived && !obeyed && status >= 400,
        })
    };
    (store.software == Software::Minio).then(run)
}
