//! A valid grant and a valid store. Each test changes one detail of them.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use valet::{
    api::{
        AccessRule, Capabilities, Capability, ClusterAccessRule, DownloadMode, GrantStatus, LengthRange, Multipart,
        Namespaces, Operation, OperationSpec, Overwrite, Permission, Remedies, Renewal, RenewalPermission,
        RenewalPolicy, ResponseHeaders, ShortSessions, StoreKind, StoreRef, Terms, UploadConstraints, UploadMode,
    },
    core::{GrantFacts, RenewRequest, Signer, StoreView},
};

/// The start of every simulation: 2027-01-15T08:00:00Z.
pub const START: i64 = 1_800_000_000;

/// The namespace of the valid grant.
pub const NAMESPACE: &str = "web";

/// The time `seconds` after the start.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

/// The smallest time step.
pub const TICK: SignedDuration = SignedDuration::from_nanos(1);

/// The times one step before `t`, at `t`, and one step after `t`.
pub fn around(t: Timestamp) -> [Timestamp; 3] {
    [t - TICK, t, t + TICK]
}

/// A write-once upload with a lifetime of five minutes, created at the start.
pub fn upload() -> GrantFacts {
    GrantFacts {
        namespace: NAMESPACE.into(),
        name: "avatar-42".into(),
        uid: "2f1c7e0a-uid".into(),
        generation: 1,
        created: Some(at(0)),
        deleting: false,
        deleted_at: None,
        held: false,
        terms: Terms {
            store_ref: StoreRef {
                kind: StoreKind::ClusterObjectStore,
                name: "media".into(),
            },
            key: "tenants/web/users/42/avatar.png".into(),
            expiration_seconds: 300,
            deadline_time: None,
            renewal: None,
            suspend: None,
            revoke: None,
            secret_name: None,
            secret_template: None,
            ttl_seconds_after_finished: None,
        },
        operation_spec: OperationSpec::Upload {
            mode: UploadMode::Put,
            multipart: Multipart::default(),
            constraints: UploadConstraints::default(),
        },
        status: GrantStatus::default(),
        status_is_own: false,
        gitops_tool: None,
        renew_requested: RenewRequest::None,
        broken_rules: vec![],
    }
}

/// A download with the same metadata.
pub fn download() -> GrantFacts {
    GrantFacts {
        operation_spec: OperationSpec::Download {
            mode: DownloadMode::Url,
            version: None,
            response: ResponseHeaders::default(),
        },
        ..upload()
    }
}

/// An upload with `mode: PostForm`, of at most one megabyte.
pub fn form() -> GrantFacts {
    let constraints = UploadConstraints {
        content_length_range: Some(LengthRange { min: 0, max: 1_000_000 }),
        overwrite: Overwrite::Allow,
        ..UploadConstraints::default()
    };
    GrantFacts {
        operation_spec: OperationSpec::Upload {
            mode: UploadMode::PostForm,
            multipart: Multipart::default(),
            constraints,
        },
        ..upload()
    }
}

/// An upload with `mode: PostForm` for a prefix.
pub fn form_below() -> GrantFacts {
    let mut grant = form();
    grant.terms.key = "tenants/web/users/42/".into();
    grant
}

/// An upload with `mode: Multipart` in three parts. It has the size of the test object, so its parts are smaller than
/// a real store allows.
pub fn in_parts() -> GrantFacts {
    let constraints = UploadConstraints {
        content_length: Some(48_213),
        ..UploadConstraints::default()
    };
    GrantFacts {
        operation_spec: OperationSpec::Upload {
            mode: UploadMode::Multipart,
            multipart: Multipart {
                part_size_bytes: Some(20_000),
            },
            constraints,
        },
        ..upload()
    }
}

/// An upload with `mode: Resumable`.
pub fn resumable() -> GrantFacts {
    GrantFacts {
        operation_spec: OperationSpec::Upload {
            mode: UploadMode::Resumable,
            multipart: Default::default(),
            constraints: UploadConstraints::default(),
        },
        ..upload()
    }
}

/// Changes an upload or a download to `mode: Credentials`, for a prefix if `prefix` is true.
pub fn by_credentials(mut grant: GrantFacts, prefix: bool) -> GrantFacts {
    match &mut grant.operation_spec {
        OperationSpec::Upload { mode, constraints, .. } => {
            *mode = UploadMode::Credentials;
            *constraints = UploadConstraints {
                overwrite: Overwrite::Allow,
                ..UploadConstraints::default()
            };
        }
        OperationSpec::Download { mode, .. } => *mode = DownloadMode::Credentials,
    }
    if prefix {
        grant.terms.key = "tenants/web/users/42/".into();
    }
    grant
}

