//! Tests of Azure identities: how Valet requests their tokens, how long it caches them, and what it does when a
//! server is slow, unreachable or sends invalid answers.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use valet::{
    api::Reason,
    core::SignError,
    net::EgressPolicy,
    provider::azure::{AzureBlob, Credentials, Identity, Source},
    provider::{ObjectReader, Prober, Signer},
};
use valet_harness::{
    Scratch,
    fake::{Asked, Fake, Reply, delegation_key, granted, granted_as_text},
};

use crate::access::access;

/// The time limit for a server that does not answer, far longer than Valet may wait even on a busy machine.
const HANG: Duration = Duration::from_secs(120);

pub const MARKER: &str = "marker-of-what-nobody-may-see";

fn workload(authority: &str, file: PathBuf) -> Source {
    Source::Workload {
        authority: authority.to_owned(),
        tenant: "72f988bf".into(),
        client: "app-1".into(),
        file,
    }
}

fn token_file(scratch: &Scratch) -> PathBuf {
    scratch.write("token", format!("{MARKER}.abc\n")).unwrap()
}

pub fn provider(endpoint: &str, source: Source) -> AzureBlob {
    let store = json!({"account": "mediastore", "container": "media", "endpoint": endpoint});
    let identity = Credentials::Identity(Identity::new(source).into());
    AzureBlob::new(serde_json::from_value(store).unwrap(), identity, None)
}

