//! Fingerprints of a store: they change when Valet must sign all issued credentials again.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};

use crate::api::store::s3::S3Store;

/// Returns the fingerprint for [`crate::provider::Signer::fingerprint`].
pub fn of(store: &S3Store, public_endpoint: Option<&String>, credentials: &Credentials, salt: &str) -> String {
    let S3Store {
        bucket,
        region,
        addressing_style,
        ..
    } = store;
    let assume_role = store.credentials.as_ref().and_then(|c| c.assume_role.as_ref());
    let role = assume_role.map(|role| (&role.role_arn, &role.endpoint));
    let mut location = format!("{bucket}\n{region}\n{addressing_style:?}\n{public_endpoint:?}\n{role:?}");
    // The KMS key is part of the fingerprint, because a session works only if it is allowed to use this KMS key. If
    // the store has no KMS key, Valet adds nothing to the fingerprint.
    if let Some(key) = assume_role.and_then(|role| role.kms_key_arn.as_ref()) {
        location.push('\n');
        location.push_str(key);
    }
    fingerprint(credentials, &location, salt)
}

/// The number of hexadecimal digits of a fingerprint. With 16 digits, two different texts practically never have
/// equal fingerprints. The fingerprint is also too short for an attacker to confirm a guessed secret.
const DIGITS: usize = 16;

/// Computes the fingerprint of the store's settings (`location`) and of the credentials. The fingerprint is an AWS
/// signature. The date and the service name in this signature are invented, so no store accepts it. An attacker cannot
/// learn more about the credentials from the fingerprint than from a signed URL.
fn fingerprint(credentials: &Credentials, location: &str, salt: &str) -> String {
    let lasting = credentials.session_token().is_none() && credentials.expiry().is_none();
    let (id, secret) = match lasting {
        true => (credentials.access_key_id(), credentials.secret_access_key()),
        false => ("session", "session"),
    };
    let day = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let key = generate_signing_key(secret, day, "nowhere", "valet");
    let mut digits = calculate_signature(key, format!("{salt}\n{id}\n{location}").as_bytes());
    digits.truncate(DIGITS);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lasting(id: &str, secret: &str) -> Credentials {
        Credentials::new(id, secret, None, None, "test")
    }

    #[test]
    fn fingerprint_changes_with_access_key_and_not_with_the_session() {
        let first = fingerprint(&lasting("AKID", "secret"), "place", "salt");
        assert_eq!(first, fingerprint(&lasting("AKID", "secret"), "place", "salt"));
        assert!(first.len() == DIGITS && first.bytes().all(|b| b.is_ascii_hexdigit()));
        for other in [
            fingerprint(&lasting("AKIE", "secret"), "place", "salt"),
            fingerprint(&lasting("AKID", "secres"), "place", "salt"),
            fingerprint(&lasting("AKID", "secret"), "palace", "salt"),
            fingerprint(&lasting("AKID", "secret"), "place", "pepper"),
        ] {
            assert_ne!(first, other);
        }
        // The fingerprint does not depend on the session, because Valet replaces sessions often. After a new session
        // begins, an issued credential stays valid until the expiry that Valet recorded for it. Therefore Valet does
        // not need to re-sign the credential.
        let session = |n: &str| Credentials::new(n, n, Some(n.into()), None, "test");
        let one = fingerprint(&session("1"), "place", "salt");
        assert_eq!(one, fingerprint(&session("2"), "place", "salt"));
        assert_ne!(one, first);
    }
}
