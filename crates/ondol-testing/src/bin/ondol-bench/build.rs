//! A clean release build.

use std::process::Command;
use std::time::Instant;

use ondol_testing::workspace;

use crate::report::Report;

pub(crate) fn measure(report: &mut Report) {
    let target = tempfile::tempdir().expect("a folder");
    let began = Instant::now();
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "-p", "ondol"])
        .env("CARGO_TARGET_DIR", target.path())
        .current_dir(workspace())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        report.note("Build: the clean build failed.");
        return;
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    report.row(
        "clean release build",
        format!("{minutes:.1} min"),
        "—",
        "≤ 15 min",
    );
    report.note("Build: `cargo build --release --locked -p ondol` into an empty target folder, dependencies downloaded before.");
}
