//! What a workload in a container has beyond a process: an image, and the surroundings that an
//! image can expect.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ondol_types::Digest;
use serde::{Deserialize, Serialize};

/// Which image a container is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ImageRef {
    /// An image that the [`ImageSource`](super::ImageSource) has, by the digest of its manifest.
    /// It is loaded into the engine without a registry in between.
    Stored(Digest),
    /// An image of a registry, pulled when the engine does not have it.
    Named(String),
}

/// What runs before the workload's command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entrypoint {
    /// Nothing: the workload's command is the program, whatever the image says.
    #[default]
    Replaced,
    /// The image's own. The workload's command is its arguments; when that is an empty `Argv`, the
    /// image's own arguments are.
    OfImage,
    /// This program, with the workload's command as its arguments.
    Own(Vec<String>),
}

/// A volume that the engine keeps for a project. It outlives workloads and is never removed
/// with one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedVolume {
    /// Its name within the project.
    pub name: String,
    /// Where it appears: an absolute path.
    pub target: String,
    /// Whether the program may only read it.
    pub read_only: bool,
}

/// A directory of Ondol's own, such as that of a model, that appears in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedDir {
    /// The directory of the host. The engine must have been told that it may share it.
    pub source: PathBuf,
    /// Where it appears: an absolute path.
    pub target: String,
    /// Whether the program may only read it.
    pub read_only: bool,
}

/// The root filesystem of a workload and what is around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSpec {
    /// The image.
    pub image: ImageRef,
    /// What runs before the command.
    pub entrypoint: Entrypoint,
    /// The user, as `uid`, `uid:gid` or a name that the image knows; `None` is the image's.
    pub user: Option<String>,
    /// The directory it starts in; `None` is the image's, or `/work` for a work directory that
    /// the workload brings.
    pub work_dir: Option<String>,
    /// Whether the root filesystem cannot be written. `/tmp` and `/run` are in memory then.
    pub read_only_root: bool,
    /// Further directories in memory, empty at each start.
    pub scratch: Vec<String>,
    /// Capabilities of the kernel that are not dropped, such as `CHOWN`. Those that reach beyond
    /// the container are refused unless the engine's configuration allows them.
    pub capabilities: BTreeSet<String>,
    /// The private network within the project, such as the name of an environment; workloads of
    /// one network reach each other. `None` is the project's own.
    pub network: Option<String>,
    /// Names by which the others of its network find it.
    pub names: Vec<String>,
    /// Volumes of the project.
    pub volumes: Vec<NamedVolume>,
    /// Directories of Ondol's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedDir>,
}

impl ContainerSpec {
    /// A container of an image with the image's own user and directories, and nothing else.
    pub fn new(image: ImageRef) -> Self {
        Self {
            image,
            entrypoint: Entrypoint::default(),
            user: None,
            work_dir: None,
            read_only_root: false,
            scratch: Vec::new(),
            capabilities: BTreeSet::new(),
            network: None,
            names: Vec::new(),
            volumes: Vec::new(),
            shared: Vec::new(),
        }
    }
}
