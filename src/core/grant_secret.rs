use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{
    credential::{Credential, Form, Signed, SignedPart},
    grant_facts::GrantFacts,
    lifetime::Lifetime,
    step::Publish,
};
use crate::api::{GROUP, SECRET_TYPE, VERSION, data};

/// The maximum size of a Secret's data in bytes. It equals the constant `MaxSecretSize` of Kubernetes.
pub const SECRET_CAPACITY: usize = 1 << 20;

/// A shell script for multipart uploads. It reads the part URLs from `parts.json` and uploads a file.
const UPLOAD_SCRIPT: &str = include_str!("upload.sh");

/// Returns the data of a grant Secret. The mode of a grant decides which entries the Secret has. The mode cannot
/// change, so the list of files in a mounted Secret never changes.
pub fn secret_data(signed: &Signed, lifetime: Lifetime) -> BTreeMap<String, ByteString> {
    let of_the_key = match &signed.credential {
        Credential::Request { url, method, headers } => vec![
            (data::URL, url.expose().to_owned()),
            (data::METHOD, method.clone()),
            (data::HEADERS, lines(headers)),
            (data::CURL_CONFIG, curl_config(&signed.credential, lifetime)),
        ],
        Credential::Form { url, fields } => vec![
            (data::URL, url.expose().to_owned()),
            (data::METHOD, "POST".to_owned()),
            (data::HEADERS, String::new()),
            (data::FIELDS, fields_json(fields)),
            (data::CURL_CONFIG, curl_config(&signed.credential, lifetime)),
        ],
        Credential::Parts(parts) => vec![
            (data::PARTS, parts_json(parts)),
            (data::UPLOAD_SCRIPT, UPLOAD_SCRIPT.to_owned()),
        ],
        Credential::Credentials(entries) => entries.expose().to_vec(),
    };
    let of_every_key = [
        (data::EXPIRY, lifetime.expires_at.to_string()),
        // These two entries follow the Service Binding specification for Kubernetes. They name the type and the
        // provider of the service.
        (data::TYPE, "object-store".to_owned()),
        (data::PROVIDER, signed.provider.to_owned()),
    ];
    of_every_key
        .into_iter()
        .chain(of_the_key)
        .map(|(name, value)| (name.to_owned(), ByteString(value.into_bytes())))
        .collect()
}

/// Returns the size of a Secret's data in bytes. The function uses the same calculation as the API server.
pub fn secret_bytes(secret: &Secret) -> usize {
    secret.data.iter().flatten().map(|(_, value)| value.0.len()).sum()
}

fn lines(headers: &[(String, String)]) -> String {
    headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect()
}

/// Returns the parts as one JSON object. Each part has its own line, so that `upload.sh` can read the parts with sed.
fn parts_json(parts: &[SignedPart]) -> String {
    let each: Vec<_> = parts
        .iter()
        .map(|SignedPart { part, url, headers }| {
            let headers: serde_json::Map<_, _> = headers
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str().into()))
                .collect();
            format!(
                r#"{{"number":{},"offset":{},"size":{},"exact":{},"method":"PUT","url":{},"headers":{}}}"#,
                part.number,
                part.offset,
                part.size.max,
                part.exact_size().is_some(),
                serde_json::Value::from(url.expose()),
                serde_json::Value::from(headers),
            )
        })
        .collect();
    let whole = |size: fn(&SignedPart) -> i64| parts.iter().map(size).sum::<i64>();
    format!(
        "{{\"minSize\":{},\"maxSize\":{},\"parts\":[\n{}\n]}}\n",
        whole(|p| p.part.size.min),
        whole(|p| p.part.size.max),
        each.join(",\n")
    )
}

/// Returns the form fields as one JSON object. Clients must send the fields in the order of this object. JSON parsers
/// in JavaScript, Python and jq keep this order.
fn fields_json(form: &Form) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let fields: Vec<_> = form
        .expose()
        .iter()
        .map(|(name, value)| format!("  {}: {}", quoted(name), quoted(value)))
        .collect();
    format!("{{\n{}\n}}\n", fields.join(",\n"))
}

