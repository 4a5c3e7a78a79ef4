//! Deploys under constant load of every kind: how many requests fail?

use std::time::{Duration, Instant};

use ondol_testing::{Load, LoadPlan, Platform, environment};

use crate::report::{Report, spread};

fn number(name: &str, default: u64) -> u64 {
    environment(name)
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

pub(crate) fn measure(report: &mut Report) {
    let deploys = number("ONDOL_BENCH_DEPLOYS", 100);
    let slow_seconds = number("ONDOL_BENCH_SLOW_SECONDS", 25);
    let platform = Platform::start();
    let yaml = "project: busy\ntest: \"true\"\nservice:\n  run: python3 app.py\n  health: /version\n  drain: 40s\n";
    let app = include_str!("../../../fixtures/load_app.py");
    let project = platform.project_of("busy", &[("app.py", app), ("ondol.yaml", yaml)]);
    platform.push(&project).ok();
    platform.last_run("busy");
    let load = Load::start(LoadPlan {
        pause: Duration::from_millis(20),
        slow: 4,
        slow_seconds,
        uploads: 2,
        upload_bytes: 512 * 1024,
        sockets: 3,
        ..LoadPlan::keep_alive(format!("{}/apps/busy", platform.gateway()), 4)
    })
    .warmed_up(50);
    let mut took = Vec::new();
    let mut bad = 0;
    for round in 0..deploys {
        project.set_version(&platform, &(round + 2).to_string());
        let began = Instant::now();
        platform.push(&project).ok();
        if platform.last_run("busy")["outcome"] != "success" {
            bad += 1;
        }
        took.push(began.elapsed().as_secs_f64());
    }
    let found = load.finish();
    let kinds: Vec<String> = found
        .kinds
        .iter()
        .map(|(kind, tally)| {
            format!(
                "{kind} {} ({} failed, {} repeated)",
                tally.done, tally.failed, tally.repeated
            )
        })
        .collect();
    report.row(
        &format!("{deploys} deploys under load: failed requests"),
        format!("{} of {}", found.failed(), found.done() + found.failed()),
        "—",
        "0",
    );
    report.row(
        "each of those deploys, under that load",
        spread(&took),
        "—",
        "—",
    );
    report.note(format!(
        "Deploys: keep-alive clients, requests of {slow_seconds} s, chunked uploads of 512 KiB and WebSocket echoes at once. {}. \
         Repeated: an idempotent request on a reused connection that closed before any byte of an answer, or a WebSocket that \
         was closed by a close frame. {bad} runs did not succeed.",
        kinds.join("; ")
    ));
    for message in found.messages {
        report.note(format!("Failure under load: {message}"));
    }
}
