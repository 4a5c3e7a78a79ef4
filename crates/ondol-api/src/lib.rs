//! Ondol's own JSON API below `/api/v1`: routes, views, problem details, OpenAPI.
//!
//! A route parses its input, builds a context, calls one operation of one room (or a few for a
//! view that joins them), and answers. Nothing is decided here but how things look.
//!
//! | module | what it is |
//! |---|---|
//! | `rooms` | what the routes are given |
//! | `extract`, `page`, `problem`, `live` | who asks, lists, refusals, server-sent events |
//! | `routes` | one file per noun |

mod extract;
mod live;
mod page;
mod problem;
mod rooms;
mod routes;

pub use page::Page;
pub use problem::{Answer, ProblemDetails, Refusal, status_of};
pub use rooms::{DeleteProject, Places, Rooms};
pub use routes::{openapi_json, router};
