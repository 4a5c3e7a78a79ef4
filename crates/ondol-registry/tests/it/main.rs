//! The registry as its clients see it.
#![expect(clippy::print_stderr, reason = "a test that did nothing must say so")]

mod builds;
mod clients;
mod collection;
mod conformance;
mod deletion;
#[path = "../../../ondol-workload/tests/it/image.rs"]
mod image;
mod images;
mod lists;
mod protocol;
mod support;
mod tokens;
mod uploads;
mod upstream;
