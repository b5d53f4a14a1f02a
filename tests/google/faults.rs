//! Tests of token and signing endpoints that fail: slow, broken, expired or invalid answers.

use serde_json::{Value, json};
use valet::{
    api::{Overwrite, Reason, UploadMode},
    core::SignError,
    provider::Signer,
};

use crate::{
    HANG,
    fake::{Fake, RecordedRequest, Reply},
    identity::{by_google, good},
    request, upload,
};

fn put() -> valet::core::AllowedRequest {
    request("a", upload(UploadMode::Put, Overwrite::Forbid))
}

/// The reason and the message of a signing attempt. Requests whose path ends with `end` receive `reply`, and all
/// others a good answer.
async fn problem(end: &'static str, reply: Reply) -> (Reason, String) {
    let fake = Fake::start(move |call, _| {
        if call.path.ends_with(end) {
            reply.clone()
        } else {
            good(call)
        }
    });
    let signed = tokio::time::timeout(HANG, by_google(&fake).sign(&put())).await;
    match signed
        .expect("the request ends in time")
        .expect_err("this request cannot be signed")
    {
        SignError::Credentials { reason, message } => {
            assert!(
                !message.contains("marker") && !message.contains("127.0.0.1") || end == "/token",
                "{message}"
            );
            assert!(!message.contains("marker"), "{message}");
            (reason, message)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn temporary_failures_have_reason_store_unreachable() {
    for end in ["/token", "/email", ":signBlob"] {
        for reply in [
            Reply::text(500, "marker"),
            Reply::text(503, "marker"),
            Reply::text(429, "marker"),
            Reply::Bytes(b""),
            Reply::Bytes(b"marker\r\n\r\n"),
            Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"marker"),
        ] {
            let (reason, message) = problem(end, reply.clone()).await;
            assert_eq!(reason, Reason::StoreUnreachable, "{end} {reply:?}: {message}");
        }
    }
}

/// Invalid answers lead to the right reason.
#[tokio::test]
async fn invalid_answers_map_to_reasons() {
    let unreadable = [
        Reply::text(200, ""),
        Reply::text(200, "marker"),
        Reply::text(200, "[\"marker\"]"),
        Reply::text(200, &format!("{{\"access_token\": \"{}\"", "marker".repeat(20_000))),
    ];
    for reply in unreadable {
        for end in ["/token", ":signBlob"] {
            assert_eq!(
                problem(end, reply.clone()).await.0,
                Reason::StoreUnreachable,
                "{reply:?}"
            );
        }
    }
    for bad in [
        json!({"access_token": "", "expires_in": 3600}),
        json!({"access_token": "mar\nker", "expires_in": 3600}),
        json!({"access_token": "marker", "expires_in": 0}),
        json!({"access_token": "marker", "expires_in": -5}),
        json!({"access_token": "marker", "expires_in": "soon"}),
        json!({"access_token": "marker"}),
        json!({"access_token": "marker", "expires_in": 3600, "token_type": "MAC"}),
        json!({"expires_in": 3600}),
    ] {
        let (reason, message) = problem("/token", Reply::json(200, bad.clone())).await;
        assert_eq!(reason, Reason::StoreUnreachable, "{bad}: {message}");
    }
    for bad in [
        json!({}),
        json!({"signedBlob": "marker!"}),
        json!({"signedBlob": "bWFya2Vy"}),
        json!({"signedBlob": null}),
    ] {
        assert_eq!(
            problem(":signBlob", Reply::json(200, bad.clone())).await.0,
            Reason::StoreUnreachable,
            "{bad}"
        );
    }
}

/// If only an administrator can correct a refusal, the reason is not `StoreUnreachable`, and the message says what to
/// do.
#[tokio::test]
async fn permanent_refusals_have_a_reason_and_a_remedy() {
    let refusal = json!({"error": {"code": 403, "message": "marker", "status": "PERMISSION_DENIED"}});
    let (reason, message) = problem(":signBlob", Reply::json(403, refusal)).await;
    assert_eq!(reason, Reason::CredentialsRefused);
    assert!(message.contains("roles/iam.serviceAccountTokenCreator"), "{message}");
    let (reason, message) = problem(":signBlob", Reply::json(404, json!({"marker": 1}))).await;
    assert_eq!(reason, Reason::CredentialsRefused, "{message}");

    // Valet follows no redirect.
    let away = Reply::Answer(
        302,
        vec![("Location", "http://127.0.0.1:1/marker".into())],
        String::new(),
    );
    for end in ["/token", "/email", ":signBlob"] {
        let (reason, message) = problem(end, away.clone()).await;
        assert!(
            matches!(reason, Reason::CredentialsInvalid | Reason::CredentialsRefused),
            "{end}: {message}"
        );
    }

    let (reason, message) = problem("/token", Reply::text(404, "marker")).await;
    assert_eq!(reason, Reason::CredentialsInvalid);
    assert!(
        message.contains("workload identity") && message.contains("secretRef"),
        "{message}"
    );
    assert_eq!(
        problem("/token", Reply::text(403, "marker")).await.0,
        Reason::CredentialsInvalid
    );
    // Another server answers in place of the metadata server.
    let other = Reply::Answer(
        200,
        vec![],
        json!({"access_token": "marker", "expires_in": 3600}).to_string(),
    );
    let (reason, message) = problem("/token", other).await;
    assert_eq!(reason, Reason::CredentialsInvalid);
    assert!(message.contains("not Google's metadata server"), "{message}");

    // On GKE without a bound service account the pod has an identity, but one that cannot sign.
    for email in ["project.svc.id.goog", "default", "", "a@b", "@x.gserviceaccount.com"] {
        let (reason, message) = problem("/email", Reply::text(200, email)).await;
        assert_eq!(reason, Reason::CredentialsInvalid);
        assert!(message.contains("spec.gcs.credentials.signAs"), "{message}");
    }
}

#[tokio::test]
async fn request_to_a_silent_server_times_out() {
    let silence = |end| async move {
        let (reason, message) = problem(end, Reply::Silence).await;
        assert_eq!(reason, Reason::StoreUnreachable);
        assert!(
            message.contains("no answer within") || message.contains("in time"),
            "{message}"
        );
    };
    tokio::join!(silence("/token"), silence("/email"), silence(":signBlob"));
}

/// Valet repeats a request that failed once.
#[tokio::test]
async fn failed_request_is_repeated_once() {
    let fake = Fake::start(|call, before| {
        if before % 2 == 0 {
            Reply::text(503, "")
        } else {
            good(call)
        }
    });
    by_google(&fake).sign(&put()).await.unwrap();
    assert_eq!(fake.calls().len(), 6);
}

/// Valet fetches a new token when the old one expires soon, and uses the old one while no new one is available. It
/// never uses a token again after a refusal.
#[tokio::test]
async fn token_is_renewed_before_expiry_and_dropped_after_a_refusal() {
    let token = |n: usize, seconds: i64| json!({"access_token": format!("t{n}"), "expires_in": seconds, "token_type": "Bearer"});
    let presented = |fake: &Fake| -> Vec<String> {
        let calls = fake.calls().into_iter().filter(|c| c.path.ends_with(":signBlob"));
        calls
            .map(|c| c.header("authorization").unwrap().replace("Bearer ", ""))
            .collect()
    };
    let fake = Fake::start(move |call: &RecordedRequest, before| match call.path.as_str() {
        path if path.ends_with("/token") => match before {
            // The fourth signature tries twice to fetch a token, and then uses the previous token, which has not
            // expired.
            b if b >= 6 => Reply::text(500, ""),
            b => Reply::json(200, token(b, 120)),
        },
        _ => good(call),
    });
    let gcs = by_google(&fake);
    for _ in 0..4 {
        gcs.sign(&put()).await.unwrap();
    }
    assert_eq!(presented(&fake), ["t1", "t3", "t5", "t5"].map(str::to_owned).map(|t| t));

    // After status 401 Valet fetches another token for the next request.
    let fake = Fake::start(move |call: &RecordedRequest, before| match call.path.as_str() {
        path if path.ends_with("/token") => Reply::json(200, token(before, 3600)),
        path if path.ends_with(":signBlob") && call.header("authorization") == Some("Bearer t1") => {
            Reply::text(401, "marker")
        }
        _ => good(call),
    });
    let gcs = by_google(&fake);
    let first = gcs.sign(&put()).await;
    assert!(
        matches!(
            first,
            Err(SignError::Credentials {
                reason: Reason::StoreUnreachable,
                ..
            })
        ),
        "{first:?}"
    );
    gcs.sign(&put()).await.unwrap();
    assert_eq!(presented(&fake).len(), 2);

    // Valet limits the lifetime of a token. A huge number does not overflow.
    let fake = Fake::start(move |call: &RecordedRequest, before| match call.path.as_str() {
        path if path.ends_with("/token") => Reply::json(200, token(before, i64::MAX)),
        _ => good(call),
    });
    by_google(&fake).sign(&put()).await.unwrap();
}

/// The token endpoint in the service account key refuses the key.
#[tokio::test]
async fn service_account_key_that_google_refuses_is_reported() {
    let refusal = json!({"error": "invalid_grant", "error_description": "Invalid JWT Signature. marker"});
    let fake = Fake::start(move |_, _| Reply::json(400, refusal.clone()));
    let file: Value = serde_json::from_str(crate::KEY).unwrap();
    let mut file = file;
    file["token_uri"] = format!("{}/token", fake.url()).into();
    let key = valet::provider::gcs::ServiceAccountKey::parse(file.to_string().as_bytes()).unwrap();
    let settings = json!({"credentials": {"signAs": "other@p.iam.gserviceaccount.com"}});
    let gcs = crate::store(
        settings,
        valet::provider::gcs::Source::Key(key.into()),
        Some(&fake.url()),
    );
    match gcs.credentials_expire().await {
        Err(SignError::Credentials { reason, message }) => {
            assert_eq!(reason, Reason::CredentialsRefused);
            assert!(
                message.contains("invalid_grant") && !message.contains("marker"),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
}
