//! The shim as a program of its own, for tests with real engines. The shipped one is `ondol shim`.

use std::process::ExitCode;

use ondol_types::SystemClock;

fn main() -> ExitCode {
    // Engines start it as `<program> shim …`, as they do with `ondol`.
    ondol_workload::shim_main(std::env::args_os().skip(2), &SystemClock)
}
