//! Signs and verifies the records that Valet writes about a grant. These are the data and annotations of the grant
//! Secret, and the status fields that later decisions use.
//!
//! Any client with permission to patch Secrets or the status of grants can write false values. Valet therefore signs
//! its records with HMAC-SHA256 and the record key, which only the operator has.

use std::collections::BTreeMap;

use aws_lc_rs::{
    digest, hmac,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::{
    ByteString,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use serde::Serialize;

use super::packed_text::PackedText;
use crate::api::{Binding, ConditionType, GROUP, GrantStatus, ObservedObject, Operation, Reason, annotation};

/// The length in bytes of the HMAC key that authenticates records.
pub const RECORD_KEY_BYTES: usize = 32;

/// The HMAC key that authenticates records. The `Debug` output of the type does not contain the key, so that nobody
/// prints the key by accident.
#[derive(Clone)]
pub struct RecordKey {
    bytes: [u8; RECORD_KEY_BYTES],
    hmac: hmac::Key,
}

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordKey(…)")
    }
}

/// The grant that a record is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The grant's UID. A record is valid only for the grant with this UID. If a user deletes the grant and creates a
    /// new grant with its name, the new grant cannot use the record.
    pub uid: &'a str,
    /// The operation of the grant: upload or download.
    pub operation: Operation,
}

/// The part of a grant's status that Valet can trust.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownStatus {
    /// The status as Valet last wrote it. If another client changed the status in the cluster, this field also contains
    /// conditions from the changed status, but only conditions that no decision uses. These are the conditions of other
    /// programs, and conditions such as `Ready`, which Valet computes again for each status.
    pub status: GrantStatus,
    /// True if the cluster has exactly the status that Valet last wrote. Otherwise Valet must write the status again.
    pub is_own: bool,
}

/// The types of conditions that are always part of the signed record. `Ready` is also part of the record if the grant
/// is finished.
const EVIDENCE: [&str; 2] = [ConditionType::Completed.as_str(), ConditionType::Active.as_str()];

/// The status fields that Valet signs, in this order. Valet signs times in whole seconds, because the API server
/// stores times in whole seconds. A signature is therefore still valid after the API server has stored the status.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusRecord<'a> {
    purpose: &'static str,
    uid: &'a str,
    kind: &'static str,
    issued_time: &'a Option<Time>,
    expiration_time: &'a Option<Time>,
    expiration_seconds: Option<i64>,
    renewals: Option<i64>,
    earlier_expiration_time: &'a Option<Time>,
    upload_id: &'a Option<String>,
    binding: &'a Option<Binding>,
    finished_time: &'a Option<Time>,
    /// The reason and the message of the condition `Ready`, if the grant has finished.
    finished: Option<(&'a str, &'a str)>,
    object: &'a Option<ObservedObject>,
    /// The status, reason and message of the condition `Completed`.
    completed: Option<(&'a str, &'a str, &'a str)>,
    is_truncated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SecretRecord<'a> {
    purpose: &'static str,
    uid: &'a str,
    kind: &'static str,
    name: &'a str,
    /// All annotations with Valet's own domain, except the signature.
    annotations: BTreeMap<&'a str, &'a str>,
    /// The SHA-256 digest of each entry in the Secret's data.
    data: BTreeMap<&'a str, String>,
}

impl RecordKey {
    /// Creates an HMAC key from the given bytes.
    pub fn new(bytes: [u8; RECORD_KEY_BYTES]) -> Self {
        Self {
            hmac: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
            bytes,
        }
    }

