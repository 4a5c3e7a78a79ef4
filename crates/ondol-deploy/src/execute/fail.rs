//! Records a failure with what helps to find its cause: the newest probe, the last lines of the
//! program's log, and where it was found listening instead.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use ondol_types::{RolloutId, WorkloadId};
use ondol_workload::{LogPosition, LogQuery};

use crate::crash;
use crate::error::DeployError;
use crate::model::{Failure, MAX_LOG_LINES, MAX_REASON, Replica, Rollout, cut};
use crate::plan::Cause;
use crate::record::move_rollout;
use crate::room::Room;
use crate::store;

/// How long a log or a list of sockets may take.
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_LINE: usize = 500;

pub(super) async fn fail(
    room: &Arc<Room>,
    id: RolloutId,
    cause: &Cause,
) -> Result<(), DeployError> {
    let replica = match cause.replica {
        Some(replica) => {
            room.store
                .read::<_, DeployError, _>(|tx| {
                    Box::pin(async move { Ok(store::replica(tx, replica).await?) })
                })
                .await?
        }
        None => None,
    };
    let failure = describe(room, id, cause, replica.as_ref()).await;
    room.crash.reached(crash::FAIL_BEFORE);
    let failure = &failure;
    let failed = room
        .store
        .write::<_, DeployError, _>(|tx| {
            Box::pin(async move {
                let Some(rollout) = store::rollout(tx, id)
                    .await?
                    .filter(|rollout| rollout.state.is_running())
                else {
                    return Ok(None);
                };
                store::set_failure(tx, id, failure).await?;
                let to = crate::model::RolloutState::Failed;
                move_rollout(
                    tx,
                    id,
                    rollout.state,
                    to,
                    rollout.phase.step,
                    &failure.message,
                )
                .await?;
                Ok(Some(rollout))
            })
        })
        .await?;
    room.crash.reached(crash::FAIL_AFTER);
    if let Some(rollout) = failed {
        tracing::warn!(
            rollout.id = %id,
            project = %rollout.project,
            environment = %rollout.environment,
            reason = %failure.message,
            "rollout failed; the release before serves"
        );
    }
    Ok(())
}

async fn describe(
    room: &Arc<Room>,
    id: RolloutId,
    cause: &Cause,
    replica: Option<&Replica>,
) -> Failure {
    let mut failure = Failure::plain(cause.message.clone());
    if let Some(replica) = replica {
        let known = room
            .probes()
            .get(&replica.id)
            .and_then(|probes| probes.last().cloned());
        failure.probe = known.or_else(|| replica.probes.last().cloned());
        let mut message = cause.message.clone();
        if let Some(probe) = &failure.probe {
            message.push_str(&format!("; last probe: {probe}"));
        }
        if let Some(port) = replica.address.map(|address| address.port())
            && failure
                .probe
                .as_ref()
                .is_none_or(|probe| probe.status.is_none())
        {
            failure.listening = listening(room, &replica.workload).await;
            if !failure.listening.is_empty() {
                let places = failure.listening.join(", ");
                message.push_str(&format!(
                    "; it was found listening on {places}, but PORT is {port}"
                ));
                failure.hint = Some(
                    "let the program listen on $PORT, or say under `service.port` which port it insists on".to_owned(),
                );
            }
        }
        failure.message = cut(&message, MAX_REASON);
        failure.log = log(room, &replica.workload).await;
    } else if cause.command {
        failure.log = log(room, &Rollout::command_workload(id)).await;
    }
    if failure.hint.is_none() && !failure.log.is_empty() {
        failure.hint = Some(
            "the last lines of its log stand with this rollout; `ondol logs` shows all".to_owned(),
        );
    }
    failure
}

async fn listening(room: &Arc<Room>, workload: &WorkloadId) -> Vec<String> {
    match tokio::time::timeout(PATIENCE, room.engine.listening(workload)).await {
        Ok(Ok(addresses)) => addresses.iter().take(8).map(ToString::to_string).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// The last lines, masked already by the shim that wrote them.
async fn log(room: &Arc<Room>, workload: &WorkloadId) -> Vec<String> {
    let lines = MAX_LOG_LINES as u64;
    let query = LogQuery {
        from: LogPosition::Tail(lines),
        follow: false,
        limit: Some(lines),
    };
    let read = async {
        let Ok(stream) = room.engine.logs(workload, query).await else {
            return Vec::new();
        };
        stream
            .filter_map(|line| async move { line.ok() })
            .map(|line| cut(&line.text, MAX_LINE))
            .take(MAX_LOG_LINES)
            .collect()
            .await
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .unwrap_or_default()
}
