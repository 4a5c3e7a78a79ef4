//! `runs/…` and `metrics/…`.

use http::Method;
use serde_json::{Value, json};

use super::Call;
use super::args::Args;
use super::view::{self, Object};
use crate::tracking::error::{TrackingError, TrackingResult};
use crate::tracking::model::{Dataset, DatasetInput, RunStatus, Stage};
use crate::tracking::service::{Interval, NewRun, RunChange, RunSearch};

/// Most points of one page of a history.
const MAX_HISTORY: i64 = 25_000;
/// Most points of each run of several.
const MAX_INTERVAL: i64 = 2_500;

fn status(args: &Args) -> TrackingResult<Option<RunStatus>> {
    match args.text("status")? {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => RunStatus::read(&text).map(Some).ok_or_else(|| {
            TrackingError::invalid(format!(
                "Invalid value \"{text}\" for parameter 'status' supplied: it is no state of a run"
            ))
        }),
    }
}

fn dataset_input(args: &Args) -> TrackingResult<DatasetInput> {
    let dataset = args
        .object("dataset")?
        .ok_or_else(|| TrackingError::invalid("Missing value for required parameter 'dataset'."))?;
    Ok(DatasetInput {
        dataset: Dataset {
            name: dataset.required("name")?,
            digest: dataset.required("digest")?,
            source_type: dataset.required("source_type")?,
            source: dataset.text("source")?.unwrap_or_default(),
            schema: dataset.text("schema")?,
            profile: dataset.text("profile")?,
        },
        tags: args.pairs("tags")?,
    })
}

pub(super) async fn route(
    call: &Call<'_>,
    method: &Method,
    path: &str,
) -> TrackingResult<Option<Value>> {
    let Call {
        tracking,
        ctx,
        args,
    } = call;
    if *method == Method::GET {
        if path != "get" {
            return Ok(None);
        }
        let found = tracking.run(ctx, &args.run_id()?).await?;
        return Ok(Some(json!({ "run": view::run(&found) })));
    }
    if *method != Method::POST {
        return Ok(None);
    }
    match path {
        "create" => {
            let new = NewRun {
                experiment: args
                    .text("experiment_id")?
                    .filter(|id| !id.is_empty())
                    .unwrap_or_else(|| "0".to_owned()),
                user: args.text("user_id")?.unwrap_or_default(),
                name: args.text("run_name")?,
                start: args.integer("start_time")?,
                tags: args.pairs("tags")?,
            };
            let made = tracking.create_run(ctx, new).await?;
            return Ok(Some(json!({ "run": view::run(&made) })));
        }
        "update" => {
            let change = RunChange {
                status: status(args)?,
                end: args.integer("end_time")?,
                name: args.text("run_name")?,
            };
            let info = tracking.update_run(ctx, &args.run_id()?, change).await?;
            return Ok(Some(json!({ "run_info": view::run_info(&info) })));
        }
        "search" => {
            let search = RunSearch {
                experiments: args.texts("experiment_ids")?,
                filter: args.text("filter")?.unwrap_or_default(),
                order_by: args.texts("order_by")?,
                view: args.view("run_view_type")?,
                limit: args.limit(1_000, 50_000)?,
                token: args.text("page_token")?,
            };
            let page = tracking.search_runs(ctx, search).await?;
            let answer = Object::default()
                .with("runs", view::list(&page.items, view::run))
                .with("next_page_token", page.next)
                .done();
            return Ok(Some(answer));
        }
        _ => {}
    }
    let run = args.run_id();
    let none = Vec::new;
    match path {
        "log-metric" => {
            let metrics = vec![args.metric()?];
            tracking
                .log_batch(ctx, &run?, metrics, none(), none())
                .await?;
        }
        "log-parameter" => {
            let params = vec![args.pair()?];
            tracking
                .log_batch(ctx, &run?, Vec::new(), params, none())
                .await?;
        }
        "set-tag" => {
            let tags = vec![args.pair()?];
            tracking
                .log_batch(ctx, &run?, Vec::new(), none(), tags)
                .await?;
        }
        "delete-tag" => {
            tracking
                .delete_tag(ctx, &run?, &args.required("key")?)
                .await?;
        }
        "log-batch" => {
            let metrics = args
                .objects("metrics")?
                .iter()
                .map(Args::metric)
                .collect::<TrackingResult<Vec<_>>>()?;
            let (params, tags) = (args.pairs("params")?, args.pairs("tags")?);
            tracking
                .log_batch(ctx, &run?, metrics, params, tags)
                .await?;
        }
        "log-inputs" => {
            let datasets = args
                .objects("datasets")?
                .iter()
                .map(dataset_input)
                .collect::<TrackingResult<Vec<_>>>()?;
            let models = args
                .objects("models")?
                .iter()
                .map(|model| model.required("model_id"))
                .collect::<TrackingResult<Vec<_>>>()?;
            tracking.log_inputs(ctx, &run?, datasets, models).await?;
        }
        "outputs" => {
            let models = args
                .objects("models")?
                .iter()
                .map(|model| {
                    Ok((
                        model.required("model_id")?,
                        model.integer("step")?.unwrap_or(0),
                    ))
                })
                .collect::<TrackingResult<Vec<_>>>()?;
            tracking.log_outputs(ctx, &run?, models).await?;
        }
        "log-model" => {
            // Older clients tell a run which models it has in a tag of this name.
            let model = args.required("model_json")?;
            let run = run?;
            let known = tracking.run(ctx, &run).await?;
            let history = known
                .tags
                .iter()
                .find(|tag| tag.key == "mlflow.log-model.history");
            let mut models: Vec<Value> = history
                .and_then(|tag| serde_json::from_str(&tag.value).ok())
                .unwrap_or_default();
            models.push(
                serde_json::from_str(&model)
                    .map_err(|_| TrackingError::invalid("Malformed model info: it is no JSON"))?,
            );
            let tag = crate::tracking::model::Pair {
                key: "mlflow.log-model.history".to_owned(),
                value: Value::Array(models).to_string(),
            };
            tracking
                .log_batch(ctx, &run, Vec::new(), Vec::new(), vec![tag])
                .await?;
        }
        "delete" => tracking.stage_run(ctx, &run?, Stage::Deleted).await?,
        "restore" => tracking.stage_run(ctx, &run?, Stage::Active).await?,
        _ => return Ok(None),
    }
    Ok(Some(json!({})))
}

