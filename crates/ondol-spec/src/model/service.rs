//! What is kept running.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ByteSize, HostName, Percent, Period, TextError, UrlPath, text_form};

/// What is kept running and reached through the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Shell command that serves HTTP on `$PORT` until it gets SIGTERM. Default: detected; with a
    /// Dockerfile it is empty, which means the image's own command.
    pub run: String,
    /// The port that the program insists on; without it the program listens on `$PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// When a replica counts as ready.
    #[serde(default)]
    pub health: Health,
    /// How many replicas run.
    #[serde(default)]
    pub replicas: Replicas,
    /// Host names that reach the service, besides the project's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostName>,
    /// Path prefixes of those hosts that reach the service. Default: all.
    #[serde(default = "Service::default_paths")]
    pub paths: Vec<UrlPath>,
    /// How long requests in flight may take when a replica leaves.
    #[serde(default = "Service::default_drain")]
    pub drain: Period,
    /// How long WebSockets stay open when a replica leaves, after their close frame.
    #[serde(default = "Service::default_grace")]
    pub websocket_grace: Period,
    /// Time between SIGTERM and SIGKILL.
    #[serde(default = "Service::default_stop")]
    pub stop: Period,
    /// What one replica may use.
    #[serde(default)]
    pub limits: Limits,
    /// Where replicas run. Default: `container` for an image with a root filesystem of its own,
    /// otherwise `process`, unless the installation says otherwise.
    #[serde(default)]
    pub engine: Engine,
    /// The user that the program runs as in a container, as `uid`, `uid:gid` or a name that the
    /// image knows. Default: the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether the root filesystem of a container cannot be written; `/tmp` and `/run` are in
    /// memory then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Capabilities of the kernel that a container keeps, such as `CHOWN`, `SETUID` and `SETGID` for
    /// a program that starts as root and then gives it up. Default: none; what reaches beyond the
    /// container is refused unless an administrator allows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
    /// Environment variables of the service, over those of the project.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl Service {
    /// A service of one command, everything else by default.
    pub fn new(run: impl Into<String>) -> Self {
        Self {
            run: run.into(),
            port: None,
            health: Health::default(),
            replicas: Replicas::default(),
            hosts: Vec::new(),
            paths: Self::default_paths(),
            drain: Self::default_drain(),
            websocket_grace: Self::default_grace(),
            stop: Self::default_stop(),
            limits: Limits::default(),
            engine: Engine::default(),
            user: None,
            read_only: false,
            capabilities: Vec::new(),
            env: BTreeMap::new(),
        }
    }

    fn default_paths() -> Vec<UrlPath> {
        vec![UrlPath::root()]
    }

    fn default_drain() -> Period {
        Period::from_secs(30)
    }

    fn default_grace() -> Period {
        Period::from_secs(10)
    }

    fn default_stop() -> Period {
        Period::from_secs(10)
    }
}

/// When a replica counts as ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Path that is asked by GET.
    pub path: UrlPath,
    /// Which answers count. Default: `success` when `path` is given, otherwise `response`.
    pub expect: Expect,
    /// Time between two probes.
    pub interval: Period,
    /// How long one probe may take.
    pub timeout: Period,
    /// How long a new replica may take until it is ready; afterwards the rollout has failed.
    pub deadline: Period,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            path: UrlPath::root(),
            expect: Expect::Response,
            interval: Period::from_millis(250),
            timeout: Period::from_secs(5),
            deadline: Period::from_secs(30),
        }
    }
}

/// Which answers of a health probe count as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// Status 200 to 399.
    Success,
    /// Any status below 500: the program is there, whatever it serves at that path.
    Response,
}

impl Expect {
    /// Whether a status counts as ready.
    pub fn accepts(self, status: u16) -> bool {
        match self {
            Self::Success => (200..400).contains(&status),
            Self::Response => (100..500).contains(&status),
        }
    }
}

/// How many replicas run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Replicas {
    /// The fewest.
    pub min: u32,
    /// The most. Default: `min`.
    pub max: u32,
    /// Load of one replica at which another is added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

impl Default for Replicas {
    fn default() -> Self {
        Self {
            min: 1,
            max: 1,
            target: None,
        }
    }
}

/// Load of one replica at which another is added; the first that is reached decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Target {
    /// Requests per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rps: Option<f64>,
    /// Requests in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<f64>,
    /// Share of its CPU limit, or of one core without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Percent>,
}

/// What one workload may use. Absent means the installation's ceiling.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Cores, such as `0.5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Memory, such as `512MiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

impl Limits {
    /// Whether nothing is limited beyond the installation's ceilings.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What runs a workload.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The one that the installation prefers.
    #[default]
    Auto,
    /// Processes of the host.
    Process,
    /// Docker or Podman.
    Container,
    /// Kubernetes.
    Kubernetes,
}

/// A capability of the kernel by its name, without `CAP_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability(Box<str>);

impl Capability {
    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Capability {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let name = text.strip_prefix("CAP_").unwrap_or(text);
        let fits = (1..=40).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
            && name != "ALL";
        match fits {
            true => Ok(Self(name.into())),
            false => Err(TextError::new(text, "a capability such as `CHOWN`")),
        }
    }
}

impl std::fmt::Display for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Debug for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(Capability, "a capability such as `CHOWN`");

impl Engine {
    pub(crate) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}
