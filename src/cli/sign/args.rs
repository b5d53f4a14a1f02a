use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::core::MetadataDomains;

#[derive(Debug, Args)]
pub struct SignArgs {
    /// YAML or JSON files with one grant and its store, in any order, with one or more documents per file. '-' is
    /// standard input. If the store's rules select namespaces by label, add the Namespace with its labels.
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub(super) filename: Vec<PathBuf>,

    /// Namespace of a grant without metadata.namespace.
    #[arg(
        short,
        long,
        env = "VALET_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "default"
    )]
    pub(super) namespace: String,

    /// What to print: the Secret as yaml or json, only the url, a configuration file for curl, or the parts of a
    /// multipart upload (parts.json).
    #[arg(short, long, value_enum, default_value = "yaml")]
    pub(super) output: Output,

    /// For a grant with mode: Multipart: the upload ID of a multipart upload that you have initiated. The command
    /// signs one URL for each part. You must complete the upload yourself. For grants in a cluster, the operator
    /// initiates and completes uploads.
    #[arg(long, value_name = "ID")]
    pub(super) upload_id: Option<String>,

    /// Allow requests to other systems: to STS (assumeRole, web identity), to Azure and Google (if an identity signs
    /// instead of a key), and to the metadata service of the machine. This flag also allows a profile's
    /// credential_process. Without this flag, the command sends no requests, and refuses a grant that needs a
    /// request.
    #[arg(long)]
    pub(super) online: bool,

    /// With --online: the URL of an endpoint from a ClusterObjectStore. `valet sign` is allowed to send the cloud
    /// credentials of its environment, for example a workload identity token, to this endpoint. This flag is necessary
    /// only for endpoints that are not public hosts of a cloud provider. You can repeat this flag.
    #[arg(long, value_name = "URL", requires = "online")]
    pub(super) trust_endpoint: Vec<String>,

    /// Networks (CIDRs, separated by commas) with non-public addresses that the endpoints of ObjectStores can use.
    /// This flag has the same meaning as for `valet controller`.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(super) allow_private_endpoints: Vec<ipnet::IpNet>,

    /// Networks (CIDRs, separated by commas) that the endpoints of ObjectStores cannot use. This flag has the same
    /// meaning as for `valet controller`.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(super) deny_endpoints: Vec<ipnet::IpNet>,

    /// Domains (separated by commas) of the labels and annotations that grants can set on their Secrets. This flag
    /// has the same meaning as for `valet controller`.
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',', default_value = MetadataDomains::DEFAULT)]
    pub(super) allow_secret_metadata: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Yaml,
    Json,
    Url,
    Curl,
    Parts,
}
