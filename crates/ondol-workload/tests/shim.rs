//! The shim as a program of its own, for tests. The shipped one is `ondol shim`.

use std::process::ExitCode;

use ondol_types::SystemClock;

fn main() -> ExitCode {
    // The engine starts it as `<program> shim …`, as it does with `ondol`.
    ondol_workload::shim_main(std::env::args_os().skip(2), &SystemClock)
}
