//! The pipeline from events to finished runs, on both databases, with an engine that really
//! runs shell commands and outlives the pipeline, as shims do.

mod crash;
mod engine;
mod forget;
mod runs;
mod service;
mod training;
mod world;
