//! Starts and stops a real Kubernetes control plane and a real S3 server, for Valet's tests and its demo.
//!
//! All servers are plain processes on loopback ports of this machine. They run for one test run and leave nothing
//! behind. No container engine and no existing cluster is needed. The library is blocking. It does not use Valet's
//! Rust types, but tests Valet from outside, as a user does.
//!
//! | module | content |
//! |---|---|
//! | [`tools`] | the programs that `hack/tools.sh` builds once per machine |
//! | [`scratch`] | temporary folders that are deleted with their owner |
//! | [`process`] | child processes that end with this process at the latest |
//! | [`net`] | free loopback ports, and a minimal HTTP client |
//! | [`control_plane`] | etcd, kube-apiserver, kube-controller-manager |
//! | [`node`] | a node with real pods: containerd, kubelet, kube-proxy, kube-scheduler |
//! | [`kubectl`] | kubectl with an explicit context |
//! | [`audit`] | requests in the apiserver's audit log |
//! | [`fake`] | fake HTTP servers for services without an emulator |
//! | [`mod@azurite`] | Azurite, and Microsoft's client library |
//! | [`odd`] | S3 servers with different behaviour, as proxies in front of a real one |
//! | [`s3`] | S3 servers, and an S3 client that does not use Valet's code |
//! | [`google`] | fake-gcs-server, Google's client library, and a checker of Google's signatures |
//! | [`verify`] | an independent check of signed URLs with botocore |
//! | [`mod@kstatus`] | the status of an object as Helm, Argo CD and Flux compute it |
//! | [`operator`] | the operator as a child process |
//! | [`scene`] | the common setup of programs that observe operators: servers, CRDs, and a store for one namespace |
//! | [`program`] | common functions of these programs |
//! | [`rights`] | permissions for Secrets of the accounts in a chart |
//! | [`dashboard`] | the queries of a Grafana dashboard |
//! | [`wait`] | functions that wait with a timeout |
//!
//! ```no_run
//! use valet_harness::{ControlPlane, S3Server, Tools};
//!
//! # fn main() -> valet_harness::Result<()> {
//! let tools = Tools::locate()?;
//! let cluster = ControlPlane::start(&tools)?;
//! let store = S3Server::start(&tools)?;
//! store.create_bucket("media")?;
//! println!("{}", cluster.kubectl(&["get", "namespaces"])?);
//! # Ok(())
//! # }
//! ```

pub mod audit;
pub mod azurite;
mod certificates;
pub mod control_plane;
pub mod dashboard;
mod error;
pub mod fake;
pub mod google;
mod helper;
pub mod kstatus;
pub mod kubectl;
pub mod net;
pub mod node;
pub mod odd;
pub mod operator;
pub mod process;
pub mod program;
pub mod proxy;
pub mod rights;
pub mod s3;
pub mod scene;
pub mod scratch;
pub mod tools;
pub mod verify;
pub mod wait;

pub use audit::{AuditEvent, AuditMark};
pub use azurite::Azurite;
pub use control_plane::{ControlPlane, ControlPlaneOptions};
pub use error::{Context, Error, Result};
pub use google::GcsServer;
pub use kstatus::kstatus;
pub use node::Node;
pub use odd::{OddStore, Oddity};
pub use operator::{Operator, OperatorOptions};
pub use process::Process;
pub use s3::{GARAGE_BUCKET, S3Options, S3Server, Software};
pub use scene::Scene;
pub use scratch::Scratch;
pub use tools::Tools;
pub use verify::{FormCheck, FormVerdict, UrlCheck, Verdict, verify_form, verify_url, verify_urls};
pub use wait::{eventually, poll};
