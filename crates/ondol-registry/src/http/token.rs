//! `/v2/token`: a short-lived token in exchange for a long-lived one.
//!
//! Clients ask with GET and Basic, as Docker's token protocol has it, or with POST and a form, as
//! OAuth 2 has it. The password is an Ondol token; the answer never opens more than it does and
//! ends with it.

use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use ondol_auth::Denied;
use ondol_types::Secret;
use serde_json::json;

use super::{Door, answer, scope};
use crate::error::RegistryError;

/// How long a token of this door lives. It is long enough for a push of many layers, and its
/// owner is looked up at each use, so that revoking needs no patience.
const LIFE: Duration = Duration::from_secs(900);
/// The longest form that is read.
const MAX_FORM: usize = 64 * 1024;

/// What a client asks with.
struct Question {
    headers: HeaderMap,
    scopes: Vec<String>,
    /// The password again, for clients that keep it as their refresh token.
    refresh: Option<Secret<String>>,
}

pub(super) async fn answer(
    door: &Door,
    request: axum::extract::Request,
) -> Result<Response, RegistryError> {
    let peer = super::peer(&request);
    let question = match *request.method() {
        Method::GET => {
            let query = request.uri().query().unwrap_or("");
            Question {
                scopes: answer::all(query, "scope"),
                headers: request.headers().clone(),
                refresh: None,
            }
        }
        Method::POST => form(request).await?,
        _ => {
            return Err(RegistryError::Unsupported(
                "other methods than GET and POST here".to_owned(),
            ));
        }
    };
    let principal = door.authenticate.principal(&question.headers, peer).await?;
    if !principal.is_authenticated() {
        return Err(Denied::Unauthenticated.into());
    }
    let grant = scope::asked(question.scopes.iter().map(String::as_str));
    let (token, expires_at) = door.authenticate.mint(&principal, grant, LIFE)?;
    let now = door.clock.now();
    let mut body = json!({
        "token": token.expose(),
        "access_token": token.expose(),
        "expires_in": expires_at.since(now).as_secs(),
        "issued_at": now,
        "scope": question.scopes.join(" "),
    });
    if let Some(refresh) = question.refresh {
        body["refresh_token"] = json!(refresh.expose());
    }
    let mut response = answer::json(StatusCode::OK, &body);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn form(request: axum::extract::Request) -> Result<Question, RegistryError> {
    let body: Bytes = Limited::new(request.into_body(), MAX_FORM)
        .collect()
        .await
        .map_err(|error| RegistryError::Broken(error.to_string()))?
        .to_bytes();
    let text = std::str::from_utf8(&body)
        .map_err(|_| RegistryError::Broken("the form is not text".to_owned()))?;
    let field = |name: &str| answer::query(text, name).filter(|value| !value.is_empty());
    let (user, password) = match field("grant_type").as_deref() {
        Some("password") => (field("username"), field("password")),
        Some("refresh_token") => (field("account"), field("refresh_token")),
        _ => {
            return Err(RegistryError::Unsupported(
                "other grants than `password` and `refresh_token`".to_owned(),
            ));
        }
    };
    let password = Secret::new(password.ok_or(Denied::Unauthenticated)?);
    let pair = format!("{}:{}", user.unwrap_or_default(), password.expose());
    let value = format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()));
    let mut headers = HeaderMap::new();
    if let Ok(mut value) = HeaderValue::from_str(&value) {
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    let offline = field("access_type").as_deref() == Some("offline")
        || field("grant_type").as_deref() == Some("refresh_token");
    Ok(Question {
        headers,
        scopes: answer::all(text, "scope"),
        refresh: offline.then_some(password),
    })
}
