//! Parses a service account key in the JSON format of Google Cloud, and signs with it.

use std::fmt;

use aws_lc_rs::{
    digest::{Digest, SHA256, digest},
    rand::SystemRandom,
    signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde::Deserialize;

use crate::{core::SignError, net::client::is_private};

/// A service account key. The `Debug` output of this type does not show the private key.
pub struct ServiceAccountKey {
    /// The account has this email address, for example `valet@project.iam.gserviceaccount.com`.
    pub email: String,
    pub id: Option<String>,
    /// The endpoint at this URL issues access tokens for the service account key.
    pub token_uri: http::Uri,
    pair: RsaKeyPair,
}

impl fmt::Debug for ServiceAccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccountKey")
            .field("email", &self.email)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "type")]
    kind: Option<String>,
    client_email: Option<String>,
    private_key: Option<String>,
    private_key_id: Option<String>,
    token_uri: Option<String>,
}

/// The default token endpoint. Valet uses it if a service account key file names no token endpoint.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

impl ServiceAccountKey {
    /// Parses a key file that `gcloud iam service-accounts keys create` writes.
    ///
    /// # Errors
    /// Returns a sentence that describes what is wrong with the file. The sentence contains no text from the file.
    pub fn parse(json: &[u8]) -> Result<Self, &'static str> {
        // Valet does not show the parser's error, because the error can contain parts of the private key.
        let file: File =
            serde_json::from_slice(json).map_err(|_| "the content is not the JSON of a service account key")?;
        match file.kind.as_deref() {
            Some("service_account") => {}
            Some(
                "external_account"
                | "external_account_authorized_user"
                | "authorized_user"
                | "impersonated_service_account",
            ) => {
                return Err(
                    "the type of the file is not service_account, and the file contains no private key; create a service account key with: gcloud iam service-accounts keys create",
                );
            }
            _ => {
                return Err(
                    "the file has no \"type\": \"service_account\"; create the file with: gcloud iam service-accounts keys create",
                );
            }
        }
        let email = file.client_email.unwrap_or_default();
        if !email.bytes().all(|b| b.is_ascii_graphic() && b != b'/') || !email.contains('@') {
            return Err("the client_email of the service account key is missing or is not an email address");
        }
        let pem = file.private_key.ok_or("the service account key has no private_key")?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "the private_key of the service account key is not in the format PKCS #8 PEM (-----BEGIN PRIVATE KEY-----)")?;
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())
            .map_err(|_| "the private_key of the service account key is not an RSA key of 2048 bits or more")?;
        let token_uri: http::Uri = file
            .token_uri
            .as_deref()
            .unwrap_or(TOKEN_URI)
            .parse()
            .map_err(|_| "the token_uri of the service account key is not a valid URL")?;
        if !is_private(&token_uri) {
            return Err("the token_uri of the service account key is not an https URL");
        }
        Ok(Self {
            email,
            id: file.private_key_id,
            token_uri,
            pair,
        })
    }

    /// Returns a fingerprint of the public key. A different fingerprint shows that somebody replaced the service
    /// account key.
    pub fn print(&self) -> Digest {
        digest(&SHA256, self.pair.public_key().as_ref())
    }

    /// Signs a message with RSASSA-PKCS1-v1_5 and SHA-256.
    ///
    /// # Errors
    /// Returns [`SignError::Refused`] if the machine cannot provide random numbers. The signing operation needs random
    /// numbers for RSA blinding.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| {
                SignError::Refused(
                    "signing with the service account key failed, because the machine did not provide random numbers"
                        .into(),
                )
            })?;
        Ok(signature)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const KEY: &str = include_str!("../../../tests/fixtures/google/service-account.json");

    fn bent(bend: impl Fn(&mut Value)) -> Result<ServiceAccountKey, &'static str> {
        let mut file: Value = serde_json::from_str(KEY).unwrap();
        bend(&mut file);
        ServiceAccountKey::parse(file.to_string().as_bytes())
    }

    #[test]
    fn service_account_key_is_parsed_and_not_shown() {
        let key = ServiceAccountKey::parse(KEY.as_bytes()).unwrap();
        assert_eq!(
            key.email,
            "test-iam-credentials@dummy-project-id.iam.gserviceaccount.com"
        );
        assert_eq!(key.token_uri, "https://oauth2.googleapis.com/token");
        assert_eq!(
            format!("{key:?}"),
            "ServiceAccountKey { email: \"test-iam-credentials@dummy-project-id.iam.gserviceaccount.com\", .. }"
        );
        assert_eq!(bent(|f| f["token_uri"] = Value::Null).unwrap().token_uri, TOKEN_URI);
    }

    #[test]
    fn error_about_service_account_key_contains_no_values() {
        let says = |bend: &dyn Fn(&mut Value)| bent(bend).unwrap_err();
        for (said, part) in [
            (
                says(&|f| f["type"] = json!("authorized_user")),
                "the type of the file is not service_account",
            ),
            (says(&|f| f["type"] = json!("marker")), "\"type\""),
            (says(&|f| f["client_email"] = json!("")), "client_email"),
            (says(&|f| f["client_email"] = json!("a@b/marker")), "client_email"),
            (says(&|f| f["client_email"] = json!("a@b\nmarker")), "client_email"),
            (says(&|f| f["private_key"] = Value::Null), "no private_key"),
            (says(&|f| f["private_key"] = json!("marker")), "PKCS #8"),
            (
                says(&|f| {
                    f["private_key"] = json!("-----BEGIN PRIVATE KEY-----\nbWFya2Vy\n-----END PRIVATE KEY-----\n")
                }),
                "not an RSA key",
            ),
            (
                says(&|f| f["token_uri"] = json!("http://marker.example/token")),
                "not an https URL",
            ),
            (says(&|f| *f = json!(["marker"])), "not the JSON"),
        ] {
            assert!(
                said.contains(part) && !said.contains("marker") && !said.contains("bWFya2Vy"),
                "{said}"
            );
        }
        assert!(
            ServiceAccountKey::parse(b"{\"private_key\": \"marker")
                .unwrap_err()
                .contains("not the JSON")
        );
        assert!(bent(|f| f["token_uri"] = json!("http://127.0.0.1:1/token")).is_ok());
    }
}
