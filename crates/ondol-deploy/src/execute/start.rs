//! Starts and ends of replicas. The row that says so stands before the start; the engine starts
//! an incarnation at most once, so a start that was interrupted is simply repeated.

use std::sync::Arc;

use ondol_types::{Classified, ErrorKind, ReplicaId};
use ondol_workload::backoff::Backoff;
use ondol_workload::{EngineError, StopPolicy, StopSignal};

use super::launch::{Role, workload};
use crate::crash;
use crate::error::DeployError;
use crate::model::{MAX_REASON, Release, Replica, ReplicaState, cut};
use crate::plan::Record;
use crate::record::record;
use crate::room::Room;
use crate::store::{self, Ended, Guard};

async fn rows(room: &Arc<Room>, id: ReplicaId) -> Result<Option<(Replica, Release)>, DeployError> {
    room.store
        .read::<_, DeployError, _>(|tx| {
            Box::pin(async move {
                let Some(replica) = store::replica(tx, id).await? else {
                    return Ok(None);
                };
                Ok(store::release(tx, replica.release)
                    .await?
                    .map(|release| (replica, release)))
            })
        })
        .await
}

pub(super) async fn start(
    room: &Arc<Room>,
    id: ReplicaId,
    incarnation: u64,
) -> Result<(), DeployError> {
    let Some((replica, release)) = rows(room, id).await? else {
        return Ok(());
    };
    let current = replica.state == ReplicaState::Starting
        && replica.incarnation == incarnation
        && replica.started_at.is_none();
    if !current {
        return Ok(());
    }
    match launch(room, &replica, &release).await {
        Ok(address) => {
            room.crash.reached(crash::REPLICA_STARTED);
            let guard = Guard {
                id,
                incarnation,
                states: &[ReplicaState::Starting],
            };
            room.store
                .write::<_, DeployError, _>(|tx| {
                    Box::pin(async move { Ok(store::mark_started(tx, guard, address).await?) })
                })
                .await?;
            Ok(())
        }
        Err(error) => failed(room, &replica, &error).await,
    }
}

async fn launch(
    room: &Arc<Room>,
    replica: &Replica,
    release: &Release,
) -> Result<Option<std::net::SocketAddr>, DeployError> {
    // The engine copies the files while it starts; until then the collector leaves them alone.
    let _files = room.unpacked.read().await;
    let role = Role::Replica(replica.id.to_string());
    let spec = workload(
        room,
        release,
        replica.workload,
        replica.incarnation,
        &replica.rollout.to_string(),
        role,
    )
    .await?;
    room.crash.reached(crash::IMAGE_AFTER);
    let started = room.engine.start(spec).await?;
    for notice in &started.observation.notices {
        tracing::info!(replica.id = %replica.id, project = %replica.project, notice, "the engine could not do everything");
    }
    Ok(started.address)
}

/// Whether trying again cannot help.
fn is_fatal(error: &DeployError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidInput
            | ErrorKind::Unsupported
            | ErrorKind::NotFound
            | ErrorKind::Corrupted
            | ErrorKind::TooLarge
    ) || matches!(error, DeployError::Engine(EngineError::VolumeOccupied(_)))
}

async fn failed(
    room: &Arc<Room>,
    replica: &Replica,
    error: &DeployError,
) -> Result<(), DeployError> {
    let mut known = replica.incarnation;
    match error {
        DeployError::Engine(EngineError::Running { .. }) => {
            // Only after rows were restored from a backup: what they do not know of must end.
            room.engine.kill(&replica.workload).await?;
        }
        DeployError::Engine(EngineError::Stale { known: newer, .. }) => known = *newer,
        _ => {}
    }
    let backoff = Backoff::default();
    let failures = replica.failures.saturating_add(1);
    let ended = Ended {
        failures,
        fatal: is_fatal(error),
        next_start_at: room.clock.now().plus(backoff.delay(failures)),
        detail: cut(&error.told(), MAX_REASON),
        probes: Vec::new(),
        incarnation: known,
    };
    tracing::warn!(replica.id = %replica.id, project = %replica.project, error = %error.told(), "a replica could not be started");
    let change = Record::Failed {
        replica: replica.id,
        incarnation: replica.incarnation,
        from: ReplicaState::Starting,
        ended,
    };
    write(room, replica, &change).await
}

async fn write(room: &Arc<Room>, replica: &Replica, change: &Record) -> Result<(), DeployError> {
    let place = (&replica.project, &replica.environment);
    room.store
        .write::<_, DeployError, _>(|tx| Box::pin(async move { record(tx, place, change).await }))
        .await?;
    Ok(())
}

fn policy(release: Option<&Release>) -> StopPolicy {
    StopPolicy {
        signal: StopSignal::Term,
        grace: release.map_or_else(
            || StopPolicy::default().grace,
            |release| release.config.service.stop.duration(),
        ),
    }
}

/// Ends an incarnation that does not answer; its end is seen, and another one started.
pub(super) async fn recycle(
    room: &Arc<Room>,
    id: ReplicaId,
    incarnation: u64,
) -> Result<(), DeployError> {
    let Some((replica, release)) = rows(room, id).await? else {
        return Ok(());
    };
    if replica.state != ReplicaState::Unhealthy || replica.incarnation != incarnation {
        return Ok(());
    }
    tracing::warn!(replica.id = %id, project = %replica.project, "a replica does not answer and is started anew");
    match room
        .engine
        .stop(&replica.workload, policy(Some(&release)))
        .await
    {
        Ok(_) | Err(EngineError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Stops a replica that every gateway has forgotten and that has nothing in progress.
pub(super) async fn stop(room: &Arc<Room>, id: ReplicaId) -> Result<(), DeployError> {
    let found = room
        .store
        .read::<_, DeployError, _>(|tx| {
            Box::pin(async move {
                let Some(replica) = store::replica(tx, id).await? else {
                    return Ok(None);
                };
                let release = store::release(tx, replica.release).await?;
                Ok(Some((replica, release)))
            })
        })
        .await?;
    let Some((replica, release)) =
        found.filter(|(replica, _)| replica.state == ReplicaState::Draining)
    else {
        return Ok(());
    };
    room.crash.reached(crash::STOP_BEFORE);
    match room
        .engine
        .stop(&replica.workload, policy(release.as_ref()))
        .await
    {
        Ok(_) | Err(EngineError::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    room.crash.reached(crash::STOP_AFTER);
    let change = Record::Stopped {
        replica: id,
        incarnation: replica.incarnation,
    };
    write(room, &replica, &change).await?;
    room.probes().remove(&id);
    Ok(())
}
