//! Tests of Google Cloud Storage. No local server checks Google's signatures. So the tests send requests to
//! fake-gcs-server with curl, and a separate checker applies Google's documented rules.

use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use valet_harness::{Context, Error, GcsServer, Result, Scratch, google, process};

use crate::{
    cells::Outcome,
    key::{Key, Request},
    page::cell,
    store::{Column, grant},
};

const BUCKET: &str = "conformance";
const BODY: &[u8] = b"0123456789";
const DIGEST: &str = "hNiYd/DUBB77a/kaFvAkjy/Vc+avBcGflr7bn4gveII=";
const KEY: &str = include_str!("../../../../fixtures/google/service-account.json");
const ACCOUNT: &str = "test-iam-credentials@dummy-project-id.iam.gserviceaccount.com";

/// The name of a row, and the result in each column.
pub type Row = (&'static str, [Option<Outcome>; 3]);

/// A request that violates the grant.
struct Bent {
    request: Request,
    body: &'static [u8],
    /// How many seconds after the current time the checker evaluates the request.
    later: i64,
    /// Whether the object already exists.
    exists: bool,
}

type Bend = fn(&mut Bent);

/// The name of a row, and the test for each column.
type Tries = (&'static str, fn(Column) -> Try);

/// The test of a cell.
enum Try {
    /// A grant, and requests that violate it.
    Bends(Value, &'static [Bend]),
    /// The same for a form with a prefix: the object is sent with a key under the prefix.
    Below(Value, &'static [Bend]),
    /// A grant that Valet refuses because of this missing capability.
    Refused(Value, &'static str),
    /// The test does not apply to this column.
    Nothing,
}

struct Store<'a> {
    server: GcsServer,
    valet: &'a Path,
    scratch: Scratch,
}

/// Runs all tests.
///
/// # Errors
/// Returns an error if a server or a program cannot be run.
pub fn rows(valet: &Path) -> Result<Vec<Row>> {
    let store = Store {
        server: GcsServer::start()?,
        valet,
        scratch: Scratch::new("google")?,
    };
    store.server.create_bucket(BUCKET)?;
    store.scratch.write("key.json", KEY)?;
    let mut rows = Vec::new();
    for (n, (row, tries)) in ROWS.iter().enumerate() {
        let mut cells = [None, None, None];
        for (column, cell) in Column::ALL.into_iter().zip(&mut cells) {
            let object = format!("tenants/web/{n}-{column:?} \u{fc}+(1)/x.bin");
            *cell = match tries(column) {
                Try::Nothing => None,
                Try::Refused(spec, capability) => Some(store.refused(column, &object, spec, capability)),
                Try::Bends(spec, bends) => Some(store.held(column, &object, &object, spec, bends)),
                Try::Below(spec, bends) => {
                    let below = format!("{object}/x");
                    Some(store.held(column, &format!("{object}/"), &below, spec, bends))
                }
            }
            .transpose()
            .map_err(|e| Error::new(format!("{row} of {column:?} on fake-gcs-server: {e}")))?;
        }
        rows.push((*row, cells));
    }
    Ok(rows)
}

/// All rows of the table.
const ROWS: [Tries; 17] = [
    ("method", |column| {
        Try::Bends(
            plain(column),
            match column {
                Column::Form => &[|b| b.request.method = "PUT".into()],
                _ => &[|b| b.request.method = "DELETE".into()],
            },
        )
    }),
    ("object key", |column| {
        Try::Bends(
            plain(column),
            match column {
                Column::Form => &[|b| b.request.field("key").push_str("-2")],
                _ => &[|b| b.request.in_url("/x.bin?", "/x.bin-2?")],
            },
        )
    }),
    ("object keys with a prefix", |column| match column {
        Column::Form => Try::Below(
            with(
                column,
                json!({"contentType": "text/plain", "contentLengthRange": {"min": 9, "max": 11}}),
            ),
            &[
                |b| *b.request.field("key") = b.request.field("key").replace("/x.bin/", "/x.bin-2/"),
                |b| *b.request.field("key") = b.request.field("key").replace("/x.bin/x", "/x.bin"),
                |b| *b.request.field("key") = b.request.field("key").replace("/x.bin/", "/X.BIN/"),
                |b| *b.request.field("key") = b.request.field("key").replace("/x.bin/", "%2Fx.bin%2F"),
                |b| *b.request.field("Content-Type") = "text/html".into(),
                |b| b.request.fields.retain(|(name, _)| name != "Content-Type"),
                |b| b.body = b"01234567",
                |b| b.body = b"0123456789ab",
            ],
        ),
        _ => Try::Nothing,
    }),
    ("expiry", |column| {
        let mut spec = plain(column);
        spec["expirationSeconds"] = 2.into();
        Try::Bends(
            spec,
            &[|b| {
                thread::sleep(Duration::from_secs(3));
                b.later = 0;
            }],
        )
    }),
    ("expiry, changed to a later time", |column| match column {
        Column::Form => Try::Nothing,
        _ => Try::Bends(
            plain(column),
            &[|b| b.request.in_url("X-Goog-Expires=3600", "X-Goog-Expires=7200")],
        ),
    }),
    ("signature", |column| {
        Try::Bends(
            plain(column),
            match column {
                Column::Form => &[
                    |b| forge(b.request.field("x-goog-signature")),
                    |b| b.request.fields.retain(|(name, _)| name == "key"),
                ],
                _ => &[
                    |b| forge(&mut b.request.url),
                    |b| {
                        b.request
                            .url
                            .truncate(b.request.url.find('?').unwrap_or(b.request.url.len()))
                    },
                ],
            },
        )
    }),
    ("`contentType`", |column| match column {
        Column::Get => Try::Nothing,
        Column::Put => Try::Bends(
            with(column, json!({"contentType": "text/plain"})),
            &[
                |b| *b.request.header("content-type") = "text/html".into(),
                |b| b.request.headers.retain(|(name, _)| name != "content-type"),
            ],
        ),
        Column::Form => Try::Bends(
            with(column, json!({"contentType": "text/plain"})),
            &[
                |b| *b.request.field("Content-Type") = "text/html".into(),
                |b| b.request.fields.retain(|(name, _)| name != "Content-Type"),
            ],
        ),
    }),
    ("`contentLength`", |column| match column {
        Column::Get => Try::Nothing,
        _ => Try::Bends(
            with(column, json!({"contentLength": BODY.len()})),
            &[|b| b.body = b"012345678", |b| b.body = b"0123456789+", |b| b.body = b""],
        ),
    }),
    ("`contentLengthRange`", |column| match column {
        Column::Get => Try::Nothing,
        Column::Put => Try::Bends(
            with(column, json!({"contentLengthRange": {"min": 9, "max": 11}})),
            &[
                |b| b.body = b"01234567",
                |b| b.body = b"0123456789ab",
                |b| *b.request.header("x-goog-content-length-range") = "0,99".into(),
                |b| {
                    b.request
                        .headers
                        .retain(|(name, _)| name != "x-goog-content-length-range")
                },
            ],
        ),
        Column::Form => Try::Bends(
            with(column, json!({"contentLengthRange": {"min": 9, "max": 11}})),
            &[|b| b.body = b"01234567", |b| b.body = b"0123456789ab"],
        ),
    }),
    ("`checksumSHA256`", |column| match column {
        Column::Get => Try::Nothing,
        _ => Try::Refused(with(column, json!({"checksumSHA256": DIGEST})), "ChecksumSHA256"),
    }),
    ("`checksumMD5`", |column| match column {
        Column::Get => Try::Nothing,
        Column::Put => Try::Bends(
            with(column, json!({"checksumMD5": "eB5eJF1ptWaXm4bijSPyxw=="})),
            &[
                |b| b.body = b"0123456780",
                // The checksum of other bytes, so that the store could accept them.
                |b| {
                    b.body = b"0123456780";
                    *b.request.header("content-md5") = "nkbQJIkNPGxZeaIg7Pu4zQ==".into();
                },
                |b| {
                    b.body = b"0123456780";
                    b.request.headers.retain(|(name, _)| name != "content-md5");
                },
            ],
        ),
        Column::Form => Try::Refused(
            with(column, json!({"checksumMD5": "eB5eJF1ptWaXm4bijSPyxw=="})),
            "ChecksumMD5",
        ),
    }),
    ("`overwrite: Forbid`", |column| match column {
        Column::Get => Try::Nothing,
        Column::Put => Try::Bends(
            json!({}),
            &[
                |b| b.exists = true,
                |b| {
                    b.exists = true;
                    b.request
                        .headers
                        .retain(|(name, _)| name != "x-goog-if-generation-match");
                },
            ],
        ),
        Column::Form => Try::Refused(json!({}), "WriteOnce"),
    }),
    ("`response`", |column| match column {
        Column::Get => Try::Bends(
            json!({"response": {"contentType": "text/csv"}}),
            &[|b| b.request.in_url("text%2Fcsv", "text%2Fhtml")],
        ),
        _ => Try::Nothing,
    }),
    ("`response` other than type and disposition", |column| match column {
        Column::Get => Try::Refused(
            json!({"response": {"cacheControl": "no-store"}}),
            "spec.response.cacheControl",
        ),
        _ => Try::Nothing,
    }),
    ("additional form fields", |column| match column {
        Column::Form => Try::Bends(
            plain(column),
            &[
                |b| more(b, "x-goog-meta-owner", "me"),
                |b| more(b, "acl", "public-read"),
                |b| more(b, "success_action_status", "201"),
            ],
        ),
        _ => Try::Nothing,
    }),
    ("`x-goog-meta-owner`, unsigned", |column| match column {
        Column::Form => Try::Nothing,
        _ => Try::Bends(
            plain(column),
            &[|b| b.request.headers.push(("x-goog-meta-owner".into(), "me".into()))],
        ),
    }),
    ("`x-goog-copy-source`, unsigned", |column| match column {
        Column::Put => Try::Bends(
            plain(column),
            &[|b| {
                let header = ("x-goog-copy-source".into(), format!("{BUCKET}/secret"));
                b.request.headers.push(header);
            }],
        ),
        _ => Try::Nothing,
    }),
];

fn more(bent: &mut Bent, name: &str, value: &str) {
    bent.request.fields.push((name.into(), value.into()));
}

fn forge(signature: &mut String) {
    let last = if signature.ends_with('0') { '1' } else { '0' };
    signature.pop();
    signature.push(last);
}

fn with(column: Column, mut constraints: Value) -> Value {
    if column == Column::Get {
        return json!({});
    }
    constraints["overwrite"] = "Allow".into();
    json!({"constraints": constraints})
}

fn plain(column: Column) -> Value {
    with(column, json!({}))
}

impl Store<'_> {
    fn sign(&self, column: Column, key: &str, spec: Value) -> Result<std::result::Result<Key, String>> {
        let mut store = json!({
            "apiVersion": "valetkey.dev/v1alpha1", "kind": "ClusterObjectStore", "metadata": {"name": "it"},
            "spec": {
                "gcs": {"bucket": BUCKET, "endpoint": self.server.endpoint()},
                "access": [{"namespaces": {"names": ["default"]}, "operations": ["Upload", "Download"], "credentials": "Allow"}],
            },
        });
        if key.ends_with('/') {
            // The result that a conformance check would have, so that Valet signs the form.
            store["status"] = json!({"capabilities": ["PostForm/KeyPrefix"]});
        }
        let grant = grant(column, key, &spec);
        let mut command = process::clean(Command::new(self.valet));
        command
            .args(["sign", "--output", "curl", "--filename", "-"])
            .env("GOOGLE_APPLICATION_CREDENTIALS", self.scratch.join("key.json"));
        let output = process::run(
            command,
            format!("{store}\n---\n{grant}\n").as_bytes(),
            Duration::from_secs(30),
        )?;
        if !output.status.success() {
            return Ok(Err(output.stderr));
        }
        let config = self.scratch.write("curl.cfg", &output.stdout)?;
        Key::read(config).map(Ok)
    }

    fn refused(&self, column: Column, key: &str, spec: Value, part: &str) -> Result<Outcome> {
        let (as_documented, said) = match self.sign(column, key, spec)? {
            Err(why) if why.contains(part) => (true, "refused by Valet".to_owned()),
            Err(why) => (false, format!("refused by Valet, but: {}", why.trim())),
            Ok(_) => (false, "signed, though the store cannot enforce it".into()),
        };
        Ok(Outcome { said, as_documented })
    }

    /// Tests a credential that was signed for the object key `granted`, with the object at `key`.
    fn held(&self, column: Column, granted: &str, key: &str, spec: Value, bends: &[Bend]) -> Result<Outcome> {
        let signed = self.sign(column, granted, spec)?;
        let signed = signed.map_err(|said| Error::new(format!("valet sign refused: {said}")))?;
        let mut request = signed.request();
        if granted != key {
            key.clone_into(request.field("key"));
        }
        let good = Bent {
            request,
            body: BODY,
            later: 0,
            exists: false,
        };
        if column == Column::Get {
            self.server.put(BUCKET, key, BODY)?;
            self.server.put(BUCKET, &format!("{key}-2"), BODY)?;
        }
        let (status, text) = self.send(&good)?;
        let arrived = match column {
            Column::Get => text.ends_with("0123456789"),
            _ => self.server.get(BUCKET, key)?.as_deref() == Some(BODY),
        };
        let mut as_documented = status < 300 && arrived && self.checked(&good)?.is_none();
        let mut taken = Vec::new();
        for bend in bends {
            let mut bent = Bent {
                request: good.request.clone(),
                ..good
            };
            bend(&mut bent);
            as_documented &= self.checked(&bent)?.is_some();
            taken.push(self.send(&bent)?.0);
        }
        taken.dedup();
        let taken: Vec<_> = taken.iter().map(u16::to_string).collect();
        Ok(Outcome {
            said: format!("{status} / refused ({})", taken.join(", ")),
            as_documented,
        })
    }

    /// Sends the request to fake-gcs-server and returns its status.
    fn send(&self, bent: &Bent) -> Result<(u16, String)> {
        let mut request = bent.request.clone();
        if !request.fields.is_empty() {
            // fake-gcs-server accepts the URL of a bucket only without the trailing slash.
            request.url = request.url.trim_end_matches('/').to_owned();
        }
        let answer = request.send(&self.scratch.write("file", bent.body)?)?;
        Ok((answer.status, answer.text))
    }

    /// The reason why the checker rejects the request, or `None`.
    fn checked(&self, bent: &Bent) -> Result<Option<String>> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("a clock")?
            .as_secs();
        let request = &bent.request;
        let mut question = json!({
            "key_file": KEY, "account": ACCOUNT, "now": i64::try_from(now).unwrap_or(i64::MAX) + bent.later,
            "size": bent.body.len(), "content": String::from_utf8_lossy(bent.body), "exists": bent.exists, "method": request.method, "headers": request.headers,
            "url": request.url, "bucket": BUCKET,
        });
        if request.fields.is_empty() {
            question["op"] = "verify".into();
        } else {
            question["op"] = "verify_form".into();
            question["fields"] = json!(request.fields);
        }
        let (answer, _) = google::ask(question, &[])?;
        Ok((answer["valid"] != true).then(|| answer["why"].as_str().unwrap_or_default().to_owned()))
    }
}

/// The section of the page about Google Cloud Storage.
pub fn page(rows: &[Row]) -> String {
    let mut text = String::from(
        "
## fake-gcs-server (Google Cloud Storage)

| | signed PUT | signed GET | POST form |
|---|---|---|---|
",
    );
    for (row, cells) in rows {
        let cells: Vec<_> = cells.iter().map(cell).collect();
        text.push_str(&format!("| {row} | {} |\n", cells.join(" | ")));
    }
    text.push_str(
        "
fake-gcs-server checks no signatures, dates, preconditions or sizes. Therefore the valid request is sent to it, and the object arrives. A separate
checker in Python evaluates the invalid requests, as Google's documentation says. *refused* is the result of the checker. The status that
fake-gcs-server answered to the same request is in parentheses. No request is sent to Google. Other tests check that Google's own client signs equal
URLs, also with `version` (`tests/google/signatures.rs`). `src/provider/gcs/tests.rs` runs Google's own conformance tests for signatures.

| row | the invalid requests |
|---|---|
| object keys with a prefix | a form for a grant whose `spec.key` ends with `/`: object keys without the prefix; a different content type, and none; one byte too few, one byte too many |
| `contentLengthRange` | also: a different range in the header; no such header |
| `checksumMD5` | different bytes; different bytes with their own checksum; different bytes without a checksum |
| `overwrite: Forbid` | a second upload; an upload without the header that forbids overwriting |
| `response` other than type and disposition | Google has no other parameters |
| additional form fields | metadata, an ACL, a different status |
| `x-goog-copy-source`, unsigned | a different object of the bucket as the source |
",
    );
    text
}
