//! The control plane, the container engine, shims and containers die, each at a bad time.

use std::time::Duration;

use ondol_testing::engine::podman;
use ondol_types::WorkloadId;
use ondol_workload::conformance::Bench;
use ondol_workload::{
    Engine, EngineError, LogPosition, LogQuery, LogStreamKind, PortRequest, StopPolicy,
    WorkloadState,
};

use crate::container::Setup;
use crate::engine_restart::in_own_runtime;

async fn own_lines(bench: &Bench, id: &WorkloadId) -> Vec<String> {
    let log = bench.log(id).await;
    log.into_iter()
        .filter(|line| line.stream == LogStreamKind::Stdout)
        .map(|line| line.text)
        .collect()
}

async fn system_lines(bench: &Bench, id: &WorkloadId) -> String {
    let log = bench.log(id).await;
    let lines = log
        .into_iter()
        .filter(|line| line.stream == LogStreamKind::System);
    lines.map(|line| line.text).collect::<Vec<_>>().join("\n")
}

fn shim_of(setup: &Setup, id: &WorkloadId) -> rustix::process::Pid {
    let path = setup.workloads().join(id.to_string()).join("identity.json");
    let text = std::fs::read_to_string(path).unwrap();
    let identity: serde_json::Value = serde_json::from_str(&text).unwrap();
    rustix::process::Pid::from_raw(identity["shim"]["pid"].as_i64().unwrap() as i32).unwrap()
}

#[test]
fn a_living_container_is_adopted_and_no_line_is_lost() {
    let Some(setup) = Setup::new() else { return };
    let (spec, before) = in_own_runtime(async || {
        let bench = setup.bench().await;
        let mut spec = bench.script(
            "n=0; while [ $n -lt 200 ]; do echo line $n; n=$((n+1)); sleep 0.005; done; exit 9",
        );
        spec.port = PortRequest::Auto;
        let seen = bench.start(&spec).await;
        bench.until_logged(&spec.id, "line 5").await;
        (spec, seen)
    });
    in_own_runtime(async || {
        let bench = setup.bench().await;
        let seen = bench.engine.observe(&spec.id).await.unwrap().unwrap();
        assert_eq!((seen.address, seen.incarnation), (before.address, 1));
        assert!(!bench.engine.start(spec.clone()).await.unwrap().newly);
        assert_eq!(bench.end(&spec.id).await.code, Some(9));
        let expected: Vec<String> = (0..200).map(|n| format!("line {n}")).collect();
        assert_eq!(own_lines(&bench, &spec.id).await, expected);
    });
}

