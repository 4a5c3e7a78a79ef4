//! The control plane dies and comes back; shims die and do not.

use std::time::Duration;

use ondol_types::Secret;
use ondol_workload::conformance::Bench;
use ondol_workload::{
    CgroupPreference, Engine, LogPosition, LogQuery, LogStreamKind, PortRequest, StopPolicy,
};

use crate::{Setup, alive};

/// An engine in a runtime of its own, which can be taken away with all its tasks and watchers,
/// as the death of `serve` does.
pub(crate) fn in_own_runtime<T>(work: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let value = runtime.block_on(work());
    runtime.shutdown_timeout(Duration::from_secs(10));
    value
}

#[test]
fn a_living_workload_is_adopted_and_no_line_is_lost() {
    let setup = Setup::new(CgroupPreference::Auto);
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
        let again = bench.engine.start(spec.clone()).await.unwrap();
        assert!(!again.newly);
        assert_eq!(bench.end(&spec.id).await.code, Some(9));
        let log = bench.log(&spec.id).await;
        let own: Vec<String> = log
            .into_iter()
            .filter(|line| line.stream == LogStreamKind::Stdout)
            .map(|line| line.text)
            .collect();
        assert_eq!(
            own,
            (0..200).map(|n| format!("line {n}")).collect::<Vec<_>>()
        );
    });
}

#[test]
fn an_end_while_nobody_looks_is_kept() {
    let setup = Setup::new(CgroupPreference::Auto);
    let spec = in_own_runtime(async || {
        let bench = setup.bench().await;
        let spec = bench.script("sleep 0.3; echo late; exit 4");
        bench.start(&spec).await;
        spec
    });
    in_own_runtime(async || {
        let bench = setup.bench().await;
        let exit = bench.end(&spec.id).await;
        assert!(exit.code == Some(4) && !exit.lost, "{exit:?}");
        assert_eq!(bench.stdout(&spec.id).await, "late");
        assert!(!bench.engine.start(spec.clone()).await.unwrap().newly);
    });
}

#[test]
fn an_adopted_workload_is_stopped_and_its_timeout_holds() {
    let setup = Setup::new(CgroupPreference::Auto);
    let (stopped, limited) = in_own_runtime(async || {
        let bench = setup.bench().await;
        let stopped =
            bench.script("sleep 600 & trap 'kill -9 $!; echo bye; exit 6' TERM; echo ready; wait");
        let mut limited = bench.script("while :; do sleep 0.05; done");
        limited.timeout = Some(Duration::from_millis(500));
        bench.start(&stopped).await;
        bench.start(&limited).await;
        bench.until_logged(&stopped.id, "ready").await;
        (stopped, limited)
    });
    in_own_runtime(async || {
        let bench = setup.bench().await;
        let exit = bench
            .engine
            .stop(&stopped.id, StopPolicy::default())
            .await
            .unwrap();
        assert_eq!((exit.code, exit.stopped), (Some(6), true));
        assert!(bench.end(&limited.id).await.timed_out);
    });
}

/// The shim's pid, from the workload's files.
fn shim_of(setup: &Setup, id: &ondol_types::WorkloadId) -> i32 {
    let text =
        std::fs::read_to_string(setup.workloads().join(id.to_string()).join("identity.json"))
            .unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    i32::try_from(value["shim"]["pid"].as_i64().unwrap()).unwrap()
}

