//! Attacks with form fields and headers that a credential does not mention. The store should not obey them.

use serde_json::json;
use valet_harness::{Error, Result, Software};

use crate::{
    cells::{BODY, Bend, Outcome, figures, held, with},
    key::{Key, Request},
    store::{BUCKET, Column, SECRET, Store},
};

pub fn more_fields(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        let more = |name: &str, value: &str| {
            let field = (name.to_owned(), value.to_owned());
            move |r: &mut Request| r.fields.push(field.clone())
        };
        let another = format!("{name}-2");
        let (meta, acl) = (more("x-amz-meta-owner", "me"), more("acl", "public-read"));
        let (redirect, second) = (
            more("success_action_redirect", "http://127.0.0.1/"),
            more("key", &another),
        );
        let bends: [Bend<'_>; 4] = [(&meta, BODY), (&acl, BODY), (&redirect, BODY), (&second, BODY)];
        let mut outcome = held(store, column, name, with(column, json!({})), &bends)?;
        // If a form has a field twice, the store must check the value that it uses.
        let mut first = store.key(column, name, with(column, json!({})))?.request();
        first.fields.insert(0, ("key".into(), another.clone()));
        first.send(&store.file(BODY)?)?;
        if store.stored(&another)?.is_some() {
            outcome.as_documented = false;
            outcome.said += " (wrote another object!)";
        }
        Ok(outcome)
    };
    (column == Column::Form).then(run)
}

/// Adds an unsigned header with a harmless effect.
pub fn other_header(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        if column == Column::Get {
            store.server.put(BUCKET, name, BODY)?;
        }
        let mut request = store.key(column, name, with(column, json!({})))?.request();
        request.headers.push(("x-amz-meta-owner".into(), "me".into()));
        let answer = request.send(&store.file(BODY)?)?;
        let head = store.server.head(BUCKET, name)?;
        let obeyed = head.is_some_and(|head| head.header("x-amz-meta-owner").is_some());
        Ok(Outcome {
            said: effect(obeyed, answer.status),
            as_documented: !obeyed,
        })
    };
    Some(run())
}

fn effect(obeyed: bool, status: u16) -> String {
    match (obeyed, status) {
        (true, _) => format!("**obeyed**: {status}"),
        (false, 200..300) => format!("no effect: {status}"),
        (false, _) => status.to_string(),
    }
}

/// The copy-source attack: the credential allows writing one object, and an unsigned header asks the store to copy
/// another object into it.
fn attack(store: &Store, name: &str, signed: &Key) -> Result<(u16, bool)> {
    let mut request = signed.request();
    let source = format!("/{BUCKET}/{}", SECRET.0);
    request.headers.push(("x-amz-copy-source".into(), source));
    let answer = request.send(&store.file(b"")?)?;
    let obeyed = store.stored(name)?.as_deref() == Some(SECRET.1);
    Ok((answer.status, obeyed))
}

pub fn copy_source(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        let signed = store.key(column, name, with(column, json!({})))?;
        let (status, obeyed) = attack(store, name, &signed)?;
        Ok(Outcome {
            said: effect(obeyed, status),
            // MinIO obeys the header. Valet detects this itself, and refuses PUT URLs for MinIO without a session.
            as_documented: obeyed == (store.software == Software::Minio && column == Column::Put),
        })
    };
    (column != Column::Get).then(run)
}

/// The copy-source attack with STS session credentials for each grant, which allow access only to the object of the
/// grant.
pub fn copy_source_in_session(store: &Store, column: Column, name: &str) -> Option<Result<Outcome>> {
    let run = || {
        let session = json!({"assumeRole": {"durationSeconds": 900}});
        let signed = store.sign_with(column, name, with(column, json!({})), session)?;
        let signed = signed.map_err(|said| Error::new(format!("valet sign refused: {said}")))?;
        let (status, obeyed) = attack(store, name, &signed)?;
        let good = signed.used(&store.file(BODY)?)?;
        let arrived = store.stored(name)?.as_deref() == Some(BODY);
        Ok(Outcome {
            said: figures(good.status, &[status]),
            as_documented: good.status < 300 && arrived && !obeyed && status >= 400,
        })
    };
    // versitygw has no AssumeRole, and forms have no headers.
    (store.software == Software::Minio && column == Column::Put).then(run)
}
