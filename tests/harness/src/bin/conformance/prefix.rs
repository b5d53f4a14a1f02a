//! Tests of forms for a prefix.

use serde_json::json;
use valet_harness::{Result, Software};

use crate::{
    cells::{BODY, Outcome, figures, with},
    key::{Key, Request},
    store::{Column, Store},
};

/// The prefix of the form in this cell.
fn prefix(name: &str) -> String {
    format!("{name}/in/")
}

fn form(store: &Store, name: &str) -> Result<Key> {
    let constraints = json!({"contentType": "text/plain", "contentLengthRange": {"min": 8, "max": 10}});
    store.key(Column::Form, &prefix(name), with(Column::Form, constraints))
}

/// Object keys outside the prefix.
pub fn other_keys(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        let (signed, prefix) = (form(store, name)?, prefix(name));
        let sent = |key: &str| {
            let mut request = signed.request();
            key.clone_into(request.field("key"));
            request.send(&store.file(BODY)?)
        };
        let (mut refusals, mut kept_out) = (Vec::new(), true);
        for key in [
            format!("{name}/in-2/x"),
            format!("{name}/in"),
            format!("{name}/IN/x"),
            format!("{name}/x"),
            format!("{name}%2Fin%2Fx"),
            format!("/{prefix}x"),
        ] {
            refusals.push(sent(&key)?.status);
            // Some stores cannot be asked for an object key that begins with a slash.
            kept_out &= key.starts_with('/') || store.stored(&key)?.is_none();
        }
        let mut second = signed.request();
        *second.field("key") = format!("{prefix}x");
        second.fields.push(("key".into(), format!("{name}/x")));
        refusals.push(second.send(&store.file(BODY)?)?.status);
        kept_out &= store.stored(&format!("{name}/x"))?.is_none();
        let key = format!("{prefix}a/b \u{fc}");
        let good = sent(&key)?.status;
        let arrived = store.stored(&key)?.as_deref() == Some(BODY);
        Ok(Outcome {
            said: figures(good, &refusals),
            as_documented: good < 300 && arrived && kept_out && refusals.iter().all(|s| (400..500).contains(s)),
        })
    };
    (column == Column::Form).then(run)
}

/// Constraints that each object must meet.
pub fn constraints(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        let (signed, key) = (form(store, name)?, prefix(name) + "x");
        let sent = |bend: &dyn Fn(&mut Request), body: &[u8]| {
            let mut request = signed.request();
            key.clone_into(request.field("key"));
            bend(&mut request);
            request.send(&store.file(body)?)
        };
        let other_type = |r: &mut Request| "text/html".clone_into(r.field("Content-Type"));
        let no_type = |r: &mut Request| r.fields.retain(|(name, _)| name != "Content-Type");
        let refusals = [
            sent(&other_type, BODY)?.status,
            sent(&no_type, BODY)?.status,
            sent(&|_| {}, b"0123456789+")?.status,
            sent(&|_| {}, b"0123456")?.status,
        ];
        let kept_out = store.stored(&key)?.is_none();
        let good = sent(&|_| {}, BODY)?.status;
        let arrived = store.stored(&key)?.as_deref() == Some(BODY);
        Ok(Outcome {
            said: figures(good, &refusals),
            as_documented: good < 300 && arrived && kept_out && refusals.iter().all(|s| (400..500).contains(s)),
        })
    };
    (column == Column::Form).then(run)
}

/// The form as Valet issues it. The file name determines the object key.
pub fn by_file(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        let file = store.file(BODY)?;
        let good = form(store, name)?.used(&file)?.status;
        let named = file.file_name().unwrap_or_default().to_string_lossy();
        let at = |last: &str| store.stored(&(prefix(name) + last));
        let (by_file, by_letter) = (at(&named)?.is_some(), at("${filename}")?.is_some());
        // versitygw does not replace the variable `${filename}`. The page documents this, and it is one reason why Valet
        // refuses such forms for versitygw.
        let is_known = store.software == Software::Versitygw;
        Ok(Outcome {
            said: match by_file {
                true => good.to_string(),
                false => format!("**named `${{filename}}`**: {good}"),
            },
            as_documented: good < 300 && by_file != is_known && by_letter == is_known,
        })
    };
    (column == Column::Form).then(run)
}

/// Object keys that begin with the prefix, but contain path segments that lead out of it.
pub fn leading_out(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        let (signed, prefix) = (form(store, name)?, prefix(name));
        let (mut answers, mut escaped) = (Vec::new(), false);
        for (n, key) in ["../", "%2e%2e/", "..%2f", "..\\"].into_iter().enumerate() {
            let mut request = signed.request();
            *request.field("key") = format!("{prefix}{key}out-{n}");
            answers.push(request.send(&store.file(BODY)?)?.status);
            escaped |= store.stored(&format!("{name}/out-{n}"))?.is_some();
        }
        answers.dedup();
        let answers: Vec<_> = answers.iter().map(u16::to_string).collect();
        let answers = answers.join(", ");
        // versitygw resolves these segments. So Valet refuses such forms for versitygw.
        let is_known = store.software == Software::Versitygw;
        Ok(Outcome {
            said: match escaped {
                true => format!("**another object**: {answers}"),
                false => answers,
            },
            as_documented: escaped == is_known,
        })
    };
    (column == Column::Form).then(run)
}
