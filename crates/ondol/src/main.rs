#![doc = include_str!("../README.md")]

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
