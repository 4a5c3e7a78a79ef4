//! What the platform costs when nothing happens, and how soon it is ready.

use std::time::Duration;

use ondol_testing::Platform;
use ondol_testing::process::proportional_bytes;

use crate::report::{Report, spread};

const STARTS: usize = 7;

fn memory(platform: &Platform) -> (f64, String) {
    let parts = [
        ("serve", platform.serve_pid()),
        ("gateway", platform.gateway_pid()),
        ("keeper", platform.keeper_pid()),
    ];
    let sizes: Vec<(&str, f64)> = parts
        .iter()
        .map(|(name, pid)| (*name, proportional_bytes(*pid).unwrap_or(0) as f64 / 1e6))
        .collect();
    let sum = sizes.iter().map(|(_, size)| size).sum();
    let text = sizes
        .iter()
        .map(|(name, size)| format!("{name} {size:.1}"))
        .collect::<Vec<_>>()
        .join(", ");
    (sum, text)
}

pub(crate) fn measure(report: &mut Report) {
    let mut fresh = Vec::new();
    let mut again = Vec::new();
    for _ in 0..STARTS {
        let mut platform = Platform::start();
        fresh.push(platform.ready_after().as_secs_f64());
        platform.terminate();
        platform.restart();
        again.push(platform.ready_after().as_secs_f64());
    }
    let platform = Platform::start();
    std::thread::sleep(Duration::from_secs(15));
    let (empty, parts) = memory(&platform);
    let project = platform.new_project("web", "shop");
    platform.push(&project).ok();
    platform.last_run("shop");
    std::thread::sleep(Duration::from_secs(15));
    let (used, used_parts) = memory(&platform);
    report.row(
        "everything idle, sum of PSS",
        format!("{empty:.1} MB ({parts})"),
        "—",
        "≤ 80 MB",
    );
    report.row(
        "the same 15 s after a first push",
        format!("{used:.1} MB ({used_parts})"),
        "—",
        "—",
    );
    report.row(
        "ready, on a fresh data directory",
        spread(&fresh),
        "—",
        "≤ 0.5 s",
    );
    report.row("ready, restarted", spread(&again), "—", "≤ 0.5 s");
    report.note(format!("Idle: `smaps_rollup` 15 s after the start; ready: {STARTS} starts, from `exec` to the line on stdout."));
}
