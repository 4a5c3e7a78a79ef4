//! What a workload is, before and while it runs. Every engine understands these types and no
//! others, so a test step, a training job and a service replica differ only in their values.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ondol_types::{ProjectName, RelPath, Secret, Timestamp, WorkloadId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::container::ContainerSpec;

/// Whether a workload is expected to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum WorkloadKind {
    /// Runs to its end.
    Once,
    /// Should run until it is stopped. No engine restarts it: that is the reconciler's decision.
    KeepAlive,
}

/// What to execute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// A program and its arguments, looked up in the workload's own `PATH`.
    Argv(Vec<String>),
    /// Text for `/bin/sh -c`.
    Shell(String),
}

impl Command {
    /// The program and arguments that are executed.
    pub fn argv(&self) -> Vec<String> {
        match self {
            Self::Argv(argv) => argv.clone(),
            Self::Shell(text) => vec!["/bin/sh".into(), "-c".into(), text.clone()],
        }
    }
}

/// The directory that the program starts in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WorkDir {
    /// An empty directory of the workload's own, removed with it.
    #[default]
    Fresh,
    /// A directory that the caller made and keeps; several workloads may share it.
    Existing(PathBuf),
    /// A directory of the workload's own that begins as a copy of this one.
    CopyOf(PathBuf),
}

/// Which port a workload is to listen on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PortRequest {
    /// It does not listen.
    #[default]
    None,
    /// The engine picks a free port of its reserved range and gives it as `PORT`.
    Auto,
    /// The caller picked the port; it is given as `PORT`.
    Assigned(u16),
    /// The program insists on this port. It gets a network namespace of its own and is reached
    /// through another, host-side port that the engine picks; `PORT` is the fixed one.
    Fixed(u16),
}

/// What a workload may use. `None` means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Processor cores, in fractions.
    pub cpu_cores: Option<f64>,
    /// Memory in bytes, with its swap.
    pub memory_bytes: Option<u64>,
    /// Processes and threads at one time.
    pub pids: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_cores: None,
            memory_bytes: None,
            pids: Some(4_096),
        }
    }
}

/// A signal that asks a program to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// `SIGTERM`
    #[default]
    Term,
    /// `SIGINT`
    Int,
    /// `SIGQUIT`
    Quit,
    /// `SIGHUP`
    Hup,
    /// `SIGUSR1`
    Usr1,
    /// `SIGUSR2`
    Usr2,
}

/// How a workload is asked to stop, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StopPolicy {
    /// What the main process's group is sent first.
    pub signal: StopSignal,
    /// How long it may take before everything of the workload is killed.
    pub grace: Duration,
}

impl Default for StopPolicy {
    fn default() -> Self {
        Self {
            signal: StopSignal::Term,
            grace: Duration::from_secs(10),
        }
    }
}

/// How much log a workload may keep on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogPolicy {
    /// A segment that grows beyond this many bytes is closed.
    pub max_bytes_per_file: u64,
    /// How many segments are kept; the oldest is deleted.
    pub files: u32,
    /// A longer line is cut into records of this many bytes, each but the last marked.
    pub max_line_bytes: u32,
}

impl Default for LogPolicy {
    fn default() -> Self {
        Self {
            max_bytes_per_file: 8 << 20,
            files: 4,
            max_line_bytes: 16 << 10,
        }
    }
}

/// Something to run: the desired state that an engine is handed.
#[derive(Clone, Debug)]
pub struct WorkloadSpec {
    /// Which workload.
    pub id: WorkloadId,
    /// Which execution of it: a restart has a greater one. An incarnation is run at most once.
    pub incarnation: u64,
    /// Whose it is.
    pub project: ProjectName,
    /// Whether it is expected to end.
    pub kind: WorkloadKind,
    /// Free words for the caller: run, step, release, replica. Never secret.
    pub labels: BTreeMap<String, String>,
    /// What to execute.
    pub command: Command,
    /// Environment on top of the scrubbed one. Never secret: it is stored.
    pub env: BTreeMap<String, String>,
    /// Environment that is neither stored nor shown, and masked in the logs.
    pub secret_env: BTreeMap<String, Secret>,
    /// Files below `$ONDOL_SECRETS_DIR`, mode 0400, removed at exit, masked in the logs. One whose
    /// whole path is letters, digits and `_`, such as `CERT`, has its path in `$CERT_FILE`.
    pub secret_files: BTreeMap<RelPath, Secret>,
    /// The directory it starts in.
    pub work_dir: WorkDir,
    /// Host directories that appear inside the work directory. In a container they must be
    /// directories that the engine was told it may share.
    pub volumes: Vec<(PathBuf, RelPath)>,
    /// Which port it is to listen on.
    pub port: PortRequest,
    /// What it may use.
    pub limits: Limits,
    /// How it is stopped when nobody says otherwise (timeout, terminal closed).
    pub stop: StopPolicy,
    /// Ended by the stop policy after this long, also while the control plane is dead.
    pub timeout: Option<Duration>,
    /// How much log is kept.
    pub log: LogPolicy,
    /// Further values to mask in the logs. `secret_env` and `secret_files` are masked anyway.
    pub masks: Vec<Secret>,
    /// The root filesystem it needs; `None` runs it with the host's.
    pub container: Option<Box<ContainerSpec>>,
}

