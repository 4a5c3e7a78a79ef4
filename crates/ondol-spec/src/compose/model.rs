//! The normalized model of a Compose project: what a deployer acts on without knowing YAML.
//!
//! Short and long forms, lists and mappings, `extends`, overrides and variables are gone here. Two
//! files that mean the same give equal models, whatever their spelling; [`super::changes`] builds on
//! that. No value of a secret is ever in it, only names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ondol_types::{Digest, RelPath, SecretName};
use serde::{Deserialize, Serialize};

use super::policy::Permission;
use super::template::Template;
use crate::model::text::checked_text;
use crate::model::{ByteSize, HostName, ImageRef, Period, TextError, UrlPath, text_form};
use crate::resolve::Note;

fn plain_name(text: &str) -> bool {
    (1..=100).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

checked_text!(
    /// Name of a service: letters, digits, `.`, `_` and `-`.
    ServiceName,
    "a name of letters, digits, `.`, `_` and `-`",
    plain_name
);
checked_text!(
    /// Name of a volume, network, secret or config within its project.
    ResourceName,
    "a name of letters, digits, `.`, `_` and `-`",
    plain_name
);

impl ServiceName {
    /// The name as one DNS label: lower case, with `-` for `.` and `_`.
    pub fn label(&self) -> String {
        let label: String = self
            .as_str()
            .chars()
            .map(|c| match c {
                '.' | '_' => '-',
                c => c.to_ascii_lowercase(),
            })
            .collect();
        label.trim_matches('-').to_owned()
    }
}

/// Several services that are deployed together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComposeProject {
    /// `name` of the file, or the project's own where one is given.
    pub name: Option<String>,
    /// The files that it was read from, strongest last.
    pub files: Vec<RelPath>,
    /// The services that run, by name.
    pub services: BTreeMap<ServiceName, ComposeService>,
    /// Services that are left out because none of their profiles is active.
    pub disabled: BTreeMap<ServiceName, BTreeSet<String>>,
    /// Named volumes that some service uses.
    pub volumes: BTreeMap<ResourceName, Volume>,
    /// Networks that some service is on; `default` is always among them when one is used.
    pub networks: BTreeMap<ResourceName, Network>,
    /// Secrets that some service or build receives.
    pub secrets: BTreeMap<ResourceName, Source>,
    /// Configuration files that some service receives.
    pub configs: BTreeMap<ResourceName, Source>,
    /// What people should know although nothing is wrong.
    pub notices: Vec<Note>,
}

/// One service, complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComposeService {
    /// Image to run; with `build` also the name under which it is known.
    pub image: Option<ImageRef>,
    /// How the image is built.
    pub build: Option<ImageBuild>,
    /// When an image is pulled again.
    pub pull: PullPolicy,
    /// Platform such as `linux/arm64`, where one is insisted on.
    pub platform: Option<String>,
    /// Entrypoint over the image's; empty means none. With an entrypoint, the image's command is
    /// not used either.
    pub entrypoint: Option<Vec<Template>>,
    /// Command over the image's; empty means none.
    pub command: Option<Vec<Template>>,
    /// Working directory over the image's.
    pub working_dir: Option<String>,
    /// User, and group, over the image's: `1000`, `app:app`.
    pub user: Option<String>,
    /// Groups besides.
    pub groups: BTreeSet<String>,
    /// Environment variables, files included.
    pub environment: BTreeMap<String, Template>,
    /// Whether it is kept running, or runs once to its end.
    pub kind: ServiceKind,
    /// How many replicas run.
    pub replicas: u32,
    /// When a replica that ended is started again.
    pub restart: Restart,
    /// How a newer replica takes the place of an older one.
    pub update: Update,
    /// What must have happened before it starts.
    pub depends_on: BTreeMap<ServiceName, Dependency>,
    /// Check of its health; `None` leaves the image's own in place.
    pub healthcheck: Option<Healthcheck>,
    /// What the gateway sends to it.
    pub route: Option<Route>,
    /// Ports that the file publishes. They are on the host only with [`Permission::HostPorts`].
    pub ports: Vec<Port>,
    /// Ports that other services reach, besides `ports`. Every port can be reached anyway.
    pub expose: BTreeSet<Exposed>,
    /// Which networks it is on.
    pub network: NetworkMode,
    /// Its own host name.
    pub hostname: Option<String>,
    /// Domain of its own host name.
    pub domainname: Option<String>,
    /// Lines of `/etc/hosts`: addresses by name.
    pub extra_hosts: BTreeMap<String, Vec<String>>,
    /// Name servers over the engine's.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Options of the resolver.
    pub dns_options: Vec<String>,
    /// What is mounted, by path in the container.
    pub mounts: BTreeMap<String, Mount>,
    /// Secrets as files, by path in the container.
    pub secrets: BTreeMap<String, Grant>,
    /// Configuration files, by path in the container.
    pub configs: BTreeMap<String, Grant>,
    /// What one replica may use.
    pub resources: Resources,
    /// Whether the root filesystem is read-only.
    pub read_only: bool,
    /// Capabilities that are added to the few that every container has.
    pub cap_add: BTreeSet<String>,
    /// Capabilities that are taken away.
    pub cap_drop: BTreeSet<String>,
    /// Options of confinement, such as a named AppArmor profile.
    pub security: BTreeSet<String>,
    /// Kernel parameters of its own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Limits of processes.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Size of `/dev/shm`.
    pub shm_size: Option<ByteSize>,
    /// Whether a small init is process 1.
    pub init: bool,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether its standard input stays open.
    pub stdin_open: bool,
    /// Signal that asks it to stop; `None` is the image's, or SIGTERM.
    pub stop_signal: Option<String>,
    /// Time between that signal and SIGKILL.
    pub stop_grace_period: Period,
    /// Labels and annotations.
    pub labels: BTreeMap<String, String>,
    /// What an administrator had to allow, and does have an effect: `privileged` and the namespaces
    /// of the host are here and nowhere else.
    pub elevated: BTreeSet<Permission>,
    /// Devices of the host, as `host:container:permissions`; empty without permission.
    pub devices: BTreeSet<String>,
    /// Rules for devices of the host; empty without permission.
    pub device_rules: BTreeSet<String>,
    /// Control group above its own; needs permission.
    pub cgroup_parent: Option<String>,
    /// Program that sets containers up; needs permission.
    pub runtime: Option<String>,
    /// Whether it keeps data in a volume that it can write: replaced stop-first, and only for a
    /// change that has an effect.
    pub stateful: bool,
    /// Hash over everything that a running replica cannot take over; empty until the project is
    /// complete. Equal digests and equal images mean: leave it running. What is in an image that is
    /// built is known by the image's own digest, after the build.
    pub digest: Option<Digest>,
}

