//! An independent check of signed URLs: botocore computes what the signature should be.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::{Context, Error, Result, Tools, helper::Helper};

/// A signed URL, and what a client would send with it.
#[derive(Clone, Debug, Default)]
pub struct UrlCheck {
    /// The URL, as it stands in the Secret.
    pub url: String,
    /// The HTTP method.
    pub method: String,
    /// The headers that the client was told to send.
    pub headers: Vec<(String, String)>,
    /// Who should have signed.
    pub access_key: String,
    /// With what.
    pub secret_key: String,
    /// The session's token, for temporary credentials.
    pub session_token: Option<String>,
    /// For which region.
    pub region: String,
}

/// What a server would make of a signed URL, its clock apart; and what the URL says.
///
/// What it says is filled in as far as the URL could be read, whether it is valid or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the signature is right, and made for the method, headers, key and region that were asked about.
    pub valid: bool,
    /// If not: why.
    pub why: String,
    /// Whether path and query are spelled as in the signature. If not, servers that sign what they see, without
    /// decoding and encoding it, say no.
    pub canonical: bool,
    /// http or https.
    pub scheme: String,
    /// Host, and port if it stands in the URL.
    pub host: String,
    /// The path, percent-decoded exactly once, from its first '/' on.
    pub path: Vec<u8>,
    /// When it was signed, in seconds since 1970.
    pub issued_at: i64,
    /// When it stops working, in seconds since 1970.
    pub expires_at: i64,
    /// The access key that signed.
    pub access_key: String,
    /// Names of the signed headers, in lower case, sorted.
    pub signed_headers: Vec<String>,
    /// Names of headers that would be sent without being signed, in lower case.
    pub unsigned_headers: Vec<String>,
    /// Name and value of every other parameter of the query (`versionId`, `x-id`, ...), decoded.
    pub query: Vec<(String, String)>,
}

impl Verdict {
    /// The object's key, if the URL has the bucket in its path (and the bucket is this one).
    pub fn key_in(&self, bucket: &str) -> Option<&[u8]> {
        self.path.strip_prefix(format!("/{bucket}/").as_bytes())
    }

    /// The object's key, if the URL has the bucket in its host.
    pub fn key(&self) -> Option<&[u8]> {
        self.path.strip_prefix(b"/")
    }
}

/// Checks one URL.
///
/// # Errors
/// If the checker cannot be run. A URL that is not valid is no error: the verdict says so.
pub fn verify_url(tools: &Tools, check: &UrlCheck) -> Result<Verdict> {
    let mut verdicts = verify_urls(tools, std::slice::from_ref(check))?;
    verdicts.pop().context("the checker gave no verdict")
}

/// Checks several URLs; the verdicts come in the same order.
///
/// # Errors
/// If the checker cannot be run.
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

/// A URL that botocore's own client signs: `operation` is the client's method (`put_object`), `params` are its
/// arguments, `expires` is in seconds. Signed for the credentials and the region in `check`, whose other fields
/// are not looked at. To check the checker with, and to compare with Valet's.
///
/// # Errors
/// If botocore refuses.
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

/// A POST form, and who should have signed it.
#[derive(Clone, Debug, Default)]
pub struct FormCheck {
    /// Names and values, as they stand in the Secret.
    pub fields: Vec<(String, String)>,
    /// The bucket that it is posted to.
    pub bucket: String,
    /// Who should have signed.
    pub access_key: String,
    /// With what.
    pub secret_key: String,
    /// The session's token, for temporary credentials.
    pub session_token: Option<String>,
    /// For which region.
    pub region: String,
}

/// What a server would make of a POST form, its clock and the file apart; and what the form says, as far as it could be
/// read.
#[derive(Clone, Debug, PartialEq)]
pub struct FormVerdict {
    /// Whether the signature is right, and every field as the policy says.
    pub valid: bool,
    /// If not: why.
    pub why: String,
    /// The policy.
    pub policy: Value,
    /// When it was signed, in seconds since 1970.
    pub issued_at: i64,
    /// When it stops working, in seconds since 1970.
    pub expires_at: i64,
    /// The least and the most bytes that the file may have, if the policy says so.
    pub range: Option<(i64, i64)>,
}

/// Checks a POST form.
///
/// # Errors
/// If the checker cannot be run. A form that is not valid is no error: the verdict says so.
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

/// A form that botocore's own client signs, as [`presign`] does for URLs: its URL and its fields. `conditions` are those
/// of `generate_presigned_post`, and `fields` the fields that they speak of.
///
/// # Errors
/// If botocore refuses.
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

/// One checker for all tests of the process.
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