impl WorkloadSpec {
    /// A workload with defaults for everything that is not named here.
    pub fn new(
        id: WorkloadId,
        incarnation: u64,
        project: ProjectName,
        kind: WorkloadKind,
        command: Command,
    ) -> Self {
        Self {
            id,
            incarnation,
            project,
            kind,
            labels: BTreeMap::new(),
            command,
            env: BTreeMap::new(),
            secret_env: BTreeMap::new(),
            secret_files: BTreeMap::new(),
            work_dir: WorkDir::Fresh,
            volumes: Vec::new(),
            port: PortRequest::None,
            limits: Limits::default(),
            stop: StopPolicy::default(),
            timeout: None,
            log: LogPolicy::default(),
            masks: Vec::new(),
            container: None,
        }
    }
}

/// How a workload ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// The exit code of the main process, when it exited by itself. 127: no such program;
    /// 126: it could not be executed. The log says which.
    pub code: Option<i32>,
    /// The signal that ended the main process.
    pub signal: Option<i32>,
    /// The kernel killed a process of it for want of memory.
    pub oom: bool,
    /// It ran into its timeout.
    pub timed_out: bool,
    /// Somebody asked for its end.
    pub stopped: bool,
    /// Its shim vanished (killed, or the machine restarted), so how it ended is not known.
    pub lost: bool,
    /// When, as far as is known.
    pub at: Timestamp,
    /// What it used in total, where that was counted.
    pub usage: Usage,
}

impl Exit {
    /// Whether it ended by itself and well.
    pub fn success(&self) -> bool {
        self.code == Some(0) && !self.oom && !self.timed_out && !self.lost
    }

    /// One line for people, such as `exited with 1` or `killed by signal 9 (out of memory)`.
    pub fn describe(&self) -> String {
        let mut text = match (self.code, self.signal) {
            // What shells say of a program that they do not find.
            (Some(127), _) => "exited with 127: a program was not found".to_owned(),
            (Some(code), _) => format!("exited with {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        };
        let notes = [
            (self.oom, "out of memory"),
            (self.timed_out, "timed out"),
            (self.stopped, "stopped on request"),
            (self.lost, "its shim vanished"),
        ];
        let said: Vec<&str> = notes
            .iter()
            .filter(|(set, _)| *set)
            .map(|(_, words)| *words)
            .collect();
        if !said.is_empty() {
            text.push_str(&format!(" ({})", said.join(", ")));
        }
        text
    }
}

/// Where a workload is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum WorkloadState {
    /// Its shim prepares it.
    Starting,
    /// Its main process runs.
    #[serde(rename_all = "camelCase")]
    Running {
        /// The main process.
        pid: i32,
        /// Since when.
        started_at: Timestamp,
    },
    /// Whether it runs cannot be told, because its engine does not answer. It may well run, so
    /// nothing must be started in its place.
    #[serde(rename_all = "camelCase")]
    Unknown {
        /// Since when.
        since: Timestamp,
        /// What the engine did instead of answering.
        reason: String,
    },
    /// It has ended, with everything it started.
    Exited(Exit),
}

impl WorkloadState {
    /// The exit, once there is one.
    pub fn exit(&self) -> Option<&Exit> {
        if let Self::Exited(exit) = self {
            Some(exit)
        } else {
            None
        }
    }
}

/// What an engine sees of a workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    /// Which workload.
    pub id: WorkloadId,
    /// Which execution of it.
    pub incarnation: u64,
    /// Whose it is.
    pub project: ProjectName,
    /// Whether it is expected to end.
    pub kind: WorkloadKind,
    /// The caller's words from the spec.
    pub labels: BTreeMap<String, String>,
    /// Where it is in its life.
    pub state: WorkloadState,
    /// Where the host reaches it, when it was given a port.
    #[schema(value_type = Option<String>)]
    pub address: Option<SocketAddr>,
    /// The directory it runs in.
    #[schema(value_type = String)]
    pub work_dir: PathBuf,
    /// What the host could not do for it, such as a limit that is not enforced.
    pub notices: Vec<String>,
}

