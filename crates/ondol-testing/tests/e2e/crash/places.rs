//! Death at the named places.

use ondol_testing::platform::PATIENCE;
use ondol_testing::process::{is_alive, send};
use ondol_testing::{Platform, eventually, remark};
use rustix::process::Signal;

use super::rig::Rig;
use super::{all, chosen, crash_points, elsewhere};
use crate::fixtures::{push_live, small_app, small_yaml};

/// Places of a run of the usual kind; the others have a test of their own below.
fn usual(point: &str) -> bool {
    let special = [
        "git.project.",
        "pipeline.forget.",
        "deploy.forget.",
        "deploy.fail.",
        "deploy.shift.",
        "workload.settle.",
    ];
    elsewhere(point).is_none() && !special.iter().any(|prefix| point.starts_with(prefix))
}

/// Places that only data passes: its own rooms, and what follows a promotion.
fn of_data(point: &str) -> bool {
    let rooms = ["data.", "ml.", "store.", "deploy.follow."];
    rooms.iter().any(|prefix| point.starts_with(prefix))
}

#[track_caller]
fn visit(mut rig: Rig, points: &[String]) {
    let mut missed = Vec::new();
    for point in points {
        if !rig.die_at(point).reached {
            missed.push(point.clone());
        }
    }
    rig.finish();
    assert!(missed.is_empty(), "these places were not met: {missed:?}");
}

#[test]
fn code_survives_death_at_named_places() {
    let points: Vec<String> = crash_points()
        .into_iter()
        .filter(|point| usual(point) && !of_data(point))
        .collect();
    let rig = Rig::code("release:\n  command: \"true\"\n");
    visit(rig, &chosen(points, 16));
}

/// Where a container differs from a process: it is built, started, adopted and ended elsewhere.
#[test]
fn a_container_survives_death_at_named_places() {
    let points: Vec<String> = crash_points()
        .into_iter()
        .filter(|point| usual(point) && !of_data(point))
        .filter(|point| {
            let rooms = ["workload.", "deploy.", "pipeline."];
            rooms.iter().any(|room| point.starts_with(room))
        })
        .collect();
    let Some(rig) = Rig::contained() else { return };
    visit(rig, &chosen(points, 8));
}

#[test]
fn data_survives_death_at_named_places() {
    let (mut points, others): (Vec<String>, Vec<String>) = crash_points()
        .into_iter()
        .filter(|point| usual(point))
        .partition(|point| of_data(point));
    points = chosen(points, 7);
    // The rest of the way is that of code; a few of its places are visited with data as well.
    let others = others
        .into_iter()
        .filter(|point| !point.starts_with("git.") && !point.starts_with("deploy.command."));
    points.extend(chosen(others.collect(), 5));
    visit(Rig::data(), &points);
}

#[test]
fn a_lost_shim_is_settled_over_deaths() {
    let mut platform = Platform::start();
    let project = small_app(&platform, "phoenix", "", "");
    push_live(&platform, &project);
    for point in ["workload.settle.before", "workload.settle.after"] {
        let answer = platform.wait_for_app("phoenix", "/version", |answer| answer.status == 200);
        let program = answer.json()["pid"].as_i64().unwrap_or_default() as i32;
        platform.kill9();
        let shims = platform.processes();
        for shim in shims.iter().filter(|process| process.is_role("shim")) {
            send(shim.pid, Signal::KILL);
        }
        platform.crash_at(point);
        assert!(
            platform.wait_for_end(PATIENCE).is_some(),
            "{point} was not met"
        );
        platform.restart();
        eventually(
            "another program serves, the lost one is gone",
            PATIENCE,
            || {
                let answer = platform.app("phoenix", "/version");
                answer.is_ok_and(|answer| answer.status == 200 && answer.json()["pid"] != program)
                    && !is_alive(program)
            },
        );
        assert_eq!(platform.current_release("phoenix")["number"], 1);
        platform.events();
        remark(format!("{point}: died"));
    }
}