    /// Creates a random HMAC key.
    ///
    /// # Errors
    ///
    /// Returns a message if the system returns no random numbers.
    pub fn random() -> Result<Self, String> {
        let mut bytes = [0; RECORD_KEY_BYTES];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| "the operating system returned no random numbers for the record key".to_owned())?;
        Ok(Self::new(bytes))
    }

    /// Returns the bytes of the HMAC key. The caller must store them only in the operator's own Secret.
    pub fn expose(&self) -> &[u8; RECORD_KEY_BYTES] {
        &self.bytes
    }

    /// Returns the signature of the status fields that later decisions use.
    pub fn sign_status(&self, subject: Subject, status: &GrantStatus) -> String {
        self.sign(&status_record(subject, status))
    }

    /// Returns true if Valet wrote the signed fields of this status.
    pub fn is_own_status(&self, subject: Subject, status: &GrantStatus) -> bool {
        let signature = status.record_signature.as_deref();
        self.is_own(signature, &status_record(subject, status))
    }

    /// Returns the status that Valet can trust. This is normally the current status of the grant. If another client
    /// changed this status, Valet returns `remembered` instead: the last status that this process wrote.
    pub fn known_status(
        &self,
        subject: Subject,
        written: Option<&GrantStatus>,
        remembered: Option<&RememberedStatus>,
    ) -> KnownStatus {
        let is_own = written.is_some_and(|status| self.is_own_status(subject, status));
        let is_overtaken = |status: &GrantStatus| remembered.is_some_and(|known| known.is_newer(status));
        match written {
            Some(status) if is_own && !is_overtaken(status) => KnownStatus {
                status: GrantStatus {
                    record_signature: None,
                    ..status.clone()
                },
                is_own: true,
            },
            _ => {
                let mut status = remembered.map(RememberedStatus::status).unwrap_or_default();
                let mut known = std::mem::take(&mut status.conditions);
                // The conditions keep the order of the status in the cluster. With a different order, a patch would
                // change all conditions instead of one.
                for there in written.into_iter().flat_map(|status| &status.conditions) {
                    if let Some(n) = known.iter().position(|c| c.type_ == there.type_) {
                        status.conditions.push(known.remove(n));
                    } else if !EVIDENCE.contains(&there.type_.as_str()) {
                        status.conditions.push(there.clone());
                    }
                }
                status.conditions.append(&mut known);
                KnownStatus { status, is_own: false }
            }
        }
    }

    /// Returns the signature of a Secret's data and of Valet's annotations.
    pub fn sign_secret(
        &self,
        subject: Subject,
        name: &str,
        annotations: &BTreeMap<String, String>,
        data: &BTreeMap<String, ByteString>,
    ) -> String {
        self.sign(&secret_record(subject, name, annotations, data))
    }

    /// Returns true if the record signature shows that Valet wrote these annotations and this data of a Secret.
    pub fn is_own_secret(
        &self,
        subject: Subject,
        name: &str,
        annotations: &BTreeMap<String, String>,
        data: &BTreeMap<String, ByteString>,
    ) -> bool {
        let signature = annotations.get(annotation::RECORD_SIGNATURE).map(String::as_str);
        self.is_own(signature, &secret_record(subject, name, annotations, data))
    }

    fn sign(&self, record: &[u8]) -> String {
        STANDARD.encode(hmac::sign(&self.hmac, record).as_ref())
    }

    fn is_own(&self, signature: Option<&str>, record: &[u8]) -> bool {
        let signature = signature.and_then(|text| STANDARD.decode(text).ok());
        signature.is_some_and(|signature| hmac::verify(&self.hmac, record, &signature).is_ok())
    }
}

/// The fields of a grant's status that later decisions use. The operator keeps them in memory for each live grant, as
/// compressed JSON text. The text needs less than a fifth of the memory of a [`GrantStatus`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RememberedStatus {
    is_finished: bool,
    renewals: i64,
    fields: PackedText,
}

impl RememberedStatus {
    /// Takes the fields from a status that Valet wrote itself. Returns `None` if the status contains no facts for later
    /// decisions.
    pub fn of(status: &GrantStatus) -> Option<Self> {
        let evidence = status_evidence(status)?;
        Some(Self {
            is_finished: evidence.finished_time.is_some(),
            renewals: evidence.renewals.unwrap_or_default(),
            fields: PackedText::new(&serde_json::to_string(&evidence).ok()?),
        })
    }

