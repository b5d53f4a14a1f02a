//! Operations on buckets, objects and users with root permissions.

use std::time::Duration;

use serde_json::{Value, json};

use super::S3Server;
use crate::{Context, Error, Result, helper::Helper, process};

const ADMIN: Duration = Duration::from_secs(30);

/// A response of the S3 server.
#[derive(Clone, Debug)]
pub struct S3Response {
    /// The HTTP status.
    pub status: u16,
    /// Names and values of the headers, unchanged.
    pub headers: Vec<(String, String)>,
    /// The body. For an error, the XML of S3.
    pub body: Vec<u8>,
}

impl S3Response {
    /// The value of a header. The name is not case-sensitive.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the response if its status is below 300.
    ///
    /// # Errors
    /// Returns an error with the server's message otherwise.
    pub fn ok(self) -> Result<Self> {
        if self.status < 300 {
            return Ok(self);
        }
        let said = String::from_utf8_lossy(&self.body).into_owned();
        Err(Error::new(format!("S3 answered {}: {said}", self.status)))
    }
}

/// A version of an object, or a delete marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// The object key.
    pub key: String,
    /// The version's ID.
    pub version: String,
    /// Size in bytes.
    pub size: u64,
    /// The entity tag, with its quotes.
    pub e_tag: String,
    /// Whether this is a delete marker.
    pub deleted: bool,
}

impl S3Server {
    /// Sends one S3 request signed as root. `bucket` and `key` may be empty. The object key is sent byte for byte and
    /// percent-encoded once.
    ///
    /// # Errors
    /// Returns an error if the server does not answer within 30 s. A response with an error status is not an error
    /// here: see [`S3Response::ok`].
    pub fn request(
        &self,
        method: &str,
        bucket: &str,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<S3Response> {
        let request = json!({
            "op": "s3", "method": method, "bucket": bucket, "key": key, "query": query, "headers": headers,
        });
        let (answer, body) = self.ask(request, body)?;
        response(&answer, body)
    }

    /// Creates a bucket. The name has 3 to 63 lower-case letters, digits, '.' and '-'.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create_bucket(&self, bucket: &str) -> Result<()> {
        self.request("PUT", bucket, "", &[], &[], &[])?.ok()?;
        Ok(())
    }

    /// Creates a bucket with versioning.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create_versioned_bucket(&self, bucket: &str) -> Result<()> {
        self.create_bucket(bucket)?;
        let settings = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                        <Status>Enabled</Status></VersioningConfiguration>";
        self.request("PUT", bucket, "", &[("versioning", "")], &[], settings.as_bytes())?
            .ok()?;
        Ok(())
    }

    /// Writes an object.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn put(&self, bucket: &str, key: &str, body: &[u8]) -> Result<S3Response> {
        self.request("PUT", bucket, key, &[], &[], body)?.ok()
    }

    /// Reads an object; `None` if it does not exist.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn get(&self, bucket: &str, key: &str) -> Result<Option<Vec<u8>>> {
        let response = self.request("GET", bucket, key, &[], &[], &[])?;
        match response.status {
            404 => Ok(None),
            _ => Ok(Some(response.ok()?.body)),
        }
    }

    /// Reads the metadata of an object from headers (HEAD); `None` if it does not exist.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn head(&self, bucket: &str, key: &str) -> Result<Option<S3Response>> {
        let headers = [("x-amz-checksum-mode", "ENABLED")];
        let response = self.request("HEAD", bucket, key, &[], &headers, &[])?;
        match response.status {
            404 => Ok(None),
            _ => Ok(Some(response.ok()?)),
        }
    }

    /// Deletes an object. In a bucket with versioning, adds a delete marker.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<()> {
        self.request("DELETE", bucket, key, &[], &[], &[])?.ok()?;
        Ok(())
    }

    /// Returns all versions of all objects whose key begins with `prefix`, newest first for each key. Without
    /// versioning, returns all objects.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn versions(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectVersion>> {
        let request = json!({"op": "versions", "bucket": bucket, "prefix": prefix});
        let (answer, body) = self.ask(request, &[])?;
        response(&answer, body)?.ok()?;
        let versions = answer["versions"].as_array().context("the helper listed no versions")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(versions
            .iter()
            .map(|version| ObjectVersion {
                key: text(&version["key"]),
                version: text(&version["version"]),
                size: version["size"].as_u64().unwrap_or_default(),
                e_tag: text(&version["e_tag"]),
                deleted: version["deleted"] == true,
            })
            .collect())
    }

    /// Sets the policy of a bucket (JSON), which grants permissions to other users.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn put_bucket_policy(&self, bucket: &str, policy: &Value) -> Result<()> {
        let body = policy.to_string();
        self.request("PUT", bucket, "", &[("policy", "")], &[], body.as_bytes())?
            .ok()?;
        Ok(())
    }

    /// Creates a user without permissions. A bucket policy can grant permissions to the user.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create_user(&self, access_key: &str, secret_key: &str) -> Result<()> {
        self.admin(&[
            "create-user",
            "--access",
            access_key,
            "--secret",
            secret_key,
            "--role",
            "user",
        ])
    }

    /// Deletes a user. URLs that this user signed stop working at once.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn delete_user(&self, access_key: &str) -> Result<()> {
        self.admin(&["delete-user", "--access", access_key])
    }

    fn admin(&self, args: &[&str]) -> Result<()> {
        let mut command = self.tools.command("versitygw");
        command
            .env("ADMIN_ACCESS_KEY_ID", &self.access_key)
            .env("ADMIN_SECRET_ACCESS_KEY", &self.secret_key)
            .env("ADMIN_ENDPOINT_URL", self.endpoint())
            .env("ADMIN_REGION", self.region())
            .arg("admin")
            .args(args);
        process::run_ok(command, &[], ADMIN)?;
        Ok(())
    }

    fn ask(&self, mut request: Value, body: &[u8]) -> Result<(Value, Vec<u8>)> {
        let helper = self
            .helper
            .get_or_init(|| Helper::start(&self.tools).map_err(|error| error.to_string()))
            .as_ref()
            .map_err(Error::new)?;
        request["endpoint"] = self.endpoint().into();
        request["region"] = self.region().into();
        request["access_key"] = self.access_key.clone().into();
        request["secret_key"] = self.secret_key.clone().into();
        helper.ask(request, body)
    }
}

fn response(answer: &Value, body: Vec<u8>) -> Result<S3Response> {
    let status = answer["status"].as_u64().and_then(|status| u16::try_from(status).ok());
    let headers = answer["headers"].as_array().into_iter().flatten();
    Ok(S3Response {
        status: status.context("the helper gave no status")?,
        headers: headers
            .map(|pair| {
                let at = |n: usize| pair[n].as_str().unwrap_or_default().to_owned();
                (at(0), at(1))
            })
            .collect(),
        body,
    })
}
