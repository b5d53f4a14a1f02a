//! The buckets of the server: objects with versions, and multipart uploads.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;

use super::scheme::hex;

/// One version of an object.
#[derive(Clone, Debug)]
pub struct Object {
    pub body: Vec<u8>,
    pub content_type: Option<String>,
    pub modified: Timestamp,
}

/// Returns the entity tag of a body.
pub fn e_tag(body: &[u8]) -> String {
    let digits = hex(digest(&SHA256, body).as_ref());
    format!("\"{}\"", &digits[..32])
}

/// A multipart upload that is in progress.
#[derive(Clone, Debug)]
pub struct Upload {
    pub key: String,
    pub content_type: Option<String>,
    pub initiated: Timestamp,
    pub parts: BTreeMap<i64, Vec<u8>>,
}

/// A bucket.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    /// All versions of each object. The version ID of the first version is 1.
    pub objects: BTreeMap<String, Vec<Object>>,
    /// The multipart uploads, with their IDs.
    pub uploads: BTreeMap<String, Upload>,
    /// The number of multipart uploads that the bucket has had.
    count: u64,
}

/// The reason why a bucket refuses a request, with the status and the error code of the answer.
pub type Refusal = (u16, &'static str);

impl Bucket {
    /// Stores a new version of an object. If `is_write_once` is true, no object with this key may exist.
    pub fn put(&mut self, key: &str, object: Object, is_write_once: bool) -> Result<(), Refusal> {
        if is_write_once && self.objects.contains_key(key) {
            return Err((412, "ObjectExists"));
        }
        self.objects.entry(key.to_owned()).or_default().push(object);
        Ok(())
    }

    /// Returns a version of an object, or the newest version. The first value is the version ID.
    pub fn get(&self, key: &str, version: Option<&str>) -> Result<(usize, &Object), Refusal> {
        let versions = self.objects.get(key).ok_or((404, "NoSuchKey"))?;
        let number = match version {
            Some(version) => version.parse().map_err(|_| (400, "InvalidVersion"))?,
            None => versions.len(),
        };
        let found = number.checked_sub(1).and_then(|index| versions.get(index));
        Ok((number, found.ok_or((404, "NoSuchVersion"))?))
    }

    /// Initiates a multipart upload and returns its ID.
    pub fn initiate(&mut self, key: &str, content_type: Option<String>) -> String {
        self.count += 1;
        let id = format!("upload-{}", self.count);
        let upload = Upload {
            key: key.to_owned(),
            content_type,
            initiated: Timestamp::now(),
            parts: BTreeMap::new(),
        };
        self.uploads.insert(id.clone(), upload);
        id
    }

    /// Returns a multipart upload of this object key.
    pub fn upload(&mut self, key: &str, id: &str) -> Result<&mut Upload, Refusal> {
        let found = self.uploads.get_mut(id).filter(|upload| upload.key == key);
        found.ok_or((404, "NoSuchUpload"))
    }

    /// Assembles the object from the listed parts. Each part has a number and an entity tag.
    pub fn complete(
        &mut self,
        key: &str,
        id: &str,
        parts: &[(i64, String)],
        is_write_once: bool,
    ) -> Result<&Object, Refusal> {
        let upload = self.upload(key, id)?.clone();
        let mut body = Vec::new();
        for (number, tag) in parts {
            let part = upload.parts.get(number).filter(|part| e_tag(part) == *tag);
            body.extend_from_slice(part.ok_or((400, "InvalidPart"))?);
        }
        let object = Object {
            body,
            content_type: upload.content_type,
            modified: Timestamp::now(),
        };
        self.put(key, object, is_write_once)?;
        self.uploads.remove(id);
        self.get(key, None).map(|(_, object)| object)
    }
}
