//! The only SQL of this room.

mod artifact;
mod flaky;
mod list;
mod prune;
mod report;
mod run;
mod step;

use ondol_store::{Migration, StoreError, Tx, params};

pub(crate) use artifact::{artifact_digests, list_artifacts, load_artifact, save_artifacts};
pub(crate) use flaky::{count_flaky, drop_report, earlier_reports, expire_flaky, list_flaky};
pub(crate) use list::{ListQuery, list_runs};
pub(crate) use prune::{
    Expired, expired_by_age, expired_by_count, finished_of, forget_project, forget_run, forgotten,
    has_dirty_runs, projects,
};
pub(crate) use report::{load_reports, save_report};
pub(crate) use run::{
    NewRun, active_run_ids, dirty_runs, insert_run, is_dirty, lane_heads, load_run,
    load_run_by_number, load_spec, mark_clean, newest_spec, queued_in_lane, queued_of_branch,
    running_in_lane, running_runs, save_run, save_spec,
};
pub(crate) use step::{insert_step, load_step, load_step_of, load_steps, save_step};

/// The schema of this room.
pub const MIGRATIONS: &[Migration] = &[RUNS, ARTIFACTS, FLAKY_TESTS];

const ARTIFACTS: Migration = Migration {
    number: 401,
    name: "artifacts of steps",
    sql: "CREATE TABLE artifact (
    run TEXT NOT NULL,
    step TEXT NOT NULL,
    path TEXT NOT NULL,
    digest TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    executable BIGINT NOT NULL,
    PRIMARY KEY (run, step, path)
);
CREATE INDEX artifact_digest ON artifact (digest);
",
};

const FLAKY_TESTS: Migration = Migration {
    number: 402,
    name: "tests that waver",
    sql: "CREATE TABLE flaky_test (
    project TEXT NOT NULL,
    stage TEXT NOT NULL,
    name TEXT NOT NULL,
    times BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    last_run TEXT NOT NULL,
    PRIMARY KEY (project, stage, name)
);
CREATE INDEX flaky_test_age ON flaky_test (last_at);
CREATE INDEX run_by_commit ON run (project, commit_id, seq);
",
};

const RUNS: Migration = Migration {
    number: 400,
    name: "runs and steps",
    sql: "CREATE TABLE run_head (id BIGINT PRIMARY KEY, seq BIGINT NOT NULL);
INSERT INTO run_head (id, seq) VALUES (1, 0);
CREATE TABLE run_cursor (name TEXT PRIMARY KEY, seq BIGINT NOT NULL);
INSERT INTO run_cursor (name, seq) VALUES ('follow', 0);
CREATE TABLE run_project (project TEXT PRIMARY KEY, number BIGINT NOT NULL, forget_seq BIGINT NOT NULL);
CREATE TABLE run (
    seq BIGINT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    project TEXT NOT NULL,
    number BIGINT NOT NULL,
    cause TEXT NOT NULL,
    retry_of TEXT,
    lane TEXT NOT NULL,
    branch TEXT,
    commit_id TEXT,
    data TEXT,
    state TEXT NOT NULL,
    outcome TEXT,
    reason TEXT,
    chain TEXT NOT NULL,
    author TEXT NOT NULL,
    notes TEXT NOT NULL,
    cancel TEXT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    dirty BIGINT NOT NULL
);
CREATE UNIQUE INDEX run_number ON run (project, number);
CREATE INDEX run_by_project ON run (project, seq);
CREATE INDEX run_by_project_state ON run (project, state, seq);
CREATE INDEX run_by_branch ON run (project, branch, seq);
CREATE INDEX run_by_branch_state ON run (project, branch, state, seq);
CREATE INDEX run_by_state ON run (state, seq);
CREATE INDEX run_by_lane ON run (state, project, lane, seq);
CREATE INDEX run_by_end ON run (state, finished_at);
CREATE INDEX run_dirty ON run (dirty, state, seq);
CREATE TABLE run_spec (run TEXT PRIMARY KEY, spec TEXT NOT NULL, provenance TEXT NOT NULL);
CREATE TABLE step (
    id TEXT PRIMARY KEY,
    run TEXT NOT NULL,
    ordinal BIGINT NOT NULL,
    name TEXT NOT NULL,
    definition TEXT NOT NULL,
    needs TEXT NOT NULL,
    state TEXT NOT NULL,
    outcome TEXT,
    attempt BIGINT NOT NULL,
    faults BIGINT NOT NULL,
    workload TEXT,
    exit_code BIGINT,
    reason TEXT,
    outputs TEXT,
    not_before BIGINT,
    holder TEXT,
    fence BIGINT NOT NULL,
    lease_until BIGINT,
    started_at BIGINT,
    finished_at BIGINT
);
CREATE UNIQUE INDEX step_name ON step (run, name);
CREATE INDEX step_order ON step (run, ordinal);
CREATE TABLE test_report (step TEXT PRIMARY KEY, run TEXT NOT NULL, report TEXT NOT NULL);
CREATE INDEX test_report_run ON test_report (run);
",
};

/// How far the follower has read the event log.
pub(crate) async fn cursor(tx: &mut Tx<'_>) -> Result<i64, StoreError> {
    tx.fetch_one(
        "SELECT seq FROM run_cursor WHERE name = 'follow'",
        params![],
    )
    .await?
    .get("seq")
}

/// Moves the follower's place, which belongs to the same transaction as what it derived.
pub(crate) async fn set_cursor(tx: &mut Tx<'_>, seq: i64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE run_cursor SET seq = $1 WHERE name = 'follow'",
        params![seq],
    )
    .await?;
    Ok(())
}

/// JSON of a value that always has one.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}
