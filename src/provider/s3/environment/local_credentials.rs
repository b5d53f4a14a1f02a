//! Reads AWS credentials and their expiry from the process environment. It also finds out which of these credentials
//! Valet can use without a request.

use std::{collections::BTreeMap, env, time::SystemTime};

use aws_config::profile::{Profile, ProfileSet, load};
use aws_credential_types::{
    Credentials,
    provider::{
        ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future::ProvideCredentials as Answer,
    },
};
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_types::os_shim_internal::{Env, Fs};
use jiff::Timestamp;

use crate::provider::environment::NoLocalCredentials;

/// The environment variable that contains the expiry of the AWS credentials. The command `aws configure
/// export-credentials --format env` writes this variable.
const EXPIRATION: &str = "AWS_CREDENTIAL_EXPIRATION";
/// The profile settings that can contain the expiry of a session token. No standard defines the name of this setting,
/// so the list contains the names that common tools write.
const PROFILE_EXPIRATIONS: [&str; 4] = [
    "aws_credential_expiration",
    "aws_expiration",
    "x_security_token_expires",
    "expiration",
];
/// The profile settings that name a service or a program. If a profile contains one of these settings, the AWS SDK gets
/// the credentials from this service or program (AWS SDKs and Tools Reference Guide, "Settings reference").
const PROFILE_ASKS: [&str; 8] = [
    "role_arn",
    "credential_source",
    "credential_process",
    "web_identity_token_file",
    "sso_session",
    "sso_start_url",
    "sso_account_id",
    "login_session",
];
/// The environment variables that name a service. If one of these variables is set, the AWS SDK gets the credentials
/// from the named service.
const VARIABLES_ASK: [&str; 3] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// A source of AWS credentials that also returns their expiry. This source reads the expiry from the environment or the
/// profile, because the AWS SDK does not read the expiry.
#[derive(Debug)]
pub struct WithEnd(SharedCredentialsProvider);

impl WithEnd {
    /// Wraps a source of credentials and adds the expiry to its credentials.
    pub fn of(source: impl ProvideCredentials + 'static) -> SharedCredentialsProvider {
        SharedCredentialsProvider::new(Self(SharedCredentialsProvider::new(source)))
    }
}

