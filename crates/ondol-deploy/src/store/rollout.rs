//! Rows of rollouts and of their release commands.

use ondol_store::{Row, StoreError, Tx, params};
use ondol_types::{EnvironmentName, ProjectName, ReleaseId, RolloutId};

use super::environment::sql;
use super::{json, unword, word};
use crate::model::{Command, CommandState, Failure, Kind, Phase, Rollout, RolloutState};

const COLUMNS: &str = "id, project, environment, number, request_key, kind, reason, state, since, strategy, from_release, to_release, target, step, phase_generation, phase_since, phase_canary, phase_current, message, failure, superseded_by, run, chain, author, not_before, created_at, finished_at";

fn rollout_of(row: &Row) -> Result<Rollout, StoreError> {
    Ok(Rollout {
        id: row.parse("id")?,
        project: row.parse("project")?,
        environment: row.parse("environment")?,
        number: row.get("number")?,
        key: row.get("request_key")?,
        kind: row.parse("kind")?,
        reason: row.parse("reason")?,
        state: row.parse("state")?,
        since: row.get("since")?,
        strategy: unword("strategy", &row.get::<String>("strategy")?)?,
        from: row.parse_opt("from_release")?,
        to: row.parse_opt("to_release")?,
        target: row.get("target")?,
        phase: Phase {
            step: row.get("step")?,
            generation: row.get("phase_generation")?,
            since: row.get("phase_since")?,
            canary: row.json_opt("phase_canary")?,
            current: row.json_opt("phase_current")?,
        },
        message: row.get("message")?,
        failure: row.json_opt("failure")?,
        superseded_by: row.parse_opt("superseded_by")?,
        run: row.parse_opt("run")?,
        chain: row.get("chain")?,
        author: row.get("author")?,
        not_before: row.get("not_before")?,
        created_at: row.get("created_at")?,
        finished_at: row.get("finished_at")?,
    })
}

pub(crate) async fn insert_rollout(tx: &mut Tx<'_>, rollout: &Rollout) -> Result<(), StoreError> {
    tx.execute(
        sql(format!(
            "INSERT INTO deploy_rollout ({COLUMNS})
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, NULL, NULL, NULL, NULL,
                     $15, $16, $17, $18, $19, $20, $21, $22, $23)"
        )),
        params![
            rollout.id,
            &rollout.project,
            &rollout.environment,
            rollout.number,
            &rollout.key,
            rollout.kind.as_str(),
            rollout.reason.as_str(),
            rollout.state.as_str(),
            rollout.since,
            word(&rollout.strategy)?,
            rollout.from,
            rollout.to,
            rollout.target,
            rollout.phase.step,
            &rollout.message,
            rollout.failure.as_ref().map(json).transpose()?,
            rollout.superseded_by,
            rollout.run,
            rollout.chain.clone(),
            &rollout.author,
            rollout.not_before,
            rollout.created_at,
            rollout.finished_at,
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn rollout(tx: &mut Tx<'_>, id: RolloutId) -> Result<Option<Rollout>, StoreError> {
    tx.fetch_optional(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_rollout WHERE id = $1"
        )),
        params![id],
    )
    .await?
    .as_ref()
    .map(rollout_of)
    .transpose()
}

pub(crate) async fn rollout_by_key(
    tx: &mut Tx<'_>,
    key: &str,
) -> Result<Option<Rollout>, StoreError> {
    tx.fetch_optional(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_rollout WHERE request_key = $1"
        )),
        params![key],
    )
    .await?
    .as_ref()
    .map(rollout_of)
    .transpose()
}

const OPEN: &str = "state NOT IN ('done', 'failed', 'aborted')";

/// Rollouts that have not ended, oldest first.
pub(crate) async fn open_rollouts(
    tx: &mut Tx<'_>,
    place: Option<(&ProjectName, &EnvironmentName)>,
) -> Result<Vec<Rollout>, StoreError> {
    let (project, environment) = place.map_or(("", ""), |(project, name)| {
        (project.as_str(), name.as_str())
    });
    tx.fetch_all(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_rollout
             WHERE {OPEN} AND ($1 = '' OR (project = $1 AND environment = $2)) ORDER BY project, environment, number"
        )),
        params![project, environment],
    )
    .await?
    .iter()
    .map(rollout_of)
    .collect()
}

/// Rollouts with a number below `before`, newest first.
pub(crate) async fn rollouts_before(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    before: i64,
    limit: u32,
) -> Result<Vec<Rollout>, StoreError> {
    tx.fetch_all(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_rollout WHERE project = $1 AND environment = $2 AND number < $3
             ORDER BY number DESC LIMIT $4"
        )),
        params![project, environment, before, limit],
    )
    .await?
    .iter()
    .map(rollout_of)
    .collect()
}

