//! A second implementation of the access rules, written only from the documentation of the fields. It shares no code
//! with `admit` and does not need to be fast.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use valet::{
    api::{
        AccessRule, ByteSize, Capability, ClusterAccessRule, DownloadMode, Operation, OperationSpec, Overwrite,
        Permission, RenewalPermission, RenewalPolicy, UploadConstraints, UploadMode,
    },
    core::{GrantFacts, StoreView},
};

/// True if the access rules allow the grant.
pub fn allows(grant: &GrantFacts, store: &StoreView) -> bool {
    // "A prefix needs mode: Credentials, or for uploads mode: PostForm."
    let (key, limit) = (&grant.terms.key, store.capabilities.max_key_bytes);
    let key_is_fine = match key.strip_suffix('/') {
        Some(folder) if is_for_credentials(grant) || is_form(grant) => key_is_plain(folder, limit - 1),
        _ => key_is_plain(key, limit),
    };
    key_is_fine
        && store_can(grant, store)
        && store
            .rules
            .iter()
            .any(|r| is_for(r, &grant.namespace, &store.namespace_labels) && rule_allows(&r.rule, grant))
}

/// "If several rules allow a grant, the largest number applies. A rule without this field sets no limit."
pub fn total_seconds(grant: &GrantFacts, store: &StoreView) -> Option<i64> {
    let mut most = 0;
    for rule in store.rules.iter() {
        if is_for(rule, &grant.namespace, &store.namespace_labels) && rule_allows(&rule.rule, grant) {
            most = most.max(rule.rule.max_total_seconds?);
        }
    }
    Some(most)
}

/// True if the annotation may request a renewal: at least one rule that allows the grant permits renewal.
pub fn may_renew(grant: &GrantFacts, store: &StoreView) -> bool {
    let mut may = false;
    for rule in store.rules.iter() {
        let allows = is_for(rule, &grant.namespace, &store.namespace_labels) && rule_allows(&rule.rule, grant);
        may = may || allows && rule.rule.renewal == RenewalPermission::Allow;
    }
    may
}

fn is_for_credentials(grant: &GrantFacts) -> bool {
    match &grant.operation_spec {
        OperationSpec::Upload { mode, .. } => *mode == UploadMode::Credentials,
        OperationSpec::Download { mode, .. } => *mode == DownloadMode::Credentials,
    }
}

fn is_form(grant: &GrantFacts) -> bool {
    matches!(&grant.operation_spec, OperationSpec::Upload { mode, .. } if *mode == UploadMode::PostForm)
}

/// "It must not start with '/'. It must not have an empty segment ('//'), or a '.' or '..' segment in any encoding
/// ('%2e' included). It must not contain control characters."
fn key_is_plain(key: &str, limit: usize) -> bool {
    if key.is_empty() || key.len() > limit {
        return false;
    }
    if key.starts_with('/') || key.ends_with('/') || key.contains("//") {
        return false;
    }
    for c in key.chars() {
        let point = c as u32;
        let control = point < 0x20 || (0x7F..=0x9F).contains(&point);
        let separator = point == 0x2028 || point == 0x2029;
        let direction = (0x202A..=0x202E).contains(&point) || (0x2066..=0x2069).contains(&point);
        if control || separator || direction || [0xFEFF, 0xFFFE, 0xFFFF].contains(&point) {
            return false;
        }
    }
    // The key is decoded until nothing changes. No result may contain a dot segment.
    let mut text = key.to_owned();
    for _ in 0..key.len() {
        for (spelling, meaning) in [("%25", "%"), ("%2e", "."), ("%2E", "."), ("%2f", "/"), ("%2F", "/")] {
            text = text.replace(spelling, meaning);
        }
        text = text.replace("%5c", "\\").replace("%5C", "\\");
    }
    text.replace('\\', "/").split('/').all(|s| s != "." && s != "..")
}

