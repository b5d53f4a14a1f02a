//! Tests of failures in workload identity federation: Google's STS, the service account's token, and the operator's
//! own token. The configuration is what gcloud 528 writes, with the addresses of a fake server.

use serde_json::{Value, json};
use valet::{
    api::{Overwrite, Reason, UploadMode},
    core::SignError,
    provider::Signer,
    provider::gcs::{Gcs, from_environment},
};
use valet_harness::Scratch;

use crate::{
    ACCOUNT, Flat, HANG,
    fake::{Fake, Reply},
    identity::good,
    request, store, upload,
};

const STS: &str = "/v1/token";
const ACCOUNTS: &str = ":generateAccessToken";

/// The configuration that `gcloud iam workload-identity-pools create-cred-config --service-account
/// --credential-source-file` writes.
fn configuration(fake: &Fake, token: &std::path::Path) -> Value {
    json!({
        "universe_domain": "googleapis.com",
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/prov",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{}{STS}", fake.url()),
        "credential_source": {"file": token},
        "service_account_impersonation_url": format!("{}/v1/projects/-/serviceAccounts/{ACCOUNT}{ACCOUNTS}", fake.url()),
    })
}

fn by_federation(scratch: &Scratch, fake: &Fake, configuration: &Value, more: Value) -> Gcs {
    let file = scratch.write("configuration.json", configuration.to_string()).unwrap();
    let variable = |name: &str| (name == "GOOGLE_APPLICATION_CREDENTIALS").then(|| file.display().to_string());
    store(more, from_environment(variable), Some(&fake.url()))
}

fn put() -> valet::core::AllowedRequest {
    request("a", upload(UploadMode::Put, Overwrite::Forbid))
}

/// A fake server. Requests whose path ends with `end` receive `reply`, and all others a good answer.
fn stand_in(end: &'static str, reply: Option<Reply>) -> Fake {
    Fake::start(move |call, _| match &reply {
        Some(reply) if call.path.ends_with(end) => reply.clone(),
        _ if call.path == STS => Reply::json(
            200,
            json!({"access_token": "federated-marker", "expires_in": 3600, "token_type": "Bearer"}),
        ),
        _ if call.path.ends_with(ACCOUNTS) => {
            assert_eq!(call.header("authorization"), Some("Bearer federated-marker"));
            let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3600);
            Reply::json(
                200,
                json!({"accessToken": "account-marker", "expireTime": ends.to_string()}),
            )
        }
        _ => good(call),
    })
}

fn credentials(error: SignError) -> (Reason, String) {
    match error {
        SignError::Credentials { reason, message } => {
            assert!(!message.contains("marker"), "{message}");
            (reason, message)
        }
        other => panic!("{other:?}"),
    }
}

async fn problem(end: &'static str, reply: Reply) -> (Reason, String) {
    let scratch = Scratch::new("federation").unwrap();
    let token = scratch.write("token", "subject-marker").unwrap();
    let fake = stand_in(end, Some(reply));
    let gcs = by_federation(&scratch, &fake, &configuration(&fake, &token), json!({}));
    let signed = tokio::time::timeout(HANG, gcs.sign(&put())).await;
    credentials(
        signed
            .expect("the request ends in time")
            .expect_err("this request cannot be signed"),
    )
}

#[tokio::test]
async fn temporary_failures_and_invalid_answers_are_store_unreachable() {
    for end in [STS, ACCOUNTS] {
        for reply in [
            Reply::text(500, "marker"),
            Reply::text(503, "marker"),
            Reply::text(429, "marker"),
            Reply::Bytes(b""),
            Reply::Bytes(b"marker\r\n\r\n"),
            Reply::text(200, ""),
            Reply::text(200, "marker"),
            Reply::json(200, json!(["marker"])),
            Reply::json(
                200,
                json!({"access_token": "", "accessToken": "", "expires_in": 9, "expireTime": "2099-01-01T00:00:00Z"}),
            ),
            Reply::json(
                200,
                json!({"access_token": "mar\nker", "accessToken": "mar\nker", "expires_in": 9, "expireTime": "2099-01-01T00:00:00Z"}),
            ),
            // The token has expired, or its expiry time is missing or invalid.
            Reply::json(
                200,
                json!({"access_token": "marker", "accessToken": "marker", "expires_in": -1, "expireTime": "2020-01-01T00:00:00Z"}),
            ),
            Reply::json(
                200,
                json!({"access_token": "marker", "accessToken": "marker", "expires_in": "soon", "expireTime": "soon"}),
            ),
            Reply::json(200, json!({"access_token": "marker", "accessToken": "marker"})),
        ] {
            let (reason, message) = problem(end, reply.clone()).await;
            assert_eq!(reason, Reason::StoreUnreachable, "{end} {reply:?}: {message}");
        }
    }
    let silence = |end| async move { problem(end, Reply::Silence).await };
    let (sts, accounts) = tokio::join!(silence(STS), silence(ACCOUNTS));
    for (reason, message) in [sts, accounts] {
        assert_eq!(reason, Reason::StoreUnreachable);
        assert!(
            message.contains("no answer within") || message.contains("in time"),
            "{message}"
        );
    }
}

