//! Keeping repositories small and quick: packs are joined when there are many of them, and
//! everything is collected once a week where there were pushes. One repository at a time.

use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_types::{Problem, ProjectName};

use crate::error::GitError;
use crate::repository::measure;
use crate::service::Git;
use crate::store;

const AT_ONCE: u32 = 5;
const MANY_PACKS: usize = 20;
const COLLECT_EVERY: Duration = Duration::from_secs(7 * 24 * 3_600);
const PATIENCE: Duration = Duration::from_secs(1_800);

/// The loop that maintains repositories.
pub struct MaintenanceReconciler {
    git: Git,
}

impl MaintenanceReconciler {
    /// A loop over the projects of `git`.
    pub fn new(git: Git) -> Self {
        Self { git }
    }

    async fn maintain(&self, project: &ProjectName) -> Result<bool, GitError> {
        let inner = &self.git.0;
        let path = self.git.repository(project).await?;
        let measured = path.clone();
        let (_, packs) = tokio::task::spawn_blocking(move || measure(&measured))
            .await
            .unwrap_or((0, 0));
        let maintained = inner
            .store
            .read::<_, GitError, _>(|tx| {
                Box::pin(async move { Ok(store::maintained_at(tx, project).await?) })
            })
            .await?;
        let collect = inner.clock.now().since(maintained) >= COLLECT_EVERY;
        if packs <= MANY_PACKS && !collect {
            return Ok(false);
        }
        if collect {
            // Objects that a push in progress may still refer to are younger than two weeks.
            inner
                .repositories
                .command("gc", &path)
                .args(["gc", "--quiet", "--prune=2.weeks.ago"])
                .run(4_096, PATIENCE)
                .await?
                .checked("gc")?;
        } else {
            inner
                .repositories
                .command("repack", &path)
                .args(["repack", "--quiet", "--geometric=2", "-d"])
                .run(4_096, PATIENCE)
                .await?
                .checked("repack")?;
        }
        let (bytes, _) = tokio::task::spawn_blocking(move || measure(&path))
            .await
            .unwrap_or((0, 0));
        inner
            .store
            .write::<_, GitError, _>(|tx| {
                Box::pin(
                    async move { Ok(store::note_maintenance(tx, project, bytes, collect).await?) },
                )
            })
            .await?;
        Ok(true)
    }
}

#[async_trait]
impl Reconciler for MaintenanceReconciler {
    fn name(&self) -> &'static str {
        "git.maintenance"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(600)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let worn = self
            .git
            .0
            .store
            .write::<_, GitError, _>(|tx| {
                Box::pin(async move { Ok(store::take_worn(tx, AT_ONCE).await?) })
            })
            .await?;
        let mut report = Report::default();
        for project in worn {
            report.seen += 1;
            match self.maintain(&project).await {
                Ok(changed) => report.changed += u64::from(changed),
                Err(GitError::NoProject(_)) => {}
                Err(error) => {
                    tracing::warn!(project = %project, error = %error, "cannot maintain a repository");
                    report.note = Some(format!("{project}: {error}"));
                }
            }
        }
        Ok(report)
    }
}
