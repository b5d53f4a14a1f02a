//! Parses CloudEvents 1.0 from Azure Event Grid ("CloudEvents v1.0 schema with Azure Event Grid"). The module
//! supports all three HTTP modes ("HTTP Protocol Binding for CloudEvents"): one event in the body, a list of events
//! in the body, and one event in the headers.

use http::{HeaderMap, header::CONTENT_TYPE};
use serde::Deserialize;

use super::{
    event_grid,
    keys::decoded,
    notification::{MAX_OBJECTS, Malformed, Notification},
};

/// The only CloudEvents version that Valet supports. Events of the specifications 1.0.1 and 1.0.2 also contain the
/// version text "1.0".
const VERSION: &str = "1.0";
/// If the body contains events, the Content-Type header begins with this text.
const IN_BODY: &[u8] = b"application/cloudevents";

/// The fields that Valet reads from a CloudEvent.
#[derive(Deserialize)]
struct Event {
    specversion: String,
    #[serde(rename = "type")]
    kind: String,
    subject: Option<String>,
}

/// Parses a body with one event.
pub fn one(body: &[u8]) -> Result<Notification, Malformed> {
    let event: Event = serde_json::from_slice(body).map_err(|_| Malformed)?;
    arrived(&[event])
}

/// Parses a body with a list of events.
pub fn list(body: &[u8]) -> Result<Notification, Malformed> {
    let events: Vec<Event> = serde_json::from_slice(body).map_err(|_| Malformed)?;
    arrived(&events)
}

/// Returns true if Valet must read the event from the HTTP headers. Returns false if the body also contains an event,
/// because Valet then uses the event in the body.
pub fn is_in_headers(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(|v| v.as_bytes()).unwrap_or_default();
    let is_in_body = content_type
        .get(..IN_BODY.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(IN_BODY));
    headers.contains_key("ce-specversion") && !is_in_body
}

/// Parses an event in the HTTP headers. The header values are percent-encoded.
pub fn in_headers(headers: &HeaderMap) -> Result<Notification, Malformed> {
    let value = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let text = values.next()?.to_str().ok()?;
        // If a header is repeated, Valet rejects the event, because no rule says which value is valid.
        values.next().is_none().then(|| decoded(text, false)).flatten()
    };
    arrived(&[Event {
        specversion: value("ce-specversion").ok_or(Malformed)?,
        kind: value("ce-type").ok_or(Malformed)?,
        subject: value("ce-subject"),
    }])
}

