//! The registry as its clients see it.
#![expect(clippy::print_stderr, reason = "a test that did nothing must say so")]

mod builds;
mod clients;
mod collection;
mod conformance;
mod deletion;
mod images;
mod lists;
#[path = "../../../ondol-workload/tests/it/podman.rs"]
#[expect(dead_code, reason = "the other crate's tests use all of it")]
mod podman;
mod protocol;
mod support;
mod tokens;
mod uploads;
mod upstream;
