//! The Ondol binary: every role of the platform and its command line.
//!
//! The light roles (`shim`, `keeper`, `gateway`, the git hook) are told apart before anything
//! else is set up, because many of them run at once and each must stay small.

mod cli;
mod client;
mod environment;
mod error;
mod login;
mod output;
mod project;
mod roles;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A kernel without the call leaves things as they were.
    let _ = ondol_workload::keep_inherited_descriptors();
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if let Some(code) = roles::light(&arguments) {
        return code;
    }
    cli::main(environment::Environment::read(), arguments)
}
