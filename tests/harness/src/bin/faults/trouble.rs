//! The faults, and how they end.

use std::{thread, time::Duration};

use valet_harness::{Result, poll};

use crate::stage::{Asked, Stage};

/// Longer than a reconcile, shorter than the operator's timeout for a request (10 s).
const SHORT_FREEZE: Duration = Duration::from_secs(3);
/// Longer than the operator's timeout for a store (5 s).
const LONG_FREEZE: Duration = Duration::from_secs(7);
/// Time limit for objects that must exist before the fault.
const THERE: Duration = Duration::from_secs(60);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// One of the two operators is killed with SIGKILL.
    OperatorKilled,
    /// Both operators are killed with SIGKILL.
    OperatorsKilled,
    /// One operator is frozen for a while with open connections, and then continues with its old state.
    OperatorFrozen,
    /// The apiserver is killed with SIGKILL and started again.
    ApiserverKilled,
    /// The apiserver accepts requests and does not answer.
    ApiserverFrozen,
    /// etcd does not answer.
    EtcdFrozen,
    /// Nothing listens at the address of the store.
    StoreDown,
    /// The store accepts requests and does not answer.
    StoreFrozen,
    /// The garbage collector is stopped, and an operator is killed.
    CollectorAway,
    /// A client deletes the grant Secrets.
    SecretsDeleted,
    /// A client clears the status of the grants.
    StatusesWiped,
    /// A client deletes the grant Secrets while no operator runs.
    SecretsDeletedUnseen,
}

impl Trouble {
    /// All faults.
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

    /// A short name for grant names and output.
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

    /// Whether the fault deletes the Secrets of its round, so that Valet creates them a second time.
    pub fn takes_secrets(self) -> bool {
        matches!(self, Self::SecretsDeleted | Self::SecretsDeletedUnseen)
    }

    /// Causes the fault and ends it.
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
    // If the Secrets are not created, a later check reports it.
    poll(THERE, || all().ok());
}

/// Deletes the Secrets of uploads and of live downloads. Secrets of expired credentials may already be deleted.
fn delete_secrets(stage: &Stage, asked: &Asked) -> Result<()> {
    wait_for_secrets(stage, asked);
    let names: Vec<_> = asked.uploads.iter().chain(&asked.live).map(String::as_str).collect();
    stage.kubectl(&[&["delete", "secret", "--ignore-not-found"], &names[..]].concat())?;
    Ok(())
}
