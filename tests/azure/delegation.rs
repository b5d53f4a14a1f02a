//! Tests of user delegation keys, which sign for an identity, and of the store's answers to an identity.

use jiff::{SignedDuration, Timestamp};
use valet::{
    api::{OperationSpec, Reason, ResponseHeaders},
    core::{Lifetime, ObjectFact, ObjectKey, SigningRequest},
    provider::{Finding, ObjectReader, Prober, Signer, azure::Source},
};
use valet_harness::fake::{Fake, Reply, granted_as_text};

use crate::{
    access::{access, allowed},
    identities::{MARKER, credentials, key_for, provider},
};

/// Valet signs no SAS that outlives its user delegation key, even if the request asks for it.
#[tokio::test]
async fn sas_does_not_outlive_its_user_delegation_key() {
    let fake = Fake::start(|asked| match asked.method.as_str() {
        "GET" => granted_as_text(3600),
        _ => key_for(1),
    });
    let source = Source::Managed {
        endpoint: fake.endpoint(),
        client: None,
    };
    let provider = provider(&fake.endpoint(), source);
    let end = provider.credentials_expire().await.unwrap().expect("it has an expiry");
    for (after, is_signed) in [(0, true), (1, false), (3600, false)] {
        let request = SigningRequest {
            key: ObjectKey::parse("k", 1024).unwrap(),
            operation_spec: OperationSpec::Download {
                mode: Default::default(),
                version: None,
                response: ResponseHeaders::default(),
            },
            lifetime: Lifetime {
                issued_at: Timestamp::from_second(Timestamp::now().as_second()).unwrap(),
                expires_at: end + SignedDuration::from_secs(after),
            },
            holder: "web.report".into(),
            upload: None,
        };
        let signed = provider.sign(&allowed(request)).await;
        assert_eq!(signed.is_ok(), is_signed, "{after}: {signed:?}");
    }
}

/// Each answer to a request for a user delegation key leads to the right reason.
#[tokio::test]
async fn delegation_key_answers_map_to_reasons() {
    type Case = (&'static str, fn() -> Reply, Reason);
    let cases: Vec<Case> = vec![
        (
            "no role",
            || {
                Reply::With(
                    403,
                    vec![("x-ms-error-code", "AuthorizationPermissionMismatch".into())],
                    String::new(),
                )
            },
            Reason::CredentialsRefused,
        ),
        (
            "no good token",
            || Reply::Text(401, String::new()),
            Reason::CredentialsRefused,
        ),
        (
            "no Azure",
            || Reply::Text(404, MARKER.into()),
            Reason::CredentialsInvalid,
        ),
        ("busy", || Reply::Text(503, MARKER.into()), Reason::StoreUnreachable),
        ("no XML", || Reply::Text(200, MARKER.into()), Reason::StoreUnreachable),
        ("away", || Reply::HangUp, Reason::StoreUnreachable),
        (
            "cut short",
            || Reply::Raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n<UserDelegationKey>"),
            Reason::StoreUnreachable,
        ),
    ];
    for (name, reply, wanted) in cases {
        let fake = Fake::start(move |asked| match asked.method.as_str() {
            "GET" => granted_as_text(3600),
            _ => reply(),
        });
        let source = Source::Managed {
            endpoint: fake.endpoint(),
            client: None,
        };
        let provider = provider(&fake.endpoint(), source);
        let (reason, message) = credentials(provider.credentials_expire().await.expect_err(name));
        assert_eq!(reason, wanted, "{name}: {message}");
        match name {
            "no role" => assert!(
                message.contains("Storage Blob Delegator") && message.contains("AuthorizationPermissionMismatch"),
                "{message}"
            ),
            // The next request uses another token.
            "no good token" => {
                let _ = provider.credentials_expire().await;
                assert_eq!(fake.asked().iter().filter(|a| a.method == "GET").count(), 2);
            }
            _ => {}
        }
        let probed = provider.probe().await;
        let is_passing = wanted == Reason::StoreUnreachable;
        assert_eq!(
            matches!(probed.finding, Finding::Unreachable(_)),
            is_passing,
            "{name}: {probed:?}"
        );
    }
}

/// The status shows what a HEAD request returns. Valet corrects the store's times for clock skew.
#[tokio::test]
async fn head_of_blob_returns_its_fields_and_skew_corrected_time() {
    let head = |status: u16, more: Vec<(&'static str, String)>| {
        let fake = Fake::start(move |asked| match asked.method.as_str() {
            "HEAD" => Reply::With(status, more.clone(), String::new()),
            _ => granted_as_text(3600),
        });
        let source = Source::Managed {
            endpoint: fake.endpoint(),
            client: None,
        };
        (provider(&fake.endpoint(), source), fake)
    };
    let key = access("a/ü b");
    let text = |name: &'static str, value: &str| (name, value.to_owned());
    // The store's clock is an hour ahead, and by that clock the blob is ten seconds old.
    let ahead = |seconds: i64| {
        let time = Timestamp::now() + SignedDuration::from_secs(3600 + seconds);
        time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    };
    let (provider, fake) = head(
        200,
        vec![
            text("etag", "\"0x8DB\""),
            text("content-type", "image/png"),
            text("content-md5", "sZRqySSS0jR8YjW00mERhA=="),
            text("x-ms-version-id", "2027-01-15T08:00:00.1234567Z"),
            ("last-modified", ahead(-10)),
            ("date", ahead(0)),
        ],
    );
    let ObjectFact::Present { object, modified_at } = provider.head(&key).await else {
        panic!("it is there");
    };
    assert_eq!(object.size, Some(0));
    assert_eq!(object.e_tag.as_deref(), Some("\"0x8DB\""));
    assert_eq!(object.content_type.as_deref(), Some("image/png"));
    assert_eq!(object.checksum_md5.as_deref(), Some("sZRqySSS0jR8YjW00mERhA=="));
    assert_eq!(object.version.as_deref(), Some("2027-01-15T08:00:00.1234567Z"));
    let age = Timestamp::now().duration_since(modified_at.unwrap()).as_secs();
    assert!((9..=14).contains(&age), "{age}");
    let asked = fake.asked();
    let look = asked
        .iter()
        .find(|a| a.method == "HEAD")
        .expect("the HEAD request has a result");
    assert_eq!(look.target, "/media/a/%C3%BC%20b");
    assert!(look.header("authorization").is_some_and(|a| a.starts_with("Bearer ")));

    for (status, code, wanted) in [
        (404, "BlobNotFound", "Absent"),
        (404, "", "Absent"),
        (404, "ContainerNotFound", "Unreachable"),
        (403, "AuthorizationPermissionMismatch", "Hidden"),
        (401, "", "Hidden"),
        (503, "ServerBusy", "Unreachable"),
        (302, "", "Unreachable"),
        (400, "", "Unreachable"),
    ] {
        let (provider, _fake) = head(status, vec![text("x-ms-error-code", code)]);
        let found = format!("{:?}", provider.head(&key).await);
        assert!(found.starts_with(wanted), "{status} {code}: {found}");
    }
}
