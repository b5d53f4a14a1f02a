//! A credential signed by Valet, used with curl in correct and in changed form.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use valet_harness::{Context, Error, Result, process};

const PATIENCE: Duration = Duration::from_secs(60);

/// The output of `valet sign -o curl`.
#[derive(Clone, Debug)]
pub struct Key {
    config: PathBuf,
    request: Request,
}

/// The parts of the request, which tests can change.
#[derive(Clone, Debug)]
pub struct Request {
    /// The HTTP method.
    pub method: String,
    /// The signed URL, or the URL of the form.
    pub url: String,
    /// Names and values of the headers.
    pub headers: Vec<(String, String)>,
    /// Names and values of the form fields, in order.
    pub fields: Vec<(String, String)>,
    /// The CA certificate of the store's TLS certificate, if the store uses TLS.
    pub ca: Option<PathBuf>,
}

/// The response of the store.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers and body of the response.
    pub text: String,
}

impl Key {
    /// Parses a `curl.cfg`.
    ///
    /// # Errors
    /// Returns an error if the file is not a `curl.cfg` from Valet.
    pub fn read(config: PathBuf) -> Result<Self> {
        let text = std::fs::read_to_string(&config).context("the configuration cannot be read")?;
        let mut request = Request {
            method: String::new(),
            url: String::new(),
            headers: Vec::new(),
            fields: Vec::new(),
            ca: None,
        };
        let pair = |value: &str, by: &str| -> Result<(String, String)> {
            let (name, value) = value.split_once(by).context("a line without a name")?;
            Ok((name.to_owned(), value.to_owned()))
        };
        for line in text.lines() {
            let Some((option, value)) = line.split_once(" = ") else {
                continue;
            };
            let value = unquoted(value)?;
            match option {
                "url" => request.url = value,
                "request" => request.method = value,
                "header" => request.headers.push(pair(&value, ": ")?),
                "form-string" => request.fields.push(pair(&value, "=")?),
                other => return Err(Error::new(format!("curl.cfg has an option {other}"))),
            }
        }
        // The first line contains the curl command, which determines the method.
        if request.method.is_empty() {
            let command = text.lines().next().unwrap_or_default();
            request.method = match command {
                _ if command.contains(" --upload-file ") => "PUT",
                _ if command.contains(" --output ") => "GET",
                _ => "POST",
            }
            .into();
        }
        Ok(Self { config, request })
    }

    /// Sets the CA certificate of the store.
    pub fn trusting(mut self, ca: PathBuf) -> Self {
        self.request.ca = Some(ca);
        self
    }

    /// Returns the parts of the request.
    pub fn request(&self) -> Request {
        self.request.clone()
    }

    /// Uses the credential as a workload does: with its `curl.cfg` and a file.
    ///
    /// # Errors
    /// Returns an error if curl cannot be run.
    pub fn used(&self, file: &Path) -> Result<Answer> {
        let mut command = curl();
        command.arg("--config").arg(&self.config).arg("--no-fail");
        self.request.body(&mut command, file);
        answer(command)
    }
}

impl Request {
    fn body(&self, command: &mut Command, file: &Path) {
        if let Some(ca) = &self.ca {
            command.arg("--cacert").arg(ca);
        }
        if !self.fields.is_empty() {
            command.arg("--form").arg(format!("file=@{}", file.display()));
        } else if self.method != "GET" {
            command.arg("--upload-file").arg(file);
        }
    }

    /// Sends the request, with all changes, and this file.
    ///
    /// # Errors
    /// Returns an error if curl cannot be run.
    pub fn send(&self, file: &Path) -> Result<Answer> {
        let mut command = curl();
        command.args(["--silent", "--show-error", "--globoff", "--request", &self.method]);
        for (name, value) in &self.headers {
            command.arg("--header").arg(format!("{name}: {value}"));
        }
        for (name, value) in &self.fields {
            command.arg("--form-string").arg(format!("{name}={value}"));
        }
        self.body(&mut command, file);
        command.arg(&self.url);
        answer(command)
    }

    /// Returns a form field to change.
    pub fn field(&mut self, name: &str) -> &mut String {
        let found = self
            .fields
            .iter_mut()
            .find(|(other, _)| other.eq_ignore_ascii_case(name));
        &mut found.unwrap_or_else(|| panic!("the form has no {name}")).1
    }

    /// Returns a header to change.
    pub fn header(&mut self, name: &str) -> &mut String {
        let found = self
            .headers
            .iter_mut()
            .find(|(other, _)| other.eq_ignore_ascii_case(name));
        &mut found.unwrap_or_else(|| panic!("there is no header {name}")).1
    }

    /// Replaces a part of the URL. The part must exist.
    pub fn in_url(&mut self, what: &str, by: &str) {
        assert!(self.url.contains(what), "the URL has no {what}");
        self.url = self.url.replacen(what, by, 1);
    }

    /// Changes the signature.
    pub fn forge(&mut self) {
        let signature = if self.fields.is_empty() {
            &mut self.url
        } else {
            self.field("x-amz-signature")
        };
        let last = if signature.ends_with('0') { '1' } else { '0' };
        signature.pop();
        signature.push(last);
    }
}

fn curl() -> Command {
    let mut command = process::clean(Command::new("curl"));
    command.args(["--include", "--write-out", "\n%{http_code}"]);
    command
}

fn answer(command: Command) -> Result<Answer> {
    let output = process::run(command, &[], PATIENCE)?;
    let text = output.text();
    let (text, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    // 000 means that the store closed the connection without a response. This does not count as a rejection.
    let status = status
        .trim()
        .parse()
        .context(format_args!("curl said: {}", output.stderr))?;
    Ok(Answer {
        status,
        text: text.to_owned(),
    })
}

/// Removes the quotes of a value, with the rules of curl(1).
fn unquoted(value: &str) -> Result<String> {
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let mut characters = inner.context("a value without quotes")?.chars();
    let mut text = String::new();
    while let Some(c) = characters.next() {
        text.extend(if c == '\\' { characters.next() } else { Some(c) });
    }
    Ok(text)
}
