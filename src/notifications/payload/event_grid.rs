//! Parses a list of events in the schema of Azure Event Grid ("Azure Event Grid event schema", "Azure Blob Storage
//! as an Event Grid source").

use serde::Deserialize;

use super::{
    keys::possible_keys,
    notification::{MAX_OBJECTS, Malformed, Notification, ObjectCreated},
};

/// The text that precedes the container name in the subject of an event. Usually the subject has a `/` before this
/// text. In CloudEvents, this `/` can be missing, as in Microsoft's example.
const SERVICE: &str = "blobServices/default/containers/";
/// An event of this type reports that a blob was created.
pub const CREATED: &str = "Microsoft.Storage.BlobCreated";
/// The maximum length of a validation code. The validation codes of Event Grid are UUIDs.
const MAX_CODE: usize = 128;

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "eventType")]
    kind: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    data: Data,
}

#[derive(Default, Deserialize)]
struct Data {
    #[serde(rename = "validationCode")]
    validation_code: Option<String>,
}

/// Parses a list of Event Grid events. If an event validates a subscription, it must be the only event in its list.
///
/// # Errors
/// Returns [`Malformed`] if the body is not a valid list of Event Grid events.
pub fn parse(body: &[u8]) -> Result<Notification, Malformed> {
    let events: Vec<Event> = serde_json::from_slice(body).map_err(|_| Malformed)?;
    if events.is_empty() || events.len() > MAX_OBJECTS {
        return Err(Malformed);
    }
    if let [event] = events.as_slice()
        && event.kind == "Microsoft.EventGrid.SubscriptionValidationEvent"
    {
        let code = event.data.validation_code.clone().ok_or(Malformed)?;
        let is_code = (1..=MAX_CODE).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_graphic());
        return is_code.then_some(Notification::Validation(code)).ok_or(Malformed);
    }
    let arrived = events.iter().filter(|e| e.kind == CREATED);
    let arrived = arrived.map(|e| blob(&e.subject)).collect::<Option<_>>();
    arrived.map(Notification::Arrived).ok_or(Malformed)
}

/// Returns the container and the blob from a subject of the form
/// `/blobServices/default/containers/CONTAINER/blobs/NAME`.
pub fn blob(subject: &str) -> Option<ObjectCreated> {
    let path = subject.strip_prefix('/').unwrap_or(subject);
    let (container, name) = path.strip_prefix(SERVICE)?.split_once("/blobs/")?;
    Some(ObjectCreated {
        bucket: container.to_owned(),
        keys: possible_keys(name.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::notifications::payload::tests::parse as any;

    fn created(subject: &str) -> Value {
        // This is a shortened example from Microsoft's documentation.
        json!({
            "topic": "/subscriptions/s/resourceGroups/Storage/providers/Microsoft.Storage/storageAccounts/mediastore",
            "subject": subject, "eventType": "Microsoft.Storage.BlobCreated", "eventTime": "2027-01-15T08:00:00.1234567Z",
            "id": "831e1650-001e-001b-66ab-eeb76e069631",
            "data": {
                "api": "PutBlob", "clientRequestId": "6d79dbfb", "requestId": "831e1650", "eTag": "\"0x8D4BCC2E4835CD0\"",
                "contentType": "text/plain", "contentLength": 524288, "blobType": "BlockBlob", "accessTier": "Default",
                "url": "https://mediastore.blob.core.windows.net/media/a/b.png",
                "sequencer": "00000000000004420000000000028963", "storageDiagnostics": {"batchId": "b68529f3"},
            },
            "dataVersion": "", "metadataVersion": "1",
        })
    }

    fn arrived(events: Value) -> Vec<ObjectCreated> {
        match any(events.to_string().as_bytes()) {
            Ok(Notification::Arrived(arrived)) => arrived,
            other => panic!("{events}: {other:?}"),
        }
    }

    fn object(container: &str, keys: &[&str]) -> ObjectCreated {
        ObjectCreated {
            bucket: container.into(),
            keys: keys.iter().map(|k| (*k).to_owned()).collect(),
        }
    }

    #[test]
    fn blob_created_events_are_parsed() {
        for (subject, found) in [
            (
                "/blobServices/default/containers/media/blobs/a/b.png",
                object("media", &["a/b.png"]),
            ),
            (
                "/blobServices/default/containers/media/blobs/a/blobs/b%20c",
                object("media", &["a/blobs/b c", "a/blobs/b%20c"]),
            ),
            (
                "/blobServices/default/containers/media/blobs/ü+d",
                object("media", &["ü d", "ü+d"]),
            ),
        ] {
            assert_eq!(arrived(json!([created(subject)])), [found]);
        }
        let mut deleted = created("/blobServices/default/containers/media/blobs/a");
        deleted["eventType"] = json!("Microsoft.Storage.BlobDeleted");
        let two = arrived(json!([
            deleted,
            created("/blobServices/default/containers/media/blobs/b")
        ]));
        assert_eq!(two, [object("media", &["b"])]);
    }

    #[test]
    fn event_grid_validation_request_is_parsed() {
        let ask = |data: Value| {
            json!([{
                "id": "2d1781af-3a4c-4d7c-bd0c-e34b19da4e66", "topic": "/subscriptions/s", "subject": "",
                "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "eventTime": "2027-01-15T08:00:00Z",
                "data": data, "metadataVersion": "1", "dataVersion": "1",
            }])
            .to_string()
        };
        let good = ask(json!({
            "validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6",
            "validationUrl": "https://rp-eastus2.eventgrid.azure.net:553/eventsubscriptions/x/validate?id=512d38b6",
        }));
        let code = "512d38b6-c7b8-40c8-89fe-f46f9e9622b6".to_owned();
        assert_eq!(any(good.as_bytes()), Ok(Notification::Validation(code)));
        for bad in [
            json!({}),
            json!({"validationCode": ""}),
            json!({"validationCode": "a\nb"}),
            json!({"validationCode": "x".repeat(129)}),
        ] {
            assert_eq!(any(ask(bad.clone()).as_bytes()), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn invalid_list_of_event_grid_events_is_rejected() {
        let many: Vec<_> = (0..=MAX_OBJECTS)
            .map(|_| created("/blobServices/default/containers/m/blobs/a"))
            .collect();
        for body in [
            json!([]),
            json!([1]),
            json!([{}]),
            json!([{"eventType": 1}]),
            json!([created("")]),
            json!([created("/blobServices/default/containers/media")]),
            json!([created("/blobServices/default/containers/media/b")]),
            json!([created("/x/blobServices/default/containers/media/blobs/b")]),
            json!(many),
        ] {
            let start: String = body.to_string().chars().take(60).collect();
            assert_eq!(any(body.to_string().as_bytes()), Err(Malformed), "{start}");
        }
        assert_eq!(
            any(b"[{\"eventType\":\"Microsoft.Storage.BlobCreated\""),
            Err(Malformed)
        );
    }
}