/// Moves a rollout from one state to another; false when it was not in the first. The phase
/// begins anew: the next routing table that shows it has not been made.
pub(crate) async fn move_rollout(
    tx: &mut Tx<'_>,
    id: RolloutId,
    from: RolloutState,
    to: RolloutState,
    step: u32,
    message: &str,
) -> Result<bool, StoreError> {
    let now = tx.now();
    let changed = tx
        .execute(
            "UPDATE deploy_rollout SET state = $3, step = $4, message = $5, since = $6, finished_at = $7,
                 phase_generation = NULL, phase_since = NULL, phase_canary = NULL, phase_current = NULL
             WHERE id = $1 AND state = $2",
            params![id, from.as_str(), to.as_str(), step, message, now, to.is_final().then_some(now)],
        )
        .await?;
    Ok(changed == 1)
}

/// Joins a rollout to the release composed for it, which may make it another kind: a restart
/// that carries newer parts is a deployment.
pub(crate) async fn set_releases(
    tx: &mut Tx<'_>,
    id: RolloutId,
    kind: Kind,
    from: Option<ReleaseId>,
    to: ReleaseId,
    strategy: ondol_spec::model::Strategy,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE deploy_rollout SET kind = $2, from_release = $3, to_release = $4, strategy = $5 WHERE id = $1",
        params![id, kind.as_str(), from, to, word(&strategy)?],
    )
    .await?;
    Ok(())
}

pub(crate) async fn set_failure(
    tx: &mut Tx<'_>,
    id: RolloutId,
    failure: &Failure,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE deploy_rollout SET failure = $2 WHERE id = $1",
        params![id, json(failure)?],
    )
    .await?;
    Ok(())
}

pub(crate) async fn set_superseded(
    tx: &mut Tx<'_>,
    id: RolloutId,
    by: RolloutId,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE deploy_rollout SET superseded_by = $2 WHERE id = $1",
        params![id, by],
    )
    .await?;
    Ok(())
}

/// The step is measured from now on; false when that was noted before.
pub(crate) async fn begin_phase(
    tx: &mut Tx<'_>,
    id: RolloutId,
    state: RolloutState,
    phase: &Phase,
) -> Result<bool, StoreError> {
    let now = tx.now();
    let changed = tx
        .execute(
            "UPDATE deploy_rollout SET phase_since = $4, phase_canary = $5, phase_current = $6
             WHERE id = $1 AND state = $2 AND step = $3 AND phase_since IS NULL",
            params![
                id,
                state.as_str(),
                phase.step,
                now,
                phase.canary.as_ref().map(json).transpose()?,
                phase.current.as_ref().map(json).transpose()?,
            ],
        )
        .await?;
    Ok(changed == 1)
}

/// Whether a routed rollout's phase is in no table yet.
pub(crate) async fn stamp_phases(tx: &mut Tx<'_>, generation: i64) -> Result<u64, StoreError> {
    tx.execute(
        "UPDATE deploy_rollout SET phase_generation = $1
         WHERE phase_generation IS NULL AND state IN ('shifting', 'paused', 'swapping')",
        params![generation],
    )
    .await
}

fn command_of(row: &Row) -> Result<Command, StoreError> {
    Ok(Command {
        workload: row.parse("workload")?,
        state: row.parse("state")?,
        detail: row.get("detail")?,
        intended_at: row.get("intended_at")?,
        ended_at: row.get("ended_at")?,
    })
}

pub(crate) async fn command(
    tx: &mut Tx<'_>,
    rollout: RolloutId,
) -> Result<Option<Command>, StoreError> {
    tx.fetch_optional(
        "SELECT workload, state, detail, intended_at, ended_at FROM deploy_command WHERE rollout = $1",
        params![rollout],
    )
    .await?
    .as_ref()
    .map(command_of)
    .transpose()
}

/// The intent; false when there was one.
pub(crate) async fn intend_command(
    tx: &mut Tx<'_>,
    rollout: RolloutId,
) -> Result<bool, StoreError> {
    let now = tx.now();
    let made = tx
        .execute(
            "INSERT INTO deploy_command (rollout, workload, state, intended_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (rollout) DO NOTHING",
            params![rollout, Rollout::command_workload(rollout), CommandState::Intended.as_str(), now],
        )
        .await?;
    Ok(made == 1)
}

/// Moves a command on. What has ended stays as it is.
pub(crate) async fn move_command(
    tx: &mut Tx<'_>,
    rollout: RolloutId,
    to: CommandState,
    detail: Option<&str>,
) -> Result<bool, StoreError> {
    let now = tx.now();
    let ended = !matches!(to, CommandState::Intended | CommandState::Started);
    let changed = tx
        .execute(
            "UPDATE deploy_command SET state = $2, detail = $3, ended_at = $4
             WHERE rollout = $1 AND state IN ('intended', 'started')",
            params![
                rollout,
                to.as_str(),
                detail.map(str::to_owned),
                ended.then_some(now)
            ],
        )
        .await?;
    Ok(changed == 1)
}