/// Sets `spec.renewal.policy` to `Always`.
pub fn renew_always(grant: &mut GrantFacts) {
    grant.terms.renewal = Some(Renewal {
        policy: RenewalPolicy::Always,
    });
}

/// Changes the constraints of an upload.
pub fn constrain(grant: &mut GrantFacts, change: impl FnOnce(&mut UploadConstraints)) {
    match &mut grant.operation_spec {
        OperationSpec::Upload { constraints, .. } => change(constraints),
        OperationSpec::Download { .. } => panic!("a download has no constraints"),
    }
}

/// A rule that allows the namespace's own prefix, with a lifetime of up to an hour.
pub fn rule() -> ClusterAccessRule {
    ClusterAccessRule {
        namespaces: Namespaces {
            names: vec![NAMESPACE.into()],
            selector: None,
        },
        rule: AccessRule {
            operations: vec![Operation::Upload, Operation::Download],
            key_prefix: Some("tenants/{namespace}/".into()),
            credentials: Permission::Allow,
            max_expiration_seconds: Some(3600),
            max_total_seconds: None,
            renewal: RenewalPermission::Allow,
            max_bytes: None,
            content_types: vec![],
            max_live_grants: None,
        },
    }
}

/// All capabilities, also those that S3 does not have.
pub const ALL_CAPABILITIES: [Capability; 10] = [
    Capability::ContentType,
    Capability::ContentLength,
    Capability::ContentLengthRange,
    Capability::ChecksumSHA256,
    Capability::ChecksumMD5,
    Capability::WriteOnce,
    Capability::Version,
    Capability::ResponseHeaders,
    Capability::KeyPrefix,
    Capability::SignedHeadersOnly,
];

/// The capabilities of presigned S3 requests.
pub fn capabilities() -> Capabilities {
    Capabilities {
        enforced: ALL_CAPABILITIES
            .into_iter()
            .filter(|c| !matches!(c, Capability::ContentLengthRange | Capability::KeyPrefix))
            .collect(),
        post_form: Some(
            [
                Capability::ContentType,
                Capability::ContentLength,
                Capability::ContentLengthRange,
                Capability::ChecksumSHA256,
                Capability::KeyPrefix,
                Capability::SignedHeadersOnly,
            ]
            .into(),
        ),
        credentials: Some([Capability::SignedHeadersOnly].into()),
        multipart: Some(
            [
                Capability::ContentType,
                Capability::ContentLength,
                Capability::ContentLengthRange,
                Capability::WriteOnce,
                Capability::SignedHeadersOnly,
            ]
            .into(),
        ),
        resumable: Some(
            [
                Capability::ContentType,
                Capability::WriteOnce,
                Capability::SignedHeadersOnly,
            ]
            .into(),
        ),
        max_expiration_seconds: 604_800,
        max_upload_bytes: 5_368_709_120,
        max_key_bytes: 1024,
        revocation: "break the lock",
        remedies: Remedies {
            credentials: Some("to set spec.s3.credentials.assumeRole"),
            resumable: Some("to set spec.gcs.resumableUploads: Tolerate"),
            signed_headers: Some("to set spec.s3.credentials.assumeRole, or spec.s3.unsignedHeaders: Tolerate"),
        },
        ..Capabilities::default()
    }
}

/// A store with these access rules.
pub fn store(rules: impl IntoIterator<Item = ClusterAccessRule>) -> StoreView {
    StoreView {
        max_live_grants: None,
        rules: Arc::new(rules.into_iter().collect()),
        namespace_labels: Arc::new(labels(&[("kubernetes.io/metadata.name", NAMESPACE), ("team", "web")])),
        capabilities: Arc::new(capabilities()),
        credentials_expire: None,
        short_sessions: ShortSessions::Truncate,
        signer: Some(signer("first")),
        not_probed: None,
        skew: None,
    }
}

/// A signer that the store uses from the start.
pub fn signer(fingerprint: &str) -> Signer {
    Signer {
        fingerprint: fingerprint.into(),
        since: at(0),
    }
}

pub fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

/// A small generator of reproducible pseudo-random numbers (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// A random number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.draw() % n as u64) as usize
    }

    /// True in one of `n` calls, on average.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A random element.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
