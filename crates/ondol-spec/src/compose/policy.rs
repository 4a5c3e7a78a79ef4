//! What a Compose file cannot have unless an administrator allows it for the project by name.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Fault, SpecError};
use crate::model::TextError;
use crate::node::Origin;

macro_rules! permissions {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $means:literal;)*) => {
        /// Something that takes a container out of its confinement.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Permission { $($(#[$doc])* $variant,)* }

        impl Permission {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word that an administrator writes.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// What somebody gets who has it.
            pub const fn means(self) -> &'static str {
                match self { $(Self::$variant => $means,)* }
            }
        }
    };
}

permissions! {
    /// `privileged`, and privileges of builds.
    Privileged = "privileged", "everything that root of the host can do";
    /// `network_mode: host`, for builds too.
    HostNetwork = "host-network", "every port and every service of the host";
    /// `pid: host`.
    HostPid = "host-pid", "every process of the host";
    /// `ipc: host`.
    HostIpc = "host-ipc", "the shared memory of the host";
    /// `uts: host`.
    HostUts = "host-uts", "the host's own name";
    /// `userns_mode: host`.
    HostUsers = "host-users", "the users of the host, root among them";
    /// `cgroup: host`.
    HostCgroup = "host-cgroup", "the limits of every other program";
    /// `cgroup_parent`.
    CgroupParent = "cgroup-parent", "limits that Ondol does not set";
    /// Bind mounts of paths outside the repository.
    HostMounts = "host-mounts", "files of the host";
    /// The socket of the container engine.
    EngineSocket = "engine-socket", "every container, and through them the host";
    /// `devices`, `device_cgroup_rules`.
    Devices = "devices", "hardware of the host";
    /// `cap_add` of more than programs usually have.
    Capabilities = "capabilities", "rights of root over the kernel";
    /// `security_opt` that takes confinement away.
    Unconfined = "unconfined", "system calls and files that confinement keeps away";
    /// `sysctls` that reach beyond the container.
    Sysctls = "sysctls", "parameters of the host's kernel";
    /// `runtime`.
    Runtime = "runtime", "another program that sets up its confinement";
    /// `oom_kill_disable`, a negative `oom_score_adj`.
    OutOfMemory = "out-of-memory", "a place before other programs when memory is short";
    /// Ports of the host besides the gateway's.
    HostPorts = "host-ports", "ports of the host that other projects then cannot have";
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Permission {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|permission| permission.word() == text)
            .ok_or_else(|| TextError::new(text, "a permission such as `host-mounts`"))
    }
}

/// What an administrator allowed the project.
pub type Permissions = BTreeSet<Permission>;

/// Refuses what is not allowed.
pub(super) fn require(
    allowed: &Permissions,
    permission: Permission,
    what: &str,
    path: &str,
    origin: &Origin,
) -> Result<(), SpecError> {
    if allowed.contains(&permission) {
        return Ok(());
    }
    Err(SpecError::Refused(Fault {
        message: format!(
            "{what} is refused: it gives the container {}",
            permission.means()
        ),
        origin: origin.clone(),
        path: path.to_owned(),
        hint: Some(format!(
            "remove it, or ask an administrator to allow this project `{permission}`"
        )),
    }))
}
