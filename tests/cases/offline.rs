//! Tests of what `valet sign` signs for each input: the URL has exactly the bytes of `spec.key`, and botocore
//! computes the same signature.

use std::{collections::BTreeMap, process::Command, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use valet_harness::{FormCheck, Tools, UrlCheck, process, verify_form, verify_urls};

use crate::{VALET, input};

const ACCESS_KEY: &str = "AKIAEXAMPLE";
const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const AZURE_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==";

/// Signs an input with these environment variables. Returns the Secret's data, or the error message.
fn sign(name: &str, environment: &[(&str, &str)]) -> Result<BTreeMap<String, String>, String> {
    let mut command = process::clean(Command::new(VALET));
    command
        .args(["sign", "--output=json", "--filename=-"])
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", "/nonexistent")
        .envs(environment.iter().copied());
    let output = process::run(command, input(name, 9000).as_bytes(), Duration::from_secs(60)).unwrap();
    if !output.status.success() {
        return Err(output.stderr);
    }
    let secret: Secret = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: k8s_openapi::ByteString| String::from_utf8(value.0).unwrap();
    Ok(secret.data.unwrap().into_iter().map(|(k, v)| (k, text(v))).collect())
}

/// An S3 input that results in a signed URL.
struct Url {
    file: &'static str,
    access_key: &'static str,
    region: &'static str,
    host: &'static str,
    /// The URL's path, percent-decoded once.
    path: &'static str,
    signed_headers: &'static [&'static str],
}

const URLS: [Url; 15] = {
    const LOCAL: &str = "127.0.0.1:9000";
    const fn url(file: &'static str, path: &'static str, signed_headers: &'static [&'static str]) -> Url {
        Url {
            file,
            access_key: ACCESS_KEY,
            region: "us-east-1",
            host: LOCAL,
            path,
            signed_headers,
        }
    }
    const fn amazon(file: &'static str, region: &'static str, host: &'static str, path: &'static str) -> Url {
        Url {
            file,
            access_key: ACCESS_KEY,
            region,
            host,
            path,
            signed_headers: &["host"],
        }
    }
    [
        url(
            "S01-special-characters",
            "/media/tenants/a b/x+y=z[1] (copy)!'*~&$@,;?#%.bin",
            &["host"],
        ),
        Url {
            access_key: "AKIA+EXAMPLE=",
            ..url("S03-access-key-with-plus", "/media/a/b.txt", &["host"])
        },
        url("S04-unicode-nfc", "/media/uploads/caf\u{e9}-\u{ed}.pdf", &["host"]),
        url("S04-unicode-nfd", "/media/uploads/cafe\u{301}-i\u{301}.pdf", &["host"]),
        url("S08-empty-object", "/media/flags/_SUCCESS", &["content-length", "host"]),
        url(
            "S10-no-default-checksum",
            "/media/u/pet.json",
            &["content-type", "host"],
        ),
        url("S11-if-none-match", "/media/u/once.bin", &["host", "if-none-match"]),
        Url {
            region: "auto",
            host: "acct0123456789.r2.cloudflarestorage.com",
            ..url(
                "S13-r2-auto",
                "/media/u/a.png",
                &["content-type", "host", "if-none-match"],
            )
        },
        amazon(
            "S14-access-point-alias",
            "us-west-2",
            "reports-ap-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias.s3.us-west-2.amazonaws.com",
            "/q3/report.pdf",
        ),
        amazon(
            "S23-china",
            "cn-north-1",
            "media.s3.cn-north-1.amazonaws.com.cn",
            "/u/f.bin",
        ),
        amazon(
            "S23-eusc",
            "eusc-de-east-1",
            "media.s3.eusc-de-east-1.amazonaws.eu",
            "/u/f.bin",
        ),
        amazon(
            "S23-govcloud",
            "us-gov-west-1",
            "media.s3.us-gov-west-1.amazonaws.com",
            "/u/f.bin",
        ),
        amazon(
            "S23-iso",
            "us-iso-east-1",
            "media.s3.us-iso-east-1.c2s.ic.gov",
            "/u/f.bin",
        ),
        Url {
            host: "localhost:9000",
            ..url("S26-public-endpoint", "/media/u/big.bin", &["host"])
        },
        Url {
            host: "media.s3.us-east-1.amazonaws.com",
            ..url(
                "S22-object-lock-md5",
                "/u/f.bin",
                &["content-md5", "host", "if-none-match"],
            )
        },
    ]
};