#[test]
fn an_end_while_nobody_looks_is_kept() {
    let Some(setup) = Setup::new() else { return };
    let spec = in_own_runtime(async || {
        let bench = setup.bench().await;
        let mut spec =
            bench.script("trap 'echo bye; exit 6' TERM; echo ready; while :; do sleep 0.05; done");
        spec.timeout = Some(Duration::from_secs(2));
        bench.start(&spec).await;
        bench.until_logged(&spec.id, "ready").await;
        spec
    });
    // Nobody but the shim is there to end it.
    let exit = setup
        .workloads()
        .join(spec.id.to_string())
        .join("exit.json");
    for _ in 0..3_000 {
        if exit.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    in_own_runtime(async || {
        let bench = setup.bench().await;
        let exit = bench.end(&spec.id).await;
        assert_eq!((exit.code, exit.timed_out), (Some(6), true));
        assert_eq!(own_lines(&bench, &spec.id).await.last().unwrap(), "bye");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_shim_ends_its_container_and_the_next_incarnation_runs() {
    let Some(setup) = Setup::new() else { return };
    let bench = setup.bench().await;
    let mut spec = bench.script("echo ready; while :; do sleep 0.05; done");
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    rustix::process::kill_process(shim_of(&setup, &spec.id), rustix::process::Signal::KILL)
        .unwrap();
    let exit = bench.end(&spec.id).await;
    assert!(exit.lost && !exit.success(), "{exit:?}");
    setup.until_gone(&spec.id).await;
    spec.incarnation = 2;
    assert!(bench.engine.start(spec.clone()).await.unwrap().newly);
    bench.engine.kill(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_removed_behind_our_back_is_lost() {
    let Some(setup) = Setup::new() else { return };
    let bench = setup.bench().await;
    let spec = bench.script("echo ready; while :; do sleep 0.05; done");
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    let name = setup.containers(&spec.id).await.remove(0);
    setup.podman.run(&["rm", "--force", "--time", "0", &name]);
    let exit = bench.end(&spec.id).await;
    assert!(!exit.success() && !exit.stopped, "{exit:?}");
    assert!(exit.lost || exit.signal == Some(9), "{exit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_is_restarted_underneath_a_running_container() {
    let Some(podman) = podman() else { return };
    let mut service = podman.second();
    let Some(setup) = Setup::at(&service.socket) else {
        return;
    };
    let bench = setup.bench().await;
    let spec = bench.script(
        "trap 'echo bye; exit 4' TERM; n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.05; done",
    );
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "tick 3").await;
    service.end();
    // Still seen as running, and still not started a second time.
    assert!(bench.is_running(&spec.id).await);
    assert!(!bench.engine.start(spec.clone()).await.unwrap().newly);
    let other = bench.script("true");
    let error = bench.engine.start(other.clone()).await.unwrap_err();
    assert!(
        matches!(error, EngineError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(matches!(bench.engine.observe(&other.id).await, Ok(None)));
    let can = bench.engine.capabilities().await;
    assert!(!can.container.unwrap().reachable && !can.notices.is_empty());
    let listed = bench.engine.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    service.start();
    bench
        .until("a line about the gap", || async {
            system_lines(&bench, &spec.id)
                .await
                .contains("engine was away")
        })
        .await;
    let exit = bench
        .engine
        .stop(&spec.id, StopPolicy::default())
        .await
        .unwrap();
    assert_eq!((exit.code, exit.stopped, exit.lost), (Some(4), true, false));
    assert_eq!(own_lines(&bench, &spec.id).await.last().unwrap(), "bye");
    assert!(bench.run(&other).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_nobody_can_explain_is_unknown_until_the_engine_is_back() {
    let Some(podman) = podman() else { return };
    let mut service = podman.second();
    let Some(setup) = Setup::at(&service.socket) else {
        return;
    };
    let bench = setup.bench().await;
    let spec = bench.script("echo ready; while [ ! -e /work/go ]; do sleep 0.05; done; exit 12");
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    let name = setup.containers(&spec.id).await.remove(0);
    service.end();
    podman.run(&["exec", "--user", "0", &name, "touch", "/work/go"]);
    bench
        .until("the unknown state", || async {
            matches!(
                bench.engine.observe(&spec.id).await.unwrap().unwrap().state,
                WorkloadState::Unknown { .. }
            )
        })
        .await;
    let mut next = spec.clone();
    next.incarnation = 2;
    let error = bench.engine.start(next).await.unwrap_err();
    assert!(
        matches!(error, EngineError::Running { incarnation: 1, .. }),
        "{error:?}"
    );
    let listed = bench.engine.list().await.unwrap();
    assert!(matches!(listed[0].state, WorkloadState::Unknown { .. }));
    service.start();
    assert_eq!(bench.end(&spec.id).await.code, Some(12));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_leaves_is_swept_and_what_lives_is_not() {
    let Some(setup) = Setup::new() else { return };
    let engine = setup.engine().await;
    let bench = setup.bench().await;
    let spec = bench.script("echo ready; while :; do sleep 0.05; done");
    bench.start(&spec).await;
    let name = setup.containers(&spec.id).await.remove(0);
    // What an engine leaves that dies between making a container and handing it to a shim.
    let labels = setup.podman.run(&[
        "inspect",
        &name,
        "--format",
        "{{range $k, $v := .Config.Labels}}--label={{$k}}={{$v}}\n{{end}}",
    ]);
    let orphan = WorkloadId::derived(&format!("orphan {}", setup.dir.path().display()));
    let label = |label: &str| label.replace(&spec.id.to_string(), &orphan.to_string());
    let labels: Vec<String> = labels.lines().map(label).collect();
    let image = TestImageId::short();
    let mut arguments = vec!["create", "--network", "none", "--ulimit", "nofile=100:100"];
    arguments.extend(labels.iter().map(String::as_str));
    arguments.extend(["--entrypoint", "true", &image]);
    setup.podman.run(&arguments);
    assert_eq!(setup.containers(&orphan).await.len(), 1);
    assert_eq!(engine.sweep(&[]).await.unwrap().containers, 1);
    assert!(setup.containers(&orphan).await.is_empty());
    assert!(bench.is_running(&spec.id).await);
    bench.engine.kill(&spec.id).await.unwrap();
    setup.until_gone(&spec.id).await;
    assert_eq!(engine.sweep(&[]).await.unwrap().containers, 0);
}

struct TestImageId;

impl TestImageId {
    fn short() -> String {
        crate::image::TestImage::get().stored.id().hex()[..12].to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_was_cut_short_can_be_repeated() {
    let Some(setup) = Setup::new() else { return };
    let bench = setup.bench().await;
    let spec = bench.script("echo once");
    bench.run(&spec).await;
    // What a machine leaves that stopped after `spec.json` and before `identity.json`.
    let home = setup.workloads().join(spec.id.to_string());
    let text = std::fs::read_to_string(home.join("spec.json")).unwrap();
    let text = text.replace("\"incarnation\":1", "\"incarnation\":2");
    std::fs::write(home.join("spec.json"), text).unwrap();
    let mut second = spec.clone();
    second.incarnation = 2;
    assert!(bench.engine.start(second).await.unwrap().newly);
    assert_eq!(bench.end(&spec.id).await.code, Some(0));
    let follow = LogQuery {
        from: LogPosition::Start,
        follow: true,
        limit: None,
    };
    let lines = bench.query(&spec.id, follow).await;
    assert_eq!(lines.iter().filter(|line| line.text == "once").count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_another_takes_fails_the_start_and_leaves_nothing() {
    let Some(setup) = Setup::new() else { return };
    let bench = setup.bench().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = bench.script("true");
    spec.port = PortRequest::Assigned(taken.local_addr().unwrap().port());
    let error = bench.engine.start(spec.clone()).await.unwrap_err();
    assert!(matches!(error, EngineError::PortTaken { .. }), "{error:?}");
    assert!(matches!(bench.engine.observe(&spec.id).await, Ok(None)));
    assert!(setup.containers(&spec.id).await.is_empty());
    drop(taken);
    assert!(bench.run(&spec).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_engine_everything_says_so() {
    let Some(setup) = Setup::at(std::path::Path::new("/run/no-such-engine.sock")) else {
        return;
    };
    let engine = setup.engine().await;
    let can = engine.capabilities().await;
    assert!(!can.container.unwrap().reachable);
    assert!(
        can.notices
            .iter()
            .any(|notice| notice.contains("no-such-engine")),
        "{:?}",
        can.notices
    );
    let processes = crate::Setup::new(ondol_workload::CgroupPreference::Auto);
    let both = ondol_workload::Engines::new(processes.engine().await, Some(engine.clone()));
    let told = both.capabilities().await.notices;
    let about = |notice: &String| notice.contains("no-such-engine");
    assert!(!told.iter().any(about), "nobody has asked for it: {told:?}");
    assert!(engine.list().await.unwrap().is_empty());
    let error = engine.sweep(&[]).await.unwrap_err();
    let classified: &dyn ondol_types::Classified = &error;
    assert_eq!(classified.code(), "workload.engine.unreachable");
    assert!(classified.hint().unwrap().contains("Podman"));
}
