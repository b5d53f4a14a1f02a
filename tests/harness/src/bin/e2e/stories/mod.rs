//! The list of all end-to-end tests. Add the tests of a new capability here.

use valet_harness::Result;

use crate::play::Play;

mod chart;
mod clouds;
mod conformance;
mod flux;
mod multipart;
mod network;
mod operator;
mod owners;
mod renewal;
mod rights;
mod rotation;
mod temporary_credentials;
mod tenants;
mod uploads;

/// An end-to-end test: what a user does with Valet, from the beginning to the end.
pub struct Story {
    /// The name on the command line.
    pub name: &'static str,
    /// What the test checks.
    pub about: &'static str,
    /// When the test runs.
    pub stage: Stage,
    /// The function that runs the test.
    pub play: fn(&Play) -> Result<()>,
}

/// Which tests can run at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The test does not change the operator or the shared store, and is fast. Such tests run in parallel.
    Fast,
    /// As `Fast`, but the test takes minutes.
    Beside,
    /// The test does not change the operator or the shared store. It needs programs of this machine and a separate
    /// node, and much CPU time. Such tests run one at a time.
    OnNode,
    /// The test kills, moves or removes the operator, or needs much CPU time. Such tests run one at a time.
    Alone,
}

impl Story {
    /// Whether one of the words selects the test. Without words, all tests are selected.
    pub fn is_called(&self, words: &[String]) -> bool {
        let by = |word: &String| self.name.contains(word.as_str()) || (word == "fast" && self.stage == Stage::Fast);
        words.is_empty() || words.iter().any(by)
    }
}

/// All tests in the order in which they start. Tests that uninstall Valet are last.
pub const STORIES: &[Story] = &[
    // The longest test is first, so that others run at the same time.
    Story {
        name: "rotation",
        about: "the access key of a store is rotated while pods run, first with a wrong access key; then the old one is deleted",
        stage: Stage::Beside,
        play: rotation::rotation,
    },
    Story {
        name: "renewal",
        about: "a credential is renewed while a pod runs: the kubelet updates the volume, and the same command still works",
        stage: Stage::Fast,
        play: renewal::renewal,
    },
    Story {
        name: "multipart-job",
        about: "a Job makes a multipart upload of 1 GiB and repeats a part; no part of an aborted upload stays in the store",
        stage: Stage::Fast,
        play: multipart::multipart_job,
    },
    Story {
        name: "expiry",
        about: "a credential expires while a pod runs: the store rejects it, Valet deletes the Secret, the pod still runs",
        stage: Stage::Fast,
        play: tenants::expiry,
    },
    Story {
        name: "upload-job",
        about: "a Job waits for its grant's Secret and uploads with nothing but curl --config",
        stage: Stage::Fast,
        play: tenants::upload_job,
    },
    Story {
        name: "store-down",
        about: "the store does not answer: grant and pod wait, the condition says why, and both continue when it answers",
        stage: Stage::Fast,
        play: tenants::store_down,
    },
    Story {
        name: "notified",
        about: "the store sends a notification of an upload: the grant is Completed at once, and the polls are counted",
        stage: Stage::Fast,
        play: uploads::notified,
    },
    Story {
        name: "refused",
        about: "no rule allows the namespace: the pod waits, condition and event say why; after a new rule it starts",
        stage: Stage::Fast,
        play: tenants::refused,
    },
    Story {
        name: "limits",
        about: "a quota of one live grant: the second pod waits for the upload of the first pod, and then starts",
        stage: Stage::Fast,
        play: owners::limits,
    },
    Story {
        name: "suspended",
        about: "a grant is suspended, gets the same credential again, and is revoked; pods wait, copies work until they expire",
        stage: Stage::Fast,
        play: owners::suspended,
    },
    Story {
        name: "download",
        about: "an init container downloads before the main container starts",
        stage: Stage::Fast,
        play: tenants::download,
    },
    Story {
        name: "conformance",
        about: "a gateway lets a credential read all objects: the conformance check fails; without the gateway it passes",
        stage: Stage::Fast,
        play: conformance::conformance,
    },
    Story {
        name: "metrics",
        about: "a pod reads the metrics through the Service; they contain no URL and no object key",
        stage: Stage::Fast,
        play: rights::metrics,
    },
    Story {
        name: "posture",
        about: "the kernel's data about the operator's pods: user, capabilities, root filesystem, seccomp, memory",
        stage: Stage::Fast,
        play: rights::posture,
    },
    Story {
        name: "account",
        about: "the operator's account cannot list Secrets, and cannot write or delete a Secret that is not a grant Secret",
        stage: Stage::Fast,
        play: rights::account,
    },
    Story {
        name: "s3-client",
        about: "rclone in a Job writes a folder with temporary credentials and can do nothing else; a pod reads the folder",
        // The test does not change the operator, but it needs a server and a client that no other test needs.
        stage: Stage::Alone,
        play: temporary_credentials::s3_client,
    },
    Story {
        name: "azure",
        about: "a Job uploads to Azure Blob Storage and an init container downloads: the same curl --config",
        stage: Stage::OnNode,
        play: clouds::azure,
    },
    Story {
        name: "google",
        about: "a Job uploads to Google Cloud Storage and an init container downloads: the same curl --config",
        stage: Stage::OnNode,
        play: clouds::google,
    },
    Story {
        name: "browser-form",
        about: "a page in a real browser posts a form: the store rejects a file that is too large and accepts a valid file",
        stage: Stage::OnNode,
        play: uploads::browser_form,
    },
    Story {
        name: "away",
        about: "no operator runs before the Secret, before completion, and at an expiry: after its start it does the work",
        stage: Stage::Alone,
        play: operator::away,
    },
    Story {
        name: "handover",
        about: "the leader is deleted, killed and frozen: the second replica becomes the leader",
        stage: Stage::Alone,
        play: operator::handover,
    },
    Story {
        name: "drain",
        about: "kubectl drain evicts the replicas one by one; new grants get credentials, issued ones do not change",
        stage: Stage::Alone,
        play: operator::drain,
    },
    Story {
        name: "crashes",
        about: "both replicas run without a Lease and are killed repeatedly: one Secret per grant, each credential works",
        stage: Stage::Alone,
        play: operator::crashes,
    },
    Story {
        name: "reinstall",
        about: "helm uninstall and install: grants and issued credentials do not change",
        stage: Stage::Alone,
        play: chart::reinstall,
    },
    Story {
        name: "upgrade",
        about: "from the previous chart and its CRDs: grants and issued credentials do not change",
        stage: Stage::Alone,
        play: chart::upgrade,
    },
    Story {
        name: "network-policy",
        about: "the chart's NetworkPolicy is enforced: only allowed pods read metrics, and only named ports allow egress",
        stage: Stage::OnNode,
        play: network::network_policy,
    },
    Story {
        name: "flux-grants",
        about: "Flux applies stores and grants from git: Ready with credentials, refused, pruned, replaced; no conflicts",
        stage: Stage::OnNode,
        play: flux::grants,
    },
    Story {
        name: "flux-release",
        about: "Flux installs the chart from git, upgrades it with its CRDs, removes and reinstalls it; credentials stay",
        stage: Stage::OnNode,
        play: flux::release,
    },
];
