use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A media type has at most this length. RFC 6838, section 4.2, allows 127 characters before the slash and 127
/// characters after it.
const MAX_TYPE: usize = 255;
/// Valet drops an entity tag that is longer than this limit, in bytes. The entity tags of stores have about forty
/// characters.
const MAX_TAG: usize = 256;
/// Valet drops a version name that is longer than this limit, in bytes. The version names of S3 stores have at most
/// about a hundred characters.
const MAX_VERSION: usize = 1024;

/// An object, as the store describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedObject {
    /// Size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// The entity tag that the store returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub e_tag: Option<String>,
    /// The content type that the store returned. Empty if the returned value is not a media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub content_type: Option<String>,
    /// Base64 of the MD5 of the object, if the store keeps an MD5. Google Cloud Storage keeps it. Azure Blob Storage
    /// keeps it for uploads with one PUT. On S3, Valet takes the MD5 from the entity tag if Valet knows that the
    /// entity tag is an MD5.
    #[serde(default, rename = "checksumMD5", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    pub checksum_md5: Option<String>,
    /// Base64 of the SHA-256 of the object, if the store keeps a SHA-256.
    #[serde(default, rename = "checksumSHA256", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50))]
    pub checksum_sha256: Option<String>,
    /// Base64 of the CRC32C of the object in big-endian order, if the store keeps a CRC32C (Google Cloud Storage).
    #[serde(default, rename = "checksumCRC32C", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub checksum_crc32c: Option<String>,
    /// The version of the object, if the bucket keeps versions. On Google Cloud Storage, this is the generation of
    /// the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub version: Option<String>,
    /// When the store received the object, according to the clock of the store. S3 reports whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified_time: Option<Time>,
}

impl ObservedObject {
    /// Removes the fields of the object that have an invalid form. Valet cannot trust these fields, because a tenant
    /// may run the store. On a shared store, a second tenant may have written the object and chosen its content type.
    ///
    /// Every provider calls this function before the decision logic uses the object.
    #[must_use]
    pub fn checked(self) -> Self {
        let Self {
            size,
            e_tag,
            content_type,
            checksum_md5,
            checksum_sha256,
            checksum_crc32c,
            version,
            last_modified_time,
        } = self;
        Self {
            size: size.filter(|size| *size >= 0),
            e_tag: e_tag.filter(|tag| is_entity_tag(tag)),
            // If the content type is invalid, it becomes empty. An empty content type differs from every content type
            // that a grant can require.
            content_type: content_type.map(|t| if is_media_type(&t) { t } else { String::new() }),
            checksum_md5: checksum_md5.filter(|sum| is_base64_of(sum, 16)),
            checksum_sha256: checksum_sha256.filter(|sum| {
                // The checksum of a multipart upload ends with `-` and the number of parts.
                let (sum, parts) = sum.split_once('-').unwrap_or((sum, "1"));
                let is_number = (1..=5).contains(&parts.len()) && parts.bytes().all(|b| b.is_ascii_digit());
                is_number && is_base64_of(sum, 32)
            }),
            checksum_crc32c: checksum_crc32c.filter(|sum| is_base64_of(sum, 4)),
            version: version.filter(|name| is_graphic(name, MAX_VERSION)),
            last_modified_time,
        }
    }
}

/// Returns true if a text can be an entity tag. An entity tag consists of visible ASCII characters without spaces.
pub fn is_entity_tag(tag: &str) -> bool {
    is_graphic(tag, MAX_TAG)
}

fn is_graphic(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Returns true if a text is a media type. `spec.constraints.contentType` must also have this form.
pub fn is_media_type(text: &str) -> bool {
    let is_name = |name: &str| {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b);
        !name.is_empty() && name.bytes().all(is_token)
    };
    let (essence, parameters) = match text.split_once(';') {
        Some((essence, parameters)) => (essence.trim_end_matches(' '), parameters.trim_start_matches(' ')),
        None => (text, "none"),
    };
    text.len() <= MAX_TYPE
        && essence
            .split_once('/')
            .is_some_and(|(family, name)| is_name(family) && is_name(name))
        && !parameters.is_empty()
        && parameters.bytes().all(|b| (0x20..=0x7e).contains(&b))
        && !text.ends_with(' ')
}

