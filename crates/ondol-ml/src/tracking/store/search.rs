//! Filters and orders as SQL. Values are always parameters; the only texts that come from a
//! filter's words are columns that its reader named.

use ondol_store::{StoreError, Tx};

use super::{
    EXPERIMENT_COLUMNS, MODEL_COLUMNS, RUN_COLUMNS, Statement, experiment_of, model_of, run_of,
};
use crate::tracking::model::{Experiment, LoggedModel, RunInfo, Scope, ViewType};
use crate::tracking::plan::filter::{Comparison, Entity, Op, Operand};
use crate::tracking::plan::order::Order;

/// A character that no pattern needs as an escape; engines differ in which one they take unasked.
const ESCAPE: &str = " ESCAPE '\u{1}'";

/// What is read of a search.
pub(in crate::tracking) struct Search<'s> {
    /// What must hold.
    pub(in crate::tracking) filter: &'s [Comparison],
    /// What is first.
    pub(in crate::tracking) order: &'s [Order],
    /// How many are passed over.
    pub(in crate::tracking) offset: i64,
    /// How many are read.
    pub(in crate::tracking) limit: i64,
}

/// `column op value`.
pub(super) fn compare(statement: &mut Statement, column: &str, op: Op, value: &Operand) {
    match (op, value) {
        (Op::Compare(word), value) => {
            // The reader knows six comparators and nothing else.
            statement
                .push(column)
                .push(" ")
                .push(if word == "!=" { "<>" } else { word })
                .push(" ");
            match value {
                Operand::Number(number) => statement.bind(*number),
                Operand::Integer(number) => statement.bind(*number),
                Operand::Text(text) => statement.bind(text),
                Operand::List(_) | Operand::Nothing => statement.push("NULL"),
            };
        }
        (Op::Like, Operand::Text(text)) => {
            statement
                .push(column)
                .push(" LIKE ")
                .bind(text)
                .push(ESCAPE);
        }
        (Op::ILike, Operand::Text(text)) => {
            statement
                .push("LOWER(")
                .push(column)
                .push(") LIKE LOWER(")
                .bind(text)
                .push(")")
                .push(ESCAPE);
        }
        (Op::In, Operand::List(texts)) => {
            statement.push(column).push(" IN ").list(texts);
        }
        (Op::NotIn, Operand::List(texts)) => {
            statement.push(column).push(" NOT IN ").list(texts);
        }
        _ => {
            statement.push("1 = 0");
        }
    }
}

/// Where the pairs and metrics of what is searched are.
struct Tables {
    /// Alias of the main table.
    main: &'static str,
    /// `SELECT 1 FROM … WHERE …` up to the key, per entity.
    metric: &'static str,
    param: &'static str,
    tag: &'static str,
}

const RUNS: Tables = Tables {
    main: "r",
    metric: "SELECT 1 FROM tracking_metric x WHERE x.run = r.no AND x.key = ",
    param: "SELECT 1 FROM tracking_param x WHERE x.run = r.no AND x.key = ",
    tag: "SELECT 1 FROM tracking_tag x WHERE x.run = r.no AND x.key = ",
};

const MODELS: Tables = Tables {
    main: "m",
    metric: "SELECT 1 FROM tracking_model_metric x WHERE x.model = m.id AND x.key = ",
    param: "SELECT 1 FROM tracking_model_pair x WHERE x.model = m.id AND x.kind = 'param' AND x.key = ",
    tag: "SELECT 1 FROM tracking_model_pair x WHERE x.model = m.id AND x.kind = 'tag' AND x.key = ",
};

const EXPERIMENTS: Tables = Tables {
    main: "e",
    metric: "",
    param: "",
    tag: "SELECT 1 FROM tracking_experiment_tag x WHERE x.experiment = e.id AND x.key = ",
};

/// Appends ` AND …` for each comparison.
fn conditions(statement: &mut Statement, tables: &Tables, filter: &[Comparison]) {
    for comparison in filter {
        let Comparison {
            entity,
            key,
            op,
            value,
        } = comparison;
        statement.push(" AND ");
        match entity {
            Entity::Attribute => {
                let column = format!("{}.{key}", tables.main);
                let column = if tables.main == "e" && key == "id" {
                    format!("CAST({column} AS TEXT)")
                } else {
                    column
                };
                compare(statement, &column, *op, value);
            }
            Entity::Dataset => {
                statement.push("EXISTS (SELECT 1 FROM tracking_input x WHERE x.run = r.no AND ");
                compare(statement, &format!("x.{key}"), *op, value);
                statement.push(")");
            }
            Entity::Metric | Entity::Param | Entity::Tag => {
                let head = match entity {
                    Entity::Metric => tables.metric,
                    Entity::Param => tables.param,
                    _ => tables.tag,
                };
                statement
                    .push(if *op == Op::IsNull {
                        "NOT EXISTS ("
                    } else {
                        "EXISTS ("
                    })
                    .push(head)
                    .bind(key);
                if *entity == Entity::Metric {
                    measured(statement, *op, value);
                } else if !matches!(op, Op::IsNull | Op::IsNotNull) {
                    statement.push(" AND ");
                    compare(statement, "x.value", *op, value);
                }
                statement.push(")");
            }
        }
    }
}

