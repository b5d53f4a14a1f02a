//! Tests that nothing that `valet sign` signs outlives the credentials that signed it.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{ACCESS_KEY, amazons, cluster_store, grant, scratch, sign, text};

const WEEK: i64 = 604_800;
/// The assumed lifetime of temporary credentials with an unknown expiry time, in seconds.
const UNKNOWN: i64 = 15 * 60;

/// The lifetime in the signature for a grant of one week, in seconds, or the error message.
fn seconds(env: &[(&str, &str)]) -> Result<(i64, String), String> {
    let store = cluster_store(amazons(json!({})));
    let week = grant("DownloadGrant", &store, json!({"expirationSeconds": WEEK}));
    let signed = sign(&[store, week], &[], env);
    if !signed.is_signed {
        return Err(signed.said);
    }
    let seconds = signed
        .out
        .split(['?', '&'])
        .find_map(|part| part.strip_prefix("X-Amz-Expires="));
    Ok((
        seconds.expect("it has an expiry").trim().parse().expect("a number"),
        signed.said,
    ))
}

fn within(seconds: i64, most: i64) -> bool {
    // The safety margin and the duration of the test reduce the lifetime.
    (most - 30..=most).contains(&seconds)
}

#[test]
fn url_does_not_outlive_a_session_of_the_environment() {
    let end = (Timestamp::now() + SignedDuration::from_mins(20)).to_string();
    let with = |more: &[(&'static str, &str)]| {
        let env: Vec<_> = ACCESS_KEY.iter().copied().chain(more.iter().copied()).collect();
        seconds(&env)
    };
    let session = ("AWS_SESSION_TOKEN", "t");
    let (cut, said) = with(&[session, ("AWS_CREDENTIAL_EXPIRATION", &end)]).unwrap();
    assert!(
        within(cut, 20 * 60) && said.contains("earlier than requested"),
        "{cut}: {said}"
    );
    // Some tools also set the expiry time for an access key without a session token.
    let (cut, _) = with(&[("AWS_CREDENTIAL_EXPIRATION", &end)]).unwrap();
    assert!(within(cut, 20 * 60), "{cut}");
    let (cut, said) = with(&[session]).unwrap();
    assert!(
        within(cut, UNKNOWN) && said.contains("their expiry time is unknown"),
        "{cut}: {said}"
    );
    assert_eq!(with(&[]).unwrap().0, WEEK, "an access key without an expiry");
    for (end, part) in [("tomorrow", "invalid"), ("2026-01-02T03:04:05Z", "expired at")] {
        let said = with(&[session, ("AWS_CREDENTIAL_EXPIRATION", end)]).unwrap_err();
        assert!(said.contains(part), "{end}: {said}");
    }
}

#[test]
fn url_does_not_outlive_a_session_of_a_profile() {
    let folder = scratch();
    let end = (Timestamp::now() + SignedDuration::from_mins(20)).to_string();
    for (name, more, most) in [
        ("lasting", String::new(), WEEK),
        ("session", "aws_session_token = t\n".to_owned(), UNKNOWN),
        (
            "known",
            format!("aws_session_token = t\naws_credential_expiration = {end}\n"),
            20 * 60,
        ),
        (
            "saml",
            format!("aws_session_token = t\nx_security_token_expires = {end}\n"),
            20 * 60,
        ),
    ] {
        let text_of = format!("[default]\naws_access_key_id = ASIA\naws_secret_access_key = s\n{more}");
        let file = folder.write(name, text_of.as_bytes()).unwrap();
        let (cut, said) = seconds(&[("AWS_SHARED_CREDENTIALS_FILE", text(&file))]).unwrap();
        assert!(within(cut, most), "{name}: {cut}: {said}");
    }
}

/// A directory bucket is refused, because its own sessions live only five minutes.
#[test]
fn directory_bucket_is_refused_because_of_its_name() {
    for bucket in ["scratch--use1-az4--x-s3", "scratch--use1-az4--xa-s3"] {
        let mut store = cluster_store(amazons(
            json!({"endpoint": "http://127.0.0.1:1", "addressingStyle": "Path"}),
        ));
        store["spec"]["s3"]["bucket"] = json!(bucket);
        let signed = sign(&[store.clone(), super::download(&store)], &[], &ACCESS_KEY);
        assert!(
            !signed.is_signed && signed.said.contains("InvalidStore") && signed.said.contains("directory bucket"),
            "{bucket}: {}",
            signed.said
        );
    }
    let mut store = cluster_store(amazons(json!({})));
    store["spec"]["s3"]["bucket"] = json!("scratch-x-s3");
    let signed = sign(&[store.clone(), super::download(&store)], &[], &ACCESS_KEY);
    assert!(signed.is_signed, "{}", signed.said);
}
