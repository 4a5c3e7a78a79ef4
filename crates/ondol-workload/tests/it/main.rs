//! Both engines with real shims: the cases that every engine must pass, for the process engine in
//! each way that this host can limit and find processes, for the container engine with a Podman of
//! its own; and those that only one engine has.

mod builds;
mod container;
mod container_faults;
mod engine_restart;
mod files;
mod image;

use std::path::PathBuf;
use std::sync::Arc;

use ondol_types::{NoCrash, SystemClock};
use ondol_workload::conformance::{self, Bench};
use ondol_workload::{CgroupPreference, Config, ProcessEngine};

/// An engine in a directory of its own.
struct Setup {
    dir: tempfile::TempDir,
    cgroups: CgroupPreference,
}

impl Setup {
    fn new(cgroups: CgroupPreference) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            cgroups,
        }
    }

    fn workloads(&self) -> PathBuf {
        self.dir.path().join("data").join("workloads")
    }

    async fn engine(&self) -> ProcessEngine {
        let mut config = Config::new(self.workloads(), env!("CARGO_BIN_EXE_ondol-shim-test"));
        config.cgroups = self.cgroups;
        ProcessEngine::open(config, Arc::new(SystemClock), Arc::new(NoCrash))
            .await
            .unwrap()
    }

    async fn bench(&self) -> Bench {
        Bench::new(self.engine().await)
    }

    fn extra(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}

/// Whether a process exists and is not a zombie.
fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !matches!(stat.rsplit(')').next().map(str::trim_start), Some(rest) if rest.starts_with(['Z', 'X'])))
}

/// Whether a living process has such an argument.
fn alive_with(argument: &str) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return false;
    };
    entries.flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| {
            line.split(|&byte| byte == 0)
                .any(|word| word == argument.as_bytes())
        })
    })
}

macro_rules! conformance {
    ($module:ident, $preference:expr, [$($plain:ident),* $(,)?]) => {
        mod $module {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $plain() {
                    let setup = Setup::new($preference);
                    conformance::$plain(setup.bench().await).await;
                }
            )*

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn what_is_left_behind_is_ended() {
                let setup = Setup::new($preference);
                conformance::what_is_left_behind_is_ended(setup.bench().await, alive_with).await;
            }
        }
    };
}

conformance!(
    as_detected,
    CgroupPreference::Auto,
    [
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
        a_fixed_port_has_a_way_out,
        an_assigned_port_is_given_once,
        limits_are_set,
        an_image_is_asked_for,
        nothing_of_the_host_is_inside,
        capabilities_are_given_by_name,
        the_root_can_be_read_only,
        commands_of_images,
        volumes_belong_to_a_project,
        neighbours_are_found_and_strangers_are_not,
    ]
);

conformance!(
    without_control_groups,
    CgroupPreference::Off,
    [
        exit_status_and_signal,
        a_graceful_stop_lets_the_program_finish,
        a_program_that_ignores_the_signal_is_killed,
        kill_ends_at_once,
        a_timeout_ends_the_program,
        usage_is_counted,
    ]
);

conformance!(
    with_v2,
    CgroupPreference::V2,
    [
        a_graceful_stop_lets_the_program_finish,
        a_program_that_ignores_the_signal_is_killed,
        kill_ends_at_once,
        out_of_memory_is_told,
        usage_is_counted,
        limits_are_set,
    ]
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_directories_are_what_was_asked_for() {
    let setup = Setup::new(CgroupPreference::Auto);
    conformance::work_directories_are_what_was_asked_for(setup.bench().await, setup.extra("given"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_outlive_the_workload() {
    let setup = Setup::new(CgroupPreference::Auto);
    conformance::volumes_outlive_the_workload(setup.bench().await, setup.extra("volume")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_is_idempotent() {
    let setup = Setup::new(CgroupPreference::Auto);
    conformance::start_is_idempotent(setup.bench().await, setup.extra("shared")).await;
}
