//! The event log.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use ondol_auth::{Action, Ctx, VisibleScope, visible_scope};
use ondol_store::events::{Event, EventFilter};
use ondol_types::{Problem, ProjectName};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::extract::{Caller, Query};
use crate::live;
use crate::page::{MAX_PAGE, Page};
use crate::problem::{Answer, Refusal};
use crate::rooms::Rooms;

pub(super) fn routes() -> OpenApiRouter<Rooms> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Which events.
#[derive(Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct EventQuery {
    /// Only this project's.
    project: Option<ProjectName>,
    /// Only types that begin so.
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// Only this chain.
    chain: Option<String>,
    /// Only about this subject.
    subject: Option<String>,
    /// `newest` (default) or `oldest` first.
    order: Option<String>,
    /// Only after this place.
    after: Option<i64>,
    /// Answer as server-sent events: what is there after `after`, then what comes.
    #[serde(default)]
    follow: bool,
    /// How many, at most 500.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<i64>,
}

/// What the asker may see: a project needs Read, the whole log of the installation Operate or
/// Read on everything; otherwise only events of visible projects.
fn scope(ctx: &Ctx, query: &EventQuery) -> Answer<VisibleScope> {
    if let Some(project) = &query.project {
        ctx.require(Action::Read, project)?;
    }
    Ok(visible_scope(&ctx.principal, Action::Read, ctx.clock.now()))
}

/// The events that the asker may see. Who may read single projects does not see what happened to
/// deleted ones that had their names.
async fn visible(
    rooms: &Rooms,
    scope: &VisibleScope,
    mut events: Vec<Event>,
) -> Result<Vec<Event>, Problem> {
    let VisibleScope::Projects(projects) = scope else {
        return Ok(events);
    };
    let births = rooms.git.births(projects).await?;
    events.retain(|event| {
        event
            .project
            .as_ref()
            .and_then(|project| births.get(project))
            .is_some_and(|born| event.seq >= *born)
    });
    Ok(events)
}

/// Events of the log, as a page or followed live.
#[utoipa::path(get, path = "/events", tag = "events", params(EventQuery), responses((status = 200, body = Page<Event>)))]
async fn list(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Query(query): Query<EventQuery>,
) -> Answer<Response> {
    let scope = scope(&ctx, &query)?;
    let filter = EventFilter {
        project: query.project.clone(),
        type_prefix: query.event_type.clone(),
        chain: query.chain.clone(),
        subject: query.subject.clone(),
    };
    if query.follow {
        return Ok(follow(rooms, scope, filter, query.after.unwrap_or(0)));
    }
    let limit = query.limit.unwrap_or(50).clamp(1, MAX_PAGE);
    let oldest_first = match query.order.as_deref() {
        None | Some("newest") => query.after.is_some(),
        Some("oldest") => true,
        Some(other) => {
            return Err(Refusal::invalid(format!(
                "order `{other}` is neither `newest` nor `oldest`"
            )));
        }
    };
    let found = if oldest_first {
        let from = query.cursor.or(query.after).unwrap_or(0);
        rooms.events.after(from, &filter, limit).await?
    } else {
        let from = query.cursor.unwrap_or(i64::MAX);
        rooms.events.before(from, &filter, limit).await?
    };
    let next = found.more.then(|| found.place.to_string());
    let items = visible(&rooms, &scope, found.events).await?;
    Ok(Json(Page { items, next }).into_response())
}

fn follow(rooms: Rooms, scope: VisibleScope, filter: EventFilter, cursor: i64) -> Response {
    let stopping = rooms.stopping.clone();
    let signal = rooms.store.appended();
    let state = (
        rooms,
        scope,
        filter,
        cursor,
        signal,
        std::collections::VecDeque::new(),
    );
    let events = stream::unfold(
        state,
        |(rooms, scope, filter, mut cursor, mut signal, mut ready)| async move {
            loop {
                if let Some(event) = ready.pop_front() {
                    return Some((
                        live::event("event", &event),
                        (rooms, scope, filter, cursor, signal, ready),
                    ));
                }
                signal.mark_unchanged();
                let found = rooms.events.after(cursor, &filter, 200).await.ok()?;
                cursor = found.place;
                let more = found.more;
                ready.extend(visible(&rooms, &scope, found.events).await.ok()?);
                if more || !ready.is_empty() {
                    continue;
                }
                // By signal and by timer: another process may write to the same database.
                let _ = tokio::time::timeout(Duration::from_secs(2), signal.changed()).await;
            }
        },
    );
    live::answer(events, stopping)
}
