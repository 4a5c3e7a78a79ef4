//! The only SQL of tracking. Its tables stand in a database of their own, so that metrics, which
//! come by the thousand, neither wait for nor delay what the platform itself writes.
//!
//! A metric's name stands once per run, with its latest value; points refer to it by a small
//! number, which keeps the largest table and its index narrow.

mod artifacts;
mod experiments;
mod inputs;
mod logged;
mod points;
mod registry;
mod retention;
mod runs;
mod search;

use ondol_store::{AssertSqlSafe, Migration, Params, Row, StoreError, Tx, Value, params};

pub(super) use artifacts::*;
pub(super) use experiments::*;
pub(super) use inputs::*;
pub(super) use logged::*;
pub(super) use points::*;
pub(super) use registry::*;
pub(super) use retention::*;
pub(super) use runs::*;
pub(super) use search::*;

pub(super) const MIGRATION: Migration = Migration {
    number: 950,
    name: "tracking",
    sql: "CREATE TABLE tracking_counter (
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
CREATE TABLE tracking_experiment (
    id BIGINT PRIMARY KEY,
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    location TEXT NOT NULL,
    stage TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (project, name)
);
CREATE TABLE tracking_experiment_tag (
    experiment BIGINT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (experiment, key)
);
CREATE TABLE tracking_run (
    no BIGINT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    experiment BIGINT NOT NULL,
    name TEXT NOT NULL,
    user_id TEXT NOT NULL,
    status TEXT NOT NULL,
    start_time BIGINT,
    end_time BIGINT,
    stage TEXT NOT NULL,
    deleted_at BIGINT,
    artifact_uri TEXT NOT NULL,
    series BIGINT NOT NULL,
    points BIGINT NOT NULL
);
CREATE INDEX tracking_run_order ON tracking_run (experiment, stage, start_time, id);
CREATE INDEX tracking_run_deleted ON tracking_run (deleted_at);
CREATE TABLE tracking_metric (
    run BIGINT NOT NULL,
    key TEXT NOT NULL,
    series BIGINT NOT NULL,
    step BIGINT NOT NULL,
    timestamp BIGINT NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    is_nan BIGINT NOT NULL,
    PRIMARY KEY (run, key)
);
CREATE TABLE tracking_point (
    run BIGINT NOT NULL,
    series BIGINT NOT NULL,
    timestamp BIGINT NOT NULL,
    step BIGINT NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    is_nan BIGINT NOT NULL,
    PRIMARY KEY (run, series, timestamp, step, value, is_nan)
);
CREATE TABLE tracking_param (
    run BIGINT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, key)
);
CREATE TABLE tracking_tag (
    run BIGINT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, key)
);
CREATE TABLE tracking_dataset (
    experiment BIGINT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    source_type TEXT NOT NULL,
    source TEXT NOT NULL,
    schema_text TEXT,
    profile TEXT,
    PRIMARY KEY (experiment, name, digest)
);
CREATE TABLE tracking_input (
    run BIGINT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    experiment BIGINT NOT NULL,
    place BIGINT NOT NULL,
    context TEXT,
    tags TEXT NOT NULL,
    PRIMARY KEY (run, name, digest)
);
CREATE TABLE tracking_run_model (
    run BIGINT NOT NULL,
    direction TEXT NOT NULL,
    model TEXT NOT NULL,
    step BIGINT NOT NULL,
    PRIMARY KEY (run, direction, model, step)
);
CREATE TABLE tracking_artifact (
    experiment BIGINT NOT NULL,
    folder TEXT NOT NULL,
    path TEXT NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    stored_at BIGINT NOT NULL,
    PRIMARY KEY (experiment, folder, path)
);
CREATE INDEX tracking_artifact_digest ON tracking_artifact (digest);
CREATE TABLE tracking_model (
    id TEXT PRIMARY KEY,
    experiment BIGINT NOT NULL,
    name TEXT NOT NULL,
    artifact_uri TEXT NOT NULL,
    model_type TEXT,
    source_run TEXT,
    status TEXT NOT NULL,
    stage TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX tracking_model_order ON tracking_model (experiment, created_at);
CREATE TABLE tracking_model_pair (
    model TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (model, kind, key)
);
CREATE TABLE tracking_model_metric (
    model TEXT NOT NULL,
    key TEXT NOT NULL,
    run TEXT NOT NULL,
    timestamp BIGINT NOT NULL,
    step BIGINT NOT NULL,
    value DOUBLE PRECISION NOT NULL,
    is_nan BIGINT NOT NULL,
    dataset_name TEXT,
    dataset_digest TEXT,
    PRIMARY KEY (model, key, run, timestamp, step)
);
CREATE TABLE tracking_registered (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    newest BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (project, name)
);
CREATE TABLE tracking_registered_tag (
    project TEXT NOT NULL,
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (project, model, version, key)
);
CREATE TABLE tracking_alias (
    project TEXT NOT NULL,
    model TEXT NOT NULL,
    alias TEXT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (project, model, alias)
);
CREATE TABLE tracking_version (
    project TEXT NOT NULL,
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    description TEXT,
    user_id TEXT,
    stage TEXT NOT NULL,
    source TEXT NOT NULL,
    storage TEXT NOT NULL,
    run_id TEXT,
    run_link TEXT,
    model_id TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (project, model, version)
);
",
};

