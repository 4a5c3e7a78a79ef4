//! Runs, their steps and logs, watched live.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use futures_util::StreamExt;
use http::StatusCode;
use ondol_auth::Ctx;
use ondol_pipeline::model::{Run, RunState, Step, StepState, TestReport};
use ondol_pipeline::{RunDetail, RunFilter};
use ondol_types::{ProjectName, RunId, StepName, Timestamp};
use ondol_workload::{LogLine, LogPosition, LogQuery};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::extract::{Body, Caller, Path, Query};
use crate::live;
use crate::page::{MAX_PAGE, Page, PageQuery};
use crate::problem::{Answer, Refusal};
use crate::rooms::Rooms;

pub(super) fn routes() -> OpenApiRouter<Rooms> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(list_of_project, start))
        .routes(routes!(show))
        .routes(routes!(show_numbered))
        .routes(routes!(logs))
        .routes(routes!(watch))
        .routes(routes!(cancel))
        .routes(routes!(retry))
        .routes(routes!(approve))
        .routes(routes!(reject))
}

fn seconds(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<f64> {
    Some(to?.since(from?).as_secs_f64())
}

/// A run as lists show it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunSummary {
    #[serde(flatten)]
    run: Run,
    /// From its start to its end, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<f64>,
}

impl From<Run> for RunSummary {
    fn from(run: Run) -> Self {
        Self {
            duration_seconds: seconds(run.started_at, run.finished_at),
            run,
        }
    }
}

/// A step with how long it took.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StepView {
    #[serde(flatten)]
    step: Step,
    /// From the start of its attempt to its end, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<f64>,
}

/// A run with everything in it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunView {
    #[serde(flatten)]
    summary: RunSummary,
    /// Its steps in order.
    steps: Vec<StepView>,
    /// What tests reported.
    tests: Vec<TestReport>,
    /// The steps of which each waited for the one before it, up to the one that ended last.
    critical_path: Vec<StepName>,
    /// Where the project's service answers.
    url: String,
    /// The effective specification, once the code was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    spec: Option<serde_json::Value>,
    /// Where each effective value came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    explain: Option<serde_json::Value>,
}

fn view(rooms: &Rooms, detail: RunDetail) -> RunView {
    let steps = detail
        .steps
        .into_iter()
        .map(|step| StepView {
            duration_seconds: seconds(step.started_at, step.finished_at),
            step,
        })
        .collect();
    RunView {
        url: rooms.places.application(&detail.run.project),
        summary: detail.run.into(),
        steps,
        tests: detail.tests,
        critical_path: detail.critical_path,
        spec: detail.spec,
        explain: detail.explain,
    }
}

/// Which runs.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RunsQuery {
    /// Only in this state: queued, running or finished.
    state: Option<RunState>,
    /// Only of this branch; of one project alone.
    branch: Option<String>,
    /// How many, at most 500.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

async fn page(
    rooms: &Rooms,
    ctx: &Ctx,
    project: Option<ProjectName>,
    query: RunsQuery,
) -> Answer<Json<Page<RunSummary>>> {
    let paging = PageQuery {
        limit: query.limit,
        cursor: query.cursor,
    };
    let before = match paging.before()? {
        i64::MAX => None,
        before => Some(before),
    };
    let filter = RunFilter {
        project,
        state: query.state,
        branch: query.branch,
    };
    let found = rooms
        .pipeline
        .list_runs(ctx, &filter, before, paging.limit().min(MAX_PAGE))
        .await?;
    let items = found.runs.into_iter().map(RunSummary::from).collect();
    Ok(Json(Page {
        items,
        next: found.next.map(|next| next.to_string()),
    }))
}

/// Runs of every project one may see, newest first.
#[utoipa::path(get, path = "/runs", tag = "runs", params(RunsQuery), responses((status = 200, body = Page<RunSummary>)))]
async fn list(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Query(query): Query<RunsQuery>,
) -> Answer<Json<Page<RunSummary>>> {
    page(&rooms, &ctx, None, query).await
}

/// Runs of a project, newest first.
#[utoipa::path(get, path = "/projects/{project}/runs", tag = "runs", params(("project" = ProjectName, Path), RunsQuery), responses((status = 200, body = Page<RunSummary>)))]
async fn list_of_project(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
    Query(query): Query<RunsQuery>,
) -> Answer<Json<Page<RunSummary>>> {
    // A project that does not exist is told apart from one without runs.
    rooms.git.show(&ctx, &project).await?;
    page(&rooms, &ctx, Some(project), query).await
}

