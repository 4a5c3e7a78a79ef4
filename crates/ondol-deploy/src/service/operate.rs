//! What people do to environments and rollouts besides releasing and going back.

use ondol_auth::{Action, Ctx};
use ondol_store::Tx;
use ondol_types::{EnvironmentName, ProjectName, RolloutId, event};

use super::request::{draft, ended_at_once, lift, release_held, repeated};
use super::{DeployService, Draft, Requested, begin, check, environment};
use crate::error::DeployError;
use crate::model::{
    CommandState, Environment, Hold, Kind, MAX_REASON, Reason, Rollout, RolloutState, cut,
};
use crate::record::{move_rollout, tell};
use crate::store;

/// A change of a rollout by a person.
#[derive(Clone, Copy)]
enum Push {
    Pause,
    Resume,
    Promote,
    Abort,
}

impl Push {
    const fn participle(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Promote => "promoted",
            Self::Abort => "aborted",
        }
    }

    /// The state that follows from one, if it allows this.
    const fn next(self, state: RolloutState) -> Option<RolloutState> {
        match (self, state) {
            (Self::Pause, RolloutState::Shifting) => Some(RolloutState::Paused),
            (Self::Resume, RolloutState::Paused) => Some(RolloutState::Shifting),
            (Self::Promote, RolloutState::Shifting | RolloutState::Paused) => {
                Some(RolloutState::Swapping)
            }
            (Self::Abort, RolloutState::Swapping) => None,
            (Self::Abort, state) if !state.is_final() => Some(RolloutState::Aborted),
            _ => None,
        }
    }
}