fn kill_9(pid: i32) {
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

const FAMILY: &str = "sh -c 'trap \"\" TERM HUP; sleep 600 & wait' & echo pid $!; setsid sleep 601 & echo pid $!; echo pid $$; wait";

async fn family(bench: &Bench, id: &ondol_types::WorkloadId) -> Vec<i32> {
    bench
        .until("three pids", async || {
            bench.stdout(id).await.matches("pid").count() == 3
        })
        .await;
    bench
        .stdout(id)
        .await
        .lines()
        .filter_map(|line| line.strip_prefix("pid ")?.parse().ok())
        .collect()
}

async fn a_killed_shim_loses_its_workload(cgroups: CgroupPreference) {
    let setup = Setup::new(cgroups);
    let bench = setup.bench().await;
    let mut spec = bench.script(FAMILY);
    spec.secret_files.insert(
        "key".parse().unwrap(),
        Secret::new("file-secret-77".to_owned()),
    );
    bench.start(&spec).await;
    let pids = family(&bench, &spec.id).await;
    assert!(pids.len() == 3 && pids.iter().all(|&pid| alive(pid)));
    kill_9(shim_of(&setup, &spec.id));
    let exit = bench.end(&spec.id).await;
    assert!(
        exit.lost && !exit.success() && exit.code.is_none(),
        "{exit:?}"
    );
    assert!(pids.iter().all(|&pid| !alive(pid)), "{pids:?}");
    assert!(
        !setup
            .workloads()
            .join(spec.id.to_string())
            .join("secrets")
            .exists()
    );
    let late = bench.engine.start(spec.clone()).await.unwrap();
    assert!(
        !late.newly,
        "an incarnation that may have run is not run again"
    );
    spec.incarnation = 2;
    assert!(bench.engine.start(spec.clone()).await.unwrap().newly);
    bench.engine.kill(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shim_loses_its_workload_as_detected() {
    a_killed_shim_loses_its_workload(CgroupPreference::Auto).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shim_loses_its_workload_without_control_groups() {
    a_killed_shim_loses_its_workload(CgroupPreference::Off).await;
}

#[test]
fn a_shim_that_dies_while_nobody_looks_is_found() {
    let setup = Setup::new(CgroupPreference::Auto);
    let (spec, pids) = in_own_runtime(async || {
        let bench = setup.bench().await;
        let spec = bench.script(FAMILY);
        bench.start(&spec).await;
        let pids = family(&bench, &spec.id).await;
        (spec, pids)
    });
    kill_9(shim_of(&setup, &spec.id));
    in_own_runtime(async || {
        let bench = setup.bench().await;
        // The kernel may still be taking the shim apart.
        assert!(bench.end(&spec.id).await.lost);
    });
    assert!(pids.iter().all(|&pid| !alive(pid)), "{pids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_does_not_answer_is_killed() {
    let setup = Setup::new(CgroupPreference::Auto);
    let bench = setup.bench().await;
    let spec = bench.script("echo pid $$; while :; do sleep 0.05; done");
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "pid").await;
    let shim = rustix::process::Pid::from_raw(shim_of(&setup, &spec.id)).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::STOP).unwrap();
    let exit = bench.engine.kill(&spec.id).await.unwrap();
    assert!(exit.lost, "{exit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signalled_shim_stops_its_workload() {
    let setup = Setup::new(CgroupPreference::Auto);
    let bench = setup.bench().await;
    let spec =
        bench.script("sleep 600 & trap 'kill -9 $!; echo told; exit 8' TERM; echo ready; wait");
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    let shim = rustix::process::Pid::from_raw(shim_of(&setup, &spec.id)).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::TERM).unwrap();
    let exit = bench.end(&spec.id).await;
    assert_eq!((exit.code, exit.stopped, exit.lost), (Some(8), true, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_was_cut_short_can_be_repeated() {
    let setup = Setup::new(CgroupPreference::Auto);
    let bench = setup.bench().await;
    let spec = bench.script("echo once");
    bench.run(&spec).await;
    // What a machine leaves that stopped after `spec.json` and before `identity.json`.
    let home = setup.workloads().join(spec.id.to_string());
    let text = std::fs::read_to_string(home.join("spec.json")).unwrap();
    std::fs::write(
        home.join("spec.json"),
        text.replace("\"incarnation\":1", "\"incarnation\":2"),
    )
    .unwrap();
    let mut second = spec.clone();
    second.incarnation = 2;
    assert!(bench.engine.start(second.clone()).await.unwrap().newly);
    assert_eq!(bench.end(&spec.id).await.code, Some(0));
    assert_eq!(bench.stdout(&spec.id).await, "once\nonce");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_directory_does_not_keep_the_others_out() {
    let setup = Setup::new(CgroupPreference::Auto);
    let bench = setup.bench().await;
    let (good, bad) = (bench.script("echo fine"), bench.script("true"));
    bench.run(&good).await;
    bench.run(&bad).await;
    std::fs::write(
        setup.workloads().join(bad.id.to_string()).join("spec.json"),
        "{ torn",
    )
    .unwrap();
    let again = setup.engine().await;
    assert_eq!(again.list().await.unwrap().len(), 1);
    let error = again.observe(&bad.id).await.unwrap_err();
    assert!(error.to_string().contains("spec.json"), "{error}");
    let lines = LogQuery {
        from: LogPosition::Start,
        follow: true,
        limit: None,
    };
    assert_eq!(Bench::new(again).query(&good.id, lines).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_are_stopped_at_once_by_their_own_policies() {
    let setup = Setup::new(CgroupPreference::Auto);
    let engine = setup.engine().await;
    let bench = Bench::new(engine.clone());
    let mut stubborn =
        bench.script("trap '' TERM; sleep 600 & trap 'kill -9 $!; exit 3' INT; echo ready; wait");
    stubborn.stop.signal = ondol_workload::StopSignal::Int;
    stubborn.stop.grace = Duration::from_secs(60);
    let plain = bench.script("echo ready; exec sleep 600");
    for spec in [&stubborn, &plain] {
        bench.start(spec).await;
        bench.until_logged(&spec.id, "ready").await;
    }
    let ended = engine.stop_all().await;
    assert!(
        ended.len() == 2 && ended.iter().all(|(_, exit)| exit.as_ref().unwrap().stopped),
        "{ended:?}"
    );
    assert_eq!(bench.end(&stubborn.id).await.code, Some(3));
    assert_eq!(bench.end(&plain.id).await.signal, Some(15));
    assert!(engine.stop_all().await.is_empty());
}
