//! Access tokens, and who one is.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::{Json, http::StatusCode};
use ondol_auth::{Grant, NewToken, Role, Token};
use ondol_types::{ProjectName, Timestamp, TokenId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::extract::{Body, Caller, Path};
use crate::page::Page;
use crate::problem::{Answer, Refusal};
use crate::rooms::Rooms;

pub(super) fn routes() -> OpenApiRouter<Rooms> {
    OpenApiRouter::new()
        .routes(routes!(whoami))
        .routes(routes!(list, create))
        .routes(routes!(revoke))
}

/// Somebody.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WhoAmI {
    /// The name that events show.
    name: String,
    /// What the token opens.
    grant: Grant,
    /// When it ends.
    expires_at: Option<Timestamp>,
}

/// Who the token belongs to.
#[utoipa::path(get, path = "/whoami", tag = "tokens", responses((status = 200, body = WhoAmI)))]
async fn whoami(Caller(ctx): Caller) -> Json<WhoAmI> {
    let principal = ctx.principal;
    Json(WhoAmI {
        name: principal.name,
        grant: principal.grant,
        expires_at: principal.expires_at,
    })
}

/// Every token, without its secret part.
#[utoipa::path(get, path = "/tokens", tag = "tokens", responses((status = 200, body = Page<Token>)))]
async fn list(State(rooms): State<Rooms>, Caller(ctx): Caller) -> Answer<Json<Page<Token>>> {
    Ok(Json(Page::whole(rooms.tokens.list(&ctx).await?)))
}

/// A token to issue.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CreateToken {
    /// What it is called.
    name: String,
    /// viewer, developer, maintainer or admin.
    role: String,
    /// Only these projects; all when there are none.
    #[serde(default)]
    projects: Vec<ProjectName>,
    /// How many days it lasts, at most 3,650.
    days: Option<u32>,
}

/// A token with its secret part, shown once.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Issued {
    /// Its id.
    id: TokenId,
    /// The token itself.
    token: String,
    /// When it ends.
    expires_at: Option<Timestamp>,
}

/// Issues a token. Its text is in this answer and nowhere else.
#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = CreateToken, responses((status = 201, body = Issued)))]
async fn create(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Body(body): Body<CreateToken>,
) -> Answer<(StatusCode, Json<Issued>)> {
    let role: Role = body
        .role
        .parse()
        .map_err(|error: ondol_auth::RoleError| Refusal::invalid(error.to_string()))?;
    let grant = if body.projects.is_empty() {
        Grant::everywhere(role)
    } else {
        let projects: BTreeMap<ProjectName, Role> = body
            .projects
            .into_iter()
            .map(|project| (project, role))
            .collect();
        Grant {
            everywhere: None,
            projects,
        }
    };
    let days = u64::from(body.days.unwrap_or(365).clamp(1, 3_650));
    let expires_at = Some(ctx.clock.now().plus(Duration::from_secs(days * 86_400)));
    let (token, text) = rooms
        .tokens
        .create(
            &ctx,
            NewToken {
                name: body.name,
                grant,
                expires_at,
            },
        )
        .await?;
    let issued = Issued {
        id: token.id,
        token: text.expose().clone(),
        expires_at: token.expires_at,
    };
    Ok((StatusCode::CREATED, Json(issued)))
}

/// Revokes a token.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens", params(("id" = TokenId, Path)), responses((status = 200, body = Token)))]
async fn revoke(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(id): Path<TokenId>,
) -> Answer<Json<Token>> {
    Ok(Json(rooms.tokens.revoke(&ctx, id).await?))
}
