//! Tests what Valet signs for each kind of grant.

use std::sync::Arc;

use serde_json::Value;

use super::{key, lifetime};
use crate::{
    api::{Capability, LengthRange, OperationSpec, Overwrite, ResponseHeaders, UploadConstraints, UploadMode},
    core::{Credential, Form, ObjectKey, SignError, Signed, SignedUrl, SigningRequest},
    provider::{
        abilities::{Provider, Signer},
        gcs::{
            store::{Gcs, Target},
            tokens::Source,
        },
    },
};

/// A signed request for a URL or a form, with its values in plain text.
struct Plain {
    url: SignedUrl,
    method: String,
    headers: Vec<(String, String)>,
    form: Option<Form>,
}

/// Splits a signed URL or form into its parts.
trait Flat {
    fn flat(self) -> Plain;
}

impl Flat for Signed {
    fn flat(self) -> Plain {
        match self.credential {
            Credential::Request { url, method, headers } => Plain {
                url,
                method,
                headers,
                form: None,
            },
            Credential::Form { url, fields } => Plain {
                url,
                method: "POST".into(),
                headers: Vec::new(),
                form: Some(fields),
            },
            Credential::Parts(_) | Credential::Credentials(_) => {
                panic!("Google Cloud Storage has no such credentials")
            }
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

async fn sign(key: &str, operation_spec: OperationSpec) -> Result<Plain, SignError> {
    let request = SigningRequest {
        key: ObjectKey::parse(key, 1024).unwrap(),
        operation_spec,
        lifetime: lifetime("2026-01-02T03:04:05Z".parse().unwrap(), 300),
        holder: "web.x".into(),
        upload: None,
    };
    gcs(serde_json::json!({}))
        .sign_request(Target::Workload, &request)
        .await
        .map(Flat::flat)
}

fn upload(mode: UploadMode, constraints: UploadConstraints) -> OperationSpec {
    OperationSpec::Upload {
        mode,
        multipart: Default::default(),
        constraints,
    }
}

fn download(version: Option<&str>, response: ResponseHeaders) -> OperationSpec {
    OperationSpec::Download {
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
    let headers: Vec<_> = signed.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
    assert_eq!(
        headers,
        [
            "content-type: image/png",
            "x-goog-content-length-range: 7,7",
            "x-goog-if-generation-match: 0"
        ]
    );
    let url = signed.url.expose();
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
        signed.headers,
        [("x-goog-content-length-range".to_owned(), "0,9".to_owned())]
    );
}

#[tokio::test]
async fn signed_download_url_has_the_version_and_response_headers() {
    let response = ResponseHeaders {
        content_type: Some("text/csv".into()),
        content_disposition: Some("attachment; filename=\"a b.csv\"".into()),
        ..ResponseHeaders::default()
    };
    let signed = sign("a", download(Some("1700000000000000"), response)).await.unwrap();
    let url = signed.url.expose();
    for part in [
        "&generation=1700000000000000&",
        "&response-content-type=text%2Fcsv&",
        "&response-content-disposition=attachment%3B%20filename%3D%22a%20b.csv%22&",
    ] {
        assert!(url.contains(part), "{url}");
    }
    assert_eq!((signed.method.as_str(), signed.headers.len()), ("GET", 0));
}

#[tokio::test]
async fn constraint_that_gcs_cannot_enforce_is_not_signed() {
    let impossible = |operation_spec| async move {
        match sign("a", operation_spec).await {
            Err(SignError::Impossible(why)) => why,
            other => panic!("{:?}", other.err()),
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
            other => panic!("{:?}", other.err()),
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
    let by_md5 = || UploadConstraints {
        checksum_md5: Some("XUFAKrxLKna5cZ2REBfFkg==".into()),
        overwrite: Overwrite::Allow,
        ..UploadConstraints::default()
    };
    for mode in [UploadMode::PostForm, UploadMode::Resumable] {
        assert!(
            refused(mode, by_md5()).await.contains("cannot enforce a checksum"),
            "{mode:?}"
        );
    }
    let signed = sign("a", upload(UploadMode::Put, by_md5())).await.unwrap();
    assert_eq!(
        signed.headers,
        [("content-md5".to_owned(), "XUFAKrxLKna5cZ2REBfFkg==".to_owned())]
    );
    assert!(
        signed
            .url
            .expose()
            .contains("&X-Goog-SignedHeaders=content-md5%3Bhost&")
    );
    assert!(refused(UploadMode::PostForm, length(1)).await.contains("write-once"));
    let can = gcs(serde_json::json!({})).capabilities();
    let form = can.post_form.as_ref().unwrap();
    assert!(!can.enforced.contains(&Capability::ChecksumSHA256) && !form.contains(&Capability::ChecksumSHA256));
    assert!(can.enforced.contains(&Capability::ChecksumMD5) && !form.contains(&Capability::ChecksumMD5));
    assert!(can.enforced.contains(&Capability::WriteOnce) && !form.contains(&Capability::WriteOnce));
}

#[tokio::test]
async fn post_form_policy_contains_all_form_fields() {
    let constraints = UploadConstraints {
        content_type: Some("text/plain; charset=utf-8".into()),
        content_length_range: Some(LengthRange { min: 3, max: 9 }),
        overwrite: Overwrite::Allow,
        ..UploadConstraints::default()
    };
    let signed = sign("a/$ü", upload(UploadMode::PostForm, constraints)).await.unwrap();
    assert_eq!(signed.url.expose(), "https://storage.googleapis.com/media/");
    let form = signed.form.unwrap();
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

/// The request that starts a resumable upload contains the constraints that Google enforces. It does not contain the
/// size of the upload.
#[tokio::test]
async fn resumable_upload_is_started_by_a_signed_post() {
    let constraints = UploadConstraints {
        content_type: Some("video/mp4".into()),
        ..UploadConstraints::default()
    };
    let signed = sign("a", upload(UploadMode::Resumable, constraints)).await.unwrap();
    let headers: Vec<_> = signed.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
    assert_eq!(
        headers,
        [
            "content-type: video/mp4",
            "x-goog-if-generation-match: 0",
            "x-goog-resumable: start"
        ]
    );
    assert_eq!(signed.method, "POST");
    let url = signed.url.expose();
    assert!(
        url.contains("&X-Goog-SignedHeaders=content-type%3Bhost%3Bx-goog-if-generation-match%3Bx-goog-resumable&"),
        "{url}"
    );
    let range = UploadConstraints {
        content_length_range: Some(LengthRange { min: 0, max: 9 }),
        ..UploadConstraints::default()
    };
    for sized in [length(1), range] {
        let refused = sign("a", upload(UploadMode::Resumable, sized)).await.err();
        assert!(matches!(refused, Some(SignError::Refused(_))), "{refused:?}");
    }
    // By default, a store does not allow resumable uploads. An upload session stays valid after the signed URL has
    // expired, so the owner of the store must allow it first.
    assert_eq!(gcs(serde_json::json!({})).capabilities().resumable, None);
    let can = gcs(serde_json::json!({"resumableUploads": "Tolerate"})).capabilities();
    let enforced = can.resumable.clone().unwrap();
    assert!(enforced.contains(&Capability::WriteOnce) && !enforced.contains(&Capability::ContentLength));
}

#[tokio::test]
async fn signed_url_has_the_address_of_the_store_settings() {
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

/// The maximum lifetime is 7 days with a service account key, and 12 hours with Google's IAM.
#[tokio::test]
async fn maximum_lifetime_is_7_days_with_a_key_and_12_hours_with_iam() {
    let most = |gcs: &Gcs| gcs.capabilities().max_expiration_seconds;
    let with_key = gcs(serde_json::json!({}));
    assert_eq!(most(&with_key), 604_800);
    let by_google = gcs(serde_json::json!({"credentials": {"signAs": "a@b.iam.gserviceaccount.com"}}));
    assert_eq!(most(&by_google), 43_200);
    let request = |seconds| SigningRequest {
        key: ObjectKey::parse("a", 1024).unwrap(),
        operation_spec: download(None, ResponseHeaders::default()),
        lifetime: lifetime("2026-01-02T03:04:05Z".parse().unwrap(), seconds),
        holder: "web.x".into(),
        upload: None,
    };
    assert!(with_key.sign_request(Target::Workload, &request(604_800)).await.is_ok());
    for (gcs, seconds) in [(&with_key, 604_801), (&with_key, 0), (&by_google, 43_201)] {
        assert!(
            matches!(
                gcs.sign_request(Target::Workload, &request(seconds)).await,
                Err(SignError::Refused(_))
            ),
            "{seconds}"
        );
    }
}

/// The fingerprint changes if the service account key or the endpoint changes. A setting that does not change the
/// signed URL does not change the fingerprint.
#[tokio::test]
async fn fingerprint_changes_with_service_account_key_and_endpoint() {
    let of = async |settings: Value, salt: &str| gcs(settings).fingerprint(salt).await.unwrap().unwrap();
    let plain = of(serde_json::json!({}), "grant").await;
    assert_eq!(plain.len(), 16);
    assert_eq!(
        plain,
        of(
            serde_json::json!({"probeKey": "x", "endpoint": "https://storage.googleapis.com"}),
            "grant"
        )
        .await
    );
    assert_ne!(plain, of(serde_json::json!({}), "another").await);
    for other in [
        serde_json::json!({"bucket": "other"}),
        serde_json::json!({"publicEndpoint": "https://gcs.example"}),
        serde_json::json!({"addressingStyle": "VirtualHost"}),
        serde_json::json!({"credentials": {"signAs": "a@b.iam.gserviceaccount.com"}}),
    ] {
        assert_ne!(plain, of(other.clone(), "grant").await, "{other}");
    }
}
