//! Life, signals, logs, environment and identity.

use std::collections::BTreeSet;
use std::time::Duration;

use ondol_types::{Secret, WorkloadId};

use super::Bench;
use crate::error::EngineError;
use crate::model::{
    Command, LogQuery, LogStreamKind, StopPolicy, StopSignal, WorkDir, WorkloadState,
};

/// Exit codes and signals arrive as they are.
pub async fn exit_status_and_signal(bench: Bench) {
    let fine = bench.run(&bench.script("exit 0")).await;
    assert!(fine.success() && !fine.stopped && !fine.lost, "{fine:?}");
    assert_eq!(bench.run(&bench.script("exit 37")).await.code, Some(37));
    let killed = bench.run(&bench.script("kill -SEGV $$")).await;
    assert_eq!(
        (killed.code, killed.signal, killed.stopped),
        (None, Some(11), false)
    );
}

/// A program that is not there is an exit with 127 and a word in the log, not an error.
pub async fn a_missing_program_exits_with_127(bench: Bench) {
    let mut spec = bench.script("");
    spec.command = Command::Argv(vec!["no-such-program-anywhere".into()]);
    assert_eq!(bench.run(&spec).await.code, Some(127));
    let log = bench.log(&spec.id).await;
    assert!(log.iter().any(|line| line.stream == LogStreamKind::System
        && line.text.contains("no-such-program-anywhere")));
}

/// The stop signal comes first and leaves time to finish, also for children of a shell.
pub async fn a_graceful_stop_lets_the_program_finish(bench: Bench) {
    // Shells wait with `wait`: some lose a signal that arrives while they start a program,
    // and so does a program that is just being started.
    let script = "trap 'echo parent' TERM
        sh -c 'sleep 600 & trap \"kill -9 $!; echo child; sleep 0.3; echo child done; exit 0\" TERM; echo ready; wait' &
        wait; wait; exit 7";
    let spec = bench.script(script);
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    let policy = StopPolicy {
        signal: StopSignal::Term,
        grace: Duration::from_secs(60),
    };
    let exit = bench
        .engine
        .stop(&spec.id, policy)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!((exit.code, exit.stopped), (Some(7), true));
    let out = bench.stdout(&spec.id).await;
    assert!(
        out.contains("parent") && out.contains("child done"),
        "{out}"
    );
    let again = bench
        .engine
        .stop(&spec.id, policy)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(again, exit);
}

/// The signal of the policy is the one that is sent.
pub async fn the_stop_signal_can_be_chosen(bench: Bench) {
    let spec =
        bench.script("trap '' TERM; sleep 600 & trap 'kill -9 $!; exit 5' INT; echo ready; wait");
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    let policy = StopPolicy {
        signal: StopSignal::Int,
        grace: Duration::from_secs(60),
    };
    let exit = bench
        .engine
        .stop(&spec.id, policy)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(exit.code, Some(5));
}

/// A program that ignores the signal is killed after the grace.
pub async fn a_program_that_ignores_the_signal_is_killed(bench: Bench) {
    let spec = bench.script("trap '' TERM; echo ready; while :; do sleep 0.05; done");
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    let policy = StopPolicy {
        signal: StopSignal::Term,
        grace: Duration::from_millis(200),
    };
    let exit = bench
        .engine
        .stop(&spec.id, policy)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(
        (exit.code, exit.signal, exit.stopped),
        (None, Some(9), true)
    );
}

/// Killing needs no grace.
pub async fn kill_ends_at_once(bench: Bench) {
    let spec = bench.script("trap '' TERM; echo ready; while :; do sleep 0.05; done");
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    let exit = bench
        .engine
        .kill(&spec.id)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!((exit.signal, exit.stopped), (Some(9), true));
}

