//! Tests of `valet sign` without a cluster: what it sends and to whom, which credentials it uses, and when its
//! signatures expire.

mod expiry;
mod network;
mod refused;

use std::{
    io::Write,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use valet_harness::scratch::Scratch;

/// The result of a run.
pub struct Ran {
    pub is_signed: bool,
    pub out: String,
    pub said: String,
}

/// Runs `valet sign` with these documents on standard input, in an environment with only these variables.
pub fn sign(documents: &[Value], args: &[&str], env: &[(&str, &str)]) -> Ran {
    let text: String = documents.iter().map(|d| format!("---\n{d}\n")).collect();
    sign_text(&text, args, env)
}

/// Runs `valet sign` with this text on standard input.
pub fn sign_text(text: &str, args: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_valet"))
        .args(["sign", "-o", "url", "-f", "-"])
        .args(args)
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("it has an input");
    // The program may exit before it has read all of a long input.
    let _ = input.write_all(text.as_bytes());
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    Ran {
        is_signed: output.status.success(),
        out: String::from_utf8(output.stdout).expect("text"),
        said: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A server on loopback that counts connections and gives one fixed answer.
pub struct Listener {
    pub url: String,
    connections: Arc<AtomicUsize>,
}

impl Listener {
    pub fn start(answer: &'static str) -> Self {
        use std::io::Read;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let Ok(mut stream) = stream else { continue };
                let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                let _ = stream.read(&mut [0; 65_536]);
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmetadata-flavor: Google\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
                    answer.len()
                );
            }
        });
        Self { url, connections }
    }

    pub fn connections(&self) -> usize {
        // By now the server has counted every client that connected.
        std::thread::sleep(Duration::from_millis(50));
        self.connections.load(Ordering::SeqCst)
    }

    pub fn forget(&self) {
        self.connections.store(0, Ordering::SeqCst);
    }
}

pub const API: &str = "valetkey.dev/v1alpha1";

/// A ClusterObjectStore for all namespaces; `place` is the provider's field.
pub fn cluster_store(place: Value) -> Value {
    let mut spec = place;
    spec["access"] = json!([{
        "namespaces": {"selector": {}}, "operations": ["Upload", "Download"], "credentials": "Allow",
    }]);
    json!({"apiVersion": API, "kind": "ClusterObjectStore", "metadata": {"name": "store"}, "spec": spec})
}

/// An ObjectStore in namespace `web`.
pub fn store(place: Value) -> Value {
    json!({"apiVersion": API, "kind": "ObjectStore", "metadata": {"name": "store", "namespace": "web"}, "spec": place})
}

/// A grant for a store of either kind.
pub fn grant(kind: &str, store: &Value, more: Value) -> Value {
    let mut spec = json!({"storeRef": {"kind": store["kind"], "name": "store"}, "key": "a/b.bin"});
    for (name, value) in more.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    json!({"apiVersion": API, "kind": kind, "metadata": {"name": "g", "namespace": "web"}, "spec": spec})
}

pub fn download(store: &Value) -> Value {
    grant("DownloadGrant", store, json!({}))
}

pub fn amazons(more: Value) -> Value {
    let mut s3 = json!({"bucket": "media", "region": "us-east-1"});
    for (name, value) in more.as_object().into_iter().flatten() {
        s3[name] = value.clone();
    }
    json!({"s3": s3})
}

pub const ACCESS_KEY: [(&str, &str); 2] = [
    ("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT"),
    ("AWS_SECRET_ACCESS_KEY", "wJalr"),
];

pub fn scratch() -> Scratch {
    Scratch::new("sign").expect("a folder")
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}