/// What `start` found or made.
#[derive(Clone, Debug, PartialEq)]
pub struct Started {
    /// False when this incarnation had been started before.
    pub newly: bool,
    /// Where the host reaches it, when it was given a port.
    pub address: Option<SocketAddr>,
    /// The workload as it is now; it may have exited already.
    pub observation: Observation,
}

/// What a workload uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Processor time since its start, in seconds.
    pub cpu_seconds: f64,
    /// Memory now, in bytes; after the exit, the most there was.
    pub memory_bytes: u64,
    /// Processes (with cgroups, threads too) now.
    pub pids: u32,
}

impl Eq for Usage {}

/// Where a log line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum LogStreamKind {
    /// The program's standard output.
    Stdout,
    /// The program's standard error.
    Stderr,
    /// Ondol itself, about the workload.
    System,
}

/// One line of a workload's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// Position: 1 for the first line ever. A gap means lines that were deleted or could not be
    /// written; a `System` line says how many.
    pub seq: u64,
    /// When the shim read it.
    pub time: Timestamp,
    /// Where it came from.
    pub stream: LogStreamKind,
    /// The text without its line end; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// The line goes on in the next record of the same stream.
    pub truncated: bool,
}

/// Where reading of a log begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogPosition {
    /// With the oldest line that is kept.
    #[default]
    Start,
    /// With the line behind this `seq`.
    After(u64),
    /// With the first line at or after this moment.
    Since(Timestamp),
    /// With the last so many lines.
    Tail(u64),
}

/// Which lines of a log are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Where to begin.
    pub from: LogPosition,
    /// Whether to wait for further lines until the workload has ended.
    pub follow: bool,
    /// The most lines to give; `None` means all.
    pub limit: Option<u64>,
}

/// Which kind of control groups the engine uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum CgroupVersion {
    /// The unified hierarchy.
    V2,
    /// One hierarchy per controller.
    V1,
    /// None: the host allows neither.
    None,
}

/// What an engine can do on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Which control groups enforce limits.
    pub cgroups: CgroupVersion,
    /// Whether a limit on memory holds.
    pub memory_limit: bool,
    /// Whether a limit on processor cores holds.
    pub cpu_limit: bool,
    /// Whether a limit on processes holds for each workload by itself.
    pub pids_limit: bool,
    /// Whether a program that insists on a port can have a network namespace.
    pub netns: bool,
    /// Whether that network namespace reaches other hosts, with name resolution.
    pub netns_outbound: bool,
    /// What it can do with containers; `None` for an engine without.
    pub container: Option<ContainerCapabilities>,
    /// What is missing and what that means, for people.
    pub notices: Vec<String>,
}

/// What an engine for containers can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerCapabilities {
    /// Whether it answers now. When it does not, the rest is what a usual one can do.
    pub reachable: bool,
    /// Its product and version, such as `Podman Engine 4.3.1`.
    pub engine: String,
    /// Where it is asked.
    pub address: String,
    /// Whether it runs without root's rights.
    pub rootless: bool,
    /// Whether a small first process passes on signals and reaps orphans. Without it, a program
    /// is process 1 and ignores every signal that it does not handle.
    pub init: bool,
    /// Whether the networks of two projects cannot reach each other.
    pub isolated_networks: bool,
    /// Whether workloads of one network find each other by name.
    pub service_names: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_describes_itself() {
        let mut exit = Exit {
            code: None,
            signal: Some(9),
            oom: true,
            timed_out: false,
            stopped: false,
            lost: false,
            at: Timestamp::from_micros(0),
            usage: Usage::default(),
        };
        assert_eq!(exit.describe(), "killed by signal 9 (out of memory)");
        assert!(!exit.success());
        (exit.code, exit.signal, exit.oom) = (Some(0), None, false);
        assert_eq!(exit.describe(), "exited with 0");
        assert!(exit.success());
    }

    #[test]
    fn observations_have_a_stable_json_form() {
        let state = WorkloadState::Running {
            pid: 7,
            started_at: Timestamp::from_micros(0),
        };
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(
            json,
            r#"{"running":{"pid":7,"startedAt":"1970-01-01T00:00:00.000000Z"}}"#
        );
    }
}
