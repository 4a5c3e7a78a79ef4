//! The kill harness: SIGKILL at every named place of both loops and at random instants. Nothing
//! that was acknowledged may be lost, exactly one release is current, applications answer
//! throughout, and every run reaches its end.
//!
//! By default a spread of the places is visited; `ONDOL_KILL_ALL=1` visits all of them.

mod places;
mod processes;
mod random;
mod rig;

use ondol_testing::platform::{PATIENCE, run};
use ondol_testing::{Options, Platform, environment};

/// Places that no push reaches, with the reason. Each has a test in its own room.
const ELSEWHERE: &[(&str, &str)] = &[
    ("store.gc.", "the collection of blobs runs by the hour"),
    (
        "pipeline.prune.",
        "only runs beyond the retention are pruned",
    ),
    (
        "store.archive.",
        "only events beyond their retention are archived",
    ),
    ("gateway.", "these places are in the gateway's process"),
];

/// Every place that this build names.
fn crash_points() -> Vec<String> {
    let platform = Platform::prepare(Options::default());
    let mut command = platform.command(ondol_testing::binary(), platform.folder());
    command.args(["reference", "crash-points"]);
    let points: Vec<String> = run(command, None, PATIENCE)
        .ok()
        .stdout
        .lines()
        .map(str::to_owned)
        .collect();
    assert!(points.len() > 40, "hardly any crash points: {points:?}");
    points
}

fn all() -> bool {
    environment("ONDOL_KILL_ALL").is_some()
}

fn elsewhere(point: &str) -> Option<&'static str> {
    ELSEWHERE
        .iter()
        .find(|(prefix, _)| point.starts_with(prefix))
        .map(|(_, why)| *why)
}

/// All of `points`, or `count` of them, spread evenly.
fn chosen(points: Vec<String>, count: usize) -> Vec<String> {
    if all() || points.len() <= count {
        return points;
    }
    (0..count)
        .map(|index| points[index * points.len() / count].clone())
        .collect()
}
