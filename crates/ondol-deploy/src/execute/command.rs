//! The release command: intended, started, ended, each recorded, and never begun twice. What an
//! earlier process intended and nobody knows of has an unknown outcome: the rollout fails.

use std::sync::Arc;

use ondol_types::RolloutId;
use ondol_workload::EngineError;

use super::launch::{Role, workload};
use crate::crash;
use crate::error::DeployError;
use crate::model::{CommandState, Failure, MAX_REASON, Rollout, RolloutState, cut};
use crate::record::move_rollout;
use crate::room::Room;
use crate::store;

pub(super) async fn begin(room: &Arc<Room>, id: RolloutId) -> Result<(), DeployError> {
    let found = room
        .store
        .read::<_, DeployError, _>(|tx| {
            Box::pin(async move {
                let Some(rollout) = store::rollout(tx, id).await? else {
                    return Ok(None);
                };
                let release = match rollout.to {
                    Some(to) => store::release(tx, to).await?,
                    None => None,
                };
                Ok(release.map(|release| (rollout, release)))
            })
        })
        .await?;
    let Some((_, release)) =
        found.filter(|(rollout, _)| rollout.state == RolloutState::ReleaseCommand)
    else {
        return Ok(());
    };
    let Some(command) = &release.config.release.command else {
        return Ok(());
    };
    let _files = room.unpacked.read().await;
    let own = Rollout::command_workload(id);
    let spec = match workload(
        room,
        &release,
        own,
        1,
        &id.to_string(),
        Role::Command(command),
    )
    .await
    {
        Ok(spec) => spec,
        Err(error) => {
            // Nothing has begun, so this is a plain failure of the rollout.
            let failure = Failure::plain(cut(
                &format!("the release command cannot be prepared: {}", error.told()),
                MAX_REASON,
            ));
            let failure = &failure;
            return room
                .store
                .write::<_, DeployError, _>(|tx| {
                    Box::pin(async move {
                        store::set_failure(tx, id, failure).await?;
                        move_rollout(
                            tx,
                            id,
                            RolloutState::ReleaseCommand,
                            RolloutState::Failed,
                            0,
                            &failure.message,
                        )
                        .await?;
                        Ok(())
                    })
                })
                .await;
        }
    };
    let intended = room
        .store
        .write::<_, DeployError, _>(|tx| {
            Box::pin(async move {
                let Some(rollout) = store::rollout(tx, id).await? else {
                    return Ok(false);
                };
                if rollout.state != RolloutState::ReleaseCommand
                    || !store::intend_command(tx, id).await?
                {
                    return Ok(false);
                }
                if let Some(release) = rollout.to {
                    store::mark_commanded(tx, release).await?;
                }
                Ok(true)
            })
        })
        .await?;
    if !intended {
        return Ok(());
    }
    room.crash.reached(crash::COMMAND_INTENDED);
    let (state, detail) = match room.engine.start(spec).await {
        Ok(_) => (CommandState::Started, None),
        // A shim that does not answer may have started it.
        Err(error @ EngineError::ShimSilent { .. }) => {
            (CommandState::Unknown, Some(error.to_string()))
        }
        Err(error) => {
            let told = DeployError::from(error).told();
            (
                CommandState::Failed,
                Some(format!("could not be started: {told}")),
            )
        }
    };
    room.crash.reached(crash::COMMAND_STARTED);
    if !note(room, id, state, detail).await? && state == CommandState::Started {
        // Somebody aborted the rollout between the decision and the start.
        room.engine.kill(&own).await?;
    }
    Ok(())
}

/// False when its end was noted before.
async fn note(
    room: &Arc<Room>,
    id: RolloutId,
    state: CommandState,
    detail: Option<String>,
) -> Result<bool, DeployError> {
    let detail = detail.map(|detail| cut(&detail, MAX_REASON));
    let detail = detail.as_deref();
    room.store
        .write::<_, DeployError, _>(|tx| {
            Box::pin(async move { Ok(store::move_command(tx, id, state, detail).await?) })
        })
        .await
}

pub(super) async fn resolve(room: &Arc<Room>, id: RolloutId) -> Result<(), DeployError> {
    let observed = room.engine.observe(&Rollout::command_workload(id)).await?;
    let (state, detail) = match observed {
        Some(_) => (CommandState::Started, None),
        None => {
            let detail = "the platform stopped between the decision to start it and its start";
            (CommandState::Unknown, Some(detail.to_owned()))
        }
    };
    note(room, id, state, detail).await?;
    Ok(())
}

pub(super) async fn finish(room: &Arc<Room>, id: RolloutId) -> Result<(), DeployError> {
    let ended = room.engine.wait(&Rollout::command_workload(id)).await;
    room.crash.reached(crash::COMMAND_ENDED);
    let (state, detail) = match ended {
        Ok(exit) if exit.success() => (CommandState::Succeeded, exit.describe()),
        Ok(exit) if exit.lost => (CommandState::Unknown, exit.describe()),
        Ok(exit) => (CommandState::Failed, exit.describe()),
        Err(EngineError::NotFound(_)) => (
            CommandState::Unknown,
            "the engine does not know it any more".to_owned(),
        ),
        Err(error) => return Err(error.into()),
    };
    note(room, id, state, Some(detail)).await?;
    Ok(())
}
