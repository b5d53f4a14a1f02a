use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{Form, Lent, Signed};
use crate::{
    api::{GROUP, SECRET_TYPE, VERSION, data},
    grant::{GrantFacts, Lifetime, Publish},
};

/// The data of a Secret with a signed request. The set of names is the same for every grant of one mode, which cannot
/// change, so that a mounted Secret never gains or loses files.
pub fn signed_data(signed: &Signed, lifetime: Lifetime) -> BTreeMap<String, ByteString> {
    let headers: String = signed
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect();
    let entries = [
        (data::URL, signed.url.expose().to_owned()),
        (data::METHOD, signed.method.clone()),
        (data::HEADERS, headers),
        (data::CURL_CONFIG, curl_config(signed, lifetime)),
    ];
    let fields = signed.form.as_ref().map(|form| (data::FIELDS, fields_json(form)));
    with_common(entries.into_iter().chain(fields), signed.provider, lifetime)
}

/// The data of a Secret with temporary credentials, under the same rule.
pub fn lent_data(lent: &Lent, lifetime: Lifetime) -> BTreeMap<String, ByteString> {
    with_common(lent.entries.expose().iter().cloned(), lent.provider, lifetime)
}

fn with_common(
    entries: impl Iterator<Item = (&'static str, String)>,
    provider: &str,
    lifetime: Lifetime,
) -> BTreeMap<String, ByteString> {
    let common = [
        (data::EXPIRY, lifetime.expires_at.to_string()),
        // Service Binding for Kubernetes: the abstract kind of thing, and who provides it.
        (data::TYPE, "object-store".to_owned()),
        (data::PROVIDER, provider.to_owned()),
    ];
    entries
        .chain(common)
        .map(|(name, value)| (name.to_owned(), ByteString(value.into_bytes())))
        .collect()
}

/// The fields as one JSON object, in their order: JavaScript, Python and jq keep it.
fn fields_json(form: &Form) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let fields: Vec<_> = form
        .expose()
        .iter()
        .map(|(name, value)| format!("  {}: {}", quoted(name), quoted(value)))
        .collect();
    format!("{{\n{}\n}}\n", fields.join(",\n"))
}

/// A configuration file for `curl --config` (curl(1), "-K, --config").
///
/// Content-Length is left to curl, which counts the bytes that it sends: had the file another size than the grant
/// says, a header from here would make curl send a broken request instead of one that the store refuses.
fn curl_config(signed: &Signed, lifetime: Lifetime) -> String {
    let file = match (&signed.form, signed.method.as_str()) {
        (Some(_), _) => "--form file=@FILE",
        (None, "GET") => "--output FILE",
        (None, _) => "--upload-file FILE",
    };
    let mut config = format!(
        "# Works until {}. Use: curl --config curl.cfg {file}\n",
        lifetime.expires_at
    );
    let mut line = |option: &str, value: &str| {
        config.push_str(&format!(
            "{option} = \"{}\"\n",
            value.replace('\\', "\\\\").replace('"', "\\\"")
        ));
    };
    line("url", signed.url.expose());
    match &signed.form {
        // A form makes it a POST. form-string takes the value as it is; form would read '@', '<' and ';' in it.
        Some(form) => {
            for (name, value) in form.expose() {
                line("form-string", &format!("{name}={value}"));
            }
        }
        None => line("request", &signed.method),
    }
    for (name, value) in signed
        .headers
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"))
    {
        line("header", &format!("{name}: {value}"));
    }
    // An answer of 400 or more is a failure of the command, not a file with an error message in it. (The newer
    // fail-with-body would stop curl before 7.76 altogether.)
    config.push_str("fail\nsilent\nshow-error\ngloboff\n");
    config
}

/// The Secret for a grant, whole: as the operator writes it and as `valet sign` prints it.
pub fn secret_object(grant: &GrantFacts, publish: &Publish, data: BTreeMap<String, ByteString>) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(grant.secret_name().to_owned()),
            namespace: Some(grant.namespace.clone()),
            labels: Some(publish.labels.clone()),
            annotations: Some(publish.annotations.clone()),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{GROUP}/{VERSION}"),
                kind: grant.ask.operation().kind().to_owned(),
                name: grant.name.clone(),
                uid: grant.uid.clone(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::SignedUrl;

    fn lifetime() -> Lifetime {
        Lifetime {
            issued_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            expires_at: "2026-01-02T04:04:05Z".parse().unwrap(),
        }
    }

    #[test]
    fn the_files_of_an_upload() {
        let signed = Signed {
            url: SignedUrl::new("https://s3.example/b/k?X-Amz-Signature=00".into()),
            method: "PUT".into(),
            headers: vec![
                ("content-type".into(), "text/plain; charset=\"utf-8\"".into()),
                ("content-length".into(), "7".into()),
                ("if-none-match".into(), "*".into()),
            ],
            form: None,
            provider: "s3",
        };
        let data = signed_data(&signed, lifetime());
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
request = "PUT"
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
    fn the_files_of_a_form() {
        let fields = [
            ("key", "a/\"b\"\\c;@<é"),
            ("Content-Type", "text/plain; charset=\"utf-8\""),
            ("policy", "eyJ9"),
        ];
        let signed = Signed {
            url: SignedUrl::new("https://s3.example/b".into()),
            method: "POST".into(),
            headers: vec![],
            form: Some(Form::new(fields.map(|(n, v)| (n.to_owned(), v.to_owned())).into())),
            provider: "s3",
        };
        let data = signed_data(&signed, lifetime());
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
}
