//! Parses Pub/Sub push messages of Google Cloud Storage.

use serde::Deserialize;

use super::notification::{Malformed, ObjectCreated};

/// A Pub/Sub message. Valet reads only its attributes, because they name the object.
#[derive(Deserialize)]
pub struct Pushed {
    #[serde(default)]
    attributes: Attributes,
}

/// The attributes that Google Cloud Storage sets ("Pub/Sub notifications for Cloud Storage", attributes). If a
/// message has different attributes, it does not come from Google Cloud Storage.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attributes {
    event_type: Option<String>,
    bucket_id: Option<String>,
    object_id: Option<String>,
}

impl Pushed {
    /// Returns the created object if the message reports one. The list is empty if the message reports a deletion or
    /// a metadata update, or if it does not come from Google Cloud Storage.
    ///
    /// In these cases the method must not return an error, because Pub/Sub sends rejected messages again.
    pub fn arrived(self) -> Result<Vec<ObjectCreated>, Malformed> {
        match self.attributes {
            Attributes {
                event_type: Some(event),
                bucket_id: Some(bucket),
                object_id: Some(object),
            } if event == "OBJECT_FINALIZE" => Ok(vec![ObjectCreated {
                bucket,
                keys: vec![object],
            }]),
            Attributes {
                event_type: Some(event),
                ..
            } if event == "OBJECT_FINALIZE" => Err(Malformed),
            _ => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{arrived, object, parse};
    use super::*;

    fn pushed(attributes: Value) -> Value {
        // This is a shortened example from Google's documentation. The field `data` contains a description of the
        // object in base64.
        json!({
            "message": {
                "attributes": attributes,
                "data": "eyJraW5kIjoic3RvcmFnZSNvYmplY3QiLCJuYW1lIjoiYS9iLnBuZyJ9",
                "messageId": "2070443601311540", "message_id": "2070443601311540",
                "publishTime": "2027-01-15T08:00:00.519Z", "publish_time": "2027-01-15T08:00:00.519Z",
            },
            "subscription": "projects/myproject/subscriptions/valet",
        })
    }

    #[test]
    fn pub_sub_message_of_google_cloud_storage_is_parsed() {
        let attributes = |event: &str, object: &str| {
            json!({
                "eventType": event, "bucketId": "media", "objectId": object, "objectGeneration": "1700000000000000",
                "payloadFormat": "JSON_API_V1", "notificationConfig": "projects/_/buckets/media/notificationConfigs/1",
                "eventTime": "2027-01-15T08:00:00.519Z",
            })
        };
        // Attributes contain object names without any encoding.
        for name in ["a/b.png", "a+b %41.png", "ä"] {
            let found = arrived(&pushed(attributes("OBJECT_FINALIZE", name)));
            assert_eq!(found, [object("media", &[name])]);
        }
        for event in ["OBJECT_DELETE", "OBJECT_ARCHIVE", "OBJECT_METADATA_UPDATE", ""] {
            assert_eq!(arrived(&pushed(attributes(event, "a"))), []);
        }
        assert_eq!(arrived(&pushed(json!({"from": "somebody else"}))), []);
        let mut bare = pushed(json!({}));
        bare["message"].as_object_mut().unwrap().remove("attributes");
        assert_eq!(arrived(&bare), []);
        for half in [
            json!({"eventType": "OBJECT_FINALIZE", "bucketId": "media"}),
            json!({"eventType": 1}),
            json!([]),
        ] {
            assert_eq!(
                parse(pushed(half.clone()).to_string().as_bytes()),
                Err(Malformed),
                "{half}"
            );
        }
    }
}
