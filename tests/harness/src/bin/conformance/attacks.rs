//! What a key says nothing about: fields and headers that the store should not obey.

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
        // Of two keys the one that is looked at must be the one that is written.
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

/// A header that asks for something harmless.
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

/// The copy-source attack: the key is for writing one object, the header asks to fill it with another one.
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
            // That MinIO obeys is what Valet says of it, and finds out by itself: no keys for PUT without a session.
            as_documented: obeyed == (store.software == Software::Minio && column == Column::Put),
        })
    };
    (column != Column::Get).then(run)
}

/// The same where each key has credentials of its own, confined to its object.
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
    // versitygw has no AssumeRole; a form takes no header for anything.
    (store.software == Software::Minio && column == Column::Put).then(run)
}
