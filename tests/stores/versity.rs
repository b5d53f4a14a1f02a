//! Tests of web identity with versitygw. Its IAM service trusts an OpenID provider, here the apiserver, and creates
//! sessions of a role.
//!
//! The IAM service contacts no provider at a loopback or private address, or at a port other than 443. So a server
//! with the provider's documents runs at an address for examples (RFC 5737), in a network namespace without other
//! interfaces. The IAM service runs in the same namespace, and tests reach it through Unix sockets.

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};
use valet_harness::{Process, S3Options, S3Server, Scratch, eventually, process};

use crate::{
    rotation::Identity,
    world::{SOON, Tenant, condition, says},
};

/// The issuer of the control plane's tokens.
const ISSUER: &str = "kubernetes.default.svc";
/// The issuer's address inside the network namespace.
const ADDRESS: &str = "192.0.2.10";
const ROOT: (&str, &str) = ("iam-root", "secret-of-the-iam-root");
const PROVIDER: &str = "arn:aws:iam::000000000000:oidc-provider/kubernetes.default.svc";
const ROLE: &str = "arn:aws:iam::000000000000:role/valet";

/// Runs inside new network and mount namespaces.
const SCRIPT: &str = r#"
ip link set lo up
ip addr add "$ADDRESS/32" dev lo
printf '127.0.0.1 localhost\n%s %s\n' "$ADDRESS" "$ISSUER" >hosts
mount --bind hosts /etc/hosts
"$PYTHON" -I -B "$SERVER" www cert.pem key.pem "$ADDRESS" &
exec "$VERSITYGW" --health /health --port "$PWD/api.sock" --access "$ACCESS" --secret "$SECRET" \
  iam --dir "$PWD/iam" --private-ports "$PWD/private.sock"
"#;

struct Iam {
    _process: Process,
    folder: Scratch,
}

impl Iam {
    fn start(t: &Tenant) -> Self {
        let folder = Scratch::new("iam").unwrap();
        for name in ["iam", "www/.well-known", "www/openid/v1"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        // A cluster publishes these documents on another server if its apiserver is not public.
        let of = |path: &str| t.world.plane.kubectl(&["get", "--raw", path]).unwrap();
        let mut discovery: Value = serde_json::from_str(&of("/.well-known/openid-configuration")).unwrap();
        assert_eq!(discovery["issuer"], format!("https://{ISSUER}"));
        discovery["jwks_uri"] = json!(format!("https://{ISSUER}/openid/v1/jwks"));
        folder
            .write("www/.well-known/openid-configuration", discovery.to_string())
            .unwrap();
        folder.write("www/openid/v1/jwks", of("/openid/v1/jwks")).unwrap();
        let mut openssl = process::clean(Command::new("openssl"));
        openssl
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout"])
            .arg(folder.join("key.pem"))
            .arg("-out")
            .arg(folder.join("cert.pem"))
            .args([
                "-subj",
                &format!("/CN={ISSUER}"),
                "-addext",
                &format!("subjectAltName=DNS:{ISSUER}"),
            ]);
        process::run_ok(openssl, b"", SOON).unwrap();

        let tools = t.world.tools.folder();
        let mut command = process::clean(Command::new("unshare"));
        command
            .args([
                "--user",
                "--map-root-user",
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .args(["bash", "-euc", SCRIPT])
            .current_dir(folder.path())
            .env("ADDRESS", ADDRESS)
            .env("ISSUER", ISSUER)
            .env("PYTHON", tools.join("python3"))
            .env("SERVER", Path::new(env!("VALET_ROOT")).join("tests/stores/issuer.py"))
            .env("VERSITYGW", tools.join("versitygw"))
            .env("ACCESS", ROOT.0)
            .env("SECRET", ROOT.1);
        let process = Process::start("iam", command, folder.join("iam.log")).unwrap();
        let api = folder.join("api.sock");
        process
            .wait_until(SOON, "the server listens", || UnixStream::connect(&api).is_ok())
            .expect("network namespaces can be created, and the IAM service starts");
        Self {
            _process: process,
            folder,
        }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Calls the IAM API as the root user.
    fn call(&self, action: &str, parameters: &[(&str, &str)]) {
        let mut command = process::clean(Command::new("curl"));
        command
            .args(["--silent", "--show-error", "--fail-with-body", "--unix-socket"])
            .arg(self.socket("api.sock"))
            .args([
                "--aws-sigv4",
                "aws:amz:us-east-1:iam",
                "--user",
                &format!("{}:{}", ROOT.0, ROOT.1),
            ])
            .args(["--data", &format!("Action={action}&Version=2010-05-08")]);
        for (name, value) in parameters {
            command.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        command.arg("http://iam.example/");
        process::run_ok(command, b"", SOON).unwrap_or_else(|e| panic!("{action}: {e}"));
    }

    /// The SHA-1 hash of the provider's certificate.
    fn thumbprint(&self) -> String {
        let mut command = process::clean(Command::new("openssl"));
        command
            .args(["x509", "-noout", "-fingerprint", "-sha1", "-in"])
            .arg(self.socket("cert.pem"));
        let text = process::run_ok(command, b"", SOON).unwrap().text();
        let (_, hex) = text.trim().split_once('=').unwrap();
        hex.replace(':', "")
    }

    /// Opens a TCP port that forwards to the API's Unix socket.
    fn relay(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = self.socket("api.sock");
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let socket = socket.clone();
                thread::spawn(move || pass_on(client, &socket));
            }
        });
        port
    }
}

fn pass_on(mut client: TcpStream, socket: &Path) -> io::Result<()> {
    let mut server = UnixStream::connect(socket)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Write);
    });
    io::copy(&mut server, &mut client)?;
    client.shutdown(std::net::Shutdown::Both)
}

