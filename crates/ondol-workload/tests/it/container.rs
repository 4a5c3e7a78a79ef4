//! The container engine: the cases that every engine must pass, and what only images have.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bollard::Docker;
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions};
use ondol_testing::engine::{Podman, podman};
use ondol_types::{NoCrash, Secret, SystemClock, WorkloadId};
use ondol_workload::conformance::{self, Bench};
use ondol_workload::container::{Address, ImageRef};
use ondol_workload::{ContainerConfig, ContainerEngine, ContainerSpec, Engine, EngineError};

use crate::image::{TestImage, TestImages};

/// A container engine of an installation of its own.
pub(crate) struct Setup {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) podman: &'static Podman,
    pub(crate) socket: PathBuf,
}

impl Setup {
    /// `None` where there is no Podman.
    pub(crate) fn new() -> Option<Self> {
        let podman = podman()?;
        Some(Self {
            dir: tempfile::tempdir().unwrap(),
            podman,
            socket: podman.socket().to_owned(),
        })
    }

    pub(crate) fn at(socket: &Path) -> Option<Self> {
        let mut setup = Self::new()?;
        setup.socket = socket.to_owned();
        Some(setup)
    }

    pub(crate) fn workloads(&self) -> PathBuf {
        self.dir.path().join("data").join("containers")
    }

    pub(crate) async fn engine(&self) -> ContainerEngine {
        self.engine_with(|_| {}).await
    }

