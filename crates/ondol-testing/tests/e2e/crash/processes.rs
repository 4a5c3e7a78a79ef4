//! Each process dies, and the others go on.

use std::time::{Duration, Instant};

use ondol_testing::platform::PATIENCE;
use ondol_testing::{Load, LoadPlan, Platform, eventually, eventually_some, remark};
use serde_json::Value;

use crate::fixtures::{push_live, small_app};

/// Waits until the application answers again and says how long that took.
#[track_caller]
fn back_after(platform: &Platform, since: Instant) -> Duration {
    eventually(
        "the application answers again",
        Duration::from_secs(5),
        || {
            platform
                .app("lasting", "/version")
                .is_ok_and(|answer| answer.status == 200)
        },
    );
    since.elapsed()
}

fn pid(platform: &Platform) -> Value {
    let answer = platform.wait_for_app("lasting", "/version", |answer| answer.status == 200);
    answer.json()["pid"].clone()
}

#[test]
fn the_gateway_comes_back_whoever_else_is_dead() {
    let mut platform = Platform::start();
    let app = small_app(&platform, "lasting", "", "");
    push_live(&platform, &app);
    let replica = pid(&platform);
    let mut told = Vec::new();

    for round in ["with everybody else alive", "once more"] {
        let gateway = platform.gateway_pid();
        platform.kill9_gateway();
        let began = Instant::now();
        told.push((round, back_after(&platform, began)));
        assert_ne!(platform.gateway_pid(), gateway);
    }

    platform.kill9();
    platform.kill9_gateway();
    told.push(("while serve is dead", back_after(&platform, Instant::now())));
    assert!(
        !platform
            .processes()
            .iter()
            .any(|process| process.is_role("serve")),
        "serve is dead"
    );
    platform.restart();

    // The keeper is replaced by serve, and nobody notices.
    let load = Load::start(LoadPlan::poll(format!(
        "{}/apps/lasting",
        platform.gateway()
    )))
    .warmed_up(2);
    let (keeper, gateway) = (platform.keeper_pid(), platform.gateway_pid());
    platform.kill9_keeper();
    let other = eventually_some("another keeper runs", PATIENCE, || {
        Some(platform.keeper_pid()).filter(|pid| *pid != keeper)
    });
    remark(format!("keeper {keeper} was replaced by {other}"));
    load.finish().assert_no_failure(1);
    assert_eq!(platform.gateway_pid(), gateway, "the gateway lived on");
    platform.kill9_gateway();
    told.push((
        "under the other keeper",
        back_after(&platform, Instant::now()),
    ));

    platform.kill9_keeper();
    platform.kill9_gateway();
    let began = Instant::now();
    eventually("keeper and gateway come back", PATIENCE, || {
        platform
            .app("lasting", "/version")
            .is_ok_and(|answer| answer.status == 200)
    });
    told.push(("with its keeper dead, brought by serve", began.elapsed()));

    // All three at once: the next serve brings back what serves, and the replica never noticed.
    platform.kill9_keeper();
    platform.kill9_gateway();
    platform.kill9();
    platform.restart();
    assert_eq!(pid(&platform), replica, "the replica was adopted");
    for (when, took) in told {
        remark(format!(
            "killed {when}: answered again after {:.0} ms",
            took.as_secs_f64() * 1e3
        ));
    }
}

#[test]
fn applications_outlive_the_control_plane() {
    let mut platform = Platform::start();
    let app = small_app(&platform, "lasting", "", "");
    push_live(&platform, &app);
    let replica = pid(&platform);
    let load = Load::start(LoadPlan::poll(format!(
        "{}/apps/lasting",
        platform.gateway()
    )))
    .warmed_up(2);

    platform.kill9();
    platform
        .app("lasting", "/say?text=said%20while%20serve%20was%20dead")
        .unwrap()
        .is(200);
    platform.restart();
    assert_eq!(pid(&platform), replica, "adopted after SIGKILL");
    eventually("the log has what was said meanwhile", PATIENCE, || {
        let logs = platform.cli(&["logs"], app.dir()).ok();
        logs.stdout.contains("said while serve was dead")
    });

    let status = platform.terminate();
    assert!(status.success(), "SIGTERM: {status}");
    assert_eq!(pid(&platform), replica, "answers without a control plane");
    platform.restart();
    assert_eq!(pid(&platform), replica, "adopted after SIGTERM");
    load.finish().assert_no_failure(2);

    // What dies while serve is dead is replaced when it is back.
    platform.kill9();
    platform.app("lasting", "/crash").unwrap().is(200);
    eventually("the replica has died", PATIENCE, || {
        replica
            .as_i64()
            .is_some_and(|pid| !ondol_testing::process::is_alive(pid as i32))
    });
    platform.restart();
    assert_ne!(
        pid(&platform),
        replica,
        "a replica that died meanwhile is replaced"
    );
    assert_eq!(
        platform.current_release("lasting")["number"],
        1,
        "without a new release"
    );

    app.set_version(&platform, "2");
    push_live(&platform, &app);
    assert_eq!(platform.version("lasting"), "2");

    let status = platform.interrupt();
    assert!(matches!(status.code(), Some(0 | 130)), "SIGINT: {status}");
    platform.assert_nothing_runs();
    platform.restart();
    let answer = platform.wait_for_app("lasting", "/version", |answer| answer.status == 200);
    assert_eq!(
        answer.json()["version"],
        "2",
        "what was current is started again"
    );
}

#[test]
fn stop_works_without_the_api() {
    let mut platform = Platform::start();
    let app = small_app(&platform, "lasting", "", "");
    push_live(&platform, &app);
    let stop = |platform: &Platform, more: &[&str]| {
        let data = platform.data().to_str().unwrap().to_owned();
        let arguments = [&["stop", "--data", &data][..], more].concat();
        platform.cli(&arguments, platform.folder()).ok();
    };
    stop(&platform, &["--control-plane-only"]);
    assert!(platform.wait_for_end(PATIENCE).is_some(), "serve ended");
    platform.app("lasting", "/version").unwrap().is(200);
    stop(&platform, &[]);
    platform.assert_nothing_runs();
    // Nothing runs any more: that is said, and is no failure of the second attempt.
    stop(&platform, &[]);
    platform.restart();
    platform.wait_for_app("lasting", "/version", |answer| answer.status == 200);
    stop(&platform, &[]);
    assert!(platform.wait_for_end(PATIENCE).is_some(), "serve ended");
    platform.assert_nothing_runs();
}

#[test]
fn stop_finds_a_gateway_whose_keeper_is_dead() {
    let mut platform = Platform::start();
    let app = small_app(&platform, "lasting", "", "");
    push_live(&platform, &app);
    platform.kill9();
    platform.kill9_keeper();
    platform.app("lasting", "/version").unwrap().is(200);
    let data = platform.data().to_str().unwrap();
    platform
        .cli(&["stop", "--data", data], platform.folder())
        .ok();
    platform.assert_nothing_runs();
}