/// A user delegation key that is valid from 15 minutes ago until `hours` from now.
pub fn key_for(hours: i64) -> Reply {
    let at = |seconds: i64| {
        let time = Timestamp::now() + SignedDuration::from_secs(seconds);
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    delegation_key(&at(-900), &at(hours * 3600))
}

pub fn credentials(error: SignError) -> (Reason, String) {
    match error {
        SignError::Credentials { reason, message } => {
            assert!(!message.contains("marker"), "{message}");
            (reason, message)
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn workload_identity_token_request_has_the_expected_form() {
    let scratch = Scratch::new("identity").unwrap();
    let file = token_file(&scratch);
    let fake = Fake::start(|asked| match asked.target.as_str() {
        "/72f988bf/oauth2/v2.0/token" => granted(3600),
        _ => key_for(160),
    });
    let provider = provider(&fake.endpoint(), workload(&format!("{}/", fake.endpoint()), file));
    let end = provider.credentials_expire().await.unwrap().expect("it has an expiry");
    let hours = end.duration_since(Timestamp::now()).as_hours();
    assert!((159..=160).contains(&hours), "{end}");
    let asked = fake.asked();
    let [token, key] = asked.as_slice() else {
        panic!("{asked:?}")
    };
    assert_eq!(
        (token.method.as_str(), token.header("content-type")),
        ("POST", Some("application/x-www-form-urlencoded"))
    );
    assert_eq!(
        token.body,
        format!(
            "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={MARKER}.abc&client_id=app-1&scope=https%3A//storage.azure.com/.default"
        )
    );
    assert_eq!(key.target, "/?restype=service&comp=userdelegationkey");
    assert_eq!(key.header("x-ms-version"), Some("2023-11-03"));
    assert!(key.header("authorization").is_some_and(|a| a.starts_with("Bearer ey")));
    assert!(key.body.contains("<KeyInfo><Start>"), "{}", key.body);
    // Valet caches the token and the user delegation key.
    provider.credentials_expire().await.unwrap();
    assert_eq!(fake.asked().len(), 2);
}

/// A tenant may choose the endpoint of an ObjectStore, so Valet sends the operator's token to no such endpoint.
#[tokio::test]
async fn operator_token_is_not_sent_to_the_endpoint_of_a_tenant() {
    let scratch = Scratch::new("identity").unwrap();
    let fake = Fake::start(|asked| match asked.target.as_str() {
        "/72f988bf/oauth2/v2.0/token" => granted(3600),
        _ => key_for(160),
    });
    let store = json!({"account": "mediastore", "container": "media", "endpoint": fake.endpoint()});
    let identity = Identity::new(workload(&fake.endpoint(), token_file(&scratch)));
    let allowed = EgressPolicy::new(["127.0.0.0/8".parse().unwrap()]);
    let provider = AzureBlob::new(
        serde_json::from_value(store).unwrap(),
        Credentials::Identity(identity.into()),
        Some(allowed),
    );
    let (reason, message) = credentials(provider.credentials_expire().await.unwrap_err());
    assert_eq!(reason, Reason::CredentialsInvalid);
    assert!(message.contains("spec.azureBlob.endpoint"), "{message}");
    provider.probe().await;
    provider.head(&access("a")).await;
    assert!(fake.asked().iter().all(|a| a.header("authorization").is_none()));
}

#[tokio::test]
async fn metadata_server_token_request_has_the_expected_form() {
    for (client, more) in [(None, ""), (Some("app 1"), "&client_id=app%201")] {
        let fake = Fake::start(|_| granted_as_text(3600));
        let identity = Identity::new(Source::Managed {
            endpoint: fake.endpoint(),
            client: client.map(str::to_owned),
        });
        identity.token().await.unwrap();
        identity.token().await.unwrap();
        let asked = fake.asked();
        assert_eq!(asked.len(), 1);
        assert_eq!(
            asked[0].target,
            format!(
                "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A//storage.azure.com/{more}"
            )
        );
        assert_eq!(asked[0].header("metadata"), Some("true"));
    }
}

#[tokio::test]
async fn token_is_fetched_again_before_it_expires() {
    for (expires_in, asked) in [(3600, 1), (301, 1), (299, 3)] {
        let fake = Fake::start(move |_| granted_as_text(expires_in));
        let identity = Identity::new(Source::Managed {
            endpoint: fake.endpoint(),
            client: None,
        });
        for _ in 0..3 {
            identity.token().await.unwrap();
        }
        assert_eq!(fake.asked().len(), asked, "{expires_in}");
    }
}

/// While the token source is unreachable Valet uses the previous token until it expires. After a refusal it does not.
#[tokio::test]
async fn previous_token_is_used_while_its_source_is_unreachable() {
    for (later, still) in [
        (|| Reply::HangUp, true),
        (|| Reply::Text(503, String::new()), true),
        (|| Reply::Raw("nonsense\r\n\r\n"), true),
        (
            || Reply::Text(400, json!({"error": "invalid_request"}).to_string()),
            false,
        ),
    ] as [(fn() -> Reply, bool); 4]
    {
        let times = AtomicUsize::new(0);
        let fake = Fake::start(move |_| match times.fetch_add(1, Ordering::Relaxed) {
            0 => granted_as_text(200),
            _ => later(),
        });
        let identity = Identity::new(Source::Managed {
            endpoint: fake.endpoint(),
            client: None,
        });
        let first = identity.token().await.unwrap();
        let then = identity.token().await;
        assert_eq!(then.ok().as_deref() == Some(first.as_str()), still);
    }
}

/// The name of a case, the server's reply, and the expected reason.
type Case = (&'static str, Box<dyn Fn(&Asked) -> Reply + Send + Sync>, Reason);

#[tokio::test]
async fn invalid_answers_of_identity_servers_map_to_reasons() {
    let scratch = Scratch::new("identity").unwrap();
    let file = token_file(&scratch);
    let answer = |json: serde_json::Value| Reply::Text(200, json.to_string());
    let cases: Vec<Case> = vec![
        ("slow", Box::new(|_| Reply::Silence), Reason::StoreUnreachable),
        ("away", Box::new(|_| Reply::HangUp), Reason::StoreUnreachable),
        (
            "5xx",
            Box::new(|_| Reply::Text(503, MARKER.into())),
            Reason::StoreUnreachable,
        ),
        (
            "throttled",
            Box::new(|_| Reply::Text(429, MARKER.into())),
            Reason::StoreUnreachable,
        ),
        (
            "no HTTP",
            Box::new(|_| Reply::Raw("SSH-2.0-OpenSSH\r\n\r\n")),
            Reason::StoreUnreachable,
        ),
        (
            "no JSON",
            Box::new(|_| Reply::Text(200, MARKER.into())),
            Reason::StoreUnreachable,
        ),
        (
            "empty",
            Box::new(|_| Reply::Text(200, String::new())),
            Reason::StoreUnreachable,
        ),
        (
            "no token",
            Box::new(move |_| answer(json!({"token_type": "Bearer", "expires_in": 3600}))),
            Reason::StoreUnreachable,
        ),
        (
            "over already",
            Box::new(move |_| answer(json!({"token_type": "Bearer", "expires_in": 0, "access_token": MARKER}))),
            Reason::StoreUnreachable,
        ),
        (
            "a header in the token",
            Box::new(move |_| {
                answer(json!({"token_type": "Bearer", "expires_in": 3600, "access_token": "marker\r\nX: y"}))
            }),
            Reason::StoreUnreachable,
        ),
        (
            "another kind of token",
            Box::new(move |_| answer(json!({"token_type": "mac", "expires_in": 3600, "access_token": MARKER}))),
            Reason::StoreUnreachable,
        ),
        (
            "huge",
            Box::new(|_| Reply::Text(200, "x".repeat(200_000))),
            Reason::StoreUnreachable,
        ),
        (
            "moved",
            Box::new(|_| Reply::With(302, vec![("location", "http://127.0.0.1:1/".into())], String::new())),
            Reason::CredentialsRefused,
        ),
        (
            "refused",
            Box::new(|_| {
                let said = json!({"error": "invalid_client", "error_description": format!("AADSTS700213: No matching {MARKER}")});
                Reply::Text(401, said.to_string())
            }),
            Reason::CredentialsRefused,
        ),
    ];
    let mut running = Vec::new();
    for (name, reply, wanted) in cases {
        let fake = Fake::start(reply);
        let identity = Identity::new(workload(&fake.endpoint(), file.clone()));
        running.push(tokio::spawn(async move {
            let asked = tokio::time::timeout(HANG, identity.token());
            let token = asked
                .await
                .unwrap_or_else(|_| panic!("{name}: the request did not time out"));
            let (reason, message) = credentials(token.expect_err(name));
            assert_eq!(reason, wanted, "{name}: {message}");
            let says = match name {
                "slow" => "did not return a token in time",
                "refused" => "(401, invalid_client, AADSTS700213)",
                _ => "",
            };
            assert!(message.contains(says), "{name}: {message}");
            drop(fake);
        }));
    }
    for one in running {
        one.await.unwrap();
    }
}

/// Valet repeats a request that failed once.
#[tokio::test]
async fn failed_identity_request_is_repeated_once() {
    let times = AtomicUsize::new(0);
    let fake = Fake::start(move |_| match times.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::HangUp,
        1 => granted_as_text(3600),
        2 => Reply::Text(500, String::new()),
        _ => key_for(100),
    });
    let source = Source::Managed {
        endpoint: fake.endpoint(),
        client: None,
    };
    assert!(provider(&fake.endpoint(), source).credentials_expire().await.is_ok());
}

#[tokio::test]
async fn invalid_service_account_token_file_leads_to_no_request() {
    let scratch = Scratch::new("identity").unwrap();
    let fake = Fake::start(|_| granted(3600));
    let mut cases = vec![(scratch.join("not-there"), "cannot be read")];
    for (name, text, says) in [
        ("empty", " \n".to_owned(), "is empty"),
        ("long", "x".repeat(70_000), "longer than 64 KiB"),
        ("lines", "marker\nmarker".to_owned(), "contains no token"),
    ] {
        cases.push((scratch.write(name, text).unwrap(), says));
    }
    for (file, says) in cases {
        let identity = Identity::new(workload(&fake.endpoint(), file));
        let (reason, message) = credentials(identity.token().await.expect_err(says));
        assert_eq!(reason, Reason::CredentialsInvalid);
        assert!(message.contains(says), "{message}");
    }
    assert!(fake.asked().is_empty());
}

/// Valet sends neither a service account token nor an identity's token over an unencrypted connection.
#[tokio::test]
async fn token_is_not_sent_over_an_unencrypted_connection() {
    let scratch = Scratch::new("identity").unwrap();
    let identity = Identity::new(workload("http://192.0.2.1", token_file(&scratch)));
    let (reason, message) = credentials(identity.token().await.expect_err("the token is not sent"));
    assert_eq!(reason, Reason::CredentialsInvalid);
    assert!(message.contains("is not a valid https URL"), "{message}");

    let fake = Fake::start(|_| granted_as_text(3600));
    let source = Source::Managed {
        endpoint: fake.endpoint(),
        client: None,
    };
    let provider = provider("http://192.0.2.1", source);
    let (reason, message) = credentials(provider.credentials_expire().await.expect_err("the token is not sent"));
    assert_eq!(reason, Reason::CredentialsInvalid);
    assert!(message.contains("only over https"), "{message}");
}
