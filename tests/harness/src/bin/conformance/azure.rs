//! The conformance tests of Azure Blob Storage: the same attacks on Azurite, with credentials of each kind.

mod servers;

use std::{fmt::Write as _, path::Path, thread, time::Duration};

use serde_json::{Value, json};
use valet_harness::{Error, Result, azurite::ACCOUNT};

use self::servers::{By, COLUMNS, CONTAINER, Column, Servers};
use crate::{
    cells::{BODY, Outcome, figures},
    key::Request,
    page,
};

/// A blob that no credential allows, and its content.
const SECRET: (&str, &[u8]) = ("secret/salaries", b"everybody's salary");

const HEAD: &str = "
## Azurite (Azure Blob Storage)

| | by account key: PUT | GET | with a stored access policy: PUT | GET | by identity: PUT | GET |
|---|---|---|---|---|---|---|
";

const TAIL: &str = "
**not by Azurite** means that the request succeeded with this status although the SAS does not permit it. Azurite does not check IP addresses. If a SAS
names a stored access policy, Azurite reads the times and permissions only from the policy. According to its documentation, Azure enforces the SAS. The
tests do not cover `version`, because Azurite keeps no versions. Separate tests check that Microsoft's own package creates equal signatures
(`tests/azure/signatures.rs`).

| row | the invalid requests |
|---|---|
| the other method | a download with a SAS for uploads, an upload with a SAS for downloads |
| permissions | the SAS with all permissions |
| other operations on the blob | after the upload, with the same SAS: metadata, properties, a lease, a different access tier |
| a snapshot of the blob | after the upload, with the same SAS. According to Azure's documentation, the permission to create also permits snapshots |
| HTTPS only | plain HTTP with a SAS for HTTPS |
| `ipRange` | from an address outside the range of the SAS |
| the policy is deleted | the valid request again, after the stored access policy was deleted |
| `x-ms-copy-source`, unsigned | a different blob of the account as the source. Valet detects this, and signs no upload SAS for this store unless the owner tolerates it |
";