    pub(crate) async fn engine_with(
        &self,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> ContainerEngine {
        let address = Address::Unix(self.socket.clone());
        let shim = env!("CARGO_BIN_EXE_ondol-shim-test");
        let mut config = ContainerConfig::new(self.workloads(), shim, vec![address]);
        config.images = Arc::new(TestImages);
        config.shared_dirs = vec![self.extra("shared")];
        change(&mut config);
        ContainerEngine::open(config, Arc::new(SystemClock), Arc::new(NoCrash))
            .await
            .unwrap()
    }

    pub(crate) async fn bench(&self) -> Bench {
        let image = ImageRef::Stored(TestImage::get().digest());
        let mut container = ContainerSpec::new(image);
        container.work_dir = Some("/work".into());
        Bench::contained(self.engine().await, container)
    }

    /// A directory that may be shared.
    pub(crate) fn shared(&self, name: &str) -> PathBuf {
        self.extra(&format!("shared/{name}"))
    }

    fn extra(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    pub(crate) fn docker(&self) -> Docker {
        let path = self.podman.socket().to_string_lossy().into_owned();
        Docker::connect_with_unix(&path, 60, bollard::API_DEFAULT_VERSION).unwrap()
    }

    /// Waits until the engine has nothing of a workload.
    pub(crate) async fn until_gone(&self, id: &WorkloadId) {
        for _ in 0..3_000 {
            if self.containers(id).await.is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the container of {id} is still there");
    }

    /// Names of the containers of a workload, running or not.
    pub(crate) async fn containers(&self, id: &WorkloadId) -> Vec<String> {
        let options = ListContainersOptions {
            all: true,
            filters: Some([("label".to_owned(), vec![format!("dev.ondol.workload={id}")])].into()),
            ..ListContainersOptions::default()
        };
        let docker = self.docker().negotiate_version().await.unwrap();
        let found = docker.list_containers(Some(options)).await.unwrap();
        found
            .into_iter()
            .flat_map(|container| container.names.unwrap_or_default())
            .map(|name| name.trim_start_matches('/').to_owned())
            .collect()
    }
}

impl Drop for Setup {
    /// Ends what a failed test has left.
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.workloads())
            .into_iter()
            .flatten()
            .flatten()
        {
            let text = std::fs::read_to_string(entry.path().join("identity.json"));
            let identity: Option<serde_json::Value> =
                text.ok().and_then(|text| serde_json::from_str(&text).ok());
            let ended = entry.path().join("exit.json").exists();
            if let (false, Some(identity)) = (ended, identity) {
                let pid = identity["shim"]["pid"].as_i64().unwrap_or(0) as i32;
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }
}

macro_rules! cases {
    ($($plain:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $plain() {
            let Some(setup) = Setup::new() else { return };
            conformance::$plain(setup.bench().await).await;
        }
    )*};
    ($($shared:ident($name:literal)),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $shared() {
            let Some(setup) = Setup::new() else { return };
            conformance::$shared(setup.bench().await, setup.shared($name)).await;
        }
    )*};
}

cases!(
    exit_status_and_signal,
    a_missing_program_exits_with_127,
    a_graceful_stop_lets_the_program_finish,
    the_stop_signal_can_be_chosen,
    a_program_that_ignores_the_signal_is_killed,
    kill_ends_at_once,
    a_timeout_ends_the_program,
    log_lines_carry_stream_and_time,
    following_ends_with_the_workload,
    long_lines_are_cut_and_marked,
    a_log_flood_is_bounded,
    the_environment_is_scrubbed,
    secrets_arrive_and_are_masked,
    incarnations_do_not_clash,
    unknown_and_removed_workloads,
    changes_are_signalled,
    impossible_specs_are_refused,
    a_running_workload_is_observed,
    out_of_memory_is_told,
    a_fork_bomb_is_contained,
    usage_is_counted,
    a_port_is_given_and_listeners_are_found,
    a_fixed_port_has_a_network_of_its_own,
    an_assigned_port_is_given_once,
    limits_are_set,
    an_image_is_asked_for,
    nothing_of_the_host_is_inside,
    capabilities_are_given_by_name,
    the_root_can_be_read_only,
    commands_of_images,
    volumes_belong_to_a_project,
    neighbours_are_found_and_strangers_are_not,
);

cases!(
    work_directories_are_what_was_asked_for("given"),
    volumes_outlive_the_workload("volume"),
    start_is_idempotent("runs"),
    directories_of_the_host_are_refused("dir"),
    a_user_without_rights("given"),
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_behind_is_ended() {
    let Some(setup) = Setup::new() else { return };
    conformance::what_is_left_behind_is_ended(setup.bench().await, crate::alive_with).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_gone_after_its_end_and_nothing_of_its_output_is_with_the_engine() {
    let Some(setup) = Setup::new() else { return };
    let bench = setup.bench().await;
    const VALUE: &str = "planted-output-secret-8843";
    let mut spec =
        bench.script("cat \"$ONDOL_SECRETS_DIR/key\"; echo ready; while :; do sleep 0.05; done");
    let value = Secret::new(VALUE.to_owned());
    spec.secret_files.insert("key".parse().unwrap(), value);
    bench.start(&spec).await;
    bench.until_logged(&spec.id, "ready").await;
    let names = setup.containers(&spec.id).await;
    assert_eq!(names.len(), 1);
    assert!(setup.podman.files_with(VALUE).is_empty());
    let docker = setup.docker().negotiate_version().await.unwrap();
    let inspected = docker
        .inspect_container(&names[0], None::<InspectContainerOptions>)
        .await
        .unwrap();
    assert!(!format!("{inspected:?}").contains(VALUE));
    bench.engine.kill(&spec.id).await.unwrap();
    bench.engine.remove(&spec.id).await.unwrap();
    setup.until_gone(&spec.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_loaded_once_and_kept_while_it_is_needed() {
    let Some(setup) = Setup::new() else { return };
    let engine = setup.engine().await;
    let image = TestImage::get();
    let before = image.asked.load(Ordering::Relaxed);
    let reference = ImageRef::Stored(image.digest());
    let all =
        futures_util::future::join_all((0..4).map(|_| engine.prepare_image(&reference))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    // Other tests of this program may ask at the same time.
    assert!(image.asked.load(Ordering::Relaxed) > before);
    let kept = engine.sweep(&[image.digest()]).await.unwrap();
    assert_eq!(kept.images, 0);
    let swept = engine.sweep(&[]).await.unwrap();
    assert_eq!(swept.images, 1);
    let unknown = ImageRef::Stored(format!("sha256:{}", "0".repeat(64)).parse().unwrap());
    let error = engine.prepare_image(&unknown).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::Image { reason, .. } if reason.contains("not in the store")),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ours_is_never_touched() {
    let Some(setup) = Setup::new() else { return };
    let bench = setup.bench().await;
    // A container tells what it and its network are called.
    let spec = bench.script("echo ready; while :; do sleep 0.05; done");
    bench.start(&spec).await;
    let name = setup.containers(&spec.id).await.remove(0);
    let docker = setup.docker().negotiate_version().await.unwrap();
    let inspected = docker
        .inspect_container(&name, None::<InspectContainerOptions>)
        .await
        .unwrap();
    let networks = inspected.network_settings.unwrap().networks.unwrap();
    let network = networks.into_keys().next().unwrap();
    bench.engine.kill(&spec.id).await.unwrap();
    bench.engine.remove(&spec.id).await.unwrap();
    setup.until_gone(&spec.id).await;
    let engine = setup.engine().await;
    assert_eq!(engine.sweep(&[]).await.unwrap().networks, 1);

    // Somebody else takes both names.
    let image = inspected.image.unwrap();
    setup.podman.run(&["network", "create", &network]);
    let error = bench.engine.start(spec.clone()).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::Foreign { name, .. } if *name == network),
        "{error:?}"
    );
    setup.podman.run(&["network", "rm", &network]);
    setup.podman.run(&[
        "create",
        "--name",
        &name,
        "--network",
        "none",
        "--ulimit",
        "nofile=100:100",
        "--entrypoint",
        "true",
        &TestImage::get().stored.id().hex()[..12],
    ]);
    assert!(!image.is_empty());
    let error = bench.engine.start(spec.clone()).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::Foreign { name: taken, .. } if *taken == name),
        "{error:?}"
    );
    engine.sweep(&[]).await.unwrap();
    assert_eq!(
        setup
            .podman
            .run(&["ps", "-a", "-q", "--filter", &format!("name={name}")])
            .lines()
            .count(),
        1
    );
    setup.podman.run(&["rm", "-f", &name]);
    assert!(bench.engine.start(spec.clone()).await.unwrap().newly);
    bench.engine.kill(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_of_a_container_is_one_thread() {
    let Some(setup) = Setup::new() else { return };
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
    let threads: BTreeSet<_> = std::fs::read_dir(format!("/proc/{shim}/task"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(threads.len(), 1);
    bench.engine.kill(&spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_says_what_it_can_do() {
    let Some(setup) = Setup::new() else { return };
    let can = setup.engine().await.capabilities().await;
    let container = can.container.unwrap();
    assert!(
        container.reachable && container.engine.starts_with("Podman"),
        "{container:?}"
    );
    assert!(container.address.ends_with("podman.sock"), "{container:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_engines_are_one_and_a_workload_can_move_between_incarnations() {
    let Some(setup) = Setup::new() else { return };
    let processes = crate::Setup::new(ondol_workload::CgroupPreference::Auto);
    let contained = setup.bench().await;
    let engines =
        ondol_workload::Engines::new(processes.engine().await, Some(setup.engine().await));
    let mut changes = engines.changes();
    let bench = Bench::new(engines.clone());
    let mut spec = contained.script("test -e /etc/nsswitch.conf && grep -c . /etc/nsswitch.conf");
    assert!(bench.run(&spec).await.success());
    assert_eq!(
        bench.stdout(&spec.id).await,
        "1",
        "the image's file has one line"
    );
    assert_eq!(
        engines.log_dir(&spec.id),
        setup
            .workloads()
            .join(spec.id.to_string())
            .join("log")
            .canonicalize()
            .unwrap()
    );
    spec.incarnation = 2;
    spec.container = None;
    assert!(bench.run(&spec).await.success());
    let listed = bench.engine.list().await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].incarnation, 2);
    spec.incarnation = 1;
    spec.container = contained.script("").container;
    let error = bench.engine.start(spec).await.unwrap_err();
    assert!(
        matches!(
            error,
            EngineError::Stale {
                asked: 1,
                known: 2,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(changes.has_changed().unwrap() && *changes.borrow_and_update() >= 2);
    assert!(engines.capabilities().await.container.is_some());
}
