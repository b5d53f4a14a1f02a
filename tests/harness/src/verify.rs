//! An independent check of signed URLs: botocore computes the expected signature.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::{Context, Error, Result, Tools, helper::Helper};

/// A signed URL, and the request of a client that uses it.
#[derive(Clone, Debug, Default)]
pub struct UrlCheck {
    /// The URL from the Secret.
    pub url: String,
    /// The HTTP method.
    pub method: String,
    /// The headers from the Secret.
    pub headers: Vec<(String, String)>,
    /// The access key that must have signed the URL.
    pub access_key: String,
    /// The secret key of the access key.
    pub secret_key: String,
    /// The session's token, for temporary credentials.
    pub session_token: Option<String>,
    /// The region of the signature.
    pub region: String,
}

/// The result of the check of a signed URL without its expiry, and the content of the URL.
///
/// The fields with the content are set as far as the URL can be parsed, also if it is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the signature is correct for the given method, headers, object key and region.
    pub valid: bool,
    /// The reason why the URL is not valid.
    pub why: String,
    /// Whether the path and the query have the same encoding as in the signature. If not, servers that check the
    /// signature without decoding reject the URL.
    pub canonical: bool,
    /// The scheme, http or https.
    pub scheme: String,
    /// The host, with the port if the URL contains it.
    pub host: String,
    /// The path, percent-decoded once, beginning with the first '/'.
    pub path: Vec<u8>,
    /// When the URL was signed, in seconds since 1970.
    pub issued_at: i64,
    /// When the URL expires, in seconds since 1970.
    pub expires_at: i64,
    /// The access key that signed.
    pub access_key: String,
    /// The names of the signed headers, in lower case and sorted.
    pub signed_headers: Vec<String>,
    /// The names of headers that the client would send without a signature, in lower case.
    pub unsigned_headers: Vec<String>,
    /// Names and values of all other query parameters (`versionId`, `x-id`, ...), decoded.
    pub query: Vec<(String, String)>,
}

impl Verdict {
    /// The object key, if the URL has the bucket in its path and the bucket is this one.
    pub fn key_in(&self, bucket: &str) -> Option<&[u8]> {
        self.path.strip_prefix(format!("/{bucket}/").as_bytes())
    }

    /// The object key, if the URL has the bucket in its host.
    pub fn key(&self) -> Option<&[u8]> {
        self.path.strip_prefix(b"/")
    }
}

/// Checks one URL.
///
/// # Errors
/// Returns an error if the checker cannot be run. An invalid URL is not an error; see [`Verdict::valid`].
pub fn verify_url(tools: &Tools, check: &UrlCheck) -> Result<Verdict> {
    let mut verdicts = verify_urls(tools, std::slice::from_ref(check))?;
    verdicts.pop().context("the checker gave no verdict")
}

/// Checks several URLs and returns the results in the same order.
///
/// # Errors
/// Returns an error if the checker cannot be run.
pub fn verify_urls(tools: &Tools, checks: &[UrlCheck]) -> Result<Vec<Verdict>> {
    let checks: Vec<Value> = checks
        .iter()
        .map(|check| {
            json!({
                "url": check.url,
                "method": check.method,
                "headers": check.headers,
                "access_key": check.access_key,
                "secret_key": check.secret_key,
                "session_token": check.session_token,
                "region": check.region,
            })
        })
        .collect();
    let (answer, _) = helper(tools)?.ask(json!({"op": "verify", "checks": checks}), &[])?;
    answer["verdicts"]
        .as_array()
        .context("the checker gave no verdicts")?
        .iter()
        .map(verdict)
        .collect()
}

/// Signs a URL with botocore's own client: `operation` is the client's method (`put_object`), `params` are its
/// arguments, and `expires` is in seconds. `check` contains the credentials and the region; its other fields are
/// ignored. Tests use such URLs to check the checker and to compare them with Valet's URLs.
///
/// # Errors
/// Returns an error if botocore rejects the arguments.
pub fn presign(
    tools: &Tools,
    endpoint: &str,
    check: &UrlCheck,
    operation: &str,
    params: &Value,
    expires: u32,
) -> Result<String> {
    let request = json!({
        "op": "presign",
        "endpoint": endpoint,
        "region": check.region,
        "access_key": check.access_key,
        "secret_key": check.secret_key,
        "operation": operation,
        "params": params,
        "expires": expires,
    });
    let (answer, _) = helper(tools)?.ask(request, &[])?;
    Ok(text(&answer, "url"))
}