/// The timeout ends it by itself.
pub async fn a_timeout_ends_the_program(bench: Bench) {
    let mut spec = bench.script("trap '' TERM; while :; do sleep 0.05; done");
    spec.timeout = Some(Duration::from_millis(300));
    spec.stop.grace = Duration::from_millis(200);
    let exit = bench.run(&spec).await;
    assert!(
        exit.timed_out && !exit.stopped && !exit.success(),
        "{exit:?}"
    );
    let log = bench.log(&spec.id).await;
    assert!(log.iter().any(|line| line.stream == LogStreamKind::System
        && line.text.contains("timed out after 0.300 s")));
}

/// Nothing of the engine's own environment reaches a program.
pub async fn the_environment_is_scrubbed(bench: Bench) {
    let mut spec =
        bench.script("env; pwd; test -w \"$HOME\" && test -w \"$TMPDIR\" && echo writable");
    spec.env.insert("GREETING".into(), "hello there".into());
    bench.run(&spec).await;
    let out = bench.stdout(&spec.id).await;
    let names: BTreeSet<&str> = out
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    let expected = [
        "GREETING",
        "HOME",
        "HOSTNAME",
        "LANG",
        "OLDPWD",
        "ONDOL_INCARNATION",
        "ONDOL_PROJECT",
        "ONDOL_WORKLOAD_ID",
        "PATH",
        "PWD",
        "SHLVL",
        "TERM",
        "TMPDIR",
        "_",
        // Podman says that there is a container.
        "container",
    ];
    assert!(
        names.iter().all(|name| expected.contains(name)),
        "{names:?}"
    );
    assert!(
        out.contains("GREETING=hello there") && out.contains("LANG=C.UTF-8"),
        "{out}"
    );
    assert!(
        out.contains(&format!("ONDOL_WORKLOAD_ID={}", spec.id)) && out.ends_with("writable"),
        "{out}"
    );
}

/// Secrets arrive as environment and file, and are masked in both streams in usual encodings.
pub async fn secrets_arrive_and_are_masked(bench: Bench) {
    let mut spec = bench.script(
        "test \"$TOKEN\" = 'hunter22 & more' && echo env-right
         test \"$(cat \"$ONDOL_SECRETS_DIR/tls/key\")\" = 'file-secret-77' && echo file-right
         test \"$(cat \"$CERT_FILE\")\" = 'cert-secret-78' && test \"$CERT_FILE\" = \"$ONDOL_SECRETS_DIR/CERT\" && echo named-right
         echo \"plain $TOKEN\"; echo \"error $TOKEN\" >&2; printf %s \"$TOKEN\" | base64; printf %s \"$TOKEN\" | od -An -tx1 | tr -d ' \\n'; echo
         cat \"$ONDOL_SECRETS_DIR/tls/key\" \"$CERT_FILE\"; echo; echo extra-mask-value; stat -c %a \"$ONDOL_SECRETS_DIR/tls/key\"; echo \"$ONDOL_SECRETS_DIR\"",
    );
    spec.secret_env
        .insert("TOKEN".into(), Secret::new("hunter22 & more".to_owned()));
    for (path, value) in [("tls/key", "file-secret-77"), ("CERT", "cert-secret-78")] {
        if let Ok(path) = path.parse() {
            spec.secret_files
                .insert(path, Secret::new(value.to_owned()));
        }
    }
    spec.masks.push(Secret::new("extra-mask-value".to_owned()));
    assert!(bench.run(&spec).await.success());
    let log = bench.log(&spec.id).await;
    let all: Vec<&str> = log.iter().map(|line| line.text.as_str()).collect();
    assert!(
        all.contains(&"env-right") && all.contains(&"file-right") && all.contains(&"400"),
        "{all:?}"
    );
    assert!(all.contains(&"named-right"), "{all:?}");
    assert!(
        all.contains(&"plain ***") && all.contains(&"error ***"),
        "{all:?}"
    );
    for form in [
        "hunter22",
        "aHVudGVyMjIg",
        "68756e746572",
        "file-secret-77",
        "cert-secret-78",
        "extra-mask-value",
    ] {
        assert!(
            !all.iter().any(|line| line.contains(form)),
            "{form} in {all:?}"
        );
    }
}

