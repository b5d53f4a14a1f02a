//! Writes the page with the tables.

use std::fmt::Write;

use valet_harness::Software;

use crate::{Table, cells::Outcome};

const HEAD: &str = "# What stores enforce

`make conformance` writes this page: it starts the servers, has `valet sign` make a key for each cell, and uses it by plain
curl, once as the grant says and at least once otherwise. The build fails if a server behaves otherwise than Valet says.

A cell has the HTTP status of the good request, then those of the bad ones. All bad ones are refused and nothing of them
arrives, unless the cell says otherwise. *refused by Valet* means that no key is signed at all: the store could not hold it to
the grant (`CapabilityMissing`). A dash is a question that does not arise.

";

const TAIL: &str = "
What the rows try:

| row | the bad requests |
|---|---|
| method | DELETE with a URL for PUT or GET; PUT of a form |
| key | another key in the path, or in the form |
| key below a prefix | of a form whose grant's key ends with `/`: keys that begin otherwise, as those of a sibling, in capitals or encoded; a second key |
| the same, type and size | another type; none; a byte more than the most; a byte less than the least |
| the same, named by the file | none: the form as it is, whose key ends with `${filename}` |
| the same, `..` in the key | `..` behind the prefix, in four spellings. It may be taken, as a name like others, and reaches nothing above the prefix |
| expiry | two seconds after its end; and with a later end written into it |
| signature | another last digit; none at all; of a form also the policy of another form |
| `contentType` | another type; none |
| `contentLength` | a byte less, a byte more, none |
| `contentLengthRange` | a byte less than the least, a byte more than the most |
| `checksumSHA256` | other bytes; other bytes and their own checksum; other bytes and none |
| `checksumMD5` | the same |
| `overwrite: Forbid` | a second upload; one without the header that says so |
| `response` | another type to answer with |
| `version` | another version; none |
| an upload without a checksum | none: what `valet sign` says |
| fields that the form has not | metadata, an ACL, a redirect, a second key |
| `x-amz-meta-owner`, unsigned | a header that the key does not name |
| `x-amz-copy-source`, unsigned | a header by which the holder of the key asks the store to copy another object into this one |

Of uploads in parts (`mode: Multipart`) it is the last of two parts that is sent otherwise; the good answer is to the part as it should be, after
which the object is put together, as the operator would. `contentLength`: the signed size of that part. `overwrite: Forbid`: an object came
before the parts were put together. *aborted*: a part that is sent after the upload was aborted.

Which store obeys headers that are not signed, Valet finds out by itself and says it in the store's status
(`UnsignedHeadersRefused`). There it hands out keys for PUT only if each has a session of its own (`assumeRole`), whose rights
end at the one object, or if the store's owner says that he accepts it (`unsignedHeaders: Tolerate`). A form takes no such
header for anything.

Garage 2.5 does not know `If-None-Match` and lets a write-once key write again. Ask for [a trial with real keys](stores.md#conformance-check)
on such a store: `WriteOnce` is then missing in its capabilities, and grants that need it are refused. `make conformance` tries that, too.

The simulated ones are versitygw behind a proxy that answers as Backblaze B2 does to conditional writes (501 NotImplemented), or as Amazon S3 does to
uploads without a checksum into a bucket whose Object Lock has a default retention (400 InvalidRequest). Valet finds either out by itself and says it in the
store's status. `valet sign` had such a status. On the first one the grants of the other rows say `overwrite: Allow`; on the second one they give
`checksumSHA256`, so that a bad request can be refused for its bytes, too.

versitygw 1.8 keeps objects as files, and follows `..` in a form's key to another object. A policy cannot forbid that, so a form for everything
below a key is signed for Amazon's own endpoints, where a key is bytes, and for another store only after [a trial with real keys](stores.md#conformance-check) has
shown that it keeps to the prefix (`PostForm/KeyPrefix`). Here they were signed all the same.

A form (`mode: PostForm`) cannot be write-once: a second one replaces the object. So a grant for a form must say
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
        let end = rest.find("\n\nWhat the rows try").unwrap_or(rest.len());
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
        let _ = writeln!(text, "\n| | upload in parts |\n|---|---|");
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
