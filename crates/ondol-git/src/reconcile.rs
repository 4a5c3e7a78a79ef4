//! Refs on disk against the table: what differs becomes rows and events in one transaction.
//!
//! Git moves refs, we record that they moved. A push leaves an intent before git starts and the
//! comparison after it ends, so whenever the process dies, the next start finds the intent and
//! compares. Projects without intents are compared too, a few per tick, because an operator may
//! move refs by hand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_store::Tx;
use ondol_store::events::NewEvent;
use ondol_types::event::PushReceived;
use ondol_types::{OperationId, Problem, ProjectName, RefName, event};
use serde_json::json;

use crate::error::GitError;
use crate::plan::{self, Change};
use crate::repository::{has_live_process, measure};
use crate::service::Git;
use crate::store::{self, Intent, ProjectRow};

/// Changes that one transaction records.
const CHANGES_AT_ONCE: usize = 500;
const INTENTS_AT_ONCE: u32 = 200;
const ROUND_ROBIN: u32 = 5;

impl Git {
    /// Compares the refs of a project with the table and records what differs. Returns how many
    /// refs that were.
    pub(crate) async fn compare(&self, project: &ProjectName) -> Result<u64, GitError> {
        let lock = self.comparing(project);
        let _guard = lock.lock().await;
        let path = self.repository(project).await?;
        let observed = &self.0.repositories.refs(&path).await?;
        let row = self.known(project).await?;
        if let Some(better) = plan::better_default(&row.default_branch, observed) {
            // HEAD first: if the process dies between the two, the next comparison finds the same
            // row and does both again.
            if let Ok(name) = RefName::of_branch(&better) {
                self.0.repositories.set_head(&path, &name).await?;
                let better = better.as_str();
                self.0
                    .store
                    .write::<_, GitError, _>(|tx| {
                        Box::pin(async move {
                            Ok(store::set_settings(tx, project, better, row.allow_force).await?)
                        })
                    })
                    .await?;
            }
        }
        let mut total = 0u64;
        while self.differs(project, observed).await? {
            self.0.crash.reached("git.refs.before-commit");
            let recorded = self
                .0
                .store
                .write::<_, GitError, _>(|tx| {
                    Box::pin(async move { record(tx, project, observed).await })
                })
                .await?;
            self.0.crash.reached("git.refs.after-commit");
            total += recorded as u64;
        }
        if total > 0 {
            let (bytes, _) = tokio::task::spawn_blocking(move || measure(&path))
                .await
                .unwrap_or((row.size_bytes, 0));
            self.0
                .store
                .write::<_, GitError, _>(|tx| {
                    Box::pin(async move { Ok(store::set_size(tx, project, bytes).await?) })
                })
                .await?;
        }
        Ok(total)
    }

    async fn differs(
        &self,
        project: &ProjectName,
        observed: &plan::Refs,
    ) -> Result<bool, GitError> {
        let stored = self
            .0
            .store
            .read::<_, GitError, _>(|tx| {
                Box::pin(async move { Ok(store::refs(tx, project).await?) })
            })
            .await?;
        Ok(stored != *observed)
    }
}

/// Records some of what differs; returns how many changes that were.
async fn record(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    observed: &plan::Refs,
) -> Result<usize, GitError> {
    let row = store::project(tx, project)
        .await?
        .ok_or_else(|| GitError::NoProject(project.clone()))?;
    let stored = store::refs(tx, project).await?;
    let changes = plan::changes(&stored, observed, &row.default_branch);
    let intents = store::intents(tx, project).await?;
    let now: Vec<&Change> = changes.iter().take(CHANGES_AT_ONCE).collect();
    for change in &now {
        record_one(tx, &row, change, &intents).await?;
    }
    store::note_push(tx, project).await?;
    Ok(now.len())
}

