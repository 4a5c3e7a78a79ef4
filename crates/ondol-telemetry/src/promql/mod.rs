//! PromQL, the query language of Prometheus 3: parser, printer and evaluator.
//!
//! [`Engine`] answers instant and range queries over a [`SeriesSource`](crate::series::SeriesSource).
//! What it accepts and what it results in is what Prometheus accepts and results in; the pages of
//! `docs/promql.md` say where it is not, and the score on Prometheus' own test files.
//!
//! - [`parse`] makes an [`Expr`]; its `Display` and [`pretty`] make a query of it again.
//! - [`Engine::instant`], [`Engine::range`] result in an [`Answer`]: a [`Value`] with remarks.
//! - [`json`] writes an answer as Prometheus' HTTP API does.
//!
//! Nothing here knows about HTTP, and every query ends: at its deadline, at its cancellation, or
//! at one of the ceilings in [`Config`], with an error that names what was too large.

mod annotations;
pub mod ast;
mod engine;
mod error;
mod eval;
mod float;
pub mod functions;
pub mod json;
mod lexer;
mod parser;
mod printer;
mod quantile;
mod value;

pub use annotations::Annotations;
pub use ast::Expr;
pub use engine::{Cancel, Config, Engine};
pub use error::{ParseError, QueryError, QueryErrorKind};
pub use float::{format_float, format_plain};
pub(crate) use lexer::{duration as parse_duration, format_duration};
pub use parser::{ParseLimits, parse, parse_selector};
pub use printer::pretty;
pub use value::{Answer, Number, Series, Value, VectorSample};
