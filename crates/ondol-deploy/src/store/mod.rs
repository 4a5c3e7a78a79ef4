//! The only SQL of this room.

mod environment;
mod fleet;
mod preview;
mod release;
mod replica;
mod retention;
mod rollout;
mod routes;

use ondol_store::{Migration, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use environment::*;
pub(crate) use fleet::{Fleet, ReleaseCache, load_fleet};
pub(crate) use preview::*;
pub(crate) use release::*;
pub(crate) use replica::*;
pub(crate) use retention::*;
pub(crate) use rollout::*;
pub(crate) use routes::*;

/// The migrations of this room: numbers 600 to 699.
pub const MIGRATIONS: &[Migration] = &[DEPLOY, SCALE, PREVIEW];

const SCALE: Migration = Migration {
    number: 601,
    name: "deploy_scale",
    sql: "ALTER TABLE deploy_environment ADD COLUMN scale TEXT;",
};

const PREVIEW: Migration = Migration {
    number: 602,
    name: "deploy_preview",
    sql: "CREATE TABLE deploy_preview (
    project TEXT NOT NULL,
    environment TEXT NOT NULL,
    branch TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended TEXT,
    ended_at BIGINT,
    PRIMARY KEY (project, environment)
);
CREATE INDEX deploy_preview_expires ON deploy_preview (expires_at);
",
};

const DEPLOY: Migration = Migration {
    number: 600,
    name: "deploy",
    sql: "CREATE TABLE deploy_release (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    environment TEXT NOT NULL,
    number BIGINT NOT NULL,
    image TEXT NOT NULL,
    config TEXT NOT NULL,
    secrets TEXT NOT NULL,
    model TEXT,
    commit_id TEXT,
    run TEXT,
    chain TEXT,
    author TEXT NOT NULL,
    reason TEXT NOT NULL,
    origin BIGINT,
    irreversible BIGINT NOT NULL,
    commanded BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    activated_at BIGINT,
    UNIQUE (project, environment, number),
    UNIQUE (project, environment, id)
);
CREATE TABLE deploy_environment (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    removing BIGINT NOT NULL,
    hold_reason TEXT,
    hold_by TEXT,
    hold_at BIGINT,
    current_release TEXT,
    serving_rollout TEXT,
    replicas BIGINT,
    accepted TEXT NOT NULL,
    next_release BIGINT NOT NULL,
    next_rollout BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project, name),
    CHECK ((current_release IS NULL) = (serving_rollout IS NULL)),
    FOREIGN KEY (project, name, current_release) REFERENCES deploy_release (project, environment, id)
);
CREATE TABLE deploy_rollout (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    environment TEXT NOT NULL,
    number BIGINT NOT NULL,
    request_key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    reason TEXT NOT NULL,
    state TEXT NOT NULL,
    since BIGINT NOT NULL,
    strategy TEXT NOT NULL,
    from_release TEXT,
    to_release TEXT,
    target BIGINT,
    step BIGINT NOT NULL,
    phase_generation BIGINT,
    phase_since BIGINT,
    phase_canary TEXT,
    phase_current TEXT,
    message TEXT NOT NULL,
    failure TEXT,
    superseded_by TEXT,
    run TEXT,
    chain TEXT,
    author TEXT NOT NULL,
    not_before BIGINT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    UNIQUE (project, environment, number),
    FOREIGN KEY (project, environment) REFERENCES deploy_environment (project, name)
);
CREATE UNIQUE INDEX deploy_rollout_running ON deploy_rollout (project, environment)
    WHERE state IN ('releaseCommand', 'starting', 'probing', 'shifting', 'paused', 'swapping');
CREATE UNIQUE INDEX deploy_rollout_pending ON deploy_rollout (project, environment) WHERE state = 'pending';
CREATE UNIQUE INDEX deploy_rollout_held ON deploy_rollout (project, environment) WHERE state = 'held';
CREATE TABLE deploy_command (
    rollout TEXT PRIMARY KEY REFERENCES deploy_rollout (id),
    workload TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    detail TEXT,
    intended_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE TABLE deploy_replica (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    environment TEXT NOT NULL,
    release_id TEXT NOT NULL,
    rollout TEXT NOT NULL,
    workload TEXT NOT NULL UNIQUE,
    incarnation BIGINT NOT NULL,
    endpoint TEXT NOT NULL,
    state TEXT NOT NULL,
    since BIGINT NOT NULL,
    address TEXT,
    restarts BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    fatal BIGINT NOT NULL,
    next_start_at BIGINT,
    started_at BIGINT,
    detail TEXT,
    probes TEXT NOT NULL,
    routed BIGINT NOT NULL,
    left_generation BIGINT,
    out_at BIGINT,
    created_at BIGINT NOT NULL
);
CREATE INDEX deploy_replica_state ON deploy_replica (state, project, environment);
CREATE INDEX deploy_replica_endpoint ON deploy_replica (endpoint);
CREATE INDEX deploy_replica_routed ON deploy_replica (routed);
CREATE INDEX deploy_replica_place ON deploy_replica (project, environment, created_at);
CREATE TABLE deploy_routes (
    id BIGINT PRIMARY KEY,
    generation BIGINT NOT NULL,
    acked BIGINT NOT NULL,
    content TEXT NOT NULL
);
INSERT INTO deploy_routes (id, generation, acked, content) VALUES (1, 0, 0, '');
CREATE TABLE deploy_host (
    host TEXT NOT NULL,
    path TEXT NOT NULL,
    project TEXT NOT NULL,
    environment TEXT NOT NULL,
    PRIMARY KEY (host, path)
);
CREATE INDEX deploy_host_owner ON deploy_host (project, environment);
CREATE TABLE deploy_volume (
    project TEXT NOT NULL,
    environment TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project, environment, name)
);
CREATE TABLE deploy_cursor (name TEXT PRIMARY KEY, seq BIGINT NOT NULL);
",
};

/// A value as the text of its JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Column {
        column: std::any::type_name::<T>().to_owned(),
        problem: format!("cannot be stored: {error}"),
    })
}

/// A value whose JSON is a plain word, as that word.
pub(crate) fn word<T: Serialize>(value: &T) -> Result<String, StoreError> {
    Ok(json(value)?.trim_matches('"').to_owned())
}

/// The value of a plain word.
pub(crate) fn unword<T: DeserializeOwned>(column: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|error| {
        StoreError::Column {
            column: column.to_owned(),
            problem: error.to_string(),
        }
    })
}
