//! Google's own conformance tests for signatures, byte for byte (tests/fixtures/google).

use serde::Deserialize;
use serde_json::Value;

use super::{
    form::{self, Condition},
    v4, *,
};
use crate::api::LengthRange;

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

/// Which of several addresses a client library is configured with is the one that counts: no signature depends on it, and
/// Valet has no such choice to make. Here the address is taken as the test says it should come out.
const ROUTING: [&str; 6] = [
    "Simple GET with endpoint on client",
    "Endpoint on client with scheme",
    "Emulator host",
    "Endpoint on client takes precedence over emulator",
    "Hostname takes precendence over endpoint and emulator",
    "Universe domain",
];

/// The canonical request of this one is not the one whose digest it signs; the latter, and the URL, are right.
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
fn googles_signed_urls() {
    let (vectors, key) = (vectors(), key());
    assert_eq!(vectors.urls.len(), 29);
    for test in vectors.urls {
        // Scheme and authority as the test expects them; everything else is put together here.
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
                "{what} was put right"
            );
        } else {
            assert_eq!(unsigned.canonical_request, test.expected_canonical_request, "{what}");
        }
        assert_eq!(unsigned.string_to_sign, test.expected_string_to_sign, "{what}");
        let signature = key.sign(unsigned.string_to_sign.as_bytes()).unwrap();
        assert_eq!(unsigned.with(&signature), test.expected_url, "{what}");
    }
}

/// Those whose addresses Valet itself puts together out of a store's settings.
#[tokio::test]
async fn googles_signed_urls_from_a_stores_settings() {
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
fn googles_forms() {
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

        // Where it is sent. A host that is bound to a bucket is no setting of a store's.
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
            let place = gcs.place(Target::Workload, "/");
            assert_eq!(
                format!("{}://{}{}", place.scheme, place.authority, place.path),
                output.url,
                "{what}"
            );
        }
    }
}

fn gcs(settings: Value) -> Gcs {
    let mut store = serde_json::json!({"bucket": "media"});
    store
        .as_object_mut()
        .unwrap()
        .extend(settings.as_object().unwrap().clone());
    Gcs::new(
        serde_json::from_value(store).unwrap(),
        Source::Key(Arc::new(key())),
        None,
        None,
    )
}

async fn sign(key: &str, ask: Ask) -> Result<Signed, SignError> {
    let request = SigningRequest {
        key: ObjectKey::parse(key, 1024).unwrap(),
        ask,
        lifetime: lifetime("2026-01-02T03:04:05Z".parse().unwrap(), 300),
        holder: "web.x".into(),
        upload: None,
    };
    gcs(serde_json::json!({})).sign(&request).await
}

fn upload(mode: UploadMode, constraints: UploadConstraints) -> Ask {
    Ask::Upload {
        mode,
        multipart: Default::default(),
        constraints,
    }
}

fn download(version: Option<&str>, response: ResponseHeaders) -> Ask {
    Ask::Download {
        mode: Default::default(),
        version: version.map(str::to_owned),
        response,
    }
}

fn length(n: i64) -> UploadConstraints {
    UploadConstraints {
        content_length: Some(n),
        ..UploadConstraints::default()
    }
}

#[tokio::test]
async fn each_constraint_is_a_signed_header() {
    let constraints = UploadConstraints {
        content_type: Some("image/png".into()),
        ..length(7)
    };
    let signed = sign("a/ü+b.png", upload(UploadMode::Put, constraints)).await.unwrap();
    let headers: Vec<_> = signed.headers().iter().map(|(n, v)| format!("{n}: {v}")).collect();
    assert_eq!(
        headers,
        [
            "content-type: image/png",
            "x-goog-content-length-range: 7,7",
            "x-goog-if-generation-match: 0"
        ]
    );
    let url = signed.url().unwrap().expose();
    assert!(
        url.starts_with("https://storage.googleapis.com/media/a/%C3%BC%2Bb.png?X-Goog-Algorithm=GOOG4-RSA-SHA256&"),
        "{url}"
    );
    assert!(
        url.contains(
            "&X-Goog-SignedHeaders=content-type%3Bhost%3Bx-goog-content-length-range%3Bx-goog-if-generation-match&"
        ),
        "{url}"
    );
    assert!(
        url.contains("&X-Goog-Date=20260102T030405Z&X-Goog-Expires=300&"),
        "{url}"
    );

    let anything = UploadConstraints {
        content_length_range: Some(LengthRange { min: 0, max: 9 }),
        overwrite: Overwrite::Allow,
        ..UploadConstraints::default()
    };
    let signed = sign("a", upload(UploadMode::Put, anything)).await.unwrap();
    assert_eq!(
        signed.headers(),
        [("x-goog-content-length-range".to_owned(), "0,9".to_owned())]
    );
}

#[tokio::test]
async fn a_download_says_its_version_and_what_it_is_answered_with() {
    let response = ResponseHeaders {
        content_type: Some("text/csv".into()),
        content_disposition: Some("attachment; filename=\"a b.csv\"".into()),
        ..ResponseHeaders::default()
    };
    let signed = sign("a", download(Some("1700000000000000"), response)).await.unwrap();
    let url = signed.url().unwrap().expose();
    for part in [
        "&generation=1700000000000000&",
        "&response-content-type=text%2Fcsv&",
        "&response-content-disposition=attachment%3B%20filename%3D%22a%20b.csv%22&",
    ] {
        assert!(url.contains(part), "{url}");
    }
    assert_eq!(signed.headers(), []);
}

