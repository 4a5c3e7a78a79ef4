//! Records: each is one transaction that checks again what its plan assumed, changes the rows
//! and appends the events. One that comes too late changes nothing.

mod finish;
pub(crate) mod tell;

use ondol_store::Tx;
use ondol_types::event;
use ondol_types::{EnvironmentName, ProjectName, ReleaseId, ReplicaId, RolloutId, Timestamp};

use crate::error::DeployError;
use crate::model::{
    CommandState, Environment, MAX_REASON, ReplicaState, Rollout, RolloutState, Scale, cut,
};
use crate::plan::Record;
use crate::store::{self, Guard};

/// Where a record belongs.
pub(crate) type Place<'a> = (&'a ProjectName, &'a EnvironmentName);

/// Makes one record; false when it came too late.
pub(crate) async fn record(
    tx: &mut Tx<'_>,
    place: Place<'_>,
    record: &Record,
) -> Result<bool, DeployError> {
    match record {
        Record::Move {
            rollout,
            from,
            to,
            step,
            message,
        } => move_rollout(tx, *rollout, *from, *to, *step, message).await,
        Record::Supersede { rollout, from, by } => supersede(tx, *rollout, *from, *by).await,
        Record::Measure {
            rollout,
            state,
            phase,
        } => Ok(store::begin_phase(tx, *rollout, *state, phase).await?),
        Record::Finish { rollout } => finish::finish(tx, *rollout).await,
        Record::Add {
            rollout,
            release,
            want,
        } => add(tx, place, *rollout, *release, *want).await,
        Record::Ready {
            replica,
            incarnation,
            probes,
        } => {
            let states = &[ReplicaState::Starting, ReplicaState::Unhealthy];
            let guard = Guard {
                id: *replica,
                incarnation: *incarnation,
                states,
            };
            change(tx, guard, ReplicaState::Ready, None, Some(probes)).await
        }
        Record::Unhealthy {
            replica,
            incarnation,
            probes,
            detail,
        } => {
            let guard = Guard {
                id: *replica,
                incarnation: *incarnation,
                states: &[ReplicaState::Ready],
            };
            change(
                tx,
                guard,
                ReplicaState::Unhealthy,
                Some(detail),
                Some(probes),
            )
            .await
        }
        Record::Failed {
            replica,
            incarnation,
            from,
            ended,
        } => {
            let guard = Guard {
                id: *replica,
                incarnation: *incarnation,
                states: &[*from],
            };
            let changed = store::mark_failed(tx, guard, ended).await?;
            told(tx, *replica, changed).await
        }
        Record::Restart {
            replica,
            incarnation,
        } => {
            let guard = Guard {
                id: *replica,
                incarnation: *incarnation,
                states: &[ReplicaState::Failed],
            };
            Ok(store::mark_restarting(tx, guard).await?)
        }
        Record::Drain {
            replica,
            incarnation,
            from,
        } => {
            let guard = Guard {
                id: *replica,
                incarnation: *incarnation,
                states: &[*from],
            };
            change(tx, guard, ReplicaState::Draining, None, None).await
        }
        Record::Stopped {
            replica,
            incarnation,
        } => {
            let guard = Guard {
                id: *replica,
                incarnation: *incarnation,
                states: &[ReplicaState::Draining],
            };
            change(tx, guard, ReplicaState::Stopped, None, None).await
        }
        Record::Scale {
            before,
            scale,
            changes,
        } => rescale(tx, place, *before, scale, *changes).await,
        Record::Removed => finish::removed(tx, place).await,
    }
}

async fn change(
    tx: &mut Tx<'_>,
    guard: Guard<'_>,
    to: ReplicaState,
    detail: Option<&str>,
    probes: Option<&[crate::model::Probe]>,
) -> Result<bool, DeployError> {
    let changed = store::move_replica(tx, guard, to, detail, probes).await?;
    told(tx, guard.id, changed).await
}

async fn told(tx: &mut Tx<'_>, replica: ReplicaId, changed: bool) -> Result<bool, DeployError> {
    if changed && let Some(replica) = store::replica(tx, replica).await? {
        tx.append(tell::replica(&replica)).await?;
    }
    Ok(changed)
}

/// Moves a rollout and tells it where others care.
pub(crate) async fn move_rollout(
    tx: &mut Tx<'_>,
    id: RolloutId,
    from: RolloutState,
    to: RolloutState,
    step: u32,
    message: &str,
) -> Result<bool, DeployError> {
    let message = cut(message, MAX_REASON);
    if !store::move_rollout(tx, id, from, to, step, &message).await? {
        return Ok(false);
    }
    if let Some(rollout) = store::rollout(tx, id).await? {
        tell_move(tx, &rollout).await?;
    }
    Ok(true)
}

async fn tell_move(tx: &mut Tx<'_>, rollout: &Rollout) -> Result<(), DeployError> {
    let event_type = match rollout.state {
        RolloutState::Paused | RolloutState::Held => event::ROLLOUT_PAUSED,
        state if state.is_final() => event::ROLLOUT_FINISHED,
        _ => return Ok(()),
    };
    tx.append(tell::rollout(event_type, rollout)).await?;
    Ok(())
}

/// Ends a rollout because a newer one takes its place.
pub(crate) async fn supersede(
    tx: &mut Tx<'_>,
    id: RolloutId,
    from: RolloutState,
    by: RolloutId,
) -> Result<bool, DeployError> {
    if from == RolloutState::ReleaseCommand
        && let Some(command) = store::command(tx, id).await?
        && matches!(
            command.state,
            CommandState::Intended | CommandState::Started
        )
    {
        return Ok(false);
    }
    let number = store::rollout(tx, by)
        .await?
        .map_or(0, |newer| newer.number);
    store::set_superseded(tx, id, by).await?;
    move_rollout(
        tx,
        id,
        from,
        RolloutState::Aborted,
        0,
        &format!("superseded by rollout {number}"),
    )
    .await
}

async fn rescale(
    tx: &mut Tx<'_>,
    place: Place<'_>,
    before: Option<Timestamp>,
    scale: &Scale,
    changes: bool,
) -> Result<bool, DeployError> {
    let Some(found) = store::environment(tx, place.0, place.1).await? else {
        return Ok(false);
    };
    let known = found.scale.as_ref().map(|scale| scale.at);
    if found.removing || found.current != Some(scale.release) || known != before {
        return Ok(false);
    }
    // A person's number came in between.
    if changes && found.replicas.is_some() {
        return Ok(false);
    }
    store::set_scale(tx, place.0, place.1, scale).await?;
    if changes {
        let found = Environment {
            scale: Some(scale.clone()),
            ..found
        };
        tx.append(tell::environment(
            event::ENVIRONMENT_MODIFIED,
            &found,
            "ondol",
        ))
        .await?;
    }
    Ok(true)
}

async fn add(
    tx: &mut Tx<'_>,
    place: Place<'_>,
    rollout: RolloutId,
    release: ReleaseId,
    want: u32,
) -> Result<bool, DeployError> {
    let Some(environment) = store::environment(tx, place.0, place.1).await? else {
        return Ok(false);
    };
    let running = match store::rollout(tx, rollout).await? {
        Some(rollout) => rollout.state.is_running(),
        None => false,
    };
    if environment.removing || !(running || environment.serving == Some(rollout)) {
        return Ok(false);
    }
    let have = store::wanted_of(tx, rollout).await?;
    for _ in have..want {
        let id = ReplicaId::generate(&ondol_types::ManualClock::at(tx.now()));
        store::insert_replica(tx, place, id, release, rollout).await?;
        told(tx, id, true).await?;
    }
    Ok(have < want)
}
