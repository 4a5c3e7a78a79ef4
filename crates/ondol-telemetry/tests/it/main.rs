//! The query language on the test files of Prometheus, and the parser on anything.

mod limits;
mod names;
mod parser;
mod promqltest;