    /// Returns true if the remembered status is newer than `status`. It is newer in two cases: only the remembered
    /// status says that the grant has finished, or the remembered status describes a later credential.
    pub fn is_newer(&self, status: &GrantStatus) -> bool {
        match (self.is_finished, status.finished_time.is_some()) {
            (true, false) => true,
            (false, true) => false,
            _ => self.renewals > status.renewals.unwrap_or_default(),
        }
    }

    /// Returns the fields as a status.
    fn status(&self) -> GrantStatus {
        // [`Self::of`] wrote this text.
        serde_json::from_str(&self.fields.text()).unwrap_or_default()
    }
}

fn status_evidence(status: &GrantStatus) -> Option<GrantStatus> {
    if status.issued_time.is_none() && status.finished_time.is_none() && status.upload_id.is_none() {
        return None;
    }
    let is_evidence = |c: &&Condition| {
        EVIDENCE.contains(&c.type_.as_str())
            || (c.type_ == ConditionType::Ready.as_str() && status.finished_time.is_some())
    };
    Some(GrantStatus {
        conditions: status.conditions.iter().filter(is_evidence).cloned().collect(),
        renewal_time: None,
        record_signature: None,
        ..status.clone()
    })
}

fn status_record(subject: Subject, status: &GrantStatus) -> Vec<u8> {
    let find = |type_: ConditionType| status.conditions.iter().find(|c| c.type_ == type_.as_str());
    let ready = find(ConditionType::Ready).filter(|_| status.finished_time.is_some());
    encode(&StatusRecord {
        purpose: "valetkey.dev/status/1",
        uid: subject.uid,
        kind: subject.operation.kind(),
        issued_time: &status.issued_time,
        expiration_time: &status.expiration_time,
        expiration_seconds: status.expiration_seconds,
        renewals: status.renewals,
        earlier_expiration_time: &status.earlier_expiration_time,
        upload_id: &status.upload_id,
        binding: &status.binding,
        finished_time: &status.finished_time,
        finished: ready.map(|c| (c.reason.as_str(), c.message.as_str())),
        object: &status.object,
        completed: find(ConditionType::Completed).map(|c| (c.status.as_str(), c.reason.as_str(), c.message.as_str())),
        is_truncated: find(ConditionType::Active).is_some_and(|c| c.reason == Reason::ExpiryTruncated.as_str()),
    })
}

fn secret_record(
    subject: Subject,
    name: &str,
    annotations: &BTreeMap<String, String>,
    data: &BTreeMap<String, ByteString>,
) -> Vec<u8> {
    let is_ours = |key: &str| key != annotation::RECORD_SIGNATURE && key.split('/').next() == Some(GROUP);
    let digest = |value: &ByteString| STANDARD.encode(digest::digest(&digest::SHA256, &value.0));
    encode(&SecretRecord {
        purpose: "valetkey.dev/secret/1",
        uid: subject.uid,
        kind: subject.operation.kind(),
        name,
        annotations: annotations
            .iter()
            .filter(|(key, _)| is_ours(key))
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect(),
        data: data
            .iter()
            .map(|(name, value)| (name.as_str(), digest(value)))
            .collect(),
    })
}

