//! The loops of the process.

use axum::Json;
use axum::extract::State;
use ondol_auth::Action;
use ondol_background::LoopStatus;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::extract::Caller;
use crate::page::Page;
use crate::problem::Answer;
use crate::rooms::Rooms;

pub(super) fn routes() -> OpenApiRouter<Rooms> {
    OpenApiRouter::new().routes(routes!(list))
}

/// The state of every loop: what it found and did last, or why it failed.
#[utoipa::path(get, path = "/background", tag = "installation", responses((status = 200, body = Page<LoopStatus>)))]
async fn list(State(rooms): State<Rooms>, Caller(ctx): Caller) -> Answer<Json<Page<LoopStatus>>> {
    ctx.require_installation(Action::Operate)?;
    Ok(Json(Page::whole(rooms.background.status())))
}
