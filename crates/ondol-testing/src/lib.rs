#![doc = include_str!("../README.md")]

mod binary;
pub mod engine;
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