/// Returns true if a text is the base64 encoding, with padding, of exactly this number of bytes.
fn is_base64_of(text: &str, bytes: usize) -> bool {
    let padding = (3 - bytes % 3) % 3;
    let Some((digits, end)) = text.split_at_checked(text.len().saturating_sub(padding)) else {
        return false;
    };
    let value = |b: u8| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    // The last base64 digit can contain bits that the encoding does not use. These bits must be zero.
    let unused = [0, 0b11, 0b1111][padding];
    text.len() == bytes.div_ceil(3) * 4
        && end.bytes().all(|b| b == b'=')
        && digits.bytes().all(|b| value(b).is_some())
        && digits
            .bytes()
            .last()
            .and_then(value)
            .is_some_and(|last| last & unused == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "XUFAKrxLKna5cZ2REBfFkg==";
    const SHA256: &str = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";

    #[test]
    fn well_formed_object_fields_are_kept() {
        let object = ObservedObject {
            size: Some(0),
            e_tag: Some("\"5d41402abc4b2a76b9719d911017c592-3\"".into()),
            content_type: Some("text/plain; charset=utf-8".into()),
            checksum_md5: Some(MD5.into()),
            checksum_sha256: Some(SHA256.into()),
            checksum_crc32c: Some("yZRlqg==".into()),
            version: Some("3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY+MTRCxf3vjVBH40Nr8X8gdRQBpUMLUo".into()),
            last_modified_time: None,
        };
        assert_eq!(object.clone().checked(), object);
        let composite = ObservedObject {
            checksum_sha256: Some(format!("{SHA256}-12")),
            ..ObservedObject::default()
        };
        assert_eq!(composite.clone().checked(), composite);
    }

    #[test]
    fn malformed_object_fields_are_dropped() {
        for bad in [
            "",
            " ",
            "a b",
            "\u{9b}",
            "é",
            "a\nb",
            &"x".repeat(2000),
            "XUFAKrxLKna5cZ2REBfFkh==",
            "XUFAKrxLKna5cZ2REBfFkg=A",
            "XUFAKrxLKna5cZ2REBfFkg",
            "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCR=",
            "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=-",
            "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=-x",
            "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=-123456",
        ] {
            let text = Some(bad.to_owned());
            let object = ObservedObject {
                size: Some(-1),
                content_type: text.clone(),
                checksum_md5: text.clone(),
                checksum_sha256: text.clone(),
                checksum_crc32c: text,
                ..ObservedObject::default()
            };
            let only_that_there_is_a_type = ObservedObject {
                content_type: Some(String::new()),
                ..ObservedObject::default()
            };
            assert_eq!(object.checked(), only_that_there_is_a_type, "{bad}");
        }
        for bad in ["", "a b", "\u{9b}", "a\nb", "é", &"x".repeat(1025)] {
            let object = ObservedObject {
                e_tag: Some(bad.into()),
                version: Some(bad.into()),
                ..ObservedObject::default()
            };
            assert_eq!(object.checked(), ObservedObject::default(), "{bad}");
        }
    }

    #[test]
    fn media_types_are_recognized() {
        let long = format!("a/{}", "b".repeat(253));
        for good in [
            "image/png",
            "a/b",
            "text/plain;charset=utf-8",
            "text/plain ; charset=\"a b\"",
            &long,
        ] {
            assert!(is_media_type(good), "{good}");
        }
        let longer = format!("a/{}", "b".repeat(254));
        for bad in [
            "",
            "/",
            "a/",
            "/b",
            "png",
            "a/b/c",
            "a b/c",
            "a/b;",
            "a/b; ",
            "a/b; x ",
            "a/b,c/d",
            "a/b; \u{9b}",
            "a/b;\n",
            "é/a",
            &longer,
        ] {
            assert!(!is_media_type(bad), "{bad}");
        }
    }
}
