use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::SecretRef;

/// Where S3 credentials come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretRef) || has(self.assumeRole)").message("credentials says nothing about where they come from: set secretRef, assumeRole or both, or leave credentials out for the operator's own"))]
pub struct S3Credentials {
    /// The Secret with the access key: data AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for temporary
    /// credentials also AWS_SESSION_TOKEN and AWS_CREDENTIAL_EXPIRATION (RFC 3339). Of a ClusterObjectStore: in
    /// the operator's namespace; of an ObjectStore: in the store's own. Absent: the AWS SDK's default chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,

    /// Sign each key with temporary credentials of its own, which can do nothing but what the grant says: the
    /// credentials above, or the operator's own, assume this role for every key, with a session policy for the one
    /// object. Takes one call of STS a key. It is what makes keys safe on a store that obeys headers which are not
    /// signed (see status.conditions, UnsignedHeadersRefused).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assume_role: Option<AssumeRole>,
}

/// A role that is assumed for every key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.kmsKeyArn) || has(self.roleArn)").message("kmsKeyArn goes with roleArn: a store that knows no roles knows no keys of AWS KMS either"))]
pub struct AssumeRole {
    /// The role. Stores that know no roles (MinIO) want none: there, the access key's own rights are narrowed.
    /// Example: arn:aws:iam::123456789012:role/valet
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 20, max = 2048))]
    #[x_kube(validation = Rule::new(r"self.matches('^arn:[a-z0-9-]+:iam::[0-9]*:role/[!-~]+$')").message("roleArn is not the ARN of a role; write it as arn:aws:iam::123456789012:role/NAME"))]
    pub role_arn: Option<String>,

    /// What the role's trust policy asks for as sts:ExternalId.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 1224))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9+=,.@:/_-]+$')").message("externalId has a character that STS does not take: use letters, digits and + = , . @ : / _ -"))]
    pub external_id: Option<String>,

    /// The longest session that the role allows, in seconds, and so the longest that a key can live. AWS: 900 to
    /// 43200, and never more than 3600 where the credentials above are temporary themselves. Default: 3600.
    #[serde(default = "default_session")]
    #[schemars(range(min = 900, max = 43_200))]
    pub duration_seconds: i64,

    /// Where STS is: scheme, host and port, no path. Default: spec.s3.endpoint, or Amazon's endpoint for the region.
    /// Example: https://sts.eu-west-1.amazonaws.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("assumeRole.endpoint must be scheme, host and port only, as in https://sts.eu-west-1.amazonaws.com: no path, user or query"))]
    pub endpoint: Option<String>,

    /// The key of AWS KMS with which the bucket encrypts its objects (SSE-KMS), if it is one of your own: no alias. Sessions may
    /// then use this key, through S3 only, for the objects of the grant only; without it the store refuses their keys
    /// with 403. The role must be allowed kms:GenerateDataKey and kms:Decrypt on it. Not needed for SSE-S3.
    /// Example: arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 20, max = 2048))]
    #[x_kube(validation = Rule::new(r"self.matches('^arn:aws[a-z0-9-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$')").message("kmsKeyArn is not the ARN of a KMS key; write it as arn:aws:kms:eu-west-1:123456789012:key/ID, with the key's ID and not an alias"))]
    pub kms_key_arn: Option<String>,
}

fn default_session() -> i64 {
    3600
}
