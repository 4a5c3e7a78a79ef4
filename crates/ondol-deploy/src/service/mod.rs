//! Operations: each authorizes, validates, and is one transaction. What follows from it is the
//! reconcilers' work.

mod check;
mod operate;
mod query;
mod request;
mod rollback;
mod status;

use std::sync::Arc;

use ondol_store::Tx;
use ondol_types::{EnvironmentName, ProjectName, RolloutId};

use crate::error::DeployError;
use crate::model::{Environment, Kind, Reason, Rollout, RolloutState};
use crate::record::{move_rollout, supersede};
use crate::room::Room;
use crate::store;

pub(crate) use operate::remove_all;
pub use query::{Followed, Page, RolloutView};
pub use request::{DeployRequest, Requested};
pub(crate) use status::keep_reading;
pub use status::{EnvironmentStatus, ReplicaStatus, Scaling, Traffic};

/// The operations of this room. Cheap to clone.
#[derive(Clone)]
pub struct DeployService {
    room: Arc<Room>,
}

impl DeployService {
    pub(crate) fn new(room: Arc<Room>) -> Self {
        Self { room }
    }

    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }
}

/// The environment, or an error that names it.
pub(crate) async fn environment(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
) -> Result<Environment, DeployError> {
    let found = store::environment(tx, project, name)
        .await?
        .ok_or_else(|| DeployError::NoEnvironment {
            project: project.clone(),
            environment: name.clone(),
        })?;
    if found.removing {
        return Err(DeployError::Removing {
            project: project.clone(),
            environment: name.clone(),
        });
    }
    Ok(found)
}

/// What a new rollout is about.
pub(crate) struct Draft<'a> {
    pub(crate) project: &'a ProjectName,
    pub(crate) environment: &'a EnvironmentName,
    pub(crate) key: &'a str,
    pub(crate) kind: Kind,
    pub(crate) reason: Reason,
    pub(crate) target: Option<i64>,
    pub(crate) run: Option<ondol_types::RunId>,
    pub(crate) chain: Option<String>,
    pub(crate) author: &'a str,
    pub(crate) not_before: Option<ondol_types::Timestamp>,
}

/// Writes the row of a new rollout, which supersedes those that wait. `held` parks it: it waits
/// for a person, and leaves alone what waits for its turn. Automation is parked behind a rollback
/// that waits, too.
///
/// Only what composes the newest accepted parts takes the place of what was parked: a rollback
/// and a restart leave it where it is.
pub(crate) async fn begin(
    tx: &mut Tx<'_>,
    draft: Draft<'_>,
    held: bool,
) -> Result<Rollout, DeployError> {
    let now = tx.now();
    let waiting = store::open_rollouts(tx, Some((draft.project, draft.environment))).await?;
    let behind = waiting
        .iter()
        .any(|open| open.state == RolloutState::Pending && open.kind == Kind::Rollback);
    let parked = held || (behind && !draft.reason.is_human());
    let number = store::next_rollout_number(tx, draft.project, draft.environment).await?;
    let id = RolloutId::derived(&format!("rollout:{}", draft.key));
    let (state, message) = if parked {
        (
            RolloutState::Held,
            if held {
                "automation waits: the environment is held"
            } else {
                "automation waits for the rollback before it"
            },
        )
    } else {
        (RolloutState::Pending, "waiting for its turn")
    };
    let rollout = Rollout {
        id,
        project: draft.project.clone(),
        environment: draft.environment.clone(),
        number,
        key: draft.key.to_owned(),
        kind: draft.kind,
        reason: draft.reason,
        state,
        since: now,
        strategy: ondol_spec::model::Strategy::Rolling,
        from: None,
        to: None,
        target: draft.target,
        phase: crate::model::Phase::default(),
        message: message.to_owned(),
        failure: None,
        superseded_by: None,
        run: draft.run,
        chain: draft.chain,
        author: draft.author.to_owned(),
        not_before: draft.not_before,
        created_at: now,
        finished_at: None,
    };
    let mut rollout = rollout;
    for open in waiting {
        let gives_way = match open.state {
            RolloutState::Held => draft.kind == Kind::Deploy,
            RolloutState::Pending => !parked,
            _ => false,
        };
        if gives_way {
            if open.state == RolloutState::Pending && open.not_before.is_none() {
                // What was due stays due.
                rollout.not_before = None;
            }
            // Two that wait may not stand beside each other, not even for a moment.
            move_rollout(
                tx,
                open.id,
                open.state,
                RolloutState::Aborted,
                0,
                &format!("superseded by rollout {number}"),
            )
            .await?;
            store::set_superseded(tx, open.id, id).await?;
        }
    }
    store::insert_rollout(tx, &rollout).await?;
    if parked {
        tx.append(crate::record::tell::rollout(
            ondol_types::event::ROLLOUT_PAUSED,
            &rollout,
        ))
        .await?;
    }
    Ok(rollout)
}

/// Ends a rollout for one that exists already.
pub(crate) async fn give_way(
    tx: &mut Tx<'_>,
    old: &Rollout,
    by: RolloutId,
) -> Result<bool, DeployError> {
    supersede(tx, old.id, old.state, by).await
}
