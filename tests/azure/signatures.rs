//! Tests that compare each signature with that of Microsoft's own package for the same inputs. The whole query must
//! be equal, byte for byte.

use serde_json::{Value, json};
use valet::{
    api::{
        Multipart, OperationSpec, Overwrite, ResponseHeaders, UploadConstraints, UploadMode,
        store::azure::AzureBlobStore,
    },
    core::{Lifetime, ObjectKey, SignError, Signed, SigningRequest},
    provider::Signer,
    provider::azure::{AzureBlob, Credentials, Identity, SharedKey, Source},
};
use valet_harness::azurite::microsoft;

use valet_harness::fake::{DELEGATED, Fake, delegation_key, granted_as_text};

use crate::access::allowed;

const ACCOUNT_KEY: &str = "bWFya2VyLW9mLWFuLWFjY291bnQta2V5LW1hcmtlci1vZi1hbi1hY2NvdW50LWtleQ==";
const START: &str = "2027-01-15T07:45:00Z";
const ISSUED: &str = "2027-01-15T08:00:00Z";
const EXPIRY: &str = "2027-01-15T09:00:00Z";

fn store(more: Value) -> AzureBlobStore {
    let mut store = json!({"account": "mediastore", "container": "media"});
    for (name, value) in more.as_object().into_iter().flatten() {
        store[name] = value.clone();
    }
    serde_json::from_value(store).expect("it is a store")
}

fn request(key: &str, operation_spec: OperationSpec) -> SigningRequest {
    SigningRequest {
        key: ObjectKey::parse(key, 1024).expect("a good key"),
        operation_spec,
        lifetime: Lifetime {
            issued_at: ISSUED.parse().unwrap(),
            expires_at: EXPIRY.parse().unwrap(),
        },
        holder: "web.avatar".into(),
        upload: None,
    }
}

fn upload(overwrite: Overwrite) -> OperationSpec {
    OperationSpec::Upload {
        mode: UploadMode::Put,
        multipart: Multipart::default(),
        constraints: UploadConstraints {
            overwrite,
            ..UploadConstraints::default()
        },
    }
}

fn download(version: Option<&str>, response: Value) -> OperationSpec {
    OperationSpec::Download {
        mode: Default::default(),
        version: version.map(str::to_owned),
        response: serde_json::from_value::<ResponseHeaders>(response).expect("they are headers"),
    }
}

const KEYS: [&str; 6] = [
    "a/b.png",
    "tenants/web/users/42/ü+(1) %2B&=?#;.png",
    "k",
    "日本語/€",
    "~a_b-c.d/e~",
    "quote\"'<>`{}|^[]",
];

/// Every operation that Valet signs, with the parameters for Microsoft's package.
fn operation_specs() -> Vec<(OperationSpec, Value)> {
    let tricky = "attachment; filename=\"a b;c+d&e=f%20.txt\"";
    vec![
        (upload(Overwrite::Forbid), json!({"permission": "c"})),
        (upload(Overwrite::Allow), json!({"permission": "w"})),
        (download(None, json!({})), json!({"permission": "r"})),
        (
            download(
                Some("2027-01-15T08:00:00.1234567Z"),
                json!({"contentType": "text/plain"}),
            ),
            json!({"permission": "r", "version_id": "2027-01-15T08:00:00.1234567Z", "content_type": "text/plain"}),
        ),
        (
            download(
                None,
                json!({
                    "contentType": "text/html; charset=utf-8", "contentDisposition": tricky, "contentEncoding": "gzip",
                    "contentLanguage": "de-CH", "cacheControl": "no-store, max-age=0",
                }),
            ),
            json!({
                "permission": "r", "content_type": "text/html; charset=utf-8", "content_disposition": tricky,
                "content_encoding": "gzip", "content_language": "de-CH", "cache_control": "no-store, max-age=0",
            }),
        ),
    ]
}

/// Splits a signed URL into its base and its query without the blob's version, which is not part of the token.
fn parts(url: &str) -> (&str, &str) {
    let (base, query) = url.split_once('?').expect("it has a query");
    match query.strip_prefix("versionid=") {
        Some(rest) => (base, rest.split_once('&').expect("a token is in the output").1),
        None => (base, query),
    }
}