/// Work directories: fresh ones are empty, copies are separate, given ones are shared.
pub async fn work_directories_are_what_was_asked_for(bench: Bench, given: std::path::PathBuf) {
    let fresh = bench.script("ls -A | wc -l; touch left-behind");
    bench.run(&fresh).await;
    let mut again = fresh.clone();
    again.incarnation = 2;
    bench.run(&again).await;
    assert_eq!(bench.stdout(&fresh.id).await, "0\n0");
    std::fs::write(given.join("input"), "from the caller")
        .unwrap_or_else(|error| panic!("{error}"));
    let mut copy = bench.script("cat input; echo changed > input");
    copy.work_dir = WorkDir::CopyOf(given.clone());
    bench.run(&copy).await;
    let mut existing = bench.script("cat input; echo > output");
    existing.work_dir = WorkDir::Existing(given.clone());
    bench.run(&existing).await;
    assert_eq!(bench.stdout(&copy.id).await, "from the caller");
    assert_eq!(bench.stdout(&existing.id).await, "from the caller");
    assert!(given.join("output").exists());
    let mut nowhere = bench.script("true");
    nowhere.work_dir = WorkDir::Existing(given.join("nowhere"));
    assert!(matches!(
        bench.engine.start(nowhere).await,
        Err(EngineError::Spec { .. })
    ));
}

/// Volumes appear inside the work directory and outlive the workload.
pub async fn volumes_outlive_the_workload(bench: Bench, volume: std::path::PathBuf) {
    for expected in ["1", "2"] {
        let mut spec = bench.script("echo x >> var/state/count; grep -c x var/state/count");
        if let Ok(inside) = "var/state".parse() {
            spec.volumes.push((volume.clone(), inside));
        }
        assert!(bench.run(&spec).await.success());
        assert_eq!(bench.stdout(&spec.id).await, expected);
        bench
            .engine
            .remove(&spec.id)
            .await
            .unwrap_or_else(|error| panic!("{error:?}"));
    }
}

/// An incarnation is run once, however often and at whatever time it is started.
pub async fn start_is_idempotent(bench: Bench, shared: std::path::PathBuf) {
    let mut spec = bench.script("echo run >> runs; sleep 0.2");
    spec.work_dir = WorkDir::Existing(shared.clone());
    spec.labels.insert("step".into(), "one".into());
    let (first, second) = tokio::join!(
        bench.engine.start(spec.clone()),
        bench.engine.start(spec.clone())
    );
    let newly: Vec<bool> = [first, second]
        .into_iter()
        .flatten()
        .map(|started| started.newly)
        .collect();
    assert_eq!(newly.iter().filter(|newly| **newly).count(), 1, "{newly:?}");
    bench.end(&spec.id).await;
    let late = bench
        .engine
        .start(spec.clone())
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    assert!(!late.newly && late.observation.state.exit().is_some());
    assert_eq!(late.observation.labels, spec.labels);
    let runs = std::fs::read_to_string(shared.join("runs")).unwrap_or_default();
    assert_eq!(runs, "run\n");
}

/// One workload runs one incarnation at a time, and never goes back.
pub async fn incarnations_do_not_clash(bench: Bench) {
    let mut spec =
        bench.script("echo incarnation $ONDOL_INCARNATION; while :; do sleep 0.05; done");
    spec.incarnation = 4;
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "incarnation 4").await;
    let with = |incarnation| {
        let mut other = spec.clone();
        other.incarnation = incarnation;
        bench.engine.start(other)
    };
    assert!(matches!(
        with(5).await,
        Err(EngineError::Running { incarnation: 4, .. })
    ));
    assert!(matches!(
        bench.engine.remove(&spec.id).await,
        Err(EngineError::Running { .. })
    ));
    let _ = bench.engine.kill(&spec.id).await;
    assert!(matches!(
        with(3).await,
        Err(EngineError::Stale {
            asked: 3,
            known: 4,
            ..
        })
    ));
    let next = with(5).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert!(next.newly && next.observation.incarnation == 5);
    bench.until_logged(&spec.id, "incarnation 5").await;
    let _ = bench.engine.kill(&spec.id).await;
    let out = bench.stdout(&spec.id).await;
    assert_eq!(out, "incarnation 4\nincarnation 5");
}

