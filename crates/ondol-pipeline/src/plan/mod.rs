//! Pure decisions: which steps a run has, and what is due next. Nothing here reads a clock, a
//! file or the database, so that every rule can be tested as a table.

mod admit;
mod decide;
mod edges;
mod graph;
mod outcome;
#[cfg(test)]
mod simulation;

pub(crate) use admit::{Candidate, Occupied, admit};
pub(crate) use decide::{Decision, Seen, decide, wants_observation};
pub(crate) use graph::checkout_definition;
pub use graph::{Graph, GraphInput, NO_TESTS_ACTION, Node, TrainingState, built_in, graph};
pub(crate) use outcome::{Verdict, judge};