/// Whether a service stays or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceKind {
    /// Kept running.
    Service,
    /// Runs once to its end: others wait for its success, or it says `mode: replicated-job`.
    Job,
}

/// How an image is built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageBuild {
    /// Folder of the repository; `None` is its root.
    pub context: Option<RelPath>,
    /// Where the instructions are.
    pub dockerfile: Dockerfile,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Stage to build.
    pub target: Option<String>,
    /// Secrets by the id under which instructions mount them.
    pub secrets: BTreeMap<String, ResourceName>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Whether nothing of earlier builds is used.
    pub no_cache: bool,
    /// Whether base images are looked for again.
    pub pull: bool,
    /// Which network instructions have.
    pub network: BuildNetwork,
    /// Size of `/dev/shm` during the build.
    pub shm_size: Option<ByteSize>,
    /// Lines of `/etc/hosts` during the build.
    pub extra_hosts: BTreeMap<String, Vec<String>>,
    /// What an administrator had to allow the build, and does have an effect.
    pub elevated: BTreeSet<Permission>,
}

/// Which network the instructions of a build have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildNetwork {
    /// One of its own, with a way outside.
    Default,
    /// None.
    None,
    /// The host's; needs permission.
    Host,
}

/// Where the instructions of a build are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dockerfile {
    /// `Dockerfile`, or `Containerfile` where there is only that, in the context.
    Default,
    /// A file of the repository.
    File(RelPath),
    /// The text itself.
    Inline(String),
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// When it is not there.
    Missing,
    /// With every release.
    Always,
    /// Never; it must be there.
    Never,
    /// It is built.
    Build,
    /// With a release, when the last pull is longer ago than this.
    Every(Period),
}

/// When a replica that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// After which ends.
    pub condition: RestartCondition,
    /// The most times in a row; `None` is without end.
    pub max_attempts: Option<u32>,
    /// The shortest time before; the platform waits longer after repeated ends.
    pub delay: Period,
    /// How long it must have run to count as started.
    pub window: Option<Period>,
}

/// After which ends something is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartCondition {
    /// None.
    Never,
    /// A status other than 0.
    OnFailure,
    /// Every.
    Always,
}

/// How newer replicas take the place of older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Which comes first.
    pub order: UpdateOrder,
    /// How many are replaced at a time; 0 is all.
    pub parallelism: u32,
    /// Time between two groups.
    pub delay: Period,
    /// What follows when one does not become healthy.
    pub failure: FailureAction,
    /// How long a new replica is watched.
    pub monitor: Period,
    /// Share of failures that is accepted, in thousandths.
    pub max_failure_permille: u32,
}

/// Whether the old replica stops before the new one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateOrder {
    /// The new one is there before the old one leaves: no downtime.
    StartFirst,
    /// The old one is gone before the new one starts: two never share a volume or a port.
    StopFirst,
}

/// What follows on a failed update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureAction {
    /// The release before serves on.
    Rollback,
    /// Nothing more is replaced.
    Pause,
    /// The next is replaced all the same.
    Continue,
}

/// What must have happened with another service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// What.
    pub condition: Condition,
    /// Whether its failure holds the dependent back.
    pub required: bool,
    /// Whether the dependent is restarted when it is replaced.
    pub restart: bool,
}

/// State that a dependency must have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It was started.
    Started,
    /// Its check of health succeeds.
    Healthy,
    /// It ran to its end with status 0.
    CompletedSuccessfully,
}

