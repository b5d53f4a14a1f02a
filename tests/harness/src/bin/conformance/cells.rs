//! The cells of the table. Each cell tests one constraint with a conforming request and with at least one violating
//! request.

use std::{thread, time::Duration};

use serde_json::{Value, json};
use valet_harness::{Result, Software};

use crate::{
    attacks,
    key::{Key, Request},
    prefix,
    store::{BUCKET, Column, Store},
};

/// The text of a cell in the table, and whether Valet's documentation says the same.
pub struct Outcome {
    pub said: String,
    pub as_documented: bool,
}

/// One row: its name, and its test for each column.
pub struct Row {
    pub name: &'static str,
    pub cells: fn(&Store, Column, &str) -> Option<Result<Outcome>>,
}

/// The body of conforming requests, and the base64 of its SHA-256 and MD5.
pub const BODY: &[u8] = b"0123456789";
pub const DIGEST: &str = "hNiYd/DUBB77a/kaFvAkjy/Vc+avBcGflr7bn4gveII=";
const MD5: &str = "eB5eJF1ptWaXm4bijSPyxw==";

/// All rows of the table.
pub const ROWS: [Row; 21] = [
    Row {
        name: "method",
        cells: method,
    },
    Row {
        name: "object key",
        cells: key,
    },
    Row {
        name: "object keys with a prefix",
        cells: prefix::other_keys,
    },
    Row {
        name: "the same, with type and size",
        cells: prefix::constraints,
    },
    Row {
        name: "the same, with `${filename}`",
        cells: prefix::by_file,
    },
    Row {
        name: "the same, with `..`",
        cells: prefix::leading_out,
    },
    Row {
        name: "expiry",
        cells: expiry,
    },
    Row {
        name: "signature",
        cells: signature,
    },
    Row {
        name: "`contentType`",
        cells: content_type,
    },
    Row {
        name: "`contentLength`",
        cells: content_length,
    },
    Row {
        name: "`contentLengthRange`",
        cells: content_length_range,
    },
    Row {
        name: "`checksumSHA256`",
        cells: checksum,
    },
    Row {
        name: "`checksumMD5`",
        cells: md5,
    },
    Row {
        name: "an upload without a checksum",
        cells: no_checksum,
    },
    Row {
        name: "`overwrite: Forbid`",
        cells: write_once,
    },
    Row {
        name: "`response`",
        cells: response,
    },
    Row {
        name: "`version`",
        cells: version,
    },
    Row {
        name: "additional form fields",
        cells: attacks::more_fields,
    },
    Row {
        name: "`x-amz-meta-owner`, unsigned",
        cells: attacks::other_header,
    },
    Row {
        name: "`x-amz-copy-source`, unsigned",
        cells: attacks::copy_source,
    },
    Row {
        name: "the same, with `assumeRole`",
        cells: attacks::copy_source_in_session,
    },
];

/// A change that makes a request violate its grant, and the body to send.
pub type Bend<'a> = (&'a dyn Fn(&mut Request), &'a [u8]);