/// Returns a configuration file for `curl --config` (curl(1), "-K, --config").
///
/// The configuration does not set the header Content-Length, because curl computes this header from the file. If a
/// user uploads a file of a wrong size, the store then rejects the request with a clear error. With a fixed
/// Content-Length, curl would send a broken request.
fn curl_config(key: &Credential, lifetime: Lifetime) -> String {
    let (url, command) = match key {
        Credential::Form { url, .. } => (url, "curl --config curl.cfg --form file=@FILE"),
        Credential::Request { url, method, .. } if method == "GET" => (url, "curl --config curl.cfg --output FILE"),
        // In the mode `Resumable`, curl sends a POST request that starts an upload session, and prints the address of
        // the session. The user runs a second curl command, which sends the file to the address of the session.
        Credential::Request { url, method, .. } if method == "POST" => {
            (url, "curl --fail --upload-file FILE \"$(curl --config curl.cfg)\"")
        }
        Credential::Request { url, .. } => (url, "curl --config curl.cfg --upload-file FILE"),
        // A curl configuration describes only one request. Multipart uploads and temporary credentials need several
        // requests, so Valet writes no curl configuration for them.
        Credential::Parts(_) | Credential::Credentials(_) => return String::new(),
    };
    let mut config = format!("# Works until {}. Use: {command}\n", lifetime.expires_at);
    let mut line = |option: &str, value: &str| {
        config.push_str(&format!(
            "{option} = \"{}\"\n",
            value.replace('\\', "\\\\").replace('"', "\\\"")
        ));
    };
    line("url", url.expose());
    match key {
        // If the configuration contains a form field, curl sends a POST request. The option `form-string` takes the
        // value of the field literally. The option `form` would interpret the characters '@', '<' and ';'.
        Credential::Form { fields, .. } => {
            for (name, value) in fields.expose() {
                line("form-string", &format!("{name}={value}"));
            }
        }
        Credential::Request { method, headers, .. } => {
            // The configuration sets the method only for POST requests. If no method is set, curl sends a PUT request
            // with the option --upload-file, and a GET request without this option. If a user forgets --upload-file,
            // the store rejects the GET request. With `request = "PUT"`, the command would upload an empty object
            // instead.
            if method == "POST" {
                line("request", method);
            }
            for (name, value) in headers
                .iter()
                .filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"))
            {
                line("header", &format!("{name}: {value}"));
            }
            if method == "POST" {
                // The POST request must have no body. With a body, curl would add a content type, and the store would
                // use this content type for the object.
                line("header", "content-length: 0");
                line("output", "/dev/null");
                line("write-out", "%header{location}");
            }
        }
        Credential::Parts(_) | Credential::Credentials(_) => {}
    }
    // With the option `fail`, curl stops with an error if the HTTP status is 400 or higher. Without this option, curl
    // would write the store's error message to the user's file. Valet does not use the newer option `fail-with-body`,
    // because curl before version 7.76 does not know this option and stops with an error.
    config.push_str("fail\nsilent\nshow-error\ngloboff\n");
    config
}

/// Returns the owner reference of a grant Secret. The grant is the only owner.
pub fn secret_owner(grant: &GrantFacts) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: grant.operation_spec.operation().kind().to_owned(),
        name: grant.name.clone(),
        uid: grant.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// Returns the complete Secret of a grant. The operator writes this Secret, and the command `valet sign` prints it.
