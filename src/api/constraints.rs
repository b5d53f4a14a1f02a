use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Requirements for an uploaded object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.contentLength) && has(self.contentLengthRange))").message("spec.constraints has both contentLength and contentLengthRange, but only one of these fields is allowed; remove one field"))]
pub struct UploadConstraints {
    /// The exact Content-Type header of the upload. Example: image/png
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 255))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *; *[\\x21-\\x7e][\\x20-\\x7e]*)?$') && !self.endsWith(' ')").message("contentType is not a media type; use the form type/subtype, for example image/png or text/plain; charset=utf-8"))]
    pub content_type: Option<String>,

    /// The exact size of the object in bytes. On S3 a single upload has at most 5368709120 bytes (5 GiB), and a
    /// multipart upload at most 2684354560000 bytes (2500 GiB).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 5_497_558_138_880_i64))]
    pub content_length: Option<i64>,

    /// The range of allowed object sizes. The field needs mode: PostForm or Multipart. On Google Cloud Storage, mode:
    /// Put also works. A signed PUT URL of S3 cannot enforce a range, so Valet refuses a grant with a range and mode:
    /// Put on S3 (CapabilityMissing).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_length_range: Option<LengthRange>,

    /// Base64 of the SHA-256 of the object. The store rejects an object with different content. The field does not
    /// work with mode: Multipart, because stores then keep only the checksums of the parts.
    /// Example: the output of: openssl dgst -sha256 -binary FILE | base64
    #[serde(default, rename = "checksumSHA256", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$')").message("checksumSHA256 is not a SHA-256 checksum in base64 (44 characters, ending in '='); calculate the checksum with: openssl dgst -sha256 -binary FILE | base64"))]
    pub checksum_sha256: Option<String>,

    /// Base64 of the MD5 of the object. The store rejects an object with different content. Use this field for Google
    /// Cloud Storage, which does not check SHA-256. On S3 checksumSHA256 is better; you can set both. An MD5 protects
    /// against a wrong file. It does not protect against an author who makes two files with the same MD5. The field
    /// works only with mode: Put.
    /// Example: the output of: openssl dgst -md5 -binary FILE | base64
    #[serde(default, rename = "checksumMD5", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9+/]{21}[AQgw]==$')").message("checksumMD5 is not an MD5 checksum in base64 (24 characters, ending in '=='); calculate the checksum with: openssl dgst -md5 -binary FILE | base64"))]
    pub checksum_md5: Option<String>,

    /// Whether the upload may replace an existing object. Forbid: the upload is write-once. The store rejects the
    /// upload if the object exists, so the credential allows only one successful upload. POST forms and temporary
    /// credentials cannot be write-once, so mode: PostForm and mode: Credentials need Allow. Default: Forbid.
    #[serde(default)]
    pub overwrite: Overwrite,
}

/// A range of sizes in bytes. Both limits are included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.min <= self.max").message("contentLengthRange.min is larger than contentLengthRange.max; swap the two values"))]
pub struct LengthRange {
    /// Smallest size, in bytes. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 5_497_558_138_880_i64))]
    pub min: i64,
    /// Largest size, in bytes.
    #[schemars(range(min = 0, max = 5_497_558_138_880_i64))]
    pub max: i64,
}

/// Whether an upload may replace an existing object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Overwrite {
    #[default]
    #[allow(missing_docs)]
    Forbid,
    #[allow(missing_docs)]
    Allow,
}
