//! The end of a project: a saga over every room, with the name held.
//!
//! The transaction that deletes the project holds its name ([`ondol_store::ProjectHold`]). This
//! loop then asks every room to forget, in an order in which nobody writes what a room behind
//! has forgotten: what runs first, what it made afterwards, who may do what last. Only a round in
//! which every room has forgotten entirely gives the name back, in one transaction with the
//! event. There is no other state: a death at any place only means that the rooms are asked
//! again, and each of them finds less or nothing.
//!
//! It must never skip a room, and never release a name while one has something left.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_store::events::NewEvent;
use ondol_store::{ForgetProject, Forgotten, ProjectHold};
use ondol_types::{Problem, event};
use serde_json::json;

use crate::error::GitError;
use crate::service::Git;

/// Deletions that one tick goes on with.
const BATCH: u32 = 50;
/// When deletions that are under way are looked at again.
const SOON: Duration = Duration::from_millis(200);

/// The loop that brings deletions to their end.
pub struct DeletionReconciler {
    git: Git,
    rooms: Vec<Arc<dyn ForgetProject>>,
    /// The name after which the next tick goes on.
    turn: tokio::sync::Mutex<String>,
}

impl DeletionReconciler {
    /// A loop over the deletions of `git`; wake it with [`Git::deletions`]. `rooms` must be all
    /// other rooms that have something of projects, and those whose work writes into another one
    /// must stand before it.
    pub fn new(git: Git, rooms: Vec<Arc<dyn ForgetProject>>) -> Self {
        Self {
            git,
            rooms,
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Asks every room once. Returns what remains.
    async fn round(&self, hold: &ProjectHold) -> Vec<String> {
        let git = &self.git;
        let mut remains = Vec::new();
        if let Err(error) = git.discard_repository(&hold.name).await {
            tracing::error!(project = %hold.name, error = %error, "the repository of a deleted project cannot be removed");
            remains.push(format!("repository: {error}"));
        }
        for room in &self.rooms {
            let name = room.name();
            match room.forget(hold).await {
                Ok(Forgotten::Entirely) => {}
                Ok(Forgotten::Remains(what)) => remains.push(format!("{name}: {what}")),
                Err(problem) => {
                    tracing::error!(project = %hold.name, deletion.room = name, error = %problem.chain(), "a room cannot forget a deleted project yet");
                    remains.push(format!("{name}: {problem}"));
                }
            }
            git.0.crash.reached("git.project.between-rooms");
        }
        remains
    }

    async fn release(&self, hold: &ProjectHold) -> Result<(), GitError> {
        let git = &self.git;
        git.0.crash.reached("git.project.before-release");
        let released = git
            .0
            .store
            .write::<_, GitError, _>(|tx| {
                Box::pin(async move {
                    if !tx.release_project(hold).await? {
                        return Ok(false);
                    }
                    tx.append(
                        NewEvent::new(event::PROJECT_FORGOTTEN, &hold.name)
                            .project(&hold.name)
                            .content(json!({ "name": hold.name, "deletedBy": hold.by }))
                            .actor("ondol"),
                    )
                    .await?;
                    Ok(true)
                })
            })
            .await?;
        git.0.crash.reached("git.project.after-release");
        if released {
            tracing::info!(project = %hold.name, "a deleted project is forgotten, its name is free");
        }
        Ok(())
    }
}

#[async_trait]
impl Reconciler for DeletionReconciler {
    fn name(&self) -> &'static str {
        "git.deletions"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let git = &self.git;
        let mut turn = self.turn.lock().await;
        let after = turn.as_str();
        let holds = git
            .0
            .store
            .read::<_, GitError, _>(|tx| {
                Box::pin(async move { Ok(tx.project_holds(after, BATCH).await?) })
            })
            .await?;
        let more = holds.len() as u32 == BATCH;
        let mut report = Report {
            seen: holds.len() as u64,
            ..Report::default()
        };
        let mut open = false;
        for hold in &holds {
            let remains = self.round(hold).await;
            if remains.is_empty() {
                self.release(hold).await?;
                git.remains().remove(&hold.name);
                report.changed += 1;
            } else {
                open = true;
                report.note = Some(format!("{} waits for {}", hold.name, remains.join("; ")));
                git.remains().insert(hold.name.clone(), remains);
            }
        }
        *turn = match holds.last() {
            Some(last) if more => last.name.to_string(),
            _ => String::new(),
        };
        if open || more {
            let activator = git.deletions();
            tokio::spawn(async move {
                tokio::time::sleep(SOON).await;
                activator.wake();
            });
        }
        Ok(report)
    }
}
