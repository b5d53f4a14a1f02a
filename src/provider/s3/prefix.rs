//! Decides whether the holder of a POST form for a key prefix can write only under this prefix.
//!
//! The policy of the form says how the object key must begin. For example, the object key `a/../b` begins with `a/`,
//! as the policy requires. In Amazon S3 an object key is a sequence of bytes, and `..` has no special meaning (Amazon
//! S3 User Guide, "Naming Amazon S3 objects").
//!
//! Some stores keep objects as files. Some of these stores, such as versitygw, write the object `a/../b` outside
//! `a/`. Therefore a conformance check must confirm the limit for every store that does not belong to Amazon.

use super::responses;
use crate::{
    api::{Capability, S3Store},
    conformance::Missing,
};

/// A store with this capability never lets a POST form for a key prefix write outside this prefix.
pub const BELOW: Missing = Missing::Form(Capability::KeyPrefix);

/// Returns true if the operator's endpoint and the workloads' endpoint both belong to Amazon.
pub fn is_amazons(store: &S3Store) -> bool {
    [&store.endpoint, &store.public_endpoint]
        .iter()
        .all(|endpoint| responses::is_amazons(endpoint.as_deref(), &store.bucket))
}

#[cfg(test)]
mod tests {
    use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
    use serde_json::json;

    use super::*;
    use crate::{conformance::ConformanceReport, provider::Provider, provider::s3::S3};

    fn store(endpoint: Option<&str>, public: Option<&str>) -> S3Store {
        let all = json!({"bucket": "media", "region": "eu-west-1", "endpoint": endpoint, "publicEndpoint": public});
        serde_json::from_value(all).unwrap()
    }

    fn claims(s3: &S3) -> bool {
        s3.capabilities()
            .post_form
            .as_ref()
            .unwrap()
            .contains(&Capability::KeyPrefix)
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
            assert_eq!(
                is_amazons(&store(endpoint, public)),
                is_theirs,
                "{endpoint:?} {public:?}"
            );
        }
    }

    /// For a store outside Amazon, a conformance check must first confirm that a form cannot write outside its
    /// prefix. Any process of Valet can run this check.
    #[test]
    fn form_for_prefix_needs_amazon_endpoints_or_a_conformance_check() {
        let s3 = |endpoint: Option<&str>| {
            let nobody = Credentials::new("-", "-", None, None, "test");
            S3::new(store(endpoint, None), SharedCredentialsProvider::new(nobody), None)
        };
        let (amazons, other) = (s3(None), s3(Some("https://s3.example")));
        assert!(claims(&amazons) && !claims(&other));
        let found = |held: bool, missing: bool| ConformanceReport {
            held: held.then(|| BELOW.name()).into_iter().collect(),
            missing: missing.then_some(BELOW).into_iter().collect(),
            ..ConformanceReport::default()
        };
        *other.canary.lock().unwrap() = Some(found(false, false));
        assert!(!claims(&other));
        *other.canary.lock().unwrap() = Some(found(true, false));
        assert!(claims(&other));
        *amazons.canary.lock().unwrap() = Some(found(false, true));
        assert!(!claims(&amazons));

        let other = s3(Some("https://s3.example"));
        other.seed_capabilities(&["PostForm".into(), "KeyPrefix".into()]);
        assert!(!claims(&other));
        other.seed_capabilities(&["PostForm/KeyPrefix".into()]);
        assert!(claims(&other));
    }
}
