//! The two moments at which what serves changes for good.

use ondol_spec::model::Strategy;
use ondol_store::Tx;
use ondol_types::{RolloutId, event};

use super::{Place, change, move_rollout, tell};
use crate::error::DeployError;
use crate::model::{Kind, ReplicaState, RolloutState};
use crate::routes::claims;
use crate::store::{self, Guard};

/// Every live gateway sends all traffic to the new release: it is current from here on.
pub(super) async fn finish(tx: &mut Tx<'_>, id: RolloutId) -> Result<bool, DeployError> {
    let Some(rollout) = store::rollout(tx, id)
        .await?
        .filter(|rollout| rollout.state == RolloutState::Swapping)
    else {
        return Ok(false);
    };
    let place = (&rollout.project, &rollout.environment);
    let Some(environment) = store::environment(tx, place.0, place.1).await? else {
        return Ok(false);
    };
    let Some(to) = rollout.to else {
        return Ok(false);
    };
    let Some(release) = store::release(tx, to).await? else {
        return Ok(false);
    };
    store::set_current(tx, place.0, place.1, to, id).await?;
    store::mark_activated(tx, to).await?;
    let message = match rollout.kind {
        Kind::Restart => {
            let accepted = store::accepted(tx, place.0, place.1).await?.image;
            let newer = accepted.is_some_and(|accepted| {
                accepted.image != release.image || accepted.commit != release.commit
            });
            let number = release.number;
            match (newer, &environment.hold) {
                (false, _) => format!("the replicas of release {number} were replaced"),
                (true, Some(_)) => format!(
                    "the replicas of release {number} were replaced; newer code waits while the environment is held"
                ),
                (true, None) => format!(
                    "the replicas of release {number} were replaced; newer code was accepted, and its rollout did not make it live"
                ),
            }
        }
        Kind::Deploy | Kind::Rollback => format!("release {} is live", release.number),
    };
    move_rollout(
        tx,
        id,
        RolloutState::Swapping,
        RolloutState::Done,
        rollout.phase.step,
        &message,
    )
    .await?;
    keep_standby(
        tx,
        place,
        environment.serving,
        rollout.strategy,
        rollout.kind,
    )
    .await?;
    let kept = claims(&release.config);
    let accepted = store::accepted(tx, place.0, place.1).await?;
    let accepted = accepted
        .image
        .map(|image| claims(&image.config))
        .unwrap_or_default();
    store::keep_hosts(tx, place.0, place.1, &[kept, accepted].concat()).await?;
    let event_type = match (rollout.kind, environment.current) {
        (Kind::Restart, _) => return Ok(true),
        (Kind::Rollback, _) => event::SERVICE_ROLLED_BACK,
        (Kind::Deploy, None) => event::SERVICE_DEPLOYED,
        (Kind::Deploy, Some(_)) => event::SERVICE_UPGRADED,
    };
    tx.append(tell::service(event_type, &release, &rollout))
        .await?;
    Ok(true)
}

/// Blue-green leaves the replicas of the release before standing, and ends those that stood.
async fn keep_standby(
    tx: &mut Tx<'_>,
    place: Place<'_>,
    before: Option<RolloutId>,
    strategy: Strategy,
    kind: Kind,
) -> Result<(), DeployError> {
    let stands = strategy == Strategy::BlueGreen && kind == Kind::Deploy;
    for replica in store::live_replicas(tx, Some(place)).await? {
        let states = &[replica.state];
        let guard = Guard {
            id: replica.id,
            incarnation: replica.incarnation,
            states,
        };
        if replica.state == ReplicaState::Standby {
            change(tx, guard, ReplicaState::Draining, None, None).await?;
        } else if stands && Some(replica.rollout) == before && replica.state == ReplicaState::Ready
        {
            change(tx, guard, ReplicaState::Standby, None, None).await?;
        }
    }
    Ok(())
}

/// Nothing runs any more: the rows of the environment go.
pub(super) async fn removed(tx: &mut Tx<'_>, place: Place<'_>) -> Result<bool, DeployError> {
    let Some(environment) = store::environment(tx, place.0, place.1)
        .await?
        .filter(|found| found.removing)
    else {
        return Ok(false);
    };
    if !store::live_replicas(tx, Some(place)).await?.is_empty() {
        return Ok(false);
    }
    tx.append(tell::removed(&environment)).await?;
    store::delete_environment(tx, place.0, place.1).await?;
    Ok(true)
}
