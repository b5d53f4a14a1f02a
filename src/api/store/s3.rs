use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{AddressingStyle, SecretRef, UnsignedHeaders};

/// A bucket of Amazon S3 or of an S3-compatible store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.credentials) && has(self.credentials.assumeRole) && has(self.credentials.assumeRole.kmsKeyArn) ? self.credentials.assumeRole.kmsKeyArn.contains(':kms:' + self.region + ':') : true").message("credentials.assumeRole.kmsKeyArn names a KMS key in another region than the bucket; S3 does not accept such a KMS key; use a KMS key in the bucket's region"))]
pub struct S3Store {
    /// Name of the bucket. Example: media
    #[schemars(length(min = 3, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]$')").message("bucket is not a valid bucket name: use 3 to 63 letters, digits, '.', '_' and '-', and start and end with a letter or digit"))]
    #[x_kube(validation = Rule::new("!self.matches('(?i)--xa?-s3$')").message("bucket is a directory bucket (S3 Express One Zone); Valet does not support directory buckets, because their signed URLs are valid for only five minutes; use a general purpose bucket"))]
    pub bucket: String,

    /// Region of the bucket. The region is part of every signature. Stores without regions usually expect us-east-1.
    /// Example: eu-west-1
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9-]+$')").message("region is not a valid region name: use letters, digits and '-', for example eu-west-1"))]
    pub region: String,

    /// The address at which the operator reaches the store: scheme, host and port, no path. The signed URLs also
    /// contain this address, unless publicEndpoint is set. Default: Amazon's endpoint for the region.
    /// Example: https://s3.internal:9000
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("endpoint must contain only a scheme, a host and an optional port, for example https://s3.internal:9000; remove any path, user or query"))]
    pub endpoint: Option<String>,

    /// The address of the store in the signed URLs: scheme, host and port, no path. Set this field if the workloads
    /// and the operator reach the store at different addresses. The host is part of the signature, so clients must
    /// use exactly this host. Default: endpoint.
    /// Example: https://s3.example.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("publicEndpoint must contain only a scheme, a host and an optional port, for example https://s3.example.com; remove any path, user or query"))]
    pub public_endpoint: Option<String>,

    /// The position of the bucket name in URLs. VirtualHost: in the host name, as Amazon S3 requires. Path: in the
    /// path, as most self-hosted stores require. Default: VirtualHost.
    #[serde(default)]
    pub addressing_style: AddressingStyle,

    /// The credentials with which Valet signs. Without this field, Valet uses the AWS SDK's default credential chain
    /// in the operator's environment (IRSA, Pod Identity, environment variables). An ObjectStore can use the default
    /// chain only if the operator runs with --share-credentials-with-namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<S3Credentials>,

    /// What Valet does if the store obeys unsigned x-amz-* headers, as MinIO does. With x-amz-copy-source, the holder
    /// of an upload URL could then copy any object that the store's credentials can read. Refuse: Valet issues no PUT
    /// URLs, unless credentials.assumeRole limits the permissions of each URL. Tolerate: Valet issues PUT URLs. Use
    /// Tolerate only if the credentials can read no confidential data. Amazon S3 rejects unsigned headers. Default:
    /// Refuse.
    #[serde(default)]
    pub unsigned_headers: UnsignedHeaders,

    /// The object key for probes and conformance checks. Valet writes only an object with this object key, and
    /// objects below it. The store's credentials must be allowed to write this object key. After a probe, Valet
    /// deletes the objects. Default: valet-probe
    /// Example: tenants/valet-probe
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$') && !self.matches('(^|/)[.]{1,2}(/|$)')").message("probeKey is not a plain object key; use segments of letters, digits, '.', '_' and '-', separated by single slashes, and no '.' or '..' segment"))]
    pub probe_key: Option<String>,
}

