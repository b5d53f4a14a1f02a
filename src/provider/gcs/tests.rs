//! Compares Valet's signatures byte for byte with the signatures in Google's conformance tests
//! (tests/fixtures/google).

mod requests;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use super::{
    form::{self, Condition},
    key::ServiceAccountKey,
    store::{Gcs, Target},
    tokens::Source,
    v4,
};
use crate::{
    api::{Capability, LengthRange},
    conformance::{ConformanceReport, Missing},
    core::Lifetime,
    provider::abilities::{Prober, Provider},
};

const KEY: &str = include_str!("../../../tests/fixtures/google/service-account.json");
const VECTORS: &str = include_str!("../../../tests/fixtures/google/v4_signatures.json");

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vectors {
    #[serde(rename = "signingV4Tests")]
    urls: Vec<Url>,
    #[serde(rename = "postPolicyV4Tests")]
    forms: Vec<Policy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Url {
    description: String,
    bucket: String,
    #[serde(default)]
    object: String,
    method: String,
    expiration: i64,
    timestamp: Timestamp,
    #[serde(default)]
    headers: serde_json::Map<String, Value>,
    #[serde(default)]
    query_parameters: serde_json::Map<String, Value>,
    url_style: Option<String>,
    expected_url: String,
    expected_canonical_request: String,
    expected_string_to_sign: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    description: String,
    policy_input: Input,
    policy_output: Output,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    scheme: String,
    bucket: String,
    object: String,
    expiration: i64,
    timestamp: Timestamp,
    url_style: Option<String>,
    bucket_bound_hostname: Option<String>,
    #[serde(default)]
    fields: serde_json::Map<String, Value>,
    #[serde(default)]
    conditions: Conditions,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    content_length_range: Option<(i64, i64)>,
    starts_with: Option<(String, String)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    url: String,
    fields: serde_json::Map<String, Value>,
    expected_decoded_policy: String,
}

/// In these conformance tests, a client library chooses between several addresses of one bucket. Valet does not
/// choose between addresses, so these tests give the expected address to Valet. No signature depends on the choice.
const ROUTING: [&str; 6] = [
    "Simple GET with endpoint on client",
    "Endpoint on client with scheme",
    "Emulator host",
    "Endpoint on client takes precedence over emulator",
    "Hostname takes precendence over endpoint and emulator",
    "Universe domain",
];

/// The name of a conformance test with an error in its data. Its canonical request does not match the digest in its
/// string to sign. The string to sign and the URL are correct.
const AT_ODDS: &str = "Universe domain with virtual hosted style";

fn vectors() -> Vectors {
    serde_json::from_str(VECTORS).unwrap()
}

fn key() -> ServiceAccountKey {
    ServiceAccountKey::parse(KEY.as_bytes()).unwrap()
}

fn lifetime(from: Timestamp, seconds: i64) -> Lifetime {
    Lifetime {
        issued_at: from,
        expires_at: from + SignedDuration::from_secs(seconds),
    }
}

fn pairs(map: &serde_json::Map<String, Value>) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    map.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

#[test]
fn signed_urls_equal_googles_conformance_tests() {
    let (vectors, key) = (vectors(), key());
    assert_eq!(vectors.urls.len(), 29);
    for test in vectors.urls {
        // The test takes the scheme and the host from the expected URL. Valet builds the rest of the URL.
        let (scheme, rest) = test.expected_url.split_once("://").unwrap();
        let authority = rest.split(['/', '?']).next().unwrap();
        let object = if test.object.is_empty() {
            String::new()
        } else {
            format!("/{}", test.object)
        };
        let path = match test.url_style.as_deref() {
            Some("VIRTUAL_HOSTED_STYLE" | "BUCKET_BOUND_HOSTNAME") => object,
            _ => format!("/{}{object}", test.bucket),
        };
        let request = v4::Request {
            method: match test.method.as_str() {
                "GET" => "GET",
                "PUT" => "PUT",
                "POST" => "POST",
                other => panic!("{other}"),
            },
            scheme: scheme.to_owned(),
            authority: authority.to_owned(),
            path,
            query: pairs(&test.query_parameters),
            headers: pairs(&test.headers),
        };
        let unsigned = v4::prepare(&request, &key.email, lifetime(test.timestamp, test.expiration));
        let what = &test.description;
        if what == AT_ODDS {
            let digest =
                aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, test.expected_canonical_request.as_bytes());
            assert!(
                !test.expected_string_to_sign.ends_with(&v4::hex(digest.as_ref())),
                "{what} was corrected in the fixtures"
            );
        } else {
            assert_eq!(unsigned.canonical_request, test.expected_canonical_request, "{what}");
        }
        assert_eq!(unsigned.string_to_sign, test.expected_string_to_sign, "{what}");
        let signature = key.sign(unsigned.string_to_sign.as_bytes()).unwrap();
        assert_eq!(unsigned.with(&signature), test.expected_url, "{what}");
    }
}