/// Sends requests that violate the grant, then a request that conforms to it. No object may be stored before the
/// conforming request.
pub fn held(store: &Store, column: Column, name: &str, spec: Value, bends: &[Bend<'_>]) -> Result<Outcome> {
    if column == Column::Get {
        store.server.put(BUCKET, name, BODY)?;
    }
    let signed = store.key(column, name, spec)?;
    let mut refusals = Vec::new();
    let mut kept_out = true;
    for (bend, body) in bends {
        let mut request = signed.request();
        bend(&mut request);
        let answer = request.send(&store.file(body)?)?;
        kept_out &= match column {
            Column::Get => !answer.text.contains("0123456789"),
            _ => store.stored(name)?.is_none(),
        };
        refusals.push(answer.status);
    }
    let good = signed.used(&store.file(BODY)?)?;
    let arrived = match column {
        Column::Get => good.text.ends_with("0123456789"),
        _ => store.stored(name)?.as_deref() == Some(BODY),
    };
    let as_documented =
        arrived && kept_out && good.status < 300 && refusals.iter().all(|status| (400..500).contains(status));
    let mut said = figures(good.status, &refusals);
    if !as_documented {
        said += if kept_out { " (!)" } else { " (got through!)" };
    }
    Ok(Outcome { said, as_documented })
}

/// Formats the status of the conforming request and those of the violating requests.
pub fn figures(good: u16, refusals: &[u16]) -> String {
    let mut each = refusals.to_vec();
    each.dedup();
    let each: Vec<_> = each.iter().map(u16::to_string).collect();
    format!("{good} / {}", each.join(", "))
}

/// Checks that Valet refuses to sign this grant because of this capability.
fn refused(store: &Store, column: Column, name: &str, spec: Value, capability: &str) -> Result<Outcome> {
    let why = store.sign(column, name, spec)?.err();
    Ok(told(why, &format!("({capability})")))
}

/// The outcome of a refusal that contains this text. `None` means that Valet signed the grant.
pub fn told(refusal: Option<String>, because: &str) -> Outcome {
    let (as_documented, said) = match refusal {
        Some(why) if why.contains("CapabilityMissing") && why.contains(because) => {
            (true, "refused by Valet".to_owned())
        }
        Some(why) => (false, format!("refused by Valet, but: {}", why.trim())),
        None => (false, "signed, though the store cannot enforce it".into()),
    };
    Outcome { said, as_documented }
}

/// The outcome for a store that accepts no checksum of this kind.
fn no_checksum(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        let why = store.refusal(column, name, with(column, json!({})), &["--output", "curl"])?;
        Ok(told(why, "only with a checksum"))
    };
    (store.wants_checksums() && column != Column::Get).then(run)
}

/// The constraints of a grant in this column. A form always needs `overwrite: Allow`.
pub fn with(column: Column, mut constraints: Value) -> Value {
    match column {
        Column::Get => json!({}),
        Column::Put => json!({"constraints": constraints}),
        Column::Form => {
            constraints["overwrite"] = "Allow".into();
            json!({"constraints": constraints})
        }
    }
}

fn method(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let other = match column {
        Column::Put | Column::Get => "DELETE",
        Column::Form => "PUT",
    };
    let bend = |r: &mut Request| r.method = other.into();
    Some(held(store, column, name, with(column, json!({})), &[(&bend, BODY)]))
}

fn key(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let another = format!("{name}-2");
    // A download needs an existing object.
    if column == Column::Get
        && let Err(e) = store.server.put(BUCKET, &another, BODY)
    {
        return Some(Err(e));
    }
    let bend = |r: &mut Request| match column {
        Column::Form => r.field("key").clone_from(&another),
        _ => r.in_url("/x.bin?", "/x.bin-2?"),
    };
    Some(
        held(store, column, name, with(column, json!({})), &[(&bend, BODY)]).and_then(|mut outcome| {
            if column != Column::Get && store.stored(&another)?.is_some() {
                outcome.as_documented = false;
                outcome.said += " (wrote another object!)";
            }
            Ok(outcome)
        }),
    )
}

/// Uses a credential after its expiry, and with a changed, later expiry.
fn expiry(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        let mut spec = with(column, json!({"overwrite": "Allow"}));
        let long = store.key(column, name, spec.clone())?;
        spec["expirationSeconds"] = 2.into();
        if column == Column::Get {
            store.server.put(BUCKET, name, BODY)?;
        }
        let signed = store.key(column, name, spec)?;
        let good = signed.used(&store.file(BODY)?)?;
        thread::sleep(Duration::from_secs(4));
        let late = signed.used(&store.file(b"too late")?)?;
        let mut longer = signed.request();
        match column {
            Column::Form => longer.field("policy").clone_from(long.request().field("policy")),
            _ => longer.in_url("X-Amz-Expires=2", "X-Amz-Expires=3600"),
        }
        let longer = longer.send(&store.file(b"too late")?)?;
        let kept_out = match column {
            Column::Get => !late.text.contains("0123456789") && !longer.text.contains("0123456789"),
            _ => store.stored(name)?.as_deref() == Some(BODY),
        };
        let refusals = [late.status, longer.status];
        Ok(Outcome {
            said: figures(good.status, &refusals),
            as_documented: good.status < 300 && kept_out && refusals.iter().all(|s| (400..500).contains(s)),
        })
    };
    Some(run())
}

