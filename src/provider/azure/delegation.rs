//! User delegation keys of Azure ("Get User Delegation Key" in the Azure Storage REST API). If a store has no account
//! key, the operator's identity signs with a user delegation key.

use jiff::{SignedDuration, Timestamp};

use super::sas::{DelegationKey, SharedKey, second};

/// The lifetime of a user delegation key that Valet requests from Azure: 7 days minus 15 minutes. Azure allows at
/// most 7 days, measured with Azure's clock. The 15 minutes are a margin, because Azure's clock can be behind the
/// operator's clock.
pub const LIFETIME: SignedDuration = SignedDuration::from_secs(7 * 86_400 - 15 * 60);
/// Valet fetches a new user delegation key after one hour. With a new key, Valet can sign a SAS for nearly the
/// maximum lifetime. URLs that an old key signed stay valid.
pub const REPLACE_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// Builds the body of the request for a user delegation key. The start time of the key is `now` minus `back_dated`. A
/// SAS that Valet signs at the time `now` has the same start time.
pub fn send_request(now: Timestamp, back_dated: SignedDuration) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><KeyInfo><Start>{}</Start><Expiry>{}</Expiry></KeyInfo>",
        second(now - back_dated),
        second(now + LIFETIME)
    )
}

/// A user delegation key and the time range in which it is valid.
#[derive(Clone, Debug)]
pub struct Delegation {
    pub key: DelegationKey,
    pub start: Timestamp,
    pub expiry: Timestamp,
}

/// Parses Azure's answer to the request for a user delegation key. Returns `None` if the answer contains no user
/// delegation key.
pub fn read(body: &[u8]) -> Option<Delegation> {
    let text = std::str::from_utf8(body).ok()?;
    let text = xml_element(text, "UserDelegationKey")?;
    let of = |name: &str| {
        let value = xml_element(text, name)?;
        let is_plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && !b"<&".contains(&b));
        is_plain.then(|| value.to_owned())
    };
    let (start, expiry) = (of("SignedStart")?, of("SignedExpiry")?);
    Some(Delegation {
        start: start.parse().ok()?,
        expiry: expiry.parse().ok()?,
        key: DelegationKey {
            object: of("SignedOid")?,
            tenant: of("SignedTid")?,
            start,
            expiry,
            service: of("SignedService").filter(|s| s == "b")?,
            version: of("SignedVersion")?,
            value: SharedKey::parse(&of("Value")?)?,
        },
    })
}

/// Returns the content of the first XML element with this name. The function uses no XML parser, because Azure's
/// answer is a single element with seven values.
fn xml_element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(inner, _)| inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><UserDelegationKey><SignedOid>f81d4fae-7dec-11d0-a765-00a0c91e6bf6</SignedOid><SignedTid>72f988bf-86f1-41af-91ab-2d7cd011db47</SignedTid><SignedStart>2026-01-02T03:04:05Z</SignedStart><SignedExpiry>2026-01-09T02:49:05Z</SignedExpiry><SignedService>b</SignedService><SignedVersion>2023-11-03</SignedVersion><Value>VURFTEVHQVRJT04tMDEyMzQ1Njc4OWFiY2RlZi1LRVk=</Value></UserDelegationKey>";

    #[test]
    fn user_delegation_key_is_parsed() {
        let delegation = read(ANSWER.as_bytes()).unwrap();
        assert_eq!(delegation.expiry.to_string(), "2026-01-09T02:49:05Z");
        assert_eq!(delegation.key.object, "f81d4fae-7dec-11d0-a765-00a0c91e6bf6");
        assert!(!format!("{delegation:?}").contains("VURFTEVHQVRJ"));
    }

    #[test]
    fn invalid_user_delegation_key_is_rejected() {
        for (what, by) in [
            ("<SignedOid>f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "<SignedOid>"),
            ("<SignedTid>", "<SignedTid>\n"),
            ("2026-01-09", "soon"),
            ("<SignedService>b", "<SignedService>q"),
            ("VURFTEVHQVRJ", "&lt;"),
            ("VURFTEVHQVRJT04tMDEyMzQ1Njc4OWFiY2RlZi1LRVk=", "short"),
            ("</UserDelegationKey>", ""),
            ("<SignedVersion>2023-11-03</SignedVersion>", ""),
        ] {
            let bad = ANSWER.replace(what, by);
            assert_ne!(bad, ANSWER, "{what} is there");
            assert!(read(bad.as_bytes()).is_none(), "{what}");
        }
        assert!(read(b"\xff").is_none() && read(b"").is_none());
        for end in 0..ANSWER.len() {
            assert!(read(&ANSWER.as_bytes()[..end]).is_none(), "cut at {end}");
        }
    }

    #[test]
    fn user_delegation_key_request_ends_within_seven_days() {
        let now: Timestamp = "2026-01-02T03:04:05.9Z".parse().unwrap();
        let body = send_request(now, SignedDuration::from_mins(15));
        assert!(
            body.contains("<Start>2026-01-02T02:49:05Z</Start><Expiry>2026-01-09T02:49:05Z</Expiry>"),
            "{body}"
        );
    }
}