#[test]
fn s3_url_has_exact_key_bytes_and_the_signature_of_botocore() {
    let tools = Tools::locate().unwrap();
    let mut checks = Vec::new();
    for case in &URLS {
        let environment = [
            ("AWS_ACCESS_KEY_ID", case.access_key),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ];
        let data = sign(case.file, &environment).unwrap_or_else(|e| panic!("{}: {e}", case.file));
        let headers = data["headers"].lines().filter_map(|line| line.split_once(": "));
        checks.push(UrlCheck {
            url: data["url"].clone(),
            method: data["method"].clone(),
            headers: headers.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            access_key: case.access_key.into(),
            secret_key: SECRET_KEY.into(),
            session_token: None,
            region: case.region.into(),
        });
    }
    for (case, verdict) in URLS.iter().zip(verify_urls(&tools, &checks).unwrap()) {
        let file = case.file;
        // The client counts the bytes of an empty upload, so the signature check does not know the Content-Length.
        let is_counted = case.signed_headers.contains(&"content-length");
        assert!(verdict.valid || is_counted, "{file}: {}", verdict.why);
        assert_eq!(verdict.host, case.host, "{file}");
        assert_eq!(String::from_utf8_lossy(&verdict.path), case.path, "{file}");
        assert_eq!(verdict.signed_headers, case.signed_headers, "{file}");
        assert_eq!(verdict.access_key, case.access_key, "{file}");
        // The query has no checksum, and no other parameter that the grant does not ask for.
        let extra: Vec<_> = verdict.query.iter().map(|(name, _)| name.as_str()).collect();
        assert!(extra.is_empty() || extra == ["x-id"], "{file}: {extra:?}");
    }
}

#[test]
fn s3_form_with_session_has_the_token_as_field_and_as_condition() {
    let tools = Tools::locate().unwrap();
    let end = (Timestamp::now() + SignedDuration::from_hours(2)).to_string();
    let environment = [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_SESSION_TOKEN", "to/ken+="),
        ("AWS_CREDENTIAL_EXPIRATION", &end),
    ];
    let cases = [
        ("S17-form-with-session", "us-east-1", Some("to/ken+=")),
        ("S13-r2-auto-form", "auto", None),
        ("S22-object-lock-form-md5", "us-east-1", None),
        ("S22-object-lock-form-sha", "us-east-1", None),
    ];
    for (file, region, session) in cases {
        let environment = &environment[..if session.is_some() { 4 } else { 2 }];
        let data = sign(file, environment);
        // Some stores do not enforce an MD5 in a form. The form is either signed correctly or refused with a reason.
        let data = match data {
            Ok(data) => data,
            Err(why) => {
                assert!(
                    file.contains("lock-form-md5") && why.contains("checksumMD5"),
                    "{file}: {why}"
                );
                continue;
            }
        };
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&data["fields.json"]).unwrap();
        let fields: Vec<_> = fields
            .into_iter()
            .map(|(name, value)| (name, value.as_str().unwrap().to_owned()))
            .collect();
        let token = fields.iter().find(|(name, _)| name == "x-amz-security-token");
        assert_eq!(token.map(|(_, value)| value.as_str()), session, "{file}");
        let check = FormCheck {
            fields,
            bucket: "media".into(),
            access_key: ACCESS_KEY.into(),
            secret_key: SECRET_KEY.into(),
            session_token: session.map(str::to_owned),
            region: region.into(),
        };
        let verdict = verify_form(&tools, &check).unwrap();
        assert!(verdict.valid, "{file}: {}", verdict.why);
    }
}