/// Uses another signature. For a form, also uses another policy with its valid signature.
fn signature(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let forge = |r: &mut Request| r.forge();
    let none = |r: &mut Request| match column {
        Column::Form => r.fields.retain(|(name, _)| name == "key"),
        _ => r.url.truncate(r.url.find('?').unwrap_or(r.url.len())),
    };
    if column != Column::Form {
        return Some(held(
            store,
            column,
            name,
            with(column, json!({})),
            &[(&forge, BODY), (&none, BODY)],
        ));
    }
    let other = |length: usize| store.key(column, name, with(column, json!({"contentLength": length})));
    Some(other(BODY.len() + 1).and_then(|other: Key| {
        let policy = other.request().field("policy").clone();
        let swap = |r: &mut Request| r.field("policy").clone_from(&policy);
        let spec = with(column, json!({"contentLength": BODY.len()}));
        held(
            store,
            column,
            name,
            spec,
            &[(&forge, BODY), (&none, BODY), (&swap, b"0123456789+")],
        )
    }))
}

fn content_type(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let bend = |r: &mut Request| {
        *match column {
            Column::Form => r.field("Content-Type"),
            _ => r.header("content-type"),
        } = "text/html".into();
    };
    let without = |r: &mut Request| {
        r.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
        r.fields.retain(|(name, _)| name != "Content-Type");
    };
    let spec = with(column, json!({"contentType": "text/plain; charset=\"utf-8\""}));
    (column != Column::Get).then(|| held(store, column, name, spec, &[(&bend, BODY), (&without, BODY)]))
}

