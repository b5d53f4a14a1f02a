use std::sync::Mutex;

use futures::FutureExt;

use super::*;

/// A simulated store that answers requests from a table.
struct Store<F> {
    answer: F,
    sent: Mutex<Vec<(Base, Variant)>>,
}

impl<F: Fn(Base, Variant, usize) -> (u16, &'static str) + Sync> Sender for Store<F> {
    type Error = ();

    fn send(&self, base: Base, variant: Variant) -> BoxFuture<'_, Result<ProbeAnswer, ()>> {
        let mut sent = self.sent.lock().unwrap();
        let (status, code) = (self.answer)(base, variant, sent.len());
        sent.push((base, variant));
        std::future::ready(Ok(ProbeAnswer {
            status,
            code: code.into(),
        }))
        .boxed()
    }
}

fn upload(answer: impl Fn(Base, Variant, usize) -> (u16, &'static str) + Sync) -> UnsignedHeaders {
    let store = Store {
        answer,
        sent: Mutex::default(),
    };
    by_upload(&store).now_or_never().unwrap().unwrap()
}

fn download(answer: impl Fn(Base, Variant, usize) -> (u16, &'static str) + Sync) -> UnsignedHeaders {
    let store = Store {
        answer,
        sent: Mutex::default(),
    };
    let found = by_download(&store).now_or_never().unwrap().unwrap();
    let sent = store.sent.into_inner().unwrap();
    assert!(sent.iter().all(|(base, _)| *base == Base::Download), "{sent:?}");
    found
}

const BROKEN: (u16, &str) = (400, "BadDigest");
const DENIED: (u16, &str) = (403, "AccessDenied");
const NONE: (u16, &str) = (404, "NoSuchKey");

fn is_unknown(found: &UnsignedHeaders) -> bool {
    matches!(found, UnsignedHeaders::Unknown(_))
}

#[test]
fn refused_unsigned_headers_are_reported_as_refused() {
    for refusal in [
        DENIED,
        (403, "SignatureDoesNotMatch"),
        (400, "InvalidRequest"),
        (401, ""),
    ] {
        let found = upload(|_, variant, _| match variant {
            Variant::Plain => BROKEN,
            Variant::Copying | Variant::Marked => refusal,
        });
        assert_eq!(found, UnsignedHeaders::Refused, "{refusal:?}");
    }
}

#[test]
fn copy_of_an_absent_object_shows_that_the_header_is_obeyed() {
    let found = upload(|_, variant, _| if variant == Variant::Copying { NONE } else { BROKEN });
    assert_eq!(found, UnsignedHeaders::Obeyed);
}

/// A store can refuse every request, for example because of a wrong clock, missing permissions or an outage. It then
/// refuses the request with the unsigned header and the request without it.
#[test]
fn a_refusal_counts_only_if_the_request_is_accepted_without_the_header() {
    for always in [
        (403, "AccessDenied"),
        (403, "RequestTimeTooSkewed"),
        (403, "SignatureDoesNotMatch"),
        (400, "ExpiredToken"),
        (400, "InvalidRequest"),
        (401, ""),
        (404, "NoSuchBucket"),
        (429, "SlowDown"),
        (501, "NotImplemented"),
        (503, "ServiceUnavailable"),
    ] {
        let found = upload(|_, _, _| always);
        assert!(is_unknown(&found), "{always:?}: {found:?}");
        assert!(is_unknown(&download(|_, _, _| always)), "{always:?}");
    }
}

/// The signed URL can expire, or somebody can change the clock, while the probe runs.
#[test]
fn a_refusal_does_not_count_if_the_request_is_refused_afterwards() {
    for last_good in 0..4 {
        let found = upload(|_, variant, n| match variant {
            _ if n > last_good => DENIED,
            Variant::Plain => BROKEN,
            _ => DENIED,
        });
        assert_eq!(
            found == UnsignedHeaders::Refused,
            last_good == 3,
            "{last_good}: {found:?}"
        );
    }
}

/// The store refuses the copy because the credentials are not allowed to read the copy source. The probe must not
/// conclude that the store refuses the unsigned header.
#[test]
fn a_copy_that_is_not_permitted_is_no_refusal_of_the_header() {
    let found = upload(|_, variant, _| if variant == Variant::Copying { DENIED } else { BROKEN });
    assert!(is_unknown(&found), "{found:?}");
}

#[test]
fn store_without_the_feature_has_an_unknown_result() {
    for odd in [
        (501, "NotImplemented"),
        (405, ""),
        (409, ""),
        (429, "SlowDown"),
        (500, ""),
    ] {
        let found = upload(|_, variant, _| if variant == Variant::Plain { BROKEN } else { odd });
        assert!(is_unknown(&found), "{odd:?}: {found:?}");
    }
}

/// A store that ignores unsigned headers stores the body of the request. The signed URL allows this.
#[test]
fn ignored_unsigned_header_counts_as_refused() {
    // The result does not depend on whether the store checks the MD5.
    assert_eq!(upload(|_, _, _| (200, "")), UnsignedHeaders::Refused);
    let found = upload(|base, _, _| if base == Base::Upload { (200, "") } else { BROKEN });
    assert_eq!(found, UnsignedHeaders::Refused);
    let obeys = upload(|base, variant, _| match (base, variant) {
        (Base::Upload, Variant::Copying) => NONE,
        (Base::Upload, _) => (200, ""),
        _ => BROKEN,
    });
    assert_eq!(obeys, UnsignedHeaders::Obeyed);
}

#[test]
fn download_decides_the_result_if_uploads_are_not_permitted() {
    let found = upload(|base, variant, _| match (base, variant) {
        (Base::Download, Variant::Plain) => NONE,
        _ => DENIED,
    });
    assert_eq!(found, UnsignedHeaders::Refused);
    let obeys = upload(|base, _, _| if base == Base::Download { NONE } else { DENIED });
    assert_eq!(obeys, UnsignedHeaders::Obeyed);
}

#[test]
fn download_with_unsigned_header_is_reported_as_refused_or_obeyed() {
    for control in [NONE, (200, ""), (206, ""), (416, "InvalidRange")] {
        let refuses = download(|_, variant, _| if variant == Variant::Plain { control } else { DENIED });
        assert_eq!(refuses, UnsignedHeaders::Refused, "{control:?}");
        assert_eq!(download(|_, _, _| control), UnsignedHeaders::Obeyed, "{control:?}");
    }
    // If the credentials are not allowed to list object keys, the store gives this answer for every object key.
    assert!(is_unknown(&download(|_, _, _| DENIED)));
}

#[test]
fn answers_to_repeated_write_once_uploads_map_to_results() {
    let of = |answers: &[(u16, &str)]| {
        let answers: Vec<_> = answers
            .iter()
            .map(|(status, code)| ProbeAnswer {
                status: *status,
                code: (*code).into(),
            })
            .collect();
        match write_once(&answers) {
            WriteOnce::Enforced => "enforced",
            WriteOnce::Missing(_) => "missing",
            WriteOnce::Unknown(_) => "unknown",
        }
    };
    for (answers, expected) in [
        (&[(412, "PreconditionFailed")][..], "enforced"),
        (&[(200, ""), (412, "PreconditionFailed")], "enforced"),
        (&[(200, ""), (200, ""), (412, "")], "enforced"),
        (&[(200, ""), (200, ""), (200, "")], "missing"),
        (&[(501, "NotImplemented")], "missing"),
        (&[(400, "InvalidArgument")], "missing"),
        (&[(200, ""), (409, "ConditionalRequestConflict")], "unknown"),
        (&[(403, "AccessDenied")], "unknown"),
        (&[(503, "SlowDown")], "unknown"),
        (&[], "unknown"),
    ] {
        assert_eq!(of(answers), expected, "{answers:?}");
    }
}