/// What does not exist is said not to, and removing it is fine.
pub async fn unknown_and_removed_workloads(bench: Bench) {
    let unknown = WorkloadId::derived("nobody has this");
    assert!(matches!(bench.engine.observe(&unknown).await, Ok(None)));
    assert!(matches!(
        bench.engine.wait(&unknown).await,
        Err(EngineError::NotFound(_))
    ));
    assert!(matches!(
        bench.engine.kill(&unknown).await,
        Err(EngineError::NotFound(_))
    ));
    assert!(
        bench
            .engine
            .logs(&unknown, LogQuery::default())
            .await
            .is_err()
    );
    assert!(bench.engine.remove(&unknown).await.is_ok());
    let spec = bench.script("echo x");
    bench.run(&spec).await;
    let listed = |id: WorkloadId| {
        let bench = bench.clone();
        async move {
            bench
                .engine
                .list()
                .await
                .unwrap_or_default()
                .iter()
                .any(|seen| seen.id == id)
        }
    };
    assert!(listed(spec.id).await);
    bench
        .engine
        .remove(&spec.id)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    assert!(!listed(spec.id).await);
    assert!(matches!(bench.engine.observe(&spec.id).await, Ok(None)));
}

/// Reconcilers hear of starts and ends.
pub async fn changes_are_signalled(bench: Bench) {
    let mut changes = bench.engine.changes();
    let before = *changes.borrow_and_update();
    // It lives long enough that its start and its end are not one change.
    let spec = bench.script("sleep 1");
    bench.start(&spec).await;
    let mut seen = before;
    bench
        .until("a signal for the start", || {
            seen = *changes.borrow_and_update();
            let signalled = seen > before;
            async move { signalled }
        })
        .await;
    bench.end(&spec.id).await;
    bench
        .until("a signal for the end", || {
            let now = *changes.borrow_and_update();
            async move { now > seen }
        })
        .await;
}

/// What an engine must refuse, by naming it.
pub async fn impossible_specs_are_refused(bench: Bench) {
    let mut empty = bench.script("");
    empty.command = Command::Argv(Vec::new());
    let mut name = bench.script("true");
    name.env.insert("A=B".into(), "x".into());
    let mut limit = bench.script("true");
    limit.limits.cpu_cores = Some(-1.0);
    for (spec, word) in [(empty, "command"), (name, "A=B"), (limit, "processor")] {
        match bench.engine.start(spec.clone()).await {
            Err(EngineError::Spec { id, problem }) => {
                assert!(id == spec.id && problem.contains(word), "{problem}")
            }
            other => panic!("accepted: {other:?}"),
        }
        assert!(matches!(bench.engine.observe(&spec.id).await, Ok(None)));
    }
}

/// A running workload says so, with its process and start.
pub async fn a_running_workload_is_observed(bench: Bench) {
    let spec = bench.script("echo ready; while :; do sleep 0.05; done");
    let seen = bench.start(&spec).await;
    assert!(
        matches!(seen.state, WorkloadState::Running { pid, .. } if pid > 0),
        "{seen:?}"
    );
    assert_eq!(
        (seen.id, seen.incarnation, seen.address),
        (spec.id, 1, None)
    );
    let _ = bench.engine.kill(&spec.id).await;
    assert!(!bench.is_running(&spec.id).await);
}
