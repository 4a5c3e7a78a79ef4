//! The life of one push, from the intent to the recorded refs.

use ondol_types::{OperationId, ProjectName};
use tokio::sync::OwnedSemaphorePermit;

use super::{ActivePush, Git};
use crate::error::GitError;
use crate::model::{Pushed, PushedRef};
use crate::plan::Change;
use crate::store::{self, Intent};

/// How far a push is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PushPhase {
    /// Git receives objects and moves refs.
    Receiving,
    /// The refs have moved and are recorded; progress is shown.
    Following,
}

impl Git {
    /// Records who is about to push what, before git moves anything.
    pub(crate) async fn begin_push(
        &self,
        intent: &Intent,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), GitError> {
        self.active().insert(
            intent.id,
            ActivePush {
                pusher: intent.pusher.clone(),
                options: intent.options.clone(),
                permit: Some(permit),
                phase: PushPhase::Receiving,
            },
        );
        let recorded = self
            .0
            .store
            .write::<_, GitError, _>(|tx| {
                Box::pin(async move { Ok(store::insert_intent(tx, intent).await?) })
            })
            .await;
        if recorded.is_err() {
            self.active().remove(&intent.id);
        }
        recorded
    }

    /// Records what moved and closes the push. When that fails, the intent stays and the
    /// reconciler does it.
    pub(crate) async fn end_push(&self, project: &ProjectName, id: OperationId) {
        let outcome = async {
            self.compare(project).await?;
            self.0
                .store
                .write::<_, GitError, _>(|tx| {
                    Box::pin(async move { Ok(store::delete_intent(tx, id).await?) })
                })
                .await
        };
        let outcome = outcome.await;
        self.active().remove(&id);
        if let Err(error) = outcome {
            tracing::warn!(project = %project, error = %error, "cannot record a push yet");
            self.0.refs_activator.wake();
        }
    }

    /// How far a push of this process is.
    pub(crate) fn phase_of(&self, id: OperationId) -> Option<PushPhase> {
        self.active().get(&id).map(|push| push.phase)
    }

    /// The refs have moved, says the hook: they are recorded now, and what was recorded of these
    /// updates is returned.
    pub(crate) async fn refs_moved(
        &self,
        project: &ProjectName,
        id: Option<OperationId>,
        updates: &[Change],
    ) -> Result<Pushed, GitError> {
        self.0.crash.reached("git.receive.after-pack");
        self.compare(project).await?;
        let (pusher, options) = {
            let mut active = self.active();
            let push = id.and_then(|id| active.get_mut(&id));
            push.map_or_else(
                || ("unknown".to_owned(), Vec::new()),
                |push| {
                    push.phase = PushPhase::Following;
                    push.permit = None;
                    (push.pusher.clone(), push.options.clone())
                },
            )
        };
        let default_branch = self.default_branch(project).await?;
        let rows: Vec<_> = self
            .0
            .store
            .read::<_, GitError, _>(|tx| {
                Box::pin(async move {
                    let mut rows = Vec::new();
                    for update in updates {
                        rows.push(store::one_ref(tx, project, &update.name).await?);
                    }
                    Ok(rows)
                })
            })
            .await?;
        let updates = updates
            .iter()
            .zip(rows)
            .map(|(update, row)| PushedRef {
                name: update.name.clone(),
                old: update.old.clone(),
                new: update.new.clone(),
                default_branch: update.name.branch() == Some(default_branch.as_str()),
                chain: row
                    .filter(|row| Some(&row.target) == update.new.as_ref())
                    .map(|row| row.chain),
            })
            .collect();
        Ok(Pushed {
            project: project.clone(),
            pusher,
            options,
            updates,
        })
    }
}