async fn record_one(
    tx: &mut Tx<'_>,
    row: &ProjectRow,
    change: &Change,
    intents: &[Intent],
) -> Result<(), GitError> {
    let project = &row.name;
    let intent = intents.iter().find(|intent| {
        intent
            .commands
            .iter()
            .any(|command| command.name == change.name && command.new == change.new)
    });
    let pusher = intent.map_or("unknown", |intent| intent.pusher.as_str());
    let content = PushReceived {
        project: project.clone(),
        ref_name: change.name.clone(),
        old: change.old.clone(),
        new: change.new.clone(),
        default_branch: change.name.branch() == Some(row.default_branch.as_str()),
        pusher: pusher.to_owned(),
    };
    let mut pushed = NewEvent::new(event::PUSH_RECEIVED, format!("{project}/{}", change.name))
        .project(project)
        .content(content)
        .actor(pusher);
    let options = intent.map_or(&[][..], |intent| &intent.options);
    if !options.is_empty() {
        pushed = pushed.custom(json!({ "pushOptions": options }));
    }
    let (id, _) = tx.append(pushed).await?;
    let chain = id.to_string();
    let branch_event = match (change.name.branch(), &change.old, &change.new) {
        (Some(branch), None, Some(_)) => Some((event::BRANCH_CREATED, branch)),
        (Some(branch), Some(_), None) => Some((event::BRANCH_DELETED, branch)),
        _ => None,
    };
    if let Some((event_type, branch)) = branch_event {
        tx.append(
            NewEvent::new(event_type, branch)
                .project(project)
                .content(json!({ "repository": { "id": project } }))
                .chain(&chain)
                .caused_by(id)
                .actor(pusher),
        )
        .await?;
    }
    match &change.new {
        Some(target) => store::put_ref(tx, project, &change.name, target, &chain).await?,
        None => store::delete_ref(tx, project, &change.name).await?,
    }
    Ok(())
}

/// The loop that finds refs that moved without being recorded.
pub struct RefsReconciler {
    git: Git,
    /// Whether repositories without a project were looked for since the start.
    discarded: AtomicBool,
    /// The project after which the next look around begins.
    turn: Mutex<String>,
}

impl RefsReconciler {
    /// A loop over the projects of `git`; wake it with [`Git::activator`].
    pub fn new(git: Git) -> Self {
        Self {
            git,
            discarded: AtomicBool::new(false),
            turn: Mutex::default(),
        }
    }

    /// Compares the projects of open pushes that no process of ours works on, and closes the
    /// pushes whose git has ended.
    async fn settle_intents(&self, report: &mut Report) -> Result<(), GitError> {
        let git = &self.git;
        let intents = git
            .0
            .store
            .read::<_, GitError, _>(|tx| {
                Box::pin(async move { Ok(store::open_intents(tx, INTENTS_AT_ONCE).await?) })
            })
            .await?;
        let full = intents.len() as u32 == INTENTS_AT_ONCE;
        let mut closed = 0;
        for (id, project) in intents {
            if git.active().contains_key(&id) {
                continue;
            }
            report.seen += 1;
            // Asked before comparing: what ends in between has moved its refs by then.
            let running = has_live_process(&git.0.repositories.of(&project));
            match git.compare(&project).await {
                Ok(changed) => report.changed += changed,
                Err(GitError::NoProject(_)) => {}
                // One broken repository must not keep the others from being looked at.
                Err(error) => {
                    tracing::error!(project = %project, error = %error, "cannot settle a push");
                    report.note = Some(format!("{project}: {error}"));
                    continue;
                }
            }
            if running {
                report.note = Some(format!("a push to {project} is still being received"));
                self.look_again_soon();
            } else {
                self.close(id).await?;
                closed += 1;
            }
        }
        report.more = full && closed > 0;
        Ok(())
    }

    /// A receive that outlived its control plane tells nobody when it ends.
    fn look_again_soon(&self) {
        let activator = self.git.activator();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            activator.wake();
        });
    }

    async fn close(&self, id: OperationId) -> Result<(), GitError> {
        self.git
            .0
            .store
            .write(|tx| Box::pin(async move { Ok(store::delete_intent(tx, id).await?) }))
            .await
    }

    /// Compares the next few projects by name.
    async fn look_around(&self, report: &mut Report) -> Result<(), GitError> {
        let git = &self.git;
        let after = &self.turn().clone();
        let projects = git
            .0
            .store
            .read::<_, GitError, _>(|tx| {
                Box::pin(async move { Ok(store::projects(tx, after, ROUND_ROBIN).await?) })
            })
            .await?;
        *self.turn() = match projects.last() {
            Some(last) if projects.len() == ROUND_ROBIN as usize => last.name.to_string(),
            _ => String::new(),
        };
        for ProjectRow { name, .. } in projects {
            report.seen += 1;
            match git.compare(&name).await {
                Ok(changed) => report.changed += changed,
                Err(GitError::NoProject(_)) => {}
                // One broken repository must not keep the others from being looked at.
                Err(error) => {
                    tracing::error!(project = %name, error = %error, "cannot compare refs");
                    report.note = Some(format!("{name}: {error}"));
                }
            }
        }
        Ok(())
    }

    fn turn(&self) -> MutexGuard<'_, String> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Reconciler for RefsReconciler {
    fn name(&self) -> &'static str {
        "git.refs"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let mut report = Report::default();
        self.settle_intents(&mut report).await?;
        if !self.discarded.load(Ordering::Relaxed) {
            report.changed += self.git.discard_orphans().await?;
            self.discarded.store(true, Ordering::Relaxed);
        }
        self.look_around(&mut report).await?;
        Ok(report)
    }
}