pub fn secret_object(grant: &GrantFacts, publish: &Publish, signed: &Signed) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(grant.secret_name().to_owned()),
            namespace: Some(grant.namespace.clone()),
            labels: Some(publish.labels.clone()),
            annotations: Some(publish.annotations.clone()),
            owner_references: Some(vec![secret_owner(grant)]),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.to_owned()),
        data: Some(secret_data(signed, publish.request.lifetime)),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::SignedUrl;

    fn lifetime() -> Lifetime {
        Lifetime {
            issued_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            expires_at: "2026-01-02T04:04:05Z".parse().unwrap(),
        }
    }

    #[test]
    fn secret_of_a_put_upload_has_the_expected_entries() {
        let signed = Signed {
            credential: Credential::Request {
                url: SignedUrl::new("https://s3.example/b/k?X-Amz-Signature=00".into()),
                method: "PUT".into(),
                headers: vec![
                    ("content-type".into(), "text/plain; charset=\"utf-8\"".into()),
                    ("content-length".into(), "7".into()),
                    ("if-none-match".into(), "*".into()),
                ],
            },
            provider: "s3",
        };
        let data = secret_data(&signed, lifetime());
        let text = |name: &str| String::from_utf8(data[name].0.clone()).unwrap();
        assert_eq!(
            data.keys().collect::<Vec<_>>(),
            ["curl.cfg", "expiry", "headers", "method", "provider", "type", "url"]
        );
        assert_eq!(
            text("headers"),
            "content-type: text/plain; charset=\"utf-8\"\ncontent-length: 7\nif-none-match: *\n"
        );
        assert_eq!(text("expiry"), "2026-01-02T04:04:05Z");
        assert_eq!(
            text("curl.cfg"),
            r#"# Works until 2026-01-02T04:04:05Z. Use: curl --config curl.cfg --upload-file FILE
url = "https://s3.example/b/k?X-Amz-Signature=00"
header = "content-type: text/plain; charset=\"utf-8\""
header = "if-none-match: *"
fail
silent
show-error
globoff
"#
        );
    }

    #[test]
    fn secret_of_a_post_form_has_the_expected_entries() {
        let fields = [
            ("key", "a/\"b\"\\c;@<é"),
            ("Content-Type", "text/plain; charset=\"utf-8\""),
            ("policy", "eyJ9"),
        ];
        let signed = Signed {
            credential: Credential::Form {
                url: SignedUrl::new("https://s3.example/b".into()),
                fields: Form::new(fields.map(|(n, v)| (n.to_owned(), v.to_owned())).into()),
            },
            provider: "s3",
        };
        let data = secret_data(&signed, lifetime());
        let text = |name: &str| String::from_utf8(data[name].0.clone()).unwrap();
        assert_eq!(
            data.keys().collect::<Vec<_>>(),
            [
                "curl.cfg",
                "expiry",
                "fields.json",
                "headers",
                "method",
                "provider",
                "type",
                "url"
            ]
        );
        assert_eq!((text("headers").as_str(), text("method").as_str()), ("", "POST"));
        assert_eq!(
            text("fields.json"),
            r#"{
  "key": "a/\"b\"\\c;@<é",
  "Content-Type": "text/plain; charset=\"utf-8\"",
  "policy": "eyJ9"
}
"#
        );
        assert_eq!(
            text("curl.cfg"),
            r#"# Works until 2026-01-02T04:04:05Z. Use: curl --config curl.cfg --form file=@FILE
url = "https://s3.example/b"
form-string = "key=a/\"b\"\\c;@<é"
form-string = "Content-Type=text/plain; charset=\"utf-8\""
form-string = "policy=eyJ9"
fail
silent
show-error
globoff
"#
        );
    }

    #[test]
    fn secret_of_a_multipart_upload_has_the_expected_entries() {
        use crate::api::{LengthRange, Part};
        let part = |number: i64, min: i64, max: i64, headers: &[(&str, &str)]| SignedPart {
            part: Part {
                number,
                offset: (number - 1) * 5,
                size: LengthRange { min, max },
            },
            url: SignedUrl::new(format!("https://s3.example/b/k?partNumber={number}&X-Amz-Signature=00")),
            headers: headers
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
        };
        let signed = Signed {
            credential: Credential::Parts(vec![part(1, 5, 5, &[("content-length", "5")]), part(2, 1, 4, &[])]),
            provider: "s3",
        };
        let data = secret_data(&signed, lifetime());
        assert_eq!(
            data.keys().collect::<Vec<_>>(),
            ["expiry", "parts.json", "provider", "type", "upload.sh"]
        );
        assert_eq!(
            String::from_utf8(data["parts.json"].0.clone()).unwrap(),
            r#"{"minSize":6,"maxSize":9,"parts":[
{"number":1,"offset":0,"size":5,"exact":true,"method":"PUT","url":"https://s3.example/b/k?partNumber=1&X-Amz-Signature=00","headers":{"content-length":"5"}},
{"number":2,"offset":5,"size":4,"exact":false,"method":"PUT","url":"https://s3.example/b/k?partNumber=2&X-Amz-Signature=00","headers":{}}
]}
"#
        );
    }
}