/// "If the store cannot enforce a constraint, Valet refuses the grant (CapabilityMissing)."
fn store_can(grant: &GrantFacts, store: &StoreView) -> bool {
    // "With mode: PostForm", the capabilities of POST forms count.
    let capabilities = &store.capabilities;
    let keys = match &grant.operation_spec {
        OperationSpec::Upload { mode, .. } if *mode == UploadMode::PostForm => match &capabilities.post_form {
            Some(form) => form,
            None => return false,
        },
        OperationSpec::Upload { mode, .. } if *mode == UploadMode::Multipart => match &capabilities.multipart {
            Some(parts) => parts,
            None => return false,
        },
        OperationSpec::Upload { mode, .. } if *mode == UploadMode::Resumable => match &capabilities.resumable {
            Some(sessions) => sessions,
            None => return false,
        },
        // "With mode: Credentials", the capabilities of temporary credentials count.
        OperationSpec::Upload {
            mode: UploadMode::Credentials,
            ..
        }
        | OperationSpec::Download {
            mode: DownloadMode::Credentials,
            ..
        } => match &capabilities.credentials {
            Some(credentials) => credentials,
            None => return false,
        },
        _ => &capabilities.enforced,
    };
    let can = |c: Capability| keys.contains(&c);
    if grant.terms.expiration_seconds > store.capabilities.max_expiration_seconds {
        return false;
    }
    match &grant.operation_spec {
        OperationSpec::Upload {
            mode,
            multipart,
            constraints: c,
        } => {
            let fits = if *mode == UploadMode::Multipart {
                fits_in_parts(multipart.part_size_bytes, c)
            } else {
                c.content_length.unwrap_or(0) <= store.capabilities.max_upload_bytes
                    && (c.content_length.is_some()
                        || c.content_length_range
                            .is_none_or(|r| r.max <= store.capabilities.max_upload_bytes))
            };
            // "A key that ends with '/' is a prefix: the grant is then valid for every object key below it."
            let is_kept = !(is_form(grant) && grant.terms.key.ends_with('/')) || can(Capability::KeyPrefix);
            is_kept
                && (c.content_type.is_none() || can(Capability::ContentType))
                && (c.content_length.is_none() || can(Capability::ContentLength))
                && (c.content_length_range.is_none() || can(Capability::ContentLengthRange))
                && (c.checksum_sha256.is_none() || can(Capability::ChecksumSHA256))
                && (c.checksum_md5.is_none() || can(Capability::ChecksumMD5))
                && (c.overwrite == Overwrite::Allow || can(Capability::WriteOnce))
                && can(Capability::SignedHeadersOnly)
                && fits
        }
        OperationSpec::Download { version, response, .. } => {
            let overrides = [
                &response.content_type,
                &response.content_disposition,
                &response.content_encoding,
                &response.content_language,
                &response.cache_control,
            ];
            (version.is_none() || can(Capability::Version))
                && (overrides.iter().all(|o| o.is_none()) || can(Capability::ResponseHeaders))
        }
    }
}

/// "An upload has at most 500 parts. ... Default: 16 MiB, or, if that is larger, the size in whole MiB that gives 100
/// parts."
fn fits_in_parts(part: Option<i64>, c: &UploadConstraints) -> bool {
    let most = match (c.content_length, c.content_length_range) {
        (Some(exact), _) => exact,
        (None, Some(range)) => range.max,
        (None, None) => return false,
    };
    let mib = 1_i128 << 20;
    let mut size = part.map_or(16 * mib, i128::from);
    while part.is_none() && 100 * size < i128::from(most) && size < 5120 * mib {
        size += mib;
    }
    i128::from(most) <= 500 * size
}

/// "The namespaces of the rule: those in names, and those whose labels match selector."
fn is_for(rule: &ClusterAccessRule, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
    let mut chosen = false;
    for name in &rule.namespaces.names {
        chosen = chosen || name == namespace;
    }
    if let Some(selector) = &rule.namespaces.selector {
        chosen = chosen || matches(selector, labels);
    }
    chosen
}

/// From the Kubernetes API reference: "matchLabels is a map of {key,value} pairs ... The requirements are ANDed." "If
/// the operator is In or NotIn, the values array must be non-empty. If the operator is Exists or DoesNotExist, the
/// values array must be empty."
fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let mut all = true;
    for (key, value) in selector.match_labels.iter().flatten() {
        all = all && labels.get(key).is_some_and(|v| v == value);
    }
    for requirement in selector.match_expressions.iter().flatten() {
        all = all && meets(requirement, labels);
    }
    all
}