#[test]
fn url_for_one_week_expires_with_the_session_that_signs_it() {
    let end = Timestamp::from_second(Timestamp::now().as_second() + 20 * 60).unwrap();
    let end_text = end.to_string();
    let data = sign(
        "S18-week-with-session",
        &[
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_SESSION_TOKEN", "token"),
            ("AWS_CREDENTIAL_EXPIRATION", &end_text),
        ],
    )
    .unwrap();
    let expiry: Timestamp = data["expiry"].parse().unwrap();
    assert!(expiry <= end, "the URL expires at {expiry}, after the session at {end}");
    assert!(expiry > Timestamp::now(), "{expiry}");
    let seconds: i64 = query(&data["url"], "X-Amz-Expires").parse().unwrap();
    assert!(seconds <= 20 * 60, "{seconds}");
}

#[test]
fn directory_bucket_is_refused_because_of_its_name() {
    let why = sign(
        "S16-directory-bucket-mock",
        &[("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)],
    )
    .expect_err("a directory bucket signs with sessions of five minutes");
    assert!(why.contains("directory bucket"), "{why}");
}

#[test]
fn azure_url_has_the_name_encoded_once_and_no_raw_plus() {
    for (file, name) in [
        ("A01-special-characters", "reports/2024 q1#final + 100%.csv"),
        ("A02-percent-encoded-name", "exports/123456%2E.json"),
        ("A03-punctuation", "f/test!\"#$%&'()*+,-:;<=>@[]^_`{|}~.bin"),
    ] {
        let url = sign(file, &[("AZURE_STORAGE_KEY", AZURE_KEY)]).unwrap()["url"].clone();
        let (path, query) = url.split_once('?').unwrap();
        assert_eq!(
            decoded(path),
            format!("https://mediastore.blob.core.windows.net/media/{name}"),
            "{file}"
        );
        assert!(!query.contains('+'), "{file}: a raw + in the signature");
    }
}

#[test]
fn azure_directory_upload_is_refused_with_an_azure_remedy() {
    let why = sign("A05-directory-upload", &[("AZURE_STORAGE_KEY", AZURE_KEY)])
        .expect_err("Azure issues no temporary credentials");
    assert!(!why.contains("spec.s3") && !why.contains("assumeRole"), "{why}");
}

#[test]
fn gcs_url_has_the_key_encoded_once_and_signs_type_and_range() {
    let key = format!("{}/tests/fixtures/google/service-account.json", env!("VALET_ROOT"));
    let environment = [("GOOGLE_APPLICATION_CREDENTIALS", key.as_str())];
    let data = sign("G04-special-characters", &environment).unwrap();
    let path = data["url"].split('?').next().unwrap();
    assert!(
        decoded(path).ends_with("/tenants/a b/x+y=z[1] (copy)!'*~&$@,;?#%.bin"),
        "{path}"
    );
    let data = sign("G03-content-type", &environment).unwrap();
    assert_eq!(
        query(&data["url"], "X-Goog-SignedHeaders"),
        "content-type;host;x-goog-content-length-range;x-goog-if-generation-match"
    );
    for header in ["content-type: video/mp4", "x-goog-content-length-range: 1,1000"] {
        assert!(data["headers"].to_lowercase().contains(header), "{}", data["headers"]);
    }
}

/// A query parameter of a URL, decoded.
fn query(url: &str, name: &str) -> String {
    let query = url.split_once('?').unwrap().1;
    let value = query.split('&').find_map(|p| p.strip_prefix(&format!("{name}=")));
    decoded(value.unwrap_or_else(|| panic!("the URL has no {name}")))
}

/// Percent-decodes once.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |b: Option<u8>| char::from(b.unwrap()).to_digit(16).unwrap() as u8;
        bytes.push(match byte {
            b'%' => hex(rest.next()) << 4 | hex(rest.next()),
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}