/// Most rows or keys of one statement. Sizes are powers of two, so that few statements differ
/// and each is prepared once.
const CHUNK: usize = 256;

pub(super) fn sql(text: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(text)
}

/// A statement under construction: text and parameters together.
#[derive(Default)]
pub(super) struct Statement {
    text: String,
    params: Params,
}

impl Statement {
    fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            params: Vec::new(),
        }
    }

    fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends a place for a value.
    fn bind(&mut self, value: impl ondol_store::IntoValue) -> &mut Self {
        self.params.push(value.into_value());
        let place = self.params.len();
        self.text.push_str(&format!("${place}"));
        self
    }

    /// Appends places for a list, in parentheses. An empty list matches nothing.
    fn list<V: ondol_store::IntoValue>(
        &mut self,
        values: impl IntoIterator<Item = V>,
    ) -> &mut Self {
        self.push("(");
        let mut first = true;
        for value in values {
            if !first {
                self.push(", ");
            }
            first = false;
            self.bind(value);
        }
        if first {
            self.push("NULL");
        }
        self.push(")")
    }

    async fn fetch(self, tx: &mut Tx<'_>) -> Result<Vec<Row>, StoreError> {
        tx.fetch_all(sql(self.text), self.params).await
    }

    async fn execute(self, tx: &mut Tx<'_>) -> Result<u64, StoreError> {
        tx.execute(sql(self.text), self.params).await
    }
}

/// Inserts rows of one width, many per statement. Returns how many the database changed.
async fn insert_rows(
    tx: &mut Tx<'_>,
    head: &str,
    tail: &str,
    rows: Vec<Vec<Value>>,
) -> Result<u64, StoreError> {
    let mut changed = 0;
    let mut rows = rows.into_iter();
    let mut left = rows.len();
    while left > 0 {
        let size = CHUNK.min(1 << left.ilog2());
        let mut statement = Statement::new(head);
        statement.push(" VALUES ");
        for at in 0..size {
            let Some(row) = rows.next() else { break };
            statement.push(if at == 0 { "(" } else { ", (" });
            for (column, value) in row.into_iter().enumerate() {
                if column > 0 {
                    statement.push(", ");
                }
                statement.params.push(value);
                let place = statement.params.len();
                statement.text.push_str(&format!("${place}"));
            }
            statement.push(")");
        }
        statement.push(" ").push(tail);
        changed += statement.execute(tx).await?;
        left -= size;
    }
    Ok(changed)
}

/// Runs `SELECT … IN (…)` over keys, many per statement; the last key fills the rest of a
/// statement's places.
async fn fetch_in(
    tx: &mut Tx<'_>,
    head: &str,
    tail: &str,
    keys: &[Value],
) -> Result<Vec<Row>, StoreError> {
    let mut found = Vec::new();
    for chunk in keys.chunks(CHUNK) {
        let size = chunk.len().next_power_of_two();
        let padding = chunk.last().cloned();
        let places: Vec<String> = (1..=size).map(|place| format!("${place}")).collect();
        let mut params: Params = chunk.to_vec();
        while params.len() < size
            && let Some(value) = &padding
        {
            params.push(value.clone());
        }
        let text = format!("{head} IN ({}) {tail}", places.join(", "));
        found.extend(tx.fetch_all(sql(text), params).await?);
    }
    Ok(found)
}

/// The next number of a counter, from 1.
async fn next_number(tx: &mut Tx<'_>, name: &str) -> Result<i64, StoreError> {
    let row = tx
        .fetch_one(
            "INSERT INTO tracking_counter (name, value) VALUES ($1, 1)
             ON CONFLICT (name) DO UPDATE SET value = tracking_counter.value + 1 RETURNING value",
            params![name],
        )
        .await?;
    row.get("value")
}

fn scope_of(row: &Row, column: &str) -> Result<super::model::Scope, StoreError> {
    let text: String = row.get(column)?;
    super::model::Scope::from_column(&text).map_err(|problem| StoreError::Column {
        column: column.to_owned(),
        problem,
    })
}

fn value_of(row: &Row) -> Result<f64, StoreError> {
    if row.get::<bool>("is_nan")? {
        return Ok(f64::NAN);
    }
    row.get("value")
}
