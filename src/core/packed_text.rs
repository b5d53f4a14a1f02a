//! Texts that the operator keeps in memory for each grant.

use std::sync::Arc;

use lz4_flex::block::{compress_with_dict, decompress_with_dict};

/// The JSON text of a typical grant. Compression replaces each part of a text that also occurs here with a short
/// reference. The texts of two grants differ only in names, times and signatures, so most of a text is such references.
///
/// The packed texts exist only in the memory of one process, so this constant may change in any release. If the fields
/// or the messages of a status change, change this constant too. A test checks that a typical text stays small.
const DICTIONARY: &str = concat!(
    r#""deadlineTime":"2026-01-01T00:00:00Z","renewal":{"policy":"Always"},"secretName":","#,
    r#""secretTemplate":{"labels":{"annotations":{"suspend":false,"revoke":true,"ttlSecondsAfterFinished":"#,
    r#""constraints":{"contentLength":,"contentType":"application/octet-stream","contentLengthRange":{"min":0,"max":"#,
    r#""checksumSHA256":","checksumMD5":","overwrite":"Allow","mode":"PostForm","mode":"Multipart","multipart":{"#,
    r#""partSizeBytes":,"responseHeaders":{"contentDisposition":"attachment","uploadID":","renewals":1,"#,
    r#""earlierExpirationTime":","renewalTime":","finishedTime":","object":{"size":,"eTag":","lastModified":","#,
    r#"{"type":"Completed","status":"True","observedGeneration":1,"lastTransitionTime":","reason":"Uploaded","#,
    r#"{"type":"Active","status":"False","reason":"Expired","message":"the credential has expired"},"#,
    r#"the upload credential is in Secret "#,
    r#"{"type":"Completed","status":"False","observedGeneration":1,"lastTransitionTime":"2026-01-01T00:00:00Z","#,
    r#""reason":"Pending","message":"the object has not arrived yet"}"#,
    r#"{"metadata":{},"spec":{"storeRef":{"kind":"ObjectStore","name":"default"},"key":"uploads/"#,
    r#""expirationSeconds":3600,"mode":"Put"},"status":{"#,
    r#"{"metadata":{},"spec":{"storeRef":{"kind":"ClusterObjectStore","name":"default"},"key":"tenants/"#,
    r#""expirationSeconds":3600,"mode":"Url"},"status":{"observedGeneration":1,"#,
    r#""binding":{"name":"default","expirationTime":"2026-01-01T00:00:00Z"},"expirationSeconds":3600,"#,
    r#""issuedTime":"2026-01-01T00:00:00Z","expirationTime":"2026-01-01T00:00:00Z","#,
    r#""conditions":[{"type":"Ready","status":"True","observedGeneration":1,"lastTransitionTime":"2026-01-01T00:00:00Z","#,
    r#""reason":"Issued","message":"the download credential is in Secret default until 2026-01-01T00:00:00Z"},"#,
    r#"{"type":"Active","status":"True","observedGeneration":1,"lastTransitionTime":"2026-01-01T00:00:00Z","#,
    r#""reason":"Issued","message":"the credential can be used"}],"recordSignature":""#,
);

/// A compressed text. A typical status of a grant has 800 bytes as JSON text and less than 300 bytes in this form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedText {
    bytes: Arc<[u8]>,
    /// The length of the text in bytes.
    length: usize,
}

impl PackedText {
    /// Compresses a text.
    pub fn new(text: &str) -> Self {
        Self {
            bytes: compress_with_dict(text.as_bytes(), DICTIONARY.as_bytes()).into(),
            length: text.len(),
        }
    }

    /// Returns the text.
    pub fn text(&self) -> String {
        // [`Self::new`] compressed a valid text, so both results are always `Ok`.
        let bytes = decompress_with_dict(&self.bytes, self.length, DICTIONARY.as_bytes()).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    }

    /// Returns the number of bytes in memory.
    #[cfg(test)]
    pub fn packed_length(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_text_is_the_same_after_unpacking() {
        let long = "é\u{0}\"\\x".repeat(100_000);
        for text in ["", "a", "{}", DICTIONARY, &DICTIONARY[7..], &long] {
            assert_eq!(PackedText::new(text).text(), text);
        }
        // Texts without any common part need at most a little more than their own length.
        let mut state = 7_u32;
        let random: String = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b' ' + u8::try_from(state >> 24).unwrap() % 95)
        })
        .take(5000)
        .collect();
        let packed = PackedText::new(&random);
        assert_eq!(packed.text(), random);
        assert!(packed.packed_length() < 5100);
    }
}