#[test]
fn a_failing_rollout_survives_death() {
    let mut rig = Rig::code("");
    let broken = small_yaml("phoenix", "", "")
        .replace("/healthz, deadline: 20s", "/no-such-path, deadline: 2s");
    rig.project.write("ondol.yaml", &broken);
    for point in ["deploy.fail.before", "deploy.fail.after"] {
        let outcome = rig.die_at(point);
        assert!(outcome.reached, "{point} was not met");
        assert_eq!(outcome.run["outcome"], "failure", "{:#}", outcome.run);
        assert_eq!(rig.platform.version("phoenix"), "1");
    }
    rig.finish();
}

#[test]
fn a_canary_survives_death() {
    let canary = "release:\n  strategy: canary\n  steps: [50, 100]\n  check: error_rate < 0.5\n  min_requests: 5\n  interval: 500ms\n";
    let mut rig = Rig::code(canary);
    let outcome = rig.die_at("deploy.shift.after");
    assert!(outcome.reached, "deploy.shift.after was not met");
    assert_eq!(outcome.run["outcome"], "success", "{:#}", outcome.run);
    rig.finish();
}

#[test]
fn a_project_is_made_and_deleted_over_deaths() {
    for point in [
        "git.project.before-repository",
        "git.project.after-repository",
    ] {
        let mut platform = Platform::start();
        platform.kill9();
        assert!(
            platform.crash_at(point),
            "{point} was met before anything was pushed"
        );
        let project = small_app(&platform, "newborn", "", "");
        let output = platform.push(&project);
        assert!(
            platform.wait_for_end(PATIENCE).is_some(),
            "{point} was not met: {}",
            output.text()
        );
        platform.restart();
        assert_ne!(
            output.code, 0,
            "{point}: the push was acknowledged by nobody"
        );
        push_live(&platform, &project);
        assert_eq!(platform.version("newborn"), "1");
        assert_eq!(platform.runs("newborn").len(), 1);
        platform.events();
        remark(format!("{point}: died"));
        if !all() {
            break;
        }
    }

    let mut platform = Platform::start();
    let project = small_app(&platform, "mayfly", "", "");
    let points = [
        "git.project.before-trash",
        "git.project.after-trash",
        "pipeline.forget.after-runs",
        "git.project.between-rooms",
        "deploy.forget.drained",
        "deploy.forget.removed",
        "git.project.before-release",
        "git.project.after-release",
    ];
    for point in chosen(points.map(str::to_owned).to_vec(), 3) {
        push_live(&platform, &project);
        assert_eq!(platform.runs("mayfly").len(), 1, "{point}");
        assert_eq!(platform.current_release("mayfly")["number"], 1, "{point}");
        platform.kill9();
        assert!(platform.crash_at(&point));
        let delete = platform.cli(&["projects", "delete", "mayfly", "--yes"], project.dir());
        assert!(
            platform.wait_for_end(PATIENCE).is_some(),
            "{point} was not met: {}",
            delete.text()
        );
        platform.restart();
        // Asked for once more, it ends where it stopped: there is no such project.
        let again = platform.cli(&["projects", "delete", "mayfly", "--yes"], project.dir());
        assert!(matches!(again.code, 0 | 4), "{point}: {}", again.text());
        eventually("nothing of the project answers or runs", PATIENCE, || {
            let gone = platform
                .app("mayfly", "/version")
                .is_ok_and(|answer| answer.status == 404);
            gone && !platform.processes().iter().any(|process| {
                process
                    .arguments
                    .iter()
                    .any(|argument| argument == "app.py")
            })
        });
        assert_eq!(platform.api("GET", "/projects/mayfly", None).status, 404);
        let deletion = platform.api("GET", "/projects/mayfly/deletion", None);
        assert_eq!(deletion.status, 404, "{point}: it is over");
        remark(format!("{point}: died"));
    }
    // The name is free again, and nothing of the first one comes back with it.
    push_live(&platform, &project);
    assert_eq!(platform.runs("mayfly").len(), 1);
    assert_eq!(platform.current_release("mayfly")["number"], 1);
}