#[tokio::test]
async fn what_the_store_cannot_do_is_not_signed() {
    let impossible = |ask| async move {
        match sign("a", ask).await {
            Err(SignError::Impossible(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let no_store = ResponseHeaders {
        cache_control: Some("no-store".into()),
        ..ResponseHeaders::default()
    };
    assert!(
        impossible(download(None, no_store))
            .await
            .contains("spec.response.cacheControl")
    );
    for version in ["", "3/L4kqtJlcpXroDTDmJ", "-1", "12345678901234567890"] {
        let why = impossible(download(Some(version), ResponseHeaders::default())).await;
        assert!(why.contains("generation"), "{version}: {why}");
    }

    let refused = |mode, constraints| async move {
        match sign("a", upload(mode, constraints)).await {
            Err(SignError::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let summed = || UploadConstraints {
        checksum_sha256: Some("LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=".into()),
        overwrite: Overwrite::Allow,
        ..UploadConstraints::default()
    };
    for mode in [UploadMode::Put, UploadMode::PostForm] {
        assert!(refused(mode, summed()).await.contains("SHA-256"), "{mode:?}");
        let both = UploadConstraints {
            content_length_range: Some(LengthRange { min: 1, max: 2 }),
            overwrite: Overwrite::Allow,
            ..length(1)
        };
        assert!(refused(mode, both).await.contains("exclude"), "{mode:?}");
    }
    assert!(refused(UploadMode::PostForm, length(1)).await.contains("write-once"));
    let can = gcs(serde_json::json!({})).capabilities();
    let form = can.post_form.as_ref().unwrap();
    assert!(!can.enforced.contains(&Capability::ChecksumSHA256) && !form.contains(&Capability::ChecksumSHA256));
    assert!(can.enforced.contains(&Capability::WriteOnce) && !form.contains(&Capability::WriteOnce));
}

#[tokio::test]
async fn a_forms_fields_are_all_in_its_policy() {
    let constraints = UploadConstraints {
        content_type: Some("text/plain; charset=utf-8".into()),
        content_length_range: Some(LengthRange { min: 3, max: 9 }),
        overwrite: Overwrite::Allow,
        ..UploadConstraints::default()
    };
    let signed = sign("a/$ü", upload(UploadMode::PostForm, constraints)).await.unwrap();
    let form = signed.form().unwrap();
    assert_eq!(signed.url().unwrap().expose(), "https://storage.googleapis.com/media/");
    let field = |name: &str| form.expose().iter().find(|(n, _)| n == name).unwrap().1.clone();
    let policy = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, field("policy")).unwrap();
    let policy: Value = serde_json::from_slice(&policy).unwrap();
    let account = "test-iam-credentials@dummy-project-id.iam.gserviceaccount.com";
    assert_eq!(
        policy,
        serde_json::json!({
            "expiration": "2026-01-02T03:09:05Z",
            "conditions": [
                ["content-length-range", 3, 9],
                {"Content-Type": "text/plain; charset=utf-8"},
                {"bucket": "media"},
                {"key": "a/$ü"},
                {"x-goog-date": "20260102T030405Z"},
                {"x-goog-credential": format!("{account}/20260102/auto/storage/goog4_request")},
                {"x-goog-algorithm": "GOOG4-RSA-SHA256"},
            ],
        })
    );
    let names: Vec<_> = form.expose().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "key",
            "Content-Type",
            "x-goog-date",
            "x-goog-credential",
            "x-goog-algorithm",
            "policy",
            "x-goog-signature"
        ]
    );
}

#[tokio::test]
async fn addresses() {
    for (settings, inside, outside) in [
        (
            serde_json::json!({}),
            "https://storage.googleapis.com/media/k",
            "https://storage.googleapis.com/media/k",
        ),
        (
            serde_json::json!({"addressingStyle": "VirtualHost"}),
            "https://media.storage.googleapis.com/k",
            "https://media.storage.googleapis.com/k",
        ),
        (
            serde_json::json!({"endpoint": "http://127.0.0.1:4443/", "publicEndpoint": "https://gcs.example:8443"}),
            "http://127.0.0.1:4443/media/k",
            "https://gcs.example:8443/media/k",
        ),
    ] {
        let gcs = gcs(settings);
        let of = |target| {
            let request = gcs.request(target, "k");
            format!("{}://{}{}", request.scheme, request.authority, request.path)
        };
        assert_eq!(
            (of(Target::Operator).as_str(), of(Target::Workload).as_str()),
            (inside, outside)
        );
    }
}

/// 7 days with a key; 12 hours where Google signs.
#[tokio::test]
async fn ceilings() {
    let most = |gcs: &Gcs| gcs.capabilities().max_expiration_seconds;
    let with_key = gcs(serde_json::json!({}));
    assert_eq!(most(&with_key), 604_800);
    let by_google = gcs(serde_json::json!({"credentials": {"signAs": "a@b.iam.gserviceaccount.com"}}));
    assert_eq!(most(&by_google), 43_200);
    let request = |seconds| SigningRequest {
        key: ObjectKey::parse("a", 1024).unwrap(),
        ask: download(None, ResponseHeaders::default()),
        lifetime: lifetime("2026-01-02T03:04:05Z".parse().unwrap(), seconds),
        holder: "web.x".into(),
        upload: None,
    };
    assert!(with_key.sign(&request(604_800)).await.is_ok());
    for (gcs, seconds) in [(&with_key, 604_801), (&with_key, 0), (&by_google, 43_201)] {
        assert!(
            matches!(gcs.sign(&request(seconds)).await, Err(SignError::Refused(_))),
            "{seconds}"
        );
    }
}