pub(super) async fn metrics(
    call: &Call<'_>,
    method: &Method,
    path: &str,
) -> TrackingResult<Option<Value>> {
    let Call {
        tracking,
        ctx,
        args,
    } = call;
    if *method != Method::GET {
        return Ok(None);
    }
    match path {
        "get-history" => {
            let limit = args
                .integer("max_results")?
                .filter(|limit| *limit > 0)
                .unwrap_or(MAX_HISTORY)
                .min(MAX_HISTORY);
            let page = tracking
                .history(
                    ctx,
                    &args.run_id()?,
                    &args.required("metric_key")?,
                    limit,
                    args.text("page_token")?.as_deref(),
                )
                .await?;
            Ok(Some(
                Object::default()
                    .with("metrics", view::list(&page.items, view::metric))
                    .with("next_page_token", page.next)
                    .done(),
            ))
        }
        "get-history-bulk-interval" | "get-history-bulk" => {
            let one = if path == "get-history-bulk" {
                "run_id"
            } else {
                "run_ids"
            };
            let interval = Interval {
                runs: args.texts(one)?,
                key: args.required("metric_key")?,
                start: args.integer("start_step")?,
                end: args.integer("end_step")?,
                limit: args
                    .integer("max_results")?
                    .filter(|limit| *limit > 0)
                    .unwrap_or(MAX_INTERVAL)
                    .min(if path == "get-history-bulk" {
                        MAX_HISTORY
                    } else {
                        MAX_INTERVAL
                    }),
            };
            let found = tracking.history_interval(ctx, interval).await?;
            Ok(Some(
                Object::default()
                    .with("metrics", view::list(&found, view::metric))
                    .done(),
            ))
        }
        _ => Ok(None),
    }
}