impl DeployService {
    /// Replaces the replicas by new ones, without a gap. They run the newest accepted parts, so
    /// that a restart takes nothing back that is on its way: a staged secret goes along. While
    /// the environment is held, and for parts that a rollout has failed with, it is the current
    /// release that is started anew.
    ///
    /// It waits for the end of a rollout that runs. Behind a rollback that waits it adds nothing
    /// to it and ends at once, superseded by it.
    ///
    /// # Errors
    /// Not allowed; nothing serves.
    pub async fn restart(
        &self,
        ctx: &Ctx,
        key: &str,
        project: &ProjectName,
        name: &EnvironmentName,
    ) -> Result<Requested, DeployError> {
        ctx.require(Action::Deploy, project)?;
        check::key(key)?;
        let author = ctx.principal.name.as_str();
        let requested = self
            .room()
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    if let Some(known) = repeated(tx, key, project, name).await? {
                        return Ok(known);
                    }
                    let found = environment(tx, project, name).await?;
                    if found.current.is_none() {
                        return Err(DeployError::NothingReleased {
                            project: project.clone(),
                            environment: name.clone(),
                        });
                    }
                    let draft = Draft {
                        kind: Kind::Restart,
                        ..draft(project, name, key, Reason::Command, author)
                    };
                    let open = store::open_rollouts(tx, Some((project, name))).await?;
                    let back = open.iter().find(|open| {
                        open.state == RolloutState::Pending && open.kind == Kind::Rollback
                    });
                    if let Some(back) = back {
                        let message = format!(
                            "superseded by rollout {}, which starts new replicas itself",
                            back.number
                        );
                        return ended_at_once(tx, draft, &message, Some(back.id)).await;
                    }
                    let rollout = begin(tx, draft, false).await?;
                    Ok(Requested {
                        rollout: rollout.id,
                        newly: true,
                    })
                })
            })
            .await?;
        self.room().wake_environments();
        Ok(requested)
    }

    /// Sets how many replicas run, over what the specification says; `None` gives it back to it.
    ///
    /// # Errors
    /// Not allowed; no such environment; more than [`crate::MAX_REPLICAS`].
    pub async fn scale(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &EnvironmentName,
        replicas: Option<u32>,
    ) -> Result<Environment, DeployError> {
        ctx.require(Action::Deploy, project)?;
        if replicas.is_some_and(|replicas| replicas > crate::MAX_REPLICAS) {
            return Err(DeployError::Invalid {
                key: "replicas".to_owned(),
                problem: format!("at most {} are allowed", crate::MAX_REPLICAS),
            });
        }
        let author = ctx.principal.name.as_str();
        let changed = self
            .room()
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    let found = Environment {
                        replicas,
                        ..environment(tx, project, name).await?
                    };
                    store::set_replicas(tx, project, name, replicas).await?;
                    tx.append(tell::environment(
                        event::ENVIRONMENT_MODIFIED,
                        &found,
                        author,
                    ))
                    .await?;
                    Ok(found)
                })
            })
            .await?;
        self.room().wake_environments();
        Ok(changed)
    }

    /// Holds automation: secrets, models and data runs wait until a human push or command.
    ///
    /// # Errors
    /// Not allowed; no such environment.
    pub async fn hold(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &EnvironmentName,
        reason: &str,
    ) -> Result<Environment, DeployError> {
        ctx.require(Action::Deploy, project)?;
        let author = ctx.principal.name.as_str();
        self.room()
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    let hold = Hold {
                        reason: cut(reason, MAX_REASON),
                        by: author.to_owned(),
                        at: tx.now(),
                    };
                    let found = Environment {
                        hold: Some(hold),
                        ..environment(tx, project, name).await?
                    };
                    store::set_hold(tx, project, name, found.hold.as_ref()).await?;
                    tx.append(tell::environment(
                        event::ENVIRONMENT_MODIFIED,
                        &found,
                        author,
                    ))
                    .await?;
                    Ok(found)
                })
            })
            .await
    }

    /// Lifts a hold; what automation wanted meanwhile begins, and is returned.
    ///
    /// # Errors
    /// Not allowed; no such environment.
    pub async fn unhold(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &EnvironmentName,
    ) -> Result<Option<RolloutId>, DeployError> {
        ctx.require(Action::Deploy, project)?;
        let author = ctx.principal.name.as_str();
        let begun = self
            .room()
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    environment(tx, project, name).await?;
                    lift(tx, project, name, author).await?;
                    release_held(tx, project, name).await
                })
            })
            .await?;
        self.room().wake_environments();
        Ok(begun)
    }

    /// Keeps a canary at its share until somebody says how to go on.
    ///
    /// # Errors
    /// Not allowed; it is not at a canary step.
    pub async fn pause(&self, ctx: &Ctx, rollout: RolloutId) -> Result<Rollout, DeployError> {
        self.push(ctx, rollout, Push::Pause).await
    }

    /// Measures the step of a paused canary anew.
    ///
    /// # Errors
    /// Not allowed; it is not paused.
    pub async fn resume(&self, ctx: &Ctx, rollout: RolloutId) -> Result<Rollout, DeployError> {
        self.push(ctx, rollout, Push::Resume).await
    }

    /// Gives all traffic to a canary without waiting for its check.
    ///
    /// # Errors
    /// Not allowed; it is not at a canary step.
    pub async fn promote(&self, ctx: &Ctx, rollout: RolloutId) -> Result<Rollout, DeployError> {
        self.push(ctx, rollout, Push::Promote).await
    }

    /// Ends a rollout that has not swapped; the release before serves. A running release command
    /// is ended too, and what it did stays done.
    ///
    /// # Errors
    /// Not allowed; it has ended, or it is too late.
    pub async fn abort(&self, ctx: &Ctx, rollout: RolloutId) -> Result<Rollout, DeployError> {
        let aborted = self.push(ctx, rollout, Push::Abort).await?;
        let room = self.room().clone();
        tokio::spawn(async move {
            // The collector repeats this for one whose process died in between.
            let _ = room.engine.kill(&Rollout::command_workload(rollout)).await;
        });
        Ok(aborted)
    }

    async fn push(&self, ctx: &Ctx, id: RolloutId, push: Push) -> Result<Rollout, DeployError> {
        let author = ctx.principal.name.as_str();
        let changed = self
            .room()
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    let rollout = store::rollout(tx, id)
                        .await?
                        .ok_or(DeployError::NoRollout(id))?;
                    super::query::visible(ctx, &rollout)?;
                    ctx.require(Action::Deploy, &rollout.project)?;
                    let refused = || DeployError::RolloutState {
                        number: rollout.number,
                        state: rollout.state.to_string(),
                        asked: push.participle(),
                    };
                    let to = push.next(rollout.state).ok_or_else(refused)?;
                    let message = format!("{} by {author}", push.participle());
                    if !move_rollout(tx, id, rollout.state, to, rollout.phase.step, &message)
                        .await?
                    {
                        return Err(refused());
                    }
                    if to == RolloutState::Aborted {
                        let detail = "the rollout was aborted while it ran";
                        store::move_command(tx, id, CommandState::Unknown, Some(detail)).await?;
                    }
                    Ok(store::rollout(tx, id).await?.unwrap_or(rollout))
                })
            })
            .await?;
        self.room().wake_environments();
        self.room().wake_routes();
        Ok(changed)
    }

    /// Takes an environment out of service: no traffic, then its replicas drain and stop, then
    /// its releases are forgotten. Its volumes stay. Repeating it is no error.
    ///
    /// # Errors
    /// Not allowed; no such environment.
    pub async fn remove_environment(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &EnvironmentName,
    ) -> Result<(), DeployError> {
        ctx.require(Action::Configure, project)?;
        self.room()
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    store::environment(tx, project, name)
                        .await?
                        .ok_or_else(|| DeployError::NoEnvironment {
                            project: project.clone(),
                            environment: name.clone(),
                        })?;
                    store::set_removing(tx, project, name).await?;
                    Ok(())
                })
            })
            .await?;
        self.room().wake_environments();
        self.room().wake_routes();
        Ok(())
    }
}

/// Takes every environment of a project out of service.
pub(crate) async fn remove_all(tx: &mut Tx<'_>, project: &ProjectName) -> Result<(), DeployError> {
    for found in store::environments(tx, Some(project)).await? {
        store::set_removing(tx, project, &found.name).await?;
    }
    Ok(())
}
