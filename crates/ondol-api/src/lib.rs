#![doc = include_str!("../README.md")]

mod extract;
mod live;
mod page;
mod problem;
mod rooms;
mod routes;

pub use page::Page;
pub use problem::{Answer, ProblemDetails, Refusal, status_of};
pub use rooms::{Places, Rooms};
pub use routes::{openapi_json, router};