/// Starts a run of the default branch as it is.
#[utoipa::path(post, path = "/projects/{project}/runs", tag = "runs", params(("project" = ProjectName, Path)), responses((status = 201, body = RunSummary)))]
async fn start(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
) -> Answer<(StatusCode, Json<RunSummary>)> {
    Ok((
        StatusCode::CREATED,
        Json(rooms.pipeline.start(&ctx, &project).await?.into()),
    ))
}

/// One run.
#[utoipa::path(get, path = "/runs/{run}", tag = "runs", params(("run" = RunId, Path)), responses((status = 200, body = RunView)))]
async fn show(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(run): Path<RunId>,
) -> Answer<Json<RunView>> {
    Ok(Json(view(
        &rooms,
        rooms.pipeline.show_run(&ctx, &run).await?,
    )))
}

/// One run by its number in the project.
#[utoipa::path(get, path = "/projects/{project}/runs/{number}", tag = "runs", params(("project" = ProjectName, Path), ("number" = i64, Path)), responses((status = 200, body = RunView)))]
async fn show_numbered(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, number)): Path<(ProjectName, i64)>,
) -> Answer<Json<RunView>> {
    let run = rooms.pipeline.find_run(&ctx, &project, number).await?;
    Ok(Json(view(
        &rooms,
        rooms.pipeline.show_run(&ctx, &run.id).await?,
    )))
}

/// Which lines of a step.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct StepLogsQuery {
    /// How many, at most 500.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<u64>,
}

/// The log of one step, a page at a time.
#[utoipa::path(get, path = "/runs/{run}/steps/{step}/logs", tag = "runs", params(("run" = RunId, Path), ("step" = StepName, Path), StepLogsQuery), responses((status = 200, body = Page<LogLine>)))]
async fn logs(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((run, step)): Path<(RunId, StepName)>,
    Query(query): Query<StepLogsQuery>,
) -> Answer<Json<Page<LogLine>>> {
    let limit = query.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    let from = query.cursor.map_or(LogPosition::Start, LogPosition::After);
    let query = LogQuery {
        from,
        follow: false,
        limit: Some(u64::from(limit)),
    };
    let mut lines = rooms.pipeline.logs(&ctx, &run, &step, query).await?;
    let mut items = Vec::new();
    while let Some(line) = lines.next().await {
        items.push(line?);
    }
    Ok(Json(Page::keyed(items, limit, |line| line.seq.to_string())))
}

/// A line of a step's log.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepLine<'l> {
    step: &'l StepName,
    time: Timestamp,
    stream: ondol_workload::LogStreamKind,
    text: &'l str,
}

const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_FOR_LINES: Duration = Duration::from_secs(5);

/// Who sends the log of an attempt to a watcher, until its end was waited for.
struct Reader {
    attempt: u32,
    lines: Option<AbortOnDropHandle<()>>,
}

/// Follows a run as server-sent events: `run` whenever it changes, `log` for each line of its
/// steps, until it has finished.
#[utoipa::path(get, path = "/runs/{run}/watch", tag = "runs", params(("run" = RunId, Path)),
    responses((status = 200, description = "server-sent events `run` and `log`", content_type = "text/event-stream")))]