/// The rows of the table.
pub type Rows = Vec<(&'static str, Vec<Option<Outcome>>)>;

/// A change of a request.
type Bend<'a> = &'a dyn Fn(&mut Request);

type Cell = fn(&Servers<'_>, Column, &str) -> Option<Result<Outcome>>;

const ROWS: [(&str, Cell); 20] = [
    ("method", method),
    ("the other method", other_verb),
    ("object key", another_blob),
    ("expiry", expiry),
    ("expiry, changed to a later time", later_end),
    ("signature", signature),
    ("permissions", widened),
    ("`overwrite: Forbid`", write_once),
    ("other operations on the blob", other_operations),
    ("a snapshot of the blob", snapshot),
    ("`response`", response),
    ("HTTPS only", https_only),
    ("`ipRange`", ip_range),
    ("the policy is deleted", removed),
    ("`contentType`", |s, c, n| {
        refused(s, c, n, json!({"constraints": {"contentType": "a/b"}}), "(ContentType)")
    }),
    ("`contentLength`", |s, c, n| {
        refused(
            s,
            c,
            n,
            json!({"constraints": {"contentLength": 10}}),
            "(ContentLength)",
        )
    }),
    ("`contentLengthRange`", |s, c, n| {
        refused(
            s,
            c,
            n,
            json!({"constraints": {"contentLengthRange": {"max": 10}}}),
            "(ContentLengthRange)",
        )
    }),
    ("`checksumSHA256`", |s, c, n| {
        let sum = "hNiYd/DUBB77a/kaFvAkjy/Vc+avBcGflr7bn4gveII=";
        refused(
            s,
            c,
            n,
            json!({"constraints": {"checksumSHA256": sum}}),
            "(ChecksumSHA256)",
        )
    }),
    ("`checksumMD5`", |s, c, n| {
        refused(
            s,
            c,
            n,
            json!({"constraints": {"checksumMD5": "eB5eJF1ptWaXm4bijSPyxw=="}}),
            "(ChecksumMD5)",
        )
    }),
    ("`x-ms-copy-source`, unsigned", copy_source),
];

/// Runs all tests and returns the rows.
///
/// # Errors
/// Returns an error if a server does not start or does not answer.
pub fn rows(valet: &Path) -> Result<Rows> {
    let servers = Servers::start(valet)?;
    for server in [&servers.by_key, &servers.by_identity] {
        server.create_container(CONTAINER)?;
        server.put(CONTAINER, SECRET.0, SECRET.1)?;
    }
    servers.set_policy()?;
    let mut rows = Vec::new();
    for (n, (name, cell)) in ROWS.into_iter().enumerate() {
        let cells = COLUMNS.into_iter().enumerate().map(|(column, which)| {
            let blob = format!("tenants/web/{n}-{column} \u{fc}+(1)/x.bin");
            let outcome = cell(&servers, which, &blob).transpose();
            outcome.map_err(|e| Error::new(format!("{name} of {which:?} on Azurite: {e}")))
        });
        rows.push((name, cells.collect::<Result<_>>()?));
    }
    Ok(rows)
}

/// The section of the page about Azure.
pub fn page(rows: &Rows) -> String {
    let mut text = HEAD.to_owned();
    for (name, cells) in rows {
        let cells: Vec<_> = cells.iter().map(page::cell).collect();
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text + TAIL
}

/// Sends requests that violate the grant, then a request that conforms to it. The store must reject all violations.
fn held(
    servers: &Servers<'_>,
    column: Column,
    blob: &str,
    spec: &Value,
    more: &Value,
    bends: &[Bend<'_>],
) -> Result<Outcome> {
    let key = servers.key(column, blob, spec, more)?;
    let file = servers.file(BODY)?;
    let (mut refusals, mut kept_out) = (Vec::new(), true);
    for bend in bends {
        let mut request = key.request();
        bend(&mut request);
        let answer = request.send(&file)?;
        kept_out &= if column.1 {
            !answer.text.contains("0123456789")
        } else {
            servers.stored(column, blob)?.is_none()
        };
        refusals.push(answer.status);
    }
    let good = key.used(&file)?;
    let arrived = if column.1 {
        good.text.ends_with("0123456789")
    } else {
        servers.stored(column, blob)?.as_deref() == Some(BODY)
    };
    Ok(Outcome {
        said: figures(good.status, &refusals),
        as_documented: arrived && kept_out && good.status < 300 && refusals.iter().all(|s| (400..500).contains(s)),
    })
}

/// Azurite accepts this request. If a newer version rejects it, the page must change.
fn lax(status: u16) -> Outcome {
    Outcome {
        said: format!("**not by Azurite**: {status}"),
        as_documented: status < 400,
    }
}

fn none() -> Value {
    json!({})
}

fn to(what: &'static str, by: &'static str) -> impl Fn(&mut Request) {
    move |r| r.in_url(what, by)
}

fn method(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let delete = |r: &mut Request| r.method = "DELETE".into();
    Some(held(servers, column, blob, &none(), &none(), &[&delete]))
}

/// Reads with an upload credential, and writes with a download credential.
fn other_verb(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let run = || {
        servers.server(column).put(CONTAINER, blob, BODY)?;
        let mut request = servers.key(column, blob, &none(), &none())?.request();
        if column.1 {
            request.method = "PUT".into();
            request.headers.push(("x-ms-blob-type".into(), "BlockBlob".into()));
        } else {
            request.method = "GET".into();
        }
        let answer = request.send(&servers.file(b"others")?)?;
        if column.0 == By::Policy {
            return Ok(lax(answer.status));
        }
        let is_untouched = servers.stored(column, blob)?.as_deref() == Some(BODY);
        Ok(Outcome {
            said: answer.status.to_string(),
            as_documented: answer.status == 403 && is_untouched && !answer.text.contains("0123456789"),
        })
    };
    Some(run())
}

fn another_blob(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let run = || {
        let another = format!("{blob}-2");
        if column.1 {
            servers.server(column).put(CONTAINER, &another, BODY)?;
        }
        let bend = to("/x.bin?", "/x.bin-2?");
        let mut outcome = held(servers, column, blob, &none(), &none(), &[&bend])?;
        outcome.as_documented &= column.1 || servers.stored(column, &another)?.is_none();
        Ok(outcome)
    };
    Some(run())
}

fn expiry(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let run = || {
        let spec = if column.1 {
            json!({"expirationSeconds": 2})
        } else {
            json!({"expirationSeconds": 2, "constraints": {"overwrite": "Allow"}})
        };
        let key = servers.key(column, blob, &spec, &none())?;
        let good = key.used(&servers.file(BODY)?)?;
        thread::sleep(Duration::from_secs(4));
        let late = key.used(&servers.file(b"too late")?)?;
        if column.0 == By::Policy {
            return Ok(lax(late.status));
        }
        let kept_out = if column.1 {
            !late.text.contains("0123456789")
        } else {
            servers.stored(column, blob)?.as_deref() == Some(BODY)
        };
        Ok(Outcome {
            said: figures(good.status, &[late.status]),
            as_documented: good.status < 300 && late.status == 403 && kept_out,
        })
    };
    Some(run())
}

fn later_end(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let later = |r: &mut Request| {
        let end = r.url.split("&se=").nth(1).and_then(|rest| rest.split('&').next());
        let end = end.unwrap_or_default().to_owned();
        r.in_url(&end, "2099-01-01T00%3A00%3A00Z");
    };
    Some(held(servers, column, blob, &none(), &none(), &[&later]))
}

fn signature(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let forge = |r: &mut Request| {
        let at = r.url.find("&sig=").map_or(0, |at| at + 5);
        let other = if r.url[at..].starts_with('A') { "B" } else { "A" };
        r.url.replace_range(at..=at, other);
    };
    let none_at_all = |r: &mut Request| r.url.truncate(r.url.find('?').unwrap_or(r.url.len()));
    Some(held(servers, column, blob, &none(), &none(), &[&forge, &none_at_all]))
}

fn widened(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let bend = to(if column.1 { "&sp=r&" } else { "&sp=c&" }, "&sp=racwd&");
    Some(held(servers, column, blob, &none(), &none(), &[&bend]))
}

fn write_once(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let run = || {
        let key = servers.key(column, blob, &none(), &none())?;
        let good = key.used(&servers.file(BODY)?)?;
        let again = key.used(&servers.file(b"another")?)?;
        if column.0 == By::Policy {
            return Ok(lax(again.status));
        }
        Ok(Outcome {
            said: figures(good.status, &[again.status]),
            as_documented: good.status < 300
                && again.status == 403
                && servers.stored(column, blob)?.as_deref() == Some(BODY),
        })
    };
    (!column.1).then(run)
}

/// Tries one more operation on an uploaded blob, with the credential of the upload.
fn operated(servers: &Servers<'_>, column: Column, blob: &str, operations: &[&str]) -> Result<Vec<u16>> {
    let key = servers.key(column, blob, &none(), &none())?;
    key.used(&servers.file(BODY)?)?;
    let empty = servers.file(b"")?;
    let statuses = operations.iter().map(|operation| {
        let mut request = key.request();
        request.url.push_str(&format!("&comp={operation}"));
        request.headers = [
            ("x-ms-meta-owner", "me"),
            ("x-ms-blob-content-type", "text/html"),
            ("x-ms-lease-action", "acquire"),
            ("x-ms-lease-duration", "15"),
            ("x-ms-access-tier", "Cool"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        Ok(request.send(&empty)?.status)
    });
    statuses.collect()
}

fn other_operations(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let run = || {
        let statuses = operated(servers, column, blob, &["metadata", "properties", "lease", "tier"])?;
        if column.0 == By::Policy {
            return Ok(lax(statuses[0]));
        }
        Ok(Outcome {
            said: figures(201, &statuses),
            as_documented: statuses.iter().all(|status| *status == 403)
                && servers.stored(column, blob)?.as_deref() == Some(BODY),
        })
    };
    (!column.1).then(run)
}

fn snapshot(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let run = || {
        let status = operated(servers, column, blob, &["snapshot"])?[0];
        Ok(Outcome {
            said: format!("**permitted**: {status}"),
            as_documented: status == 201,
        })
    };
    (!column.1).then(run)
}

fn response(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let run = || {
        let spec = json!({"response": {"contentType": "text/x-report", "contentDisposition": "attachment"}});
        let (other, dropped) = (to("x-report", "html"), to("&rscd=attachment", ""));
        let mut outcome = held(servers, column, blob, &spec, &none(), &[&other, &dropped])?;
        let good = servers.key(column, blob, &spec, &none())?.used(&servers.file(b"")?)?;
        let text = good.text.to_ascii_lowercase();
        outcome.as_documented &=
            text.contains("content-type: text/x-report") && text.contains("content-disposition: attachment");
        Ok(outcome)
    };
    column.1.then(run)
}

fn https_only(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let run = || {
        let https = servers.by_key.endpoint().replacen("http:", "https:", 1);
        let mut request = servers
            .key(column, blob, &none(), &json!({"publicEndpoint": https}))?
            .request();
        request.in_url("https://", "http://");
        let answer = request.send(&servers.file(BODY)?)?;
        Ok(Outcome {
            said: answer.status.to_string(),
            as_documented: answer.status == 403 && request.url.contains("&spr=https&"),
        })
    };
    // The server that accepts identities supports only HTTPS.
    (column.0 != By::Identity).then(run)
}

fn ip_range(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let run = || {
        let key = servers.key(column, blob, &none(), &json!({"ipRange": "203.0.113.7"}))?;
        Ok(lax(key.used(&servers.file(BODY)?)?.status))
    };
    Some(run())
}

fn removed(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let run = || {
        let spec = if column.1 {
            none()
        } else {
            json!({"constraints": {"overwrite": "Allow"}})
        };
        let key = servers.key(column, blob, &spec, &none())?;
        let good = key.used(&servers.file(BODY)?)?;
        servers.by_key.set_policies(CONTAINER, &none())?;
        let dead = key.used(&servers.file(b"another")?)?;
        servers.set_policy()?;
        Ok(Outcome {
            said: figures(good.status, &[dead.status]),
            as_documented: good.status < 300 && dead.status == 403 && !dead.text.contains("0123456789"),
        })
    };
    (column.0 == By::Policy).then(run)
}

/// Checks that Valet refuses to sign this grant because of this capability.
fn refused(servers: &Servers<'_>, column: Column, blob: &str, spec: Value, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        let said = servers.sign(column, blob, &spec, &none())?;
        let as_documented = said
            .as_ref()
            .is_err_and(|why| why.contains("CapabilityMissing") && why.contains(name));
        Ok(Outcome {
            said: "refused by Valet".into(),
            as_documented,
        })
    };
    (!column.1).then(run)
}

fn copy_source(servers: &Servers<'_>, column: Column, blob: &str) -> Option<Result<Outcome>> {
    let run = || {
        let mut request = servers.key(column, blob, &none(), &none())?.request();
        let source = format!(
            "{}/{ACCOUNT}/{CONTAINER}/{}",
            servers.server(column).endpoint(),
            SECRET.0
        );
        // Sends a copy and not `Put Blob From URL`, which Azurite does not support.
        request.headers = vec![("x-ms-copy-source".into(), source)];
        let answer = request.send(&servers.file(b"")?)?;
        let obeyed = servers.stored(column, blob)?.as_deref() == Some(SECRET.1);
        Ok(Outcome {
            said: format!("**obeyed**: {}", answer.status),
            as_documented: obeyed,
        })
    };
    (!column.1).then(run)
}
