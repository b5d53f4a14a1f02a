use jiff::{SignedDuration, Timestamp};

use super::lifetime::{add, second};

/// The maximum number of characters that a message quotes from an invalid annotation.
const LONGEST_QUOTE: usize = 40;

/// The value of the annotation `renew-requested-at`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RenewRequest {
    /// The annotation is not set.
    #[default]
    None,
    /// A user requests a new credential. The value is the time in the annotation. Valet replaces a credential that was
    /// signed before this time.
    At(Timestamp),
    /// The annotation is set, but its value is not a valid time.
    Invalid(String),
}

impl RenewRequest {
    /// Parses the annotation `renew-requested-at`. The function rounds up a fraction of a second, because times in
    /// signatures are whole seconds.
    pub fn parse(annotation: Option<&str>) -> Self {
        let Some(text) = annotation else {
            return Self::None;
        };
        match text.parse::<Timestamp>() {
            Ok(t) if t.subsec_nanosecond() == 0 => Self::At(t),
            Ok(t) => Self::At(add(second(t), SignedDuration::from_secs(1))),
            Err(_) => Self::Invalid(text.chars().take(LONGEST_QUOTE).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_request_is_a_time_or_is_quoted_as_invalid() {
        let at = |t: &str| RenewRequest::At(t.parse().unwrap());
        for (text, read) in [
            ("2027-01-15T08:00:00Z", at("2027-01-15T08:00:00Z")),
            ("2027-01-15T09:00:00+01:00", at("2027-01-15T08:00:00Z")),
            ("2027-01-15T08:00:00.000000001Z", at("2027-01-15T08:00:01Z")),
            (
                "2027-01-15T08:00:00",
                RenewRequest::Invalid("2027-01-15T08:00:00".into()),
            ),
            ("now", RenewRequest::Invalid("now".into())),
            ("", RenewRequest::Invalid(String::new())),
        ] {
            assert_eq!(RenewRequest::parse(Some(text)), read);
        }
        assert_eq!(RenewRequest::parse(None), RenewRequest::None);
        let RenewRequest::Invalid(quoted) = RenewRequest::parse(Some(&"ü".repeat(9999))) else {
            panic!("the value is not a time");
        };
        assert_eq!(quoted.chars().count(), LONGEST_QUOTE);
    }
}