/// ` AND` a metric compares so. NaN differs from every number and compares with none.
fn measured(statement: &mut Statement, op: Op, value: &Operand) {
    if op == Op::Compare("!=") {
        statement.push(" AND (x.is_nan = 1 OR ");
    } else {
        statement.push(" AND (x.is_nan = 0 AND ");
    }
    compare(statement, "x.value", op, value);
    statement.push(")");
}

fn stages(statement: &mut Statement, column: &str, view: ViewType) {
    match view {
        ViewType::ActiveOnly => {
            statement.push(" AND ").push(column).push(" = 'active'");
        }
        ViewType::DeletedOnly => {
            statement.push(" AND ").push(column).push(" = 'deleted'");
        }
        ViewType::All => {}
    }
}

fn direction(order: &Order) -> &'static str {
    if order.ascending { " ASC" } else { " DESC" }
}

/// The runs of experiments.
pub(in crate::tracking) async fn search_runs(
    tx: &mut Tx<'_>,
    experiments: &[i64],
    view: ViewType,
    search: &Search<'_>,
) -> Result<Vec<RunInfo>, StoreError> {
    let mut statement = Statement::new("SELECT ");
    statement
        .push(RUN_COLUMNS)
        .push(" FROM tracking_run r JOIN tracking_experiment e ON e.id = r.experiment");
    let mut clauses = Vec::new();
    for (at, order) in search.order.iter().enumerate() {
        let table = match order.entity {
            Entity::Metric => "tracking_metric",
            Entity::Param => "tracking_param",
            Entity::Tag => "tracking_tag",
            Entity::Attribute | Entity::Dataset => {
                let column = format!("r.{}", order.key);
                clauses.push(format!(
                    "CASE WHEN {column} IS NULL THEN 1 ELSE 0 END, {column}{}",
                    direction(order)
                ));
                continue;
            }
        };
        statement
            .push(&format!(
                " LEFT JOIN {table} o{at} ON o{at}.run = r.no AND o{at}.key = "
            ))
            .bind(&order.key);
        let nan = if order.entity == Entity::Metric {
            format!("WHEN o{at}.is_nan = 1 THEN 1 ")
        } else {
            String::new()
        };
        clauses.push(format!(
            "CASE {nan}WHEN o{at}.value IS NULL THEN 2 ELSE 0 END, o{at}.value{}",
            direction(order)
        ));
    }
    statement
        .push(" WHERE r.experiment IN ")
        .list(experiments.iter().copied());
    stages(&mut statement, "r.stage", view);
    conditions(&mut statement, &RUNS, search.filter);
    if !search
        .order
        .iter()
        .any(|order| order.entity == Entity::Attribute && order.key == "start_time")
    {
        clauses.push("r.start_time DESC".to_owned());
    }
    clauses.push("r.id".to_owned());
    statement
        .push(" ORDER BY ")
        .push(&clauses.join(", "))
        .push(" LIMIT ")
        .bind(search.limit)
        .push(" OFFSET ")
        .bind(search.offset);
    let rows = statement.fetch(tx).await?;
    rows.iter().map(run_of).collect()
}

/// Which of some experiments may be seen. `projects` are those visible; `None` are all.
pub(in crate::tracking) async fn visible_experiments(
    tx: &mut Tx<'_>,
    ids: &[i64],
    projects: Option<&[String]>,
) -> Result<Vec<i64>, StoreError> {
    let mut statement = Statement::new("SELECT e.id FROM tracking_experiment e WHERE e.id IN ");
    statement.list(ids.iter().copied());
    match projects {
        Some(projects) => statement.push(" AND e.project IN ").list(projects),
        None => statement.push(" AND e.project <> ").bind(Scope::ABANDONED),
    };
    let rows = statement.fetch(tx).await?;
    rows.iter().map(|row| row.get("id")).collect()
}

