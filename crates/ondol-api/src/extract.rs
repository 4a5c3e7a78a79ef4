//! What every handler is given: who asks, and inputs whose mistakes read well.

use std::net::SocketAddr;
use std::pin::Pin;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Request};
use http::request::Parts;
use ondol_auth::{Ctx, Denied};
use serde::de::DeserializeOwned;

use crate::problem::{Answer, Refusal};
use crate::rooms::Rooms;

/// The context of an authenticated request.
pub(crate) struct Caller(pub(crate) Ctx);

impl FromRequestParts<Rooms> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, rooms: &Rooms) -> Result<Self, Refusal> {
        caller(parts, rooms).await
    }
}

/// Boxed, so that it is compiled once and not once per handler.
fn caller<'a>(
    parts: &'a Parts,
    rooms: &'a Rooms,
) -> Pin<Box<dyn Future<Output = Answer<Caller>> + Send + 'a>> {
    Box::pin(async move {
        let peer = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|info| info.0.ip());
        let principal = rooms
            .authenticator
            .authenticate(&parts.headers, peer)
            .await?;
        if !principal.is_authenticated() {
            return Err(Denied::Unauthenticated.into());
        }
        Ok(Caller(Ctx::new(principal, rooms.clock.clone())))
    })
}

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Rooms> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, rooms: &Rooms) -> Result<Self, Refusal> {
        match axum::Json::<T>::from_request(request, rooms).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(JsonRejection::BytesRejection(_)) => Err(Refusal::new(
                ondol_types::ErrorKind::TooLarge,
                "api.body.too-large",
                "the body is too large",
            )),
            Err(error) => Err(Refusal::invalid(error.body_text())),
        }
    }
}

/// The names in a path.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Rooms> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, rooms: &Rooms) -> Result<Self, Refusal> {
        match axum::extract::Path::<T>::from_request_parts(parts, rooms).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                Err(Refusal::invalid(error.body_text()))
            }
            Err(error) => Err(Refusal::invalid(error.body_text())),
        }
    }
}

/// The parameters after `?`.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Rooms> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, rooms: &Rooms) -> Result<Self, Refusal> {
        match axum::extract::Query::<T>::from_request_parts(parts, rooms).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(QueryRejection::FailedToDeserializeQueryString(error)) => {
                Err(Refusal::invalid(error.body_text()))
            }
            Err(error) => Err(Refusal::invalid(error.body_text())),
        }
    }
}