/// Check of health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Healthcheck {
    /// None, not the image's either.
    Disabled,
    /// One, where what is absent is the image's.
    Check {
        /// What is run.
        test: HealthTest,
        /// Time between two checks.
        interval: Period,
        /// How long one may take.
        timeout: Period,
        /// Failures in a row that count as unhealthy.
        retries: u32,
        /// Time after the start in which failures do not count.
        start_period: Period,
        /// Time between two checks meanwhile.
        start_interval: Period,
    },
}

/// What a check of health runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthTest {
    /// What the image says.
    Image,
    /// A program with its arguments.
    Exec(Vec<Template>),
    /// A line for the container's shell.
    Shell(Template),
}

/// What the gateway sends to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Port in the container that speaks HTTP.
    pub port: u16,
    /// Whether it has the project's own host; the others have `<label>-<project>`.
    pub primary: bool,
    /// The service as part of a host name.
    pub label: String,
    /// Host names besides.
    pub hosts: BTreeSet<HostName>,
    /// Path prefixes.
    pub paths: Vec<UrlPath>,
}

impl Route {
    /// The first label of the host that the gateway answers at: the project's own, or one with the
    /// service in front.
    pub fn host_label(&self, project: &str) -> String {
        match self.primary {
            true => project.to_owned(),
            false => format!("{}-{project}", self.label),
        }
    }
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// In the container.
    pub target: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// On the host: a port, or the first and last of a range one of which is taken.
    pub published: Option<(u16, u16)>,
    /// Address of the host.
    pub host_ip: Option<IpAddr>,
    /// What is spoken on it, such as `http`.
    pub app_protocol: Option<String>,
    /// What people call it.
    pub name: Option<String>,
}

/// A port within the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exposed {
    /// Its number.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// Protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Which network a service has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// Networks of the project, with the names besides its own that it answers to on each.
    Project(BTreeMap<ResourceName, BTreeSet<String>>),
    /// None.
    None,
    /// The host's; needs permission.
    Host,
}

/// A network of the project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Whether it has no way outside.
    pub internal: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A named volume of the project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Options of its driver, which mount paths of the host; empty without permission.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What is mounted at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What.
    pub from: MountFrom,
    /// Whether it can only be read.
    pub read_only: bool,
}

/// What can be mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountFrom {
    /// A named volume.
    Volume {
        /// Which.
        name: ResourceName,
        /// Folder of it.
        subpath: Option<RelPath>,
        /// Whether what the image has there is not copied into a new volume.
        nocopy: bool,
    },
    /// A volume without a name, that lasts as long as its replica.
    Anonymous,
    /// A file or folder of the repository, as the release has it; always read-only.
    Repository {
        /// Which; `None` is all of it.
        path: Option<RelPath>,
        /// Hash over names and content; `None` when there is too much of it, and every commit
        /// counts as a change.
        content: Option<Digest>,
    },
    /// Memory.
    Tmpfs {
        /// Its ceiling.
        size: Option<ByteSize>,
        /// Permissions of the folder.
        mode: Option<u32>,
        /// Further options, such as `uid=1000`.
        options: BTreeSet<String>,
    },
    /// A path of the host; needs permission.
    Host(String),
}

/// Where the content of a secret or config comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A file of the repository.
    File {
        /// Which.
        path: RelPath,
        /// Hash of its content.
        content: Digest,
    },
    /// Text of the file, variables replaced.
    Inline(Template),
    /// A secret of Ondol's own store.
    Store(SecretName),
}

/// A file that a service receives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which secret or config.
    pub source: ResourceName,
    /// Its owner; `None` is the user that the program runs as.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// Its permissions, without the bits for writing.
    pub mode: u32,
}

/// What one replica may use, and what is kept for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Memory.
    pub memory: Option<ByteSize>,
    /// Memory and swap together.
    pub memory_swap: Option<MemorySwap>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Weight when cores are short, 1024 being usual.
    pub cpu_shares: Option<u64>,
    /// Which cores, such as `0-3`.
    pub cpuset: Option<String>,
    /// Thousandths of a core that are kept for it.
    pub reserved_cpu_millis: Option<u64>,
    /// Memory that is kept for it.
    pub reserved_memory: Option<ByteSize>,
    /// Graphics processors.
    pub gpus: Vec<Gpus>,
    /// How readily the kernel ends it when memory is short: 0 to 1000, below 0 with permission.
    pub oom_score_adj: i32,
    /// Whether the kernel never ends it; needs permission.
    pub oom_kill_disable: bool,
}

/// Memory and swap together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemorySwap {
    /// As much as there is.
    Unlimited,
    /// This much.
    Limit(ByteSize),
}

/// A request for graphics processors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpus {
    /// How many; `None` is all, or those of `ids`.
    pub count: Option<u32>,
    /// Which.
    pub ids: BTreeSet<String>,
    /// What they must be able to do.
    pub capabilities: BTreeSet<String>,
    /// Driver, such as `nvidia`.
    pub driver: Option<String>,
}

/// A limit of processes; -1 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// What counts.
    pub soft: i64,
    /// How far it can be raised.
    pub hard: i64,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}