/// A POST form, and the credentials that must have signed it.
#[derive(Clone, Debug, Default)]
pub struct FormCheck {
    /// Names and values of the form fields in the Secret.
    pub fields: Vec<(String, String)>,
    /// The bucket of the form.
    pub bucket: String,
    /// The access key that must have signed the form.
    pub access_key: String,
    /// The secret key of the access key.
    pub secret_key: String,
    /// The session's token, for temporary credentials.
    pub session_token: Option<String>,
    /// The region of the signature.
    pub region: String,
}

/// The result of the check of a POST form without its expiry and its file, and the content of the form as far as it
/// can be parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct FormVerdict {
    /// Whether the signature is correct and every field matches the policy.
    pub valid: bool,
    /// The reason why the form is not valid.
    pub why: String,
    /// The policy document.
    pub policy: Value,
    /// When the form was signed, in seconds since 1970.
    pub issued_at: i64,
    /// When the form expires, in seconds since 1970.
    pub expires_at: i64,
    /// The minimum and maximum size of the file in bytes, if the policy contains them.
    pub range: Option<(i64, i64)>,
}

/// Checks a POST form.
///
/// # Errors
/// Returns an error if the checker cannot be run. An invalid form is not an error; see [`FormVerdict::valid`].
pub fn verify_form(tools: &Tools, check: &FormCheck) -> Result<FormVerdict> {
    let request = json!({
        "op": "verify_form",
        "fields": check.fields,
        "bucket": check.bucket,
        "access_key": check.access_key,
        "secret_key": check.secret_key,
        "session_token": check.session_token,
        "region": check.region,
    });
    let (answer, _) = helper(tools)?.ask(request, &[])?;
    Ok(FormVerdict {
        valid: answer["valid"] == true,
        why: text(&answer, "why"),
        policy: answer["policy"].clone(),
        issued_at: answer["issued_at"].as_i64().unwrap_or_default(),
        expires_at: answer["expires_at"].as_i64().unwrap_or_default(),
        range: answer["range"][0].as_i64().zip(answer["range"][1].as_i64()),
    })
}

/// Signs a form with botocore's own client, as [`presign`] does for URLs. Returns its URL and its fields.
/// `conditions` are the arguments of `generate_presigned_post`, and `fields` are the fields in these conditions.
///
/// # Errors
/// Returns an error if botocore rejects the arguments.
pub fn presign_post(
    tools: &Tools,
    endpoint: &str,
    check: &FormCheck,
    key: &str,
    (fields, conditions): (&Value, &Value),
    expires: u32,
) -> Result<(String, Vec<(String, String)>)> {
    let request = json!({
        "op": "presign_post",
        "endpoint": endpoint,
        "region": check.region,
        "access_key": check.access_key,
        "secret_key": check.secret_key,
        "bucket": check.bucket,
        "key": key,
        "fields": fields,
        "conditions": conditions,
        "expires": expires,
    });
    let (answer, _) = helper(tools)?.ask(request, &[])?;
    let fields = answer["fields"].as_array().context("botocore made no form")?;
    let pair = |pair: &Value| {
        let at = |n: usize| pair[n].as_str().unwrap_or_default().to_owned();
        (at(0), at(1))
    };
    Ok((text(&answer, "url"), fields.iter().map(pair).collect()))
}

/// A checker process that all tests of this process share.
fn helper(tools: &Tools) -> Result<&'static Helper> {
    static HELPER: OnceLock<std::result::Result<Helper, String>> = OnceLock::new();
    HELPER
        .get_or_init(|| Helper::start(tools).map_err(|error| error.to_string()))
        .as_ref()
        .map_err(Error::new)
}

fn verdict(value: &Value) -> Result<Verdict> {
    let hex = text(value, "path_hex");
    let path = (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16))
        .collect::<std::result::Result<_, _>>()
        .context("the checker's path is not hexadecimal")?;
    let names = |key: &str| -> Vec<String> {
        let list = value[key].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let query = value["query"].as_array().into_iter().flatten();
    Ok(Verdict {
        valid: value["valid"] == true,
        why: text(value, "why"),
        canonical: value["canonical"] == true,
        scheme: text(value, "scheme"),
        host: text(value, "host"),
        path,
        issued_at: value["issued_at"].as_i64().unwrap_or_default(),
        expires_at: value["expires_at"].as_i64().unwrap_or_default(),
        access_key: text(value, "access_key"),
        signed_headers: names("signed_headers"),
        unsigned_headers: names("unsigned_headers"),
        query: query
            .map(|pair| {
                let at = |n: usize| pair[n].as_str().unwrap_or_default().to_owned();
                (at(0), at(1))
            })
            .collect(),
    })
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}
