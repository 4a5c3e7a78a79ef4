//! The query language on the test files of Prometheus, the parser on anything, and the store of
//! series on crashes, damage and floods.

mod limits;
mod names;
mod parser;
mod promqltest;
mod tsdb;