fn arrived(events: &[Event]) -> Result<Notification, Malformed> {
    if events.is_empty() || events.len() > MAX_OBJECTS || events.iter().any(|e| e.specversion != VERSION) {
        return Err(Malformed);
    }
    let arrived = events.iter().filter(|e| e.kind == event_grid::CREATED);
    let arrived = arrived.map(|e| event_grid::blob(e.subject.as_deref()?));
    let arrived = arrived.collect::<Option<_>>();
    arrived.map(Notification::Arrived).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{ObjectCreated, parse, tests::object};
    use super::*;

    fn created(subject: &str) -> Value {
        // This is a shortened example from Microsoft's documentation.
        json!({
            "specversion": "1.0", "type": "Microsoft.Storage.BlobCreated", "id": "9aeb0fdf-c01e-0131-0922-9eb54906e209",
            "source": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/mediastore",
            "time": "2027-01-15T08:00:00.4589254Z", "subject": subject, "dataschema": "#",
            "data": {
                "api": "PutBlockList", "eTag": "0x8D76C39E4407333", "contentType": "image/png", "contentLength": 30699,
                "blobType": "BlockBlob", "url": "https://mediastore.blob.core.windows.net/media/a/b.png",
            },
        })
    }

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = all
            .iter()
            .map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, value);
        }
        map
    }

    fn told(headers: &HeaderMap, body: &str) -> Vec<ObjectCreated> {
        match parse(headers, body.as_bytes()) {
            Ok(Notification::Arrived(arrived)) => arrived,
            other => panic!("{body}: {other:?}"),
        }
    }

    const SUBJECT: &str = "blobServices/default/containers/media/blobs/a/b.png";

    #[test]
    fn cloud_event_in_the_body_is_parsed() {
        let structured = headers(&[("content-type", "application/cloudevents+json; charset=utf-8")]);
        let plain = HeaderMap::new();
        for headers in [&structured, &plain] {
            for subject in [SUBJECT.to_owned(), format!("/{SUBJECT}")] {
                let found = told(headers, &created(&subject).to_string());
                assert_eq!(found, [object("media", &["a/b.png"])]);
            }
        }
        let mut deleted = created(SUBJECT);
        deleted["type"] = json!("Microsoft.Storage.BlobDeleted");
        assert_eq!(told(&plain, &deleted.to_string()), []);
        // This event has a type that does not report a created blob, and it has no subject.
        let other =
            json!({"specversion": "1.0", "type": "org.example.x", "id": "1", "source": "/", "data": [[["deep"]]]});
        assert_eq!(told(&plain, &other.to_string()), []);
        let batch = json!([deleted, created(SUBJECT), other]).to_string();
        let found = told(
            &headers(&[("content-type", "application/cloudevents-batch+json")]),
            &batch,
        );
        assert_eq!(found, [object("media", &["a/b.png"])]);
    }

    #[test]
    fn cloud_event_in_the_headers_is_parsed() {
        let event = |subject: &str| {
            headers(&[
                ("content-type", "application/json"),
                ("ce-specversion", "1.0"),
                ("ce-type", "Microsoft.Storage.BlobCreated"),
                ("ce-id", "1"),
                ("ce-source", "/subscriptions/s"),
                ("ce-subject", subject),
            ])
        };
        for (subject, keys) in [
            (SUBJECT, &["a/b.png"][..]),
            (
                "/blobServices/default/containers/media/blobs/%C3%BC%20%2541",
                &["ü A", "ü %41"],
            ),
        ] {
            // If the headers contain the event, the body contains the data of the event. Valet does not read this
            // data.
            for body in ["", "{}", r#"{"Records": 1}"#, "\u{0}"] {
                assert_eq!(told(&event(subject), body), [object("media", keys)], "{subject}");
            }
        }
        // If the headers and the body both contain an event, the media type decides which event Valet uses.
        let mut both = event("blobServices/default/containers/other/blobs/x");
        both.insert(CONTENT_TYPE, "Application/CloudEvents+JSON".parse().unwrap());
        assert_eq!(
            told(&both, &created(SUBJECT).to_string()),
            [object("media", &["a/b.png"])]
        );
    }

    #[test]
    fn invalid_cloud_event_is_rejected() {
        let many: Vec<_> = (0..=MAX_OBJECTS).map(|_| created(SUBJECT)).collect();
        let with = |name: &str, value: Value| {
            let mut event = created(SUBJECT);
            event[name] = value;
            event
        };
        let without = |name: &str| {
            let mut event = created(SUBJECT);
            event.as_object_mut().unwrap().remove(name);
            event
        };
        for body in [
            with("specversion", json!("0.3")),
            with("specversion", json!("2.0")),
            with("specversion", json!("")),
            with("specversion", json!(1)),
            with("specversion", json!(null)),
            without("specversion"),
            with("type", json!(null)),
            without("type"),
            with("subject", json!(null)),
            with("subject", json!("")),
            with("subject", json!(["x"])),
            with("subject", json!("blobServices/default/containers/media")),
            with("subject", json!(format!("//{SUBJECT}"))),
            with("subject", json!(format!("x/{SUBJECT}"))),
            without("subject"),
            json!([created(SUBJECT), with("specversion", json!("0.3"))]),
            json!([created(SUBJECT), {}]),
            json!([[created(SUBJECT)]]),
            json!(many),
        ] {
            let body = body.to_string();
            let start: String = body.chars().take(60).collect();
            assert_eq!(parse(&HeaderMap::new(), body.as_bytes()), Err(Malformed), "{start}");
        }
        let twice = r#"{"specversion":"1.0","specversion":"1.0","type":"x"}"#;
        assert_eq!(parse(&HeaderMap::new(), twice.as_bytes()), Err(Malformed));

        let good = [
            ("ce-specversion", "1.0"),
            ("ce-type", "Microsoft.Storage.BlobCreated"),
            ("ce-subject", SUBJECT),
        ];
        for (at, value) in [
            (0, "0.3"),
            (0, ""),
            (1, "%ff"),
            (2, ""),
            (2, "%zz"),
            (2, "blobServices/default/containers/media"),
        ] {
            let mut bad = good;
            bad[at].1 = value;
            assert_eq!(parse(&headers(&bad), b"{}"), Err(Malformed), "{bad:?}");
        }
        for missing in 1..3 {
            let bad: Vec<_> = (0..3).filter(|n| *n != missing).map(|n| good[n]).collect();
            assert_eq!(parse(&headers(&bad), b"{}"), Err(Malformed), "{bad:?}");
        }
        let doubled = [&good[..], &good[2..]].concat();
        assert_eq!(parse(&headers(&doubled), b"{}"), Err(Malformed));
    }
}