async fn watch(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(id): Path<RunId>,
) -> Answer<Response> {
    let mut watch = rooms.pipeline.watch(&ctx, &id).await?;
    let first = rooms.pipeline.show_run(&ctx, &id).await?;
    let stopping = rooms.stopping.clone();
    let (sender, receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        let mut readers: BTreeMap<StepName, Reader> = BTreeMap::new();
        let mut detail = first;
        let mut shown = String::new();
        loop {
            for step in &detail.steps {
                let begun = step.state == StepState::Running
                    || (step.state == StepState::Finished && step.attempt > 0);
                let known = readers.get(&step.name).map(|reader| reader.attempt);
                if begun && known.is_none_or(|attempt| attempt < step.attempt) {
                    let lines = pump(
                        rooms.clone(),
                        ctx.clone(),
                        id,
                        step.name.clone(),
                        sender.clone(),
                    );
                    let reader = Reader {
                        attempt: step.attempt,
                        lines: Some(AbortOnDropHandle::new(tokio::spawn(lines))),
                    };
                    readers.insert(step.name.clone(), reader);
                }
                // The last lines of a step come before the word that it has ended.
                if step.state == StepState::Finished
                    && let Some(reader) = readers.get_mut(&step.name)
                    && let Some(lines) = reader.lines.take()
                {
                    let _ = tokio::time::timeout(PATIENCE_FOR_LINES, lines).await;
                }
            }
            let finished = detail.run.state == RunState::Finished;
            let view = view(
                &rooms,
                RunDetail {
                    spec: None,
                    explain: None,
                    ..detail
                },
            );
            let text = serde_json::to_string(&view).unwrap_or_default();
            if text != shown && sender.send(live::event("run", &view)).await.is_err() {
                return;
            }
            shown = text;
            if finished {
                return;
            }
            tokio::select! {
                _ = watch.wait(PATIENCE) => {}
                () = sender.closed() => return,
            }
            detail = match rooms.pipeline.show_run(&ctx, &id).await {
                Ok(detail) => detail,
                Err(_) => return,
            };
        }
    });
    Ok(live::answer(ReceiverStream::new(receiver), stopping))
}

async fn pump(
    rooms: Rooms,
    ctx: Ctx,
    run: RunId,
    step: StepName,
    sender: mpsc::Sender<axum::response::sse::Event>,
) {
    let query = LogQuery {
        from: LogPosition::Start,
        follow: true,
        limit: None,
    };
    let Ok(mut lines) = rooms.pipeline.logs(&ctx, &run, &step, query).await else {
        return;
    };
    while let Some(Ok(line)) = lines.next().await {
        let line = StepLine {
            step: &step,
            time: line.time,
            stream: line.stream,
            text: &line.text,
        };
        if sender.send(live::event("log", &line)).await.is_err() {
            return;
        }
    }
}

/// Cancels a run.
#[utoipa::path(post, path = "/runs/{run}/cancel", tag = "runs", params(("run" = RunId, Path)), responses((status = 200, body = RunSummary)))]
async fn cancel(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(run): Path<RunId>,
) -> Answer<Json<RunSummary>> {
    Ok(Json(rooms.pipeline.cancel(&ctx, &run).await?.into()))
}

/// Starts the same run again, as a new one.
#[utoipa::path(post, path = "/runs/{run}/retry", tag = "runs", params(("run" = RunId, Path)), responses((status = 201, body = RunSummary)))]
async fn retry(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(run): Path<RunId>,
) -> Answer<(StatusCode, Json<RunSummary>)> {
    let run = rooms
        .pipeline
        .retry(&ctx, &run)
        .await
        .map_err(Refusal::from)?;
    Ok((StatusCode::CREATED, Json(run.into())))
}

/// What to say about it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ApprovalBody {
    /// Kept with the step and its event.
    #[serde(default)]
    comment: String,
}

/// Approves a step that waits for a person.
#[utoipa::path(post, path = "/runs/{run}/steps/{step}/approve", tag = "runs", request_body = ApprovalBody, params(("run" = RunId, Path), ("step" = StepName, Path)), responses((status = 200, body = Step)))]
async fn approve(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((run, step)): Path<(RunId, StepName)>,
    Body(body): Body<ApprovalBody>,
) -> Answer<Json<Step>> {
    let pipeline = &rooms.pipeline;
    let decided = pipeline.decide_approval(&ctx, &run, &step, true, &body.comment);
    Ok(Json(decided.await?))
}

/// Refuses a step that waits for a person; the run ends as refused.
#[utoipa::path(post, path = "/runs/{run}/steps/{step}/reject", tag = "runs", request_body = ApprovalBody, params(("run" = RunId, Path), ("step" = StepName, Path)), responses((status = 200, body = Step)))]
async fn reject(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((run, step)): Path<(RunId, StepName)>,
    Body(body): Body<ApprovalBody>,
) -> Answer<Json<Step>> {
    let pipeline = &rooms.pipeline;
    let decided = pipeline.decide_approval(&ctx, &run, &step, false, &body.comment);
    Ok(Json(decided.await?))
}