/// Encodes a record as JSON with a fixed structure. Two records therefore have equal bytes only if the records are
/// equal.
fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_else(|_| {
        unreachable!("a record contains only strings, numbers and times, and JSON can represent all these values")
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    const SUBJECT: Subject = Subject {
        uid: "2f1c7e0a",
        operation: Operation::Upload,
    };

    fn key() -> RecordKey {
        RecordKey::new([7; RECORD_KEY_BYTES])
    }

    fn full_status() -> Value {
        let condition = |type_: &str, reason: &str| {
            json!({"type": type_, "status": "True", "reason": reason, "message": "m", "observedGeneration": 1,
                   "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        json!({
            "observedGeneration": 1, "issuedTime": "2026-01-01T00:00:00Z", "expirationTime": "2026-01-01T01:00:00Z",
            "expirationSeconds": 3600, "renewalTime": "2026-01-01T00:40:00Z", "renewals": 2,
            "earlierExpirationTime": "2026-01-01T02:00:00Z", "uploadID": "u", "finishedTime": "2026-01-01T00:30:00Z",
            "binding": {"name": "g", "expirationTime": "2026-01-01T01:00:00Z"}, "object": {"size": 3, "eTag": "e"},
            "conditions": [condition("Ready", "Completed"), condition("Active", "Issued"),
                condition("Completed", "Completed"), condition("example.com/Approved", "ByHand")],
        })
    }

    fn signed(status: &Value) -> Value {
        let read: GrantStatus = serde_json::from_value(status.clone()).unwrap();
        let mut status = status.clone();
        status["recordSignature"] = key().sign_status(SUBJECT, &read).into();
        status
    }

    fn is_own(status: &Value) -> bool {
        key().is_own_status(SUBJECT, &serde_json::from_value(status.clone()).unwrap())
    }

    #[test]
    fn status_with_a_changed_signed_field_is_not_authentic() {
        let good = signed(&full_status());
        assert!(is_own(&good));
        let changes = [
            ("/issuedTime", json!("2026-01-01T00:00:01Z")),
            ("/expirationTime", json!("2036-01-01T01:00:00Z")),
            ("/expirationSeconds", json!(3601)),
            ("/renewals", json!(1)),
            ("/earlierExpirationTime", Value::Null),
            ("/uploadID", json!("v")),
            ("/finishedTime", Value::Null),
            ("/binding", Value::Null),
            ("/binding/name", json!("h")),
            ("/object/size", json!(4)),
            ("/object", Value::Null),
            ("/conditions/0/reason", json!("Expired")),
            ("/conditions/0/message", json!("n")),
            ("/conditions/1/reason", json!("ExpiryTruncated")),
            ("/conditions/2/status", json!("False")),
            ("/conditions/2/message", json!("n")),
            ("/recordSignature", json!("AAAA")),
            ("/recordSignature", Value::Null),
        ];
        for (path, value) in changes {
            let mut forged = good.clone();
            *forged.pointer_mut(path).unwrap() = value;
            assert!(!is_own(&forged), "{path}");
        }
        // The signature stays valid if a client changes only fields that Valet does not sign.
        for (path, value) in [
            ("/observedGeneration", json!(9)),
            ("/renewalTime", Value::Null),
            ("/conditions/1/status", json!("False")),
            ("/conditions/3/reason", json!("ByNobody")),
        ] {
            let mut other = good.clone();
            *other.pointer_mut(path).unwrap() = value;
            assert!(is_own(&other), "{path}");
        }
    }

    #[test]
    fn status_of_another_grant_kind_or_record_key_is_not_authentic() {
        let status: GrantStatus = serde_json::from_value(signed(&full_status())).unwrap();
        assert!(key().is_own_status(SUBJECT, &status));
        assert!(!key().is_own_status(
            Subject {
                uid: "other",
                ..SUBJECT
            },
            &status
        ));
        let operation = Operation::Download;
        assert!(!key().is_own_status(Subject { operation, ..SUBJECT }, &status));
        assert!(!RecordKey::new([8; RECORD_KEY_BYTES]).is_own_status(SUBJECT, &status));
    }

    #[test]
    fn signature_is_valid_after_apiserver_drops_fractions_of_seconds() {
        let now: Timestamp = "2026-01-01T00:30:00.123456789Z".parse().unwrap();
        let mut status: GrantStatus = serde_json::from_value(full_status()).unwrap();
        status.finished_time = Some(Time(now));
        status.record_signature = Some(key().sign_status(SUBJECT, &status));
        let stored: GrantStatus = serde_json::from_value(serde_json::to_value(&status).unwrap()).unwrap();
        assert!(key().is_own_status(SUBJECT, &stored));
    }

    #[test]
    fn secret_with_changed_annotation_or_data_is_not_authentic() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
        };
        let data = |pairs: &[(&str, &str)]| -> BTreeMap<String, ByteString> {
            map(pairs)
                .into_iter()
                .map(|(k, v)| (k, ByteString(v.into_bytes())))
                .collect()
        };
        let good = data(&[("url", "https://s3.example/k"), ("method", "PUT")]);
        let mut annotations = map(&[
            (annotation::EXPIRES_AT, "2026-01-01T01:00:00Z"),
            ("example.com/for", "them"),
        ]);
        let signature = key().sign_secret(SUBJECT, "g", &annotations, &good);
        annotations.insert(annotation::RECORD_SIGNATURE.into(), signature);
        let is_own = |name: &str, annotations: &_, data: &_| key().is_own_secret(SUBJECT, name, annotations, data);
        assert!(is_own("g", &annotations, &good));
        assert!(!is_own("h", &annotations, &good));
        for other in [
            data(&[("url", "https://evil.example/k"), ("method", "PUT")]),
            data(&[("url", "https://s3.example/k")]),
            data(&[("url", "https://s3.example/k"), ("method", "PUT"), ("more", "")]),
            data(&[("method", "https://s3.example/k"), ("url", "PUT")]),
            data(&[]),
        ] {
            assert!(!is_own("g", &annotations, &other));
        }
        for (name, value, holds) in [
            (annotation::EXPIRES_AT, "2036-01-01T01:00:00Z", false),
            (annotation::RENEWALS, "1", false),
            (annotation::RECORD_SIGNATURE, "", false),
            ("example.com/for", "us", true),
            ("valetkey.dev.example/x", "y", true),
        ] {
            let mut other = annotations.clone();
            other.insert(name.into(), value.into());
            assert_eq!(is_own("g", &other, &good), holds, "{name}");
        }
    }

    #[test]
    fn known_status_prefers_signed_then_remembered_then_empty_status() {
        let own: GrantStatus = serde_json::from_value(signed(&full_status())).unwrap();
        let known = |written: &GrantStatus, remembered: Option<&RememberedStatus>| {
            key().known_status(SUBJECT, Some(written), remembered)
        };
        let unsigned = GrantStatus {
            record_signature: None,
            ..own.clone()
        };
        let is = |status: &GrantStatus, is_own| KnownStatus {
            status: status.clone(),
            is_own,
        };
        assert_eq!(known(&own, None), is(&unsigned, true));
        let nothing = known(&unsigned, None);
        assert!(!nothing.is_own && nothing.status.issued_time.is_none() && nothing.status.finished_time.is_none());
        let types: Vec<_> = nothing.status.conditions.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(
            types,
            ["Ready", "example.com/Approved"],
            "no decision uses these conditions"
        );
        // A client can forge the status or restore an old status. In both cases Valet uses the record in its memory.
        let remembered = RememberedStatus::of(&own).unwrap();
        let mut older = GrantStatus {
            finished_time: None,
            ..unsigned.clone()
        };
        older.record_signature = Some(key().sign_status(SUBJECT, &older));
        for written in [&unsigned, &older] {
            let known = known(written, Some(&remembered));
            assert!(!known.is_own);
            assert_eq!(known.status.finished_time, own.finished_time);
            assert_eq!(known.status.renewals, Some(2));
        }
        assert_eq!(known(&own, Some(&remembered)), is(&unsigned, true));
    }

    #[test]
    fn debug_output_contains_no_record_key() {
        assert_eq!(format!("{:?}", key()), "RecordKey(…)");
        assert_ne!(
            RecordKey::random().unwrap().expose(),
            RecordKey::random().unwrap().expose()
        );
    }
}
