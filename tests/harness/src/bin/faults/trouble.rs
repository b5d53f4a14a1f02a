//! What goes wrong, and comes right again.

use std::{thread, time::Duration};

use valet_harness::{Result, poll};

use crate::stage::{Asked, Stage};

/// Longer than a visit, shorter than the operator's patience with a call (10 s).
const SHORT_FREEZE: Duration = Duration::from_secs(3);
/// Longer than the operator waits for a store (5 s).
const LONG_FREEZE: Duration = Duration::from_secs(7);
/// What somebody can only do once it is there must come within this.
const THERE: Duration = Duration::from_secs(60);

/// One kind of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// One of two operators gets a SIGKILL.
    OperatorKilled,
    /// Both of them.
    OperatorsKilled,
    /// One stands still for a while, its connections open, and goes on with what it knew.
    OperatorFrozen,
    /// The apiserver gets a SIGKILL and starts again.
    ApiserverKilled,
    /// The apiserver takes requests and does not answer.
    ApiserverFrozen,
    /// The apiserver's database does not answer.
    EtcdFrozen,
    /// Nobody listens at the store's address.
    StoreDown,
    /// The store takes requests and does not answer.
    StoreFrozen,
    /// The garbage collector is away, and an operator is killed besides.
    CollectorAway,
    /// Somebody deletes the Secrets.
    SecretsDeleted,
    /// Somebody wipes the grants' statuses.
    StatusesWiped,
    /// Somebody deletes the Secrets while no operator is there.
    SecretsDeletedUnseen,
}

impl Trouble {
    /// All of it.
    pub const ALL: &[Self] = &[
        Self::OperatorKilled,
        Self::OperatorsKilled,
        Self::OperatorFrozen,
        Self::ApiserverKilled,
        Self::ApiserverFrozen,
        Self::EtcdFrozen,
        Self::StoreDown,
        Self::StoreFrozen,
        Self::CollectorAway,
        Self::SecretsDeleted,
        Self::StatusesWiped,
        Self::SecretsDeletedUnseen,
    ];

    /// For names and lines.
    pub fn word(self) -> &'static str {
        match self {
            Self::OperatorKilled => "operator-killed",
            Self::OperatorsKilled => "operators-killed",
            Self::OperatorFrozen => "operator-frozen",
            Self::ApiserverKilled => "apiserver-killed",
            Self::ApiserverFrozen => "apiserver-frozen",
            Self::EtcdFrozen => "etcd-frozen",
            Self::StoreDown => "store-down",
            Self::StoreFrozen => "store-frozen",
            Self::CollectorAway => "collector-away",
            Self::SecretsDeleted => "secrets-deleted",
            Self::StatusesWiped => "statuses-wiped",
            Self::SecretsDeletedUnseen => "secrets-deleted-unseen",
        }
    }

    /// Whether somebody has deleted Secrets of this round: they are made a second time.
    pub fn takes_secrets(self) -> bool {
        matches!(self, Self::SecretsDeleted | Self::SecretsDeletedUnseen)
    }

    /// Lets it happen, and pass.
    pub fn strike(self, stage: &mut Stage, asked: &Asked) -> Result<()> {
        match self {
            Self::OperatorKilled => kill(stage, 1),
            Self::OperatorsKilled => kill(stage, 2),
            Self::OperatorFrozen => {
                stage.operators[0].process().pause();
                thread::sleep(SHORT_FREEZE);
                stage.operators[0].process().resume();
            }
            Self::ApiserverKilled => stage.scene.plane.restart_apiserver()?,
            Self::ApiserverFrozen => {
                stage.scene.plane.pause_apiserver();
                thread::sleep(SHORT_FREEZE);
                stage.scene.plane.resume_apiserver();
            }
            Self::EtcdFrozen => {
                stage.scene.plane.etcd().pause();
                thread::sleep(SHORT_FREEZE);
                stage.scene.plane.etcd().resume();
            }
            Self::StoreDown => {
                stage.scene.store.stop();
                thread::sleep(SHORT_FREEZE);
                stage.scene.store.start_again()?;
            }
            Self::StoreFrozen => {
                stage.scene.store.pause();
                thread::sleep(LONG_FREEZE);
                stage.scene.store.resume();
            }
            Self::CollectorAway => {
                stage.scene.plane.stop_controller_manager();
                kill(stage, 1);
                stage.complete()?;
                stage.scene.plane.start_controller_manager()?;
            }
            Self::SecretsDeleted => delete_secrets(stage, asked)?,
            Self::StatusesWiped => {
                let patch = r#"{"status":null}"#;
                for grant in asked.grants() {
                    stage.kubectl(&[
                        "patch",
                        &grant,
                        "--subresource=status",
                        "--type=merge",
                        "--patch",
                        patch,
                    ])?;
                }
            }
            Self::SecretsDeletedUnseen => {
                wait_for_secrets(stage, asked);
                kill(stage, 2);
                delete_secrets(stage, asked)?;
            }
        }
        stage.complete()
    }
}

fn kill(stage: &mut Stage, many: usize) {
    for operator in stage.operators.drain(..many.min(stage.operators.len())) {
        operator.kill();
    }
}

fn wait_for_secrets(stage: &Stage, asked: &Asked) {
    let all = || {
        asked
            .uploads
            .iter()
            .chain(&asked.live)
            .try_for_each(|name| stage.kubectl(&["get", "secret", name]).map(|_| ()))
    };
    // If they do not come, who uses them says so.
    poll(THERE, || all().ok());
}

/// Those of uploads and of downloads that live on; one that runs out may have gone by itself.
fn delete_secrets(stage: &Stage, asked: &Asked) -> Result<()> {
    wait_for_secrets(stage, asked);
    let names: Vec<_> = asked.uploads.iter().chain(&asked.live).map(String::as_str).collect();
    stage.kubectl(&[&["delete", "secret", "--ignore-not-found"], &names[..]].concat())?;
    Ok(())
}