/// The experiments of projects; `None` are those of all and of the installation.
pub(in crate::tracking) async fn search_experiments(
    tx: &mut Tx<'_>,
    projects: Option<&[String]>,
    view: ViewType,
    search: &Search<'_>,
) -> Result<Vec<Experiment>, StoreError> {
    let mut statement = Statement::new("SELECT ");
    statement
        .push(EXPERIMENT_COLUMNS)
        .push(" FROM tracking_experiment e WHERE 1 = 1");
    match projects {
        Some(projects) => statement.push(" AND e.project IN ").list(projects),
        None => statement.push(" AND e.project <> ").bind(Scope::ABANDONED),
    };
    stages(&mut statement, "e.stage", view);
    conditions(&mut statement, &EXPERIMENTS, search.filter);
    let mut clauses: Vec<String> = search
        .order
        .iter()
        .map(|order| format!("e.{}{}", order.key, direction(order)))
        .collect();
    if clauses.is_empty() {
        clauses.push("e.created_at DESC".to_owned());
    }
    if !search.order.iter().any(|order| order.key == "id") {
        clauses.push("e.id ASC".to_owned());
    }
    statement
        .push(" ORDER BY ")
        .push(&clauses.join(", "))
        .push(" LIMIT ")
        .bind(search.limit)
        .push(" OFFSET ")
        .bind(search.offset);
    let rows = statement.fetch(tx).await?;
    rows.iter().map(experiment_of).collect()
}

/// A dataset that metrics of logged models must be measured on.
pub(in crate::tracking) struct OnDataset {
    /// Its name.
    pub(in crate::tracking) name: String,
    /// Its digest, when it matters.
    pub(in crate::tracking) digest: Option<String>,
}

/// A clause of the order of logged models.
pub(in crate::tracking) struct ModelOrder {
    /// An attribute, or a metric.
    pub(in crate::tracking) order: Order,
    /// Which measurements of the metric count.
    pub(in crate::tracking) on: Option<OnDataset>,
}

fn on_dataset(statement: &mut Statement, on: &OnDataset) {
    statement.push("(x.dataset_name = ").bind(&on.name);
    if let Some(digest) = &on.digest {
        statement.push(" AND x.dataset_digest = ").bind(digest);
    }
    statement.push(")");
}

/// The logged models of experiments that are not in the bin.
pub(in crate::tracking) async fn search_models(
    tx: &mut Tx<'_>,
    experiments: &[i64],
    datasets: &[OnDataset],
    order: &[ModelOrder],
    search: &Search<'_>,
) -> Result<Vec<LoggedModel>, StoreError> {
    let mut statement = Statement::new("SELECT ");
    statement
        .push(MODEL_COLUMNS)
        .push(" FROM tracking_model m JOIN tracking_experiment e ON e.id = m.experiment WHERE m.stage = 'active' AND m.experiment IN ")
        .list(experiments.iter().copied());
    let (on_metric, plain): (Vec<Comparison>, Vec<Comparison>) = search
        .filter
        .iter()
        .cloned()
        .partition(|comparison| comparison.entity == Entity::Metric && !datasets.is_empty());
    conditions(&mut statement, &MODELS, &plain);
    for comparison in &on_metric {
        statement
            .push(" AND EXISTS (")
            .push(MODELS.metric)
            .bind(&comparison.key);
        measured(&mut statement, comparison.op, &comparison.value);
        measured_on(&mut statement, datasets);
        statement.push(")");
    }
    if !datasets.is_empty() && on_metric.is_empty() {
        statement.push(" AND EXISTS (SELECT 1 FROM tracking_model_metric x WHERE x.model = m.id");
        measured_on(&mut statement, datasets);
        statement.push(")");
    }
    statement.push(" ORDER BY ");
    for ModelOrder { order, on } in order {
        if order.entity == Entity::Metric {
            // Twice: whether it was measured, and what.
            for tail in [" IS NULL THEN 1 ELSE 0 END, ", ""] {
                if !tail.is_empty() {
                    statement.push("CASE WHEN ");
                }
                statement
                    .push("(SELECT x.value FROM tracking_model_metric x WHERE x.model = m.id AND x.key = ")
                    .bind(&order.key);
                if let Some(on) = on {
                    statement.push(" AND ");
                    on_dataset(&mut statement, on);
                }
                statement
                    .push(" ORDER BY x.timestamp DESC, x.step DESC, x.run ASC LIMIT 1)")
                    .push(tail);
            }
        } else {
            let column = format!("m.{}", order.key);
            statement.push(&format!(
                "CASE WHEN {column} IS NULL THEN 1 ELSE 0 END, {column}"
            ));
        }
        statement.push(direction(order)).push(", ");
    }
    statement
        .push("m.created_at DESC, m.id LIMIT ")
        .bind(search.limit)
        .push(" OFFSET ")
        .bind(search.offset);
    let rows = statement.fetch(tx).await?;
    rows.iter().map(model_of).collect()
}

fn measured_on(statement: &mut Statement, datasets: &[OnDataset]) {
    statement.push(" AND (");
    for (at, on) in datasets.iter().enumerate() {
        if at > 0 {
            statement.push(" OR ");
        }
        on_dataset(statement, on);
    }
    statement.push(")");
}
