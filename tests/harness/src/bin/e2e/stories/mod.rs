//! The list of all end-to-end tests. Add the tests of a new capability here.

use valet_harness::Result;

use crate::play::Play;

mod arrivals;
mod canary;
mod chart;
mod clouds;
mod flux;
mod lent;
mod multipart;
mod network;
mod operator;
mod owners;
mod renewal;
mod rights;
mod rotation;
mod tenants;

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
        about: "a store's access key is replaced under running pods, with a slip of the hand; then the old one is deleted",
        stage: Stage::Beside,
        play: rotation::rotation,
    },
    Story {
        name: "renewal",
        about: "a key is replaced under a running pod: the kubelet brings the new one, and the same command goes on",
        stage: Stage::Fast,
        play: renewal::renewal,
    },
    Story {
        name: "multipart-job",
        about: "a Job sends 1 GiB in parts, one of them twice; of an upload that is given up nothing stays in the store",
        stage: Stage::Fast,
        play: multipart::multipart_job,
    },
    Story {
        name: "expiry",
        about: "a key runs out under a running pod: the store refuses, the Secret goes, the pod goes on",
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
        about: "the store is away: grant and pod wait and say so, and go on when it is back",
        stage: Stage::Fast,
        play: tenants::store_down,
    },
    Story {
        name: "notified",
        about: "the store announces an upload by the operator's Service: Completed at once, and the HEADs are counted",
        stage: Stage::Fast,
        play: arrivals::notified,
    },
    Story {
        name: "refused",
        about: "a namespace that may not: the pod waits, condition and event say why; a rule lets it go on",
        stage: Stage::Fast,
        play: tenants::refused,
    },
    Story {
        name: "limits",
        about: "one key at a time: the second pod waits for the first one's upload, and goes on by itself",
        stage: Stage::Fast,
        play: owners::limits,
    },
    Story {
        name: "withheld",
        about: "a key is suspended and comes back as the same, then is revoked; pods wait, copies work to their end",
        stage: Stage::Fast,
        play: owners::withheld,
    },
    Story {
        name: "download",
        about: "an init container downloads before the main container starts",
        stage: Stage::Fast,
        play: tenants::download,
    },
    Story {
        name: "canary",
        about: "a gateway lets a key read everybody's objects: a trial with real keys finds it out; without it all is well",
        stage: Stage::Fast,
        play: canary::canary,
    },
    Story {
        name: "metrics",
        about: "a pod scrapes the metrics by their Service; no URL and no object's key is in them",
        stage: Stage::Fast,
        play: rights::metrics,
    },
    Story {
        name: "posture",
        about: "what the kernel says of the operator's pods: user, rights, root filesystem, seccomp, memory",
        stage: Stage::Fast,
        play: rights::posture,
    },
    Story {
        name: "account",
        about: "the operator's account cannot read Secrets in bulk, nor write or delete one that is not a grant's",
        stage: Stage::Fast,
        play: rights::account,
    },
    Story {
        name: "s3-client",
        about: "a Job's rclone writes a folder with lent credentials and can do nothing else; a pod's reads it back",
        // The test does not change the operator, but it needs a server and a client that no other test needs.
        stage: Stage::Alone,
        play: lent::s3_client,
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
        about: "a page in a real browser posts a form: what is too large is refused, what is right arrives",
        stage: Stage::OnNode,
        play: arrivals::browser_form,
    },
    Story {
        name: "away",
        about: "no operator before the Secret, before completion, and at the end of a key: made up for at its return",
        stage: Stage::Alone,
        play: operator::away,
    },
    Story {
        name: "handover",
        about: "the leader is deleted, killed and frozen: the other replica goes on",
        stage: Stage::Alone,
        play: operator::handover,
    },
    Story {
        name: "drain",
        about: "kubectl drain takes one replica after the other; grants get their keys meanwhile, live ones stay",
        stage: Stage::Alone,
        play: operator::drain,
    },
    Story {
        name: "crashes",
        about: "both replicas work without a Lease and are killed again and again: one Secret a grant, each key works",
        stage: Stage::Alone,
        play: operator::crashes,
    },
    Story {
        name: "reinstall",
        about: "helm uninstall and install: grants and live keys stay as they are",
        stage: Stage::Alone,
        play: chart::reinstall,
    },
    Story {
        name: "upgrade",
        about: "from the previous chart and its kinds: grants and live keys stay as they are",
        stage: Stage::Alone,
        play: chart::upgrade,
    },
    Story {
        name: "network-policy",
        about: "the chart's NetworkPolicy enforced: who may reads metrics, others do not, and only named ports lead out",
        stage: Stage::OnNode,
        play: network::network_policy,
    },
    Story {
        name: "flux-grants",
        about: "Flux applies stores and grants from git: Ready with the keys, refused, pruned, replaced; nobody fights",
        stage: Stage::OnNode,
        play: flux::grants,
    },
    Story {
        name: "flux-release",
        about: "Flux installs the chart from git, upgrades it with its kinds, takes it away and brings it back; keys stay",
        stage: Stage::OnNode,
        play: flux::release,
    },
];
