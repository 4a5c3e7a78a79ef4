//! The pipeline from events to finished runs, on both databases, with an engine that really
//! runs shell commands and outlives the pipeline, as shims do.

mod artifacts;
mod contained;
mod crash;
mod engine;
mod forget;
mod matrix;
mod runs;
mod service;
mod training;
mod waiting;
mod world;

#[path = "../../../ondol-workload/tests/it/image.rs"]
mod image;