fn meets(requirement: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let values = requirement.values.clone().unwrap_or_default();
    let value = labels.get(&requirement.key);
    match requirement.operator.as_str() {
        "In" => !values.is_empty() && value.is_some_and(|v| values.contains(v)),
        "NotIn" => !values.is_empty() && value.is_none_or(|v| !values.contains(v)),
        "Exists" => values.is_empty() && value.is_some(),
        "DoesNotExist" => values.is_empty() && value.is_none(),
        _ => false,
    }
}

fn rule_allows(rule: &AccessRule, grant: &GrantFacts) -> bool {
    let operation = match grant.operation_spec {
        OperationSpec::Upload { .. } => Operation::Upload,
        OperationSpec::Download { .. } => Operation::Download,
    };
    if !rule.operations.contains(&operation) {
        return false;
    }
    if let Some(prefix) = &rule.key_prefix
        && !is_below(&grant.terms.key, &prefix.replace("{namespace}", &grant.namespace))
    {
        return false;
    }
    if let Some(max) = rule.max_expiration_seconds
        && grant.terms.expiration_seconds > max
    {
        return false;
    }
    // "expirationSeconds of a grant must not be longer."
    if let Some(total) = rule.max_total_seconds
        && grant.terms.expiration_seconds > total
    {
        return false;
    }
    // "Whether grants may renew their credential, with spec.renewal.policy: Always ..."
    let renews = matches!(grant.terms.renewal, Some(r) if r.policy == RenewalPolicy::Always);
    if renews && rule.renewal == RenewalPermission::Forbid {
        return false;
    }
    // "They cannot limit the size or type of uploads, so for uploads a rule with maxBytes or contentTypes never
    // allows them."
    if is_for_credentials(grant) {
        let limited = rule.max_bytes.is_some() || !rule.content_types.is_empty();
        return rule.credentials == Permission::Allow && !(limited && operation == Operation::Upload);
    }
    match &grant.operation_spec {
        OperationSpec::Upload { mode, constraints, .. } => {
            let is_held = *mode != UploadMode::Multipart || constraints.content_length.is_some();
            size_is_allowed(rule, constraints)
                && (rule.max_bytes.is_none() || is_held)
                && type_is_allowed(rule, constraints)
        }
        OperationSpec::Download { .. } => true,
    }
}

/// "It consists of whole path segments: 'a/b' allows 'a/b/c', but not 'a/bc'."
fn is_below(key: &str, prefix: &str) -> bool {
    let mut wanted: Vec<_> = prefix.split('/').collect();
    if wanted.last() == Some(&"") {
        wanted.pop();
    }
    let segments: Vec<_> = key.split('/').collect();
    segments.len() > wanted.len() && wanted.iter().zip(&segments).all(|(w, s)| w == s)
}

/// "The largest upload ... A grant must then state the size of its upload."
fn size_is_allowed(rule: &AccessRule, constraints: &UploadConstraints) -> bool {
    let Some(limit) = &rule.max_bytes else { return true };
    let most = match (constraints.content_length, constraints.content_length_range) {
        (Some(exact), _) => exact,
        (None, Some(range)) => range.max,
        (None, None) => return false,
    };
    i128::from(most) <= bytes(limit).unwrap_or(0).max(0)
}

fn bytes(size: &ByteSize) -> Option<i128> {
    let text = match size {
        ByteSize::Number(n) => n.to_string(),
        ByteSize::Quantity(q) => q.clone(),
    };
    let units: [(&str, i128); 10] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("k", 1000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
    ];
    for (suffix, unit) in units {
        if let Some(number) = text.strip_suffix(suffix) {
            return number.parse::<i64>().ok().map(|n| i128::from(n) * unit);
        }
    }
    text.parse::<i64>().ok().map(i128::from)
}

/// "The allowed content types of uploads, exact ('image/png') or with a wildcard ('image/*'). A grant must then state
/// its content type."
fn type_is_allowed(rule: &AccessRule, constraints: &UploadConstraints) -> bool {
    if rule.content_types.is_empty() {
        return true;
    }
    let Some(said) = &constraints.content_type else {
        return false;
    };
    let said = said.split(';').next().unwrap().trim().to_lowercase();
    let (family, kind) = said.split_once('/').unwrap_or((&said, ""));
    rule.content_types.iter().any(|pattern| {
        let pattern = pattern.to_lowercase();
        let (f, k) = pattern.split_once('/').unwrap_or((&pattern, ""));
        (f == "*" || f == family) && (k == "*" || k == kind)
    })
}
