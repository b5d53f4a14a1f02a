//! Recognizes the endpoints of Amazon. Only for these endpoints, Valet assumes the behavior that Amazon documents.

use crate::api::store::s3::S3Store;

/// Returns true if the operator's endpoint and the workloads' endpoint both belong to Amazon S3.
pub fn is_store(store: &S3Store) -> bool {
    [&store.endpoint, &store.public_endpoint]
        .iter()
        .all(|endpoint| is_bucket(endpoint.as_deref(), &store.bucket))
}

/// Returns true for a bucket of Amazon S3 whose entity tags have the documented format. The entity tags of directory
/// buckets (`--x-s3`) have a different format.
pub fn is_bucket(endpoint: Option<&str>, bucket: &str) -> bool {
    endpoint.is_none_or(|e| is_host(e, is_s3_host)) && !bucket.ends_with("--x-s3")
}

/// Returns true if the endpoint is Amazon's own STS (AWS General Reference, "AWS Security Token Service endpoints
/// and quotas").
pub fn is_sts(endpoint: &str) -> bool {
    is_host(endpoint, |labels| match labels {
        ["sts"] => true,
        ["sts" | "sts-fips", region] => is_region(region),
        [endpoint, "sts", region, "vpce"] => endpoint.starts_with("vpce-") && is_region(region),
        _ => false,
    })
}

/// Returns true if the endpoint's host ends with `amazonaws.com` and the function `is_such` accepts the host labels
/// before this suffix. The suffix alone does not show that a host belongs to Amazon S3. Many hosts with this suffix are
/// machines of customers, for example a MinIO server on EC2 or behind a load balancer.
fn is_host(endpoint: &str, is_such: fn(&[&str]) -> bool) -> bool {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let host = rest.split(['/', ':']).next().unwrap_or_default().to_ascii_lowercase();
    let name = host
        .strip_suffix(".amazonaws.com")
        .or_else(|| host.strip_suffix(".amazonaws.com.cn"));
    name.is_some_and(|name| is_such(&name.split('.').collect::<Vec<_>>()))
}

/// Returns true if the labels name a host of Amazon S3 (AWS General Reference, "Amazon S3 endpoints and quotas"; AWS
/// PrivateLink for Amazon S3).
fn is_s3_host(labels: &[&str]) -> bool {
    match labels {
        ["s3" | "s3-external-1" | "s3-accelerate"] | ["s3-accelerate", "dualstack"] => true,
        [old] => old.strip_prefix("s3-").is_some_and(is_region),
        ["s3" | "s3-fips", region] | ["s3" | "s3-fips", "dualstack", region] => is_region(region),
        ["bucket", endpoint, "s3", region, "vpce"] => endpoint.starts_with("vpce-") && is_region(region),
        _ => false,
    }
}

/// Returns true if the text has the form of an AWS region, such as `eu-west-1` or `us-gov-east-1`.
fn is_region(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    match parts.as_slice() {
        [land, middle @ .., number] => {
            land.len() == 2
                && is_word(land)
                && !middle.is_empty()
                && middle.iter().all(is_word)
                && number.len() == 1
                && number.bytes().all(|b| b.is_ascii_digit())
        }
        [] | [_] => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn store(endpoint: Option<&str>, public: Option<&str>) -> S3Store {
        let all = json!({"bucket": "media", "region": "eu-west-1", "endpoint": endpoint, "publicEndpoint": public});
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn endpoints_of_amazon_are_recognized() {
        const AMAZONS: &str = "https://bucket.vpce-1.s3.eu-west-1.vpce.amazonaws.com";
        for (endpoint, public, is_theirs) in [
            (None, None, true),
            (Some(AMAZONS), None, true),
            (Some("https://S3.cn-north-1.AmazonAWS.com.cn:443/"), Some(AMAZONS), true),
            (Some("https://s3.example"), None, false),
            (
                Some("http://ec2-18-1-2-3.eu-west-1.compute.amazonaws.com:9000"),
                None,
                false,
            ),
            (None, Some("https://s3.example"), false),
            (Some(AMAZONS), Some("https://s3.example"), false),
            (Some("https://notamazonaws.com"), None, false),
            (Some("https://s3.amazonaws.com.example"), None, false),
            (Some("https://s3.example/.amazonaws.com"), None, false),
        ] {
            assert_eq!(is_store(&store(endpoint, public)), is_theirs, "{endpoint:?} {public:?}");
        }
    }

    #[test]
    fn only_sts_endpoints_of_amazon_are_recognized() {
        for (endpoint, expected) in [
            ("https://sts.amazonaws.com", true),
            ("https://sts.eu-west-1.amazonaws.com/", true),
            ("https://sts-fips.us-gov-east-1.amazonaws.com", true),
            ("https://vpce-1a.sts.eu-west-1.vpce.amazonaws.com", true),
            ("https://sts.cn-north-1.amazonaws.com.cn", true),
            ("http://ec2-18-1-2-3.eu-west-1.compute.amazonaws.com", false),
            ("https://sts.eu-west-1.elb.amazonaws.com", false),
            ("https://sts.example", false),
        ] {
            assert_eq!(is_sts(endpoint), expected, "{endpoint}");
        }
    }

    #[test]
    fn only_s3_endpoints_of_amazon_are_recognized() {
        for (endpoint, bucket, expected) in [
            (None, "media", true),
            (Some("https://s3.eu-west-1.amazonaws.com"), "media", true),
            (Some("https://S3.CN-NORTH-1.AMAZONAWS.COM.CN:443/"), "media", true),
            (
                Some("https://bucket.vpce-1a.s3.us-east-1.vpce.amazonaws.com"),
                "media",
                true,
            ),
            (Some("https://s3.amazonaws.com"), "media", true),
            (Some("https://s3-eu-west-1.amazonaws.com"), "media", true),
            (
                Some("https://s3-fips.dualstack.us-gov-east-1.amazonaws.com"),
                "media",
                true,
            ),
            (Some("https://s3-accelerate.dualstack.amazonaws.com"), "media", true),
            (None, "media--use1-az4--x-s3", false),
            // These hosts are machines of customers. They do not belong to Amazon S3.
            (
                Some("http://ec2-18-1-2-3.eu-west-1.compute.amazonaws.com:9000"),
                "media",
                false,
            ),
            (Some("http://ec2-18-1-2-3.compute-1.amazonaws.com:9000"), "media", false),
            (
                Some("https://s3-minio-1234567890.eu-west-1.elb.amazonaws.com"),
                "media",
                false,
            ),
            (Some("https://s3.eu-west-1.elb.amazonaws.com"), "media", false),
            (Some("https://abc.execute-api.eu-west-1.amazonaws.com"), "media", false),
            (
                Some("https://bucket.vpce-svc.s3.eu-west-1.elb.amazonaws.com"),
                "media",
                false,
            ),
            (Some("https://minio.s3.eu-west-1.amazonaws.com"), "media", false),
            (Some("https://s3-.amazonaws.com"), "media", false),
            (Some("http://127.0.0.1:9000"), "media", false),
            (Some("https://amazonaws.com.example"), "media", false),
            (Some("https://s3.example/.amazonaws.com"), "media", false),
            (Some("https://notamazonaws.com"), "media", false),
        ] {
            assert_eq!(is_bucket(endpoint, bucket), expected, "{endpoint:?} {bucket}");
        }
    }
}
