//! Formats temporary credentials for S3 clients: as environment variables and as files that the AWS SDKs read (AWS
//! SDKs and Tools Reference Guide, "Environment variables list" and "Shared config and credentials files").

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Region},
    presigning::PresigningConfig,
};

use super::form;
use crate::{
    api::AddressingStyle,
    core::{Entries, SignError, SigningRequest},
};

/// The location of the bucket for which the temporary credentials are valid.
pub struct BucketLocation<'a> {
    pub bucket: &'a str,
    pub region: &'a str,
    /// The scheme, host and port that workloads use, without the bucket.
    pub endpoint: String,
    /// The style says whether the host or the path of a URL contains the name of the bucket.
    pub style: AddressingStyle,
}

/// Returns Amazon's endpoint for a region. The AWS SDK returns an endpoint only together with a bucket, so the
/// function removes the bucket's name.
pub async fn amazons_endpoint(region: &str, bucket: &str) -> Result<String, SignError> {
    let nobody = Credentials::new("-", "-", None, None, "nobody");
    let client = Client::from_conf(
        aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .credentials_provider(nobody)
            .force_path_style(true)
            .disable_s3_express_session_auth(true)
            .build(),
    );
    let presigning =
        PresigningConfig::expires_in(Duration::from_secs(1)).map_err(|e| SignError::Refused(e.to_string()))?;
    let address = form::action(&client, bucket, presigning).await?;
    let endpoint = address.expose().strip_suffix(&format!("/{bucket}"));
    let endpoint = endpoint.ok_or_else(|| {
        SignError::Refused(format!(
            "Valet could not determine the S3 endpoint of region {region}; check spec.s3.region"
        ))
    })?;
    Ok(endpoint.to_owned())
}

/// Returns the entries of the grant Secret. The names of the entries do not depend on the grant.
pub fn secret_entries(credentials: &Credentials, location: &BucketLocation<'_>, request: &SigningRequest) -> Entries {
    let (id, secret) = (credentials.access_key_id(), credentials.secret_access_key());
    let token = credentials.session_token().unwrap_or_default();
    let BucketLocation {
        bucket,
        region,
        endpoint,
        style,
    } = location;
    let style = match style {
        AddressingStyle::VirtualHost => "virtual",
        AddressingStyle::Path => "path",
    };
    let config =
        format!("[default]\nregion = {region}\nendpoint_url = {endpoint}\ns3 =\n    addressing_style = {style}\n");
    let file = format!(
        "[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\naws_session_token = {token}\n"
    );
    Entries::new(vec![
        ("AWS_ACCESS_KEY_ID", id.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
        ("AWS_SESSION_TOKEN", token.to_owned()),
        ("AWS_CREDENTIAL_EXPIRATION", request.lifetime.expires_at.to_string()),
        ("AWS_REGION", (*region).to_owned()),
        // The AWS CLI and boto3 read the region from this variable.
        ("AWS_DEFAULT_REGION", (*region).to_owned()),
        ("AWS_ENDPOINT_URL_S3", endpoint.clone()),
        ("bucket", (*bucket).to_owned()),
        ("key", request.key.as_str().to_owned()),
        ("config", config),
        ("credentials", file),
    ])
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        api::{DownloadMode, OperationSpec},
        core::{Lifetime, ObjectKey},
    };

    #[test]
    fn temporary_credentials_have_the_expected_secret_entries() {
        let end: Timestamp = "2026-01-02T04:04:05Z".parse().unwrap();
        let request = SigningRequest {
            key: ObjectKey::parse_scope("a/b/", 1024).unwrap(),
            operation_spec: OperationSpec::Download {
                mode: DownloadMode::Credentials,
                version: None,
                response: Default::default(),
            },
            lifetime: Lifetime {
                issued_at: end,
                expires_at: end,
            },
            holder: "web.a".into(),
            upload: None,
        };
        let location = BucketLocation {
            bucket: "media",
            region: "eu-west-1",
            endpoint: "https://s3.example".into(),
            style: AddressingStyle::Path,
        };
        let session = Credentials::new("ASIA", "s/+=", Some("to=ken".into()), None, "test");
        let secret_entries = secret_entries(&session, &location, &request);
        let of = |name: &str| &secret_entries.expose().iter().find(|(n, _)| *n == name).unwrap().1;
        assert_eq!(
            of("config"),
            "[default]\nregion = eu-west-1\nendpoint_url = https://s3.example\ns3 =\n    addressing_style = path\n"
        );
        assert_eq!(
            of("credentials"),
            "[default]\naws_access_key_id = ASIA\naws_secret_access_key = s/+=\naws_session_token = to=ken\n"
        );
        assert_eq!((of("bucket").as_str(), of("key").as_str()), ("media", "a/b/"));
        assert_eq!(of("AWS_CREDENTIAL_EXPIRATION"), "2026-01-02T04:04:05Z");
        // A workload can use each entry as a file or as an environment variable. Therefore each name must be valid as
        // an entry name of a Secret and as a variable name of a shell.
        assert!(secret_entries.expose().iter().all(|(name, value)| {
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !value.is_empty()
        }));
    }

    #[tokio::test]
    async fn default_endpoint_is_amazons_endpoint_of_the_region() {
        for (region, endpoint) in [
            ("eu-west-1", "https://s3.eu-west-1.amazonaws.com"),
            ("us-east-1", "https://s3.us-east-1.amazonaws.com"),
            ("cn-north-1", "https://s3.cn-north-1.amazonaws.com.cn"),
        ] {
            assert_eq!(amazons_endpoint(region, "media.example").await.unwrap(), endpoint);
        }
    }
}
