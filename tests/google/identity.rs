//! Tests of signing without a service account key: Google signs for the operator's identity.

use std::sync::Arc;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use valet::{
    api::{Overwrite, UploadMode},
    provider::{
        Signer,
        gcs::{Gcs, Source, from_environment},
    },
};
use valet_harness::Scratch;

use crate::{
    ACCOUNT, Flat, KEY,
    fake::{Fake, RecordedRequest, Reply},
    key, request, store, upload,
};

/// Answers as the metadata server and IAM do, and signs with the test's service account key.
pub fn good(call: &RecordedRequest) -> Reply {
    match call.path.as_str() {
        path if path.ends_with("/default/token") => {
            assert_eq!(call.header("metadata-flavor"), Some("Google"));
            Reply::json(
                200,
                json!({"access_token": "ya29.marker", "expires_in": 3599, "token_type": "Bearer"}),
            )
        }
        path if path.ends_with("/default/email") => Reply::text(200, ACCOUNT),
        path if path.ends_with(":signBlob") => {
            let payload = BASE64_STANDARD
                .decode(call.json()["payload"].as_str().unwrap())
                .unwrap();
            let signature = BASE64_STANDARD.encode(key().sign(&payload).unwrap());
            Reply::json(200, json!({"keyId": "k", "signedBlob": signature}))
        }
        other => panic!("{other}"),
    }
}

/// A credential source that uses this metadata server.
pub fn metadata(fake: &Fake) -> Source {
    from_environment(|name| (name == "GCE_METADATA_HOST").then(|| fake.address.clone()))
}

/// A store for which Google signs, with the identity that this metadata server reports.
pub fn by_google(fake: &Fake) -> Gcs {
    store(json!({}), metadata(fake), Some(&fake.url()))
}

#[tokio::test]
async fn signature_by_google_equals_signature_by_key() {
    let fake = Fake::start(|call, _| good(call));
    let (by_google, by_key) = (by_google(&fake), store(json!({}), Source::Key(Arc::new(key())), None));
    assert_eq!(by_google.credentials_expire().await.unwrap(), None);
    for name in ["a", "b", "c"] {
        let put = request(name, upload(UploadMode::Put, Overwrite::Forbid));
        let (theirs, ours) = (
            by_google.sign(&put).await.unwrap().flat(),
            by_key.sign(&put).await.unwrap().flat(),
        );
        assert_eq!(theirs.url.expose(), ours.url.expose());
        let form = request(name, upload(UploadMode::PostForm, Overwrite::Allow));
        let (theirs, ours) = (
            by_google.sign(&form).await.unwrap().flat(),
            by_key.sign(&form).await.unwrap().flat(),
        );
        assert_eq!(theirs.form.unwrap().expose(), ours.form.unwrap().expose());
    }
    // Each signature takes one request. The token and the account's name take one request each for all signatures.
    let sign = fake
        .calls()
        .into_iter()
        .find(|c| c.path.ends_with(":signBlob"))
        .unwrap();
    assert_eq!(
        sign.path,
        format!(
            "/v1/projects/-/serviceAccounts/{}:signBlob",
            ACCOUNT.replace('@', "%40")
        )
    );
    assert_eq!(
        (sign.method.as_str(), sign.header("authorization")),
        ("POST", Some("Bearer ya29.marker"))
    );
    assert_eq!(
        (fake.count(":signBlob"), fake.count("/token"), fake.count("/email")),
        (6, 1, 1)
    );
}

#[tokio::test]
async fn account_in_sign_as_signs_instead_of_the_operators_account() {
    let fake = Fake::start(|call, _| good(call));
    let settings = json!({"credentials": {"signAs": "other@p.iam.gserviceaccount.com"}});
    let gcs = store(settings, metadata(&fake), Some(&fake.url()));
    let signed = gcs
        .sign(&request("a", upload(UploadMode::Put, Overwrite::Forbid)))
        .await
        .unwrap()
        .flat();
    assert!(
        signed
            .url
            .expose()
            .contains("X-Goog-Credential=other%40p.iam.gserviceaccount.com%2F20260102%2F")
    );
    assert_eq!(
        fake.count("/serviceAccounts/other%40p.iam.gserviceaccount.com:signBlob"),
        1
    );
    assert_eq!(fake.count("/email"), 0);
}

