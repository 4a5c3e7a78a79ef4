//! Pure decisions: which steps a run has, and what is due next. Nothing here reads a clock, a
//! file or the database, so that every rule can be tested as a table.

mod admit;
mod cases;
mod critical;
mod decide;
mod edges;
mod graph;
mod instances;
mod outcome;
#[cfg(test)]
mod simulation;

pub(crate) use admit::{Candidate, Occupied, admit};
pub(crate) use cases::{flaky, only_quarantined};
pub(crate) use critical::critical_path;
pub(crate) use decide::{Decision, Seen, called_off, decide, wants_observation};
pub(crate) use graph::{APPROVE_ACTION, GATHER_ACTION, checkout_definition};
pub use graph::{Graph, GraphInput, NO_TESTS_ACTION, Node, TrainingState, built_in, graph};
pub(crate) use outcome::{Verdict, judge};
