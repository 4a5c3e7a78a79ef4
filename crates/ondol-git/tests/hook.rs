//! The hook program on its own, which the tests let git run.

fn main() -> std::process::ExitCode {
    ondol_git::hook_main(std::env::vars_os())
}