/// A service account key that signs as another account gets a token by the JWT bearer grant (RFC 7523).
#[tokio::test]
async fn service_account_key_with_sign_as_requests_a_token() {
    let fake = Fake::start(|call, _| match call.path.as_str() {
        "/token" => {
            let body = String::from_utf8(call.body.clone()).unwrap();
            let assertion = body.split("&assertion=").nth(1).unwrap();
            assert!(body.starts_with("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&"));
            let parts: Vec<_> = assertion.split('.').collect();
            let read = |part: &str| -> Value {
                serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
            };
            let (header, claims) = (read(parts[0]), read(parts[1]));
            assert_eq!(
                (header["alg"].as_str(), header["kid"].as_str()),
                (Some("RS256"), Some("f".repeat(40).as_str()))
            );
            assert_eq!(claims["iss"], ACCOUNT);
            assert_eq!(claims["aud"], format!("http://{}/token", call.header("host").unwrap()));
            assert_eq!(claims["scope"], "https://www.googleapis.com/auth/cloud-platform");
            let (issued, ends) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
            assert!(ends - issued == 3600 && (jiff::Timestamp::now().as_second() - issued).abs() < 60);
            // The service account key made the signature. PKCS #1 v1.5 gives the same signature each time.
            let signature = key().sign(format!("{}.{}", parts[0], parts[1]).as_bytes()).unwrap();
            assert_eq!(parts[2], BASE64_URL_SAFE_NO_PAD.encode(signature));
            Reply::json(
                200,
                json!({"access_token": "ya29.marker", "expires_in": 3599, "token_type": "Bearer"}),
            )
        }
        _ => good(call),
    });
    let file = KEY.replace("https://oauth2.googleapis.com/token", &format!("{}/token", fake.url()));
    let key = valet::provider::gcs::ServiceAccountKey::parse(file.as_bytes()).unwrap();
    let settings = json!({"credentials": {"signAs": "other@p.iam.gserviceaccount.com"}});
    let gcs = store(settings, Source::Key(Arc::new(key)), Some(&fake.url()));
    for _ in 0..2 {
        gcs.sign(&request("a", upload(UploadMode::Put, Overwrite::Forbid)))
            .await
            .unwrap()
            .flat();
    }
    assert_eq!((fake.count("/token"), fake.count(":signBlob")), (1, 2));
}

/// With workload identity federation Valet exchanges another issuer's token at Google's STS, and the result for a
/// service account's token.
#[tokio::test]
async fn token_of_another_issuer_is_exchanged_at_googles_sts() {
    let scratch = Scratch::new("federation").unwrap();
    let token = scratch.write("token", "first\n").unwrap();
    let fake = Fake::start(|call, _| match call.path.as_str() {
        "/v1/token" => {
            let body = String::from_utf8(call.body.clone()).unwrap();
            let field = |name: &str| {
                body.split('&')
                    .find_map(|p| p.strip_prefix(&format!("{name}=")))
                    .unwrap()
                    .to_owned()
            };
            assert_eq!(
                field("audience"),
                "%2F%2Fiam.googleapis.com%2Fprojects%2F1%2Flocations%2Fglobal"
            );
            assert_eq!(
                field("subject_token_type"),
                "urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt"
            );
            let federated = format!("federated-{}", field("subject_token"));
            Reply::json(
                200,
                json!({"access_token": federated, "expires_in": 3600, "token_type": "Bearer"}),
            )
        }
        path if path.ends_with(":generateAccessToken") => {
            let bearer = call.header("authorization").unwrap().replace("federated", "accounts");
            // The token expires soon, so Valet fetches a new one for each signature.
            let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
            Reply::json(
                200,
                json!({"accessToken": bearer.trim_start_matches("Bearer "), "expireTime": ends.to_string()}),
            )
        }
        _ => good(call),
    });
    let configuration = json!({
        "type": "external_account", "audience": "//iam.googleapis.com/projects/1/locations/global",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": format!("{}/v1/token", fake.url()),
        "service_account_impersonation_url": format!("{}/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken", fake.url()),
        "credential_source": {"file": token},
    });
    let file = scratch.write("configuration.json", configuration.to_string()).unwrap();
    let of = |file: std::path::PathBuf| {
        from_environment(|name| (name == "GOOGLE_APPLICATION_CREDENTIALS").then(|| file.display().to_string()))
    };
    let gcs = store(json!({}), of(file.clone()), Some(&fake.url()));
    let put = request("a", upload(UploadMode::Put, Overwrite::Forbid));
    let signed = gcs.sign(&put).await.unwrap().flat();
    assert!(
        signed
            .url
            .expose()
            .contains("X-Goog-Credential=test-iam-credentials%40")
    );
    scratch.write("token", "second").unwrap();
    gcs.sign(&put).await.unwrap();
    let presented: Vec<_> = fake
        .calls()
        .iter()
        .filter(|c| c.path.ends_with(":signBlob"))
        .map(|c| c.header("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(presented, ["Bearer accounts-first", "Bearer accounts-second"]);

    // Valet reports a problem with the token when it needs the token, and the message shows nothing of the content.
    std::fs::remove_file(&token).unwrap();
    let said = gcs.sign(&put).await.unwrap_err().to_string();
    assert!(said.contains("cannot be read") && !said.contains("accounts-"), "{said}");
    for (bend, part) in [
        (json!({"token_url": "http://marker.example/"}), "token_url"),
        (
            json!({"credential_source": {"url": "http://marker/"}}),
            "does not name a file",
        ),
        (json!({"audience": null}), "is not the configuration"),
        (json!({"type": "marker"}), "service_account"),
    ] {
        let mut configuration = configuration.clone();
        crate::world::merge(&mut configuration, bend);
        configuration["credential_source"]
            .as_object_mut()
            .unwrap()
            .retain(|name, _| part != "does not name a file" || name != "file");
        scratch.write("configuration.json", configuration.to_string()).unwrap();
        let said = store(json!({}), of(file.clone()), None)
            .credentials_expire()
            .await
            .unwrap_err()
            .to_string();
        assert!(said.contains(part) && !said.contains("marker"), "{said}");
    }
    let none = from_environment(|name| (name == "GOOGLE_APPLICATION_CREDENTIALS").then(|| "/nowhere".into()));
    let said = store(json!({}), none, None)
        .credentials_expire()
        .await
        .unwrap_err()
        .to_string();
    assert!(said.contains("cannot be read"), "{said}");
}
