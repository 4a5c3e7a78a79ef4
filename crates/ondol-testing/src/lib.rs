//! The released binary under test: started like a user starts it, killed like a machine kills it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`platform`] | [`Platform`]: one `ondol serve` with a home and a data directory of its own; the command line, git, the API and the applications as its users see them |
//! | [`project`] | [`Project`]: a repository beside it |
//! | [`load`] | [`Load`]: clients that keep asking, and what went wrong for them |
//! | [`process`] | what runs, read from `/proc` |
//! | [`table`] | small tables of training data |
//! | [`wait`] | waiting for something to become true |
//!
//! Nothing here asserts on speed: deadlines are generous and only keep a broken build from
//! hanging. The binary is `$ONDOL_BIN`, otherwise the newest build of this workspace.

mod binary;
pub mod load;
pub mod platform;
pub mod process;
pub mod project;
pub mod table;
pub mod wait;

pub use binary::{binary, environment, has_program, is_root, workspace};
pub use load::{Load, LoadPlan, LoadReport};
pub use platform::{Answer, Options, Output, Platform};
pub use project::Project;
pub use wait::{eventually, eventually_some, runtime};

/// Says that a test did nothing, and why. It goes past the capture of test output, so that it is
/// also seen when the test passes.
pub fn skipped(test: &str, why: &str) {
    say(&format!("NOTHING TESTED by {test}: {why}"));
}

/// Says what a test measured or observed, past the capture of test output.
pub fn remark(text: impl AsRef<str>) {
    say(&format!("      {}", text.as_ref()));
}

fn say(text: &str) {
    use std::io::Write;
    // Nobody to tell is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