#[test]
#[ignore = "needs a network namespace of its own (unshare): make sessions"]
fn web_identity_on_versitygw_signs_with_sessions() {
    let t = Tenant::new("versity");
    let iam = Iam::start(&t);
    let options = S3Options {
        args: vec![
            format!("--iam-standalone-endpoint={}", iam.socket("private.sock").display()),
            format!("--iam-standalone-access={}", ROOT.0),
            format!("--iam-standalone-secret={}", ROOT.1),
        ],
        ..S3Options::default()
    };
    let s3 = S3Server::start_with(&t.world.tools, options).expect("versitygw starts");
    s3.create_bucket(t.name()).unwrap();
    iam.call(
        "CreateOpenIDConnectProvider",
        &[
            ("Url", &format!("https://{ISSUER}")),
            ("ClientIDList.member.1", "valet"),
            ("ThumbprintList.member.1", &iam.thumbprint()),
        ],
    );
    let subject = format!("system:serviceaccount:{}:valet", t.name());
    let trust = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": "sts:AssumeRoleWithWebIdentity", "Principal": {"Federated": PROVIDER},
        "Condition": {"StringEquals": {format!("{ISSUER}:aud"): "valet", format!("{ISSUER}:sub"): subject}},
    }]});
    iam.call(
        "CreateRole",
        &[("RoleName", "valet"), ("AssumeRolePolicyDocument", &trust.to_string())],
    );
    let bucket = format!("arn:aws:s3:::{}", t.name());
    let rights = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject", "s3:ListBucket"], "Resource": [bucket, format!("{bucket}/*")],
    }]});
    iam.call(
        "PutRolePolicy",
        &[
            ("RoleName", "valet"),
            ("PolicyName", "media"),
            ("PolicyDocument", &rights.to_string()),
        ],
    );

    for account in ["valet", "another"] {
        t.kubectl(&["create", "serviceaccount", account]);
    }
    let identity = Identity {
        t: &t,
        token: t.file("token", b""),
    };
    // A service account that the role does not trust receives no session.
    identity.issue_to("another", 15);
    let operator = identity.operator(ROLE, format!("http://127.0.0.1:{}", iam.relay()));
    let mut store = json!({
        "apiVersion": "valetkey.dev/v1alpha1", "kind": "ObjectStore", "metadata": {"name": "own", "namespace": t.name()},
        "spec": {"s3": {
            "bucket": t.name(), "region": s3.region(), "endpoint": s3.endpoint(), "addressingStyle": "Path",
        }},
    });
    t.apply(&[store.clone()]);
    let refused = t.reason("ostore/own", "CredentialsInvalid");
    let said = condition(&refused, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(
        said.contains("the credentials provider answered with an error"),
        "{said}"
    );

    // This STS, like Amazon's, gives a session of one hour for a token of 15 minutes.
    identity.issue_to("valet", 15);
    store["spec"]["s3"]["probeKey"] = json!("probe");
    t.apply(&[store]);
    let known = eventually(SOON, "the store to be ready", || {
        t.get("ostore/own")
            .filter(|s| says(s, "Ready") == "True Ready" && s["status"]["credentialsExpirationTime"].is_string())
    });
    assert_eq!(says(&known, "UnsignedHeadersRefused"), "True HeadersRefused");
    let session: Timestamp = known["status"]["credentialsExpirationTime"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let left = session.duration_since(Timestamp::now()).as_secs();
    assert!((3500..=3600).contains(&left), "a session of an hour has {left} s left");
    let grant = |kind: &str, name: &str, seconds: i64| {
        let own = json!({"kind": "ObjectStore", "name": "own"});
        let spec = json!({"storeRef": own, "key": t.key("fits"), "expirationSeconds": seconds});
        t.grant(kind, name, spec)
    };
    t.apply(&[grant("UploadGrant", "fits", 600)]);
    t.reason("ug/fits", "Issued");
    let key = t.mount("fits");
    assert!(key.files["url"].contains("X-Amz-Security-Token="));
    assert_eq!(key.upload(&t.file("f", b"bytes")).0, 200);
    t.reason("ug/fits", "Completed");
    assert_eq!(key.upload(&t.file("f", b"again")).0, 412, "write-once");
    t.apply(&[
        grant("DownloadGrant", "hour", 1800),
        grant("DownloadGrant", "day", 86_400),
    ]);
    let hour = t.reason("dg/hour", "Issued");
    assert_eq!(says(&hour, "Active"), "True Issued");
    let key = t.mount("hour");
    assert_eq!(key.curl(&[]), (200, "bytes".to_owned()));
    let day = t.reason("dg/day", "Issued");
    assert_eq!(says(&day, "Active"), "True ExpiryTruncated");
    let end: Timestamp = day["status"]["expirationTime"].as_str().unwrap().parse().unwrap();
    let margin = Duration::from_secs(5);
    // The end belongs to the present session, or to a new one if a minute has passed.
    let latest = Timestamp::now() + Duration::from_secs(3600) - margin;
    assert!((session - margin..=latest).contains(&end), "{end}, {session}");

    // When the role loses its policy, its sessions and the credentials that they signed stop working.
    iam.call("DeleteRolePolicy", &[("RoleName", "valet"), ("PolicyName", "media")]);
    eventually(Duration::from_secs(10), "the signed URL to be rejected", || {
        (key.curl(&[]).0 == 403).then_some(())
    });
    assert!(!operator.log_text().contains("X-Amz-Security-Token"));
}
