//! Writes the page with the tables.

use std::fmt::Write;

use valet_harness::Software;

use crate::{Table, cells::Outcome};

const HEAD: &str = "# What stores enforce

`make conformance` writes this page. It starts the servers that the page names. For each cell, `valet sign` signs a credential. Then `curl` sends one
valid request, and at least one invalid request that the grant does not allow. The build fails if a server behaves differently from what Valet says.

A cell shows the HTTP status of the valid request, and then the statuses of the invalid requests. Unless the cell says otherwise, the server rejects
all invalid requests, and they change nothing. *refused by Valet* means that Valet signs no credential, because the store could not enforce the
constraint (`CapabilityMissing`). A dash means that the test does not apply.

";

const TAIL: &str = "
The rows test these requests:

| row | the invalid requests |
|---|---|
| method | a DELETE request with a URL for PUT or GET; a PUT request with a form |
| object key | a different object key in the path or in the form |
| object keys with a prefix | a form for a grant whose `spec.key` ends with `/`, with object keys that do not have the prefix: keys of a sibling, the prefix in capital letters or encoded; a second field `key` |
| the same, with type and size | a different content type; no content type; one byte more than the maximum; one byte less than the minimum |
| the same, with `${filename}` | none: the form is used unchanged, and its object key ends with `${filename}` |
| the same, with `..` | `..` after the prefix, in four spellings. The store may accept it as an ordinary name, if the request reaches no object outside the prefix |
| expiry | the valid request two seconds after the expiry; a request whose expiry was changed to a later time |
| signature | a changed last digit; no signature; for a form also the policy of a different form |
| `contentType` | a different content type; no content type |
| `contentLength` | one byte less; one byte more; no length |
| `contentLengthRange` | one byte less than the minimum; one byte more than the maximum |
| `checksumSHA256` | different bytes; different bytes with their own checksum; different bytes without a checksum |
| `checksumMD5` | the same as for `checksumSHA256` |
| `overwrite: Forbid` | a second upload; an upload without the header that forbids overwriting |
| `response` | a different content type of the response |
| `version` | a different version; no version |
| an upload without a checksum | none: the cell shows the answer of `valet sign` |
| additional form fields | metadata, an ACL, a redirect, a second field `key` |
| `x-amz-meta-owner`, unsigned | a header that the signature does not cover |
| `x-amz-copy-source`, unsigned | a header with which the holder of the URL asks the store to copy a different object into this one |

**Multipart uploads** (`mode: Multipart`). The invalid request is the upload of the last of two parts. The valid request uploads this part as signed,
and then the test completes the upload, as the operator does. `contentLength` is the signed size of this part. For `overwrite: Forbid`, the object is
created before the multipart upload is completed. *aborted* is the upload of a part after the multipart upload was aborted.

**Unsigned headers.** Valet detects whether a store obeys unsigned headers, and writes the result into the condition `UnsignedHeadersRefused` of the
store. If the store obeys them, Valet signs PUT URLs only in two cases: each URL has its own session (`assumeRole`) that permits only this object, or
the store's owner accepts the risk (`unsignedHeaders: Tolerate`). With a POST form, such headers have no effect.

**Garage** 2.5 ignores `If-None-Match`, so a write-once URL can overwrite the object. Request a [conformance check](stores.md#conformance-check) of
such a store. Then the store loses the capability `WriteOnce`, and Valet refuses grants that need it. `make conformance` also tests this.

**Simulated stores.** These are versitygw behind a proxy. The first one answers conditional writes as Backblaze B2 does (501 NotImplemented). The
second one answers uploads without a checksum as Amazon S3 does for a bucket whose Object Lock has a default retention (400 InvalidRequest). Valet
detects both, and writes the result into the status of the store. In these tests, `valet sign` reads a store with such a status. The grants of the
other rows have `overwrite: Allow` on the first store, and `checksumSHA256` on the second store.

**versitygw** 1.8 stores objects as files, and `..` in the object key of a form leads to a different object. A policy cannot forbid this. Therefore
Valet signs a form for a prefix only for Amazon's own endpoints, or after a [conformance check](stores.md#conformance-check) has shown that the store
enforces the prefix (`PostForm/KeyPrefix`). The tests on this page sign such forms without the check.

**POST forms** (`mode: PostForm`) cannot be write-once: a second upload replaces the object. Therefore a grant for a form must have
`overwrite: Allow`.
";

/// Builds the page. For a server that was not tested, the page keeps the section of `before`.
pub fn page(all: &[Table], before: &str) -> String {
    let mut text = HEAD.to_owned() + &tables(all);
    let garage = Software::Garage;
    if !all.iter().any(|table| table.name == name(garage))
        && let Some(start) = before.find(&format!("\n## {}\n", name(garage)))
    {
        let rest = &before[start..];
        let end = rest.find("\n\nThe rows test these requests").unwrap_or(rest.len());
        text += rest[..end].trim_end();
        text.push('\n');
    }
    text + TAIL
}

/// Formats one table for each server.
pub fn tables(all: &[Table]) -> String {
    let mut text = String::new();
    for table in all {
        let _ = writeln!(
            text,
            "## {}\n\n| | presigned PUT | presigned GET | POST form |\n|---|---|---|---|",
            table.name
        );
        for (row, cells) in &table.rows {
            if cells.iter().all(Option::is_none) {
                continue;
            }
            let cells: Vec<_> = cells.iter().map(cell).collect();
            let _ = writeln!(text, "| {row} | {} |", cells.join(" | "));
        }
        let _ = writeln!(text, "\n| | multipart upload |\n|---|---|");
        for (row, one) in &table.parts {
            let _ = writeln!(text, "| {row} | {} |", said(one));
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Formats a cell.
pub fn cell(cell: &Option<Outcome>) -> String {
    match cell {
        None => "–".into(),
        Some(cell) => said(cell),
    }
}

fn said(cell: &Outcome) -> String {
    if cell.as_documented {
        cell.said.clone()
    } else {
        format!("**NOT AS DOCUMENTED** {}", cell.said)
    }
}

/// The server's name.
pub fn name(software: Software) -> &'static str {
    match software {
        Software::Versitygw => "versitygw",
        Software::Minio => "MinIO",
        Software::Garage => "Garage",
    }
}
