//! Starts and stops a real Kubernetes control plane and a real S3 server, for Valet's tests and its demo.
//!
//! All servers are plain processes on loopback ports of this machine. They run for one test run and leave nothing
//! behind. No container engine and no existing cluster is needed. The library is blocking. It does not use Valet's
//! Rust types, but tests Valet from outside, as a user does.
//!
//! | module | is |
//! |---|---|
//! | [`tools`] | the programs, built once a machine by `hack/tools.sh` |
//! | [`scratch`] | a folder of one's own that goes when its owner goes |
//! | [`process`] | child processes that cannot outlive this one |
//! | [`net`] | free loopback ports, and just enough HTTP |
//! | [`control_plane`] | etcd, kube-apiserver, kube-controller-manager |
//! | [`node`] | a node with real pods: containerd, kubelet, kube-proxy, kube-scheduler |
//! | [`kubectl`] | kubectl, never with the current context by accident |
//! | [`audit`] | who wrote what, from the apiserver's audit log |
//! | [`fake`] | servers of which there is no emulator, faked at the HTTP level |
//! | [`mod@azurite`] | Azurite, and Microsoft's own client for it |
//! | [`odd`] | S3 servers that differ in one respect, as a proxy in front of a real one |
//! | [`s3`] | the S3 server, and an S3 client that is not Valet's |
//! | [`google`] | fake-gcs-server, Google's own client and a checker of its signatures |
//! | [`verify`] | an independent check of signed URLs, by botocore |
//! | [`mod@kstatus`] | what Helm, Argo CD and Flux would make of an object |
//! | [`operator`] | Valet itself, as a subprocess |
//! | [`scene`] | all of these and a store for one namespace, for programs that watch operators at work |
//! | [`program`] | what those programs have in common |
//! | [`rights`] | what a chart's accounts may do to Secrets |
//! | [`dashboard`] | what a Grafana dashboard asks of Prometheus |
//! | [`wait`] | waiting for something, with an end |
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