/// The credentials of an S3 bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretRef) || has(self.assumeRole)").message("the field credentials is empty; set credentials.secretRef, credentials.assumeRole or both, or remove the field credentials to use the operator's own credentials"))]
pub struct S3Credentials {
    /// The Secret with the access key. It has the entries AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. For temporary
    /// credentials it also has AWS_SESSION_TOKEN and AWS_CREDENTIAL_EXPIRATION (RFC 3339). The Secret of a
    /// ClusterObjectStore is in the operator's namespace. The Secret of an ObjectStore is in the namespace of the
    /// ObjectStore. Without this field, Valet uses the AWS SDK's default credential chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,

    /// With this field, Valet signs each credential of a grant with a separate temporary session. The session permits
    /// only what the grant allows. To start the session, Valet assumes the role with a session policy for the grant's
    /// object. For this STS call, Valet uses the credentials of secretRef, or the operator's own credentials. Each
    /// credential needs one call. Use assumeRole for a store that obeys unsigned headers (see the condition
    /// UnsignedHeadersRefused of the store).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assume_role: Option<AssumeRole>,
}

/// The role that Valet assumes for each credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.kmsKeyArn) || has(self.roleArn)").message("assumeRole.kmsKeyArn needs assumeRole.roleArn, because a store without IAM roles cannot use AWS KMS; set roleArn, or remove kmsKeyArn"))]
pub struct AssumeRole {
    /// The ARN of the role. Omit this field for a store without roles (MinIO). The session then has at most the
    /// permissions of the access key.
    /// Example: arn:aws:iam::123456789012:role/valet
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 20, max = 2048))]
    #[x_kube(validation = Rule::new(r"self.matches('^arn:[a-z0-9-]+:iam::[0-9]*:role/[!-~]+$')").message("assumeRole.roleArn is not the ARN of an IAM role; use the form arn:aws:iam::123456789012:role/NAME"))]
    pub role_arn: Option<String>,

    /// The external ID (sts:ExternalId) that the trust policy of the role requires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 1224))]
    #[x_kube(validation = Rule::new(r"self.matches('^[A-Za-z0-9+=,.@:/_-]+$')").message("assumeRole.externalId has a character that STS does not accept; use only letters, digits and the characters + = , . @ : / _ -"))]
    pub external_id: Option<String>,

    /// The longest session of the role, in seconds. It is also the longest lifetime of a credential. AWS allows 900
    /// to 43200 seconds, but at most 3600 seconds if the credentials that assume the role are temporary. Default:
    /// 3600.
    #[serde(default = "default_session")]
    #[schemars(range(min = 900, max = 43_200))]
    pub duration_seconds: i64,

    /// The address of STS: scheme, host and port, no path. Default: spec.s3.endpoint, or Amazon's endpoint for the
    /// region.
    /// Example: https://sts.eu-west-1.amazonaws.com
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[\\[][0-9A-Fa-f:.]+[\\]])(:[0-9]{1,5})?/?$')").message("assumeRole.endpoint must contain only a scheme, a host and an optional port, for example https://sts.eu-west-1.amazonaws.com; remove any path, user or query"))]
    pub endpoint: Option<String>,

    /// The ARN of the customer managed KMS key that encrypts the bucket (SSE-KMS). An alias is not allowed. Sessions
    /// may then use this KMS key, but only through S3 and only for the objects of the grant. Without this field, the
    /// store rejects the credentials of grants with status 403. The role needs kms:GenerateDataKey and kms:Decrypt on
    /// the KMS key. Buckets with SSE-S3 do not need this field.
    /// Example: arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 20, max = 2048))]
    #[x_kube(validation = Rule::new(r"self.matches('^arn:aws[a-z0-9-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$')").message("assumeRole.kmsKeyArn is not the ARN of a KMS key; use the form arn:aws:kms:eu-west-1:123456789012:key/ID; an alias of the KMS key is not allowed"))]
    pub kms_key_arn: Option<String>,
}

fn default_session() -> i64 {
    3600
}