/// Compares the URLs of those conformance tests in which Valet builds the address from the settings of a store.
#[tokio::test]
async fn urls_from_store_settings_equal_googles_conformance_tests() {
    let mut tried = 0;
    for test in vectors().urls {
        let is_valets = test.headers.is_empty() && test.query_parameters.is_empty() && !test.object.is_empty();
        if !is_valets || ROUTING.iter().any(|r| test.description.starts_with(r)) || test.description.contains("Bound")
        {
            continue;
        }
        let endpoint = test
            .expected_url
            .split(&test.bucket)
            .next()
            .unwrap()
            .trim_end_matches('/');
        let (endpoint, style) = match test.url_style {
            Some(_) => ("https://storage.googleapis.com", "VirtualHost"),
            None => (endpoint, "Path"),
        };
        let store = serde_json::json!({"bucket": test.bucket, "endpoint": endpoint, "addressingStyle": style});
        let gcs = Gcs::new(
            serde_json::from_value(store).unwrap(),
            Source::Key(Arc::new(key())),
            None,
            None,
        );
        let request = v4::Request {
            method: if test.method == "PUT" { "PUT" } else { "GET" },
            ..gcs.request(Target::Workload, &test.object)
        };
        let url = gcs
            .signed(&request, lifetime(test.timestamp, test.expiration))
            .await
            .unwrap();
        assert_eq!(url, test.expected_url, "{}", test.description);
        tried += 1;
    }
    assert!(tried >= 8, "{tried}");
}

#[test]
fn post_forms_equal_googles_conformance_tests() {
    let (vectors, key) = (vectors(), key());
    assert_eq!(vectors.forms.len(), 11);
    for test in vectors.forms {
        let (what, input, output) = (&test.description, test.policy_input, test.policy_output);
        let mut conditions = Vec::new();
        conditions.extend(
            input
                .conditions
                .starts_with
                .map(|(field, start)| Condition::StartsWith(field, start)),
        );
        let range = input.conditions.content_length_range;
        conditions.extend(range.map(|(min, max)| Condition::Range(LengthRange { min, max })));
        let unsigned = form::prepare(
            (&input.bucket, &input.object),
            &pairs(&input.fields),
            &conditions,
            &key.email,
            lifetime(input.timestamp, input.expiration),
        );
        let policy =
            String::from_utf8(base64::Engine::decode(&base64::prelude::BASE64_STANDARD, &unsigned.policy).unwrap())
                .unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&policy).unwrap(),
            serde_json::from_str::<Value>(&output.expected_decoded_policy).unwrap(),
            "{what}"
        );
        let signature = key.sign(unsigned.policy.as_bytes()).unwrap();
        let mut fields = unsigned.with(&signature);
        let mut wanted = pairs(&output.fields);
        fields.sort();
        wanted.sort();
        assert_eq!(fields, wanted, "{what}");

        // Checks the URL of the form. The check skips conformance tests with a host that is bound to a bucket,
        // because a store of Valet cannot have such a host.
        if input.bucket_bound_hostname.is_none() {
            let style = if input.url_style.is_some() {
                "VirtualHost"
            } else {
                "Path"
            };
            let endpoint = format!("{}://storage.googleapis.com", input.scheme);
            let store = serde_json::json!({"bucket": input.bucket, "endpoint": endpoint, "addressingStyle": style});
            let gcs = Gcs::new(
                serde_json::from_value(store).unwrap(),
                Source::Key(Arc::new(self::key())),
                None,
                None,
            );
            let location = gcs.location(Target::Workload, "/");
            assert_eq!(
                format!("{}://{}{}", location.scheme, location.authority, location.path),
                output.url,
                "{what}"
            );
        }
    }
}

/// On Google's hosts, Valet supports POST forms for a prefix without a check. For a store outside Google, a
/// conformance check must first confirm that the store supports them. Any process of Valet can run this check.
#[test]
fn form_for_prefix_needs_google_endpoints_or_a_conformance_check() {
    let gcs = |endpoint: Option<&str>, public: Option<&str>| {
        let store = serde_json::json!({"bucket": "media", "endpoint": endpoint, "publicEndpoint": public});
        let source = Source::Unusable("none".into());
        Gcs::new(serde_json::from_value(store).unwrap(), source, None, None)
    };
    let claims = |gcs: &Gcs| {
        let can = gcs.capabilities();
        can.post_form.as_ref().unwrap().contains(&Capability::KeyPrefix)
    };
    const OWN: &str = "https://storage.googleapis.com";
    const KEY_PREFIX: Missing = Missing::Form(Capability::KeyPrefix);
    for (endpoint, public, is_theirs) in [
        (None, None, true),
        (Some(OWN), None, true),
        (
            Some("https://storage.us-central1.rep.googleapis.com:443/"),
            Some(OWN),
            true,
        ),
        (Some("https://gcs.not-google.example"), None, false),
        (Some("https://notgoogleapis.com"), None, false),
        (Some("https://storage.googleapis.com.example"), None, false),
        (None, Some("https://media.example.com"), false),
        (Some(OWN), Some("http://127.0.0.1:9000"), false),
    ] {
        let gcs = gcs(endpoint, public);
        assert_eq!(claims(&gcs), is_theirs, "{endpoint:?} {public:?}");
        assert_eq!(gcs.requires_probe(), !is_theirs, "{endpoint:?} {public:?}");
    }
    let other = gcs(Some("https://gcs.example"), None);
    let found = |enforced: bool, missing: bool| ConformanceReport {
        enforced: enforced.then(|| KEY_PREFIX.name()).into_iter().collect(),
        missing: missing.then_some(KEY_PREFIX).into_iter().collect(),
        ..ConformanceReport::default()
    };
    other.findings.set_report(found(false, false));
    assert!(!claims(&other));
    other.findings.set_report(found(true, false));
    assert!(claims(&other));
    let googles = gcs(None, None);
    googles.findings.set_report(found(false, true));
    assert!(!claims(&googles));
    let recalling = gcs(Some("https://gcs.example"), None);
    recalling.seed_capabilities(&["PostForm".into(), "KeyPrefix".into()]);
    assert!(!claims(&recalling));
    recalling.seed_capabilities(&["PostForm/KeyPrefix".into()]);
    assert!(claims(&recalling));
}