/// A refusal that only a person can correct has a message with the error code, but without the server's text.
#[tokio::test]
async fn refusal_message_has_the_error_code_without_the_servers_text() {
    let grant =
        json!({"error": "invalid_grant", "error_description": "The audience in ID Token [marker] does not match"});
    let (reason, message) = problem(STS, Reply::json(400, grant)).await;
    assert_eq!(reason, Reason::CredentialsRefused);
    assert!(
        message.contains("invalid_grant") && message.contains("workload identity pool"),
        "{message}"
    );
    let denied = json!({"error": {"code": 403, "message": "marker", "status": "PERMISSION_DENIED"}});
    let (reason, message) = problem(ACCOUNTS, Reply::json(403, denied)).await;
    assert_eq!(reason, Reason::CredentialsRefused);
    assert!(message.contains("403"), "{message}");
    // Valet follows no redirect, because it would send the operator's token along.
    let away = Reply::Answer(
        302,
        vec![("Location", "http://127.0.0.1:1/marker".into())],
        String::new(),
    );
    assert_eq!(problem(STS, away.clone()).await.0, Reason::CredentialsRefused);
    assert_eq!(problem(ACCOUNTS, away).await.0, Reason::CredentialsRefused);
}

/// Valet reads the operator's own token from a text file or from JSON, and reports an empty or invalid file.
#[tokio::test]
async fn operator_token_is_read_from_a_text_file_or_from_json() {
    let scratch = Scratch::new("federation").unwrap();
    let token = scratch.write("token", "").unwrap();
    let fake = stand_in("", None);
    let plain = configuration(&fake, &token);
    let mut json_source = plain.clone();
    json_source["credential_source"]["format"] = json!({"type": "json", "subject_token_field_name": "token"});
    for (configuration, content, part) in [
        (&plain, "", "is empty"),
        (&plain, " \n", "is empty"),
        (&json_source, "subject-marker", "is not JSON"),
        (&json_source, r#"{"other": "marker"}"#, "is not JSON"),
        (&json_source, r#"{"token": ["marker"]}"#, "is not JSON"),
        (&json_source, r#"{"token": ""}"#, "is empty"),
    ] {
        scratch.write("token", content).unwrap();
        let gcs = by_federation(&scratch, &fake, configuration, json!({}));
        let (reason, message) = credentials(gcs.sign(&put()).await.expect_err(part));
        assert_eq!(reason, Reason::CredentialsInvalid, "{message}");
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(fake.count(STS), 0, "no request was sent without a token");
    for (configuration, content) in [(&plain, "subject\n"), (&json_source, r#"{"token": "subject"}"#)] {
        scratch.write("token", content).unwrap();
        let gcs = by_federation(&scratch, &fake, configuration, json!({}));
        let signed = gcs.sign(&put()).await.unwrap().flat();
        assert!(
            signed
                .url
                .expose()
                .contains("X-Goog-Credential=test-iam-credentials%40")
        );
        let asked = fake.calls().into_iter().rfind(|c| c.path == STS).unwrap();
        assert!(
            String::from_utf8(asked.body)
                .unwrap()
                .ends_with("subject_token=subject")
        );
    }
}

/// An identity of the workload identity pool without a service account signs as the account in the store's `signAs`.
/// Without `signAs` the message says to set it.
#[tokio::test]
async fn identity_without_service_account_signs_as_the_sign_as_account() {
    let scratch = Scratch::new("federation").unwrap();
    let token = scratch.write("token", "subject").unwrap();
    let fake = stand_in("", None);
    let mut direct = configuration(&fake, &token);
    direct
        .as_object_mut()
        .unwrap()
        .remove("service_account_impersonation_url");
    direct["token_info_url"] = json!("https://sts.googleapis.com/v1/introspect");
    let gcs = by_federation(&scratch, &fake, &direct, json!({"credentials": {"signAs": ACCOUNT}}));
    gcs.sign(&put()).await.unwrap();
    assert_eq!(fake.count(ACCOUNTS), 0);
    let asked = fake
        .calls()
        .into_iter()
        .rfind(|c| c.path.ends_with(":signBlob"))
        .unwrap();
    assert_eq!(asked.header("authorization"), Some("Bearer federated-marker"));
    let gcs = by_federation(&scratch, &fake, &direct, json!({}));
    let (_, message) = credentials(gcs.sign(&put()).await.expect_err("there is no account that can sign"));
    assert!(message.contains("signAs"), "{message}");
}
