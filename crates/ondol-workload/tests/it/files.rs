//! What lies on disk, and what a shim costs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ondol_types::Secret;
use ondol_workload::log::{LogReader, LogSearch};
use ondol_workload::{CgroupPreference, LogPosition};

use crate::Setup;

fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_in_no_file_but_their_own_and_in_no_argument() {
    const VALUE: &str = "planted-secret-4711";
    let setup = Setup::new(CgroupPreference::Auto);
    let bench = setup.bench().await;
    let mut spec = bench.script(
        "echo \"$TOKEN\"; cat \"$ONDOL_SECRETS_DIR/key\"; echo ready; while :; do sleep 0.05; done",
    );
    spec.secret_env
        .insert("TOKEN".into(), Secret::new(VALUE.to_owned()));
    spec.secret_files
        .insert("key".parse().unwrap(), Secret::new(VALUE.to_owned()));
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    let home = setup.workloads().join(spec.id.to_string());
    let holding = |dir: &Path| {
        let mut all = Vec::new();
        files(dir, &mut all);
        all.retain(|path| {
            std::fs::read(path)
                .unwrap()
                .windows(VALUE.len())
                .any(|part| part == VALUE.as_bytes())
        });
        all
    };
    assert_eq!(holding(&home), [home.join("secrets/key")]);
    assert_eq!(
        std::fs::metadata(&home).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let identity: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(home.join("identity.json")).unwrap())
            .unwrap();
    let shim = identity["shim"]["pid"].as_i64().unwrap();
    for name in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{shim}/{name}")).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains(VALUE));
    }
    assert_eq!(std::fs::read(format!("/proc/{shim}/environ")).unwrap(), b"");
    bench.engine.kill(&spec.id).await.unwrap();
    assert!(holding(&home).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_is_one_thread_in_a_session_of_its_own() {
    let setup = Setup::new(CgroupPreference::Auto);
    let bench = setup.bench().await;
    let spec = bench.script("echo ready; while :; do sleep 0.05; done");
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    let text = std::fs::read_to_string(
        setup
            .workloads()
            .join(spec.id.to_string())
            .join("identity.json"),
    )
    .unwrap();
    let identity: serde_json::Value = serde_json::from_str(&text).unwrap();
    let shim = identity["shim"]["pid"].as_i64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{shim}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(fields[3], shim.to_string(), "leader of its session");
    assert_eq!(fields[17], "1", "threads");
    bench.engine.kill(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_directories_may_be_deep() {
    let setup = Setup::new(CgroupPreference::Auto);
    let deep = setup.dir.path().join("d".repeat(100)).join("e".repeat(100));
    let mut config = ondol_workload::Config::new(&deep, env!("CARGO_BIN_EXE_ondol-shim-test"));
    config.cgroups = CgroupPreference::Auto;
    let clock = std::sync::Arc::new(ondol_types::SystemClock);
    let engine = ondol_workload::ProcessEngine::open(
        config,
        clock,
        std::sync::Arc::new(ondol_types::NoCrash),
    )
    .await
    .unwrap();
    let bench = ondol_workload::conformance::Bench::new(engine);
    ondol_workload::conformance::kill_ends_at_once(bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_read_and_searched_by_directory() {
    let setup = Setup::new(CgroupPreference::Auto);
    let engine = setup.engine().await;
    let bench = ondol_workload::conformance::Bench::new(engine.clone());
    let spec = bench.script("for n in 1 2 3; do echo apple $n; echo pear $n; done");
    bench.run(&spec).await;
    let reader = LogReader::open(&engine.log_dir(&spec.id), LogPosition::Start).unwrap();
    let search = LogSearch {
        contains: Some("pear".into()),
        ..LogSearch::default()
    };
    let found: Vec<String> = reader
        .search(search)
        .map(|line| line.unwrap().text)
        .collect();
    assert_eq!(found, ["pear 1", "pear 2", "pear 3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_free_again_after_the_end() {
    let setup = Setup::new(CgroupPreference::Auto);
    let mut config =
        ondol_workload::Config::new(setup.workloads(), env!("CARGO_BIN_EXE_ondol-shim-test"));
    config.ports = 18_000..=18_003;
    let clock = std::sync::Arc::new(ondol_types::SystemClock);
    let engine = ondol_workload::ProcessEngine::open(
        config,
        clock,
        std::sync::Arc::new(ondol_types::NoCrash),
    )
    .await
    .unwrap();
    let bench = ondol_workload::conformance::Bench::new(engine);
    for _ in 0..12 {
        let mut spec = bench.script("echo $PORT");
        spec.port = ondol_workload::PortRequest::Auto;
        let seen = bench.start(&spec).await;
        assert!((18_000..=18_003).contains(&seen.address.unwrap().port()));
        bench.end(&spec.id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_signal_is_ignored_or_blocked_in_a_program() {
    let setup = Setup::new(CgroupPreference::Auto);
    let bench = setup.bench().await;
    // What this process would hand down when it was started with `nohup` or in the background.
    let spec = bench.script("exec grep -E 'Sig(Blk|Ign)' /proc/self/status");
    bench.run(&spec).await;
    let out = bench.stdout(&spec.id).await;
    // Two signals belong to the C library, which lets nobody change them.
    const OF_THE_LIBRARY: u64 = 0b11 << 31;
    let words = out.split_whitespace().filter(|word| !word.ends_with(':'));
    let masks: Vec<u64> = words
        .map(|word| u64::from_str_radix(word, 16).unwrap() & !OF_THE_LIBRARY)
        .collect();
    assert_eq!(masks, [0, 0], "{out}");
}