fn exposed(signed: &Signed) -> &str {
    signed.url().expect("it is one URL").expose()
}

fn merged(a: &Value, b: Value) -> Value {
    let mut all = a.clone();
    for (name, value) in b.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    all
}

#[tokio::test]
async fn service_sas_equals_the_sas_of_microsofts_package() {
    let microsoft = microsoft().unwrap();
    let mut compared = 0;
    for (settings, options) in [
        (json!({}), json!({"protocol": "https"})),
        (
            json!({"ipRange": "203.0.113.0-203.0.113.255", "storedAccessPolicy": "valet-1", "credentials": {"secretRef": {"name": "x"}}}),
            json!({"protocol": "https", "ip": "203.0.113.0-203.0.113.255", "policy_id": "valet-1"}),
        ),
        (
            json!({"endpoint": "http://127.0.0.1:10000", "addressingStyle": "Path", "ipRange": "203.0.113.7"}),
            json!({"ip": "203.0.113.7"}),
        ),
    ] {
        let key = Credentials::Key(SharedKey::parse(ACCOUNT_KEY).unwrap());
        let provider = AzureBlob::new(store(settings.clone()), key, None);
        for name in KEYS {
            for (operation_spec, theirs) in operation_specs() {
                let signed = provider.sign(&allowed(request(name, operation_spec))).await.unwrap();
                let options = merged(&theirs, merged(&options, json!({"start": START, "expiry": EXPIRY})));
                let (token, version) = microsoft
                    .sas(["mediastore", "media", name], Some(ACCOUNT_KEY), &Value::Null, &options)
                    .unwrap();
                assert_eq!(version, "2023-11-03");
                let (base, query) = parts(exposed(&signed));
                assert_eq!(query, token, "{name} {options}");
                let wanted = match settings.get("endpoint") {
                    Some(_) => "http://127.0.0.1:10000/mediastore/media/",
                    None => "https://mediastore.blob.core.windows.net/media/",
                };
                assert!(base.starts_with(wanted), "{base}");
                assert_eq!(
                    exposed(&signed).contains("versionid="),
                    options.get("version_id").is_some()
                );
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 3 * 6 * 5);
}

#[tokio::test]
async fn user_delegation_sas_equals_the_sas_of_microsofts_package() {
    let microsoft = microsoft().unwrap();
    // The user delegation key is older or younger than the requested start. A SAS never starts before its user
    // delegation key.
    for (key_start, start) in [
        ("2027-01-15T07:00:00Z", START),
        ("2027-01-15T07:50:00Z", "2027-01-15T07:50:00Z"),
    ] {
        let fake = Fake::start(move |asked| match asked.method.as_str() {
            "GET" => granted_as_text(3600),
            _ => delegation_key(key_start, "2027-01-22T07:45:00Z"),
        });
        let source = Source::Managed {
            endpoint: fake.endpoint(),
            client: None,
        };
        let identity = Credentials::Identity(Identity::new(source).into());
        let settings = json!({
            "endpoint": fake.endpoint(), "publicEndpoint": "https://blobs.example.com", "ipRange": "203.0.113.7",
        });
        let provider = AzureBlob::new(store(settings), identity, None);
        let delegation = json!({
            "signed_oid": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "signed_tid": "72f988bf-86f1-41af-91ab-2d7cd011db47",
            "signed_start": key_start, "signed_expiry": "2027-01-22T07:45:00Z", "signed_service": "b",
            "signed_version": "2023-11-03", "value": DELEGATED,
        });
        for name in KEYS {
            for (operation_spec, theirs) in operation_specs() {
                let signed = provider.sign(&allowed(request(name, operation_spec))).await.unwrap();
                let options = json!({"start": start, "expiry": EXPIRY, "protocol": "https", "ip": "203.0.113.7"});
                let options = merged(&theirs, options);
                let (token, _) = microsoft
                    .sas(["mediastore", "media", name], None, &delegation, &options)
                    .unwrap();
                let (base, query) = parts(exposed(&signed));
                assert_eq!(query, token, "{name} {options}");
                assert!(base.starts_with("https://blobs.example.com/media/"), "{base}");
            }
        }
        // Valet fetched the token and the user delegation key once for all thirty signatures.
        assert_eq!(fake.asked().len(), 2);
    }
}

/// A fingerprint differs by account key and store settings, and does not reveal the account key.
#[tokio::test]
async fn fingerprint_differs_by_account_key_and_settings() {
    let other_key = "b3RoZXIta2V5LW90aGVyLWtleS1vdGhlci1rZXk=";
    let print = async |key: &str, settings: serde_json::Value, salt: &str| {
        let key = Credentials::Key(SharedKey::parse(key).unwrap());
        let print = AzureBlob::new(store(settings), key, None)
            .fingerprint(salt)
            .await
            .unwrap();
        print.expect("it has one")
    };
    let first = print(ACCOUNT_KEY, json!({}), "salt").await;
    assert_eq!(first, print(ACCOUNT_KEY, json!({}), "salt").await);
    assert_eq!((first.len(), first.contains(ACCOUNT_KEY)), (16, false));
    let others = [
        print(other_key, json!({}), "salt").await,
        print(ACCOUNT_KEY, json!({}), "another").await,
        print(ACCOUNT_KEY, json!({"container": "other"}), "salt").await,
        print(
            ACCOUNT_KEY,
            json!({"publicEndpoint": "https://elsewhere.example"}),
            "salt",
        )
        .await,
        print(ACCOUNT_KEY, json!({"ipRange": "203.0.113.7"}), "salt").await,
    ];
    let all: std::collections::BTreeSet<_> = others.into_iter().chain([first]).collect();
    assert_eq!(all.len(), 6);
}

/// Valet refuses to sign a constraint that a SAS cannot express, even if an earlier check allowed it.
#[tokio::test]
async fn constraint_that_a_sas_cannot_express_is_not_signed() {
    let key = || Credentials::Key(SharedKey::parse(ACCOUNT_KEY).unwrap());
    let provider = AzureBlob::new(store(json!({})), key(), None);
    let sign =
        async |key: &str, operation_spec: OperationSpec| provider.sign(&allowed(request(key, operation_spec))).await;
    for more in [
        json!({"contentType": "a/b"}),
        json!({"contentLength": 1}),
        json!({"contentLengthRange": {"min": 0, "max": 1}}),
        json!({"checksumSHA256": "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="}),
        json!({"checksumMD5": "XUFAKrxLKna5cZ2REBfFkg=="}),
    ] {
        let operation_spec = OperationSpec::Upload {
            mode: UploadMode::Put,
            multipart: Multipart::default(),
            constraints: serde_json::from_value(more.clone()).unwrap(),
        };
        assert!(
            matches!(sign("k", operation_spec).await, Err(SignError::Refused(_))),
            "{more}"
        );
    }
    let form = OperationSpec::Upload {
        mode: UploadMode::PostForm,
        multipart: Multipart::default(),
        constraints: UploadConstraints::default(),
    };
    assert!(matches!(sign("k", form).await, Err(SignError::Refused(_))));
    for key in ["a./b", "a/b.", "a\\b"] {
        let refused = sign(key, upload(Overwrite::Forbid)).await;
        assert!(matches!(refused, Err(SignError::Impossible(_))), "{key}");
    }
    let mut over = request("k", upload(Overwrite::Forbid));
    over.lifetime.expires_at = over.lifetime.issued_at;
    assert!(provider.sign(&allowed(over)).await.is_err());
    // A line break in a value cannot add a line to the signed text. The schema also rejects it.
    let forged = download(None, json!({"contentType": "a\nb"}));
    assert!(matches!(sign("k", forged).await, Err(SignError::Refused(_))));
    let shown = format!("{:?}", sign("k", upload(Overwrite::Forbid)).await.unwrap());
    assert!(!shown.contains("sig="), "{shown}");
}