fn content_length(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    // curl sets Content-Length itself.
    let same = |r: &mut Request| {
        r.headers
            .retain(|(name, _)| !name.eq_ignore_ascii_case("content-length"))
    };
    let spec = with(column, json!({"contentLength": BODY.len()}));
    let bends: [Bend<'_>; 3] = [(&same, b"012345678"), (&same, b"0123456789+"), (&same, b"")];
    (column != Column::Get).then(|| held(store, column, name, spec, &bends))
}

fn content_length_range(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let range = |min: usize, max: usize| with(column, json!({"contentLengthRange": {"min": min, "max": max}}));
    let same = |_: &mut Request| {};
    match column {
        Column::Get => None,
        Column::Put => Some(refused(store, column, name, range(1, 10), "ContentLengthRange")),
        Column::Form => {
            // The conforming request has first the largest and then the smallest allowed size.
            let low = held(
                store,
                column,
                &format!("{name}-low"),
                range(10, 12),
                &[(&same, b"012345678")],
            );
            let high = held(
                store,
                column,
                &format!("{name}-high"),
                range(8, 10),
                &[(&same, b"0123456789+")],
            );
            Some(low.and_then(|low| {
                high.map(|high| Outcome {
                    said: if low.said == high.said {
                        low.said
                    } else {
                        format!("{}; {}", low.said, high.said)
                    },
                    as_documented: low.as_documented && high.as_documented,
                })
            }))
        }
    }
}

fn checksum(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let same = |_: &mut Request| {};
    // The checksum of other bytes, so that the store could accept them.
    let other = |r: &mut Request| {
        *match column {
            Column::Form => r.field("x-amz-checksum-sha256"),
            _ => r.header("x-amz-checksum-sha256"),
        } = "OHhhRzvex+6YCVpKA5ELhqikQsL28/JR/uHIZadLRKo=".into();
    };
    let without = |r: &mut Request| {
        r.headers.retain(|(name, _)| !name.starts_with("x-amz-checksum"));
        r.fields.retain(|(name, _)| !name.starts_with("x-amz-checksum"));
    };
    let spec = with(column, json!({"checksumSHA256": DIGEST}));
    let bends: [Bend<'_>; 3] = [
        (&same, b"0123456780"),
        (&other, b"0123456780"),
        (&without, b"0123456780"),
    ];
    (column != Column::Get).then(|| held(store, column, name, spec, &bends))
}

fn md5(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let same = |_: &mut Request| {};
    // The checksum of other bytes, so that the store could accept them.
    let other = |r: &mut Request| {
        *r.header("content-md5") = "nkbQJIkNPGxZeaIg7Pu4zQ==".into();
    };
    let without = |r: &mut Request| {
        r.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-md5"));
    };
    let spec = with(column, json!({"checksumMD5": MD5}));
    let bends: [Bend<'_>; 3] = [
        (&same, b"0123456780"),
        (&other, b"0123456780"),
        (&without, b"0123456780"),
    ];
    match column {
        Column::Get => None,
        Column::Put => Some(held(store, column, name, spec, &bends)),
        Column::Form => Some(refused(store, column, name, spec, "ChecksumMD5")),
    }
}

fn write_once(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let put = || {
        let signed = store.key(column, name, json!({}))?;
        let good = signed.used(&store.file(BODY)?)?;
        // If the checksum is signed, the condition and not the checksum must cause the rejection.
        let other = if store.wants_checksums() { BODY } else { b"again" };
        let again = signed.used(&store.file(other)?)?;
        let mut without = signed.request();
        without.headers.retain(|(name, _)| name != "if-none-match");
        let without = without.send(&store.file(b"again")?)?;
        let refusals = [again.status, without.status];
        let holds = refusals.iter().all(|s| (400..500).contains(s)) && store.stored(name)?.as_deref() == Some(BODY);
        // Garage does not support the condition. The page documents this, and a conformance check detects it.
        let is_known = store.software == Software::Garage;
        let figures = figures(good.status, &refusals);
        Ok(Outcome {
            said: if holds {
                figures
            } else {
                format!("**not enforced**: {figures}")
            },
            as_documented: good.status < 300 && holds != is_known,
        })
    };
    match column {
        Column::Get => None,
        Column::Put if !store.has_conditions() => {
            let spec = with(column, json!({"overwrite": "Forbid"}));
            Some(refused(store, column, name, spec, "WriteOnce"))
        }
        Column::Put => Some(put()),
        Column::Form => Some(refused(store, column, name, json!({}), "WriteOnce")),
    }
}

fn response(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        let spec =
            json!({"response": {"contentType": "text/csv", "contentDisposition": "attachment; filename=\"a.csv\""}});
        let bend =
            |r: &mut Request| r.in_url("response-content-type=text%2Fcsv", "response-content-type=text%2Fhtml");
        let outcome = held(store, column, name, spec.clone(), &[(&bend, BODY)])?;
        let answer = store.key(column, name, spec)?.used(&store.file(b"")?)?;
        let text = answer.text.to_ascii_lowercase();
        let there = text.contains("content-type: text/csv")
            && text.contains("content-disposition: attachment; filename=\"a.csv\"");
        Ok(Outcome {
            as_documented: outcome.as_documented && there,
            ..outcome
        })
    };
    (column == Column::Get).then(run)
}

fn version(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        if store.software == Software::Garage {
            return Ok(Outcome {
                said: "no versions".into(),
                as_documented: true,
            });
        }
        store.server.put(BUCKET, name, b"the first")?;
        store.server.put(BUCKET, name, b"the second")?;
        let versions = store.server.versions(BUCKET, name)?;
        let [second, first] = versions.as_slice() else {
            return Ok(Outcome {
                said: "the store keeps no versions".into(),
                as_documented: false,
            });
        };
        let signed = store.key(column, name, json!({"version": first.version}))?;
        let nothing = store.file(b"")?;
        let good = signed.used(&nothing)?;
        let (mut other, mut newest) = (signed.request(), signed.request());
        other.in_url(
            &format!("versionId={}", first.version),
            &format!("versionId={}", second.version),
        );
        newest.in_url(&format!("versionId={}&", first.version), "");
        let (other, newest) = (other.send(&nothing)?, newest.send(&nothing)?);
        let refusals = [other.status, newest.status];
        Ok(Outcome {
            said: figures(good.status, &refusals),
            as_documented: good.status == 200
                && good.text.ends_with("the first")
                && refusals.iter().all(|s| (400..500).contains(s)),
        })
    };
    (column == Column::Get).then(run)
}