impl ProvideCredentials for WithEnd {
    fn provide_credentials<'a>(&'a self) -> Answer<'a>
    where
        Self: 'a,
    {
        Answer::new(async {
            let mut credentials = self.0.provide_credentials().await?;
            if credentials.expiry().is_none() {
                let id = credentials.access_key_id().to_owned();
                *credentials.expiry_mut() = match in_variables(variable, &id)? {
                    Some(end) => Some(end),
                    None => profiles().await.as_ref().map_or(Ok(None), |set| in_profile(set, &id))?,
                };
            }
            Ok(credentials)
        })
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

async fn profiles() -> Option<ProfileSet> {
    load(&Fs::real(), &Env::real(), &EnvConfigFiles::default(), None)
        .await
        .ok()
}

/// Returns the expiry from the environment variables, if the variables contain this access key.
fn in_variables(variable: impl Fn(&str) -> Option<String>, id: &str) -> Result<Option<SystemTime>, CredentialsError> {
    match (variable("AWS_ACCESS_KEY_ID"), variable(EXPIRATION)) {
        (Some(own), Some(text)) if own == id => time(&text).map(Some),
        _ => Ok(None),
    }
}

/// Returns the expiry from the selected profile if the profile contains this access key.
fn in_profile(profiles: &ProfileSet, id: &str) -> Result<Option<SystemTime>, CredentialsError> {
    let profile = profiles.get_profile(profiles.selected_profile());
    let profile = profile.filter(|p| p.get("aws_access_key_id") == Some(id));
    let stated = profile.and_then(|p| PROFILE_EXPIRATIONS.iter().find_map(|name| p.get(name)));
    stated.map(time).transpose()
}

/// Parses an expiry. An invalid expiry is an error. If Valet ignored an invalid expiry, it would treat temporary
/// credentials as permanent.
fn time(text: &str) -> Result<SystemTime, CredentialsError> {
    let time = text.trim().parse::<Timestamp>();
    time.map(SystemTime::from).map_err(|_| {
        CredentialsError::invalid_configuration("the expiry time of the AWS credentials is not an RFC 3339 time")
    })
}

/// Returns the access key from the environment or from the selected profile of the shared AWS files. The function
/// searches in the order of the AWS SDK's default chain. It sends no request and runs no program.
///
/// # Errors
/// Returns [`NoLocalCredentials`] if no access key is available without a request.
pub async fn local_credentials() -> Result<SharedCredentialsProvider, NoLocalCredentials> {
    let profiles = profiles().await;
    let variables = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
        .iter()
        .chain(&VARIABLES_ASK)
        .filter_map(|name| Some((*name, variable(name)?)))
        .collect();
    let found = choose(&variables, profiles.as_ref())?;
    Ok(WithEnd::of(found))
}

fn choose(
    variables: &BTreeMap<&str, String>,
    profiles: Option<&ProfileSet>,
) -> Result<Credentials, NoLocalCredentials> {
    let access_key = |id: Option<&str>, secret: Option<&str>, token: Option<&str>, name| {
        Some(Credentials::new(id?, secret?, token.map(str::to_owned), None, name))
    };
    let of = |name: &str| variables.get(name).map(|value| value.trim());
    if of("AWS_ACCESS_KEY_ID").is_some() {
        let (id, secret) = (of("AWS_ACCESS_KEY_ID"), of("AWS_SECRET_ACCESS_KEY"));
        return access_key(id, secret, of("AWS_SESSION_TOKEN"), "EnvironmentVariable").ok_or(
            NoLocalCredentials::Unusable("AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not set"),
        );
    }
    let profiles = profiles.ok_or(NoLocalCredentials::Unusable(
        "the shared AWS files config and credentials cannot be read",
    ))?;
    let name = profiles.selected_profile();
    if let Some(profile) = profiles.get_profile(name) {
        if let Some(setting) = PROFILE_ASKS.iter().find(|setting| profile.get(setting).is_some()) {
            return Err(NoLocalCredentials::Elsewhere(format!(
                "the setting {setting} in AWS profile {name} means that the credentials come from another service or program"
            )));
        }
        if let Some(found) = of_profile(profile) {
            return Ok(found);
        }
    }
    match VARIABLES_ASK.iter().find(|name| variables.contains_key(*name)) {
        Some(name) => Err(NoLocalCredentials::Elsewhere(format!(
            "the environment variable {name} means that the AWS credentials come from another service"
        ))),
        None => Err(NoLocalCredentials::Nothing),
    }
}

fn of_profile(profile: &Profile) -> Option<Credentials> {
    let token = profile.get("aws_session_token").map(str::to_owned);
    Some(Credentials::new(
        profile.get("aws_access_key_id")?,
        profile.get("aws_secret_access_key")?,
        token,
        None,
        "ProfileFile",
    ))
}

#[cfg(test)]
mod tests {
    use aws_runtime::env_config::file::EnvConfigFileKind;

    use super::*;

    async fn set(config: &str) -> ProfileSet {
        let files = EnvConfigFiles::builder()
            .with_contents(EnvConfigFileKind::Credentials, config)
            .build();
        let (fs, env) = (Fs::from_slice(&[]), Env::from_slice(&[]));
        load(&fs, &env, &files, None).await.unwrap()
    }

    /// The expiry in the environment belongs only to the access key in the environment.
    #[test]
    fn expiry_in_environment_belongs_only_to_its_own_access_key() {
        let of = |end: Option<&str>, id: &str| {
            let variable = |name: &str| match name {
                "AWS_ACCESS_KEY_ID" => Some("ASIA".to_owned()),
                EXPIRATION => end.map(str::to_owned),
                _ => None,
            };
            in_variables(variable, id).map(|t| t.map(|t| Timestamp::try_from(t).unwrap().to_string()))
        };
        for (end, id, expected) in [
            (Some("2026-01-02T03:04:05+00:00"), "ASIA", Some("2026-01-02T03:04:05Z")),
            (Some("2026-01-02T04:04:05+01:00 "), "ASIA", Some("2026-01-02T03:04:05Z")),
            (Some("2026-01-02T03:04:05Z"), "ASIB", None),
            (None, "ASIA", None),
        ] {
            assert_eq!(of(end, id).unwrap().as_deref(), expected, "{end:?} {id}");
        }
        for bad in ["tomorrow", "2026-01-02", "1767323045"] {
            assert!(
                of(Some(bad), "ASIA").is_err(),
                "the invalid expiry time {bad} must be an error"
            );
        }
    }

    #[tokio::test]
    async fn expiry_in_a_profile_is_read_under_every_known_name() {
        for name in PROFILE_EXPIRATIONS {
            let config = format!(
                "[default]\naws_access_key_id = ASIA\naws_secret_access_key = s\naws_session_token = t\n{name} = 2026-01-02T03:04:05Z\n"
            );
            let profiles = set(&config).await;
            let end = in_profile(&profiles, "ASIA")
                .unwrap()
                .map(|t| Timestamp::try_from(t).unwrap());
            assert_eq!(
                end.map(|t| t.to_string()).as_deref(),
                Some("2026-01-02T03:04:05Z"),
                "{name}"
            );
            assert_eq!(
                in_profile(&profiles, "ASIB").unwrap(),
                None,
                "{name}: another access key"
            );
            assert!(
                in_profile(&set(&config.replace("2026-01-02T", "")).await, "ASIA").is_err(),
                "{name}"
            );
        }
    }

    #[tokio::test]
    async fn credentials_need_no_request_only_in_environment_or_profile() {
        let variables = |set: &[(&'static str, &str)]| -> BTreeMap<&'static str, String> {
            set.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
        };
        let empty = set("").await;
        let key = variables(&[
            ("AWS_ACCESS_KEY_ID", "A"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("AWS_SESSION_TOKEN", "t"),
        ]);
        let found = choose(&key, Some(&empty)).unwrap();
        assert_eq!((found.access_key_id(), found.session_token()), ("A", Some("t")));
        let half = choose(&variables(&[("AWS_ACCESS_KEY_ID", "A")]), Some(&empty));
        assert!(matches!(half, Err(NoLocalCredentials::Unusable(_))));
        assert_eq!(
            choose(&variables(&[]), Some(&empty)).unwrap_err(),
            NoLocalCredentials::Nothing
        );
        let file = set("[default]\naws_access_key_id = F\naws_secret_access_key = s\n").await;
        assert_eq!(choose(&variables(&[]), Some(&file)).unwrap().access_key_id(), "F");
        // The environment has precedence over the shared AWS files. These files have precedence over services.
        assert_eq!(choose(&key, Some(&file)).unwrap().access_key_id(), "A");
        for name in VARIABLES_ASK {
            let requires_environment = variables(&[(name, "x")]);
            assert!(
                matches!(
                    choose(&requires_environment, Some(&empty)),
                    Err(NoLocalCredentials::Elsewhere(_))
                ),
                "{name}"
            );
            assert!(choose(&requires_environment, Some(&file)).is_ok(), "{name}");
        }
        for setting in PROFILE_ASKS {
            let text = format!("[default]\n{setting} = x\naws_access_key_id = F\naws_secret_access_key = s\n");
            let found = choose(&variables(&[]), Some(&set(&text).await));
            assert!(
                matches!(&found, Err(NoLocalCredentials::Elsewhere(why)) if why.contains(setting)),
                "{setting}: {found:?}"
            );
        }
    }
}
